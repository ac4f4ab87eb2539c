//! Dropped and traced packets.

use std::io::{self, Write};

use serde_json::Value;

use super::{Table, cell, rows};

/// A rule as `edge-in rule 3 deny (edge.toml:17)`.
pub(in crate::cli) fn rule(rule: &Value) -> String {
    let number = match rule["index"].as_i64() {
        Some(-1) => "default".to_owned(),
        _ => format!("rule {}", rule["index"]),
    };
    let (acl, action) = (cell(&rule["acl"]), cell(&rule["action"]));
    format!("{acl} {number} {action}{}", super::explain::place(rule))
}

/// A packet as `tcp 10.0.0.7:4000 > 10.1.0.1:443`.
fn packet(packet: &Value) -> String {
    if !packet.is_object() {
        return "(no addresses)".to_owned();
    }
    let end = |address: &str, port: &str| match packet[port].as_u64() {
        Some(port) if cell(&packet[address]).contains(':') => format!("[{}]:{port}", cell(&packet[address])),
        Some(port) => format!("{}:{port}", cell(&packet[address])),
        None => cell(&packet[address]),
    };
    let mut text = format!(
        "{} {} > {}",
        cell(&packet["proto"]),
        end("from", "sport"),
        end("to", "dport")
    );
    if let Some(icmp) = packet["icmp"].as_array() {
        text.push_str(&format!(" type {} code {}", icmp[0], icmp[1]));
    }
    if packet["fragment"] != "none" {
        text.push_str(&format!(" ({} fragment)", cell(&packet["fragment"])));
    }
    text
}

/// Who most of the kept packets of a reason come from.
fn top_source(row: &Value) -> String {
    match row["top_source"].as_object() {
        Some(top) => format!("{} ({} of {})", cell(&top["address"]), top["packets"], top["of"]),
        None => String::new(),
    }
}

pub(in crate::cli) fn drops<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    drops_table(out, rows(answer, "drops"))
}

fn drops_table<W: Write>(out: &mut W, drops: &[Value]) -> io::Result<()> {
    let titles = [
        "REASON",
        ">PACKETS",
        ">BYTES",
        ">PER SECOND",
        "LAST SEEN",
        "TOP SOURCE",
        "HINT",
    ];
    let mut table = Table::new(out, &titles);
    for row in drops {
        table.row(vec![
            cell(&row["reason"]),
            cell(&row["packets"]),
            cell(&row["bytes"]),
            cell(&row["rate"]),
            cell(&row["last_seen"]),
            top_source(row),
            cell(&row["hint"]),
        ])?;
    }
    table.finish()
}

pub(in crate::cli) fn drops_watch<W: Write>(out: &mut W, line: &Value) -> io::Result<()> {
    writeln!(out, "{}, the last {} s", cell(&line["time"]), line["interval"])?;
    drops_table(out, rows(line, "drops"))?;
    for row in rows(line, "drops") {
        if row["last"].is_object() {
            writeln!(out, "  {}", dropped(&row["last"]))?;
        }
    }
    writeln!(out)
}

/// A dropped packet on one line.
fn dropped(row: &Value) -> String {
    let by = if row["rule"].is_object() {
        format!(" by {}", rule(&row["rule"]))
    } else {
        String::new()
    };
    format!(
        "{} {} {}{by}: {}, {} bytes",
        cell(&row["time"]),
        cell(&row["port"]),
        cell(&row["reason"]),
        packet(&row["packet"]),
        row["length"]
    )
}

pub(in crate::cli) fn drops_last<W: Write>(out: &mut W, answer: &Value, hex: bool) -> io::Result<()> {
    let packets = rows(answer, "packets");
    if packets.is_empty() {
        return writeln!(out, "none of the {} kept packets", answer["kept"]);
    }
    for row in packets {
        writeln!(out, "{}", dropped(row))?;
        if hex {
            dump(out, row["data"].as_str().unwrap_or_default())?;
        }
    }
    if answer["torn"] != 0 {
        writeln!(out, "{} more were being overwritten", answer["torn"])?;
    }
    Ok(())
}

/// Bytes as tcpdump -x shows them: 16 a line, behind their offset.
fn dump<W: Write>(out: &mut W, hex: &str) -> io::Result<()> {
    for (number, line) in hex.as_bytes().chunks(32).enumerate() {
        let words: Vec<_> = line.chunks(4).map(String::from_utf8_lossy).collect();
        writeln!(out, "  0x{:04x}:  {}", number * 16, words.join(" "))?;
    }
    Ok(())
}

/// One line of `trace`: a packet, stage by stage.
pub(in crate::cli) fn trace<W: Write>(out: &mut W, line: &Value) -> io::Result<()> {
    match line["event"].as_str() {
        Some("packet" | "released") => {}
        Some("lost" | "end") if line["lost"] != 0 => {
            return writeln!(
                out,
                "{} packets were lost: they came faster than they were read",
                line["lost"]
            );
        }
        _ => return Ok(()),
    }
    let again = if line["event"] == "released" {
        ", which had waited"
    } else {
        ""
    };
    writeln!(
        out,
        "{}  {} {}{again}",
        line["number"],
        cell(&line["time"]),
        packet(&line["packet"])
    )?;
    for stage in rows(line, "stages") {
        let mark = if stage["result"] == "stop" { "x" } else { " " };
        let text = format!(
            "  {mark} {:<12} {}",
            cell(&stage["stage"]),
            cell(&stage["finding"])
        );
        writeln!(out, "{}", text.trim_end())?;
    }
    let verdict = cell(&line["verdict"]);
    match line["reason"].as_str() {
        Some(reason) => writeln!(out, "  = {verdict}: {reason}\n"),
        None => writeln!(out, "  = {verdict}\n"),
    }
}
