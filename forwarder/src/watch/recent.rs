//! The last dropped packets of one worker, always kept.
//!
//! The ring has one writer and any number of readers. Each entry carries a number that is odd while it is being written
//! and even when it is whole (a sequence lock, as in `include/linux/seqlock.h`): a reader that meets an odd number, or
//! another number after reading than before, has met an entry that was being overwritten and leaves it out.

use std::sync::atomic::{AtomicU64, Ordering};

use super::record::{Decided, reason_of};
use super::words;
use crate::reason::Reason;
use crate::settings::PortId;

/// Dropped packets that each worker keeps.
pub const KEPT: usize = 4096;
/// Bytes that are kept of each.
pub const KEPT_BYTES: usize = 128;

const DATA: usize = words::words_for(KEPT_BYTES);

/// 160 bytes, written in order: the processor's prefetcher is ahead of the writer.
#[derive(Debug, Default)]
struct Entry {
    /// Twice the entry's number plus two when it is whole, one less while it is being written; 0 for never.
    version: AtomicU64,
    /// Nanoseconds since the data plane's start.
    time: AtomicU64,
    /// Length, port and reason.
    about: AtomicU64,
    /// The rule that decided.
    rule: AtomicU64,
    data: [AtomicU64; DATA],
}

/// A dropped packet as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedPacket {
    /// Nanoseconds since the data plane's start, by the worker's clock.
    pub time: u64,
    /// The port that it came in through.
    pub port: PortId,
    /// Why it was dropped.
    pub reason: Reason,
    /// The rule that decided, where an access list did.
    pub rule: Option<Decided>,
    /// Bytes of the frame.
    pub len: u32,
    /// The first [`KEPT_BYTES`] of them.
    pub data: Vec<u8>,
}

/// The ring.
#[derive(Debug)]
pub struct Recent {
    entries: Box<[Entry]>,
    /// Packets that were ever written.
    written: AtomicU64,
}

impl Default for Recent {
    fn default() -> Self {
        Self::new()
    }
}

impl Recent {
    /// An empty ring.
    pub fn new() -> Self {
        Self {
            entries: (0..KEPT).map(|_| Entry::default()).collect(),
            written: AtomicU64::new(0),
        }
    }

    /// Keeps a dropped packet, in place of the oldest one. Only the ring's worker may call this.
    #[inline]
    pub fn keep(&self, time: u64, port: PortId, reason: Reason, rule: Decided, len: u32, bytes: &[u8]) {
        let number = self.written.load(Ordering::Relaxed);
        let entry = &self.entries[number as usize % KEPT];
        entry.version.store(number * 2 + 1, Ordering::Relaxed);
        // Whoever sees a word of the new entry sees the odd version, too.
        std::sync::atomic::fence(Ordering::Release);
        entry.time.store(time, Ordering::Relaxed);
        let about = u64::from(len) | u64::from(port.0) << 32 | (reason as u64) << 48;
        entry.about.store(about, Ordering::Relaxed);
        entry.rule.store(rule.to_word(), Ordering::Relaxed);
        words::write(&entry.data, &bytes[..bytes.len().min(KEPT_BYTES)]);
        entry.version.store(number * 2 + 2, Ordering::Release);
        self.written.store(number + 1, Ordering::Release);
    }

    /// Packets that were ever kept.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Appends the last `most` packets, oldest first, and returns how many were being overwritten while they were read.
    pub fn last(&self, most: usize, out: &mut Vec<DroppedPacket>) -> usize {
        let end = self.written();
        let begin = end.saturating_sub(most.min(KEPT) as u64);
        let mut torn = 0;
        for number in begin..end {
            match self.read(number) {
                Some(packet) => out.push(packet),
                None => torn += 1,
            }
        }
        torn
    }

    /// The packet of that number, unless it was overwritten before or while it was read.
    fn read(&self, number: u64) -> Option<DroppedPacket> {
        let entry = &self.entries[number as usize % KEPT];
        let whole = number * 2 + 2;
        if entry.version.load(Ordering::Acquire) != whole {
            return None;
        }
        let time = entry.time.load(Ordering::Relaxed);
        let about = entry.about.load(Ordering::Relaxed);
        let rule = entry.rule.load(Ordering::Relaxed);
        let mut data = [0; KEPT_BYTES];
        words::read(&entry.data, &mut data);
        // The words were read before the version is looked at again.
        std::sync::atomic::fence(Ordering::Acquire);
        if entry.version.load(Ordering::Relaxed) != whole {
            return None;
        }
        let len = about as u32;
        Some(DroppedPacket {
            time,
            port: PortId((about >> 32) as u16),
            reason: reason_of((about >> 48) as u8)?,
            rule: Decided::from_word(rule),
            len,
            data: data[..(len as usize).min(KEPT_BYTES)].to_vec(),
        })
    }
}
