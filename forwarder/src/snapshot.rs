//! What the data plane tells about itself.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::PortId;
use crate::counters::BurstSizes;
use crate::reason::Reason;

/// How frames of a port reach user space, as the kernel granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obtained {
    /// Native XDP; the device writes into the UMEM.
    Zerocopy,
    /// Native XDP; the kernel copies.
    Copy,
    /// Generic XDP; the kernel copies.
    Generic,
}

impl fmt::Display for Obtained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Obtained::Zerocopy => "zerocopy",
            Obtained::Copy => "copy",
            Obtained::Generic => "generic",
        })
    }
}

/// Counters and state of the whole data plane, read without stopping it.
///
/// The counters are read one after another while workers run, so sums over them are exact only when traffic rests.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Open ports, by number.
    pub ports: Vec<PortStats>,
    /// What the kernel counted on each queue's socket, by port and queue.
    pub queues: Vec<QueueStats>,
    /// Drops that happened at least once, by port and reason.
    pub drops: Vec<DropCount>,
    /// Workers, in the order of the configured cores.
    pub workers: Vec<WorkerStats>,
    /// Where the UMEM's frames are.
    pub frames: FrameStats,
}

/// Counters of one port since it was opened. Packets unless said otherwise; bytes are those of whole frames.
///
/// `rx_packets = punted + forwarded + replied + dropped + held`.
#[derive(Debug, Clone)]
pub struct PortStats {
    /// The port.
    pub id: PortId,
    /// The device's name.
    pub name: String,
    /// Seen by the XDP program.
    pub rx_packets: u64,
    /// Bytes seen by the XDP program.
    pub rx_bytes: u64,
    /// Sent by this port: `forwarded` to it from any port and `originated`.
    pub tx_packets: u64,
    /// Bytes sent by this port.
    pub tx_bytes: u64,
    /// Left to the kernel by the XDP program.
    pub punted: u64,
    /// Came in here and were put on some port's TX ring.
    pub forwarded: u64,
    /// Came in here and were answered with an ICMP error.
    pub replied: u64,
    /// Came in here and wait for a neighbour (a gauge).
    pub held: u64,
    /// Came in here and were dropped, for whatever reason.
    pub dropped: u64,
    /// Made by Margay and sent by this port.
    pub originated: u64,
    /// How frames reach user space.
    pub mode_obtained: Obtained,
    /// RX queues, each with a socket.
    pub queues: u32,
    /// The largest MTU that the port can be given, in bytes; it may have to be opened again for it, in another mode.
    pub largest_mtu: u32,
    /// What limits it.
    pub mtu_limit: Arc<str>,
}

/// One RX queue of a port: what the kernel counted on its socket since it was bound (`struct xdp_statistics`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueStats {
    /// The port.
    pub port: PortId,
    /// The queue's number.
    pub queue: u32,
    /// The worker that serves it.
    pub worker: u16,
    /// Packets that found the RX ring full.
    pub rx_ring_full: u64,
    /// Packets that found no frame in the fill ring.
    pub rx_no_frame: u64,
    /// Packets that the kernel dropped for another reason, in practice because they are longer than a frame.
    pub rx_oversize: u64,
    /// Descriptors of the fill and TX rings that the kernel refused.
    pub invalid: u64,
}

/// Packets that came in through one port and were dropped for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropCount {
    /// The port that they came in through.
    pub port: PortId,
    /// Why.
    pub reason: Reason,
    /// How many.
    pub packets: u64,
    /// Bytes of their frames; 0 where the kernel dropped them and does not tell.
    pub bytes: u64,
    /// When the count was last seen to grow.
    pub last_seen: Option<SystemTime>,
}

/// One worker.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerStats {
    /// The core that it is pinned to.
    pub core: usize,
    /// Share of time spent on packets since the snapshot before, 0 to 1.
    pub busy: f64,
    /// Time spent on packets, since the worker's start.
    pub busy_time: Duration,
    /// The rest of its time: asleep, or looking for packets in vain.
    pub idle_time: Duration,
    /// Bursts taken.
    pub bursts: u64,
    /// How large they were.
    pub sizes: BurstSizes,
    /// (Port, queue) pairs that it serves.
    pub queues: u32,
}

/// The UMEM's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameStats {
    /// All frames.
    pub total: u64,
    /// Frames in free lists.
    pub free: u64,
    /// About what the kernel allocates for them beside the UMEM itself: 128 bytes a frame for every bound queue.
    pub kernel_bytes: u64,
    /// Frames by place; the places add up to `total` when traffic rests.
    pub census: Census,
}

/// Frames by place. A frame is in exactly one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// In workers' free lists, and not yet given to any worker.
    pub free: u64,
    /// Given to the kernel to receive into: fill rings and RX rings.
    pub rx: u64,
    /// Given to the kernel to send: TX rings and completion rings.
    pub tx: u64,
    /// Waiting for a neighbour.
    pub held: u64,
    /// In rings between workers.
    pub handover: u64,
}
