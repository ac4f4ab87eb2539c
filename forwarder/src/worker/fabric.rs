//! What workers and the control thread reach each other through: bounded rings, wakers, published gauges.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crossbeam::queue::{ArrayQueue, SegQueue};
use crossbeam::utils::CachePadded;

use crate::frame::{Frame, Memory};
use crate::path::Departure;
use crate::port::queue::Queue;
use crate::settings::PortId;
use crate::umem::Umem;
use crate::worker::wait::Waker;

/// Packets that may wait for a worker from each other worker.
const HANDOVER: usize = 1024;

/// Frames that may wait to go home from each other worker.
const RETURNS: usize = 4096;

/// What the control thread tells a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// A port is there: `owners` names the worker of each queue that it can send by, and `queues` are this worker's
    /// own.
    Open {
        port: PortId,
        owners: Arc<[u16]>,
        queues: Vec<Queue>,
    },
    /// A port goes: nothing is sent to it any more, and its queues come back in [`Returned`].
    Close { port: PortId },
    /// Frames to keep.
    Adopt(Vec<Frame>),
    /// Give everything back and end.
    Stop,
}

/// A worker's answer to [`Command::Close`] and, for each port, to [`Command::Stop`].
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) worker: usize,
    pub(crate) port: PortId,
    pub(crate) queues: Vec<Queue>,
}

/// Numbers that a worker publishes; it is their only writer.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// Nanoseconds spent on packets.
    pub(crate) busy: AtomicU64,
    /// Frames in the free list.
    pub(crate) free: AtomicU64,
    /// Frames in the kernel to receive into.
    pub(crate) rx: AtomicU64,
    /// Frames in the kernel to be sent.
    pub(crate) tx: AtomicU64,
    /// Frames that wait for a neighbour.
    pub(crate) held: AtomicU64,
    /// (Port, queue) pairs.
    pub(crate) queues: AtomicU64,
    /// Descriptors from the kernel that made no sense.
    pub(crate) nonsense: AtomicU64,
    /// Commands done.
    pub(crate) done: AtomicU64,
}

impl Gauges {
    pub(crate) fn set(gauge: &AtomicU64, value: u64) {
        gauge.store(value, Relaxed);
    }

    /// As `add`, and shows the reader all that was done before.
    pub(crate) fn release(gauge: &AtomicU64) {
        gauge.store(gauge.load(Relaxed) + 1, Release);
    }

    pub(crate) fn add(gauge: &AtomicU64, value: u64) {
        gauge.store(gauge.load(Relaxed) + value, Relaxed);
    }
}

/// One worker's side of the fabric.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) waker: Waker,
    pub(crate) commands: SegQueue<Command>,
    /// Commands given. Written by the control thread.
    given: AtomicU64,
    pub(crate) gauges: CachePadded<Gauges>,
}

/// All rings between the threads. There is one of each pair of workers and direction, so that each has one producer
/// and one consumer and packets of a flow stay in order.
#[derive(Debug)]
pub(crate) struct Fabric {
    mailboxes: Box<[Mailbox]>,
    /// Packets to be sent by another worker, from worker `i` to worker `j` at `i * workers + j`.
    handovers: Box<[ArrayQueue<Departure>]>,
    /// Frames of packets in `handovers` beyond the first of each.
    beyond: AtomicU64,
    /// Frames on their way back to the worker that they came from, indexed as `handovers`.
    returns: Box<[ArrayQueue<Frame>]>,
    /// Queues on their way back to the control thread.
    pub(crate) returned: SegQueue<Returned>,
}

impl Fabric {
    pub(crate) fn new(workers: usize) -> io::Result<Arc<Self>> {
        let mailbox = |_| {
            Ok(Mailbox {
                waker: Waker::new()?,
                commands: SegQueue::new(),
                given: AtomicU64::new(0),
                gauges: CachePadded::default(),
            })
        };
        // A worker hands nothing to itself; those rings are as small as rings can be.
        let pairs = |size: usize| {
            (0..workers * workers).map(move |i| if i / workers == i % workers { 1 } else { size })
        };
        Ok(Arc::new(Self {
            mailboxes: (0..workers).map(mailbox).collect::<io::Result<_>>()?,
            handovers: pairs(HANDOVER).map(ArrayQueue::new).collect(),
            beyond: AtomicU64::new(0),
            returns: pairs(RETURNS).map(ArrayQueue::new).collect(),
            returned: SegQueue::new(),
        }))
    }

    pub(crate) fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    pub(crate) fn mailbox(&self, worker: usize) -> &Mailbox {
        &self.mailboxes[worker]
    }

    /// Gives a command to a worker, and wakes it.
    pub(crate) fn command(&self, worker: usize, command: Command) {
        let mailbox = self.mailbox(worker);
        mailbox.given.fetch_add(1, Relaxed);
        mailbox.commands.push(command);
        mailbox.waker.wake();
    }

    /// Whether the workers have done all that they were told.
    pub(crate) fn is_settled(&self) -> bool {
        self.mailboxes
            .iter()
            .all(|mailbox| mailbox.gauges.done.load(Acquire) == mailbox.given.load(Relaxed))
    }

    fn handover(&self, from: usize, to: usize) -> &ArrayQueue<Departure> {
        &self.handovers[from * self.workers() + to]
    }

    /// Whether a worker has packets from another one to take over.
    #[inline]
    pub(crate) fn has_handed(&self, from: usize, to: usize) -> bool {
        !self.handover(from, to).is_empty()
    }

    /// Hands a packet to another worker, which gives as many frames back as it has; the packet comes back when there is
    /// no room.
    #[inline]
    pub(crate) fn hand_over(&self, from: usize, to: usize, departure: Departure) -> Result<(), Departure> {
        let beyond = u64::from(departure.frame.parts()) - 1;
        if beyond > 0 {
            self.beyond.fetch_add(beyond, Relaxed);
        }
        let pushed = self.handover(from, to).push(departure);
        if beyond > 0 && pushed.is_err() {
            self.beyond.fetch_sub(beyond, Relaxed);
        }
        pushed
    }

    /// Takes the next packet from another worker.
    #[inline]
    pub(crate) fn take_over(&self, from: usize, to: usize) -> Option<Departure> {
        let departure = self.handover(from, to).pop()?;
        let beyond = u64::from(departure.frame.parts()) - 1;
        if beyond > 0 {
            self.beyond.fetch_sub(beyond, Relaxed);
        }
        Some(departure)
    }

    pub(crate) fn returns(&self, from: usize, to: usize) -> &ArrayQueue<Frame> {
        &self.returns[from * self.workers() + to]
    }

    /// Frames in rings between workers.
    pub(crate) fn in_transit(&self) -> u64 {
        let handed: usize = self.handovers.iter().map(ArrayQueue::len).sum();
        let returning: usize = self.returns.iter().map(ArrayQueue::len).sum();
        (handed + returning) as u64 + self.beyond.load(Relaxed)
    }

    /// Takes the frames in rings between workers, when these have ended.
    pub(crate) fn drain(&self, umem: &Umem, free: &mut Vec<Frame>) {
        let handed = self
            .handovers
            .iter()
            .flat_map(|ring| std::iter::from_fn(|| ring.pop()));
        let returning = self
            .returns
            .iter()
            .flat_map(|ring| std::iter::from_fn(|| ring.pop()));
        for frame in handed.map(|departure| departure.frame).chain(returning) {
            umem.release(frame, free);
        }
    }
}
