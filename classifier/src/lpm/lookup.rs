//! The readers' side: what bursts of look-ups in an image share.
//!
//! A burst goes through the image in stages, one level a stage: first every address's table word is read and the piece
//! that it refers to prefetched, then every piece is read. The misses of a stage overlap, and no address waits for
//! another's (the idea of staged look-ups is as old as DIR-24-8's bulk calls; Gupta, Lin, McKeown, "Routing lookups in
//! hardware at memory access speeds", INFOCOM 1998, for the direct table itself).
// Why unsafe is needed: look-ups follow word numbers from the image without bounds checks.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Acquire};

use super::arena::Arena;
use super::shape::Shape;
use super::way::Way;
use super::{BURST, Value};
use crate::qsbr::{Online, Published};

/// An image that can be looked up in.
pub(super) trait Lookup<A>: Send + Sync {
    /// `out[i]` becomes the answer for `keys[i]`. Lengths are equal and at most [`BURST`]; `way` is available.
    fn burst(&self, online: &Online<'_>, way: Way, keys: &[A], out: &mut [Value]);
    /// The way that is fastest here.
    fn best(&self) -> Way;
}

/// What the writer of a compressed image shares with its readers.
pub(super) struct Shared {
    pub(super) arena: Published<Arc<Arena>>,
}

/// Readers of compressed images.
pub(super) struct Reader(pub(super) Arc<Shared>);

impl<A: Shape> Lookup<A> for Reader {
    fn burst(&self, online: &Online<'_>, way: Way, keys: &[A], out: &mut [Value]) {
        // SAFETY: needed to look up without bounds checks: the arena is an image of this family (`Compressed<A>` made
        // the reader) that the guard keeps with all its pieces, and callers only pass ways that are available.
        unsafe { A::look_up(self.0.arena.load(online), way, keys, out) }
    }

    fn best(&self) -> Way {
        A::best()
    }
}

/// Checks what `Shape::look_up` says about lengths.
#[inline(always)]
pub(super) fn check<A>(keys: &[A], out: &[Value]) {
    assert!(
        keys.len() <= BURST && keys.len() == out.len(),
        "{} keys, {} places for answers, and a burst is {BURST}",
        keys.len(),
        out.len()
    );
}

/// A word of an image.
///
/// # Safety
/// `base` is an arena's, and `word` inside it.
#[inline(always)]
pub(super) unsafe fn load(base: *const u32, word: usize) -> u32 {
    // SAFETY: as the caller promises. Table words change while they are read, hence atomic; Acquire (a plain load on
    // x86) because what the word refers to was written before it.
    unsafe { (*base.add(word).cast::<AtomicU32>()).load(Acquire) }
}

/// Asks for the line at `word`; a wrong address does no harm.
#[inline(always)]
pub(super) fn prefetch(base: *const u32, word: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: needed because it is an intrinsic; SSE is part of x86-64, and a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(base.wrapping_add(word).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (base, word);
}
