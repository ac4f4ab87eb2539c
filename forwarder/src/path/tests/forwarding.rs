//! What is sent on, how it is rewritten, and what is dropped on the way.

use super::rig::*;
use crate::fib::{AdjState, Adjacency, Group};
use crate::path::Kind;
use crate::reason::Reason;
use crate::settings::{AntiSpoof, PortAttrs, PortId};

#[test]
fn a_packet_is_sent_on_with_new_addresses_and_one_hop_less() {
    let mut rig = Rig::new();
    for (packet, ttl_at) in [(udp4(0, 1, 64, 100), 14 + 8), (udp6(0, 1, 64, 100), 14 + 7)] {
        let sent = rig.send_one(UPLINK, packet.clone()).expect("forwarded");
        assert_eq!((sent.egress, sent.kind), (WORKLOAD, Kind::Transit));
        assert_eq!(sent.bytes[..6], neighbour_mac(WORKLOAD));
        assert_eq!(sent.bytes[6..12], mac(WORKLOAD));
        assert_eq!(sent.bytes[ttl_at], 63);
        verify(&sent.bytes);
        // Nothing else has changed.
        let mut expected = packet;
        expected[..12].copy_from_slice(&sent.bytes[..12]);
        expected[ttl_at] = 63;
        if expected[12] == 0x08 {
            expected[24..26].copy_from_slice(&sent.bytes[24..26]);
        }
        assert_eq!(sent.bytes, expected);
    }
    let (uplink, workload) = (rig.totals(UPLINK), rig.totals(WORKLOAD));
    assert_eq!((uplink.rx_packets, uplink.forwarded, uplink.dropped()), (2, 2, 0));
    assert_eq!((workload.tx_packets, workload.originated), (2, 0));
    assert_eq!(workload.tx_bytes, uplink.rx_bytes);
    assert!(rig.fib.adjacency_used(rig.adjs[1]) && !rig.fib.adjacency_used(rig.adjs[2]));
}

#[test]
fn a_burst_keeps_the_order_within_a_flow_and_takes_every_port() {
    let mut rig = Rig::new();
    let packets: Vec<_> = (0..200usize).map(|i| udp4(0, 1 + (i % 2) as u8, 64, i)).collect();
    let sent = rig.send(UPLINK, &packets);
    for port in [WORKLOAD, OTHER] {
        let lens: Vec<_> = sent
            .iter()
            .filter(|s| s.egress == port)
            .map(|s| s.bytes.len())
            .collect();
        assert_eq!(lens.len(), 100);
        assert!(lens.is_sorted());
    }
}

#[test]
fn addresses_that_are_never_forwarded() {
    let mut rig = Rig::new();
    let host = [10, 1, 0, 9];
    for (src, dst, reason) in [
        ([127, 0, 0, 1], host, Reason::MartianSource),
        ([0, 0, 0, 0], host, Reason::MartianSource),
        ([224, 0, 0, 1], host, Reason::MartianSource),
        ([10, 0, 0, 9], [127, 0, 0, 1], Reason::MartianDestination),
        ([10, 0, 0, 9], [255, 255, 255, 255], Reason::MartianDestination),
        ([169, 254, 1, 1], host, Reason::LinkLocal),
        ([10, 0, 0, 9], [169, 254, 1, 1], Reason::LinkLocal),
    ] {
        let before = rig.totals(UPLINK).reason(reason).packets;
        assert_eq!(rig.send_one(UPLINK, build4(src, dst, 64, 10)), None);
        assert_eq!(
            rig.totals(UPLINK).reason(reason).packets,
            before + 1,
            "{src:?} to {dst:?}"
        );
    }
    assert_eq!(rig.totals(UPLINK).dropped(), 7);
    assert!(rig.totals(UPLINK).reason(Reason::LinkLocal).last_seen.is_some());
}

#[test]
fn a_source_route_is_refused() {
    let mut rig = Rig::new();
    // Loose source route by way of 10.2.0.1, padded to a word.
    let mut packet = udp4(0, 1, 64, 20);
    packet.splice(34..34, [131, 7, 4, 10, 2, 0, 1, 0]);
    let packet = edit4(packet, |ip| {
        ip[0] = 0x47;
        let len = u16::from_be_bytes([ip[2], ip[3]]) + 8;
        ip[2..4].copy_from_slice(&len.to_be_bytes());
    });
    assert_eq!(rig.send_one(UPLINK, packet), None);
    assert_eq!(rig.drops(UPLINK), [(Reason::SourceRoute, 1)]);
}

#[test]
fn sources_must_belong_behind_the_port() {
    let mut rig = Rig::new();
    assert!(rig.send_one(WORKLOAD, udp4(1, 0, 64, 10)).is_some());
    assert!(rig.send_one(WORKLOAD, udp6(1, 0, 64, 10)).is_some());
    assert_eq!(
        rig.send_one(WORKLOAD, udp4(2, 0, 64, 10)),
        None,
        "another port's source"
    );
    assert_eq!(
        rig.send_one(WORKLOAD, udp6(9, 0, 64, 10)),
        None,
        "a source without a route"
    );
    // A host of a connected prefix that is not known yet belongs as well.
    rig.route(
        "10.1.0.0/16",
        Group::Glean {
            ifindex: 11,
            port: Some(WORKLOAD),
        },
    );
    assert!(rig.send_one(WORKLOAD, udp4(1, 0, 64, 10)).is_some());
    assert_eq!(rig.drops(WORKLOAD), [(Reason::SpoofedSource, 2)]);

    let mut loose = spec(WORKLOAD);
    loose.anti_spoof = AntiSpoof::Loose;
    rig.shared.open_port(WORKLOAD, &loose);
    assert!(rig.send_one(WORKLOAD, udp4(2, 0, 64, 10)).is_some());
    assert_eq!(
        rig.send_one(WORKLOAD, build4([192, 0, 2, 1], [10, 0, 0, 9], 64, 10)),
        None
    );
    rig.route("192.0.2.0/24", Group::Unreachable);
    assert_eq!(
        rig.send_one(WORKLOAD, build4([192, 0, 2, 1], [10, 0, 0, 9], 64, 10)),
        None
    );
    rig.route("192.0.2.1/32", Group::NotAPort);
    assert!(
        rig.send_one(WORKLOAD, build4([192, 0, 2, 1], [10, 0, 0, 9], 64, 10))
            .is_some()
    );
}

#[test]
fn partial_checksums_are_completed_where_the_port_says_so() {
    let mut rig = Rig::new();
    let partial = |mut packet: Vec<u8>, field: usize| {
        let headers = classifier::packet::parse(&packet).unwrap();
        let pseudo = classifier::checksum::pseudo_header(&headers, headers.l4_len() as u32);
        let at = headers.l4 as usize + field;
        packet[at..at + 2].copy_from_slice(&classifier::checksum::fold(pseudo).to_be_bytes());
        packet
    };
    for (packet, field) in [
        (udp4(1, 0, 64, 33), 6),
        (udp6(1, 0, 64, 34), 6),
        (tcp4(1, 0, "S", 35), 16),
    ] {
        let sent = rig.send_one(WORKLOAD, partial(packet, field)).expect("forwarded");
        verify(&sent.bytes);
    }
    // An uplink leaves the packet as it is: it is not the router's to judge.
    let packet = partial(udp4(0, 2, 64, 33), 6);
    let sent = rig.send_one(UPLINK, packet.clone()).expect("forwarded");
    assert_eq!(sent.bytes[34..], packet[34..]);
}

#[test]
fn routes_that_end_here() {
    let mut rig = Rig::new();
    // Silent ones: the sender hears nothing.
    rig.route("10.9.0.0/16", Group::Blackhole);
    rig.route("10.8.0.0/16", Group::Local);
    assert_eq!(rig.send_one(UPLINK, udp4(0, 9, 64, 10)), None);
    assert_eq!(rig.send_one(UPLINK, udp4(0, 8, 64, 10)), None);
    assert_eq!(rig.drops(UPLINK), [(Reason::Blackhole, 1), (Reason::Local, 1)]);
}

/// The steering program leaves these to the kernel: only a frame damaged between it and the worker gets here.
#[test]
fn what_is_not_ip() {
    let mut rig = Rig::new();
    let mut frame = udp4(0, 1, 64, 10);
    frame[12..14].copy_from_slice(&0x0806_u16.to_be_bytes());
    assert_eq!(rig.send_one(UPLINK, frame), None);
    assert_eq!(rig.drops(UPLINK), [(Reason::NotIp, 1)]);
}

#[test]
fn ports_that_are_closed_or_down() {
    let mut rig = Rig::new();
    rig.shared.close_port(WORKLOAD);
    assert_eq!(rig.send_one(UPLINK, udp4(0, 1, 64, 10)), None);
    assert_eq!(rig.send_one(WORKLOAD, udp4(1, 0, 64, 10)), None);
    assert_eq!(rig.drops(UPLINK), [(Reason::PortClosed, 1)]);
    assert_eq!(rig.drops(WORKLOAD), [(Reason::PortClosed, 1)]);
    rig.shared.open_port(WORKLOAD, &spec(WORKLOAD));
    assert_eq!(rig.totals(WORKLOAD).rx_packets, 0, "a new port counts from zero");

    rig.shared.update_port(
        OTHER,
        &PortAttrs {
            up: false,
            ..attrs(OTHER)
        },
    );
    let sent = rig.send_one(UPLINK, udp4(0, 2, 64, 10)).expect("answered");
    assert_eq!((sent.kind, sent.headers().icmp), (Kind::Originated, Some((3, 1))));
    assert_eq!(rig.totals(UPLINK).reason(Reason::EgressDown).answered, 1);
}

#[test]
fn an_adjacency_that_was_taken_away_leads_nowhere() {
    let mut rig = Rig::new();
    rig.fib.remove_adjacency(rig.adjs[1]);
    rig.shared.domain().reclaim();
    let sent = rig.send_one(UPLINK, udp4(0, 1, 64, 10)).expect("answered");
    assert_eq!(sent.headers().icmp, Some((3, 1)));
    assert_eq!(rig.totals(UPLINK).reason(Reason::EgressDown).answered, 1);
}

#[test]
fn a_lost_member_hands_its_flows_to_the_others() {
    let mut rig = Rig::new();
    let members = [1, 2]
        .map(|i| crate::fib::Member {
            adj: rig.adjs[i],
            weight: 1,
        })
        .to_vec();
    rig.route(
        "10.7.0.0/16",
        Group::Forward {
            members,
            prefsrc: None,
        },
    );
    let flows: Vec<_> = (0..64u8)
        .map(|i| build4([10, 0, 0, 9], [10, 7, 0, i], 64, 1))
        .collect();
    let before = rig.send(UPLINK, &flows);
    assert_eq!(before.len(), 64);
    for port in [WORKLOAD, OTHER] {
        assert!((16..48).contains(&before.iter().filter(|s| s.egress == port).count()));
    }
    rig.set_state(WORKLOAD, AdjState::Down);
    let after = rig.send(UPLINK, &flows);
    assert!(
        after
            .iter()
            .all(|sent| sent.egress == OTHER && sent.kind == Kind::Transit)
    );
    rig.set_state(
        WORKLOAD,
        AdjState::Resolved {
            dst: neighbour_mac(WORKLOAD),
            src: mac(WORKLOAD),
        },
    );
    assert_eq!(rig.send(UPLINK, &flows), before, "and back");
}

#[test]
fn the_smaller_mtu_of_route_and_port_counts() {
    let mut rig = Rig::new();
    let adjacency = *rig.fib.adjacency(rig.adjs[1]).unwrap();
    // 1,400 bytes of IP packet: 20 of IPv4, 8 of UDP.
    for (route, port, fits) in [
        (0, 1400, true),
        (1400, 1500, true),
        (1399, 1500, false),
        (1500, 1399, false),
    ] {
        rig.fib.set_adjacency(
            rig.adjs[1],
            Adjacency {
                mtu: route,
                ..adjacency
            },
        );
        rig.shared.update_port(
            WORKLOAD,
            &PortAttrs {
                mtu: port,
                ..attrs(WORKLOAD)
            },
        );
        let packet = edit4(udp4(0, 1, 64, 1372), |ip| ip[6] = 0);
        assert_eq!(
            rig.send(UPLINK, &[packet]).len() == 1,
            fits,
            "whole or in fragments: route {route}, port {port}"
        );
    }
    assert_eq!(rig.drops(UPLINK), []);
}

#[test]
fn numbers_beyond_the_open_ports_are_closed() {
    let mut rig = Rig::new();
    assert_eq!(rig.send_one(PortId(500), udp4(0, 1, 64, 10)), None);
    assert_eq!(rig.drops(PortId(500)), [(Reason::PortClosed, 1)]);
}

/// An ICMP error about a packet that went the other way, wrapped around it.
fn error_about(packet: &[u8]) -> Vec<u8> {
    let v4 = packet[12] == 8;
    let mut bytes = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [2; 6]);
    if v4 {
        let raw = etherparse::Icmpv4Type::Unknown {
            type_u8: 3,
            code_u8: 4,
            bytes5to8: [0; 4],
        };
        let to = packet[26..30].try_into().unwrap();
        builder
            .ipv4([10, 0, 77, 77], to, 64)
            .icmpv4(raw)
            .write(&mut bytes, &packet[14..])
            .unwrap();
    } else {
        let raw = etherparse::Icmpv6Type::Unknown {
            type_u8: 2,
            code_u8: 0,
            bytes5to8: [0; 4],
        };
        let from = "2001:db8::77".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let to = packet[22..38].try_into().unwrap();
        builder
            .ipv6(from, to, 64)
            .icmpv6(raw)
            .write(&mut bytes, &packet[14..])
            .unwrap();
    }
    bytes
}

#[test]
fn an_error_follows_the_flow_that_it_is_about() {
    let mut rig = Rig::new();
    let members = [1, 2]
        .map(|i| crate::fib::Member {
            adj: rig.adjs[i],
            weight: 1,
        })
        .to_vec();
    let anycast = rig.route(
        "10.7.0.0/16",
        Group::Forward {
            members,
            prefsrc: None,
        },
    );
    rig.fib
        .insert(254, "2001:db8:7::/48".parse().unwrap(), anycast)
        .unwrap();
    let mut taken = [0; 2];
    for i in 0..40u8 {
        // A flow to the anycast address, what the server answers, and what a router on the way says about that.
        let flow = build4([10, 0, 0, i], [10, 7, 0, 1], 64, 8);
        let mut answer = build4([10, 7, 0, 1], [10, 0, 0, i], 64, 8);
        answer[34..38].copy_from_slice(&[0, 53, 4000u16.to_be_bytes()[0], 4000u16.to_be_bytes()[1]]);
        let way = rig.send_one(UPLINK, flow).expect("forwarded").egress;
        let error = rig.send_one(UPLINK, error_about(&answer)).expect("forwarded");
        assert_eq!(error.egress, way);
        taken[way.index() - 1] += 1;

        let flow = udp6(u16::from(i) << 8, 7, 64, 8);
        let mut answer = udp6(7, u16::from(i) << 8, 64, 8);
        answer[54..58].copy_from_slice(&[0, 53, 4000u16.to_be_bytes()[0], 4000u16.to_be_bytes()[1]]);
        let way = rig.send_one(UPLINK, flow).expect("forwarded").egress;
        assert_eq!(
            rig.send_one(UPLINK, error_about(&answer))
                .expect("forwarded")
                .egress,
            way
        );
        taken[way.index() - 1] += 1;
    }
    assert!(taken.iter().all(|n| *n > 10), "{taken:?}");
}

#[test]
fn tunnels_are_spread_by_what_they_carry_if_asked() {
    let inside = crate::settings::Settings {
        multipath: crate::settings::MultipathHash::Inner,
        ..Default::default()
    };
    for (settings, spread) in [(inside, true), (Default::default(), false)] {
        let mut rig = Rig::with(&settings);
        let members = [1, 2]
            .map(|i| crate::fib::Member {
                adj: rig.adjs[i],
                weight: 1,
            })
            .to_vec();
        rig.route(
            "10.7.0.0/16",
            Group::Forward {
                members,
                prefsrc: None,
            },
        );
        for (proto, extra) in [
            (4u8, &[][..]),
            (47, &[0, 0, 8, 0][..]),
            (47, &[0x20, 0, 8, 0, 1, 2, 3, 4][..]),
        ] {
            let mut taken = [0; 2];
            for i in 0..40u8 {
                let carried = build4([192, 0, 2, i], [198, 51, 100, 1], 64, 8);
                let mut packet = build4([10, 0, 0, 9], [10, 7, 0, 1], 64, 0);
                packet.truncate(34);
                packet.extend_from_slice(extra);
                packet.extend_from_slice(&carried[14..]);
                let len = (packet.len() - 14) as u16;
                let packet = edit4(packet, |ip| {
                    ip[9] = proto;
                    ip[2..4].copy_from_slice(&len.to_be_bytes());
                });
                taken[rig.send_one(UPLINK, packet).expect("forwarded").egress.index() - 1] += 1;
            }
            assert_eq!(taken.iter().all(|n| *n > 5), spread, "{taken:?}");
        }
    }
}
