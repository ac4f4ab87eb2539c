//! Access lists in use: a compiled list and the counters of its rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use classifier::acl::{Image, Match};

use crate::counters::Counter;

/// Packets and bytes that one rule, or the default, decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleCount {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// The counter of one rule and worker.
#[derive(Debug, Default)]
struct Row {
    packets: Counter,
    bytes: Counter,
}

/// Rows of one worker. Aligned so that two workers never write to the same pair of cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Rows(Box<[Row]>);

/// A compiled list with counters of its own. Ports that share an instance share its counters.
#[derive(Debug)]
pub struct Instance {
    image: Arc<Image>,
    /// Tells this instance from all others of the process, from 1.
    serial: u32,
    /// Per worker: a row for each rule, then one for the default.
    workers: Box<[Rows]>,
}

impl Instance {
    /// Counters for so many workers, all zero.
    pub fn new(image: Arc<Image>, workers: usize) -> Self {
        // The padding row keeps the heap blocks of two workers apart: a block may begin on another one's last line.
        let rows = image.rules() + 1;
        let blank = |_| {
            Rows(
                (0..rows + 128 / size_of::<Row>())
                    .map(|_| Row::default())
                    .collect(),
            )
        };
        static SERIALS: AtomicU32 = AtomicU32::new(1);
        Self {
            image,
            serial: SERIALS.fetch_add(1, Ordering::Relaxed),
            workers: (0..workers).map(blank).collect(),
        }
    }

    /// The compiled list.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// The number by which workers name the list that decided about a packet; none is 0.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// What each rule decided, added up over the workers; the last element is the default.
    pub fn counters(&self) -> Vec<RuleCount> {
        (0..=self.image.rules()).map(|rule| self.counter(rule)).collect()
    }

    /// What one rule decided, added up over the workers; the rule behind the last one is the default.
    pub fn counter(&self, rule: usize) -> RuleCount {
        let rows = self.workers.iter().filter_map(|rows| rows.0.get(rule));
        rows.fold(RuleCount::default(), |sum, row| RuleCount {
            packets: sum.packets + row.packets.get(),
            bytes: sum.bytes + row.bytes.get(),
        })
    }

    /// Counts a packet of `len` bytes that this list decided. Only worker number `worker` may call it.
    #[inline]
    pub(crate) fn count(&self, worker: usize, decision: Match, len: usize) {
        let default = self.image.rules();
        let row = usize::try_from(decision.rule).unwrap_or(default).min(default);
        if let Some(row) = self.workers.get(worker).and_then(|rows| rows.0.get(row)) {
            row.packets.add(1);
            row.bytes.add(len as u64);
        }
    }
}
