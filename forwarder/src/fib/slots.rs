//! A table of numbered slots that grows while workers read it, and never moves a slot.

use std::sync::OnceLock;

/// Slots in the first chunk; each further chunk holds twice as many as the one before.
const FIRST: u32 = 64;
/// Chunks, enough for every number below 2^24.
const CHUNKS: usize = 19;

/// Slots by number. The control thread adds slots, workers read them; neither waits for the other.
#[derive(Debug)]
pub struct Slots<T> {
    chunks: [OnceLock<Box<[T]>>; CHUNKS],
}

/// Chunk and place of a number: chunk `k` begins at number `FIRST * (2^k - 1)`.
#[inline]
fn place(number: u32) -> (usize, usize) {
    let shifted = number + FIRST;
    let chunk = (shifted / FIRST).ilog2();
    (chunk as usize, (shifted - (FIRST << chunk)) as usize)
}

impl<T: Default> Slots<T> {
    /// Most slots: one more than the largest number.
    pub const LIMIT: u32 = 1 << 24;

    /// No slots yet.
    pub fn new() -> Self {
        Self {
            chunks: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// The slot of that number, if it was made.
    #[inline]
    pub fn get(&self, number: u32) -> Option<&T> {
        if number >= Self::LIMIT {
            return None;
        }
        let (chunk, place) = place(number);
        self.chunks[chunk].get()?.get(place)
    }

    /// The slot of that number; makes its chunk if need be. Control thread only: it allocates.
    ///
    /// # Panics
    /// When the number is [`Self::LIMIT`] or above.
    pub fn make(&self, number: u32) -> &T {
        assert!(
            number < Self::LIMIT,
            "slot {number}: at most {} slots",
            Self::LIMIT
        );
        let (chunk, place) = place(number);
        let len = (FIRST as usize) << chunk;
        &self.chunks[chunk].get_or_init(|| (0..len).map(|_| T::default()).collect())[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_without_gaps() {
        let mut before = (0, usize::MAX);
        for number in 0..10_000 {
            let (chunk, index) = place(number);
            if chunk == before.0 {
                assert_eq!(index, before.1.wrapping_add(1));
            } else {
                assert_eq!((chunk, index), (before.0 + 1, 0));
                assert_eq!(before.1 + 1, (FIRST as usize) << before.0);
            }
            before = (chunk, index);
        }
        assert!(place(Slots::<u8>::LIMIT - 1).0 < CHUNKS);
    }

    #[test]
    fn slots_exist_once_made() {
        let slots: Slots<std::cell::Cell<u32>> = Slots::new();
        assert!(slots.get(70).is_none());
        slots.make(70).set(7);
        assert_eq!(slots.get(70).map(|s| s.get()), Some(7));
        assert!(slots.get(3).is_none(), "an earlier chunk is made on its own");
        assert!(slots.get(u32::MAX).is_none());
    }
}
