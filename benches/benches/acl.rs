//! Access lists: look-ups for each set of ClassBench and each way, compiling, one added rule.
//!
//! ```text
//! cargo bench -p benches --bench acl
//! ```

use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};

use classifier::acl::{BURST, Image, Limits, List, Match, Way};
use classifier::packet::Headers;
use control::bench::acl::{parse_keys, parse_rules};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SETS: [&str; 6] = ["acl1_1k", "fw1_1k", "ipc1_1k", "acl1_10k", "fw1_10k", "ipc1_10k"];

fn text(name: &str) -> Option<String> {
    let data = std::env::var_os("MARGAY_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    let path = data.join("classbench").join(format!("{name}.gz"));
    let Ok(file) = std::fs::File::open(&path) else {
        eprintln!("SKIPPED: {} is not there (set MARGAY_DATA)", path.display());
        return None;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .expect("a gzip file");
    Some(text)
}

fn load(set: &str) -> Option<(List, Vec<Headers>)> {
    let (rules, keys) = (text(&format!("{set}.rules"))?, text(&format!("{set}.keys"))?);
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
