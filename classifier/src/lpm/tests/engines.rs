//! The engines against the slow twin, over long random histories and chosen shapes, in every way to look up.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::*;
use crate::qsbr::Domain;

/// A small generator (xorshift64*), so that histories can be long and are the same in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    pub(super) fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// What histories need of a family.
pub(super) trait Wide: Addr {
    fn cut(wide: u128) -> Self;
    fn widen(self) -> u128;
    /// Lengths that matter for the engine's shape.
    const LENGTHS: &'static [u8];
}

impl Wide for u32 {
    fn cut(wide: u128) -> Self {
        (wide >> 96) as u32
    }
    fn widen(self) -> u128 {
        u128::from(self) << 96
    }
    const LENGTHS: &'static [u8] = &[
        0, 1, 8, 12, 16, 17, 18, 19, 22, 23, 24, 25, 26, 27, 29, 30, 31, 32,
    ];
}

impl Wide for u128 {
    fn cut(wide: u128) -> Self {
        wide
    }
    fn widen(self) -> u128 {
        self
    }
    const LENGTHS: &'static [u8] = &[
        0, 3, 12, 15, 16, 17, 20, 26, 28, 29, 31, 32, 33, 36, 40, 42, 44, 46, 47, 48, 49, 56, 58, 63, 64, 65,
        74, 80, 90, 96, 112, 122, 126, 127, 128,
    ];
}

/// A table and its twin, changed together.
pub(super) struct Pair<A: Wide> {
    pub(super) domain: Domain,
    pub(super) table: Table<A>,
    twin: trie::Table<A>,
    /// Prefixes that were ever used: the places worth looking at.
    seen: BTreeSet<Prefix<A>>,
}

impl<A: Wide> Pair<A> {
    pub(super) fn new(engine: Engine) -> Self {
        let domain = Domain::new();
        let table = Table::with_engine(&domain, engine).unwrap();
        Self::of(domain, table)
    }

    /// An empty table of the domain with a twin.
    pub(super) fn of(domain: Domain, table: Table<A>) -> Self {
        let twin = trie::Table::new(&Domain::new());
        Self {
            domain,
            table,
            twin,
            seen: BTreeSet::new(),
        }
    }

    pub(super) fn change(&mut self, prefix: Prefix<A>, value: Option<Value>) {
        self.try_change(prefix, value).unwrap();
    }

    /// Changes both, or neither when the table refuses.
    pub(super) fn try_change(&mut self, prefix: Prefix<A>, value: Option<Value>) -> Result<(), LpmError> {
        self.seen.insert(prefix);
        let was = match value {
            Some(value) => self.table.insert(prefix, value)?,
            None => self.table.remove(prefix)?,
        };
        let expected = match value {
            Some(value) => self.twin.insert(prefix, value).unwrap(),
            None => self.twin.remove(prefix).unwrap(),
        };
        assert_eq!(was, expected, "value of {prefix} before the change");
        assert_eq!(self.table.len(), self.twin.len());
        Ok(())
    }

    /// Compares the answers at every edge of every prefix, and at `extra`.
    pub(super) fn check(&self, extra: impl IntoIterator<Item = A>) {
        let step = |addr: A, by: u128| {
            let unit = 1u128 << (128 - u32::from(A::BITS));
            A::cut(addr.widen().wrapping_add(by.wrapping_mul(unit)))
        };
        let edges = self.seen.iter().flat_map(|prefix| {
            [
                prefix.addr(),
                prefix.last(),
                step(prefix.addr(), u128::MAX),
                step(prefix.last(), 1),
            ]
        });
        let keys: Vec<A> = edges.chain(extra).collect();
        let worker = self.domain.register();
        let online = worker.online();
        let reader = self.table.reader();
        let ways: Vec<_> = Way::ALL.iter().filter_map(|way| reader.with_way(*way)).collect();
        // Bursts of every length up to 64, one after the other.
        let (mut rest, mut length) = (&keys[..], 0);
        while !rest.is_empty() {
            length = length % BURST + 1;
            let (burst, after) = rest.split_at(length.min(rest.len()));
            rest = after;
            for way in &ways {
                let mut out = [0x5555_5555; BURST + 1];
                way.lookup_burst(&online, burst, &mut out);
                for (key, value) in burst.iter().zip(out) {
                    let expected = self.twin.lookup(*key);
                    assert_eq!(
                        value,
                        expected.map_or(NO_ROUTE, |(_, value)| value),
                        "{} by {:?}; the twin says {expected:?}",
                        key.ip(),
                        way.way(),
                    );
                }
                assert!(
                    out[burst.len()..].iter().all(|value| *value == 0x5555_5555),
                    "wrote behind the burst"
                );
            }
            for key in burst {
                assert_eq!(self.table.lookup(*key), self.twin.lookup(*key));
            }
        }
    }
}

fn value(random: &mut Random) -> Value {
    match random.below(8) {
        // Few values, so that neighbours are often equal.
        0..4 => random.below(3) as Value,
        4 => 0x7f_fffd + random.below(4) as Value,
        5 => MAX_VALUE - random.below(2) as Value,
        _ => random.below(1 << 24) as Value,
    }
}

/// A prefix that nests with, touches or repeats one that was used before.
fn related<A: Wide>(random: &mut Random, seen: &[Prefix<A>]) -> Prefix<A> {
    // The shortest ones touch every word: seldom.
    let shortest = if random.below(8) == 0 { 0 } else { 4 };
    let len = A::LENGTHS[shortest + random.below((A::LENGTHS.len() - shortest) as u64) as usize];
    let addr = match (random.below(8), seen.len() as u64) {
        (0, _) | (_, 0) => random.wide(),
        (1, _) => [0, u128::MAX, 1 << 127, u128::MAX >> 1][random.below(4) as usize],
        (kind, count) => {
            let near = seen[random.below(count) as usize];
            match kind {
                // The next block of that size, the same again, or something inside.
                2 => near.last().widen().wrapping_add(1 << (128 - u32::from(A::BITS))),
                3 => return near,
                _ => near.addr().widen() | random.wide() >> near.len().min(127),
            }
        }
    };
    Prefix::covering(A::cut(addr), len)
}

fn history<A: Wide>(seed: u64, engine: Engine, steps: usize) {
    let mut random = Random(seed);
    let mut pair = Pair::<A>::new(engine);
    let mut seen = Vec::new();
    for step in 0..steps {
        let prefix = related(&mut random, &seen);
        seen.push(prefix);
        let change = (random.below(3) > 0).then(|| value(&mut random));
        pair.change(prefix, change);
        if step % (steps / 8) == 0 {
            pair.check((0..64).map(|_| A::cut(random.wide())).collect::<Vec<_>>());
        }
    }
    // Empty it again: nothing may be left of what was built.
    pair.check([]);
    for (at, prefix) in seen.iter().enumerate() {
        pair.change(*prefix, None);
        if at % (steps / 4) == 0 {
            pair.check([]);
        }
    }
    assert!(pair.table.is_empty());
    pair.check([]);
}

#[test]
fn long_histories_v4() {
    for seed in 1..=3 {
        history::<u32>(seed * 0x9e37_79b9, Engine::Compressed, 500);
    }
}

#[test]
fn long_histories_v6() {
    for seed in 1..=3 {
        history::<u128>(seed * 0x9e37_79b9, Engine::Compressed, 500);
    }
}

#[test]
fn long_histories_dir24() {
    // Lengths near 0 rewrite 64 MiB in this engine: one history is enough.
    history::<u32>(0x51ed_270b, Engine::Dir24, 80);
}

/// Many runs in one place: lists grow into tables and the tables go again.
#[test]
fn crowded_slots() {
    let mut random = Random(99);
    let mut pair = Pair::<u128>::new(Engine::Compressed);
    let base = 0x2001_0db8_u128 << 96;
    pair.change(Prefix::covering(base, 32), Some(7));
    let mut inside: Vec<_> = (0..100)
        .map(|_| Prefix::covering(base | random.wide() >> 32, 48))
        .collect();
    for prefix in &inside {
        pair.change(*prefix, Some(random.below(1 << 24) as Value));
    }
    pair.check([]);
    // The prefix around them changes while they stay.
    pair.change(Prefix::covering(base, 32), Some(8));
    pair.change(Prefix::covering(base, 29), Some(MAX_VALUE));
    pair.check([]);
    let deep: Vec<_> = (0..100)
        .map(|_| Prefix::covering(inside[0].addr() | random.wide() >> 48, 128))
        .collect();
    for prefix in &deep {
        pair.change(*prefix, Some(random.below(1 << 24) as Value));
    }
    pair.check([]);
    inside.extend(deep);
    for prefix in inside {
        pair.change(prefix, None);
    }
    pair.check([]);

    let mut pair = Pair::<u32>::new(Engine::Compressed);
    for host in 0..=255 {
        pair.change(Prefix::covering(0x0a00_0100 | host, 32), Some(host));
    }
    pair.check((0..1024).map(|low| 0x0a00_0000 | low));
    for host in (0..=255).step_by(2) {
        pair.change(Prefix::covering(0x0a00_0100 | host, 32), None);
    }
    pair.change(Prefix::covering(0x0a00_0000, 22), Some(MAX_VALUE));
    pair.check((0..1024).map(|low| 0x0a00_0000 | low));
}

#[test]
fn boundaries() {
    let mut pair = Pair::<u32>::new(Engine::Compressed);
    for (addr, len) in [
        (0, 0),
        (u32::MAX, 32),
        (0, 32),
        (0x8000_0000, 1),
        (u32::MAX - 1, 31),
        (0xffff_ff00, 24),
    ] {
        pair.change(Prefix::new(addr, len).unwrap(), Some(addr & MAX_VALUE));
        pair.check([]);
    }
    let mut pair = Pair::<u128>::new(Engine::Compressed);
    for (addr, len) in [
        (0, 0),
        (u128::MAX, 128),
        (0, 128),
        (1 << 127, 1),
        (u128::MAX - 1, 127),
        (u128::MAX << 16, 112),
    ] {
        pair.change(Prefix::new(addr, len).unwrap(), Some(len.into()));
        pair.check([]);
    }
}

/// Everything a table answers after a bulk load equals what it answers after the same routes one by one, and
/// churn gives memory back.
#[test]
fn bulk_load_equals_single_updates() {
    fn run<A: Wide>(engine: Engine) {
        let mut random = Random(7);
        let mut pair = Pair::<A>::new(engine);
        let mut seen = Vec::new();
        for _ in 0..500 {
            let prefix = related::<A>(&mut random, &seen);
            seen.push(prefix);
            pair.change(prefix, Some(value(&mut random)));
        }
        let routes: Vec<_> = pair.table.iter().collect();
        let mut bulk = Pair::<A>::new(engine);
        bulk.table.load(routes.iter().rev().copied()).unwrap();
        (bulk.twin, bulk.seen) = (pair.twin, pair.seen);
        assert_eq!(bulk.table.iter().collect::<Vec<_>>(), routes);
        bulk.check((0..256).map(|_| A::cut(random.wide())));
        // A load on top replaces, and keeps the rest.
        bulk.table.load([(routes[0].0, 1234)]).unwrap();
        bulk.twin.insert(routes[0].0, 1234).unwrap();
        bulk.check([]);
    }
    run::<u32>(Engine::Compressed);
    run::<u32>(Engine::Dir24);
    run::<u128>(Engine::Compressed);
}

#[test]
fn churn_gives_memory_back() {
    let mut random = Random(3);
    let mut pair = Pair::<u32>::new(Engine::Compressed);
    let prefixes: Vec<_> = (0..2_000)
        .map(|_| Prefix::<u32>::covering(random.next() as u32 & 0x00ff_ffff, 24))
        .collect();
    for prefix in &prefixes {
        pair.table
            .insert(*prefix, random.below(1 << 23) as Value)
            .unwrap();
    }
    let before = pair.table.image_bytes();
    for _ in 0..20 {
        for prefix in &prefixes {
            pair.table.remove(*prefix).unwrap();
        }
        for prefix in &prefixes {
            pair.table
                .insert(*prefix, random.below(1 << 23) as Value)
                .unwrap();
        }
    }
    let after = pair.table.image_bytes();
    assert!(
        after < before * 3 / 2,
        "image grew from {before} to {after} bytes under churn"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Short histories that shrink to something a person can follow.
    #[test]
    fn short_histories(
        changes in proptest::collection::vec((any::<u128>(), 0u8..=128, proptest::option::of(0..=MAX_VALUE)), 1..40),
    ) {
        let (mut four, mut six) = (Pair::<u32>::new(Engine::Compressed), Pair::<u128>::new(Engine::Compressed));
        for (addr, len, value) in changes {
            // Few distinct bits, so that prefixes nest.
            let addr = addr & 0xc003_0003_0003_0003_0000_0000_0000_0003;
            // Lengths of 0 to 3 touch every word; the longer histories have them.
            four.change(Prefix::covering((addr >> 96) as u32 | addr as u32, 4 + len % 29), value);
            six.change(Prefix::covering(addr, len.max(4)), value);
        }
        four.check([]);
        six.check([]);
    }
}
