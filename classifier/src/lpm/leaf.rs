//! The form of an IPv4 image: leaves and tables in words of an [`Arena`].
//!
//! | piece | words | what it answers |
//! |---|---|---|
//! | table | 2^n, each the place of a leaf | n bits of the address, by index |
//! | leaf | two of a bit map, then packed entries of 24 bits | 6 bits of the address |
//! | wide value | a line, its first word the value | everything |
//!
//! A **leaf** covers 64 slots. Neighbouring slots with one answer are a run. Bit `s` of the map is set when a run
//! ends with slot `s`, and entries stand from the last run to the first, so the entry of slot `s` is number
//! `popcount(map >> s) - 1`: no mask is needed. (Compressing a direct table to runs is the idea of DXR: Zec, Rizzo,
//! Mikuc, "DXR: towards a billion routing lookups per second in software", CCR 2012. Finding the run by a population
//! count is poptrie's: Asai, Ohara, "Poptrie", SIGCOMM 2015.)
//!
//! An **entry**, sign-extended from 24 bits, is a value when it is not negative, -1 when there is no route, and
//! otherwise a reference: bit 0 tells a wide value from a table for what is longer than the slot, bits 1 to 22 are its
//! place in cache lines. Values from 2^23 - 1 on do not fit an entry: each takes a line and one more access.

use std::sync::atomic::Ordering::Relaxed;

use super::arena::{Arena, Blocks, LINE_GRANULES, LINE_WORDS};
use super::store::Store;
use super::{LpmError, NO_ROUTE, Value};

/// Slots of a leaf.
pub(super) const SLOTS: usize = 64;
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
    Wide(u32),
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

    pub(super) fn wide(word: u32) -> Result<Self, LpmError> {
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
    pub(super) fn child(self) -> Option<Child> {
        let word = (self.0 as u32 & PAYLOAD) >> 1;
        match self.0 {
            -1.. => None,
            bits if bits & 1 == 0 => Some(Child::Table(word * LINE_WORDS)),
            _ => Some(Child::Wide(word * LINE_WORDS)),
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

/// Writes a leaf into a block of its own, which no reader knows yet. Returns its place.
pub(super) fn write(store: &mut Store, entries: &[Entry; SLOTS]) -> Result<LeafRef, LpmError> {
    let (mut map, mut runs) = (0u64, 0usize);
    let mut bytes = [0u8; SLOTS * 3];
    for slot in (0..SLOTS).rev() {
        if slot == SLOTS - 1 || entries[slot] != entries[slot + 1] {
            map |= 1 << slot;
            bytes[runs * 3..runs * 3 + 3].copy_from_slice(&entries[slot].0.to_le_bytes()[..3]);
            runs += 1;
        }
    }
    let leaf = store.take(granules(runs as u32))?;
    let map = map.to_ne_bytes();
    for (word, four) in map
        .chunks_exact(4)
        .chain(bytes[..(runs * 3).next_multiple_of(4)].chunks_exact(4))
        .enumerate()
    {
        let four = u32::from_ne_bytes(four.try_into().expect("chunks of four"));
        store.write(leaf + word as u32, four);
    }
    Ok(leaf)
}

/// Writes a wide value into a line of its own. Returns its place.
pub(super) fn write_wide(store: &mut Store, value: Value) -> Result<u32, LpmError> {
    let word = store.take(LINE_GRANULES)?;
    store.write(word, value);
    Ok(word)
}

/// Writes a table into a block of its own. Returns its first word.
pub(super) fn write_table(store: &mut Store, leaves: &[LeafRef]) -> Result<u32, LpmError> {
    let table = store.take(table_granules(leaves.len() as u32))?;
    for (word, leaf) in leaves.iter().enumerate() {
        store.write(table + word as u32, *leaf);
    }
    Ok(table)
}

/// Granules of a table of `words` leaves: whole lines.
pub(super) fn table_granules(words: u32) -> u32 {
    Blocks::granules(words.next_multiple_of(LINE_WORDS))
}
