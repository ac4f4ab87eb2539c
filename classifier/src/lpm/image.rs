//! An image as its writer knows it: how it is built and changed.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use hashbrown::HashMap;

use super::arena::{Arena, Blocks, Limbo};
use super::leaf::{self, Child, Entry, KEYS, LeafRef, SLOTS};
use super::rib::{Rib, Run};
use super::shape::Shape;
use super::{Addr, LpmError, Prefix, Value};
use crate::qsbr::Domain;

/// Bits that a leaf answers.
const LEAF_BITS: u8 = 6;

/// The runs of a region: the first covers its first address, all others begin inside.
type Runs<'a, A> = &'a [Run<A>];

/// Something shared by several words, with how many.
#[derive(Debug, Clone, Copy)]
struct Counted {
    word: u32,
    users: u32,
}

/// What a change has done so far, so that it can be finished or taken back.
#[derive(Debug, Default)]
struct Change {
    /// Table words and what they become.
    stores: Vec<(u32, u32)>,
    /// Blocks (first word, granules) taken.
    taken: Vec<(u32, u32)>,
    /// Blocks that are unreachable once the stores are done.
    dropped: Vec<(u32, u32)>,
    /// Uses of shared pieces that were added, and that end with the stores.
    acquired: Vec<(Share, u32)>,
    released: Vec<(Share, u32)>,
}

/// A shared piece by what it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Share {
    /// The leaf whose slots all have this answer.
    Leaf(Value),
    /// The table whose leaves all have this answer (IPv6, below the root).
    Table(Value),
    /// The search node of a value that does not fit a leaf.
    Wide(Value),
}

/// The image as its writer knows it.
pub(super) struct Image {
    pub(super) arena: Arc<Arena>,
    pub(super) blocks: Blocks,
    shares: HashMap<Share, Counted>,
    change: Change,
}

impl Image {
    pub(super) fn new<A: Shape>() -> Result<Self, LpmError> {
        let arena = Arc::new(Arena::new(A::WORDS)?);
        let blocks = Blocks::new(1 << A::ROOT_BITS, arena.words());
        Ok(Self {
            arena,
            blocks,
            shares: HashMap::new(),
            change: Change::default(),
        })
    }

    /// Bytes of what the writer knows beside the image.
    pub(super) fn own_bytes(&self) -> usize {
        self.blocks.bytes() + self.shares.capacity() * (size_of::<(Share, Counted)>() + 1)
    }

    /// Notes a block as taken by the present change.
    fn took(&mut self, block: (u32, u32)) -> u32 {
        self.change.taken.push(block);
        block.0
    }

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
        self.change.acquired.push((what, uses));
        Ok(word)
    }

    /// The entry for a value, whatever its size.
    fn value_entry(&mut self, value: Value) -> Result<Entry, LpmError> {
        match Entry::inline(value) {
            Some(entry) => Ok(entry),
            None => {
                let node = self.share(Share::Wide(value), 1, |image| {
                    let one = [(0, Entry(value as i32))];
                    let node = leaf::write_search(&image.arena, &mut image.blocks, &one)?;
                    Ok(image.took(node))
                })?;
                Entry::search(node)
            }
        }
    }

    /// The answer of a value or of a wide value's node; `None` for other children.
    fn constant(&self, entry: Entry) -> Option<Value> {
        match entry.child() {
            None => Some(entry.0 as Value),
            Some(Child::Search(node)) => match leaf::read_search(&self.arena, node).0[..] {
                [only] if !only.is_child() => Some(only.0 as Value),
                _ => None,
            },
            Some(Child::Table(_)) => None,
        }
    }

    fn uniform_leaf(&mut self, value: Value, uses: u32) -> Result<LeafRef, LpmError> {
        self.share(Share::Leaf(value), uses, |image| {
            let entries = [image.value_entry(value)?; SLOTS];
            let (place, size) = leaf::write(&image.arena, &mut image.blocks, &entries)?;
            image.took((place, size));
            Ok(place)
        })
    }

    /// A leaf for these entries. Each run of a wide value has been counted by the caller as one use a slot; here
    /// they stay counted so, and are released so.
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
        let (place, size) = leaf::write(&self.arena, &mut self.blocks, entries)?;
        self.took((place, size));
        Ok(place)
    }

    fn release_wide(&mut self, entry: Entry) {
        if entry.is_child()
            && let Some(value) = self.constant(entry)
        {
            self.change.released.push((Share::Wide(value), 1));
        }
    }

    /// A leaf at `depth` for the region that begins at `lo`.
    fn leaf<A: Shape>(&mut self, depth: u8, lo: A, runs: Runs<'_, A>) -> Result<LeafRef, LpmError> {
        if let [(_, value)] = runs {
            return self.uniform_leaf(*value, 1);
        }
        let mut entries = [Entry::NONE; SLOTS];
        let mut rest = runs;
        for (slot, entry) in entries.iter_mut().enumerate() {
            let slot = Prefix::covering(lo.with_bits(depth, LEAF_BITS, slot as u32), depth + LEAF_BITS);
            *entry = self.slot(&slot, &mut rest)?;
        }
        self.write_leaf(&entries)
    }

    /// The entry for one slot; `rest` begins with the run that covers it or an earlier one, and is moved up.
    fn slot<A: Shape>(&mut self, slot: &Prefix<A>, rest: &mut Runs<'_, A>) -> Result<Entry, LpmError> {
        let runs = within(slot, rest);
        match runs {
            [(_, value)] => self.value_entry(*value),
            _ => self.child(slot.len(), slot.addr(), runs),
        }
    }

    /// A child for a slot with several runs, at `depth`.
    fn child<A: Shape>(&mut self, depth: u8, lo: A, runs: Runs<'_, A>) -> Result<Entry, LpmError> {
        if A::DEEP
            && let Some(entry) = self.search_node(depth, lo, runs)?
        {
            return Ok(entry);
        }
        Entry::table(self.table(depth, lo, runs)?)
    }

    /// A search node, or `None` when there are too many runs for one.
    fn search_node<A: Shape>(
        &mut self,
        depth: u8,
        lo: A,
        runs: Runs<'_, A>,
    ) -> Result<Option<Entry>, LpmError> {
        let bits = A::TABLE_BITS + LEAF_BITS;
        // First find out whether it fits, before anything is built below it.
        let mut stretches: Vec<(u16, Runs<'_, A>)> = Vec::with_capacity(KEYS);
        let (mut at, mut rest) = (0u32, runs);
        while at < 1 << bits {
            if stretches.len() == KEYS {
                return Ok(None);
            }
            let slot = Prefix::covering(lo.with_bits(depth, bits, at), depth + bits);
            let inside = within(&slot, &mut rest);
            stretches.push((at as u16, inside));
            at = match (inside, rest) {
                // One answer up to the slot where the next run begins.
                ([_], [_, (next, _), ..]) => next.bits_at(depth, bits),
                ([_], _) => 1 << bits,
                _ => at + 1,
            };
        }
        let mut nodes = Vec::with_capacity(stretches.len());
        for (at, inside) in stretches {
            let entry = match inside {
                // A word holds every value.
                [(_, value)] => Entry(*value as i32),
                _ => self.child(depth + bits, lo.with_bits(depth, bits, at.into()), inside)?,
            };
            nodes.push((at, entry));
        }
        let node = leaf::write_search(&self.arena, &mut self.blocks, &nodes)?;
        Entry::search(self.took(node)).map(Some)
    }

    /// A table at `depth`: its first word.
    fn table<A: Shape>(&mut self, depth: u8, lo: A, runs: Runs<'_, A>) -> Result<u32, LpmError> {
        let leaves = self.leaves(depth, A::TABLE_BITS, lo, 0..1 << A::TABLE_BITS, runs)?;
        let table = leaf::write_table(&self.arena, &mut self.blocks, &leaves)?;
        Ok(self.took(table))
    }

    /// The leaves of some words of a table.
    fn leaves<A: Shape>(
        &mut self,
        depth: u8,
        bits: u8,
        lo: A,
        indices: std::ops::Range<u32>,
        runs: Runs<'_, A>,
    ) -> Result<Vec<LeafRef>, LpmError> {
        let mut rest = runs;
        let mut leaves = Vec::with_capacity(indices.len());
        let mut index = indices.start;
        while index < indices.end {
            let region = Prefix::covering(lo.with_bits(depth, bits, index), depth + bits);
            let inside = within(&region, &mut rest);
            if let [(_, value)] = inside {
                // One answer, for as many leaves as the run goes on.
                let end = match rest {
                    [_, (next, _), ..] if next.masked(depth) == lo => next.bits_at(depth, bits),
                    _ => indices.end,
                };
                let count = end.min(indices.end) - index;
                let leaf = self.uniform_leaf(*value, count)?;
                leaves.extend(std::iter::repeat_n(leaf, count as usize));
                index += count;
            } else {
                leaves.push(self.leaf(region.len(), region.addr(), inside)?);
                index += 1;
            }
        }
        Ok(leaves)
    }

    /// What an IPv6 root's word becomes: the table for 16 bits.
    fn top<A: Shape>(&mut self, lo: A, runs: Runs<'_, A>) -> Result<u32, LpmError> {
        match runs {
            [(_, value)] => self.share(Share::Table(*value), 1, |image| {
                image.table(A::ROOT_BITS, lo, runs)
            }),
            _ => self.table(A::ROOT_BITS, lo, runs),
        }
    }

    /// Notes that a leaf goes, and with it everything below; `uses` words referred to it.
    fn drop_leaf<A: Shape>(&mut self, depth: u8, place: LeafRef, uses: u32) {
        if let Some(entry) = leaf::single(&self.arena, place)
            && let Some(value) = self.constant(entry)
        {
            return self.change.released.push((Share::Leaf(value), uses));
        }
        let mut last = Entry::NONE;
        for entry in leaf::decode(&self.arena, place) {
            if self.constant(entry).is_some() {
                self.release_wide(entry);
            } else if entry != last {
                self.drop_child::<A>(depth + LEAF_BITS, entry);
            }
            last = entry;
        }
        self.change.dropped.push(leaf::block(&self.arena, place));
    }

    fn drop_child<A: Shape>(&mut self, depth: u8, entry: Entry) {
        match entry.child() {
            None => {}
            Some(Child::Table(table)) => self.drop_table::<A>(depth, table),
            Some(Child::Search(node)) => {
                let (entries, size) = leaf::read_search(&self.arena, node);
                for entry in entries {
                    self.drop_child::<A>(depth + A::TABLE_BITS + LEAF_BITS, entry);
                }
                self.change.dropped.push((node, size));
            }
        }
    }

    /// Notes that the leaves go that these words refer to.
    fn drop_leaves<A: Shape>(&mut self, depth: u8, words: std::ops::Range<u32>) {
        let place = |image: &Self, word| image.arena.word(word).load(Relaxed);
        let mut word = words.start;
        while word < words.end {
            let old = place(self, word);
            let same = (word..words.end)
                .take_while(|word| place(self, *word) == old)
                .count() as u32;
            self.drop_leaf::<A>(depth, old, same);
            word += same;
        }
    }

    fn drop_table<A: Shape>(&mut self, depth: u8, table: u32) {
        self.drop_leaves::<A>(depth + A::TABLE_BITS, table..table + (1 << A::TABLE_BITS));
        self.change
            .dropped
            .push((table, leaf::table_granules(1 << A::TABLE_BITS)));
    }

    /// Brings a table up to date with the RIB in `prefix`, which lies inside its region. The table has `bits` bits
    /// behind the first `depth` and begins at word `base`.
    fn refresh_table<A: Shape>(
        &mut self,
        rib: &Rib<A>,
        (base, depth, bits): (u32, u8, u8),
        prefix: &Prefix<A>,
        runs: &mut Vec<Run<A>>,
    ) -> Result<(), LpmError> {
        let leaf_depth = depth + bits;
        let first = prefix.addr().bits_at(depth, bits);
        if prefix.len() <= leaf_depth {
            rib.runs(prefix, runs);
            let lo = prefix.addr().masked(depth);
            let indices = first..prefix.last().bits_at(depth, bits) + 1;

            let words = base + indices.start..base + indices.end;
            let leaves = self.leaves(depth, bits, lo, indices, runs)?;
            self.drop_leaves::<A>(leaf_depth, words.clone());
            self.change.stores.extend(words.zip(leaves));
            return Ok(());
        }
        // The prefix lies in one leaf: only the slots it covers, or lies in, are made anew.
        let word = base + first;
        let old = self.arena.word(word).load(Relaxed);
        let slot_depth = leaf_depth + LEAF_BITS;
        let mut entries = leaf::decode(&self.arena, old);
        let (from, to) = (
            prefix.addr().bits_at(leaf_depth, LEAF_BITS),
            prefix.last().bits_at(leaf_depth, LEAF_BITS),
        );
        let region = Prefix::covering(prefix.addr(), prefix.len().min(slot_depth));
        if prefix.len() > slot_depth
            && let Some(Child::Table(table)) = entries[from as usize].child()
            && rib.has_inside(&region)
        {
            return self.refresh_table(rib, (table, slot_depth, A::TABLE_BITS), prefix, runs);
        }
        rib.runs(&region, runs);
        let mut rest = &runs[..];
        let leaf_lo = prefix.addr().masked(leaf_depth);
        let shared = leaf::single(&self.arena, old).and_then(|entry| self.constant(entry));
        for (slot, entry) in entries.iter_mut().enumerate() {
            if (from..=to).contains(&(slot as u32)) {
                if self.constant(*entry).is_none() {
                    self.drop_child::<A>(slot_depth, *entry);
                } else if shared.is_none() {
                    self.release_wide(*entry);
                }
                let slot =
                    Prefix::covering(leaf_lo.with_bits(leaf_depth, LEAF_BITS, slot as u32), slot_depth);
                *entry = self.slot(&slot, &mut rest)?;
            } else if let Some(value) = shared {
                // A leaf of its own counts its own uses.
                *entry = self.value_entry(value)?;
            }
        }
        let place = self.write_leaf(&entries)?;
        match shared {
            Some(value) => self.change.released.push((Share::Leaf(value), 1)),
            None => self.change.dropped.push(leaf::block(&self.arena, old)),
        }
        self.change.stores.push((word, place));
        Ok(())
    }

    /// Brings the image up to date with the RIB in `prefix`.
    pub(super) fn refresh<A: Shape>(
        &mut self,
        rib: &Rib<A>,
        prefix: &Prefix<A>,
        runs: &mut Vec<Run<A>>,
    ) -> Result<(), LpmError> {
        if !A::DEEP {
            return self.refresh_table(rib, (0, 0, A::ROOT_BITS), prefix, runs);
        }
        let region = Prefix::covering(prefix.addr(), prefix.len().min(A::ROOT_BITS));
        let first = region.addr().bits_at(0, A::ROOT_BITS);
        if prefix.len() > A::ROOT_BITS {
            let table = self.arena.word(first).load(Relaxed);
            if self.shared_table(table).is_none() && rib.has_inside(&region) {
                return self.refresh_table(rib, (table, A::ROOT_BITS, A::TABLE_BITS), prefix, runs);
            }
        }
        rib.runs(&region, runs);
        let mut rest = &runs[..];
        for index in first..=region.last().bits_at(0, A::ROOT_BITS) {
            let part = Prefix::covering(A::default().with_bits(0, A::ROOT_BITS, index), A::ROOT_BITS);
            let table = self.top(part.addr(), within(&part, &mut rest))?;
            let old = self.arena.word(index).load(Relaxed);
            match self.shared_table(old) {
                Some(value) => self.change.released.push((Share::Table(value), 1)),
                None => self.drop_table::<A>(A::ROOT_BITS, old),
            }
            self.change.stores.push((index, table));
        }
        Ok(())
    }

    /// The answer of a table that is shared.
    fn shared_table(&self, table: u32) -> Option<Value> {
        let first = leaf::single(&self.arena, self.arena.word(table).load(Relaxed))?;
        let value = self.constant(first)?;
        (self.shares.get(&Share::Table(value))?.word == table).then_some(value)
    }

    /// Builds everything below a root that no reader knows.
    pub(super) fn build<A: Shape>(&mut self, runs: Runs<'_, A>) -> Result<(), LpmError> {
        let words = if A::DEEP {
            let mut rest = runs;
            let tops = (0..1 << A::ROOT_BITS).map(|index| {
                let part = Prefix::covering(A::default().with_bits(0, A::ROOT_BITS, index), A::ROOT_BITS);
                self.top(part.addr(), within(&part, &mut rest))
            });
            tops.collect::<Result<Vec<_>, _>>()?
        } else {
            self.leaves(0, A::ROOT_BITS, A::default(), 0..1 << A::ROOT_BITS, runs)?
        };
        self.change.stores.extend((0..).zip(words));
        self.settle::<A>(None);
        Ok(())
    }

    /// Makes the change visible, and hands what it no longer needs to `limbo` (`None`: no reader knows the image).
    pub(super) fn settle<A: Shape>(&mut self, limbo: Option<(&mut Limbo, &Domain)>) {
        for (word, value) in std::mem::take(&mut self.change.stores) {
            // Release: the leaf's words come before its place.
            self.arena.word(word).store(value, Release);
        }
        self.change.acquired.clear();
        self.change.taken.clear();
        self.end_shares::<A>();
        let dropped = std::mem::take(&mut self.change.dropped);
        match limbo {
            Some((limbo, domain)) if !dropped.is_empty() => limbo.put(domain, dropped),
            Some(_) => {}
            None => dropped
                .into_iter()
                .for_each(|(word, granules)| self.blocks.give(word, granules)),
        }
    }

    /// Takes the released uses off, and drops what has none left.
    fn end_shares<A: Shape>(&mut self) {
        // Dropping a shared table releases its leaves, and a leaf its wide value.
        while let Some((what, uses)) = self.change.released.pop() {
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
                Share::Table(_) => self.drop_table::<A>(A::ROOT_BITS, word),
                Share::Wide(_) => {
                    let size = leaf::read_search(&self.arena, word).1;
                    self.change.dropped.push((word, size));
                }
                Share::Leaf(value) => {
                    if Entry::inline(value).is_none() {
                        self.change.released.push((Share::Wide(value), 1));
                    }
                    self.change.dropped.push(leaf::block(&self.arena, word));
                }
            }
        }
    }

    /// Takes a change back that could not be finished: nothing of it was visible.
    pub(super) fn undo(&mut self) {
        let change = std::mem::take(&mut self.change);
        for (what, uses) in change.acquired {
            if let Some(counted) = self.shares.get_mut(&what) {
                counted.users -= uses;
                if counted.users == 0 {
                    self.shares.remove(&what);
                }
            }
        }
        for (word, granules) in change.taken {
            self.blocks.give(word, granules);
        }
    }
}

/// The runs of `region`; `rest` moves up to the first of them. `rest` begins at or before the region.
fn within<'a, A: Addr>(region: &Prefix<A>, rest: &mut Runs<'a, A>) -> Runs<'a, A> {
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
