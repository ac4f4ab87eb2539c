//! Ports: devices with the steering program attached and a socket on each RX queue.

pub(crate) mod chunks;
pub mod device;
pub(crate) mod open;
pub(crate) mod queue;
pub(crate) mod socket;

use crate::port::socket::{Socket, Statistics};
use crate::settings::{PortId, PortSpec};
use crate::snapshot::Obtained;
use crate::steer::link::Link;

/// An open port as the control thread sees it. Its queues are with the workers.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) id: PortId,
    pub(crate) spec: PortSpec,
    pub(crate) obtained: Obtained,
    /// The program's attachment; dropping it detaches.
    pub(crate) _link: Link,
    /// A handle on each queue's socket, to read its statistics with.
    pub(crate) sockets: Vec<Socket>,
    /// The worker of each queue.
    pub(crate) owners: Vec<u16>,
}

impl Port {
    /// What the kernel counted on the port's sockets. A device that is gone has counted nothing more.
    pub(crate) fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        for socket in &self.sockets {
            let counted = socket.statistics().unwrap_or_default();
            sum.rx_dropped += counted.rx_dropped;
            sum.rx_ring_full += counted.rx_ring_full;
            sum.rx_fill_ring_empty += counted.rx_fill_ring_empty;
        }
        sum
    }
}
