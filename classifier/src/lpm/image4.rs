//! The IPv4 image: a root table of leaves, and small tables of leaves for what is longer than /24.

use std::ops::Range;

use hashbrown::HashMap;

use super::arena::{LINE_GRANULES, Limbo};
use super::image::{Image, Runs, Stretches, within};
use super::leaf::{self, Child, Entry, LeafRef, SLOTS};
use super::rib::{Rib, Run};
use super::shape::Shape;
use super::store::Store;
use super::{Addr, LpmError, Prefix, Value};
use crate::qsbr::Domain;

/// Bits of the root table.
pub(super) const ROOT_BITS: u8 = 18;
/// Bits of the tables below.
pub(super) const TABLE_BITS: u8 = 2;
/// Bits that a leaf answers.
pub(super) const LEAF_BITS: u8 = 6;

/// Something shared by several words, with how many.
#[derive(Debug, Clone, Copy)]
struct Counted {
    word: u32,
    users: u32,
}

/// A shared piece by what it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Share {
    /// The leaf whose slots all have this answer.
    Leaf(Value),
    /// The line of a value that does not fit a leaf.
    Wide(Value),
}

/// The image as its writer knows it.
pub(super) struct Image4 {
    store: Store,
    shares: HashMap<Share, Counted>,
    /// Uses of shared pieces that the present change adds, and those that end with it.
    acquired: Vec<(Share, u32)>,
    released: Vec<(Share, u32)>,
}

impl Image4 {
    /// `uses` more of a shared piece, made by `make` when there is none.
    fn share(
        &mut self,
        what: Share,
        uses: u32,
        make: impl FnOnce(&mut Self) -> Result<u32, LpmError>,
    ) -> Result<u32, LpmError> {
        let word = match self.shares.get_mut(&what) {
            Some(counted) => {
                counted.users += uses;
                counted.word
            }
            None => {
                let word = make(self)?;
                self.shares.insert(what, Counted { word, users: uses });
                word
            }
        };
        self.acquired.push((what, uses));
        Ok(word)
    }

    /// The entry for a value, whatever its size.
    fn value_entry(&mut self, value: Value) -> Result<Entry, LpmError> {
        match Entry::inline(value) {
            Some(entry) => Ok(entry),
            None => Entry::wide(self.share(Share::Wide(value), 1, |image| {
                leaf::write_wide(&mut image.store, value)
            })?),
        }
    }

    /// The value of an entry; `None` when it refers to a table.
    fn constant(&self, entry: Entry) -> Option<Value> {
        match entry.child() {
            None => Some(entry.0 as Value),
            Some(Child::Wide(word)) => Some(self.store.get(word)),
            Some(Child::Table(_)) => None,
        }
    }

    fn uniform_leaf(&mut self, value: Value, uses: u32) -> Result<LeafRef, LpmError> {
        self.share(Share::Leaf(value), uses, |image| {
            let entries = [image.value_entry(value)?; SLOTS];
            leaf::write(&mut image.store, &entries)
        })
    }

    /// A leaf for these entries. Each slot of a wide value has been counted by the caller as one use; here they stay
    /// counted so, and are released so.
    fn write_leaf(&mut self, entries: &[Entry; SLOTS]) -> Result<LeafRef, LpmError> {
        if entries.iter().all(|entry| *entry == entries[0])
            && let Some(value) = self.constant(entries[0])
        {
            let leaf = self.uniform_leaf(value, 1)?;
            // The shared leaf has uses of its own.
            for entry in entries {
                self.release_wide(*entry);
            }
            return Ok(leaf);
        }
        leaf::write(&mut self.store, entries)
    }

    fn release_wide(&mut self, entry: Entry) {
        if let Some(Child::Wide(word)) = entry.child() {
            self.released.push((Share::Wide(self.store.get(word)), 1));
        }
    }

    /// A leaf at `depth` for the region that begins at `lo`.
    fn leaf(&mut self, depth: u8, lo: u32, runs: Runs<'_, u32>) -> Result<LeafRef, LpmError> {
        if let [(_, value)] = runs {
            return self.uniform_leaf(*value, 1);
        }
        let mut entries = [Entry::NONE; SLOTS];
        for stretch in Stretches::all(lo, depth, LEAF_BITS, runs) {
            for slot in stretch.slots {
                entries[slot as usize] = self.slot(depth + LEAF_BITS, stretch.lo, stretch.runs)?;
            }
        }
        self.write_leaf(&entries)
    }

    /// The entry for one slot of a leaf, at `depth`.
    fn slot(&mut self, depth: u8, lo: u32, runs: Runs<'_, u32>) -> Result<Entry, LpmError> {
        if let [(_, value)] = runs {
            return self.value_entry(*value);
        }
        let leaves = self.leaves(depth, TABLE_BITS, lo, 0..1 << TABLE_BITS, runs)?;
        Entry::table(leaf::write_table(&mut self.store, &leaves)?)
    }

    /// The leaves of some words of a table.
    fn leaves(
        &mut self,
        depth: u8,
        bits: u8,
        lo: u32,
        words: Range<u32>,
        runs: Runs<'_, u32>,
    ) -> Result<Vec<LeafRef>, LpmError> {
        let mut leaves = Vec::with_capacity(words.len());
        for stretch in Stretches::new(lo, depth, bits, words, runs) {
            let count = stretch.slots.len();
            let leaf = match stretch.runs {
                [(_, value)] => self.uniform_leaf(*value, count as u32)?,
                runs => self.leaf(depth + bits, stretch.lo, runs)?,
            };
            leaves.extend(std::iter::repeat_n(leaf, count));
        }
        Ok(leaves)
    }

    /// Notes that a leaf goes, and with it everything below; `uses` words referred to it.
    fn drop_leaf(&mut self, place: LeafRef, uses: u32) {
        if let Some(entry) = leaf::single(&self.store.arena, place)
            && let Some(value) = self.constant(entry)
        {
            return self.released.push((Share::Leaf(value), uses));
        }
        let mut last = Entry::NONE;
        for entry in leaf::decode(&self.store.arena, place) {
            match entry.child() {
                Some(Child::Table(table)) if entry != last => self.drop_table(table),
                _ => self.release_wide(entry),
            }
            last = entry;
        }
        let (word, granules) = leaf::block(&self.store.arena, place);
        self.store.drop_block(word, granules);
    }

    /// Notes that the leaves go that these words refer to.
    fn drop_leaves(&mut self, words: Range<u32>) {
        let mut word = words.start;
        while word < words.end {
            let old = self.store.get(word);
            let same = (word..words.end)
                .take_while(|word| self.store.get(*word) == old)
                .count() as u32;
            self.drop_leaf(old, same);
            word += same;
        }
    }

    fn drop_table(&mut self, table: u32) {
        self.drop_leaves(table..table + (1 << TABLE_BITS));
        self.store
            .drop_block(table, leaf::table_granules(1 << TABLE_BITS));
    }

    /// Brings a table up to date with the RIB in `prefix`, which lies inside its region. The table has `bits` bits
    /// behind the first `depth` and begins at word `base`.
    fn refresh_table(
        &mut self,
        rib: &Rib<u32>,
        (base, depth, bits): (u32, u8, u8),
        prefix: &Prefix<u32>,
        runs: &mut Vec<Run<u32>>,
    ) -> Result<(), LpmError> {
        let leaf_depth = depth + bits;
        let first = prefix.addr().bits_at(depth, bits);
        if prefix.len() <= leaf_depth {
            rib.runs(prefix, runs);
            let slots = first..prefix.last().bits_at(depth, bits) + 1;
            let words = base + slots.start..base + slots.end;
            // Regions above the prefix's own begin before its runs do: the first run covers that, too.
            let leaves = self.leaves(depth, bits, prefix.addr().masked(depth), slots, runs)?;
            self.drop_leaves(words.clone());
            for (word, leaf) in words.zip(leaves) {
                self.store.set(word, leaf);
            }
            return Ok(());
        }
        // The prefix lies in one leaf: only the slots it covers, or lies in, are made anew.
        let word = base + first;
        let old = self.store.get(word);
        let slot_depth = leaf_depth + LEAF_BITS;
        let mut entries = leaf::decode(&self.store.arena, old);
        let slots =
            prefix.addr().bits_at(leaf_depth, LEAF_BITS)..prefix.last().bits_at(leaf_depth, LEAF_BITS) + 1;
        let region = Prefix::covering(prefix.addr(), prefix.len().min(slot_depth));
        if prefix.len() > slot_depth
            && let Some(Child::Table(table)) = entries[slots.start as usize].child()
            && rib.has_inside(&region, 1)
        {
            return self.refresh_table(rib, (table, slot_depth, TABLE_BITS), prefix, runs);
        }
        rib.runs(&region, runs);
        let mut rest = &runs[..];
        let leaf_lo = prefix.addr().masked(leaf_depth);
        let shared = leaf::single(&self.store.arena, old).and_then(|entry| self.constant(entry));
        for (slot, entry) in entries.iter_mut().enumerate() {
            let slot = slot as u32;
            if slots.contains(&slot) {
                match entry.child() {
                    Some(Child::Table(table)) => self.drop_table(table),
                    _ if shared.is_none() => self.release_wide(*entry),
                    _ => {}
                }
                let slot = Prefix::covering(leaf_lo.with_bits(leaf_depth, LEAF_BITS, slot), slot_depth);
                *entry = self.slot(slot_depth, slot.addr(), within(&slot, &mut rest))?;
            } else if let Some(value) = shared {
                // A leaf of its own counts its own uses.
                *entry = self.value_entry(value)?;
            }
        }
        let place = self.write_leaf(&entries)?;
        match shared {
            Some(value) => self.released.push((Share::Leaf(value), 1)),
            None => {
                let (word, granules) = leaf::block(&self.store.arena, old);
                self.store.drop_block(word, granules);
            }
        }
        self.store.set(word, place);
        Ok(())
    }

    /// Takes the released uses off, and drops what has none left.
    fn end_shares(&mut self) {
        // Dropping a shared leaf releases its wide value.
        while let Some((what, uses)) = self.released.pop() {
            let Some(counted) = self.shares.get_mut(&what) else {
                debug_assert!(false, "{what:?} is released but not shared");
                continue;
            };
            counted.users -= uses;
            if counted.users > 0 {
                continue;
            }
            let word = counted.word;
            self.shares.remove(&what);
            match what {
                Share::Wide(_) => self.store.drop_block(word, LINE_GRANULES),
                Share::Leaf(value) => {
                    if Entry::inline(value).is_none() {
                        self.released.push((Share::Wide(value), 1));
                    }
                    let (word, granules) = leaf::block(&self.store.arena, word);
                    self.store.drop_block(word, granules);
                }
            }
        }
    }
}

impl Image<u32> for Image4 {
    fn new(words: usize) -> Result<Self, LpmError> {
        Ok(Self {
            store: Store::new(words, 1 << ROOT_BITS)?,
            shares: HashMap::new(),
            acquired: Vec::new(),
            released: Vec::new(),
        })
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    fn build(&mut self, runs: Runs<'_, u32>) -> Result<(), LpmError> {
        let leaves = self.leaves(0, ROOT_BITS, 0, 0..1 << ROOT_BITS, runs)?;
        for (word, leaf) in (0..).zip(leaves) {
            self.store.set(word, leaf);
        }
        self.settle(None);
        Ok(())
    }

    fn refresh(
        &mut self,
        rib: &Rib<u32>,
        prefix: &Prefix<u32>,
        runs: &mut Vec<Run<u32>>,
    ) -> Result<(), LpmError> {
        self.refresh_table(rib, (0, 0, ROOT_BITS), prefix, runs)
    }

    fn settle(&mut self, limbo: Option<(&mut Limbo, &Domain)>) {
        self.store.publish();
        self.acquired.clear();
        self.end_shares();
        self.store.finish(limbo);
    }

    fn undo(&mut self) {
        self.released.clear();
        for (what, uses) in self.acquired.drain(..) {
            if let Some(counted) = self.shares.get_mut(&what) {
                counted.users -= uses;
                if counted.users == 0 {
                    self.shares.remove(&what);
                }
            }
        }
        self.store.undo();
    }

    fn own_bytes(&self) -> usize {
        self.shares.capacity() * (size_of::<(Share, Counted)>() + 1)
    }
}
