//! The hand-over between workers under a model checker: every order in which the steps of two workers can happen, with
//! every value that a weakly ordered memory may show.
//!
//! The ring itself is crossbeam's and tested there; here it is a slot array with the same guarantees (a packet is visible
//! to whoever sees the position behind it). What is ours is checked: the wake-up, and that a packet is taken once, in order.

use std::collections::VecDeque;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use loom::sync::{Arc, Notify};

/// The primitives that [`handshake`] finds here: the model checker's.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

/// The worker's own [`super::handshake`], once more: the same text against other atomics is the point.
#[allow(clippy::duplicate_mod)]
#[path = "handshake.rs"]
mod handshake;

use handshake::Handshake;

/// Room on the ring: smaller than what is sent, so that a full ring is part of the model.
const ROOM: usize = 2;

/// A ring with one producer and one consumer.
struct Ring {
    slots: [UnsafeCell<u32>; ROOM],
    head: AtomicUsize,
    tail: AtomicUsize,
}

// SAFETY: a slot is written only while it is not between head and tail, and read only while it is; the model checker
// fails the test when two threads touch it at once.
unsafe impl Sync for Ring {}
// SAFETY: numbers in cells.
unsafe impl Send for Ring {}

impl Ring {
    fn new() -> Self {
        Self {
            slots: [(); ROOM].map(|()| UnsafeCell::new(0)),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
        }
    }

    fn push(&self, packet: u32) -> Result<(), u32> {
        let tail = self.tail.load(Relaxed);
        if tail - self.head.load(Acquire) == ROOM {
            return Err(packet);
        }
        // SAFETY: the slot is free: the consumer has passed it, which the acquiring load has seen.
        self.slots[tail % ROOM].with_mut(|slot| unsafe { *slot = packet });
        self.tail.store(tail + 1, Release);
        Ok(())
    }

    fn pop(&self) -> Option<u32> {
        let head = self.head.load(Relaxed);
        if self.tail.load(Acquire) == head {
            return None;
        }
        // SAFETY: the slot is filled, which the acquiring load has seen, and the producer leaves it alone until `head` passes it.
        let packet = self.slots[head % ROOM].with(|slot| unsafe { *slot });
        self.head.store(head + 1, Release);
        Some(packet)
    }

    fn is_empty(&self) -> bool {
        self.tail.load(Acquire) == self.head.load(Relaxed)
    }
}

struct Side {
    ring: Ring,
    handshake: Handshake,
    /// The event descriptor: a ring before the sleep is not forgotten.
    event: Notify,
}

/// One worker hands over, dropping what finds the ring full as the data path does; the other one sleeps whenever it finds nothing. A
/// lost wake-up would leave it asleep for ever, which the model checker reports.
#[test]
fn no_handed_over_packet_is_slept_through() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let side = Arc::new(Side {
            ring: Ring::new(),
            handshake: Handshake::new(),
            event: Notify::new(),
        });
        let theirs = side.clone();
        let sender = loom::thread::spawn(move || {
            let mut accepted = VecDeque::new();
            for packet in [1, 2] {
                if theirs.ring.push(packet).is_ok() {
                    accepted.push_back(packet);
                }
                if theirs.handshake.must_ring() {
                    theirs.event.notify();
                }
            }
            accepted
        });
        let mut taken = VecDeque::new();
        while taken.len() < 2 {
            while let Some(packet) = side.ring.pop() {
                taken.push_back(packet);
            }
            if taken.len() == 2 {
                break;
            }
            side.handshake.prepare();
            if side.ring.is_empty() {
                side.event.wait();
            }
            side.handshake.resume();
        }
        let accepted = sender.join().expect("the sender ends");
        assert_eq!(taken, accepted, "each packet once, in order");
    });
}
