//! What one scrape tells, as numbers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use forwarder::acl::RuleCount;
use forwarder::reason::Reason;
use forwarder::{PortId, Snapshot};

use super::server::Served;
use crate::mirror::MirrorStats;

/// Rules that get series of their own, over all lists. The defaults of all lists come first, then rules in the order of
/// their lists. What is beyond is counted in `margay_rules_without_series`.
pub const MAX_RULES: usize = 1000;

/// What one rule decided.
#[derive(Debug, Clone)]
pub struct RuleSample {
    /// The list.
    pub list: Arc<str>,
    /// From 0; `None` for the default.
    pub rule: Option<usize>,
    /// Packets and bytes.
    pub count: RuleCount,
}

/// Everything that is told, taken at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Tables mirrored, lists compiled, ports open.
    pub ready: bool,
    /// When the daemon began.
    pub started: SystemTime,
    /// Counters of the data plane.
    pub snapshot: Snapshot,
    /// Ports that are up.
    pub up: Vec<PortId>,
    /// Ports that are configured and there, and not open.
    pub waiting: usize,
    /// Packets and bytes by reason since the start; every reason.
    pub drops: Vec<(Reason, u64, u64)>,
    /// Counters of rules, at most [`MAX_RULES`].
    pub rules: Vec<RuleSample>,
    /// Rules that did not get series.
    pub rules_left_out: usize,
    /// Counters of the mirror.
    pub mirror: MirrorStats,
    /// Neighbour entries by state.
    pub neighbours: BTreeMap<&'static str, u64>,
    /// Next-hop groups.
    pub groups: u64,
    /// Adjacencies by state.
    pub adjacencies: BTreeMap<&'static str, u64>,
    /// Bytes of the route tables that look-ups read, and of all that they hold.
    pub fib_bytes: (usize, usize),
    /// What this server has answered.
    pub served: Served,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            ready: false,
            started: SystemTime::UNIX_EPOCH,
            snapshot: Snapshot::default(),
            up: Vec::new(),
            waiting: 0,
            drops: Vec::new(),
            rules: Vec::new(),
            rules_left_out: 0,
            mirror: MirrorStats::default(),
            neighbours: BTreeMap::new(),
            groups: 0,
            adjacencies: BTreeMap::new(),
            fib_bytes: (0, 0),
            served: Served::default(),
        }
    }
}
