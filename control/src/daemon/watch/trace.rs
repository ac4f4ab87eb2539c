//! `trace`: the way of a packet, stage by stage, with what each stage found.

use forwarder::fib::VrfId;
use forwarder::reason::Reason;
use forwarder::watch::{Decided, End, LinkState, Point, Points, PortSet, Record, TapSpec, Way};
use forwarder::{AntiSpoof, PortId};
use serde_json::{Value, json};

use super::packet::{headers, hex};
use super::{Kind, filter};
use crate::config;
use crate::daemon::Daemon;
use crate::daemon::drops::rfc3339;
use crate::socket::{Answer, ErrorBody, TraceArgs};

/// Bytes that are kept of a packet, and packets that may wait on each worker.
const SNAP: usize = 128;
const SLOTS: usize = 1024;

/// The stages in their order.
const STAGES: [&str; 9] = [
    "receive",
    "addresses",
    "ingress_acl",
    "ttl",
    "route",
    "next_hop",
    "mtu",
    "egress_acl",
    "send",
];

/// The stage that a reason belongs to, for a packet whose way was looked up or not.
fn stage_of(reason: Reason, has_way: bool) -> &'static str {
    match reason {
        // The first list that could not look at the packet.
        Reason::ExtensionChain | Reason::TransportTruncated | Reason::TinyFragment if has_way => "egress_acl",
        Reason::ExtensionChain | Reason::TransportTruncated | Reason::TinyFragment => "ingress_acl",
        Reason::NotIp
        | Reason::Truncated
        | Reason::BadVersion
        | Reason::BadHeaderLength
        | Reason::BadTotalLength
        | Reason::BadChecksum => "receive",
        Reason::SourceRoute
        | Reason::MartianSource
        | Reason::MartianDestination
        | Reason::LinkLocal
        | Reason::SpoofedSource => "addresses",
        Reason::AclIngress | Reason::AclRejectIngress => "ingress_acl",
        Reason::BadOptions | Reason::TtlExceeded => "ttl",
        Reason::NoRoute | Reason::Blackhole | Reason::Unreachable | Reason::Prohibit | Reason::Local => {
            "route"
        }
        Reason::EgressNotAPort | Reason::EgressDown | Reason::NeighbourUnresolved => "next_hop",
        Reason::MtuExceeded => "mtu",
        Reason::AclEgress | Reason::AclRejectEgress => "egress_acl",
        _ => "send",
    }
}

impl Daemon {
    pub(in crate::daemon) fn trace(&mut self, args: &TraceArgs) -> Answer {
        let begin = |daemon: &mut Daemon| -> Result<_, ErrorBody> {
            let spec = TapSpec {
                filter: filter(&args.filter)?,
                points: Points::default().with(Point::Trace),
                ports: PortSet::ALL,
                snap: SNAP,
                slots: SLOTS,
            };
            daemon.watch(Kind::Trace, spec, args.count)
        };
        begin(self).into()
    }

    /// One packet as a line.
    pub(super) fn trace_line(&mut self, number: u64, record: &Record, bytes: &[u8]) -> String {
        let packet = headers(bytes);
        let mut line = json!({
            "schema": Kind::Trace.schema(),
            "event": if record.point == Point::Released { "released" } else { "packet" },
            "number": number + 1,
            "time": rfc3339(self.dataplane.time_of(record.time)),
            "port": self.name_of(record.ingress),
            "length": record.len,
            "packet": packet,
        });
        for (key, value) in self.verdict(record) {
            line[key] = value;
        }
        line["stages"] = json!(self.stages(record, &packet));
        line["data"] = json!(hex(bytes));
        format!("{line}\n")
    }

    /// What each stage found, up to the one that stopped the packet.
    fn stages(&mut self, record: &Record, packet: &Value) -> Vec<Value> {
        let reason = record.end.reason();
        // The packet had no closed port to come in by: then no stage looked at it.
        let stopped = reason.map(|reason| {
            let in_path = reason != Reason::PortClosed || record.way.is_some();
            if in_path {
                stage_of(reason, record.way.is_some())
            } else {
                "receive"
            }
        });
        let mut stages = Vec::new();
        for stage in STAGES {
            let stops = stopped == Some(stage);
            let unknown = record.way.is_none() && ["route", "next_hop", "mtu", "egress_acl"].contains(&stage);
            if unknown && !stops {
                // It was stopped for another reason before, and an answer about that was not sent.
                continue;
            }
            let again = match stage {
                "route" | "next_hop" | "mtu" | "send" => true,
                // Its list was asked before it waited, and is only asked again when it leaves by another port.
                "egress_acl" => stops || record.egress_rule.is_some(),
                _ => false,
            };
            if record.point == Point::Released && !again {
                continue;
            }
            let mut finding = self.finding(stage, record, packet);
            if let (true, Some(reason)) = (stops, reason) {
                let told = if finding.is_empty() {
                    String::new()
                } else {
                    format!("{finding}: ")
                };
                finding = format!("{told}{}", reason.help());
            }
            let result = if stops { "stop" } else { "pass" };
            stages.push(json!({"stage": stage, "result": result, "finding": finding}));
            if stops {
                break;
            }
        }
        stages
    }

    fn finding(&mut self, stage: &str, record: &Record, packet: &Value) -> String {
        match stage {
            "receive" => format!("{} bytes from {}", record.len, self.name_of(record.ingress)),
            "addresses" => self.anti_spoof(record.ingress),
            "ingress_acl" => self.by_rule(record.ingress_rule),
            "ttl" => match record.end {
                End::Dropped(Reason::BadOptions) | End::Replied(Reason::BadOptions) => "options".to_owned(),
                End::Dropped(Reason::TtlExceeded) | End::Replied(Reason::TtlExceeded) => {
                    format!("is {}", packet["ttl"])
                }
                _ => format!(
                    "{}, leaves as {}",
                    packet["ttl"],
                    packet["ttl"].as_u64().unwrap_or(1).saturating_sub(1)
                ),
            },
            "route" => self.route_of(record, packet),
            "next_hop" => record
                .way
                .as_ref()
                .map_or_else(String::new, |way| self.next_hop_of(way)),
            "mtu" => match record.way {
                Some(way) if way.mtu > 0 => format!(
                    "{} bytes of IP, {} may go",
                    record.len.saturating_sub(14),
                    way.mtu
                ),
                _ => String::new(),
            },
            "egress_acl" => self.by_rule(record.egress_rule),
            _ => self.sent(record),
        }
    }

    /// What the port asks of sources.
    fn anti_spoof(&self, port: PortId) -> String {
        let open = self.ports.open.values().find(|open| open.id == port);
        let asked = match open.map(|open| open.port.anti_spoof) {
            Some(config::AntiSpoof::Strict) => AntiSpoof::Strict,
            Some(config::AntiSpoof::Loose) => AntiSpoof::Loose,
            _ => AntiSpoof::Off,
        };
        match asked {
            AntiSpoof::Strict => "anti-spoofing strict",
            AntiSpoof::Loose => "anti-spoofing loose",
            AntiSpoof::Off => "anti-spoofing off",
        }
        .to_owned()
    }

    fn by_rule(&self, rule: Option<Decided>) -> String {
        let Some(rule) = self.lists.decided(rule) else {
            return "no list".to_owned();
        };
        let number = match rule["index"].as_i64() {
            Some(-1) => "default".to_owned(),
            _ => format!("rule {}", rule["index"]),
        };
        let place = match rule["file"].as_str() {
            Some(file) => format!(" ({file}:{})", rule["line"]),
            None => String::new(),
        };
        let (acl, action) = (
            rule["acl"].as_str().unwrap_or("?"),
            rule["action"].as_str().unwrap_or("?"),
        );
        format!("{acl} {number} {action}{place}")
    }

    /// The route, looked up again by the destination: the worker tells the number of what it found.
    fn route_of(&mut self, record: &Record, packet: &Value) -> String {
        let to = packet["to"].as_str().and_then(|to| to.parse().ok());
        let (Some(way), Some(to)) = (record.way.as_ref(), to) else {
            return String::new();
        };
        let port = self.ports.open.values().find(|open| open.id == record.ingress);
        let vrf = port.map_or(VrfId::DEFAULT, |open| self.mirror.vrf_id(open.ifindex));
        match self.dataplane.fib().lookup(vrf, to) {
            Some((table, prefix, group)) if group == way.group => format!("{prefix} table {table}"),
            Some((table, prefix, _)) => format!("was another one then; now {prefix} table {table}"),
            None => "none".to_owned(),
        }
    }

    fn next_hop_of(&mut self, way: &Way) -> String {
        let Some(port) = way.egress else {
            let has_neighbour = way.ifindex != 0 && way.adj.is_some();
            return if has_neighbour {
                format!("via {}", way.neighbour)
            } else {
                String::new()
            };
        };
        let members = match self.dataplane.fib().group(way.group) {
            Some(forwarder::fib::Group::Forward { members, .. }) if members.len() > 1 => {
                let at = members.iter().position(|member| Some(member.adj) == way.adj);
                let at = at.map_or_else(|| "one".to_owned(), |at| (at + 1).to_string());
                format!(", member {at} of {} by hash {:#010x}", members.len(), way.hash)
            }
            _ => String::new(),
        };
        let state = match way.link {
            LinkState::Ready { dst, .. } => format!("at {}", crate::mirror::present::mac(Some(dst))),
            LinkState::Waiting => "being resolved".to_owned(),
            LinkState::Never => "out of reach".to_owned(),
        };
        format!("via {} {state} by {}{members}", way.neighbour, self.name_of(port))
    }

    /// The end of the way.
    fn sent(&self, record: &Record) -> String {
        match (record.end, record.way.and_then(|way| way.egress)) {
            (End::Forwarded, Some(port)) => format!("to the TX ring of {}", self.name_of(port)),
            (End::Held, _) => "waits for its neighbour".to_owned(),
            _ => String::new(),
        }
    }
}
