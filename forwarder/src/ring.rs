//! The four rings that an AF_XDP socket shares with the kernel (`include/uapi/linux/if_xdp.h`, `net/xdp/xsk_queue.h`).
//!
//! Each ring has one producer and one consumer, of which one is the kernel. The producer's and the consumer's index run
//! freely modulo 2³²; an entry is at its index modulo the ring's size, a power of two. The producer publishes entries
//! by storing its index with release order, the consumer gives room back the same way.
//!
//! The indices live in memory that the kernel shares. The tests wire a producer to a consumer in plain memory.

// Why unsafe is needed: the rings are memory mapped from a socket and written by the kernel at the same time.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// An entry of RX and TX rings: `struct xdp_desc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Desc {
    /// Where the packet starts, in bytes from the start of the UMEM.
    pub(crate) addr: u64,
    /// Its length in bytes.
    pub(crate) len: u32,
    /// `XDP_PKT_CONTD`: the packet goes on in the next entry. `XDP_TX_METADATA` is not used here.
    pub(crate) options: u32,
}

impl Desc {
    /// Whether the packet goes on in the next entry.
    #[inline]
    pub(crate) fn goes_on(&self) -> bool {
        self.options & libc::XDP_PKT_CONTD != 0
    }
}

/// Entries that the kernel exchanges with us: plain numbers, valid with any bits.
///
/// # Safety
/// Every bit pattern must be a valid value: the other side may write anything.
pub(crate) unsafe trait Entry: Copy + 'static {}
// SAFETY: any 64 bits are a u64.
unsafe impl Entry for u64 {}
// SAFETY: three integers without padding.
unsafe impl Entry for Desc {}

/// `XDP_RING_NEED_WAKEUP`: the kernel goes on only when it is woken.
const NEED_WAKEUP: u32 = 1;

/// Where a ring's parts lie. The memory lives at least as long as `memory` is held.
pub(crate) struct Parts {
    pub(crate) producer: *mut u32,
    pub(crate) consumer: *mut u32,
    pub(crate) flags: *mut u32,
    pub(crate) entries: *mut u8,
    /// Entries of the ring: a power of two.
    pub(crate) size: u32,
    /// Keeps the memory mapped.
    pub(crate) memory: Arc<dyn Send + Sync>,
}

struct Shared<T> {
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    flags: *const AtomicU32,
    entries: *mut T,
    mask: u32,
    _memory: Arc<dyn Send + Sync>,
    _entries: PhantomData<T>,
}

impl<T: Entry> Shared<T> {
    /// # Safety
    /// The pointers must be aligned for their types and valid while `memory` lives, `entries` for `size` entries.
    unsafe fn new(parts: Parts) -> Self {
        assert!(parts.size.is_power_of_two());
        Self {
            producer: parts.producer.cast(),
            consumer: parts.consumer.cast(),
            flags: parts.flags.cast(),
            entries: parts.entries.cast(),
            mask: parts.size - 1,
            _memory: parts.memory,
            _entries: PhantomData,
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: valid while `_memory` lives (`new`); the other side only ever accesses it atomically.
        unsafe { &*self.producer }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as `producer`.
        unsafe { &*self.consumer }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as `producer`.
        unsafe { &*self.flags }.load(Relaxed) & NEED_WAKEUP != 0
    }

    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: the masked index is below the ring's size, for which `entries` is valid (`new`).
        unsafe { self.entries.add((index & self.mask) as usize) }
    }
}

// SAFETY: the pointers are to shared memory that any thread may access; there is one handle of each side.
unsafe impl<T: Entry> Send for Shared<T> {}

/// Our end of a ring that we fill: fill rings and TX rings.
pub(crate) struct Producer<T> {
    ring: Shared<T>,
    /// The next entry to write.
    next: u32,
    /// What the other side is known to have consumed.
    consumed: u32,
}

impl<T: Entry> Producer<T> {
    /// # Safety
    /// As the fields of [`Parts`] say; nobody else may produce into this ring.
    pub(crate) unsafe fn new(parts: Parts) -> Self {
        // SAFETY: the same contract.
        let ring = unsafe { Shared::new(parts) };
        let next = ring.producer().load(Relaxed);
        let consumed = ring.consumer().load(Acquire);
        Self { ring, next, consumed }
    }

    /// Room for so many entries, or at least `want` if there is as much: the other side is asked only when what is
    /// known does not do.
    #[inline]
    pub(crate) fn room(&mut self, want: u32) -> u32 {
        let size = self.ring.mask + 1;
        let known = size - self.next.wrapping_sub(self.consumed);
        if known >= want {
            return known;
        }
        self.consumed = self.consumer_checked();
        size - self.next.wrapping_sub(self.consumed)
    }

    /// Entries that the other side has not consumed yet, published or not.
    #[inline]
    pub(crate) fn outstanding(&mut self) -> u32 {
        self.consumed = self.consumer_checked();
        self.next.wrapping_sub(self.consumed)
    }

    /// The consumer's index, or the last sane one should the shared memory hold nonsense.
    fn consumer_checked(&self) -> u32 {
        // Acquire: the other side has read an entry before we write over it.
        let consumed = self.ring.consumer().load(Acquire);
        if self.next.wrapping_sub(consumed) > self.ring.mask + 1 {
            self.consumed
        } else {
            consumed
        }
    }

    /// Writes one entry, to be seen with the next [`publish`](Self::publish). False when the ring is full.
    #[inline]
    pub(crate) fn push(&mut self, entry: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: inside the ring (`entry`), and the consumer is past it: `room` says so.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows all written entries to the other side.
    #[inline]
    pub(crate) fn publish(&mut self) {
        // Release: the entries are written before the index says so.
        self.ring.producer().store(self.next, Release);
    }

    /// Whether the kernel must be woken to go on with this ring.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// Our end of a ring that the kernel fills: RX rings and completion rings.
pub(crate) struct Consumer<T> {
    ring: Shared<T>,
    /// The next entry to read.
    next: u32,
    /// What the other side is known to have produced.
    produced: u32,
}

impl<T: Entry> Consumer<T> {
    /// # Safety
    /// As the fields of [`Parts`] say; nobody else may consume from this ring.
    pub(crate) unsafe fn new(parts: Parts) -> Self {
        // SAFETY: the same contract.
        let ring = unsafe { Shared::new(parts) };
        let next = ring.consumer().load(Relaxed);
        Self {
            ring,
            next,
            produced: next,
        }
    }

    /// Entries to read, at most `most`.
    #[inline]
    pub(crate) fn available(&mut self, most: u32) -> u32 {
        let mut known = self.produced.wrapping_sub(self.next);
        if known == 0 {
            // Acquire: the entries are there once the index says so.
            let produced = self.ring.producer().load(Acquire);
            // Nonsense in the shared memory is nothing to read.
            if produced.wrapping_sub(self.next) <= self.ring.mask + 1 {
                self.produced = produced;
            }
            known = self.produced.wrapping_sub(self.next);
        }
        known.min(most)
    }

    /// Reads one entry; its room is given back with the next [`release`](Self::release).
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.available(1) == 0 {
            return None;
        }
        // SAFETY: inside the ring (`entry`) and published: `available` says so. Any bits are a value of T.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the room of all entries read back to the other side.
    #[inline]
    pub(crate) fn release(&mut self) {
        // Release: the entries are read before the index says so.
        self.ring.consumer().store(self.next, Release);
    }
}

/// Rings in plain memory, for tests: both ends are ours.
#[cfg(test)]
pub(crate) mod plain {
    use std::cell::UnsafeCell;

    use super::*;

    /// Memory of a ring: producer, consumer, flags, a word of padding, entries.
    struct Block(Box<[UnsafeCell<u64>]>);
    // SAFETY: accessed through the rings' protocol only.
    unsafe impl Sync for Block {}
    // SAFETY: plain memory.
    unsafe impl Send for Block {}

    /// Sets or clears the flag that the kernel sets.
    #[derive(Clone)]
    pub(crate) struct Flags(Arc<Block>);

    impl Flags {
        pub(crate) fn need_wakeup(&self, needed: bool) {
            // SAFETY: the third word is the flags', and is accessed atomically by all.
            let flags = unsafe { &*self.0.0[2].get().cast::<AtomicU32>() };
            flags.store(if needed { NEED_WAKEUP } else { 0 }, Relaxed);
        }
    }

    /// Two ends of one ring, whose indices start at `start`.
    pub(crate) fn ring<T: Entry>(size: u32, start: u32) -> (Producer<T>, Consumer<T>, Flags) {
        let words = 4 + size as usize * size_of::<T>().div_ceil(8);
        let block = Arc::new(Block((0..words).map(|_| UnsafeCell::new(0)).collect()));
        let word = |i: usize| block.0[i].get().cast::<u32>();
        // SAFETY: nobody else has the block yet.
        unsafe {
            word(0).write(start);
            word(1).write(start);
        }
        let base: *mut u8 = block.0.as_ptr().cast_mut().cast();
        let parts = || Parts {
            producer: word(0),
            consumer: word(1),
            flags: word(2),
            // SAFETY: four words into a block of more.
            entries: unsafe { base.add(32) },
            size,
            memory: block.clone(),
        };
        // SAFETY: all parts lie in the block, aligned to 8 bytes; one producer and one consumer.
        unsafe {
            (
                Producer::new(parts()),
                Consumer::new(parts()),
                Flags(block.clone()),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_in_order_and_only_when_published() {
        // The indices wrap around during the test.
        let (mut tx, mut rx, _) = plain::ring::<u64>(8, u32::MAX - 3);
        for round in 0..100u64 {
            for i in 0..8 {
                assert!(tx.push(round * 8 + i));
            }
            assert!(!tx.push(0), "a full ring takes nothing");
            assert_eq!(rx.pop(), None, "not published yet");
            tx.publish();
            assert_eq!(tx.outstanding(), 8);
            assert_eq!(rx.available(64), 8);
            for i in 0..8 {
                assert_eq!(rx.pop(), Some(round * 8 + i));
            }
            assert_eq!(rx.pop(), None);
            assert_eq!(tx.room(1), 0, "room comes back with release only");
            rx.release();
            assert_eq!(tx.room(8), 8);
            assert_eq!(tx.outstanding(), 0);
        }
    }

    #[test]
    fn descriptors_cross_threads_unchanged() {
        let (mut tx, mut rx, _) = plain::ring::<Desc>(64, u32::MAX - 100);
        let count = if cfg!(miri) { 300 } else { 200_000 };
        let sender = std::thread::spawn(move || {
            for i in 0..count {
                let desc = Desc {
                    addr: i * 4096,
                    len: i as u32,
                    options: 0,
                };
                while !tx.push(desc) {
                    std::thread::yield_now();
                }
                tx.publish();
            }
        });
        for i in 0..count {
            let desc = loop {
                if let Some(desc) = rx.pop() {
                    break desc;
                }
                std::thread::yield_now();
            };
            assert_eq!(
                desc,
                Desc {
                    addr: i * 4096,
                    len: i as u32,
                    options: 0
                }
            );
            rx.release();
        }
        sender.join().unwrap();
    }

    #[test]
    fn the_kernel_asks_to_be_woken() {
        let (tx, _rx, flags) = plain::ring::<u64>(2, 0);
        assert!(!tx.needs_wakeup());
        flags.need_wakeup(true);
        assert!(tx.needs_wakeup());
    }
}
