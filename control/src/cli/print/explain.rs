//! The verdict on one packet, and on a file of cases.

use std::io::{self, Write};

use serde_json::Value;

use super::routes::nexthop;
use super::{cell, rows};

/// Where a rule stands.
pub(super) fn place(rule: &Value) -> String {
    match rule["file"].as_str() {
        Some(file) => format!(" ({file}:{})", rule["line"]),
        None => String::new(),
    }
}

pub(in crate::cli) fn explain<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    let verdict = cell(&answer["verdict"]);
    match answer["reason"].as_str() {
        Some(reason) => writeln!(out, "{verdict}: {reason}")?,
        None => writeln!(out, "{verdict}")?,
    }
    let spoofing = &answer["anti_spoofing"];
    if let (Some(mode), Some(passes)) = (spoofing["mode"].as_str(), spoofing["passes"].as_bool()) {
        let word = if passes {
            "belongs here"
        } else {
            "does not belong here"
        };
        writeln!(out, "anti-spoofing {mode}: the source {word}")?;
    }
    for (title, key) in [("ingress rule", "ingress_rule"), ("egress rule", "egress_rule")] {
        let rule = &answer[key];
        if rule.is_object() {
            writeln!(out, "{title:<13} {}", super::watch::rule(rule))?;
        }
    }
    let near = &answer["nearest_allow"];
    if near.is_object() {
        let why = match rows(near, "differs") {
            [] => "an earlier rule decides".to_owned(),
            fields => format!(
                "but for {}",
                fields.iter().map(cell).collect::<Vec<_>>().join(", ")
            ),
        };
        let rule = format!("{} rule {}", cell(&near["acl"]), near["index"]);
        writeln!(out, "would allow   {rule}{}: {why}", place(near))?;
    }
    let route = &answer["route"];
    if route.is_object() {
        let (prefix, table) = (cell(&route["prefix"]), &route["table"]);
        writeln!(
            out,
            "route         {prefix} table {table} {}",
            cell(&route["type"])
        )?;
    }
    if answer["nexthop"].is_object() {
        writeln!(out, "next hop      {}", nexthop(&answer["nexthop"], "state"))?;
    }
    let member = &answer["member"];
    if member.is_object() {
        let (number, of) = (&member["number"], &member["of"]);
        writeln!(
            out,
            "member        {number} of {of}, by hash {}",
            cell(&member["hash"])
        )?;
    }
    let neighbour = &answer["neighbour"];
    if neighbour.is_object() {
        let mac = neighbour["mac"].as_str().map(|mac| format!(" at {mac}"));
        let (address, dev) = (cell(&neighbour["address"]), cell(&neighbour["dev"]));
        let state = cell(&neighbour["state"]);
        writeln!(
            out,
            "neighbour     {address} dev {dev}{} ({state})",
            mac.unwrap_or_default()
        )?;
    }
    if let Some(mtu) = answer["mtu"].as_u64() {
        writeln!(out, "MTU           {mtu}")?;
    }
    if let Some(port) = answer["egress_port"].as_str() {
        writeln!(out, "egress port   {port}")?;
    }
    Ok(())
}

pub(in crate::cli) fn cases<W: Write>(out: &mut W, file: &std::path::Path, answer: &Value) -> io::Result<()> {
    let all = rows(answer, "cases");
    for case in all.iter().filter(|case| case["met"] != true) {
        let reason = case["reason"].as_str().map(|reason| format!(": {reason}"));
        let verdict = cell(&case["verdict"]);
        let text = format!("{verdict}{}", reason.unwrap_or_default());
        writeln!(
            out,
            "{}:{}: not as expected: {text}",
            file.display(),
            case["line"]
        )?;
    }
    writeln!(out, "{} cases, {} not as expected", all.len(), answer["missed"])
}
