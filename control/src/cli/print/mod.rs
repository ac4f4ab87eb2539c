//! Answers as text: the same numbers as in JSON, for people.

mod config;
mod explain;
mod health;
mod lists;
mod monitor;
mod ports;
mod routes;
mod watch;

use std::io::{self, Write};

use serde_json::Value;

use super::table::Table;

pub(super) use config::{config, config_differences};
pub(super) use explain::{cases, explain};
pub(super) use health::{doctor, release, status};
pub(super) use lists::{acl_reload, lists};
pub(super) use monitor::event;
pub(super) use ports::{port_set, ports};
pub(super) use routes::{RouteTable, differences, groups, neighbours, route_get};
pub(super) use watch::{drops, drops_last, drops_watch, rule, trace};

fn rows<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A value as a cell: strings without quotes, nothing for null.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A table with one column for each (title, key).
fn table<W: Write>(out: &mut W, columns: &[(&'static str, &str)], rows: &[Value]) -> io::Result<()> {
    let titles: Vec<&'static str> = columns.iter().map(|(title, _)| *title).collect();
    let mut table = Table::new(out, &titles);
    for row in rows {
        table.row(columns.iter().map(|(_, key)| cell(&row[*key])).collect())?;
    }
    table.finish()
}

fn warnings<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    for warning in rows(answer, "warnings") {
        let text = warning
            .as_str()
            .or(warning["message"].as_str())
            .unwrap_or_default();
        writeln!(out, "warning: {text}")?;
    }
    Ok(())
}
