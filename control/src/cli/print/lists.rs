//! Access lists.

use std::io::{self, Write};

use serde_json::Value;

use super::{cell, rows, warnings};
use crate::cli::table::Table;

pub(in crate::cli) fn lists<W: Write>(out: &mut W, answer: &Value, rules: bool) -> io::Result<()> {
    let lists = rows(answer, "lists");
    let mut overview = Table::new(out, &["NAME", "DEFAULT", ">RULES", "PORTS"]);
    for list in lists {
        let ports: Vec<String> = rows(list, "ports")
            .iter()
            .map(|port| format!("{} {}", cell(&port["port"]), cell(&port["direction"])))
            .collect();
        let name = if list["missing"] == true {
            format!("{} (missing)", cell(&list["name"]))
        } else {
            cell(&list["name"])
        };
        // The row of the default is no rule.
        overview.row(vec![
            name,
            cell(&list["default"]),
            // The default's row is no rule.
            rows(list, "rules").len().saturating_sub(1).to_string(),
            ports.join(", "),
        ])?;
    }
    overview.finish()?;
    if !rules {
        return Ok(());
    }
    for list in lists {
        writeln!(out, "\n{}", cell(&list["name"]))?;
        let mut table = Table::new(out, &[">RULE", "ACTION", ">PACKETS", ">BYTES", "PLACE"]);
        for rule in rows(list, "rules") {
            let place = match rule["file"].as_str() {
                Some(file) => format!("{file}:{}", rule["line"]),
                None => String::new(),
            };
            table.row(vec![
                if rule["index"] == -1 {
                    "default".to_owned()
                } else {
                    cell(&rule["index"])
                },
                cell(&rule["action"]),
                cell(&rule["packets"]),
                cell(&rule["bytes"]),
                place,
            ])?;
        }
        table.finish()?;
    }
    Ok(())
}

pub(in crate::cli) fn acl_reload<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    writeln!(
        out,
        "{} lists, {} of them new or changed: {} compiled, {} with other members of sets in the same tables",
        cell(&answer["lists"]),
        cell(&answer["changed"]),
        cell(&answer["compiled"]),
        cell(&answer["mapped"])
    )?;
    warnings(out, answer)
}
