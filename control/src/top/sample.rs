//! One answer of the socket's `top`: counters since the start of what they count. Whoever shows rates takes two of them.

use serde::{Deserialize, Serialize};

/// Rules with the most packets that an answer holds.
pub const TOP_RULES: usize = 20;

/// Counters of one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// `margay.top/1`.
    pub schema: String,
    /// Whether the daemon is ready.
    pub ready: bool,
    /// Generation of the tables.
    pub generation: u64,
    /// Nanoseconds since the daemon's start: the time between two samples.
    pub uptime_ns: u64,
    /// How full the tables are.
    pub tables: Tables,
    /// Open ports, by name.
    pub ports: Vec<Port>,
    /// Dropped packets by reason, since the start; only reasons that there were.
    pub drops: Vec<Drop>,
    /// Workers.
    pub workers: Vec<Worker>,
    /// The [`TOP_RULES`] rules with the most packets.
    pub rules: Vec<Rule>,
}

/// How full the tables are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// Routes of the configured tables.
    pub routes: u64,
    /// Neighbour entries.
    pub neighbours: u64,
    /// Next-hop groups.
    pub groups: u64,
    /// Adjacencies.
    pub adjacencies: u64,
    /// Bytes of the route tables.
    pub fib_bytes: u64,
    /// UMEM frames.
    pub frames: u64,
    /// Of these, free ones.
    pub frames_free: u64,
}

/// Counters of a port since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Whether it has a carrier.
    pub up: bool,
    /// Frames that came in.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that Margay sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that came in and were dropped.
    pub dropped: u64,
}

/// Dropped packets of one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// The reason.
    pub reason: String,
    /// Packets.
    pub packets: u64,
}

/// One worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its core.
    pub core: u64,
    /// Nanoseconds spent on packets.
    pub busy_ns: u64,
    /// The rest.
    pub idle_ns: u64,
    /// Packets of all bursts.
    pub packets: u64,
    /// Bursts of 1, 2, 3 to 4, 5 to 8, … packets.
    pub bursts: Vec<u64>,
}

/// Counters of one rule since its list was last changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The list.
    pub acl: String,
    /// From 0; -1 is the default.
    pub index: i64,
    /// `allow`, `deny`, `reject`.
    pub action: String,
    /// File and line, `web.toml:12`; empty for the default.
    pub place: String,
    /// Packets that it decided.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}
