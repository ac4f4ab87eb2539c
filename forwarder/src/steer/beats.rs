//! The workers' heartbeats: a counter each, which the worker raises every round and the steering program reads.
//!
//! A stalled worker is worse than a dead one: its sockets stay bound, and everything that is given to them is lost.
//! The program notices when frames come and the counter stands still, and treats the queue as one without a socket.

// Why unsafe is needed: the counters are memory shared with the kernel, which mmap(2) gives as a plain pointer.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many workers there may be: as `MAX_WORKERS` in the program.
pub(crate) const MAX_WORKERS: usize = 256;

/// As `struct beat` in the program: a cache line a worker, so that no worker's store disturbs another.
#[repr(C, align(64))]
struct Line {
    /// Written by its worker only; read by the steering program.
    rounds: AtomicU64,
    /// The round in which the steering program has found the worker stalled, which it alone writes; 0 when it never did.
    stalled: AtomicU64,
}

const BYTES: usize = MAX_WORKERS * size_of::<Line>();

/// The mapped counters of all workers.
#[derive(Debug)]
struct Mapping(NonNull<Line>);

// SAFETY: the memory is only ever used through atomics, and is mapped until the last owner is gone.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: i32, flags: i32) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self(at))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what was mapped in `new`, once; nobody can hold a reference into it beyond this owner.
        unsafe { libc::munmap(self.0.as_ptr().cast(), BYTES) };
    }
}

/// The counters of all workers.
#[derive(Debug, Clone)]
pub(crate) struct Beats(Arc<Mapping>);

impl Beats {
    /// Maps the program's map `beats`, which must be mmapable and have [`MAX_WORKERS`] entries of a cache line.
    pub(crate) fn map(map: BorrowedFd<'_>) -> io::Result<Self> {
        Mapping::new(map.as_raw_fd(), libc::MAP_SHARED).map(|mapping| Self(Arc::new(mapping)))
    }

    /// Counters that no program reads.
    #[cfg(test)]
    pub(crate) fn in_memory() -> io::Result<Self> {
        Mapping::new(-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).map(|mapping| Self(Arc::new(mapping)))
    }

    /// The counter of one worker, which alone may use it.
    pub(crate) fn of(&self, worker: usize) -> Beat {
        assert!(worker < MAX_WORKERS);
        Beat {
            mapping: self.0.clone(),
            worker,
        }
    }
}

/// The counter of one worker.
#[derive(Debug)]
pub(crate) struct Beat {
    mapping: Arc<Mapping>,
    worker: usize,
}

impl Beat {
    fn line(&self) -> &Line {
        // SAFETY: inside the mapping, which has `MAX_WORKERS` lines and lives as long as `self`; aligned, as mappings
        // begin at a page.
        unsafe { self.mapping.0.add(self.worker).as_ref() }
    }

    /// Whether the steering program has given the worker up in the round that is about to end: what is on its RX rings
    /// has been there for too long. Frames that come now go elsewhere until [`beat`](Self::beat).
    #[inline]
    pub(crate) fn was_given_up(&self) -> bool {
        let line = self.line();
        let round = line.rounds.load(Relaxed);
        round != 0 && line.stalled.load(Relaxed) == round
    }

    /// Says that the worker has gone through one more round.
    #[inline]
    pub(crate) fn beat(&self) {
        let line = self.line();
        line.rounds
            .store(line.rounds.load(Relaxed).wrapping_add(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_a_line_of_its_own() {
        let beats = Beats::in_memory().unwrap();
        let (first, last) = (beats.of(0), beats.of(MAX_WORKERS - 1));
        first.beat();
        first.beat();
        last.beat();
        let rounds = |worker: usize| {
            // SAFETY: as in `Beat::beat`.
            unsafe { beats.0.0.add(worker).as_ref() }.rounds.load(Relaxed)
        };
        assert_eq!((rounds(0), rounds(1), rounds(MAX_WORKERS - 1)), (2, 0, 1));
        first.line().stalled.store(2, Relaxed);
        assert!(first.was_given_up() && !last.was_given_up());
        first.beat();
        assert!(!first.was_given_up(), "it is back");
        assert_eq!(BYTES % 4096, 0, "the map's memory is whole pages");
    }
}
