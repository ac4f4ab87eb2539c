//! The memory of an image and one change of it, which is made visible whole or taken back.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use super::LpmError;
use super::arena::{Arena, Blocks, Limbo};
use crate::qsbr::Domain;

/// An arena, what is free in it, and what the present change has done so far.
pub(super) struct Store {
    pub(super) arena: Arc<Arena>,
    pub(super) blocks: Blocks,
    /// Words and what they become.
    stores: Vec<(u32, u32)>,
    /// Blocks (first word, granules) taken.
    taken: Vec<(u32, u32)>,
    /// Blocks that are unreachable once the stores are done.
    dropped: Vec<(u32, u32)>,
}

impl Store {
    /// Room for `words` words, of which blocks take those from `first` on.
    pub(super) fn new(words: usize, first: u32) -> Result<Self, LpmError> {
        let arena = Arc::new(Arena::new(words)?);
        let blocks = Blocks::new(first, arena.words());
        Ok(Self {
            arena,
            blocks,
            stores: Vec::new(),
            taken: Vec::new(),
            dropped: Vec::new(),
        })
    }

    /// A block that no reader knows; its first word.
    pub(super) fn take(&mut self, granules: u32) -> Result<u32, LpmError> {
        let word = self.blocks.take(granules)?;
        self.taken.push((word, granules));
        Ok(word)
    }

    /// Notes that nothing refers to a block any more once the change is visible.
    pub(super) fn drop_block(&mut self, word: u32, granules: u32) {
        self.dropped.push((word, granules));
    }

    /// Notes what a word becomes.
    pub(super) fn set(&mut self, word: u32, value: u32) {
        self.stores.push((word, value));
    }

    /// The word as readers see it.
    pub(super) fn get(&self, word: u32) -> u32 {
        self.arena.word(word).load(Relaxed)
    }

    /// Writes a word of a block that no reader knows.
    pub(super) fn write(&self, word: u32, value: u32) {
        // Release: a word that refers to another block may be found by a reader that came by an older reference.
        self.arena.word(word).store(value, Release);
    }

    /// Does the stores.
    pub(super) fn publish(&mut self) {
        for (word, value) in self.stores.drain(..) {
            // Release: what the word refers to was written before.
            self.arena.word(word).store(value, Release);
        }
        self.taken.clear();
    }

    /// Ends a published change: what was dropped goes to `limbo`, or back at once when no reader knows the image.
    pub(super) fn finish(&mut self, limbo: Option<(&mut Limbo, &Domain)>) {
        match limbo {
            Some((limbo, domain)) if !self.dropped.is_empty() => limbo.put(domain, self.dropped.drain(..)),
            Some(_) => {}
            None => {
                for (word, granules) in self.dropped.drain(..) {
                    self.blocks.give(word, granules);
                }
            }
        }
    }

    /// Takes a change back that could not be finished: nothing of it was visible.
    pub(super) fn undo(&mut self) {
        self.stores.clear();
        self.dropped.clear();
        for (word, granules) in self.taken.drain(..) {
            self.blocks.give(word, granules);
        }
    }
}
