//! Requests, validated once: what comes out of [`parse_request`] needs no further checks of its shape.

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Code, ErrorBody, MAX_REQUEST};

/// A command with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `status`.
    Status,
    /// `port show`, of one port or of all.
    PortShow(Option<String>),
    /// `port set`.
    PortSet(PortSetArgs),
    /// `route show`, also with the comparison.
    RouteShow(RouteShowArgs),
    /// `route get`.
    RouteGet(RouteGetArgs),
    /// `neigh show`.
    NeighShow(Option<FamilyArg>),
    /// `nexthop show`.
    NexthopShow,
    /// `acl show`, of one list or of all.
    AclShow(Option<String>),
    /// `acl reload`.
    AclReload,
    /// `drops`.
    Drops(DropsArgs),
    /// `drops last`.
    DropsLast(LastArgs),
    /// `drops watch`.
    DropsWatch,
    /// `trace`.
    Trace(TraceArgs),
    /// `capture`.
    Capture(CaptureArgs),
    /// `explain`.
    Explain(Box<ExplainArgs>),
    /// `monitor` of these kinds of events; all when empty.
    Monitor(Vec<MonitorKind>),
    /// `config show`.
    ConfigShow,
    /// `top`: counters of one moment.
    Top,
    /// `doctor`, of one port or of all.
    Doctor(Option<String>),
    /// `release` of one guarded port, or of all.
    Release(Option<String>),
}

/// Arguments of `port set`. A list that is not named stays as it is; an empty name takes the list away.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSetArgs {
    /// The port.
    pub name: String,
    /// The ingress list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl_ingress: Option<String>,
    /// The egress list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl_egress: Option<String>,
    /// Forget what was set: the configuration file speaks again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
}

/// An address family, `4` or `6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum FamilyArg {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl FamilyArg {
    /// Whether the address is of this family.
    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == FamilyArg::V4)
    }
}

impl TryFrom<u8> for FamilyArg {
    type Error = &'static str;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        match number {
            4 => Ok(FamilyArg::V4),
            6 => Ok(FamilyArg::V6),
            _ => Err("family is 4 or 6"),
        }
    }
}

impl From<FamilyArg> for u8 {
    fn from(family: FamilyArg) -> u8 {
        match family {
            FamilyArg::V4 => 4,
            FamilyArg::V6 => 6,
        }
    }
}

/// Arguments of `route show`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteShowArgs {
    /// One table; all mirrored ones when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// One family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<FamilyArg>,
    /// Show where the kernel and Margay differ instead of the routes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diff_kernel: bool,
}

/// Arguments of `route get`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteGetArgs {
    /// The destination.
    pub address: IpAddr,
    /// The port that the packet comes in by; one in no VRF when not given.
    #[serde(rename = "in", default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// Arguments of `drops`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropsArgs {
    /// Count from zero again after this answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
}

/// Arguments of `drops last`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastArgs {
    /// How many packets at most.
    #[serde(default = "ten")]
    pub count: usize,
    /// Only packets that this filter matches.
    #[serde(default)]
    pub filter: String,
}

fn ten() -> usize {
    10
}

/// Arguments of `trace`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceArgs {
    /// End after so many packets; 0 for no end.
    #[serde(default)]
    pub count: u64,
    /// Only packets that this filter matches.
    #[serde(default)]
    pub filter: String,
}

/// Arguments of `capture`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureArgs {
    /// Packets of these ports only; of all when empty.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Where on their way.
    pub at: Vec<PointArg>,
    /// End after so many packets; 0 for no end.
    #[serde(default)]
    pub count: u64,
    /// Bytes of each packet; 0 for all of them.
    #[serde(default)]
    pub snap: usize,
    /// Only packets that this filter matches.
    #[serde(default)]
    pub filter: String,
}

/// A point of a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointArg {
    /// As it came in.
    Rx,
    /// As it goes to its TX ring.
    Tx,
    /// Where it is dropped.
    Drop,
}

/// Arguments of `explain`: one packet and the port that it comes in by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainArgs {
    /// Source address.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
    /// Port that the packet comes in by.
    #[serde(rename = "in")]
    pub port: String,
    /// Upper-layer protocol.
    pub proto: u8,
    /// Source port.
    #[serde(default)]
    pub sport: u16,
    /// Destination port.
    #[serde(default)]
    pub dport: u16,
    /// TCP flags byte.
    #[serde(default)]
    pub tcp_flags: u8,
    /// ICMP type and code.
    #[serde(default)]
    pub icmp: Option<(u8, u8)>,
    /// TTL or hop limit that it comes in with.
    #[serde(default = "ttl")]
    pub ttl: u8,
    /// Bytes of the IP packet.
    #[serde(default = "length")]
    pub length: u16,
}

fn ttl() -> u8 {
    64
}

fn length() -> u16 {
    64
}

/// Kinds of events that `monitor` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorKind {
    /// Routes added, replaced and removed.
    Route,
    /// Neighbour entries.
    Neigh,
    /// Links and ports.
    Link,
    /// Drop counters that grew, once a second.
    Drop,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    command: String,
    #[serde(default)]
    args: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameArg {
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortArg {
    #[serde(default)]
    port: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NeighArgs {
    #[serde(default)]
    family: Option<FamilyArg>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MonitorArgs {
    #[serde(default)]
    kinds: Vec<MonitorKind>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoArgs {}

/// Reads one request: a line without its end. Never panics and never takes more memory than a few times the line,
/// whatever the bytes are.
pub fn parse_request(line: &[u8]) -> Result<Request, ErrorBody> {
    if line.len() > MAX_REQUEST {
        return Err(too_large());
    }
    let envelope: Envelope = serde_json::from_slice(line).map_err(|error| {
        ErrorBody::new(Code::BadRequest, format!("the request cannot be read: {error}"))
            .hint(r#"a request is one line such as {"command": "status", "args": {}}"#)
    })?;
    let args = match envelope.args {
        Value::Null => Value::Object(serde_json::Map::new()),
        other => other,
    };
    match envelope.command.as_str() {
        "status" => arguments::<NoArgs>(args).map(|_| Request::Status),
        "port show" => arguments::<NameArg>(args).map(|args| Request::PortShow(args.name)),
        "port set" => arguments(args).map(Request::PortSet),
        "route show" => arguments(args).map(Request::RouteShow),
        "route get" => arguments(args).map(Request::RouteGet),
        "neigh show" => arguments::<NeighArgs>(args).map(|args| Request::NeighShow(args.family)),
        "nexthop show" => arguments::<NoArgs>(args).map(|_| Request::NexthopShow),
        "acl show" => arguments::<NameArg>(args).map(|args| Request::AclShow(args.name)),
        "acl reload" => arguments::<NoArgs>(args).map(|_| Request::AclReload),
        "drops" => arguments(args).map(Request::Drops),
        "drops last" => arguments(args).map(Request::DropsLast),
        "drops watch" => arguments::<NoArgs>(args).map(|_| Request::DropsWatch),
        "trace" => arguments(args).map(Request::Trace),
        "capture" => arguments(args).map(Request::Capture),
        "explain" => arguments(args).map(|args| Request::Explain(Box::new(args))),
        "monitor" => arguments::<MonitorArgs>(args).map(|args| Request::Monitor(args.kinds)),
        "config show" => arguments::<NoArgs>(args).map(|_| Request::ConfigShow),
        "top" => arguments::<NoArgs>(args).map(|_| Request::Top),
        "doctor" => arguments::<PortArg>(args).map(|args| Request::Doctor(args.port)),
        "release" => arguments::<PortArg>(args).map(|args| Request::Release(args.port)),
        unknown => {
            // The name comes from outside: quoted and cut, so that it cannot fill a log or a terminal.
            let name: String = unknown.chars().take(64).collect();
            Err(ErrorBody::new(
                Code::UnknownCommand,
                format!("there is no command {name:?}"),
            ))
        }
    }
}

fn arguments<T: DeserializeOwned>(args: Value) -> Result<T, ErrorBody> {
    serde_json::from_value(args).map_err(|error| {
        ErrorBody::new(
            Code::BadArgument,
            format!("the arguments cannot be used: {error}"),
        )
    })
}

pub(super) fn too_large() -> ErrorBody {
    ErrorBody::new(
        Code::RequestTooLarge,
        format!("a request has at most {MAX_REQUEST} bytes"),
    )
}
