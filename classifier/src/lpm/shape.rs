//! How the default engine cuts the addresses of a family.
// Why unsafe is needed: the look-ups' conditions cannot be told by types.
#![allow(unsafe_code)]

use super::arena::Arena;
use super::image::Image;
use super::image4::Image4;
use super::image6::Image6;
use super::way::Way;
use super::{Addr, Value, lookup4, lookup6};

/// A family as the default engine sees it.
pub(super) trait Shape: Addr {
    /// The image of this family.
    type Image: Image<Self>;
    /// Words that an image may take. The memory is only taken as it is used.
    const WORDS: usize;
    /// `bits` > 0 bits of the address behind the first `depth`.
    fn bits_at(self, depth: u8, bits: u8) -> u32;
    /// The address with these bits in that place, added to `self`.
    #[must_use]
    fn with_bits(self, depth: u8, bits: u8, index: u32) -> Self;
    /// The way that is fastest on this processor.
    fn best() -> Way;
    /// `out[i]` becomes the answer for `keys[i]`. Neither a guard nor a writer is needed: whoever calls keeps the arena.
    ///
    /// # Panics
    /// When lengths differ or are above [`BURST`](super::BURST).
    ///
    /// # Safety
    /// The arena holds an image of this family, whose pieces stay as long as this call takes; `way` is available.
    unsafe fn look_up(arena: &Arena, way: Way, keys: &[Self], out: &mut [Value]);
}

impl Shape for u32 {
    type Image = Image4;
    // 128 MiB: a full leaf for each of the root's words takes 53 MiB, the rest is for what is longer than /24.
    const WORDS: usize = 1 << 25;

    #[inline(always)]
    fn bits_at(self, depth: u8, bits: u8) -> u32 {
        self << depth >> (32 - bits)
    }

    #[inline(always)]
    fn with_bits(self, depth: u8, bits: u8, index: u32) -> Self {
        self | index << (32 - depth - bits)
    }

    fn best() -> Way {
        Way::best_v4()
    }

    #[inline]
    unsafe fn look_up(arena: &Arena, way: Way, keys: &[Self], out: &mut [Value]) {
        // SAFETY: as the caller promises.
        unsafe { lookup4::burst(arena, way, keys, out) }
    }
}

impl Shape for u128 {
    type Image = Image6;
    // 256 MiB: what 22 bits of lines can refer to.
    const WORDS: usize = 1 << 26;

    #[inline(always)]
    fn bits_at(self, depth: u8, bits: u8) -> u32 {
        (self << depth >> (128 - bits)) as u32
    }

    #[inline(always)]
    fn with_bits(self, depth: u8, bits: u8, index: u32) -> Self {
        self | u128::from(index) << (128 - depth - bits)
    }

    fn best() -> Way {
        Way::best_v6()
    }

    #[inline]
    unsafe fn look_up(arena: &Arena, way: Way, keys: &[Self], out: &mut [Value]) {
        // SAFETY: as the caller promises.
        unsafe { lookup6::burst(arena, way, keys, out) }
    }
}
