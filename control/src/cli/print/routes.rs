//! Routes, next hops, neighbours.

use std::io::{self, Write};

use serde_json::Value;

use super::{cell, rows, table};
use crate::cli::table::Table;

/// Next hops of a route on one line: `via 10.0.0.2 dev eth1 weight 1 (reachable)`.
pub(super) fn nexthops(route: &Value) -> String {
    let hops: Vec<String> = rows(route, "nexthops")
        .iter()
        .map(|hop| nexthop(hop, "neighbour"))
        .collect();
    hops.join(", ")
}

pub(super) fn nexthop(hop: &Value, state: &str) -> String {
    let mut words = Vec::new();
    if let Some(via) = hop["via"].as_str() {
        words.push(format!("via {via}"));
    }
    if let Some(dev) = hop["dev"].as_str().filter(|dev| !dev.is_empty()) {
        words.push(format!("dev {dev}"));
    }
    if let Some(weight) = hop["weight"].as_u64().filter(|weight| *weight > 1) {
        words.push(format!("weight {weight}"));
    }
    for flag in rows(hop, "flags") {
        words.push(cell(flag));
    }
    if let Some(state) = hop[state].as_str().filter(|state| !state.is_empty()) {
        words.push(format!("({state})"));
    }
    words.join(" ")
}

/// Routes, printed as they arrive.
pub(in crate::cli) struct RouteTable<'o, W: Write> {
    table: Table<'o, W>,
}

const ROUTE_TITLES: [&str; 6] = ["PREFIX", ">TABLE", "PROTOCOL", "TYPE", ">METRIC", "NEXT HOPS"];

impl<'o, W: Write> RouteTable<'o, W> {
    pub(in crate::cli) fn new(out: &'o mut W) -> Self {
        Self {
            table: Table::new(out, &ROUTE_TITLES),
        }
    }

    pub(in crate::cli) fn row(&mut self, route: &Value) -> io::Result<()> {
        let mut hops = nexthops(route);
        if route["active"] == false {
            hops.push_str(" inactive");
        }
        self.table.row(vec![
            cell(&route["prefix"]),
            cell(&route["table"]),
            cell(&route["protocol"]),
            cell(&route["type"]),
            cell(&route["metric"]),
            hops.trim().to_owned(),
        ])
    }

    pub(in crate::cli) fn finish(self) -> io::Result<()> {
        self.table.finish()
    }
}

pub(in crate::cli) fn route_get<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    let mut table = RouteTable::new(out);
    table.row(&answer["route"])?;
    table.finish()?;
    let hop = &answer["nexthop"];
    if hop.is_object() {
        let state = if hop["neighbour"].is_string() {
            "neighbour"
        } else {
            "state"
        };
        writeln!(out, "next hop: {}", nexthop(hop, state))?;
    }
    Ok(())
}

pub(in crate::cli) fn differences<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    let differences = rows(answer, "differences");
    if differences.is_empty() {
        return writeln!(out, "the data plane's routes are those of the kernel");
    }
    table(
        out,
        &[
            ("PREFIX", "prefix"),
            (">TABLE", "table"),
            ("KERNEL", "kernel"),
            ("MARGAY", "margay"),
        ],
        differences,
    )
}

pub(in crate::cli) fn neighbours<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    table(
        out,
        &[
            ("ADDRESS", "address"),
            ("DEV", "dev"),
            ("MAC", "mac"),
            ("STATE", "state"),
            ("MANAGED", "managed"),
        ],
        rows(answer, "neighbours"),
    )
}

fn members(group: &Value) -> String {
    let members: Vec<String> = rows(group, "members")
        .iter()
        .map(|member| nexthop(member, "state"))
        .collect();
    members.join(", ")
}

pub(in crate::cli) fn groups<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    let mut table = Table::new(out, &[">ID", "TYPE", ">ROUTES", "MEMBERS"]);
    for group in rows(answer, "nexthops") {
        table.row(vec![
            cell(&group["id"]),
            cell(&group["type"]),
            cell(&group["routes"]),
            members(group),
        ])?;
    }
    table.finish()
}
