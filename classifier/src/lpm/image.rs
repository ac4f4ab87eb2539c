//! An image as its writer knows it, and how runs of answers are cut into slots.

use std::ops::Range;

use super::arena::Limbo;
use super::rib::{Rib, Run};
use super::shape::Shape;
use super::store::Store;
use super::{LpmError, Prefix};
use crate::qsbr::Domain;

/// The runs of a region: the first covers its first address, all others begin inside.
pub(super) type Runs<'a, A> = &'a [Run<A>];

/// The image of a family. A change is prepared by `build` or `refresh`, then `settle`d or, after an error, undone.
pub(super) trait Image<A>: Sized + Send {
    /// An image of at most `words` words. Nothing may look up in it before it is built.
    fn new(words: usize) -> Result<Self, LpmError>;
    /// Its memory.
    fn store(&self) -> &Store;
    /// Its memory.
    fn store_mut(&mut self) -> &mut Store;
    /// Builds everything from the runs of the whole space, in memory that no reader knows.
    fn build(&mut self, runs: Runs<'_, A>) -> Result<(), LpmError>;
    /// Prepares what makes the image answer as the RIB does in `prefix`. `runs` is room to work in.
    fn refresh(&mut self, rib: &Rib<A>, prefix: &Prefix<A>, runs: &mut Vec<Run<A>>) -> Result<(), LpmError>;
    /// Makes the change visible, and hands what it no longer needs to `limbo` (`None`: no reader knows the image).
    fn settle(&mut self, limbo: Option<(&mut Limbo, &Domain)>);
    /// Takes a change back that could not be finished.
    fn undo(&mut self);
    /// Bytes of what the writer knows beside the image.
    fn own_bytes(&self) -> usize;
}

/// The runs of `region`; `rest` moves up to the first of them. `rest` begins at or before the region.
pub(super) fn within<'a, A: Shape>(region: &Prefix<A>, rest: &mut Runs<'a, A>) -> Runs<'a, A> {
    while let [_, (next, _), ..] = rest
        && *next <= region.addr()
    {
        *rest = &rest[1..];
    }
    let last = region.last();
    let inside = rest[1..].iter().take_while(|(start, _)| *start <= last).count();
    let runs = &rest[..=inside];
    *rest = &rest[inside..];
    runs
}

/// Some neighbouring slots: those in which one run goes on, or a single one with several.
pub(super) struct Stretch<'a, A> {
    /// Numbers of the slots.
    pub(super) slots: Range<u32>,
    /// First address.
    pub(super) lo: A,
    /// Its runs; one, or the slot's.
    pub(super) runs: Runs<'a, A>,
}

/// The slots of `bits` bits behind `depth` in the region at `lo`, as stretches, without those outside of `slots`.
pub(super) struct Stretches<'a, A> {
    lo: A,
    depth: u8,
    bits: u8,
    slots: Range<u32>,
    rest: Runs<'a, A>,
}

impl<'a, A: Shape> Stretches<'a, A> {
    pub(super) fn new(lo: A, depth: u8, bits: u8, slots: Range<u32>, runs: Runs<'a, A>) -> Self {
        let rest = runs;
        Self {
            lo,
            depth,
            bits,
            slots,
            rest,
        }
    }

    /// All slots of the region.
    pub(super) fn all(lo: A, depth: u8, bits: u8, runs: Runs<'a, A>) -> Self {
        Self::new(lo, depth, bits, 0..1 << bits, runs)
    }
}

impl<'a, A: Shape> Iterator for Stretches<'a, A> {
    type Item = Stretch<'a, A>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.slots.start;
        if first >= self.slots.end {
            return None;
        }
        let region = Prefix::covering(
            self.lo.with_bits(self.depth, self.bits, first),
            self.depth + self.bits,
        );
        let runs = within(&region, &mut self.rest);
        let end = match (runs, self.rest) {
            // One answer up to the slot where the next run begins.
            ([_], [_, (next, _), ..]) if next.masked(self.depth) == self.lo => {
                next.bits_at(self.depth, self.bits).min(self.slots.end)
            }
            ([_], _) => self.slots.end,
            _ => first + 1,
        };
        self.slots.start = end;
        Some(Stretch {
            slots: first..end,
            lo: region.addr(),
            runs,
        })
    }
}
