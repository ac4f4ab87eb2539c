//! Packets in several frames: what becomes of them is what becomes of the same packet in one.

use std::time::Duration;

use classifier::acl::Action;
use classifier::checksum;
use classifier::filter::Filter;

use super::rig::*;
use crate::fib::AdjState;
use crate::reason::Reason;
use crate::settings::{Direction, PortId};
use crate::watch::{Point, Points, PortSet, TapSpec};

/// Bytes in a frame: the kernel's 3,840 and 1,792, and what nobody would choose.
const EACH: [usize; 4] = [3840, 1792, 1301, 333];

/// A large TCP segment that its sender has left without checksum.
fn partial(port: PortId, payload: usize) -> Vec<u8> {
    let mut packet = tcp4(port.0 as u8, 0, "A", payload);
    let headers = classifier::packet::parse(&packet).unwrap();
    let length = (20 + payload) as u32;
    let pseudo = checksum::fold(checksum::pseudo_header(&headers, length));
    packet[50..52].copy_from_slice(&pseudo.to_be_bytes());
    packet
}

/// Packets with every fate, each with the port that it comes in through.
fn packets() -> Vec<(PortId, Vec<u8>)> {
    let mut expired = udp4(0, 1, 1, 8000);
    expired[20] |= 0x40;
    vec![
        (UPLINK, udp4(0, 1, 64, 8900)),
        (UPLINK, udp6(0, 1, 64, 8901)),
        (UPLINK, expired),
        (UPLINK, udp6(0, 1, 1, 4001)),
        (UPLINK, udp4(0, 77, 64, 5000)),
        (WORKLOAD, partial(WORKLOAD, 8000)),
        (WORKLOAD, partial(WORKLOAD, 8001)),
        (WORKLOAD, udp4(2, 0, 64, 4000)),
        (UPLINK, edit4(udp4(0, 2, 64, 3000), |ip| ip[6] |= 0x40)),
        (UPLINK, build4([10, 0, 0, 9], [127, 0, 0, 1], 64, 3000)),
        // Sent in fragments: nobody has forbidden it.
        (UPLINK, edit4(udp4(0, 2, 64, 6000), |ip| ip[6] &= !0x40)),
        (UPLINK, udp4(0, 1, 64, 100)),
    ]
}

#[test]
fn several_frames_are_treated_as_one() {
    for each in EACH {
        let (mut whole, mut spread) = (Rig::jumbo(16_384), Rig::jumbo(each));
        for rig in [&mut whole, &mut spread] {
            rig.set_mtu(OTHER, 1500);
            rig.acl(UPLINK, Direction::Egress, Vec::new(), Action::Allow);
        }
        for (number, (port, packet)) in packets().into_iter().enumerate() {
            let expected = whole.send(port, std::slice::from_ref(&packet));
            let sent = spread.send(port, &[packet]);
            // An answer quotes the packet's start: when its first frame holds less than that, there is none.
            if each < 1300 && sent.is_empty() {
                assert!(
                    expected
                        .iter()
                        .all(|sent| sent.kind == crate::path::Kind::Originated),
                    "packet {number}, {each} bytes a frame"
                );
                continue;
            }
            assert_eq!(sent, expected, "packet {number}, {each} bytes a frame");
            if let [sent] = &sent[..] {
                verify(&sent.bytes);
            }
        }
        let (whole_drops, spread_drops) = (whole.drops(UPLINK), spread.drops(UPLINK));
        if each >= 1300 {
            assert_eq!(whole_drops, spread_drops);
            let bytes = |rig: &Rig| rig.totals(UPLINK).reason(Reason::MartianDestination).bytes;
            assert_eq!((bytes(&spread), bytes(&whole)), (3042, 3042), "all bytes count");
        }
        assert_eq!(whole.totals(WORKLOAD).rx_bytes, spread.totals(WORKLOAD).rx_bytes);
    }
}

#[test]
fn headers_behind_the_first_frame_are_cut_off() {
    // Without a list nobody has to read the TCP header; with one it cannot be judged.
    let mut rig = Rig::jumbo(40);
    assert!(rig.send_one(UPLINK, tcp4(0, 1, "A", 500)).is_some());
    rig.acl(UPLINK, Direction::Ingress, Vec::new(), Action::Allow);
    assert_eq!(rig.send_one(UPLINK, tcp4(0, 1, "A", 500)), None);
    assert_eq!(rig.drops(UPLINK), [(Reason::TransportTruncated, 1)]);
    // UDP over IPv4 needs 42 bytes, and 40 hold the IP header.
    let mut rig = Rig::jumbo(42);
    assert!(rig.send_one(UPLINK, udp4(0, 1, 64, 500)).is_some());
    // A packet that says that it is longer than all of its frames.
    let lie = edit4(udp4(0, 1, 64, 2000), |ip| ip[2] += 1);
    assert_eq!(rig.send_one(UPLINK, lie), None);
    assert_eq!(rig.drops(UPLINK), [(Reason::Truncated, 1)]);
}

#[test]
fn packets_that_wait_are_counted_by_their_frames() {
    let mut rig = Rig::jumbo(1792);
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    for _ in 0..3 {
        assert_eq!(rig.send_one(UPLINK, udp4(0, 1, 64, 8000)), None);
    }
    assert_eq!((rig.path.held(), rig.path.held_frames()), (3, 15));
    let resolved = AdjState::Resolved {
        dst: neighbour_mac(WORKLOAD),
        src: mac(WORKLOAD),
    };
    rig.set_state(WORKLOAD, resolved);
    let sent = rig.after(Duration::from_millis(200));
    assert_eq!(sent.len(), 3);
    for packet in sent {
        assert_eq!(packet.bytes.len(), 8042);
        verify(&packet.bytes);
    }
    assert_eq!((rig.path.held(), rig.path.held_frames()), (0, 0));
}

/// Frames, not packets, are what may wait: large packets to nobody do not take all memory.
#[test]
fn large_packets_wait_in_no_more_frames_than_small_ones() {
    let mut rig = Rig::jumbo(300);
    for host in 0..100 {
        let packet = build4([10, 0, 0, 9], [10, 9, 0, host], 64, 8000);
        rig.route(
            &format!("10.9.0.{host}/32"),
            crate::fib::Group::Glean {
                ifindex: 11,
                port: Some(WORKLOAD),
            },
        );
        rig.send_one(UPLINK, packet);
    }
    assert!(rig.path.held_frames() <= crate::tables::MAX_HELD);
    assert!(rig.path.held() > 10, "some wait");
    assert_eq!(
        rig.totals(UPLINK).reason(Reason::HoldFull).packets,
        100 - rig.path.held() as u64
    );
}

#[test]
fn a_capture_has_all_bytes_of_all_frames() {
    for each in EACH {
        let mut rig = Rig::jumbo(each);
        let spec = TapSpec {
            filter: Filter::all(),
            points: Points::default().with(Point::Rx).with(Point::Tx),
            ports: PortSet::ALL,
            snap: 9000,
            slots: 64,
        };
        let tap = rig.shared.watch().set(spec, rig.shared.domain()).unwrap();
        let packet = udp4(0, 1, 64, 8000);
        // Twice: a place is used again and holds nothing of the packet before.
        for _ in 0..40 {
            let sent = rig.send_one(UPLINK, packet.clone()).unwrap();
            let told = super::taps::told(&tap);
            let bytes: Vec<&Vec<u8>> = told.iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(bytes, [&packet, &sent.bytes], "{each} bytes a frame");
        }
    }
}
