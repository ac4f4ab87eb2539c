//! The writer's side of the default engine: builds an image from the RIB and changes it in place.
//!
//! ```text
//! IPv4   root: 18 bits ── leaf: 6 bits ─/24─ table: 2 bits ── leaf: 6 bits ─/32
//! IPv6   root: 16 bits ── table: 16 bits ─/32─┬ list: 16 bits ─/48─ …
//!                                             └ table: up to 10 bits ─┬ list: 16 bits ─ …
//!                                                                     └ table: up to 6 bits ─ …
//! ```
//!
//! [`leaf`](super::leaf) describes the pieces of IPv4, [`node`](super::node) those of IPv6.
//!
//! Pieces that readers can reach are never changed, but for the words of tables: a change writes new pieces beside
//! the old ones, then stores their places, then waits (without waiting: [`Limbo`]) until readers have passed
//! before it uses the old blocks again. Each word store is one step for every address under it: a reader sees the
//! answer from before the change or from after it.

use std::sync::Arc;

use super::arena::Limbo;
use super::image::Image;
use super::lookup::{Lookup, Reader, Shared};
use super::rib::{Rib, Run};
use super::shape::Shape;
use super::table::Backend;
use super::{LpmError, NO_ROUTE, Prefix};
use crate::qsbr::{Domain, Published};

/// The default engine.
pub(super) struct Compressed<A: Shape> {
    domain: Domain,
    shared: Arc<Shared>,
    image: A::Image,
    limbo: Limbo,
    runs: Vec<Run<A>>,
    /// Words that an image may take.
    words: usize,
}

impl<A: Shape> Compressed<A> {
    pub(super) fn new(domain: &Domain) -> Result<Self, LpmError> {
        Self::with_words(domain, A::WORDS)
    }

    /// An engine whose images take at most `words` words.
    pub(super) fn with_words(domain: &Domain, words: usize) -> Result<Self, LpmError> {
        let mut image = A::Image::new(words)?;
        image.build(&[(A::default(), NO_ROUTE)])?;
        Ok(Self {
            domain: domain.clone(),
            shared: Arc::new(Shared {
                arena: Published::new(image.store().arena.clone()),
            }),
            image,
            limbo: Limbo::default(),
            runs: Vec::new(),
            words,
        })
    }
}

impl<A: Shape> Backend<A> for Compressed<A> {
    fn refresh(&mut self, rib: &Rib<A>, prefix: &Prefix<A>) -> Result<(), LpmError> {
        self.limbo
            .reclaim(&self.domain, &mut self.image.store_mut().blocks);
        match self.image.refresh(rib, prefix, &mut self.runs) {
            Ok(()) => {
                self.image.settle(Some((&mut self.limbo, &self.domain)));
                Ok(())
            }
            Err(error) => {
                self.image.undo();
                // A quarter lost to odd sizes: worth building anew.
                let lost = self.image.store().blocks.free_words() + self.limbo.words();
                if error == LpmError::Memory && lost > self.words / 4 {
                    self.rebuild(rib)
                } else {
                    Err(error)
                }
            }
        }
    }

    fn rebuild(&mut self, rib: &Rib<A>) -> Result<(), LpmError> {
        let mut image = A::Image::new(self.words)?;
        rib.runs(&Prefix::covering(A::default(), 0), &mut self.runs);
        let built = image.build(&self.runs);
        self.runs = Vec::new();
        built?;
        self.shared
            .arena
            .replace(image.store().arena.clone(), &self.domain);
        self.domain.reclaim();
        self.image = image;
        self.limbo = Limbo::default();
        Ok(())
    }

    fn image_bytes(&self) -> usize {
        self.image.store().blocks.used_words() as usize * 4
    }

    fn bytes(&self) -> usize {
        self.image_bytes()
            + self.image.own_bytes()
            + self.image.store().blocks.bytes()
            + self.limbo.bytes()
            + self.runs.capacity() * size_of::<Run<A>>()
    }

    fn reader(&self) -> Arc<dyn Lookup<A>> {
        Arc::new(Reader(self.shared.clone()))
    }
}
