//! The slowest traffic that can be found for an access list.
//!
//! Candidates: packets that match nothing, packets drawn from the whole header space, every rule's corners shuffled, and
//! what a seeded search finds. The search keeps a sequence of packets and numbers its steps: step n replaces a part of the
//! sequence by packets of the other candidates, or by mixtures of these with its own; what is drawn follows from the seed and
//! n alone. A step is kept when the sequence has become slower, so that the seed and the numbers of the steps that were kept
//! are the sequence. `acl_worst.txt` holds those of ten minutes of search for each set; they are measured in every run.

use std::time::Instant;

use classifier::acl::{Addresses, Image, List};
use classifier::lpm::IpPrefix;
use classifier::packet::{Family, Headers};
use control::bench::acl::{headers, rate};

use crate::acl_sets::{Rng, mix};
use crate::report;

/// Packets in a sequence: more than a first-level cache holds of what they touch.
const LENGTH: usize = 8192;
/// Seed of all that is drawn.
const SEED: u64 = 3;
/// Sequences found before: the name of a set, a colon, the numbers of the steps that were kept. Lines that begin with `#` say
/// how they were found.
const FOUND: &str = include_str!("acl_worst.txt");
/// Turns in which the average and a candidate are measured.
const TURNS: usize = 5;

/// What was found for a list.
pub struct Worst {
    /// The slowest traffic.
    pub name: &'static str,
    /// Its speed as a share of the speed over the keys.
    pub share: f64,
    /// Steps that a search kept.
    pub steps: Vec<u64>,
}

/// Measures all candidates in turn with the keys, after `seconds` of search.
pub fn worst(set: &str, image: &Image, list: &List, keys: &[Headers], seconds: f64) -> Worst {
    let average: Vec<Headers> = keys.iter().cycle().take(LENGTH).copied().collect();
    let pools = Pools::draw(image, list, keys);
    let found = FOUND.lines().find_map(|line| {
        let (name, steps) = line.split_once(':')?;
        let steps = steps
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u64>, _>>();
        (name == set).then_some(steps.ok()?)
    });
    let mut candidates = vec![
        ("uniform", pools.uniform.clone()),
        ("corners", pools.corners.clone()),
    ];
    if !pools.misses.is_empty() {
        let misses = pools.misses.iter().cycle().take(LENGTH);
        candidates.push(("misses", misses.copied().collect()));
    }
    let pool = pools.all();
    if let Some(steps) = found {
        candidates.push(("search", replay(&pool, &steps)));
    }
    let mut steps = Vec::new();
    if seconds > 0.0 {
        steps = search(image, &pool, seconds);
        candidates.push(("search", replay(&pool, &steps)));
    }
    let shares = candidates.iter().map(|(name, sequence)| {
        let (mut usual, mut slow) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            usual.push(rate(image, &average, 10));
            slow.push(rate(image, sequence, 10));
        }
        (*name, report::median(&slow) / report::median(&usual))
    });
    let (name, share) = shares.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(("none", 1.0));
    Worst { name, share, steps }
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
    let len = 1 + rng.below(LENGTH as u64 / 4) as usize;
    // One kind of change for the whole part, or each packet another one.
    let kind = rng.below(5);
    for slot in sequence.iter_mut().skip(from).take(len) {
        let (a, b) = (pick(pool, &mut rng), *slot);
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

fn search(image: &Image, pool: &[Headers], seconds: f64) -> Vec<u64> {
    let mut sequence = replay(pool, &[]);
    let mut kept = Vec::new();
    let start = Instant::now();
    for number in 0.. {
        if start.elapsed().as_secs_f64() >= seconds {
            break;
        }
        let mut next = sequence.clone();
        step(&mut next, pool, number);
        // A pause of the machine looks like slow traffic: a step counts when the new sequence is clearly slower four times in turn.
        let slower = || rate(image, &next, 3) < 0.99 * rate(image, &sequence, 3);
        if (0..4).all(|_| slower()) {
            sequence = next;
            kept.push(number);
        }
    }
    kept
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
    }
}
