//! How a worker falls asleep without missing what another thread hands over at that moment.
//!
//! The two sides write one thing each and then read the other's: the worker says that it sleeps and looks for work, the
//! other one makes work and looks whether the worker sleeps. With a sequentially consistent fence between write and read
//! on both sides at least one of them sees the other. The tests compile this file a second time, against the atomics of a
//! model checker, which goes through every order of the steps.

use super::sync::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
    fence,
};

/// Whether a worker sleeps, or is about to.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// Written by the worker before it looks for work a last time, read by others after they have made some.
    sleeping: AtomicBool,
}

impl Handshake {
    pub(crate) fn new() -> Self {
        Self {
            sleeping: AtomicBool::new(false),
        }
    }

    /// For the worker, before it looks for work a last time.
    #[inline]
    pub(crate) fn prepare(&self) {
        self.sleeping.store(true, Relaxed);
        fence(SeqCst);
    }

    /// For the worker, when that found work, or after sleeping.
    #[inline]
    pub(crate) fn resume(&self) {
        self.sleeping.store(false, Relaxed);
    }

    /// For any other thread, after it has made work: whether the worker must be woken.
    #[inline]
    pub(crate) fn must_ring(&self) -> bool {
        fence(SeqCst);
        self.sleeping.load(Relaxed)
    }
}
