//! Whatever comes in: no panic, one fate for every packet, and what leaves is well formed.

use std::time::Duration;

use classifier::acl::{Action, Rule};
use classifier::packet;
use proptest::prelude::*;

use super::rig::*;
use crate::fib::{AdjState, Group};
use crate::path::Kind;
use crate::settings::Direction::{Egress, Ingress};

/// Packets of every kind that the pipeline tells apart.
fn samples() -> Vec<Vec<u8>> {
    let mut options = udp4(0, 1, 64, 20);
    options.splice(34..34, [7, 7, 4, 0, 0, 0, 0, 0]);
    let options = edit4(options, |ip| {
        ip[0] = 0x47;
        let len = u16::from_be_bytes([ip[2], ip[3]]) + 8;
        ip[2..4].copy_from_slice(&len.to_be_bytes());
    });
    // IPv6 with a hop-by-hop header and a fragment header before UDP.
    let mut extended = udp6(0, 1, 64, 20);
    extended.splice(54..54, [44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9]);
    extended[20] = 0;
    let len = u16::from_be_bytes([extended[18], extended[19]]) + 16;
    extended[18..20].copy_from_slice(&len.to_be_bytes());
    vec![
        udp4(0, 1, 64, 33),
        udp4(0, 1, 1, 33),
        udp6(0, 1, 64, 33),
        udp6(0, 1, 0, 33),
        tcp4(0, 2, "S", 5),
        options,
        extended,
        edit4(udp4(0, 9, 64, 60), |ip| ip[6] = 0x20),
    ]
}

/// A node with everything in use: lists, failing and unresolved neighbours, routes of every type.
fn busy() -> Rig {
    let mut rig = Rig::new();
    for (net, group) in [
        (
            3,
            Group::Glean {
                ifindex: 11,
                port: Some(WORKLOAD),
            },
        ),
        (4, Group::Blackhole),
        (5, Group::Prohibit),
        (6, Group::NotAPort),
        (7, Group::Local),
    ] {
        rig.route(&format!("10.{net}.0.0/16"), group.clone());
        rig.route(&format!("2001:db8:{net}::/48"), group);
    }
    let tcp = |action| Rule {
        tcp: Some(classifier::acl::TcpMatch::Flags { set: 2, mask: 2 }),
        ..Rule::any(action, nowhere())
    };
    rig.acl(UPLINK, Ingress, vec![tcp(Action::Reject)], Action::Allow);
    rig.acl(OTHER, Egress, vec![tcp(Action::Deny)], Action::Allow);
    rig
}

#[test]
fn cut_at_every_byte_a_packet_is_forwarded_or_counted_once() {
    let mut rig = busy();
    for sample in samples() {
        for len in 0..=sample.len() {
            // The rig checks after each burst that every packet has exactly one fate.
            let sent = rig.send(UPLINK, &[sample[..len].to_vec()]);
            if len < sample.len() {
                assert_eq!(sent, [], "{len} of {} bytes", sample.len());
            }
        }
    }
    let totals = rig.totals(UPLINK);
    assert!(
        totals.dropped() > 400 && totals.forwarded > 0 && totals.replied > 0,
        "{totals:?}"
    );
}

/// Bytes of a packet: a sample with some bytes changed, or noise behind an Ethernet header.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let changed = (
        0..samples().len(),
        prop::collection::vec((0usize..90, any::<u8>()), 0..4),
        any::<bool>(),
    );
    let changed = changed.prop_map(|(which, changes, fix)| {
        let mut packet = samples()[which].clone();
        for (at, value) in changes {
            let at = at % packet.len();
            packet[at] = value;
        }
        // Half of the changed IPv4 headers get a right checksum again, to come further.
        if fix
            && packet[12] == 8
            && packet[14] & 15 >= 5
            && packet.len() >= 14 + usize::from(packet[14] & 15) * 4
        {
            packet = edit4(packet, |_| ());
        }
        packet
    });
    let noise = prop::collection::vec(any::<u8>(), 0..200).prop_map(|mut noise| {
        if noise.len() > 13 {
            let ethertype = if noise[0] & 2 == 0 { [8, 0] } else { [0x86, 0xdd] };
            noise[12..14].copy_from_slice(&ethertype);
        }
        noise
    });
    prop_oneof![4 => changed, 1 => noise]
}

/// Something that happens to the node.
#[derive(Debug, Clone)]
enum Event {
    Burst(u16, Vec<Vec<u8>>),
    State(u16, u8),
    Time(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u16..3, prop::collection::vec(bytes(), 1..64)).prop_map(|(port, packets)| Event::Burst(port, packets)),
        2 => (0u16..3, 0u8..4).prop_map(|(port, state)| Event::State(port, state)),
        1 => (0u64..5000).prop_map(Event::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_packet_has_one_fate_and_every_frame_one_place(events in prop::collection::vec(event(), 1..12)) {
        let mut rig = busy();
        for event in events {
            let sent = match event {
                Event::Burst(port, packets) => rig.send(crate::settings::PortId(port), &packets),
                Event::Time(ms) => rig.after(Duration::from_millis(ms)),
                Event::State(port, state) => {
                    rig.set_state(crate::settings::PortId(port), match state {
                        0 => AdjState::Unresolved,
                        1 => AdjState::Failed,
                        2 => AdjState::Down,
                        _ => AdjState::Resolved { dst: [2, 1, 1, 1, 1, 1], src: [2, 2, 2, 2, 2, 2] },
                    });
                    Vec::new()
                }
            };
            for sent in sent {
                let headers = sent.headers();
                prop_assert!(headers.ttl >= 1, "a packet without hops left has left");
                if sent.kind == Kind::Originated {
                    verify(&sent.bytes);
                }
            }
        }
    }

    #[test]
    fn a_forwarded_packet_differs_only_where_a_router_writes(packets in prop::collection::vec(bytes(), 1..64)) {
        let mut rig = Rig::new();
        for packet in packets {
            let Some(sent) = rig.send_one(UPLINK, packet.clone()) else { continue };
            if sent.kind == Kind::Originated {
                continue;
            }
            let before = packet::parse(&packet).unwrap();
            // What came behind the packet is taken off, as far as the shortest Ethernet frame does not need it.
            let mut packet = packet;
            packet.truncate(60.max(14 + usize::from(before.len)));
            let mut back = sent.bytes.clone();
            back[..12].copy_from_slice(&packet[..12]);
            let ttl = if packet[12] == 8 { 22 } else { 21 };
            prop_assert_eq!(back[ttl] + 1, before.ttl);
            back[ttl] = before.ttl;
            if packet[12] == 8 {
                // The parser has checked the header's checksum, so the old one stands for the old TTL.
                back[24..26].copy_from_slice(&packet[24..26]);
            }
            prop_assert_eq!(back, packet);
        }
    }
}
