//! `port show` and `port set`.

use std::io::{self, Write};

use serde_json::Value;

use super::{cell, rows, table, warnings};
use crate::cli::table::Table;

pub(in crate::cli) fn ports<W: Write>(out: &mut W, answer: &Value, statistics: bool) -> io::Result<()> {
    let ports = rows(answer, "ports");
    let mut list = Table::new(
        out,
        &[
            "NAME", "ROLE", "LINK", "MODE", ">QUEUES", ">MTU", ">MAX-MTU", "MAC", "INGRESS", "EGRESS",
            "ON-EXIT", "VRF",
        ],
    );
    for port in ports {
        let link = if port["up"] == true { "up" } else { "down" };
        list.row(vec![
            cell(&port["name"]),
            cell(&port["role"]),
            link.to_owned(),
            cell(&port["mode"]),
            cell(&port["queues"]),
            cell(&port["mtu"]),
            cell(&port["largest_mtu"]),
            cell(&port["mac"]),
            cell(&port["acl"]["ingress"]),
            cell(&port["acl"]["egress"]),
            cell(&port["on_exit"]),
            vrf(port),
        ])?;
    }
    list.finish()?;
    for waiting in rows(answer, "waiting") {
        writeln!(
            out,
            "{} is not open: {}",
            cell(&waiting["name"]),
            cell(&waiting["message"])
        )?;
    }
    if statistics {
        writeln!(out)?;
        table(
            out,
            &[
                ("NAME", "name"),
                (">RX-PACKETS", "rx_packets"),
                (">RX-BYTES", "rx_bytes"),
                (">TX-PACKETS", "tx_packets"),
                (">TX-BYTES", "tx_bytes"),
                (">PUNTED", "punted"),
                (">FORWARDED", "forwarded"),
                (">REPLIED", "replied"),
                (">HELD", "held"),
                (">DROPPED", "dropped"),
                (">ORIGINATED", "originated"),
            ],
            ports,
        )?;
    }
    Ok(())
}

/// The VRF of a port and its tables; a dash for one that looks up in the configured tables.
fn vrf(port: &Value) -> String {
    let Some(vrf) = port["vrf"].as_object() else {
        return cell(&port["vrf"]);
    };
    let numbers = |family: &str| {
        let tables = rows(&port["vrf"]["tables"], family);
        let tables: Vec<String> = tables.iter().map(cell).collect();
        tables.join(",")
    };
    let (v4, v6) = (numbers("ipv4"), numbers("ipv6"));
    let tables = if v4 == v6 {
        format!("table {v4}")
    } else {
        format!("table {v4}, IPv6 {v6}")
    };
    match vrf["name"].as_str() {
        Some(name) => format!("{name} ({tables})"),
        None => tables,
    }
}

pub(in crate::cli) fn port_set<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    let list = |direction: &str| match answer["acl"][direction].as_str() {
        Some(name) => name.to_owned(),
        None => "no list".to_owned(),
    };
    writeln!(
        out,
        "{}: ingress {}, egress {}",
        cell(&answer["name"]),
        list("ingress"),
        list("egress")
    )?;
    warnings(out, answer)
}
