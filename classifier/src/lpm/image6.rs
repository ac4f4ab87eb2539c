//! The IPv6 image: a root table, direct tables of 16 bits below it, and from /32 on small tables and lists.

use std::ops::Range;

use super::arena::Limbo;
use super::image::{Image, Runs, Stretches};
use super::node::{self, DIRECT_BITS, KEYS, Kind, LIST_BITS, Node, RUNS, TABLE_BITS};
use super::rib::{Rib, Run};
use super::shape::Shape;
use super::store::Store;
use super::{Addr, LpmError, Prefix};
use crate::qsbr::Domain;

/// Bits of the root table.
const ROOT_BITS: u8 = 16;
/// Bits of a table for a place where routes are dense: 64 words.
const DENSE_BITS: u8 = 6;
/// Direct tables (24 MiB) for whatever asks first. The Internet's routes lie in some 60 of the /16s.
const DIRECT: u32 = 96;
/// The most direct tables (128 MiB), for /16s with at least [`CROWDED`] runs. All others get small tables, which bursts
/// find more slowly.
const MAX_DIRECT: u32 = 512;
/// See [`MAX_DIRECT`].
const CROWDED: usize = 64;

/// Where a word stands, and so which kinds of references it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// In the root.
    Root,
    /// In a direct table.
    Direct,
    /// In a table below a direct table.
    Second,
    /// Anywhere below: one address at a time.
    Far,
}

/// A table's words: the first, the bits before them, the bits of the index, and where they stand.
#[derive(Debug, Clone, Copy)]
struct Words {
    base: u32,
    depth: u8,
    bits: u8,
    level: Level,
}

/// The image as its writer knows it.
pub(super) struct Image6 {
    store: Store,
    /// Direct tables in use, and before the present change.
    direct: u32,
    direct_before: u32,
}

impl Level {
    /// Kind of a table that a word of this level refers to, and level of its words.
    fn table(self, bits: u8) -> (Kind, Self) {
        match self {
            Self::Root if bits == DIRECT_BITS => (Kind::Table, Self::Direct),
            Self::Direct => (Kind::Table, Self::Second),
            Self::Second => (Kind::Last, Self::Far),
            Self::Root | Self::Far => (Kind::FarTable, Self::Far),
        }
    }

    fn list(self) -> Kind {
        match self {
            Self::Direct | Self::Second => Kind::List,
            Self::Root | Self::Far => Kind::FarList,
        }
    }
}

/// Whether a list can answer for the region, whatever lies below its slots.
fn fits_list(depth: u8, lo: u128, runs: Runs<'_, u128>) -> bool {
    // A run that begins inside a slot cuts off that slot and what follows it: two more.
    depth + LIST_BITS <= u128::BITS as u8
        && (runs.len() <= KEYS / 2 + 1 || Stretches::all(lo, depth, LIST_BITS, runs).nth(RUNS).is_none())
}

/// Bits behind `depth` that tell all runs apart.
fn significant(depth: u8, runs: Runs<'_, u128>) -> u8 {
    let bits = |start: u128| 128 - start.trailing_zeros() as u8;
    runs[1..]
        .iter()
        .map(|(start, _)| bits(*start))
        .max()
        .unwrap_or(depth)
        - depth
}

/// Whether one step answers for the region.
fn fits_step(depth: u8, lo: u128, runs: Runs<'_, u128>) -> bool {
    runs.len() == 1 || fits_list(depth, lo, runs) || significant(depth, runs) <= DENSE_BITS
}

/// Bits of a table for the region: as few as leave one step for each slot.
fn table_bits(depth: u8, lo: u128, runs: Runs<'_, u128>) -> u8 {
    let dense = significant(depth, runs);
    if dense <= DENSE_BITS {
        return dense;
    }
    let most = TABLE_BITS.min(128 - depth);
    let enough = |bits: &u8| {
        Stretches::all(lo, depth, *bits, runs).all(|slot| fits_step(depth + bits, slot.lo, slot.runs))
    };
    (2..most).find(enough).unwrap_or(most)
}

impl Image6 {
    /// The word for a region at `depth` that begins at `lo`.
    fn word(&mut self, level: Level, depth: u8, lo: u128, runs: Runs<'_, u128>) -> Result<u32, LpmError> {
        if let [(_, value)] = runs {
            return Ok(*value);
        }
        let most = if runs.len() < CROWDED { DIRECT } else { MAX_DIRECT };
        if level == Level::Root && self.direct < most {
            self.direct += 1;
            return self.table(level, DIRECT_BITS, depth, lo, runs);
        }
        if fits_list(depth, lo, runs) {
            return self.list(level, depth, lo, runs);
        }
        self.table(level, table_bits(depth, lo, runs), depth, lo, runs)
    }

    fn list(&mut self, level: Level, depth: u8, lo: u128, runs: Runs<'_, u128>) -> Result<u32, LpmError> {
        let mut words = Vec::with_capacity(RUNS);
        for stretch in Stretches::all(lo, depth, LIST_BITS, runs) {
            let word = self.word(Level::Far, depth + LIST_BITS, stretch.lo, stretch.runs)?;
            words.push((stretch.slots.start as u16, word));
        }
        let list = self.store.take(node::list_granules())?;
        node::write_list(&self.store, list, &words);
        node::reference(level.list(), list, 0)
    }

    fn table(
        &mut self,
        level: Level,
        bits: u8,
        depth: u8,
        lo: u128,
        runs: Runs<'_, u128>,
    ) -> Result<u32, LpmError> {
        let base = self.store.take(node::table_granules(bits))?;
        let (kind, level) = level.table(bits);
        for stretch in Stretches::all(lo, depth, bits, runs) {
            let word = self.word(level, depth + bits, stretch.lo, stretch.runs)?;
            for slot in stretch.slots {
                self.store.write(base + slot, word);
            }
        }
        node::reference(kind, base, bits)
    }

    /// Notes that what a word refers to goes, with everything below.
    fn drop_below(&mut self, word: u32) {
        match node::node(word) {
            None => {}
            Some(Node::Table(base, bits)) => {
                for at in base..base + (1 << bits) {
                    self.drop_below(self.store.get(at));
                }
                self.direct -= u32::from(bits == DIRECT_BITS);
                self.store.drop_block(base, node::table_granules(bits));
            }
            Some(Node::List(list)) => {
                let words: Vec<u32> = node::list_words(&self.store, list).collect();
                for word in words {
                    self.drop_below(word);
                }
                self.store.drop_block(list, node::list_granules());
            }
        }
    }

    /// Makes one word, whose region begins at `lo`, answer as these runs do.
    fn refresh_word(
        &mut self,
        words: Words,
        index: u32,
        lo: u128,
        runs: Runs<'_, u128>,
    ) -> Result<(), LpmError> {
        let (at, depth) = (words.base + index, words.depth + words.bits);
        let old = self.store.get(at);
        if let (Some(Node::Table(base, DIRECT_BITS)), [_, _, ..]) = (node::node(old), runs) {
            // A direct table stays, and its words change one by one.
            let below = Words {
                base,
                depth,
                bits: DIRECT_BITS,
                level: Level::Direct,
            };
            return self.refresh_words(below, lo, 0..1 << DIRECT_BITS, runs);
        }
        let new = self.word(words.level, depth, lo, runs)?;
        self.drop_below(old);
        if new != old {
            self.store.set(at, new);
        }
        Ok(())
    }

    /// Makes some words of a table, whose region begins at `lo`, answer as these runs do.
    fn refresh_words(
        &mut self,
        words: Words,
        lo: u128,
        slots: Range<u32>,
        runs: Runs<'_, u128>,
    ) -> Result<(), LpmError> {
        for stretch in Stretches::new(lo, words.depth, words.bits, slots, runs) {
            for slot in stretch.slots {
                self.refresh_word(words, slot, stretch.lo, stretch.runs)?;
            }
        }
        Ok(())
    }

    /// Brings a table up to date with the RIB in `prefix`, which lies inside its region. False when nothing was done
    /// because the table would no longer fit what lies under it: the word that refers to it is to be made anew.
    fn refresh_table(
        &mut self,
        rib: &Rib<u128>,
        words: Words,
        prefix: &Prefix<u128>,
        runs: &mut Vec<Run<u128>>,
    ) -> Result<bool, LpmError> {
        let depth = words.depth + words.bits;
        let first = prefix.addr().bits_at(words.depth, words.bits);
        if prefix.len() <= depth {
            rib.runs(prefix, runs);
            let slots = first..prefix.last().bits_at(words.depth, words.bits) + 1;
            self.refresh_words(words, prefix.addr().masked(words.depth), slots, runs)?;
            return Ok(true);
        }
        let region = Prefix::covering(prefix.addr(), depth);
        if let Some(Node::Table(base, bits)) = node::node(self.store.get(words.base + first)) {
            // What is left of a direct table is worth keeping while there is anything in it, of others while there is
            // more than a list holds.
            let least = if bits == DIRECT_BITS { 1 } else { KEYS / 2 };
            let level = words.level.table(bits).1;
            let below = Words {
                base,
                depth,
                bits,
                level,
            };
            if rib.has_inside(&region, least) && self.refresh_table(rib, below, prefix, runs)? {
                return Ok(true);
            }
        }
        rib.runs(&region, runs);
        if matches!(words.level, Level::Second | Level::Far)
            && words.bits < TABLE_BITS
            && !fits_step(depth, region.addr(), runs)
        {
            return Ok(false);
        }
        self.refresh_word(words, first, region.addr(), runs)?;
        Ok(true)
    }

    /// The root's words.
    fn root() -> Words {
        Words {
            base: 0,
            depth: 0,
            bits: ROOT_BITS,
            level: Level::Root,
        }
    }
}

impl Image<u128> for Image6 {
    fn new(words: usize) -> Result<Self, LpmError> {
        Ok(Self {
            store: Store::new(words, 1 << ROOT_BITS)?,
            direct: 0,
            direct_before: 0,
        })
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    fn build(&mut self, runs: Runs<'_, u128>) -> Result<(), LpmError> {
        for stretch in Stretches::all(0, 0, ROOT_BITS, runs) {
            let word = self.word(Level::Root, ROOT_BITS, stretch.lo, stretch.runs)?;
            for slot in stretch.slots {
                self.store.set(slot, word);
            }
        }
        self.settle(None);
        Ok(())
    }

    fn refresh(
        &mut self,
        rib: &Rib<u128>,
        prefix: &Prefix<u128>,
        runs: &mut Vec<Run<u128>>,
    ) -> Result<(), LpmError> {
        self.refresh_table(rib, Self::root(), prefix, runs).map(|_| ())
    }

    fn settle(&mut self, limbo: Option<(&mut Limbo, &Domain)>) {
        self.store.publish();
        self.store.finish(limbo);
        self.direct_before = self.direct;
    }

    fn undo(&mut self) {
        self.store.undo();
        self.direct = self.direct_before;
    }

    fn own_bytes(&self) -> usize {
        0
    }
}
