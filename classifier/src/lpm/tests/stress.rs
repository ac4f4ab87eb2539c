//! Real threads: whatever a reader is told was true at some moment between asking and getting the answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::super::*;
use super::engines::{Random, Wide};
use crate::qsbr::Domain;

/// Prefixes that nest in three depths and share leaves, over and over replaced, removed and inserted. The value of a
/// prefix says which prefix it is and which change it stems from, so that a reader can tell a wrong prefix, a value
/// that was never there, and one that was gone before it asked.
fn churn<A: Wide>(engine: Engine, prefixes: Vec<Prefix<A>>, keys: Vec<A>) {
    const CHANGES: u64 = 6_000;
    let domain = Domain::new();
    let mut table = Table::with_engine(&domain, engine).unwrap();
    let count = prefixes.len() as u64;
    // Which prefixes cover which key, longest first.
    let covers: Vec<Vec<u64>> = keys
        .iter()
        .map(|key| {
            let mut of: Vec<u64> = (0..count)
                .filter(|at| prefixes[*at as usize].contains(*key))
                .collect();
            of.sort_by_key(|at| std::cmp::Reverse(prefixes[*at as usize].len()));
            of
        })
        .collect();
    let value_of = |prefix: u64, change: u64| (change * count + prefix) as Value;
    // Changes begun and finished so far; change c touches prefix `order[c]`.
    let (begun, finished, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    // history[c] = (prefix, value after the change or None).
    let mut random = Random(11);
    let mut history: Vec<(u64, Option<Value>)> = Vec::new();
    for change in 0..CHANGES {
        let prefix = random.below(count);
        let value = (random.below(3) > 0).then(|| value_of(prefix, change % 30) & MAX_VALUE);
        history.push((prefix, value));
    }
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|seed| {
                let (mut worker, reader) = (domain.register(), table.reader());
                let (keys, covers, history, begun, finished, done) =
                    (&keys, &covers, &history, &begun, &finished, &done);
                scope.spawn(move || {
                    let mut random = Random(seed + 77);
                    let mut checked = 0u64;
                    while !done.load(SeqCst) || checked == 0 {
                        let picks: Vec<usize> = (0..BURST)
                            .map(|_| random.below(keys.len() as u64) as usize)
                            .collect();
                        let asked: Vec<A> = picks.iter().map(|at| keys[*at]).collect();
                        let mut out = [0; BURST];
                        let from = finished.load(SeqCst);
                        {
                            let online = worker.online();
                            reader.lookup_burst(&online, &asked, &mut out);
                        }
                        let to = begun.load(SeqCst);
                        worker.quiescent();
                        // One address of the burst is replayed: states from `from` finished changes to `to` begun.
                        let at = random.below(BURST as u64) as usize;
                        let valid = possible(&covers[picks[at]], history, from, to);
                        assert!(
                            valid.contains(&out[at]),
                            "{} got {:#x}, between changes {from} and {to} only {valid:x?} were true",
                            asked[at].ip(),
                            out[at]
                        );
                        checked += 1;
                    }
                    checked
                })
            })
            .collect();
        for (change, (prefix, value)) in history.iter().enumerate() {
            begun.store(change as u64 + 1, SeqCst);
            let prefix = prefixes[*prefix as usize];
            match value {
                Some(value) => table.insert(prefix, *value).map(|_| ()).unwrap(),
                None => table.remove(prefix).map(|_| ()).unwrap(),
            }
            finished.store(change as u64 + 1, SeqCst);
            if change % 1_000 == 0 {
                // A new image under the readers' feet now and then.
                table.load([]).unwrap();
                domain.reclaim();
            }
        }
        done.store(true, SeqCst);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}

/// All answers that were true for an address covered by `covers` after `from` changes, after `to`, or between.
fn possible(covers: &[u64], history: &[(u64, Option<Value>)], from: u64, to: u64) -> Vec<Value> {
    // The state after `from` changes: for each covering prefix the last change that touched it.
    let mut state: Vec<Option<Value>> = covers
        .iter()
        .map(|prefix| {
            history[..from as usize]
                .iter()
                .rev()
                .find(|(of, _)| of == prefix)
                .and_then(|(_, value)| *value)
        })
        .collect();
    let answer = |state: &[Option<Value>]| state.iter().find_map(|value| *value).unwrap_or(NO_ROUTE);
    let mut valid = vec![answer(&state)];
    for (prefix, value) in &history[from as usize..to as usize] {
        if let Some(at) = covers.iter().position(|of| of == prefix) {
            state[at] = *value;
            valid.push(answer(&state));
        }
    }
    valid
}

fn prefixes_v4() -> (Vec<Prefix<u32>>, Vec<u32>) {
    let base = 0x0a00_0000u32;
    let mut prefixes = vec![
        Prefix::covering(base, 8),
        Prefix::covering(base, 14),
        Prefix::covering(base, 18),
    ];
    for at in 0..12 {
        prefixes.push(Prefix::covering(base | at << 8, 24));
        prefixes.push(Prefix::covering(base | at << 8 | 0x11, 32));
        prefixes.push(Prefix::covering(base | at << 14, 20));
    }
    let keys = prefixes
        .iter()
        .flat_map(|prefix| [prefix.addr(), prefix.last(), prefix.addr() | 0x11])
        .collect();
    (prefixes, keys)
}

#[test]
fn readers_under_churn_v4() {
    let (prefixes, keys) = prefixes_v4();
    churn(Engine::Compressed, prefixes, keys);
}

#[test]
fn readers_under_churn_dir24() {
    let (prefixes, keys) = prefixes_v4();
    // Without the /10, which touches 16,384 words at each change.
    churn(Engine::Dir24, prefixes[1..].to_vec(), keys);
}

#[test]
fn readers_under_churn_v6() {
    let base = 0x2001_0db8_u128 << 96;
    let mut prefixes = vec![
        Prefix::covering(base, 12),
        Prefix::covering(base, 29),
        Prefix::covering(base, 32),
    ];
    for at in 0..40u128 {
        prefixes.push(Prefix::covering(base | at << 80, 48));
        prefixes.push(Prefix::covering(base | at << 64, 64));
        prefixes.push(Prefix::covering(base | at, 128));
    }
    let keys = prefixes
        .iter()
        .flat_map(|prefix| [prefix.addr(), prefix.last(), prefix.addr() | 3])
        .collect();
    churn(Engine::Compressed, prefixes, keys);
}
