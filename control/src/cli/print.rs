//! Answers as text: the same numbers as in JSON, for people.

use std::io::{self, Write};

use serde_json::Value;

use super::table::Table;

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

pub(super) fn status<W: Write>(out: &mut W, answer: &Value, statistics: bool) -> io::Result<()> {
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

pub(super) fn ports<W: Write>(out: &mut W, answer: &Value, statistics: bool) -> io::Result<()> {
    let ports = rows(answer, "ports");
    let mut list = Table::new(
        out,
        &[
            "NAME", "ROLE", "LINK", "MODE", ">QUEUES", ">MTU", "MAC", "INGRESS", "EGRESS", "ON-EXIT",
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
            cell(&port["mac"]),
            cell(&port["acl"]["ingress"]),
            cell(&port["acl"]["egress"]),
            cell(&port["on_exit"]),
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

pub(super) fn port_set<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
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

/// Next hops of a route on one line: `via 10.0.0.2 dev eth1 weight 1 (reachable)`.
fn nexthops(route: &Value) -> String {
    let hops: Vec<String> = rows(route, "nexthops")
        .iter()
        .map(|hop| nexthop(hop, "neighbour"))
        .collect();
    hops.join(", ")
}

fn nexthop(hop: &Value, state: &str) -> String {
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
pub(super) struct RouteTable<'o, W: Write> {
    table: Table<'o, W>,
}

const ROUTE_TITLES: [&str; 6] = ["PREFIX", ">TABLE", "PROTOCOL", "TYPE", ">METRIC", "NEXT HOPS"];

impl<'o, W: Write> RouteTable<'o, W> {
    pub(super) fn new(out: &'o mut W) -> Self {
        Self {
            table: Table::new(out, &ROUTE_TITLES),
        }
    }

    pub(super) fn row(&mut self, route: &Value) -> io::Result<()> {
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

    pub(super) fn finish(self) -> io::Result<()> {
        self.table.finish()
    }
}

pub(super) fn route_get<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
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

pub(super) fn differences<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
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

pub(super) fn neighbours<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
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

pub(super) fn groups<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
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

pub(super) fn lists<W: Write>(out: &mut W, answer: &Value, rules: bool) -> io::Result<()> {
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

pub(super) fn acl_reload<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    writeln!(
        out,
        "{} lists, {} of them new or changed",
        cell(&answer["lists"]),
        cell(&answer["changed"])
    )?;
    warnings(out, answer)
}

pub(super) fn drops<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    table(
        out,
        &[
            ("REASON", "reason"),
            (">PACKETS", "packets"),
            (">BYTES", "bytes"),
            ("LAST SEEN", "last_seen"),
            ("HINT", "hint"),
        ],
        rows(answer, "drops"),
    )
}

pub(super) fn doctor<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
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

pub(super) fn release<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    match rows(answer, "released") {
        [] => writeln!(out, "nothing is guarded"),
        names => names
            .iter()
            .try_for_each(|name| writeln!(out, "{} is released", cell(name))),
    }
}

pub(super) fn config<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
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

pub(super) fn config_differences<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
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

pub(super) fn explain<W: Write>(out: &mut W, answer: &Value) -> io::Result<()> {
    let verdict = cell(&answer["verdict"]);
    match answer["reason"].as_str() {
        Some(reason) => writeln!(out, "{verdict}: {reason}")?,
        None => writeln!(out, "{verdict}")?,
    }
    let place = |rule: &Value| match rule["file"].as_str() {
        Some(file) => format!(" ({file}:{})", rule["line"]),
        None => String::new(),
    };
    for (title, key) in [("ingress rule", "ingress_rule"), ("egress rule", "egress_rule")] {
        let rule = &answer[key];
        if rule.is_object() {
            let number = match rule["index"].as_i64() {
                Some(-1) => "default".to_owned(),
                _ => format!("rule {}", rule["index"]),
            };
            let (acl, action) = (cell(&rule["acl"]), cell(&rule["action"]));
            writeln!(out, "{title:<13} {acl} {number}: {action}{}", place(rule))?;
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
    if let Some(port) = answer["egress_port"].as_str() {
        writeln!(out, "egress port   {port}")?;
    }
    Ok(())
}

pub(super) fn cases<W: Write>(out: &mut W, file: &std::path::Path, answer: &Value) -> io::Result<()> {
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

/// One event of `monitor` on one line.
pub(super) fn event<W: Write>(out: &mut W, event: &Value) -> io::Result<()> {
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
