//! What one packet costs in the stages that need no kernel: parsing, checksums, hashes, and the whole path over plain memory.
//!
//! ```text
//! cargo bench -p benches --bench packet
//! ```

use std::hint::black_box;

use benches::memory::{burst, node};
use classifier::{checksum, packet};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forwarder::PortId;
use forwarder::path::BURST;

fn stages(c: &mut Criterion) {
    let mut group = c.benchmark_group("packet");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, v6) in [("IPv4", false), ("IPv6", true)] {
        let frames = burst(v6);
        let headers: Vec<_> = frames
            .iter()
            .map(|frame| packet::parse(frame).expect("valid"))
            .collect();
        group.bench_function(format!("parse {name}"), |b| {
            b.iter(|| {
                frames
                    .iter()
                    .filter(|frame| packet::parse(black_box(frame)).is_ok())
                    .count()
            })
        });
        group.bench_function(format!("martian {name}"), |b| {
            b.iter(|| {
                headers
                    .iter()
                    .filter(|headers| packet::martian(black_box(headers)).is_none())
                    .count()
            })
        });
        group.bench_function(format!("flow hash {name}"), |b| {
            b.iter(|| {
                headers
                    .iter()
                    .fold(0, |sum, headers| sum ^ black_box(headers).flow_hash_l4(1))
            })
        });
        group.bench_function(format!("test for a partial checksum {name}"), |b| {
            let packets = || frames.iter().zip(&headers);
            b.iter(|| {
                packets()
                    .filter(|(frame, headers)| checksum::is_partial(black_box(frame), headers))
                    .count()
            })
        });
    }
    group.finish();
}

fn path(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, v6) in [("IPv4", false), ("IPv6", true)] {
        let mut node = node(None);
        let frames = burst(v6);
        let packets: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        assert_eq!(node.burst(PortId(0), &packets).forwarded, BURST as u64);
        group.bench_function(format!("burst of 64, {name}, one route"), |b| {
            b.iter_custom(|bursts| (0..bursts).map(|_| node.burst(PortId(0), &packets).elapsed).sum())
        });
    }
    group.finish();
}

criterion_group!(all, stages, path);
criterion_main!(all);
