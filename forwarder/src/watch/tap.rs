//! A tap: which packets are shown, and the bounded ring of each worker that they are shown through.

use std::sync::atomic::{AtomicU64, Ordering};

use classifier::filter::Filter;
use classifier::packet::Headers;
use crossbeam::utils::CachePadded;

use super::record::{Point, Points, Record};
use super::words;
use crate::settings::{MAX_PORTS, PortId};

/// A set of ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSet([u64; MAX_PORTS / 64]);

impl PortSet {
    /// Every port, those that are opened later too.
    pub const ALL: PortSet = PortSet([u64::MAX; MAX_PORTS / 64]);

    /// The ports named.
    pub fn of(ports: &[PortId]) -> PortSet {
        let mut set = [0; MAX_PORTS / 64];
        for port in ports {
            set[port.index() / 64] |= 1 << (port.0 % 64);
        }
        PortSet(set)
    }

    #[inline]
    fn has(&self, port: PortId) -> bool {
        self.0[port.index() / 64] >> (port.0 % 64) & 1 == 1
    }
}

/// What a tap is to show.
#[derive(Debug, Clone)]
pub struct TapSpec {
    /// Which packets.
    pub filter: Filter,
    /// At which points of their way.
    pub points: Points,
    /// Of which ports: the ingress port, at [`Point::Tx`] the egress port.
    pub ports: PortSet,
    /// Bytes that are kept of each packet.
    pub snap: usize,
    /// Packets that wait to be read, for each worker; more are lost and counted. At least a burst's worth.
    pub slots: usize,
}

/// A tap that is set.
#[derive(Debug)]
pub struct Tap {
    spec: TapSpec,
    rings: Box<[Ring]>,
}

/// One worker's ring: that worker writes, the control thread reads.
#[derive(Debug)]
struct Ring {
    words: Box<[AtomicU64]>,
    /// Packets that were ever published. Written by the worker.
    head: CachePadded<AtomicU64>,
    /// Places taken since then and not published yet, and packets that found no place. Written by the worker.
    staged: AtomicU64,
    lost: AtomicU64,
    /// Packets that were ever read. Written by the control thread.
    tail: CachePadded<AtomicU64>,
}

/// A place in the ring that its packet is being written to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot(u64);

impl Tap {
    pub(super) fn new(spec: TapSpec, workers: usize) -> Self {
        let words = spec.slots.max(1) * Self::slot_words(&spec);
        let ring = |_| Ring {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            head: CachePadded::default(),
            staged: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            tail: CachePadded::default(),
        };
        Self {
            rings: (0..workers).map(ring).collect(),
            spec,
        }
    }

    fn slot_words(spec: &TapSpec) -> usize {
        Record::WORDS + words::words_for(spec.snap)
    }

    /// Bytes of ring for each packet that waits, when so many bytes are kept of it.
    pub fn slot_bytes(snap: usize) -> usize {
        (Record::WORDS + words::words_for(snap)) * 8
    }

    /// What it shows.
    pub fn spec(&self) -> &TapSpec {
        &self.spec
    }

    /// Whether packets of that port are shown at that point at all.
    #[inline]
    pub(crate) fn looks(&self, point: Point, port: PortId) -> bool {
        self.spec.points.has(point) && self.spec.ports.has(port)
    }

    /// Whether this packet is shown.
    #[inline]
    pub(crate) fn wants(&self, headers: Option<&Headers>) -> bool {
        self.spec.filter.matches(headers)
    }

    /// Takes a place for a packet and writes its bytes, frame by frame; `None`, and one more lost, when the ring is full.
    /// Only worker number `worker` may call this, and the two functions below.
    pub(crate) fn stage<'p>(&self, worker: usize, parts: impl Iterator<Item = &'p [u8]>) -> Option<Slot> {
        let ring = &self.rings[worker];
        let staged = ring.staged.load(Ordering::Relaxed);
        let number = ring.head.load(Ordering::Relaxed) + staged;
        if number - ring.tail.load(Ordering::Acquire) >= self.spec.slots as u64 {
            ring.lost
                .store(ring.lost.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return None;
        }
        ring.staged.store(staged + 1, Ordering::Relaxed);
        words::write_parts(&self.slot(ring, number)[Record::WORDS..], self.spec.snap, parts);
        Some(Slot(number))
    }

    /// Writes what is to be told about a packet that has a place.
    pub(crate) fn tell(&self, worker: usize, slot: Slot, record: &Record) {
        record.write(self.slot(&self.rings[worker], slot.0));
    }

    /// Lets the control thread see all packets that have places. Each must have been told about.
    pub(crate) fn publish(&self, worker: usize) {
        let ring = &self.rings[worker];
        let staged = ring.staged.load(Ordering::Relaxed);
        if staged > 0 {
            ring.staged.store(0, Ordering::Relaxed);
            let head = ring.head.load(Ordering::Relaxed) + staged;
            ring.head.store(head, Ordering::Release);
        }
    }

    fn slot<'r>(&self, ring: &'r Ring, number: u64) -> &'r [AtomicU64] {
        let size = Self::slot_words(&self.spec);
        let at = (number % self.spec.slots as u64) as usize * size;
        &ring.words[at..at + size]
    }

    /// Takes packets out of a worker's ring, oldest first, until `each` says no or there is none; the one that it said no
    /// to stays. Only one thread may read a tap.
    pub fn read(&self, worker: usize, mut each: impl FnMut(&Record, &[u8]) -> bool) {
        let ring = &self.rings[worker];
        let head = ring.head.load(Ordering::Acquire);
        let mut tail = ring.tail.load(Ordering::Relaxed);
        let mut bytes = vec![0; self.spec.snap];
        while tail < head {
            let slot = self.slot(ring, tail);
            if let Some(record) = Record::read(slot) {
                let kept = self.spec.snap.min(record.len as usize);
                words::read(&slot[Record::WORDS..], &mut bytes[..kept]);
                if !each(&record, &bytes[..kept]) {
                    break;
                }
            }
            tail += 1;
            // The worker may write to the place from now on.
            ring.tail.store(tail, Ordering::Release);
        }
    }

    /// When the oldest packet in a worker's ring was seen.
    pub fn oldest(&self, worker: usize) -> Option<u64> {
        let ring = &self.rings[worker];
        let tail = ring.tail.load(Ordering::Relaxed);
        (tail < ring.head.load(Ordering::Acquire)).then(|| self.slot(ring, tail)[0].load(Ordering::Relaxed))
    }

    /// Workers that have a ring.
    pub fn workers(&self) -> usize {
        self.rings.len()
    }

    /// Packets that found a ring full, over all workers.
    pub fn lost(&self) -> u64 {
        self.rings
            .iter()
            .map(|ring| ring.lost.load(Ordering::Relaxed))
            .sum()
    }
}
