//! One list of eight rules over sets of 100,000 members each, next to two look-ups of the LPM engine.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::acl::{
    Action, Addresses, BURST, Image, Limits, List, Match, Origin, PortRange, Protocols, Rule, Set,
};
use classifier::lpm::{IpPrefix, Prefix, Table};
use classifier::packet::{Family, Headers};
use classifier::qsbr::Domain;
use control::bench::acl::headers;

use crate::acl_sets::Rng;
use crate::{Error, Result};

const MEMBERS: usize = 100_000;
const KEYS: usize = 1 << 16;

/// Draws the sets out of a table of IPv4 prefixes (a line each), measures both in turn, and says the medians.
///
/// # Errors
/// Too few prefixes; a list or table that cannot be built.
pub fn measure(prefixes: &str) -> Result<String> {
    let all: Vec<Prefix<u32>> = prefixes
        .lines()
        .filter_map(|l| match l.parse() {
            Ok(IpPrefix::V4(p)) => Some(p),
            _ => None,
        })
        .collect();
    if all.len() < 2 * MEMBERS {
        return Err(Error::new("fewer than 200,000 IPv4 prefixes"));
    }
    let mut rng = Rng(8);
    let sets: Vec<Vec<Prefix<u32>>> = (0..4).map(|_| draw(&all, &mut rng)).collect();
    let list = list(&sets);
    let start = Instant::now();
    let image = Image::compile(&list, &Limits::default()).map_err(|e| Error::new(e.to_string()))?;
    let build = start.elapsed().as_secs_f64();
    let inside =
        |p: &Prefix<u32>, rng: &mut Rng| p.addr() + rng.below(u64::from(p.last() - p.addr()) + 1) as u32;
    let keys: Vec<Headers> = (0..KEYS)
        .map(|_| {
            let (s, d) = (&sets[rng.below(2) as usize], &sets[2 + rng.below(2) as usize]);
            let src = inside(&s[rng.below(MEMBERS as u64) as usize], &mut rng);
            let dst = inside(&d[rng.below(MEMBERS as u64) as usize], &mut rng);
            headers(
                Family::V4,
                src.into(),
                dst.into(),
                4000,
                [80, 443, 53, 9][rng.below(4) as usize],
                6,
            )
        })
        .collect();
    let wrong = keys
        .iter()
        .step_by(997)
        .filter(|k| image.classify(k) != classifier::acl::linear::classify(&list, k))
        .count();

    let domain = Domain::new();
    let table = |set: &[Prefix<u32>]| {
        let mut table = Table::new(&domain);
        table
            .load(set.iter().map(|&p| (p, 1)))
            .map_err(|e| Error::new(e.to_string()))?;
        Ok::<_, Error>(table)
    };
    let tables = (table(&sets[0])?, table(&sets[2])?);
    let (one, two) = (tables.0.reader(), tables.1.reader());
    let reader = domain.register();
    let (src, dst): (Vec<u32>, Vec<u32>) = keys.iter().map(|k| (k.src as u32, k.dst as u32)).unzip();
    let (mut ours, mut lpm) = (Vec::new(), Vec::new());
    let mut out = [Match::default(); BURST];
    let mut hops = [0u32; BURST];
    for _ in 0..7 {
        ours.push(best(|| {
            for burst in keys.chunks(BURST) {
                image.classify_burst(burst, &mut out);
                black_box(&out);
            }
        }));
        let online = reader.online();
        lpm.push(best(|| {
            for (s, d) in src.chunks(BURST).zip(dst.chunks(BURST)) {
                one.lookup_burst(&online, s, &mut hops[..s.len()]);
                black_box(&hops);
                two.lookup_burst(&online, d, &mut hops[..d.len()]);
                black_box(&hops);
            }
        }));
    }
    ours.sort_by(f64::total_cmp);
    lpm.sort_by(f64::total_cmp);
    Ok(format!(
        "8 rules over sets of 100,000 members: {:.1} M/s, two look-ups of the LPM engine {:.1} M/s, ratio {:.2}; \
         build {build:.3} s, {:.1} MiB, {wrong} of {} keys checked differ from the scan",
        ours[3] / 1e6,
        lpm[3] / 1e6,
        ours[3] / lpm[3],
        image.image_bytes() as f64 / 1048576.0,
        KEYS.div_ceil(997)
    ))
}

/// Passes over the keys a second times keys: the best of some rounds.
fn best(mut pass: impl FnMut()) -> f64 {
    (0..12).fold(0.0, |best, _| {
        let (start, mut passes) = (Instant::now(), 0);
        while passes == 0 || start.elapsed() < Duration::from_millis(3) {
            pass();
            passes += 1;
        }
        f64::max(best, (passes * KEYS) as f64 / start.elapsed().as_secs_f64())
    })
}

fn draw(all: &[Prefix<u32>], rng: &mut Rng) -> Vec<Prefix<u32>> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    for i in 0..MEMBERS {
        let j = i + rng.below((order.len() - i) as u64) as usize;
        order.swap(i, j);
    }
    order[..MEMBERS].iter().map(|&i| all[i]).collect()
}

fn list(sets: &[Vec<Prefix<u32>>]) -> List {
    let origin = Origin {
        file: "sets".into(),
        line: 1,
    };
    let sets: Vec<Arc<Set>> = sets
        .iter()
        .enumerate()
        .map(|(i, members)| {
            Arc::new(Set {
                name: format!("s{i}").into(),
                members: members.iter().map(|&p| IpPrefix::V4(p)).collect(),
            })
        })
        .collect();
    let of = |i: usize| Addresses {
        prefixes: Vec::new(),
        sets: vec![sets[i].clone()],
    };
    let rules = (0..8)
        .map(|i| {
            let mut rule = Rule::any(
                if i % 3 == 2 { Action::Deny } else { Action::Allow },
                origin.clone(),
            );
            (rule.src, rule.dst) = (of(i & 1), of(2 + (i >> 1 & 1)));
            rule.protocols = Protocols::number(6);
            let port = [80, 443][i >> 2];
            rule.dport = vec![PortRange { lo: port, hi: port }];
            rule
        })
        .collect();
    List {
        name: "sets".into(),
        default: Action::Deny,
        rules,
        origin,
    }
}
