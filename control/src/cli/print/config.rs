//! The configuration and how a file differs from it.

use std::io::{self, Write};

use serde_json::Value;

use super::{cell, rows, table};

pub(in crate::cli) fn config<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    writeln!(out, "# {}", cell(&answer["file"]))?;
    let mut config = answer["config"].clone();
    // TOML has no null: a key without a value is left out.
    strip_null(&mut config);
    match toml::to_string(&config) {
        Ok(text) => write!(out, "{text}"),
        Err(_) => writeln!(out, "{:#}", answer["config"]),
    }
}

fn strip_null(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip_null);
            map.retain(|_, value| !value.as_object().is_some_and(serde_json::Map::is_empty));
        }
        Value::Array(items) => items.iter_mut().for_each(strip_null),
        _ => {}
    }
}

pub(in crate::cli) fn config_differences<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    let differences = rows(answer, "differences");
    if differences.is_empty() {
        return writeln!(out, "the daemon runs with what the file says");
    }
    table(
        out,
        &[("KEY", "key"), ("RUNNING", "running"), ("FILE", "file")],
        differences,
    )
}
