//! Quiescent-state-based reclamation: one writer publishes, workers read without waiting, memory is freed once
//! every worker has passed a burst.
//!
//! The scheme is QSBR as McKenney and Slingwine describe it (Read-Copy Update, PDCS 1998; Hart et al.,
//! "Performance of memory reclamation for lockless synchronization", JPDC 2007): a [`Domain`] has a generation
//! number. Each worker owns a [`Reader`] whose slot holds the generation that the worker saw last, or 0 while it
//! is offline. Taking memory out of use advances the generation; that memory is freed when every slot that is
//! online has reached the new number. A worker pays one load and one store a burst ([`Reader::quiescent`]) and
//! never waits; the writer never waits either ([`Domain::reclaim`] frees what is due and returns).
//!
//! ```
//! use classifier::qsbr::{Domain, Published};
//! let domain = Domain::new();
//! let table = Published::new(vec![1, 2, 3]);
//! let mut reader = domain.register();
//! {
//!     let online = reader.online();
//!     assert_eq!(table.load(&online).len(), 3);
//! }
//! table.replace(vec![4], &domain);
//! assert_eq!(domain.reclaim(), 0, "the reader may still hold the old vector");
//! reader.quiescent();
//! assert_eq!(domain.reclaim(), 1);
//! ```
// Why unsafe is needed: a published value is reached through a raw pointer that readers follow without a lock.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use sync::{Arc, AtomicPtr, AtomicU64, Mutex, Ordering, fence};

/// The primitives that the model checker replaces (`RUSTFLAGS="--cfg loom" cargo test -p classifier loom`).
mod sync {
    #[cfg(all(test, loom))]
    pub(super) use loom::sync::{
        Arc, Mutex,
        atomic::{AtomicPtr, AtomicU64, Ordering, fence},
    };
    #[cfg(not(all(test, loom)))]
    pub(super) use std::sync::{
        Arc, Mutex,
        atomic::{AtomicPtr, AtomicU64, Ordering, fence},
    };
}

/// Slot value of a reader that is offline: it holds no reference.
const OFFLINE: u64 = 0;
/// First generation. Slots of online readers are never [`OFFLINE`].
const FIRST: u64 = 1;

/// One reader's slot, on a cache line pair of its own so that workers do not disturb each other.
/// Written by its reader only, read by [`Domain`].
#[repr(align(128))]
struct Slot(AtomicU64);

type Deferred = Box<dyn FnOnce() + Send>;

struct Inner {
    /// Unique in the process; tells [`Published`] and the tables that a guard is of their domain.
    id: u64,
    /// The current generation. Written by whoever retires, read by readers.
    generation: AtomicU64,
    /// One slot for each registered reader.
    slots: Mutex<Vec<Arc<Slot>>>,
    /// What waits to be freed, with the generation that every online reader must have reached.
    retired: Mutex<VecDeque<(u64, Deferred)>>,
}

impl Drop for Inner {
    /// Readers hold the domain: the last owner frees what waited for them.
    fn drop(&mut self) {
        loop {
            let item = locked(&self.retired).pop_front();
            let Some((_, free)) = item else { return };
            free();
        }
    }
}

/// A set of readers and of the memory that they may still read. Clones are the same domain.
#[derive(Clone)]
pub struct Domain {
    inner: Arc<Inner>,
}

impl Default for Domain {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Domain")
            .field("id", &self.inner.id)
            .finish_non_exhaustive()
    }
}

/// A poisoned lock still guards consistent data here: no code that can panic runs under it.
fn locked<T>(mutex: &Mutex<T>) -> impl std::ops::DerefMut<Target = T> + '_ {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Domain {
    /// A domain without readers.
    #[must_use]
    pub fn new() -> Self {
        // A plain counter, never modelled: it only hands out names.
        static NEXT_ID: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self {
            inner: Arc::new(Inner {
                id,
                generation: AtomicU64::new(FIRST),
                slots: Mutex::new(Vec::new()),
                retired: Mutex::new(VecDeque::new()),
            }),
        }
    }

    /// Number of this domain, unique in the process and never 0.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// Adds a reader, offline at first. One for each worker; dropping it takes it out again.
    #[must_use]
    pub fn register(&self) -> Reader {
        let slot = Arc::new(Slot(AtomicU64::new(OFFLINE)));
        locked(&self.inner.slots).push(slot.clone());
        Reader {
            slot,
            domain: self.clone(),
            not_sync: PhantomData,
        }
    }

    /// Runs `free` once every reader that is online now has passed a quiescent state. What it frees must already
    /// be unreachable for readers that come later.
    pub fn retire(&self, free: Box<dyn FnOnce() + Send>) {
        // The push happens under the lock and after the increment, so the queue is in order of generation.
        let mut retired = locked(&self.inner.retired);
        retired.push_back((self.advance(), free));
    }

    /// Begins a new generation and returns its number: what was made unreachable before this call may be reused
    /// once [`passed`](Self::passed) is as great. For structures that keep a queue of their own instead of
    /// boxing a function for each block that they [`retire`](Self::retire).
    pub fn advance(&self) -> u64 {
        // AcqRel: a reader that sees the new generation also sees the unpublishing that came before.
        self.inner.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Frees what every online reader has passed and returns how many retired items that were. Never waits for a
    /// reader.
    pub fn reclaim(&self) -> usize {
        let passed = self.passed();
        let mut freed = 0;
        loop {
            // One at a time and outside the lock: what is dropped may itself retire.
            let item = {
                let mut retired = locked(&self.inner.retired);
                match retired.front() {
                    Some((due, _)) if *due <= passed => retired.pop_front(),
                    _ => None,
                }
            };
            let Some((_, free)) = item else { return freed };
            free();
            freed += 1;
        }
    }

    /// How many retired items wait to be freed.
    #[must_use]
    pub fn pending(&self) -> usize {
        locked(&self.inner.retired).len()
    }

    /// Waits, for at most `timeout`, until every reader that is online now has passed a quiescent state or gone
    /// offline, then reclaims. False when time ran out. For the control thread: a worker never calls this.
    pub fn synchronize(&self, timeout: Duration) -> bool {
        let target = self.advance();
        let deadline = Instant::now() + timeout;
        while self.passed() < target {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        self.reclaim();
        true
    }

    /// The generation that all online readers have reached.
    #[must_use]
    pub fn passed(&self) -> u64 {
        // Pairs with the fence in `Reader::online`. Either this thread's loads below see the reader's slot, or the
        // reader's loads after its fence see everything this thread has unpublished: never neither.
        fence(Ordering::SeqCst);
        let mut passed = self.inner.generation.load(Ordering::Acquire);
        for slot in locked(&self.inner.slots).iter() {
            // Acquire pairs with the Release stores in `quiescent` and `offline`: the reader's reads are over.
            let seen = slot.0.load(Ordering::Acquire);
            if seen != OFFLINE {
                passed = passed.min(seen);
            }
        }
        passed
    }
}

/// A worker's place in a [`Domain`]. It may move to another thread but is not shared between threads.
pub struct Reader {
    slot: Arc<Slot>,
    domain: Domain,
    not_sync: PhantomData<std::cell::Cell<()>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("domain", &self.domain.inner.id)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Comes online if it was offline, and gives the guard that reading needs. Nothing that was reachable since
    /// the reader came online (or since its last [`quiescent`](Self::quiescent)) is freed while it stays so.
    #[inline]
    pub fn online(&self) -> Online<'_> {
        // Relaxed: only this reader writes the slot.
        if self.slot.0.load(Ordering::Relaxed) == OFFLINE {
            self.come_online();
        }
        Online { reader: self }
    }

    #[cold]
    fn come_online(&self) {
        let now = self.domain.inner.generation.load(Ordering::Acquire);
        // Release: who sees this instead of the `OFFLINE` before it must know as well that earlier reads are over.
        self.slot.0.store(now, Ordering::Release);
        // The slot must be visible before anything is read under it. See `Domain::passed`.
        fence(Ordering::SeqCst);
    }

    /// Says that this reader holds nothing it read earlier: call it between bursts. The exclusive borrow proves
    /// that no guard lives.
    #[inline]
    pub fn quiescent(&mut self) {
        // Relaxed: only this reader writes the slot.
        if self.slot.0.load(Ordering::Relaxed) != OFFLINE {
            // Acquire: who sees generation g sees what was unpublished before g. Release: earlier reads are over.
            let now = self.domain.inner.generation.load(Ordering::Acquire);
            self.slot.0.store(now, Ordering::Release);
        }
    }

    /// Leaves until the next [`online`](Self::online): call it before sleeping, or nothing is freed meanwhile.
    pub fn offline(&mut self) {
        self.slot.0.store(OFFLINE, Ordering::Release);
    }

    /// The domain that this reader is of.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.domain
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.offline();
        locked(&self.domain.inner.slots).retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

/// Proof that a reader is online. What is loaded under it lives as long as it does.
#[derive(Clone, Copy, Debug)]
pub struct Online<'r> {
    reader: &'r Reader,
}

impl Online<'_> {
    /// [`Domain::id`] of the reader's domain.
    #[inline]
    #[must_use]
    pub fn domain_id(&self) -> u64 {
        self.reader.domain.inner.id
    }
}

/// The domain that a published structure belongs to: fixed by the first use, checked by every later one, because a
/// guard of another domain protects nothing here.
#[derive(Debug)]
struct Binding(std::sync::atomic::AtomicU64);

impl Binding {
    #[inline]
    fn check(&self, id: u64) {
        if self.0.load(std::sync::atomic::Ordering::Relaxed) != id {
            self.bind(id);
        }
    }

    #[cold]
    fn bind(&self, id: u64) {
        use std::sync::atomic::Ordering::Relaxed;
        if let Err(bound) = self.0.compare_exchange(0, id, Relaxed, Relaxed) {
            assert_eq!(bound, id, "a Published value is used with two qsbr domains");
        }
    }
}

/// A value that the writer replaces whole while readers use it.
///
/// # Panics
/// `load` and `replace` panic when they are used with different domains on one value.
pub struct Published<T> {
    current: AtomicPtr<T>,
    binding: Binding,
    owns: PhantomData<Box<T>>,
}

// SAFETY: `Published` hands out `&T` to several threads and moves `T` to the thread that reclaims, so it is as
// shareable as an `Arc<T>` is.
unsafe impl<T: Send + Sync> Sync for Published<T> {}
// SAFETY: as above; the pointer is owned.
unsafe impl<T: Send + Sync> Send for Published<T> {}

impl<T: Send + Sync + 'static> Published<T> {
    /// Publishes `value`.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self {
            current: AtomicPtr::new(Box::into_raw(Box::new(value))),
            binding: Binding(std::sync::atomic::AtomicU64::new(0)),
            owns: PhantomData,
        }
    }

    /// The current value. It lives as long as the guard, whatever the writer does.
    #[inline]
    pub fn load<'g>(&'g self, online: &'g Online<'_>) -> &'g T {
        self.binding.check(online.domain_id());
        // SAFETY: needed to follow the published pointer. It came from Box::into_raw and is freed only by `drop`
        // (excluded by the borrow of self) or through the domain, which `binding` proves to be the guard's, after
        // the reader passed a quiescent state (excluded by the borrow of the guard). Acquire pairs with the swap
        // in `replace`, so the value's bytes are visible.
        unsafe { &*self.current.load(Ordering::Acquire) }
    }

    /// Publishes `value` and retires the old one.
    pub fn replace(&self, value: T, domain: &Domain) {
        self.binding.check(domain.id());
        let old = self
            .current
            .swap(Box::into_raw(Box::new(value)), Ordering::AcqRel);
        // Not a box until it is dropped: a box claims that nobody else looks at its content, and readers still do. What
        // carries the pointer to the thread that reclaims is an atomic only because a plain one may not travel.
        let old = std::sync::atomic::AtomicPtr::new(old);
        domain.retire(Box::new(move || {
            // SAFETY: needed to free the old value. It came from Box::into_raw, and the swap took it out, so nobody else
            // frees it; the domain has waited for the readers that used it.
            drop(unsafe { Box::from_raw(old.into_inner()) });
        }));
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        let last = self.current.load(Ordering::Acquire);
        // SAFETY: needed to free the last value. It came from Box::into_raw, and `&mut self` proves that no
        // reader borrows it.
        drop(unsafe { Box::from_raw(last) });
    }
}

impl<T> std::fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Published")
            .field("domain", &self.binding.0)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
