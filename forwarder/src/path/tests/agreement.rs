//! `explain` and the worker agree: on 100,000 random packets over random tables.

use classifier::acl::{Action, PortRange, Protocols, Rule};
use classifier::packet;
use etherparse::PacketBuilder;

use super::rig::*;
use super::taps::{tap, told};
use crate::fib::VrfTables;
use crate::fib::{AdjState, Adjacency, Group, Member};
use crate::path::explain::{Explanation, Fate, explain};
use crate::reason::Reason;
use crate::settings::Direction::{Egress, Ingress};
use crate::settings::{AntiSpoof, PortId, Settings};
use crate::watch::{End, Point, Record};

const TABLES: u64 = if cfg!(miri) { 2 } else { 250 };
const PACKETS: usize = if cfg!(miri) { 20 } else { 400 };

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// An address of a small world, so that rules and routes meet packets: 10.0-3.0-3.0-3 or 2001:db8:0-3:0-3::0-3.
fn address4(random: &mut Random) -> [u8; 4] {
    match random.below(40) {
        0 => [127, 0, 0, 1],
        1 => [169, 254, 0, 1],
        _ => [
            10,
            random.below(4) as u8,
            random.below(4) as u8,
            random.below(4) as u8,
        ],
    }
}

fn address6(random: &mut Random) -> [u8; 16] {
    let mut address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    address[5] = random.below(4) as u8;
    address[7] = random.below(4) as u8;
    address[15] = random.below(4) as u8;
    if random.chance(40) {
        address[..2].copy_from_slice(&[0xfe, 0x80]);
    }
    address
}

fn prefix(random: &mut Random) -> String {
    if random.chance(2) {
        let length = [8, 15, 16, 22, 24, 30, 32][random.below(7) as usize];
        let bits = u32::from_be_bytes([
            10,
            random.below(4) as u8,
            random.below(4) as u8,
            random.below(4) as u8,
        ]);
        let kept = bits & u32::MAX.checked_shl(32 - length).unwrap_or(0);
        format!("{}/{length}", std::net::Ipv4Addr::from(kept))
    } else {
        let length = [32, 47, 48, 62, 64, 127, 128][random.below(7) as usize];
        let mut address = address6(random);
        address[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        let kept = u128::from_be_bytes(address) & u128::MAX.checked_shl(128 - length).unwrap_or(0);
        format!("{}/{length}", std::net::Ipv6Addr::from(kept))
    }
}

fn rules(random: &mut Random) -> Vec<Rule> {
    let many = random.below(12);
    let mut rules = Vec::new();
    for _ in 0..many {
        let action = [Action::Allow, Action::Deny, Action::Reject][random.below(3) as usize];
        let mut rule = Rule::any(action, nowhere());
        if random.chance(2) {
            rule.src.prefixes.push(prefix(random).parse().unwrap());
        }
        if random.chance(2) {
            rule.dst.prefixes.push(prefix(random).parse().unwrap());
        }
        if random.chance(3) {
            rule.protocols = Protocols::number([1, 6, 17, 58][random.below(4) as usize]);
        }
        if random.chance(3) {
            let lo = random.below(8) as u16;
            rule.dport = vec![PortRange {
                lo,
                hi: lo + random.below(4) as u16,
            }];
        }
        rules.push(rule);
    }
    rules
}

/// A node with tables of which nothing is certain.
fn node(random: &mut Random) -> Rig {
    let mut rig = Rig::with(&Settings {
        // Answers are limited by time, which `explain` knows nothing of.
        icmp_rate: u32::MAX,
        icmp_burst: u32::MAX,
        ..Settings::default()
    });
    let mut adjacencies = rig.adjs.to_vec();
    for number in 0..6 {
        let port = PortId(random.below(3) as u16);
        let state = match random.below(6) {
            0 => AdjState::Unresolved,
            1 => AdjState::Failed,
            2 => AdjState::Down,
            _ => AdjState::Resolved {
                dst: neighbour_mac(port),
                src: mac(port),
            },
        };
        adjacencies.push(rig.fib.add_adjacency(Adjacency {
            port: (!random.chance(8)).then_some(port),
            ifindex: 10 + u32::from(port.0),
            neighbour: [10, port.0 as u8, 9, number].into(),
            mtu: match random.below(6) {
                0 | 1 => 20 + random.below(80) as u32,
                2 => 1300,
                _ => 0,
            },
            state,
        }));
    }
    // The default VRF has the main table; the others have tables of their own, alone or before others.
    let vrfs = [
        (vec![100], vec![100]),
        (vec![101, 100], vec![254]),
        (vec![100, 101, 254], vec![]),
    ];
    let vrfs = vrfs.map(|(v4, v6)| rig.fib.add_vrf(VrfTables { v4, v6 }).unwrap());
    for _ in 0..random.below(32) {
        let group = match random.below(13) {
            12 => Group::Throw,
            0 => Group::Blackhole,
            1 => Group::Prohibit,
            2 => Group::Unreachable,
            3 => Group::NotAPort,
            4 => Group::Local,
            5 => Group::Glean {
                ifindex: 11,
                port: (!random.chance(4)).then_some(WORKLOAD),
            },
            _ => Group::Forward {
                members: (0..=random.below(3))
                    .map(|_| Member {
                        adj: adjacencies[random.below(adjacencies.len() as u64) as usize],
                        weight: 1 + random.below(3) as u16,
                    })
                    .collect(),
                prefsrc: None,
            },
        };
        let table = [254, 254, 100, 101][random.below(4) as usize];
        rig.route_in(table, &prefix(random), group);
    }
    for port in [UPLINK, WORKLOAD, OTHER] {
        let mut spec = spec(port);
        spec.anti_spoof = [AntiSpoof::Off, AntiSpoof::Loose, AntiSpoof::Strict][random.below(3) as usize];
        if random.chance(2) {
            spec.attrs.vrf = vrfs[random.below(3) as usize];
        }
        spec.attrs.up = !random.chance(10);
        spec.attrs.mtu = [60, 1280, 1500, 1500][random.below(4) as usize];
        if random.chance(4) {
            (spec.attrs.icmp4_source, spec.attrs.icmp6_sources) = (None, Vec::new());
        }
        rig.shared.open_port(port, &spec);
        for direction in [Ingress, Egress] {
            if random.chance(2) {
                let default = if random.chance(3) {
                    Action::Deny
                } else {
                    Action::Allow
                };
                let rules = rules(random);
                rig.acl(port, direction, rules, default);
            }
        }
    }
    if random.chance(10) {
        rig.shared.close_port(OTHER);
    }
    rig
}

fn bytes(random: &mut Random) -> Vec<u8> {
    let ttl = if random.chance(20) {
        random.below(2) as u8
    } else {
        64
    };
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 2, 9], [2, 0, 0, 0, 0, 0]);
    let v4 = random.chance(2);
    let builder = if v4 {
        builder.ipv4(address4(random), address4(random), ttl)
    } else {
        builder.ipv6(address6(random), address6(random), ttl)
    };
    let (sport, dport) = (random.below(10) as u16, random.below(10) as u16);
    // Some are larger than the smallest MTU of IPv6.
    let size = if random.chance(4) { 1400 } else { 60 };
    let payload = vec![0x5a; random.below(size) as usize];
    let mut bytes = Vec::new();
    match random.below(3) {
        0 => builder.udp(sport, dport).write(&mut bytes, &payload),
        1 => {
            let tcp = builder.tcp(sport, dport, 1, 1024);
            let tcp = if random.chance(2) { tcp.syn() } else { tcp.rst() };
            tcp.write(&mut bytes, &payload)
        }
        _ if v4 => builder.icmpv4_echo_request(1, 2).write(&mut bytes, &payload),
        _ => builder.icmpv6_echo_request(1, 2).write(&mut bytes, &payload),
    }
    .unwrap();
    if v4 && random.chance(2) {
        // Whether it may be fragmented decides what happens to a packet that is too large.
        bytes = edit4(bytes, |ip| ip[6] ^= 0x40);
    }
    if v4 && random.chance(8) {
        bytes = with_options(bytes, &options(random));
    }
    if random.chance(30) {
        bytes = cut(bytes, random);
    }
    bytes
}

/// Options of which some do not fit, and some are source routes.
fn options(random: &mut Random) -> [u8; 8] {
    match random.below(4) {
        0 => [148, 4, 0, 0, 7, 4 + random.below(3) as u8, 4, 0],
        1 => [131, 7, 4, 10, 1, 0, 9, 0],
        2 => [1, 1, 1, 1, 1, 1, 68, random.below(4) as u8],
        _ => [0x9f, 8, 1, 2, 3, 4, 5, 6],
    }
}

/// The same packet without all of its transport header, its lengths right.
fn cut(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let l3 = if bytes[12] == 8 {
        14 + usize::from(bytes[14] & 15) * 4
    } else {
        54
    };
    bytes.truncate(l3 + random.below(20) as usize);
    let len = bytes.len() - 14;
    if bytes[12] == 8 {
        edit4(bytes, |ip| ip[2..4].copy_from_slice(&(len as u16).to_be_bytes()))
    } else {
        bytes[18..20].copy_from_slice(&(len as u16 - 40).to_be_bytes());
        bytes
    }
}

/// What was said beforehand is what the worker tells that it did.
fn agree(said: &Explanation, did: &Record) {
    let end = match (said.fate, said.reason) {
        (Fate::Forward, None) if said.resolved => End::Forwarded,
        (Fate::Forward, None) => End::Held,
        (Fate::Reply, Some(reason)) => End::Replied(reason),
        (Fate::Drop | Fate::Local, Some(reason)) => End::Dropped(reason),
        other => panic!("{other:?} is no verdict"),
    };
    assert_eq!(did.end, end);
    assert_eq!(said.fate == Fate::Local, said.reason == Some(Reason::Local));
    assert_eq!(did.ingress_rule.map(|rule| rule.found), said.ingress_rule);
    assert_eq!(did.egress_rule.map(|rule| rule.found), said.egress_rule);
    if let Some(way) = did.way {
        let group = said.route.map(|(_, _, group)| group);
        assert_eq!(
            (way.group != crate::fib::GroupId(u32::MAX)).then_some(way.group),
            group
        );
        assert_eq!(way.adj, said.member.map(|(adj, _)| adj));
        assert_eq!((way.egress, way.hash), (said.egress_port, said.hash));
        if way.egress.is_some() {
            assert_eq!(
                (Some(way.mtu), Some((way.neighbour, way.ifindex))),
                (said.mtu, said.neighbour)
            );
        }
    }
}

#[test]
fn explain_and_the_worker_agree_on_100_000_packets() {
    let mut random = Random(1);
    let mut seen = std::collections::BTreeMap::<String, u64>::new();
    for table in 0..TABLES {
        let mut rig = node(&mut random);
        let tap = tap(&rig, &[Point::Trace], 64);
        for number in 0..PACKETS {
            let port = PortId(random.below(3) as u16);
            let packet = bytes(&mut random);
            let headers = packet::parse(&packet).expect("well formed");
            let said = explain(&rig.shared, &rig.fib, &headers, port);
            let sent = rig.send(port, &[packet]);
            // What waits is dropped at once, so that the limits of waiting are never met.
            rig.purge(None);
            let did = told(&tap);
            assert_eq!(did.len(), 1, "one packet, one way");
            *seen.entry(format!("{:?}", did[0].0.end)).or_default() += 1;
            if did[0].0.end == End::Forwarded {
                assert_eq!(sent.len(), said.fragments, "{headers:?}");
                *seen
                    .entry(format!("in {} or more fragments", sent.len().min(3)))
                    .or_default() += 1;
            }
            let agreed = std::panic::catch_unwind(|| agree(&said, &did[0].0));
            assert!(
                agreed.is_ok(),
                "table {table}, packet {number}: {headers:?}\n{said:#?}\n{:#?}",
                did[0].0
            );
        }
    }
    let times = |what: &str| {
        seen.iter()
            .filter(|(end, _)| end.contains(what))
            .map(|(_, times)| times)
            .sum::<u64>()
    };
    assert_eq!(times("") - times("fragments"), TABLES * PACKETS as u64);
    if !cfg!(miri) {
        assert!(
            TABLES * PACKETS as u64 == 100_000 && seen.len() > 30,
            "all kinds of ends: {seen:#?}"
        );
        for what in [
            "in 2 or more",
            "in 3 or more",
            "Replied(BadOptions)",
            "Replied(MtuExceeded)",
            "Dropped(TransportTruncated)",
        ] {
            assert!(times(what) > 50, "{what}: {seen:#?}");
        }
    }
}
