//! Ports: devices with the steering program attached and a socket on each RX queue.

pub(crate) mod chunks;
pub mod device;
pub(crate) mod mtu;
pub(crate) mod open;
pub(crate) mod queue;
pub(crate) mod socket;

use std::sync::Arc;

use crate::port::mtu::Limit;
use crate::port::socket::Socket;
use crate::settings::{PortId, PortSpec};
use crate::snapshot::Obtained;
use crate::snapshot::QueueStats;
use crate::steer::link::Link;

/// An open port as the control thread sees it. Its queues are with the workers.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) id: PortId,
    pub(crate) spec: PortSpec,
    pub(crate) obtained: Obtained,
    /// How large packets may be, as it is bound.
    pub(crate) limit: Limit,
    /// Whether packets may be spread over several frames, as it is bound.
    pub(crate) in_parts: bool,
    /// The largest MTU that it could have, and why no larger one.
    pub(crate) possible_mtu: (u32, Arc<str>),
    /// The program's attachment; dropping it detaches.
    pub(crate) _link: Link,
    /// A handle on each queue's socket, to read its statistics with.
    pub(crate) sockets: Vec<Socket>,
    /// The worker of each queue.
    pub(crate) owners: Vec<u16>,
}

impl Port {
    /// What the kernel counted on the port's sockets, by queue. A device that is gone has counted nothing more.
    pub(crate) fn statistics(&self) -> impl Iterator<Item = QueueStats> + '_ {
        self.sockets.iter().enumerate().map(|(queue, socket)| {
            let counted = socket.statistics().unwrap_or_default();
            // `rx_dropped` counts packets without a frame, which the fill ring's count tells apart, and too large ones. Where packets
            // may be spread over several frames none is too large, and one for which there are too few frames counts here alone
            // (net/xdp/xsk.c: __xsk_rcv).
            let no_frame = match self.in_parts {
                true => counted.rx_dropped,
                false => counted.rx_dropped.min(counted.rx_fill_ring_empty),
            };
            QueueStats {
                port: self.id,
                queue: queue as u32,
                worker: self.owners.get(queue).copied().unwrap_or_default(),
                rx_ring_full: counted.rx_ring_full,
                rx_no_frame: no_frame,
                rx_oversize: counted.rx_dropped - no_frame,
                invalid: counted.invalid,
            }
        })
    }
}
