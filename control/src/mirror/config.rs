//! What the mirror is told, why it may fail, and what it counts.

use std::time::Duration;

/// What the mirror is to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorConfig {
    /// The routing tables that are looked up, in this order, for devices that neither a VRF nor a rule gives others.
    pub tables: Vec<u32>,
    /// Bytes of the multicast socket's receive buffer. An overrun costs a dump of the kernel's tables.
    pub rcvbuf: usize,
}

impl Default for MirrorConfig {
    fn default() -> Self {
        Self {
            tables: vec![254],
            rcvbuf: 64 << 20,
        }
    }
}

/// Why the mirror cannot work.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// A netlink socket could not be set up or used.
    #[error("netlink: {what}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel refused a request.
    #[error("netlink: the kernel refused {what}: {source}")]
    Refused {
        /// What was asked for.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// There is no memory for the tables.
    #[error("no route table can be made: {0}")]
    Tables(String),
    /// The data plane refused a change.
    #[error("data plane: {0}")]
    Dataplane(#[from] forwarder::Error),
}

/// How long it took from reading a message that changed something to the workers seeing the change, as a histogram over
/// messages. Changes are taken together: each message of a batch counts with the time since the first one was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// Messages by [`Lag::LIMITS`]; the last element counts what took longer.
    pub messages: [u64; Lag::LIMITS.len() + 1],
    /// Nanoseconds of all messages together.
    pub sum_ns: u64,
}

impl Lag {
    /// Upper ends of the classes, in microseconds.
    pub const LIMITS: [u64; 11] = [
        50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000,
    ];

    /// Counts messages that took so long.
    pub(super) fn record(&mut self, messages: u64, took: Duration) {
        let class = Self::LIMITS.partition_point(|limit| Duration::from_micros(*limit) < took);
        self.messages[class] += messages;
        self.sum_ns += messages * took.as_nanos() as u64;
    }
}

/// Counters of the mirror.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct MirrorStats {
    /// Messages applied, dumps included.
    pub messages: u64,
    /// Messages that made no sense and were left out; each leads to a resync.
    pub bad_messages: u64,
    /// Times that the kernel's state was read anew because it was no longer certain.
    pub resyncs: u64,
    /// Times that the kernel had no room left for its messages and threw some away.
    pub overruns: u64,
    /// Prefixes that a resync or verification had to correct.
    pub corrected: u64,
    /// Raised with each batch that changed the data plane's tables.
    pub generation: u64,
    /// Nanoseconds from reading the last batch of messages to the data plane's tables having it.
    pub last_batch_ns: u64,
    /// The longest such time since the mirror was complete.
    pub max_batch_ns: u64,
    /// Nanoseconds that the last dump of the kernel's state took, applying included.
    pub last_dump_ns: u64,
    /// Routes of the configured tables; the kernel's local table, mirrored for steering, does not count.
    pub routes: u64,
    /// Neighbour entries.
    pub neighbours: u64,
    /// Neighbour requests of workers that were not taken up because too many hosts were being resolved.
    pub refused_requests: u64,
    /// How long messages took to reach the workers.
    #[serde(skip)]
    pub lag: Lag,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_counts_messages_by_the_time_that_their_batch_took() {
        let mut lag = Lag::default();
        lag.record(3, Duration::from_micros(50));
        lag.record(2, Duration::from_nanos(50_001));
        lag.record(1, Duration::from_secs(2));
        assert_eq!(lag.messages, [3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(lag.sum_ns, 3 * 50_000 + 2 * 50_001 + 2_000_000_000);
    }
}
