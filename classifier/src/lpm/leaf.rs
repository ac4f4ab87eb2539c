//! The form of an image: leaves, tables and search nodes in words of an [`Arena`].
//!
//! | piece | words | what it answers |
//! |---|---|---|
//! | table | 2^n, each the place of a leaf | n bits of the address, by index |
//! | leaf | two of a bit map, then packed entries of 24 bits | 6 bits of the address |
//! | search node | 16 of keys (32 × 16 bits), then one entry a word | 16 bits of the address |
//!
//! A **leaf** covers 64 slots. Neighbouring slots with one answer are a run. Bit `s` of the map is set when a run
//! ends with slot `s`, and entries stand from the last run to the first, so the entry of slot `s` is number
//! `popcount(map >> s) - 1`: no mask is needed. (Compressing a direct table to runs is the idea of DXR: Zec, Rizzo,
//! Mikuc, "DXR: towards a billion routing lookups per second in software", CCR 2012. Finding the run by a population
//! count is poptrie's: Asai, Ohara, "Poptrie", SIGCOMM 2015.)
//!
//! A **search node** covers 65,536 slots of 16 bits with at most 32 runs. Its keys are the first slots of the runs
//! but the first, ascending, filled up with 0; entries stand from the last run to the first. So the entry for `x`
//! is number `count(keys > x)`, which is one comparison of a cache line.
//!
//! An **entry**, sign-extended from 24 bits in a leaf, is a value when it is not negative, -1 when there is no
//! route, and otherwise a reference to a child for what is longer than the slot: bit 0 tells a search node from a
//! table, bits 1 to 22 are its place in cache lines. Values from 2^23 - 1 on do not fit a leaf; they stand in
//! a search node of one run.

use std::sync::atomic::Ordering::{Relaxed, Release};

use super::arena::{Arena, Blocks, LINE_WORDS};
use super::{LpmError, NO_ROUTE, Value};

/// Slots of a leaf.
pub(super) const SLOTS: usize = 64;
/// Keys of a search node.
pub(super) const KEYS: usize = 32;
/// Bits of an entry in a leaf that make up a reference.
const PAYLOAD: u32 = 0x7f_ffff;
/// Values up to this one stand in a leaf's entry.
const MAX_INLINE: Value = PAYLOAD - 1;

/// What a slot answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(pub(super) i32);

/// A decoded reference; places are words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    Table(u32),
    Search(u32),
}

impl Entry {
    pub(super) const NONE: Self = Self(-1);

    /// The entry for a value or [`NO_ROUTE`]; `None` when a leaf cannot hold it.
    pub(super) fn inline(value: Value) -> Option<Self> {
        (value <= MAX_INLINE || value == NO_ROUTE).then_some(Self(value as i32))
    }

    pub(super) fn table(word: u32) -> Result<Self, LpmError> {
        Self::reference(word, 0)
    }

    pub(super) fn search(word: u32) -> Result<Self, LpmError> {
        Self::reference(word, 1)
    }

    fn reference(word: u32, kind: u32) -> Result<Self, LpmError> {
        debug_assert!(word.is_multiple_of(LINE_WORDS));
        let payload = ((word / LINE_WORDS) << 1) | kind;
        // The greatest payload is -1, no route.
        if payload >= PAYLOAD {
            Err(LpmError::Memory)
        } else {
            Ok(Self((payload | !PAYLOAD) as i32))
        }
    }

    #[inline]
    pub(super) fn is_child(self) -> bool {
        self.0 < -1
    }

    #[inline]
    pub(super) fn child(self) -> Option<Child> {
        let word = (self.0 as u32 & PAYLOAD) >> 1;
        match self.0 {
            -1.. => None,
            bits if bits & 1 == 0 => Some(Child::Table(word * LINE_WORDS)),
            _ => Some(Child::Search(word * LINE_WORDS)),
        }
    }
}

/// A leaf's place as it stands in a table: its first word.
pub(super) type LeafRef = u32;

/// Entries of all slots of a leaf.
pub(super) fn decode(arena: &Arena, leaf: LeafRef) -> [Entry; SLOTS] {
    let (map, mut bytes) = (map(arena, leaf), [0; 4 * (SLOTS * 3 / 4)]);
    let runs = map.count_ones();
    for word in 0..(runs * 3).div_ceil(4) {
        let at = word as usize * 4;
        bytes[at..at + 4].copy_from_slice(&arena.word(leaf + 2 + word).load(Relaxed).to_ne_bytes());
    }
    let mut entries = [Entry::NONE; SLOTS];
    for (slot, entry) in entries.iter_mut().enumerate() {
        let at = ((map >> slot).count_ones() as usize - 1) * 3;
        *entry = Entry(i32::from_le_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]) >> 8);
    }
    entries
}

/// A leaf's entry for one slot.
pub(super) fn entry(arena: &Arena, leaf: LeafRef, slot: usize) -> Entry {
    decode(arena, leaf)[slot]
}

fn map(arena: &Arena, leaf: LeafRef) -> u64 {
    // Byte order of memory: readers load the map as one u64.
    let halves = [
        arena.word(leaf).load(Relaxed).to_ne_bytes(),
        arena.word(leaf + 1).load(Relaxed).to_ne_bytes(),
    ];
    u64::from_ne_bytes(halves.concat().try_into().expect("two words are eight bytes"))
}

/// The entry of a leaf that has only one run.
pub(super) fn single(arena: &Arena, leaf: LeafRef) -> Option<Entry> {
    (map(arena, leaf) == 1 << 63).then(|| entry(arena, leaf, 0))
}

/// First word and granules of a leaf's block.
pub(super) fn block(arena: &Arena, leaf: LeafRef) -> (u32, u32) {
    let runs = map(arena, leaf).count_ones();
    (leaf, granules(runs))
}

fn granules(runs: u32) -> u32 {
    Blocks::granules(2 + (runs * 3).div_ceil(4))
}

/// Writes a leaf into a block of its own, which no reader knows yet. Returns its place and size.
pub(super) fn write(
    arena: &Arena,
    blocks: &mut Blocks,
    entries: &[Entry; SLOTS],
) -> Result<(LeafRef, u32), LpmError> {
    let (mut map, mut runs) = (0u64, 0usize);
    let mut bytes = [0u8; SLOTS * 3];
    for slot in (0..SLOTS).rev() {
        if slot == SLOTS - 1 || entries[slot] != entries[slot + 1] {
            map |= 1 << slot;
            bytes[runs * 3..runs * 3 + 3].copy_from_slice(&entries[slot].0.to_le_bytes()[..3]);
            runs += 1;
        }
    }
    let size = granules(runs as u32);
    let leaf = blocks.take(size)?;
    let map = map.to_ne_bytes();
    for (word, four) in map
        .chunks_exact(4)
        .chain(bytes[..(runs * 3).next_multiple_of(4)].chunks_exact(4))
        .enumerate()
    {
        let four = u32::from_ne_bytes(four.try_into().expect("chunks of four"));
        arena.word(leaf + word as u32).store(four, Relaxed);
    }
    Ok((leaf, size))
}

/// Granules of a search node.
fn search_granules(runs: usize) -> u32 {
    Blocks::granules((LINE_WORDS + runs as u32).next_multiple_of(LINE_WORDS))
}

/// Writes a search node into a block of its own: runs as (first slot, entry), ascending, the first at slot 0.
/// Returns its first word and size.
pub(super) fn write_search(
    arena: &Arena,
    blocks: &mut Blocks,
    runs: &[(u16, Entry)],
) -> Result<(u32, u32), LpmError> {
    debug_assert!(!runs.is_empty() && runs.len() <= KEYS && runs[0].0 == 0);
    let size = search_granules(runs.len());
    let node = blocks.take(size)?;
    let mut keys = [0u8; KEYS * 2];
    for (at, (slot, _)) in runs[1..].iter().enumerate() {
        keys[at * 2..at * 2 + 2].copy_from_slice(&slot.to_le_bytes());
    }
    for (word, four) in keys.chunks_exact(4).enumerate() {
        let four = u32::from_ne_bytes(four.try_into().expect("chunks of four"));
        arena.word(node + word as u32).store(four, Relaxed);
    }
    for (at, (_, entry)) in runs.iter().rev().enumerate() {
        arena
            .word(node + LINE_WORDS + at as u32)
            .store(entry.0 as u32, Relaxed);
    }
    Ok((node, size))
}

/// Entries of a search node, from the last run to the first, and the granules of its block.
pub(super) fn read_search(arena: &Arena, node: u32) -> (Vec<Entry>, u32) {
    let keys = (0..LINE_WORDS).map(|word| arena.word(node + word).load(Relaxed));
    let runs = 1 + keys
        .flat_map(|two| [two & 0xffff, two >> 16])
        .filter(|key| *key != 0)
        .count();
    let entry = |at: usize| Entry(arena.word(node + LINE_WORDS + at as u32).load(Relaxed) as i32);
    ((0..runs).map(entry).collect(), search_granules(runs))
}

/// Writes a table into a block of its own. Returns its first word and size.
pub(super) fn write_table(
    arena: &Arena,
    blocks: &mut Blocks,
    leaves: &[LeafRef],
) -> Result<(u32, u32), LpmError> {
    let size = table_granules(leaves.len() as u32);
    let table = blocks.take(size)?;
    for (word, leaf) in leaves.iter().enumerate() {
        // Release: a table may be found by a reader that came by an older reference to it.
        arena.word(table + word as u32).store(*leaf, Release);
    }
    Ok((table, size))
}

/// Granules of a table of `words` leaves: whole lines.
pub(super) fn table_granules(words: u32) -> u32 {
    Blocks::granules(words.next_multiple_of(LINE_WORDS))
}
