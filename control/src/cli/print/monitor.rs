//! Events as they happen.

use std::io::{self, Write};

use serde_json::Value;

use super::cell;
use super::routes::nexthops;

/// One event of `monitor` on one line.
pub(in crate::cli) fn event<W: Write>(out: &mut W, event: &Value) -> io::Result<()> {
    let kind = cell(&event["event"]);
    let action = cell(&event["action"]);
    let text = match kind.as_str() {
        "route" => {
            let route = &event["route"];
            let place = format!("{} table {}", cell(&route["prefix"]), route["table"]);
            format!("{place} {} {}", cell(&route["type"]), nexthops(route))
        }
        "neighbour" => {
            let neighbour = &event["neighbour"];
            format!(
                "{} dev {} {} {}",
                cell(&neighbour["address"]),
                cell(&neighbour["dev"]),
                cell(&neighbour["mac"]),
                cell(&neighbour["state"])
            )
        }
        "link" => {
            let link = &event["link"];
            let state = if link["up"] == true { "up" } else { "down" };
            format!("{} {state} mtu {}", cell(&link["name"]), link["mtu"])
        }
        "port" => format!("{} {}", cell(&event["port"]), cell(&event["message"])),
        "drop" => format!(
            "{} {} packets {} bytes {}",
            cell(&event["port"]),
            cell(&event["reason"]),
            event["packets"],
            event["bytes"]
        ),
        "lost" => format!("{} events were not read in time", event["count"]),
        _ => event.to_string(),
    };
    writeln!(
        out,
        "{}",
        [kind, action, text]
            .iter()
            .filter(|word| !word.is_empty())
            .map(|word| word.trim())
            .collect::<Vec<_>>()
            .join(" ")
    )
}
