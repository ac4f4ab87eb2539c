//! Look-ups by traffic model, family, engine and instruction set; bulk load; single updates.

use benches::lpm::{Ip, Model, source};
use classifier::lpm::{BURST, Engine, Prefix, Table, Value, Way};
use classifier::qsbr::Domain;
use control::bench::lpm::parse_prefixes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const KEYS: usize = 1 << 18;

fn family<A: Ip>(c: &mut Criterion, name: &str, routes: &[(Prefix<A>, Value)], engines: &[Engine]) {
    for engine in engines {
        let domain = Domain::new();
        let mut table = Table::with_engine(&domain, *engine).expect("a table");
        table.load(routes.iter().copied()).expect("the routes load");
        let mut worker = domain.register();
        let mut group = c.benchmark_group(format!("lpm/{name}/{engine:?}"));
        group.throughput(Throughput::Elements(KEYS as u64));
        for model in Model::ALL {
            let keys = model.keys(routes, KEYS);
            for way in Way::ALL {
                let Some(reader) = table.reader().with_way(way) else {
                    continue;
                };
                // That engine has one way.
                if *engine == Engine::Dir24 && way != Way::Scalar {
                    continue;
                }
                group.bench_function(format!("{}/{way:?}", model.name()), |b| {
                    b.iter(|| {
                        let mut out = [0; BURST];
                        for burst in keys.chunks(BURST) {
                            reader.lookup_burst(&worker.online(), burst, &mut out);
                            std::hint::black_box(&mut out);
                            worker.quiescent();
                        }
                    });
                });
            }
        }
        group.finish();
        let mut group = c.benchmark_group(format!("lpm/{name}/{engine:?}/table"));
        group.sample_size(10);
        group.bench_function("load", |b| {
            b.iter(|| {
                let mut table = Table::with_engine(&Domain::new(), *engine).expect("a table");
                table.load(routes.iter().copied()).expect("the routes load");
                table
            });
        });
        let mut at = 0;
        group.bench_function("update", |b| {
            b.iter(|| {
                // Far from the last one, so that caches do not help.
                at = (at + 1_000_003) % routes.len();
                let (prefix, value) = routes[at];
                table.remove(prefix).expect("a removal");
                table.insert(prefix, value).expect("an insertion")
            });
        });
        group.finish();
    }
}

fn all(c: &mut Criterion) {
    let table = source();
    eprintln!("lpm: routes are from {}", table.origin);
    let routes = parse_prefixes(&table.text, std::path::Path::new(&table.origin)).expect("a prefix a line");
    family(c, "ipv4", &routes.v4, &[Engine::Compressed, Engine::Dir24]);
    family(c, "ipv6", &routes.v6, &[Engine::Compressed]);
}

criterion_group!(benches, all);
criterion_main!(benches);
