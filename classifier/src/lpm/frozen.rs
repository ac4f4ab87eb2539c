//! A table that never changes: the default engine's image without a writer, so that no guard is needed to read it.
// Why unsafe is needed: look-ups follow word numbers in the image without bounds checks.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::atomic::Ordering::Relaxed;

use super::arena::Arena;
use super::image::Image;
use super::shape::Shape;
use super::{LpmError, MAX_VALUE, Value, Way};

/// Addresses to values, built once.
pub(crate) struct Frozen<A> {
    arena: Arena,
    way: Way,
    family: PhantomData<A>,
}

// The two families are all that there is: how they are cut stays inside.
#[allow(private_bounds)]
impl<A: Shape> Frozen<A> {
    /// Takes first addresses of stretches, each with its value, in order from address 0 on; neighbours differ.
    ///
    /// # Errors
    /// [`LpmError::Value`] and [`LpmError::Memory`].
    pub(crate) fn build(runs: &[(A, Value)]) -> Result<Self, LpmError> {
        if let Some((_, value)) = runs.iter().find(|(_, value)| *value > MAX_VALUE) {
            return Err(LpmError::Value(*value));
        }
        let mut image = A::Image::new(A::WORDS)?;
        image.build(runs)?;
        let image = image.store();
        // The arena has room to grow, which this table will not do.
        let used = image.blocks.used_words();
        let arena = Arena::new(used as usize)?;
        for word in 0..used {
            arena
                .word(word)
                .store(image.arena.word(word).load(Relaxed), Relaxed);
        }
        Ok(Frozen {
            arena,
            way: A::best(),
            family: PhantomData,
        })
    }

    /// Looks up to [`BURST`](super::BURST) addresses up: `out[i]` becomes the value for `keys[i]`.
    ///
    /// # Panics
    /// When there are more keys than that, or not as many places in `out`.
    #[inline]
    pub(crate) fn lookup_burst(&self, keys: &[A], out: &mut [Value]) {
        // SAFETY: `build` made an image of this family, which nobody changes; the way is the best that is available.
        unsafe { A::look_up(&self.arena, self.way, keys, out) }
    }

    /// Bytes that look-ups read.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.words() * 4
    }
}

impl<A> std::fmt::Debug for Frozen<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frozen")
            .field("way", &self.way)
            .finish_non_exhaustive()
    }
}

/// Zeroed bytes on huge pages where the kernel has some, for tables that look-ups go all over.
pub(crate) struct Bytes {
    memory: Arena,
    len: usize,
}

impl Bytes {
    /// So many bytes.
    ///
    /// # Errors
    /// [`LpmError::Memory`].
    pub(crate) fn zeroed(len: usize) -> Result<Self, LpmError> {
        let memory = Arena::new(len.div_ceil(4))?;
        Ok(Bytes { memory, len })
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: needed to see words as bytes. The arena has that many, initialised; it is ours alone, so that nobody
        // stores to it while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.memory.base().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; borrowed mutably, nobody else reads it. The arena's memory was allocated to be written to.
        unsafe { std::slice::from_raw_parts_mut(self.memory.base().cast_mut().cast(), self.len) }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bytes")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lpm::{Addr, BURST};

    fn agrees<A: Shape + Addr>(addr: impl Fn(u64, u64) -> A) {
        let mut seed = 1u64;
        let mut draw = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            seed.rotate_left(32)
        };
        for count in [0, 1, 40, 5000] {
            let mut starts: Vec<A> = (0..count).map(|_| addr(draw(), draw())).collect();
            starts.push(A::default());
            starts.sort_unstable();
            starts.dedup();
            let mut runs: Vec<(A, Value)> = starts.iter().map(|&at| (at, draw() as u32 % 400)).collect();
            runs.dedup_by_key(|(_, value)| *value);
            let frozen = Frozen::build(&runs).expect("fits");
            assert!(frozen.bytes() < 64 << 20);
            for _ in 0..100 {
                let near = |at: A, n: u64| if n.is_multiple_of(3) { at } else { addr(n, n) };
                let keys: Vec<A> = (0..BURST)
                    .map(|_| near(runs[draw() as usize % runs.len()].0, draw()))
                    .collect();
                let mut out = [0; BURST];
                frozen.lookup_burst(&keys, &mut out);
                for (key, found) in keys.iter().zip(out) {
                    assert_eq!(found, runs[runs.partition_point(|(at, _)| at <= key) - 1].1);
                }
            }
        }
    }

    #[test]
    fn answers_are_those_of_the_runs() {
        agrees::<u32>(|a, b| (a & [u64::MAX, !0xff, !0xffff][b as usize % 3]) as u32);
        agrees::<u128>(|a, b| u128::from(a) << 64 | u128::from(b & [0, u64::MAX][a as usize % 2]));
    }

    #[test]
    fn a_value_too_great_is_refused() {
        assert_eq!(
            Frozen::<u32>::build(&[(0, MAX_VALUE + 1)]).err(),
            Some(LpmError::Value(MAX_VALUE + 1))
        );
    }
}
