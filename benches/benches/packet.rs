//! What one packet costs in the stages that need no kernel: parsing, checksums, hashes, and the whole path over plain memory.
//!
//! ```text
//! cargo bench -p benches --bench packet
//! ```

use std::hint::black_box;
use std::net::IpAddr;

use benches::generator::Traffic;
use classifier::{checksum, packet};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forwarder::fib::{AdjState, Adjacency, Group, Member};
use forwarder::path::BURST;
use forwarder::path::offline::Offline;
use forwarder::{PortAttrs, PortId, Settings};

/// 64 packets of 64 bytes to different hosts, as a burst brings them.
fn burst(v6: bool) -> Vec<Vec<u8>> {
    (0..BURST as u16)
        .map(|host| {
            let (src, dst): (IpAddr, IpAddr) = if v6 {
                (
                    [0x2001, 2, 0, 1, 0, 0, 0, 2].into(),
                    [0x2001, 2, 0, 0x8000, 0, 0, 0, host].into(),
                )
            } else {
                ([198, 18, 0, 2].into(), [198, 19, 128, host as u8].into())
            };
            let traffic = Traffic {
                dst_mac: [2; 6],
                src_mac: [4; 6],
                src,
                dst,
                flows: 1,
                size: 64,
            };
            traffic.frame().expect("a frame")
        })
        .collect()
}

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
        let mut node = Offline::new(&Settings::default(), 4096, 2048);
        let port = PortAttrs {
            mtu: 1500,
            up: true,
            ..PortAttrs::default()
        };
        node.open_port(PortId(0), port.clone(), None, None);
        node.open_port(PortId(1), port, None, None);
        let adj = node.fib().add_adjacency(Adjacency {
            port: Some(PortId(1)),
            ifindex: 2,
            neighbour: IpAddr::from([198, 19, 0, 2]),
            mtu: 0,
            state: AdjState::Resolved {
                dst: [6; 6],
                src: [8; 6],
            },
        });
        let members = vec![Member { adj, weight: 1 }];
        let next_hop = node.fib().add_group(Group::Forward {
            members,
            prefsrc: None,
        });
        for prefix in ["198.19.128.0/17", "2001:2:0:8000::/49"] {
            node.fib()
                .insert(254, prefix.parse().expect("a prefix"), next_hop)
                .expect("it fits");
        }
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
