//! The packet's way through a worker.

use std::sync::Arc;
use std::time::Instant;

use classifier::qsbr::Online;

use crate::counters::WorkerCounters;
use crate::frame::{Frame, Memory};
use crate::settings::PortId;
use crate::tables::Shared;

/// Most frames of a burst.
pub const BURST: usize = 64;

/// What a departing packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It came in and is sent on.
    Transit,
    /// Margay made it: an answer about a packet that came in.
    Originated,
}

/// A packet ready for the TX ring of its egress port.
#[derive(Debug)]
pub struct Departure {
    /// The frame; its bytes are complete.
    pub frame: Frame,
    /// The port that the packet came in through; of an answer, the one that the answered packet came in through.
    pub ingress: PortId,
    /// The port to send it by.
    pub egress: PortId,
    /// The flow's hash, to choose a TX queue with its low bits: the top bits have chosen the next hop.
    pub hash: u32,
    /// What it is.
    pub kind: Kind,
    /// Bytes of the frame.
    pub len: u32,
}

/// What becomes of the frames of a burst. Reused from burst to burst, so that nothing is allocated.
#[derive(Debug)]
pub struct Outcome {
    /// To be sent, in order.
    pub tx: Vec<Departure>,
    /// To be given back to the free list.
    pub free: Vec<Frame>,
}

impl Outcome {
    /// Room for what one burst and one tick can leave behind.
    pub fn new() -> Self {
        let most = BURST + crate::tables::MAX_HELD;
        Self {
            tx: Vec::with_capacity(most),
            free: Vec::with_capacity(most),
        }
    }
}

impl Default for Outcome {
    fn default() -> Self {
        Self::new()
    }
}

/// What a path is made of.
#[derive(Debug, Clone)]
pub struct PathConfig {
    /// The worker's number, an index into the counters.
    pub worker: usize,
    /// What the control thread and the workers share.
    pub shared: Arc<Shared>,
}

/// One worker's packet processing: what it decides about a packet depends on the packet and on the published tables
/// alone. It does no system call, takes no lock and allocates nothing.
#[derive(Debug)]
pub struct Path {
    worker: usize,
    shared: Arc<Shared>,
}

impl Path {
    /// The path of one worker.
    pub fn new(config: PathConfig) -> Self {
        Self {
            worker: config.worker,
            shared: config.shared,
        }
    }

    /// This worker's counters.
    pub fn counters(&self) -> &WorkerCounters {
        self.shared.counters().worker(self.worker)
    }
}
