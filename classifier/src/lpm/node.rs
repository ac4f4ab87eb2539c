//! The form of an IPv6 image: tables and lists in words of an [`Arena`](super::arena::Arena).
//!
//! Every word that answers is a value, [`NO_ROUTE`], or a reference to a piece for the bits that follow:
//!
//! | piece | words | what it answers |
//! |---|---|---|
//! | table | 2^n, n from 1 to 10, or 16 | n bits of the address, by index |
//! | list | 16, one line: ten keys of 16 bits, then eleven words | 16 bits of the address |
//!
//! A **list** covers 65,536 slots with at most 11 runs (neighbouring slots with one answer). Its keys are the first
//! slots of the runs but the first, ascending, filled up with 0; words stand from the last run to the first. So the
//! word for `x` is number `count(keys > x)`, which is one comparison of 32 bytes.
//!
//! Tables where routes are dense and lists where they are not: the steps with few dependent accesses that IPv6 look-ups
//! need were poptrie's aim, too (Asai, Ohara, SIGCOMM 2015); how many bits a table has follows from what lies under it, as
//! in LC-tries (Nilsson, Karlsson, "IP-address lookup using LC-tries", IEEE JSAC 17(6), 1999).
//!
//! A **reference** has bit 31 set. Bits 28 to 30 are the kind of step, bits 22 to 27 the number of bits to shift 32
//! bits of the address by for the index of a table, bits 0 to 21 the place in lines. No reference is [`NO_ROUTE`].

use super::LpmError;
#[cfg(doc)]
use super::NO_ROUTE;
use super::arena::{Blocks, DIRECT_GRANULES, LINE_WORDS};
use super::store::Store;

/// Keys of a list.
pub(super) const KEYS: usize = 10;
/// Runs of a list.
pub(super) const RUNS: usize = KEYS + 1;
/// Bits that a list answers.
pub(super) const LIST_BITS: u8 = 16;
/// Words of a list's keys.
pub(super) const KEY_WORDS: u32 = 5;
/// Bits of the tables that the root refers to.
pub(super) const DIRECT_BITS: u8 = 16;
/// The most bits of all other tables.
pub(super) const TABLE_BITS: u8 = 10;
/// Bits of a word that are the place.
pub(super) const PLACE: u32 = (1 << 22) - 1;
/// Bits of a word that are the kind.
pub(super) const KIND: u32 = 0xf000_0000;

/// What a reference leads to, and in which step of a burst: the kinds of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// A table below the root, or below one that is below the root.
    Table = 0x8000_0000,
    /// A list below one of those tables.
    List = 0x9000_0000,
    /// A table two steps below the root's tables.
    Last = 0xa000_0000,
    /// A table that is found one address at a time.
    FarTable = 0xc000_0000,
    /// A list that is found one address at a time.
    FarList = 0xd000_0000,
}

/// A decoded reference; places are words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    /// First word, and bits of its index.
    Table(u32, u8),
    /// First word.
    List(u32),
}

/// The word for a piece of a kind. `bits` are those of a table's index.
pub(super) fn reference(kind: Kind, place: u32, bits: u8) -> Result<u32, LpmError> {
    debug_assert!(place.is_multiple_of(LINE_WORDS));
    let line = place / LINE_WORDS;
    if line > PLACE {
        return Err(LpmError::Memory);
    }
    Ok(kind as u32 | u32::from(32 - bits) << 22 | line)
}

/// Whether a word is a reference.
#[inline(always)]
pub(super) fn refers(word: u32) -> bool {
    (word as i32) < -1
}

/// Whether a word is a reference of this kind.
#[inline(always)]
pub(super) fn is(word: u32, kind: Kind) -> bool {
    word & KIND == kind as u32
}

/// First word of what a reference leads to.
#[inline(always)]
pub(super) fn place(word: u32) -> u32 {
    (word & PLACE) * LINE_WORDS
}

/// How far 32 bits of the address are shifted for the index of a table.
#[inline(always)]
pub(super) fn shift(word: u32) -> u32 {
    word >> 22 & 63
}

/// What a word refers to; `None` for values.
#[inline]
pub(super) fn node(word: u32) -> Option<Node> {
    if !refers(word) {
        return None;
    }
    Some(if is(word, Kind::List) || is(word, Kind::FarList) {
        Node::List(place(word))
    } else {
        Node::Table(place(word), (32 - shift(word)) as u8)
    })
}

/// Granules of a table.
pub(super) fn table_granules(bits: u8) -> u32 {
    if bits == DIRECT_BITS {
        DIRECT_GRANULES
    } else {
        Blocks::granules((1u32 << bits).next_multiple_of(LINE_WORDS))
    }
}

/// Granules of a list.
pub(super) fn list_granules() -> u32 {
    Blocks::granules(LINE_WORDS)
}

/// Writes a list into a block that no reader knows: runs as (first slot, word), ascending, the first at slot 0.
pub(super) fn write_list(store: &Store, list: u32, runs: &[(u16, u32)]) {
    debug_assert!(!runs.is_empty() && runs.len() <= RUNS && runs[0].0 == 0);
    let mut keys = [0u8; KEYS * 2];
    for (at, (slot, _)) in runs[1..].iter().enumerate() {
        // Readers load the keys as numbers of 16 bits.
        keys[at * 2..at * 2 + 2].copy_from_slice(&slot.to_ne_bytes());
    }
    for (word, four) in (list..).zip(keys.chunks_exact(4)) {
        store.write(word, u32::from_ne_bytes(four.try_into().expect("chunks of four")));
    }
    for (word, (_, answer)) in (list + KEY_WORDS..).zip(runs.iter().rev()) {
        store.write(word, *answer);
    }
}

/// Words of a list, from the last run to the first.
pub(super) fn list_words(store: &Store, list: u32) -> impl Iterator<Item = u32> {
    let keys = (list..list + KEY_WORDS)
        .flat_map(|word| {
            let two = store.get(word);
            [two & 0xffff, two >> 16]
        })
        .filter(|key| *key != 0)
        .count() as u32;
    (list + KEY_WORDS..=list + KEY_WORDS + keys).map(|word| store.get(word))
}
