//! Access lists: look-ups for each set of ClassBench and each way, compiling, one added rule.
//!
//! ```text
//! cargo bench -p benches --bench acl
//! ```

use std::hint::black_box;
use std::path::Path;

use benches::acl_sets::classbench;
use classifier::acl::{BURST, Image, Limits, List, Match, Way};
use classifier::packet::Headers;
use control::bench::acl::{parse_keys, parse_rules};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SETS: [&str; 6] = ["acl1_1k", "fw1_1k", "ipc1_1k", "acl1_10k", "fw1_10k", "ipc1_10k"];

fn load(set: &str) -> Option<(List, Vec<Headers>)> {
    let (rules, keys) = (
        classbench(&format!("{set}.rules"))?,
        classbench(&format!("{set}.keys"))?,
    );
    let list = parse_rules(&rules, Path::new(set)).expect("ClassBench rules");
    let keys = parse_keys(&keys, Path::new(set)).expect("keys");
    Some((list, keys.into_iter().map(|k| k.headers).collect()))
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("acl/lookup");
    for set in SETS {
        let Some((list, keys)) = load(set) else { continue };
        let mut image = Image::compile(&list, &Limits::default()).expect("fits");
        group.throughput(Throughput::Elements(keys.len() as u64));
        for way in Way::available() {
            image = image.with_way(way).expect("available");
            let mut out = [Match::default(); BURST];
            group.bench_function(BenchmarkId::new(set, format!("{way:?}")), |b| {
                b.iter(|| {
                    for burst in keys.chunks(BURST) {
                        image.classify_burst(burst, &mut out);
                        black_box(&out);
                    }
                });
            });
        }
    }
    group.finish();
}

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("acl/compile");
    group.sample_size(10);
    for set in SETS {
        let Some((mut list, _)) = load(set) else { continue };
        // One rule more: what an operator waits for after a change.
        let added = list.rules[list.rules.len() / 2].clone();
        list.rules.insert(0, added);
        group.bench_function(set, |b| {
            b.iter(|| Image::compile(black_box(&list), &Limits::default()).expect("fits"))
        });
    }
    group.finish();
}

criterion_group!(benches, lookups, compile);
criterion_main!(benches);
