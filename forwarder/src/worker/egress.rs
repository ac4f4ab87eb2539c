//! Which TX queue a packet leaves by.

use std::sync::Arc;

use crate::port::queue::Queue;
use crate::settings::{MAX_PORTS, PortId};

/// How a worker reaches an egress port.
#[derive(Debug, Clone, Default)]
enum Way {
    /// The port is not open.
    #[default]
    None,
    /// Through queues of this worker, by their places in its list: no other worker is involved.
    Own(Vec<usize>),
    /// Through the worker of one of the port's queues: the owner of each.
    Other(Arc<[u16]>),
}

/// Where a packet goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Nowhere: the port is closed.
    Closed,
    /// The TX ring of this worker's queue at that place.
    Queue(usize),
    /// Another worker.
    Worker(usize),
}

/// One worker's way to every port. The choice depends on the port and the flow's hash alone, and stays the same while
/// the port is open: packets of one flow that come in by one queue leave in order.
#[derive(Debug)]
pub(crate) struct Egress {
    worker: usize,
    ways: Vec<Way>,
}

impl Egress {
    pub(crate) fn new(worker: usize) -> Self {
        Self {
            worker,
            ways: vec![Way::None; MAX_PORTS],
        }
    }

    /// A port is there; `owners` names the worker of each queue that it can send by.
    pub(crate) fn open(&mut self, port: PortId, owners: Arc<[u16]>, queues: &[Queue]) {
        self.ways[port.index()] = if owners.is_empty() {
            Way::None
        } else {
            Way::Other(owners)
        };
        self.renumber(queues);
    }

    /// A port is gone.
    pub(crate) fn close(&mut self, port: PortId, queues: &[Queue]) {
        self.ways[port.index()] = Way::None;
        self.renumber(queues);
    }

    /// Notes where in this worker's list the queues of each port are now.
    fn renumber(&mut self, queues: &[Queue]) {
        for way in &mut self.ways {
            if let Way::Own(places) = way {
                places.clear();
            }
        }
        for (place, queue) in queues.iter().enumerate().filter(|(_, queue)| queue.sends()) {
            match &mut self.ways[queue.port().index()] {
                Way::Own(places) => places.push(place),
                way => *way = Way::Own(vec![place]),
            }
        }
    }

    /// Where a packet of the flow with that hash goes.
    #[inline]
    pub(crate) fn hop(&self, port: PortId, hash: u32) -> Hop {
        match &self.ways[port.index()] {
            Way::None => Hop::Closed,
            Way::Own(places) => match places.as_slice() {
                [] => Hop::Closed,
                [one] => Hop::Queue(*one),
                many => Hop::Queue(many[hash as usize % many.len()]),
            },
            Way::Other(owners) => {
                let owner = usize::from(owners[hash as usize % owners.len()]);
                debug_assert_ne!(owner, self.worker, "an owner has the queue in its list");
                Hop::Worker(owner)
            }
        }
    }
}
