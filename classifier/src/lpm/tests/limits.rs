//! What a table refuses, and what happens where its memory or its quick ways end.

use super::super::*;
use super::engines::{Pair, Random, Wide};
use crate::qsbr::Domain;

#[test]
fn what_is_refused_changes_nothing() {
    for engine in [Engine::Compressed, Engine::Dir24] {
        let domain = Domain::new();
        let mut table = Table::<u32>::with_engine(&domain, engine).unwrap();
        let prefix = Prefix::new(0x0a00_0000, 8).unwrap();
        table.add(prefix, 1).unwrap();
        assert_eq!(
            table.add(prefix, 2),
            Err(LpmError::Duplicate("10.0.0.0/8".into()))
        );
        assert_eq!(
            table.insert(prefix, MAX_VALUE + 1),
            Err(LpmError::Value(MAX_VALUE + 1))
        );
        assert_eq!(
            table.load([(prefix, 3), (prefix, 4)]),
            Err(LpmError::Duplicate("10.0.0.0/8".into()))
        );
        assert_eq!(table.load([(prefix, NO_ROUTE)]), Err(LpmError::Value(NO_ROUTE)));
        assert_eq!(table.remove(Prefix::new(0, 8).unwrap()), Ok(None));
        assert_eq!(table.lookup(0x0a01_0203), Some((prefix, 1)));
        let worker = domain.register();
        assert_eq!(table.reader().lookup(&worker.online(), 0x0a01_0203), 1);
    }
}

/// An image that cannot take more says so, keeps what it has, and goes on when there is room again.
#[test]
fn out_of_memory_is_an_error_and_changes_nothing() {
    let mut pair = Pair::<u32>::new(Engine::Dir24);
    // Each /32 in a /24 of its own takes a kilobyte; the image has room for 131,072 of them.
    let mut full = None;
    for at in 0..200_000u32 {
        let prefix = Prefix::covering(at << 8 | 1, 32);
        match pair.table.insert(prefix, at) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, LpmError::Memory);
                full = Some(at);
                break;
            }
        }
    }
    let full = full.expect("the image has an end");
    assert_eq!(pair.table.get(Prefix::covering(full << 8 | 1, 32)), None);
    assert_eq!(pair.table.len(), full as usize);
    let worker = pair.domain.register();
    let reader = pair.table.reader();
    assert_eq!(reader.lookup(&worker.online(), full << 8 | 1), NO_ROUTE);
    assert_eq!(reader.lookup(&worker.online(), (full - 1) << 8 | 1), full - 1);
    drop(worker);
    pair.table.remove(Prefix::covering(1, 32)).unwrap();
    pair.table.insert(Prefix::covering(full << 8 | 1, 32), 5).unwrap();
}

/// Changes a table with little room until it is full, half of it empty, and full again.
fn fill<A: Wide + shape::Shape>(words: usize, prefix: impl Fn(&mut Random) -> Prefix<A>) {
    let domain = Domain::new();
    let table = Table::with_words(&domain, words).unwrap();
    let mut pair = Pair::<A>::of(domain, table);
    let mut random = Random(23);
    let mut there = Vec::new();
    for round in 0..3 {
        let mut refused = 0;
        for at in 0..20_000 {
            let prefix = prefix(&mut random);
            match pair.try_change(prefix, Some(at)) {
                Ok(()) => there.push(prefix),
                Err(error) => {
                    assert_eq!(error, LpmError::Memory);
                    refused += 1;
                    // Not the first one only: nothing may leak where a change stops half-way.
                    if refused == 50 {
                        break;
                    }
                }
            }
        }
        assert_eq!(refused, 50, "the image has an end (round {round})");
        pair.check([]);
        // What needs more than is there changes nothing, either.
        let much: Vec<_> = (0..20_000).map(|_| prefix(&mut random)).collect();
        let mut many: Vec<_> = much.iter().map(|prefix| (*prefix, 1)).collect();
        many.sort_unstable();
        many.dedup();
        assert_eq!(pair.table.load(many), Err(LpmError::Memory));
        pair.check([]);
        let kept = there.split_off(there.len() / 2);
        for prefix in std::mem::replace(&mut there, kept) {
            // Taking a route out may need room as well.
            if let Err(error) = pair.try_change(prefix, None) {
                assert_eq!(error, LpmError::Memory);
            }
        }
        pair.check([]);
    }
}

#[test]
fn a_full_image_stays_as_it_was_v4() {
    fill::<u32>((1 << 18) + 16_384, |random| {
        let len = 20 + random.below(13) as u8;
        Prefix::covering(random.next() as u32, len)
    });
}

#[test]
fn a_full_image_stays_as_it_was_v6() {
    // Room for two direct tables and a little: either runs out.
    fill::<u128>((1 << 16) * 3 + 16_384, |random| {
        let len = 30 + random.below(60) as u8;
        let top = (0x2001 + u128::from(random.below(2))) << 112;
        Prefix::covering(top | random.wide() >> 20, len)
    });
    fill::<u128>((1 << 16) * 3 + 16_384, |random| {
        Prefix::covering(random.wide(), 48)
    });
}

/// More /16s than there are direct tables for: the others are found another way.
#[test]
fn more_blocks_than_direct_tables() {
    let mut pair = Pair::<u128>::new(Engine::Compressed);
    let mut random = Random(5);
    let routes: Vec<_> = (0..600u128)
        .flat_map(|block| {
            let mut of = |len| Prefix::covering((0x2000 + block) << 112 | random.wide() >> 16, len);
            [of(24), of(32), of(48), of(64), of(128)]
        })
        .collect();
    for (value, prefix) in routes.iter().enumerate() {
        pair.change(*prefix, Some(value as Value));
    }
    pair.check([]);
    for prefix in routes.iter().step_by(2) {
        pair.change(*prefix, None);
    }
    pair.check([]);
    // A short one under all of them.
    pair.change(Prefix::covering(0x2000 << 112, 4), Some(MAX_VALUE));
    pair.check([]);
}

/// IPv4 values from 2^23 - 1 on take a line each beside the leaves, and no more than that; IPv6 values cost all the
/// same.
#[test]
fn great_values_cost_a_line_each() {
    fn bytes<A: Wide>(first: Value) -> usize {
        let mut table = Table::<A>::new(&Domain::new());
        let routes = (0..4_096).map(|at| {
            let prefix = Prefix::covering(A::cut(0x2a << 120 | u128::from(at) << 104), 24);
            (prefix, first + at)
        });
        table.load(routes).unwrap();
        table.image_bytes()
    }
    let least = (1 << 23) - 1;
    assert!(bytes::<u32>(least) <= bytes::<u32>(0) + 4_096 * 64);
    assert!(bytes::<u32>(least) > bytes::<u32>(0));
    assert_eq!(bytes::<u128>(MAX_VALUE - 4_096), bytes::<u128>(0));
}
