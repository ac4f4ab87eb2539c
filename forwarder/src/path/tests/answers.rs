//! ICMP errors: when they are due, where they come from, what they quote.

use std::time::Duration;

use super::rig::*;
use crate::fib::{AdjState, Group};
use crate::path::Kind;
use crate::reason::Reason;
use crate::settings::{PortAttrs, Settings};

fn icmp_of(rig: &mut Rig, packet: Vec<u8>) -> Option<(u8, u8)> {
    let sent = rig.send_one(UPLINK, packet)?;
    verify(&sent.bytes);
    assert_eq!((sent.kind, sent.egress), (Kind::Originated, UPLINK));
    sent.headers().icmp
}

#[test]
fn each_cause_has_its_type_and_code_in_both_families() {
    let mut rig = Rig::new();
    for (net, group) in [
        (3, Group::Unreachable),
        (4, Group::Prohibit),
        (5, Group::NotAPort),
        (
            6,
            Group::Glean {
                ifindex: 77,
                port: None,
            },
        ),
    ] {
        rig.route(&format!("10.{net}.0.0/16"), group.clone());
        rig.route(&format!("2001:db8:{net}::/48"), group);
    }
    rig.set_state(OTHER, AdjState::Failed);
    rig.shared.update_port(
        WORKLOAD,
        &PortAttrs {
            mtu: 1280,
            ..attrs(WORKLOAD)
        },
    );
    for (to, payload, reason, v4, v6) in [
        (99, 10, Reason::NoRoute, (3, 0), (1, 0)),
        (3, 10, Reason::Unreachable, (3, 1), (1, 0)),
        (4, 10, Reason::Prohibit, (3, 13), (1, 1)),
        (5, 10, Reason::EgressNotAPort, (3, 1), (1, 3)),
        (6, 10, Reason::EgressNotAPort, (3, 1), (1, 3)),
        (2, 10, Reason::NeighbourUnresolved, (3, 1), (1, 3)),
        (1, 1300, Reason::MtuExceeded, (3, 4), (2, 0)),
    ] {
        let before = rig.totals(UPLINK).reason(reason).answered;
        let packet = edit4(udp4(0, to, 64, payload), |ip| ip[6] = 0x40);
        assert_eq!(icmp_of(&mut rig, packet), Some(v4), "{reason}");
        assert_eq!(
            icmp_of(&mut rig, udp6(0, u16::from(to), 64, payload)),
            Some(v6),
            "{reason}"
        );
        assert_eq!(rig.totals(UPLINK).reason(reason).answered, before + 2, "{reason}");
    }
    assert_eq!(rig.totals(UPLINK).dropped(), 0);
    assert_eq!(rig.totals(UPLINK).replied, 14);
    assert_eq!(rig.totals(UPLINK).originated, 14);
}

#[test]
fn time_exceeded_quotes_as_much_as_fits() {
    let mut rig = Rig::new();
    for ttl in [0, 1] {
        let packet = udp4(0, 1, ttl, 40);
        let sent = rig.send_one(UPLINK, packet.clone()).expect("answered");
        verify(&sent.bytes);
        let headers = sent.headers();
        assert_eq!(headers.icmp, Some((11, 0)));
        assert_eq!(
            (headers.src, headers.dst),
            (0x0a00_00fe, 0x0a00_0009),
            "from the port that it came in by"
        );
        assert_eq!((headers.ttl, sent.bytes[15]), (64, 0xc0));
        assert_eq!(sent.bytes[42..], packet[14..], "the whole packet");
        assert_eq!(sent.bytes[..12], [neighbour_mac(UPLINK), mac(UPLINK)].concat());
    }
    // RFC 1812 4.3.2.3: no more than 576 bytes in all; RFC 4443 2.4 (c): no more than 1280.
    let packet = udp4(0, 1, 1, 1400);
    let sent = rig.send_one(UPLINK, packet.clone()).expect("answered");
    verify(&sent.bytes);
    assert_eq!(sent.bytes.len(), 14 + 576);
    assert_eq!(sent.bytes[42..], packet[14..14 + 548]);
    let packet = udp6(0, 1, 1, 1400);
    let sent = rig.send_one(UPLINK, packet.clone()).expect("answered");
    verify(&sent.bytes);
    assert_eq!(sent.bytes.len(), 14 + 1280);
    assert_eq!(sent.headers().icmp, Some((3, 0)));
    assert_eq!(sent.bytes[62..], packet[14..14 + 1232]);
}

#[test]
fn padding_is_not_quoted() {
    let mut rig = Rig::new();
    let mut packet = udp4(0, 1, 1, 1);
    packet.resize(60, 0xee);
    let sent = rig.send_one(UPLINK, packet.clone()).expect("answered");
    assert_eq!(sent.bytes[42..], packet[14..14 + 29]);
}

#[test]
fn too_big_tells_the_mtu() {
    let mut rig = Rig::new();
    rig.shared.update_port(
        WORKLOAD,
        &PortAttrs {
            mtu: 1400,
            ..attrs(WORKLOAD)
        },
    );
    let sent = rig
        .send_one(UPLINK, edit4(udp4(0, 1, 64, 1400), |ip| ip[6] = 0x40))
        .expect("answered");
    assert_eq!(sent.bytes[38..42], [0, 0, 0x05, 0x78]);
    let sent = rig.send_one(UPLINK, udp6(0, 1, 64, 1400)).expect("answered");
    assert_eq!(sent.bytes[58..62], [0, 0, 0x05, 0x78]);
}

#[test]
fn a_completed_checksum_is_what_is_quoted() {
    let mut rig = Rig::new();
    let mut packet = udp4(1, 0, 1, 20);
    let whole = packet.clone();
    let headers = classifier::packet::parse(&packet).unwrap();
    let pseudo = classifier::checksum::pseudo_header(&headers, headers.l4_len() as u32);
    packet[40..42].copy_from_slice(&classifier::checksum::fold(pseudo).to_be_bytes());
    let sent = rig.send_one(WORKLOAD, packet).expect("answered");
    assert_eq!(sent.bytes[42..], whole[14..]);
}

#[test]
fn answers_that_are_never_due() {
    let mut rig = Rig::new();
    let icmp4 = |kind: u8| {
        let raw = etherparse::Icmpv4Type::Unknown {
            type_u8: kind,
            code_u8: 0,
            bytes5to8: [0; 4],
        };
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ethernet2([2; 6], [2; 6])
            .ipv4([10, 0, 0, 9], [10, 1, 0, 9], 1)
            .icmpv4(raw)
            .write(&mut bytes, &[0; 28])
            .unwrap();
        bytes
    };
    let icmp6 = |kind: u8| {
        let raw = etherparse::Icmpv6Type::Unknown {
            type_u8: kind,
            code_u8: 0,
            bytes5to8: [0; 4],
        };
        let mut packet = udp6(0, 1, 1, 28);
        let headers: Vec<u8> = packet[22..54].to_vec();
        packet.clear();
        etherparse::PacketBuilder::ethernet2([2; 6], [2; 6])
            .ipv6(
                headers[..16].try_into().unwrap(),
                headers[16..].try_into().unwrap(),
                1,
            )
            .icmpv6(raw)
            .write(&mut packet, &[0; 28])
            .unwrap();
        packet
    };
    // Queries are answered, errors and redirects are not.
    for (packet, due) in [
        (icmp4(8), true),
        (icmp4(13), true),
        (icmp6(128), true),
        (icmp4(3), false),
        (icmp4(5), false),
        (icmp4(11), false),
        (icmp4(12), false),
        (icmp6(1), false),
        (icmp6(3), false),
        (icmp6(137), false),
    ] {
        assert_eq!(
            rig.send_one(UPLINK, packet.clone()).is_some(),
            due,
            "ICMP type {}",
            packet[34]
        );
    }
    // A later fragment; the first one is answered.
    assert_eq!(
        rig.send_one(UPLINK, edit4(udp4(0, 1, 1, 40), |ip| ip[7] = 9)),
        None
    );
    assert!(
        rig.send_one(UPLINK, edit4(udp4(0, 1, 1, 40), |ip| ip[6] = 0x20))
            .is_some()
    );
    // To an Ethernet group address.
    let mut packet = udp4(0, 1, 1, 40);
    packet[0] |= 1;
    assert_eq!(rig.send_one(UPLINK, packet), None);
    assert_eq!(rig.drops(UPLINK), [(Reason::TtlExceeded, 9)]);
}

#[test]
fn the_address_that_answers() {
    let mut rig = Rig::new();
    let src4 = |rig: &mut Rig| {
        rig.send_one(UPLINK, udp4(0, 1, 1, 10))
            .map(|sent| sent.headers().src as u32)
    };
    let src6 = |rig: &mut Rig| {
        rig.send_one(UPLINK, udp6(0, 1, 1, 10))
            .map(|sent| sent.headers().src)
    };
    // Of several IPv6 addresses the one that has most in common with the sender's.
    let address = |text: &str| -> std::net::Ipv6Addr { text.parse().unwrap() };
    let sources = vec![
        address("fe80::1"),
        address("2001:db9::1"),
        address("2001:db8::1"),
        address("fd00::1"),
    ];
    rig.shared.update_port(
        UPLINK,
        &PortAttrs {
            icmp6_sources: sources,
            ..attrs(UPLINK)
        },
    );
    assert_eq!(src6(&mut rig), Some(address("2001:db8::1").to_bits()));

    // A port without addresses: the route's preferred source, then the egress port's.
    let bare = PortAttrs {
        icmp4_source: None,
        icmp6_sources: vec![],
        ..attrs(UPLINK)
    };
    rig.shared.update_port(UPLINK, &bare);
    let members = vec![crate::fib::Member {
        adj: rig.adjs[2],
        weight: 1,
    }];
    let back = rig.route(
        "10.0.0.0/16",
        Group::Forward {
            members: members.clone(),
            prefsrc: Some("192.0.2.77".parse().unwrap()),
        },
    );
    rig.fib
        .insert(254, "2001:db8::/48".parse().unwrap(), back)
        .unwrap();
    assert_eq!(src4(&mut rig), Some(0xc000_024d));
    assert_eq!(
        src6(&mut rig),
        Some(address("2001:db8:2::fe").to_bits()),
        "of the other family: not usable"
    );
    rig.fib.set_group(
        back,
        Group::Forward {
            members,
            prefsrc: None,
        },
    );
    assert_eq!(src4(&mut rig), Some(0x0a02_00fe));

    // No address at all: nothing can be said.
    rig.shared.update_port(
        OTHER,
        &PortAttrs {
            icmp4_source: None,
            icmp6_sources: vec![],
            ..attrs(OTHER)
        },
    );
    assert_eq!((src4(&mut rig), src6(&mut rig)), (None, None));
    assert_eq!(rig.drops(UPLINK), [(Reason::TtlExceeded, 2)]);
}

#[test]
fn without_a_way_back_there_is_no_answer() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.send_one(UPLINK, build4([192, 0, 2, 1], [10, 1, 0, 9], 1, 10)),
        None
    );
    rig.route("192.0.2.0/24", Group::Local);
    assert_eq!(
        rig.send_one(UPLINK, build4([192, 0, 2, 1], [10, 1, 0, 9], 1, 10)),
        None
    );
    assert_eq!(rig.drops(UPLINK), [(Reason::TtlExceeded, 2)]);
}

#[test]
fn answers_are_limited_and_that_is_counted() {
    let mut rig = Rig::with(&Settings {
        icmp_rate: 1,
        icmp_burst: 10,
        ..Settings::default()
    });
    let packets = vec![udp4(0, 1, 1, 10); 50];
    assert_eq!(rig.send(UPLINK, &packets).len(), 10);
    assert_eq!(rig.drops(UPLINK), [(Reason::IcmpRateLimited, 40)]);
}

#[test]
fn an_answer_waits_for_its_neighbour_too() {
    let mut rig = Rig::new();
    rig.set_state(UPLINK, AdjState::Unresolved);
    assert_eq!(rig.send_one(UPLINK, udp4(0, 1, 1, 10)), None);
    assert_eq!((rig.totals(UPLINK).held, rig.requests().len()), (1, 1));
    rig.set_state(
        UPLINK,
        AdjState::Resolved {
            dst: [6; 6],
            src: [8; 6],
        },
    );
    let sent = rig.after(Duration::from_millis(1));
    assert_eq!(
        (sent.len(), sent[0].kind, sent[0].headers().ttl),
        (1, Kind::Originated, 64)
    );
    assert_eq!(sent[0].bytes[..12], [[6; 6], [8; 6]].concat());
    verify(&sent[0].bytes);
    assert_eq!(rig.totals(UPLINK).replied, 1);
}
