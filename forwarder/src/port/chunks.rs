//! Which frames the kernel has through one queue: so that they can be taken back when its socket is closed, and so
//! that the kernel is believed only what it can know.

/// A set of frame numbers, one bit each. Its owner is the worker of the queue; nobody else reads it.
#[derive(Debug)]
pub(crate) struct ChunkSet {
    words: Box<[u64]>,
    len: u32,
}

impl ChunkSet {
    /// An empty set of numbers below `frames`.
    pub(crate) fn new(frames: u32) -> Self {
        Self {
            words: vec![0; frames.div_ceil(64) as usize].into(),
            len: 0,
        }
    }

    /// Puts a number in; false when it was in already.
    #[inline]
    pub(crate) fn insert(&mut self, chunk: u32) -> bool {
        let word = &mut self.words[chunk as usize / 64];
        let before = *word;
        *word |= 1 << (chunk % 64);
        if *word == before {
            return false;
        }
        self.len += 1;
        true
    }

    /// Takes a number out; false when it was not in.
    #[inline]
    pub(crate) fn remove(&mut self, chunk: u32) -> bool {
        let word = &mut self.words[chunk as usize / 64];
        let before = *word;
        *word &= !(1 << (chunk % 64));
        if *word == before {
            return false;
        }
        self.len -= 1;
        true
    }

    /// How many are in.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// All that are in, in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            (0..64u32)
                .filter(move |bit| word & (1 << bit) != 0)
                .map(move |bit| at as u32 * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_once() {
        let mut set = ChunkSet::new(130);
        for chunk in [129, 0, 63, 64] {
            assert!(set.insert(chunk));
            assert!(!set.insert(chunk));
        }
        assert_eq!(set.len(), 4);
        assert!(set.remove(63));
        assert!(!set.remove(63));
        assert!(!set.remove(1));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 64, 129]);
        assert_eq!(set.len(), 3);
    }
}
