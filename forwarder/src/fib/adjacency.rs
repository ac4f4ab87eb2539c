//! Adjacencies: how to reach one neighbour over one link.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use classifier::qsbr::{Domain, Online, Published};

use super::slots::Slots;
use crate::settings::{MacAddr, PortId};

/// The number of an adjacency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdjId(pub u32);

/// One neighbour on one link. A worker reads all of it or an earlier version of all of it, never a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adjacency {
    /// The port to send by; `None` when the device is not a port.
    pub port: Option<PortId>,
    /// The device's index in the kernel.
    pub ifindex: u32,
    /// The neighbour's address, of either family whatever is sent to it (RFC 5549).
    pub neighbour: IpAddr,
    /// Largest IP packet in bytes to send this way (the route's or the device's MTU); 0 for the port's.
    pub mtu: u32,
    /// Whether and how the neighbour can be reached.
    pub state: AdjState,
}

/// What is known of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdjState {
    /// Its Ethernet address is known.
    Resolved {
        /// The neighbour's address.
        dst: MacAddr,
        /// The port's own address.
        src: MacAddr,
    },
    /// Not known yet: packets wait while the kernel resolves it.
    Unresolved,
    /// The kernel gave up: packets are answered with host unreachable.
    Failed,
    /// The link is down.
    Down,
}

impl Adjacency {
    /// What stands in a slot that is not in use: nothing can be sent to it.
    const NOWHERE: Adjacency = Adjacency {
        port: None,
        ifindex: 0,
        neighbour: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        mtu: 0,
        state: AdjState::Down,
    };

    /// Whether a flow should rather take another member of its group.
    #[inline]
    pub(crate) fn lost(&self) -> bool {
        self.port.is_none() || matches!(self.state, AdjState::Failed | AdjState::Down)
    }
}

/// A slot of the adjacency table.
#[derive(Debug)]
struct Slot {
    /// Written by the control thread, read by workers.
    now: Published<Adjacency>,
    /// Set by workers when they send this way, cleared by the control thread.
    used: AtomicBool,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            now: Published::new(Adjacency::NOWHERE),
            used: AtomicBool::new(false),
        }
    }
}

/// All adjacencies.
#[derive(Debug)]
pub(crate) struct Adjacencies {
    slots: Slots<Slot>,
}

impl Adjacencies {
    pub(crate) fn new() -> Self {
        Self { slots: Slots::new() }
    }

    /// The adjacency of that number; one that leads nowhere when there is none.
    #[inline]
    pub(crate) fn get<'g>(&'g self, online: &'g Online<'_>, id: AdjId) -> &'g Adjacency {
        match self.slots.get(id.0) {
            Some(slot) => slot.now.load(online),
            None => &Adjacency::NOWHERE,
        }
    }

    /// Remembers that packets go this way.
    #[inline]
    pub(crate) fn mark_used(&self, id: AdjId) {
        if let Some(slot) = self.slots.get(id.0) {
            // Load first: a line that all workers share stays shared.
            if !slot.used.load(Relaxed) {
                slot.used.store(true, Relaxed);
            }
        }
    }

    /// Whether packets went this way since the last call.
    pub(crate) fn take_used(&self, id: AdjId) -> bool {
        self.slots
            .get(id.0)
            .is_some_and(|slot| slot.used.swap(false, Relaxed))
    }

    /// One pointer write, whatever number of prefixes leads here.
    pub(crate) fn set(&self, id: AdjId, adjacency: Adjacency, domain: &Domain) {
        self.slots.make(id.0).now.replace(adjacency, domain);
    }

    pub(crate) fn clear(&self, id: AdjId, domain: &Domain) {
        self.set(id, Adjacency::NOWHERE, domain);
        self.take_used(id);
    }
}
