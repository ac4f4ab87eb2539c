//! `status`, `doctor`, `release`.

use std::io::{self, Write};

use serde_json::Value;

use super::{cell, rows};
use crate::cli::table::Table;

pub(in crate::cli) fn status<W: Write>(out: &mut W, answer: &Value, statistics: bool) -> io::Result<()> {
    let frames = &answer["frames"];
    let mebibytes = frames["kernel_bytes"].as_f64().unwrap_or_default() / f64::from(1 << 20);
    writeln!(out, "ready       {}", cell(&answer["ready"]))?;
    if let Some(waits_for) = answer["waits_for"].as_str() {
        writeln!(out, "waits for   {waits_for}")?;
    }
    for key in [
        "version",
        "pid",
        "uptime",
        "generation",
        "ports",
        "routes",
        "neighbours",
    ] {
        writeln!(out, "{key:<10}  {}", cell(&answer[key]))?;
    }
    writeln!(
        out,
        "frames      {} total, {} free, {mebibytes:.1} MiB in the kernel",
        cell(&frames["total"]),
        cell(&frames["free"])
    )?;
    if statistics {
        let census = frames["census"].as_object();
        let places = census.into_iter().flatten();
        let text: Vec<String> = places.map(|(place, count)| format!("{place} {count}")).collect();
        writeln!(out, "census      {}", text.join(", "))?;
        let mirror = answer["mirror"].as_object();
        for (key, value) in mirror.into_iter().flatten() {
            writeln!(out, "mirror.{key}  {}", cell(value))?;
        }
    }
    writeln!(out, "resyncs     {}\n", cell(&answer["resyncs"]))?;
    let mut table = Table::new(out, &[">CORE", ">BUSY", ">BURSTS", ">QUEUES"]);
    for worker in rows(answer, "workers") {
        let busy = worker["busy"].as_f64().unwrap_or_default() * 100.0;
        table.row(vec![
            cell(&worker["core"]),
            format!("{busy:.1}%"),
            cell(&worker["bursts"]),
            cell(&worker["queues"]),
        ])?;
    }
    table.finish()
}

pub(in crate::cli) fn doctor<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    for check in rows(answer, "checks") {
        let place = match check["port"].as_str() {
            Some(port) => format!("{} ({port})", cell(&check["name"])),
            None => cell(&check["name"]),
        };
        writeln!(
            out,
            "{:<4}  {place}: {}",
            cell(&check["result"]),
            cell(&check["message"])
        )?;
        if let Some(fix) = check["fix"].as_str() {
            writeln!(out, "      fix: {fix}")?;
        }
    }
    Ok(())
}

pub(in crate::cli) fn release<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    match rows(answer, "released") {
        [] => writeln!(out, "nothing is guarded"),
        names => names
            .iter()
            .try_for_each(|name| writeln!(out, "{} is released", cell(name))),
    }
}
