//! The arena's memory and its blocks, small enough for Miri.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::*;

#[test]
fn memory_is_zeroed_and_begins_with_a_line() {
    let arena = Arena::new(100).unwrap();
    assert_eq!(arena.words(), 112, "rounded up to a line");
    assert_eq!(arena.base() as usize % LINE, 0);
    for index in 0..112 {
        assert_eq!(arena.word(index).load(Relaxed), 0);
        arena.word(index).store(index + 1, Relaxed);
    }
    // SAFETY: under test: inside the arena, and nobody writes.
    assert!((0..112).all(|index| unsafe { *arena.base().add(index) } == index as u32 + 1));
    assert!(Arena::new(usize::MAX / 4).is_err(), "more than there can be");
}

#[test]
#[should_panic(expected = "outside of the arena")]
fn a_word_outside_is_refused() {
    Arena::new(16).unwrap().word(16);
}

/// xorshift64*: the same sizes in every run.
fn below(state: &mut u64, limit: u32) -> u32 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as u32 % limit
}

#[test]
fn blocks_never_overlap_and_keep_to_lines() {
    let words = 4096;
    let mut blocks = Blocks::new(6, words as usize);
    let (mut used, mut live) = (vec![false; words as usize], Vec::new());
    let mut state = 7;
    for _ in 0..if cfg!(miri) { 60 } else { 2000 } {
        if live.is_empty() || below(&mut state, 5) > 1 {
            let most = if below(&mut state, 4) == 0 {
                64
            } else {
                LINE_GRANULES
            };
            let granules = 1 + below(&mut state, most);
            let Ok(first) = blocks.take(granules) else {
                continue;
            };
            let place = first % LINE_WORDS;
            let fits = place + granules * GRANULE <= LINE_WORDS;
            assert!(fits || place == 0, "{granules} granules at word {first}");
            for word in first..first + granules * GRANULE {
                assert!(
                    !std::mem::replace(&mut used[word as usize], true),
                    "word {word} twice"
                );
            }
            live.push((first, granules));
        } else {
            let (first, granules) = live.swap_remove(below(&mut state, live.len() as u32) as usize);
            for word in first..first + granules * GRANULE {
                used[word as usize] = false;
            }
            blocks.give(first, granules);
        }
        // What is not in use is free: nothing is lost, and nothing is there twice.
        let taken: usize = live
            .iter()
            .map(|(_, granules)| (granules * GRANULE) as usize)
            .sum();
        let from = (6 / GRANULE).next_multiple_of(LINE_GRANULES) * GRANULE;
        assert_eq!(taken + blocks.free_words(), (blocks.used_words() - from) as usize);
    }
}

/// A writer that replaces blocks while readers follow the root into them with plain reads: a block is reused only when every reader has
/// passed. Miri and the sanitizers see a read beside a write where it is not.
#[test]
fn readers_follow_blocks_that_are_reused() {
    let domain = Domain::new();
    let arena = Arena::new(4 * LINE_WORDS as usize).unwrap();
    // The first line holds the root.
    let mut blocks = Blocks::new(LINE_WORDS, arena.words());
    let mut limbo = Limbo::default();
    let fill = |block: u32, value: u32| {
        for word in block..block + LINE_WORDS {
            arena.word(word).store(value, Relaxed);
        }
        arena.word(0).store(block, Release);
    };
    let mut current = blocks.take(LINE_GRANULES).unwrap();
    fill(current, 0);
    let last = if cfg!(miri) { 60 } else { 20_000 };
    let mut updates = 0;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (mut reader, arena) = (domain.register(), &arena);
            scope.spawn(move || {
                let mut newest = 0;
                while newest < last {
                    {
                        let _online = reader.online();
                        let block = arena.word(0).load(Acquire) as usize;
                        // SAFETY: under test: a published block is not written while a reader may be in it.
                        let seen: [u32; LINE_WORDS as usize] = unsafe {
                            arena
                                .base()
                                .add(block)
                                .cast::<[u32; LINE_WORDS as usize]>()
                                .read()
                        };
                        assert!(seen.iter().all(|word| *word == seen[0]), "{seen:?}");
                        assert!(seen[0] >= newest, "an older answer after a newer one");
                        newest = seen[0];
                    }
                    reader.quiescent();
                    std::thread::yield_now();
                }
            });
        }
        while updates < last {
            limbo.reclaim(&domain, &mut blocks);
            let Ok(next) = blocks.take(LINE_GRANULES) else {
                std::thread::yield_now();
                continue;
            };
            updates += 1;
            fill(next, updates);
            limbo.put(&domain, [(std::mem::replace(&mut current, next), LINE_GRANULES)]);
        }
    });
    limbo.reclaim(&domain, &mut blocks);
    assert_eq!(limbo.words(), 0, "every reader has left");
}
