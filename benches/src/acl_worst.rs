//! The slowest traffic that can be found for an access list.
//!
//! Candidates: packets that match nothing, packets drawn from the whole header space, every rule's corners shuffled, and
//! what a seeded search finds: it keeps a sequence of packets, replaces a part of it by packets from the other
//! candidates or by mixtures of two of its own, and goes on from the slower one.

use std::time::Instant;

use classifier::acl::{Addresses, Image, List};
use classifier::lpm::IpPrefix;
use classifier::packet::{Family, Headers};
use control::bench::acl::{headers, rate};

use crate::acl_sets::Rng;

/// Packets in a sequence: more than a first-level cache holds of what they touch.
const LENGTH: usize = 8192;

/// Name and classifications a second of the slowest traffic found.
pub fn worst(
    image: &Image,
    list: &List,
    keys: &[Headers],
    seconds: f64,
    rng: &mut Rng,
) -> (&'static str, f64) {
    let family = keys.first().map_or(Family::V4, |k| k.family);
    let misses: Vec<Headers> = keys
        .iter()
        .copied()
        .filter(|k| image.classify(k).rule < 0)
        .take(LENGTH)
        .collect();
    let uniform: Vec<Headers> = (0..LENGTH).map(|_| anything(family, rng)).collect();
    let corners: Vec<Headers> = (0..keys.len().max(LENGTH))
        .map(|_| corner(list, family, rng))
        .collect();
    let mut found = vec![
        ("uniform", rate(image, &uniform, 30)),
        ("corners", rate(image, &corners, 30)),
    ];
    if !misses.is_empty() {
        found.push(("misses", rate(image, &misses, 30)));
    }
    let pool: Vec<Headers> = misses.iter().chain(&uniform).chain(&corners).copied().collect();
    found.push(("search", search(image, &pool, seconds, rng)));
    found
        .into_iter()
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or(("none", 0.0))
}

fn search(image: &Image, pool: &[Headers], seconds: f64, rng: &mut Rng) -> f64 {
    let pick = |rng: &mut Rng| pool[rng.below(pool.len() as u64) as usize];
    let mut sequence: Vec<Headers> = (0..LENGTH).map(|_| pick(rng)).collect();
    let mut slowest = rate(image, &sequence, 8);
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds {
        let mut next = sequence.clone();
        let from = rng.below(LENGTH as u64) as usize;
        let len = 1 + rng.below(LENGTH as u64 / 4) as usize;
        for slot in next.iter_mut().skip(from).take(len) {
            let (a, b) = (pick(rng), *slot);
            *slot = match rng.below(4) {
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
        let reached = rate(image, &next, 8);
        if reached < slowest {
            (sequence, slowest) = (next, reached);
        }
    }
    // A pause of the machine looks like slow traffic: what was found is measured again.
    rate(image, &sequence, 30)
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
