//! The slowest traffic that can be found for an access list.
//!
//! Candidates: packets that match nothing, packets drawn from the whole header space, every rule's corners shuffled, and
//! what a seeded search finds. The search keeps a sequence of packets and numbers its steps: step n replaces a part of the
//! sequence by packets of the other candidates or of another part, or by mixtures of these with what was there; what is drawn
//! follows from the seed and n alone. A step is kept when the sequence has become slower, so that the seed and the numbers of
//! the steps that were kept are the sequence. `acl_worst.txt` holds what was found; it is measured in every run, and a search
//! goes on from there.
//!
//! Costs are CPU time of the measuring thread, of two sequences in turn, and the least of each counts: what else the machine
//! does makes a search longer and changes little of what it finds.

use classifier::acl::{Addresses, BURST, Image, List, Match};
use classifier::lpm::IpPrefix;
use classifier::packet::{Family, Headers};
use control::bench::acl::headers;

use crate::acl_sets::{Rng, mix};
use crate::sys;

/// Packets in a sequence: more than a first-level cache holds of what they touch.
const LENGTH: usize = 8192;
/// Seed of all that is drawn.
const SEED: u64 = 3;
/// Sequences found before: the name of a set, a colon, the numbers of the steps that were kept. Lines that begin with `#` say
/// how they were found.
const FOUND: &str = include_str!("acl_worst.txt");
/// Turns in which the average and a candidate are measured.
const TURNS: usize = 30;

/// What was found for a list.
pub struct Worst {
    /// The slowest traffic.
    pub name: &'static str,
    /// Its speed as a share of the speed over the keys.
    pub share: f64,
    /// The search, if there was one.
    pub search: Option<Search>,
}

/// What a search did.
pub struct Search {
    /// Steps that make the sequence, those found before included.
    pub steps: Vec<u64>,
    /// Steps tried this time.
    pub tried: u64,
    /// CPU seconds of this time.
    pub seconds: f64,
}

/// Measures all candidates in turn with the keys, after `seconds` of CPU time of search; an interrupt ends the search early.
pub fn worst(set: &str, image: &Image, list: &List, keys: &[Headers], seconds: f64) -> Worst {
    let average: Vec<Headers> = keys.iter().cycle().take(LENGTH).copied().collect();
    let pools = Pools::draw(image, list, keys);
    let mut candidates = vec![
        ("uniform", pools.uniform.clone()),
        ("corners", pools.corners.clone()),
    ];
    if !pools.misses.is_empty() {
        let misses = pools.misses.iter().cycle().take(LENGTH);
        candidates.push(("misses", misses.copied().collect()));
    }
    let pool = pools.all();
    let found = found(set);
    let search = (seconds > 0.0).then(|| search(image, &pool, &found, seconds));
    let steps = search.as_ref().map_or(&found, |search| &search.steps);
    if !steps.is_empty() {
        candidates.push(("search", replay(&pool, steps)));
    }
    let shares = candidates
        .iter()
        .map(|(name, sequence)| (*name, slower(image, &average, sequence, TURNS)));
    let (name, share) = shares.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(("none", 1.0));
    Worst { name, share, search }
}

/// The steps that were found before for a set.
fn found(set: &str) -> Vec<u64> {
    let line = FOUND
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let (name, steps) = line.split_once(':')?;
            (name == set).then_some(steps)
        });
    let steps = line.unwrap_or_default().split_whitespace();
    steps.filter_map(|step| step.parse().ok()).collect()
}

/// The cost of `a` as a multiple of the cost of `b`: they are passed over in turn, and the cheapest pass of each counts.
fn slower(image: &Image, a: &[Headers], b: &[Headers], turns: usize) -> f64 {
    let (mut cost_a, mut cost_b) = (u64::MAX, u64::MAX);
    for _ in 0..turns {
        cost_a = cost_a.min(cost(image, a));
        cost_b = cost_b.min(cost(image, b));
    }
    cost_a as f64 / cost_b as f64
}

/// Nanoseconds of CPU time that a pass over a sequence takes: the least of three, after one that fills the caches.
fn cost(image: &Image, sequence: &[Headers]) -> u64 {
    let mut out = [Match::default(); BURST];
    let mut pass = || {
        let start = sys::thread_ns();
        for burst in sequence.chunks(BURST) {
            image.classify_burst(burst, &mut out);
            std::hint::black_box(&out);
        }
        sys::thread_ns() - start
    };
    pass();
    (0..3).map(|_| pass()).min().unwrap_or(u64::MAX)
}

/// What the search draws from.
struct Pools {
    misses: Vec<Headers>,
    uniform: Vec<Headers>,
    corners: Vec<Headers>,
}

impl Pools {
    fn draw(image: &Image, list: &List, keys: &[Headers]) -> Pools {
        let mut rng = Rng(SEED);
        let family = keys.first().map_or(Family::V4, |key| key.family);
        let missed = keys.iter().filter(|key| image.classify(key).rule < 0);
        Pools {
            misses: missed.take(LENGTH).copied().collect(),
            uniform: (0..LENGTH).map(|_| anything(family, &mut rng)).collect(),
            corners: (0..LENGTH).map(|_| corner(list, family, &mut rng)).collect(),
        }
    }

    fn all(&self) -> Vec<Headers> {
        [&self.misses[..], &self.uniform, &self.corners].concat()
    }
}

/// The sequence that the search begins with, after these steps.
fn replay(pool: &[Headers], steps: &[u64]) -> Vec<Headers> {
    let mut rng = Rng(SEED);
    let mut sequence: Vec<Headers> = (0..LENGTH).map(|_| pick(pool, &mut rng)).collect();
    for &number in steps {
        step(&mut sequence, pool, number);
    }
    sequence
}

/// Step `number` of the search.
fn step(sequence: &mut [Headers], pool: &[Headers], number: u64) {
    let mut rng = Rng(SEED ^ mix(number + 1));
    let from = rng.below(LENGTH as u64) as usize;
    let len = 64 << rng.below(6);
    // One kind of change for the whole part, or each packet another one.
    let kind = rng.below(5);
    // Packets of another part spread what has been found slow.
    let other = (rng.below(3) == 0).then(|| (sequence.to_vec(), rng.below(LENGTH as u64) as usize));
    for (i, slot) in sequence.iter_mut().skip(from).take(len).enumerate() {
        let a = match &other {
            Some((sequence, at)) => sequence[(at + i) % LENGTH],
            None => pick(pool, &mut rng),
        };
        let b = *slot;
        let kind = if kind == 4 { rng.below(4) } else { kind };
        *slot = match kind {
            0 => Headers { src: a.src, ..b },
            1 => Headers { dst: a.dst, ..b },
            2 => Headers {
                sport: a.sport,
                dport: a.dport,
                proto: a.proto,
                ..b
            },
            _ => a,
        };
    }
}

fn pick(pool: &[Headers], rng: &mut Rng) -> Headers {
    pool[rng.below(pool.len() as u64) as usize]
}

/// Goes on from the steps that were found before, with the steps behind the last of them.
fn search(image: &Image, pool: &[Headers], found: &[u64], seconds: f64) -> Search {
    let mut sequence = replay(pool, found);
    let mut steps = found.to_vec();
    let first = found.last().map_or(0, |last| last + 1);
    let start = sys::thread_ns();
    let spent = || (sys::thread_ns() - start) as f64 / 1e9;
    let mut number = first;
    while spent() < seconds && sys::check_interrupt().is_ok() {
        let mut next = sequence.clone();
        step(&mut next, pool, number);
        // A glance first; what looks slower is looked at longer.
        if slower(image, &next, &sequence, 2) > 1.002 && slower(image, &next, &sequence, 12) > 1.003 {
            sequence = next;
            steps.push(number);
        }
        number += 1;
    }
    Search {
        steps,
        tried: number - first,
        seconds: spent(),
    }
}

fn anything(family: Family, rng: &mut Rng) -> Headers {
    let mut addr = || match family {
        Family::V4 => u128::from(rng.draw() as u32),
        Family::V6 => u128::from(rng.draw()) << 64 | u128::from(rng.draw()),
    };
    let (src, dst) = (addr(), addr());
    let ports = rng.draw();
    headers(
        family,
        src,
        dst,
        ports as u16,
        (ports >> 16) as u16,
        (ports >> 32) as u8,
    )
}

fn corner(list: &List, family: Family, rng: &mut Rng) -> Headers {
    let rule = &list.rules[rng.below(list.rules.len() as u64) as usize];
    let mut side = |a: &Addresses| {
        let (lo, hi) = match a.prefixes.first() {
            Some(IpPrefix::V4(p)) => (u128::from(p.addr()), u128::from(p.last())),
            Some(IpPrefix::V6(p)) => (p.addr(), p.last()),
            None => (0, u128::MAX),
        };
        if rng.below(2) == 0 { lo } else { hi }
    };
    let (src, dst) = (side(&rule.src), side(&rule.dst));
    let port = |r: &[classifier::acl::PortRange], low: bool| match r.first() {
        Some(r) if low => r.lo,
        Some(r) => r.hi,
        None if low => 0,
        None => u16::MAX,
    };
    let (low, other) = (rng.below(2) == 0, rng.below(2) == 0);
    let set = rule.protocols_of(family);
    let proto = (0..=255).find(|&n| set.contains(n)).unwrap_or(0);
    headers(
        family,
        src,
        dst,
        port(&rule.sport, low),
        port(&rule.dport, other),
        proto,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_sequences_are_those_of_their_steps() {
        for line in FOUND.lines().filter(|line| !line.starts_with('#')) {
            let (set, steps) = line.split_once(':').expect("a set and its steps");
            assert!(set.contains("k"), "{line}");
            assert!(
                steps.split_whitespace().all(|step| step.parse::<u64>().is_ok()),
                "{line}"
            );
        }
        let pool: Vec<Headers> = (0..100)
            .map(|n| headers(Family::V4, n, n + 1, n as u16, 7, 6))
            .collect();
        assert_eq!(replay(&pool, &[3, 9]), replay(&pool, &[3, 9]));
        assert_ne!(replay(&pool, &[3, 9]), replay(&pool, &[9]));
        assert_eq!((found("acl1_10k").is_empty(), found("none").len()), (false, 0));
    }
}
