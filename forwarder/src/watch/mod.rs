//! Watching packets from inside the data path: the last dropped ones, and those that somebody asked to see.
//!
//! Each worker keeps its last dropped packets in a ring of its own, always ([`Recent`]). A [`Tap`] is set by the control
//! thread and shows packets at chosen points of their way, through a bounded ring of each worker; what does not fit is
//! counted and is the watcher's loss, never the packet's. Without a tap a burst asks once whether there is one.

mod recent;
mod record;
mod tap;
#[cfg(test)]
mod tests;
mod words;

use std::sync::{Arc, Mutex, PoisonError};

use classifier::qsbr::{Domain, Online, Published};
use crossbeam::utils::CachePadded;

pub use recent::{DroppedPacket, KEPT, KEPT_BYTES, Recent};
pub use record::{Decided, End, LinkState, Point, Points, Record, Way};
pub(crate) use tap::Slot;
pub use tap::{PortSet, Tap, TapSpec};

/// Most taps at a time.
pub const MAX_TAPS: usize = 8;

/// What all workers show.
#[derive(Debug)]
pub struct Watch {
    recent: Box<[CachePadded<Recent>]>,
    taps: Published<Vec<Arc<Tap>>>,
    /// The taps as the control thread set them last; workers never take this lock.
    taps_now: Mutex<Vec<Arc<Tap>>>,
}

impl Watch {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            recent: (0..workers).map(|_| CachePadded::new(Recent::new())).collect(),
            taps: Published::new(Vec::new()),
            taps_now: Mutex::new(Vec::new()),
        }
    }

    /// The last dropped packets of a worker.
    pub fn recent(&self, worker: usize) -> &Recent {
        &self.recent[worker]
    }

    /// The last dropped packets of each worker.
    pub fn workers(&self) -> impl Iterator<Item = &Recent> {
        self.recent.iter().map(|recent| &**recent)
    }

    /// The taps that are set, for one burst.
    #[inline]
    pub(crate) fn taps<'g>(&'g self, online: &'g Online<'_>) -> &'g [Arc<Tap>] {
        self.taps.load(online)
    }

    /// Sets a tap; workers see it at their next burst. `None` when there are [`MAX_TAPS`] already.
    pub fn set(&self, spec: TapSpec, domain: &Domain) -> Option<Arc<Tap>> {
        let mut taps = self.taps_now.lock().unwrap_or_else(PoisonError::into_inner);
        if taps.len() >= MAX_TAPS {
            return None;
        }
        let tap = Arc::new(Tap::new(spec, self.recent.len()));
        taps.push(Arc::clone(&tap));
        self.taps.replace(taps.clone(), domain);
        Some(tap)
    }

    /// Takes a tap away. Workers may write to it until their next burst; its memory goes when they have passed one.
    pub fn unset(&self, tap: &Arc<Tap>, domain: &Domain) {
        let mut taps = self.taps_now.lock().unwrap_or_else(PoisonError::into_inner);
        taps.retain(|other| !Arc::ptr_eq(other, tap));
        self.taps.replace(taps.clone(), domain);
    }
}
