//! The reference page, `docs/metrics.md`, made of the table of families.

use std::fmt::Write as _;

use super::families::{FAMILIES, Family, Kind};

/// Names of a family's series, as a query writes them.
fn names(family: &Family) -> String {
    let (name, labels) = (family.name, family.labels.join(", "));
    let labels = if labels.is_empty() {
        labels
    } else {
        format!("{{{labels}}}")
    };
    match family.kind {
        Kind::Counter => format!("`margay_{name}_total{labels}`"),
        Kind::Gauge => format!("`margay_{name}{labels}`"),
        Kind::Info => format!("`margay_{name}_info{labels}`"),
        Kind::Histogram => {
            let le = if labels.is_empty() {
                "{le}".to_owned()
            } else {
                labels.replace('}', ", le}")
            };
            format!("`margay_{name}_bucket{le}`, `_sum`, `_count`")
        }
    }
}

/// The table of all families, in Markdown.
pub fn page() -> String {
    let mut text = String::from("| Series | Kind | |\n|---|---|---|\n");
    for family in FAMILIES {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {kind} | {} |", names(family), family.help);
    }
    text
}
