//! The writer's side of the default engine: builds an image from the RIB and changes it in place.
//!
//! An image is a root table and, below it, the pieces that [`leaf`](super::leaf) describes:
//!
//! ```text
//! IPv4   root: 18 bits ── leaf: 6 bits ─/24─ table: 2 bits ── leaf: 6 bits ─/32
//! IPv6   root: 16 bits ── table: 10 bits ── leaf: 6 bits ─/32─┬ table: 10 bits ── leaf: 6 bits ─/48─ … /128
//!                                                             └ search node: 16 bits ─/48─ …
//! ```
//!
//! An IPv6 step of 16 bits is a search node while it has at most 32 runs, else a table. A leaf all of whose
//! slots have one answer is shared by everything that has this answer.
//!
//! Pieces that readers can reach are never changed, but for the words of tables: a change writes new leaves beside
//! the old ones, then stores their places, then waits (without waiting: [`Limbo`]) until readers have passed
//! before it uses the old blocks again. Each word store is one step for every address under it: a reader sees the
//! answer from before the change or from after it.

use std::sync::Arc;

use super::arena::Limbo;
use super::image::Image;
use super::lookup::{Lookup, Shared};
use super::rib::{Rib, Run};
use super::shape::Shape;
use super::table::Backend;
use super::{LpmError, NO_ROUTE, Prefix};
use crate::qsbr::{Domain, Published};

/// The default engine.
pub(super) struct Compressed<A> {
    domain: Domain,
    shared: Arc<Shared>,
    image: Image,
    limbo: Limbo,
    runs: Vec<Run<A>>,
}

impl<A: Shape> Compressed<A> {
    pub(super) fn new(domain: &Domain) -> Result<Self, LpmError> {
        let mut image = Image::new::<A>()?;
        image.build::<A>(&[(A::default(), NO_ROUTE)])?;
        Ok(Self {
            domain: domain.clone(),
            shared: Arc::new(Shared {
                arena: Published::new(image.arena.clone()),
            }),
            image,
            limbo: Limbo::default(),
            runs: Vec::new(),
        })
    }
}

impl<A: Shape> Backend<A> for Compressed<A> {
    fn refresh(&mut self, rib: &Rib<A>, prefix: &Prefix<A>) -> Result<(), LpmError> {
        self.limbo.reclaim(&self.domain, &mut self.image.blocks);
        match self.image.refresh(rib, prefix, &mut self.runs) {
            Ok(()) => {
                self.image.settle::<A>(Some((&mut self.limbo, &self.domain)));
                Ok(())
            }
            Err(error) => {
                self.image.undo();
                // A quarter lost to odd sizes: worth building anew.
                let lost = self.image.blocks.free_words() + self.limbo.words();
                if error == LpmError::Memory && lost > A::WORDS / 4 {
                    self.rebuild(rib)
                } else {
                    Err(error)
                }
            }
        }
    }

    fn rebuild(&mut self, rib: &Rib<A>) -> Result<(), LpmError> {
        let mut image = Image::new::<A>()?;
        rib.runs(&Prefix::covering(A::default(), 0), &mut self.runs);
        let built = image.build::<A>(&self.runs);
        self.runs = Vec::new();
        built?;
        self.shared.arena.replace(image.arena.clone(), &self.domain);
        self.domain.reclaim();
        self.image = image;
        self.limbo = Limbo::default();
        Ok(())
    }

    fn image_bytes(&self) -> usize {
        self.image.blocks.used_words() as usize * 4
    }

    fn bytes(&self) -> usize {
        self.image_bytes()
            + self.image.own_bytes()
            + self.limbo.bytes()
            + self.runs.capacity() * size_of::<Run<A>>()
    }

    fn reader(&self) -> Arc<dyn Lookup<A>> {
        A::reader(self.shared.clone())
    }
}
