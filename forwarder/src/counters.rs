//! Counters of the packet's way: written by workers, read by the control thread without stopping them.
//!
//! Each worker has rows of its own, one for each port that a packet came in through, so that a counter has one writer
//! and needs no read-modify-write on the bus. The reader adds the workers up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::utils::CachePadded;

use crate::path::{BURST, Departure, Kind};
use crate::reason::Reason;
use crate::settings::{MAX_PORTS, PortId};

/// A counter with one writing thread; any thread may read it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this: two writers would lose counts, never memory safety.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away; for gauges.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Sets the value; for time stamps.
    #[inline]
    fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of one reason on one port and worker: half a cache line.
#[derive(Debug, Default)]
struct ReasonRow {
    packets: Counter,
    bytes: Counter,
    /// Nanoseconds since the data plane's start, plus one; 0 for never.
    last_seen: Counter,
    /// Packets that were answered with an ICMP error for this reason instead of being dropped.
    answered: Counter,
}

/// Counters of one worker for one port. Written by that worker alone, read by the control thread.
#[derive(Debug)]
#[repr(align(128))]
struct PortRow {
    rx_packets: Counter,
    rx_bytes: Counter,
    forwarded: Counter,
    replied: Counter,
    held: Counter,
    tx_packets: Counter,
    tx_bytes: Counter,
    originated: Counter,
    reasons: [ReasonRow; Reason::COUNT],
}

impl Default for PortRow {
    fn default() -> Self {
        Self {
            rx_packets: Counter::default(),
            rx_bytes: Counter::default(),
            forwarded: Counter::default(),
            replied: Counter::default(),
            held: Counter::default(),
            tx_packets: Counter::default(),
            tx_bytes: Counter::default(),
            originated: Counter::default(),
            reasons: std::array::from_fn(|_| ReasonRow::default()),
        }
    }
}

/// Classes of burst sizes: class `n` holds bursts of more than `2^(n-1)` and up to `2^n` packets.
pub const BURST_CLASSES: usize = BURST.ilog2() as usize + 1;

/// How large one worker's bursts were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BurstSizes {
    /// Bursts by class.
    pub classes: [u64; BURST_CLASSES],
    /// Packets of all bursts.
    pub packets: u64,
}

impl BurstSizes {
    /// All bursts.
    pub fn bursts(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// The most packets that a burst of a class has.
    pub fn limit(class: usize) -> u64 {
        1 << class
    }
}

/// The counters that one worker writes.
#[derive(Debug)]
pub struct WorkerCounters {
    /// Rows are made by the control thread when a port is first opened, and stay.
    ports: Box<[OnceLock<Box<PortRow>>]>,
    /// The worker's coarse clock: nanoseconds since the data plane's start, set between bursts.
    clock: Counter,
    /// Bursts by the class of their size.
    sizes: [Counter; BURST_CLASSES],
    /// Packets of all bursts.
    packets: Counter,
}

impl WorkerCounters {
    fn new() -> Self {
        Self {
            ports: (0..MAX_PORTS).map(|_| OnceLock::new()).collect(),
            clock: Counter::default(),
            sizes: Default::default(),
            packets: Counter::default(),
        }
    }

    /// The row of a port. The control thread made it before the port's first frame; should it be missing it is made
    /// here, so that no count is lost.
    #[inline]
    fn row(&self, port: PortId) -> &PortRow {
        self.ports[port.index()].get_or_init(Box::default)
    }

    /// Sets the worker's coarse clock, the time that drops are stamped with: nanoseconds since the start.
    #[inline]
    pub fn set_clock(&self, nanoseconds: u64) {
        self.clock.set(nanoseconds);
    }

    /// The worker's coarse clock in nanoseconds since the start.
    #[inline]
    pub fn clock(&self) -> u64 {
        self.clock.get()
    }

    /// One burst, taken from the RX ring of `port`: 1 to [`BURST`] packets.
    #[inline]
    pub fn received(&self, port: PortId, packets: u64, bytes: u64) {
        // 1, 2, 3 to 4, 5 to 8, …: the bits that the number before needs.
        let class = (u64::BITS - packets.saturating_sub(1).leading_zeros()) as usize;
        if let Some(size) = self.sizes.get(class) {
            size.add(1);
        }
        self.packets.add(packets);
        self.drained(port, packets, bytes);
    }

    /// Frames that were left on the RX ring of a port that is being closed: no burst, as nothing is done with them.
    #[inline]
    pub fn drained(&self, port: PortId, packets: u64, bytes: u64) {
        let row = self.row(port);
        row.rx_packets.add(packets);
        row.rx_bytes.add(bytes);
    }

    /// How large the worker's bursts were.
    pub fn bursts(&self) -> BurstSizes {
        BurstSizes {
            classes: std::array::from_fn(|class| self.sizes[class].get()),
            packets: self.packets.get(),
        }
    }

    /// One packet that came in through `ingress` was dropped. `len` is its frame's length in bytes.
    #[inline]
    pub fn dropped(&self, ingress: PortId, reason: Reason, len: usize) {
        let row = &self.row(ingress).reasons[reason as usize];
        row.packets.add(1);
        row.bytes.add(len as u64);
        row.last_seen.set(self.clock.get() + 1);
    }

    /// A departure was put on the TX ring of its egress port. A packet in fragments was forwarded once, by its last one;
    /// the others are the node's own frames.
    #[inline]
    pub fn sent(&self, departure: &Departure) {
        let from = self.row(departure.ingress);
        let to = self.row(departure.egress);
        match departure.kind {
            Kind::Transit => from.forwarded.add(1),
            Kind::Fragment => to.originated.add(1),
            Kind::Originated => {
                from.replied.add(1);
                to.originated.add(1);
            }
        }
        to.tx_packets.add(1);
        to.tx_bytes.add(u64::from(departure.len));
    }

    /// An answer was built for a packet from `ingress`; what becomes of it is counted by `sent` or `dropped`.
    #[inline]
    pub(crate) fn answered(&self, ingress: PortId, reason: Reason) {
        self.row(ingress).reasons[reason as usize].answered.add(1);
    }

    /// A packet from `ingress` went into the hold queue.
    #[inline]
    pub(crate) fn held(&self, ingress: PortId) {
        self.row(ingress).held.add(1);
    }

    /// A packet from `ingress` left the hold queue.
    #[inline]
    pub(crate) fn released(&self, ingress: PortId) {
        self.row(ingress).held.sub(1);
    }
}

/// Packets, bytes and time of one reason on one port, added up over the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReasonTotals {
    /// Packets dropped.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// When the last one was dropped.
    pub last_seen: Option<SystemTime>,
    /// Packets that were answered for this reason instead of being dropped.
    pub answered: u64,
}

/// Counters of one port, added up over the workers, since the port was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortTotals {
    /// Frames that workers took from the port.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Of these, sent on.
    pub forwarded: u64,
    /// Of these, answered.
    pub replied: u64,
    /// Of these, waiting for a neighbour now.
    pub held: u64,
    /// Frames sent by this port.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Of these, made by Margay: answers, and of each packet that was sent in fragments all but one.
    pub originated: u64,
    /// Drops of packets that came in here, by `Reason as usize`.
    pub reasons: [ReasonTotals; Reason::COUNT],
}

impl Default for PortTotals {
    fn default() -> Self {
        Self {
            rx_packets: 0,
            rx_bytes: 0,
            forwarded: 0,
            replied: 0,
            held: 0,
            tx_packets: 0,
            tx_bytes: 0,
            originated: 0,
            reasons: [ReasonTotals::default(); Reason::COUNT],
        }
    }
}

impl PortTotals {
    /// Drops of all reasons.
    pub fn dropped(&self) -> u64 {
        self.reasons.iter().map(|r| r.packets).sum()
    }

    /// The counters of one reason.
    pub fn reason(&self, reason: Reason) -> &ReasonTotals {
        &self.reasons[reason as usize]
    }

    /// Takes away what was counted before the port's number was given to it.
    fn since(mut self, base: &PortTotals) -> PortTotals {
        self.rx_packets -= base.rx_packets;
        self.rx_bytes -= base.rx_bytes;
        self.forwarded -= base.forwarded;
        self.replied -= base.replied;
        self.tx_packets -= base.tx_packets;
        self.tx_bytes -= base.tx_bytes;
        self.originated -= base.originated;
        for (now, then) in self.reasons.iter_mut().zip(&base.reasons) {
            now.packets -= then.packets;
            now.bytes -= then.bytes;
            now.answered -= then.answered;
            if now.packets == 0 {
                now.last_seen = None;
            }
        }
        self
    }
}

/// The counters of all workers and ports.
#[derive(Debug)]
pub struct Counters {
    workers: Box<[CachePadded<WorkerCounters>]>,
    /// What a port's number had counted when it was opened last. Control thread only.
    base: Mutex<Vec<PortTotals>>,
    started: Instant,
    started_at: SystemTime,
}

impl Counters {
    /// Counters for so many workers, all zero.
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers)
                .map(|_| CachePadded::new(WorkerCounters::new()))
                .collect(),
            base: Mutex::new(vec![PortTotals::default(); MAX_PORTS]),
            started: Instant::now(),
            started_at: SystemTime::now(),
        }
    }

    /// The counters that worker number `worker` writes.
    pub fn worker(&self, worker: usize) -> &WorkerCounters {
        &self.workers[worker]
    }

    /// A time as the coarse clocks count it: nanoseconds since the start.
    pub fn nanoseconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_nanos() as u64
    }

    /// The time of day of a time as the coarse clocks count it.
    pub fn time_of(&self, nanoseconds: u64) -> SystemTime {
        self.started_at + Duration::from_nanos(nanoseconds)
    }

    /// Makes the rows of a port and starts its counts at zero. Called before the port's first frame.
    pub fn open(&self, port: PortId) {
        for worker in &self.workers {
            worker.row(port);
        }
        let now = self.sum(port);
        self.base()[port.index()] = now;
    }

    /// The counters of a port since it was opened, added up over the workers.
    pub fn port(&self, port: PortId) -> PortTotals {
        self.sum(port).since(&self.base()[port.index()])
    }

    fn base(&self) -> MutexGuard<'_, Vec<PortTotals>> {
        // Nothing here can be left half written: a panic elsewhere does not spoil the numbers.
        self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sum(&self, port: PortId) -> PortTotals {
        let mut sum = PortTotals::default();
        for worker in &self.workers {
            let Some(row) = worker.ports[port.index()].get() else {
                continue;
            };
            sum.rx_packets += row.rx_packets.get();
            sum.rx_bytes += row.rx_bytes.get();
            sum.forwarded += row.forwarded.get();
            sum.replied += row.replied.get();
            sum.held = sum.held.wrapping_add(row.held.get());
            sum.tx_packets += row.tx_packets.get();
            sum.tx_bytes += row.tx_bytes.get();
            sum.originated += row.originated.get();
            for (total, row) in sum.reasons.iter_mut().zip(&row.reasons) {
                total.packets += row.packets.get();
                total.bytes += row.bytes.get();
                total.answered += row.answered.get();
                let seen = row.last_seen.get();
                if seen > 0 {
                    let at = self.time_of(seen - 1);
                    total.last_seen = total.last_seen.max(Some(at));
                }
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_counted_by_the_class_of_their_size() {
        let counters = Counters::new(1);
        let port = PortId(3);
        for packets in 1..=BURST as u64 {
            counters.worker(0).received(port, packets, packets * 60);
        }
        counters.worker(0).drained(port, 100, 6000);
        let sizes = counters.worker(0).bursts();
        assert_eq!(sizes.classes, [1, 1, 2, 4, 8, 16, 32]);
        assert_eq!(sizes.bursts(), BURST as u64);
        assert_eq!(BurstSizes::limit(BURST_CLASSES - 1), BURST as u64);
        // Frames of a port that closes come in, but in no burst.
        assert_eq!(counters.port(port).rx_packets, sizes.packets + 100);
    }
}
