//! Fragmentation: what the fragments look like, that they put together are the packet, and how they are counted.

use proptest::prelude::*;

use super::rig::*;
use crate::fib::AdjState;
use crate::frame::Frame;
use crate::path::Kind;
use crate::reason::Reason;
use crate::settings::Direction::Egress;
use crate::settings::{PortAttrs, PortId};
use classifier::acl::{Action, Rule};

fn small_mtu(rig: &Rig, port: PortId, mtu: u32) {
    rig.shared.update_port(port, &PortAttrs { mtu, ..attrs(port) });
}

/// A UDP packet that may be fragmented.
fn free4(from: u8, to: u8, ttl: u8, payload: usize) -> Vec<u8> {
    edit4(udp4(from, to, ttl, payload), |ip| ip[6] = 0)
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Puts fragments together: the data of the datagram from byte `base` on, and whether the last one says that more follow.
fn together(sent: &[Sent], base: usize) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    for fragment in sent {
        let bytes = &fragment.bytes;
        let header = usize::from(bytes[14] & 15) * 4;
        let place = word(bytes, 20);
        assert_eq!(
            usize::from(place & 0x1fff) * 8,
            base + data.len(),
            "in order, without gaps"
        );
        data.extend(&bytes[14 + header..]);
        assert_eq!(usize::from(word(bytes, 16)) + 14, bytes.len(), "no padding");
    }
    let last = sent.last().expect("something is sent");
    (data, word(&last.bytes, 20) & 0x2000 != 0)
}

#[test]
fn the_fragments_are_the_packet() {
    let mut rig = Rig::new();
    small_mtu(&rig, WORKLOAD, 600);
    let packet = free4(0, 1, 64, 1400);
    let sent = rig.send(UPLINK, std::slice::from_ref(&packet));
    // RFC 791 3.2: 576 bytes of data fit into 600, a multiple of 8.
    let lengths: Vec<usize> = sent.iter().map(|sent| sent.bytes.len()).collect();
    assert_eq!(lengths, [14 + 20 + 576, 14 + 20 + 576, 14 + 20 + 1408 - 1152]);
    let (data, more) = together(&sent, 0);
    assert_eq!((data, more), (packet[34..].to_vec(), false));
    for fragment in &sent {
        assert_eq!(fragment.egress, WORKLOAD);
        assert_eq!(
            fragment.bytes[..12],
            [neighbour_mac(WORKLOAD), mac(WORKLOAD)].concat()
        );
        assert_eq!(fragment.headers().ttl, 63);
        assert_eq!(fragment.bytes[18..20], packet[18..20], "one identification");
    }
    let kinds: Vec<Kind> = sent.iter().map(|sent| sent.kind).collect();
    assert_eq!(kinds, [Kind::Fragment, Kind::Fragment, Kind::Transit]);
    let (from, to) = (rig.totals(UPLINK), rig.totals(WORKLOAD));
    assert_eq!((from.rx_packets, from.forwarded, from.replied), (1, 1, 0));
    assert_eq!(
        (to.tx_packets, to.originated),
        (3, 2),
        "tx = forwarded + originated"
    );
}

#[test]
fn options_are_copied_as_flagged() {
    let mut rig = Rig::new();
    small_mtu(&rig, WORKLOAD, 600);
    // Record route (not copied), router alert (copied), an unknown one that is not, end of options.
    let options = [7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0x1f, 3, 9, 0, 0];
    let sent = rig.send(UPLINK, &[with_options(free4(0, 1, 64, 1000), &options)]);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].bytes[34..50], options);
    assert_eq!(
        sent[1].bytes[34..50],
        [1, 1, 1, 1, 1, 1, 1, 148, 4, 0, 0, 1, 1, 1, 0, 0]
    );
    sent.iter().for_each(|sent| assert_eq!(sent.headers().flaw, None));
}

#[test]
fn a_fragment_is_fragmented_again() {
    let mut rig = Rig::new();
    small_mtu(&rig, WORKLOAD, 300);
    for (place, more) in [(0x2000, true), (0x2000 | 40, true), (40, false)] {
        let packet = edit4(free4(0, 1, 64, 520), |ip| {
            ip[6..8].copy_from_slice(&u16::to_be_bytes(place))
        });
        let sent = rig.send(UPLINK, std::slice::from_ref(&packet));
        let begin = usize::from(place & 0x1fff) * 8;
        assert_eq!(
            together(&sent, begin),
            (packet[34..].to_vec(), more),
            "{place:#x}"
        );
    }
    // Beyond what an offset can say there is no datagram to put together.
    let beyond = edit4(free4(0, 1, 64, 520), |ip| ip[6..8].copy_from_slice(&[0x1f, 0xf8]));
    assert_eq!(rig.send(UPLINK, &[beyond]), []);
    assert_eq!(rig.drops(UPLINK), [(Reason::MtuExceeded, 1)]);
}

#[test]
fn only_who_may_is_fragmented() {
    let mut rig = Rig::new();
    small_mtu(&rig, WORKLOAD, 1300);
    let kept = udp4(0, 1, 64, 1400);
    assert_eq!(
        rig.send_one(UPLINK, kept).and_then(|sent| sent.headers().icmp),
        Some((3, 4))
    );
    let six = udp6(0, 1, 64, 1400);
    assert_eq!(
        rig.send_one(UPLINK, six).and_then(|sent| sent.headers().icmp),
        Some((2, 0))
    );
    // An MTU without room for 8 bytes behind the header.
    small_mtu(&rig, WORKLOAD, 27);
    assert_eq!(rig.send(UPLINK, &[free4(0, 1, 64, 1)]), []);
    assert_eq!(rig.drops(UPLINK), [(Reason::MtuExceeded, 1)]);
    // The smallest MTU of IPv6 is 1280 whatever a route says (RFC 8200 5).
    small_mtu(&rig, WORKLOAD, 100);
    assert_eq!(
        rig.send_one(UPLINK, udp6(0, 1, 64, 1232)).map(|sent| sent.kind),
        Some(Kind::Transit)
    );
}

#[test]
fn a_list_sees_the_packet_once_and_whole() {
    let mut rig = Rig::new();
    small_mtu(&rig, WORKLOAD, 600);
    let allow = vec![Rule::any(Action::Allow, nowhere())];
    let list = rig.acl(WORKLOAD, Egress, allow, Action::Deny);
    let packet = free4(0, 1, 64, 1400);
    assert_eq!(rig.send(UPLINK, std::slice::from_ref(&packet)).len(), 3);
    let counted = list.counters()[0];
    assert_eq!((counted.packets, counted.bytes), (1, packet.len() as u64));
}

#[test]
fn a_packet_that_waited_is_fragmented() {
    let mut rig = Rig::new();
    small_mtu(&rig, WORKLOAD, 600);
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    let packet = free4(0, 1, 64, 1400);
    assert_eq!(rig.send(UPLINK, std::slice::from_ref(&packet)), []);
    rig.set_state(
        WORKLOAD,
        AdjState::Resolved {
            dst: [6; 6],
            src: [8; 6],
        },
    );
    let sent = rig.after(std::time::Duration::from_millis(1));
    assert_eq!(together(&sent, 0), (packet[34..].to_vec(), false));
    assert_eq!(rig.totals(UPLINK).forwarded, 1);
}

#[test]
fn without_frames_the_packet_is_dropped_whole() {
    let mut rig = Rig::new();
    small_mtu(&rig, WORKLOAD, 600);
    // One frame for the packet, one for its second fragment, none for the third.
    let kept: Vec<Frame> = rig.out.free.split_off(2);
    let packet = free4(0, 1, 64, 1400);
    let sent = rig.burst_with(UPLINK, std::slice::from_ref(&packet), kept);
    assert_eq!(sent, []);
    assert_eq!(rig.drops(UPLINK), [(Reason::FragmentNoFrame, 1)]);
    // A burst that would make more fragments than there is room for: what fits is sent, the rest has its reason.
    small_mtu(&rig, WORKLOAD, 68);
    let sent = rig.send(UPLINK, &vec![packet; 64]);
    let whole = rig.totals(UPLINK).forwarded;
    assert!(
        whole > 0 && sent.len() as u64 == whole * 30,
        "{} of {whole}",
        sent.len()
    );
    assert_eq!(rig.drops(UPLINK), [(Reason::FragmentNoFrame, 1 + 64 - whole)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_packet_over_any_mtu(payload in 0usize..1470, mtu in 0u32..1500, offset in 0u16..8192, flags in 0u8..8, options in 0usize..10) {
        let mut rig = Rig::new();
        small_mtu(&rig, WORKLOAD, mtu.max(1));
        let place = u16::from(flags) << 13 | offset;
        let packet = with_options(free4(0, 1, 64, payload), &[1; 40][..options * 4]);
        let packet = edit4(packet, |ip| ip[6..8].copy_from_slice(&place.to_be_bytes()));
        let sent = rig.send(UPLINK, std::slice::from_ref(&packet));
        let forwarded = rig.totals(UPLINK).forwarded;
        prop_assert_eq!(forwarded, u64::from(!sent.is_empty() && sent[0].kind != Kind::Originated));
        if forwarded == 1 {
            prop_assert!(sent.iter().all(|sent| sent.bytes.len() as u32 <= 14 + mtu.max(1)));
            let header = usize::from(packet[14] & 15) * 4;
            let (data, more) = together(&sent, usize::from(offset) * 8);
            prop_assert_eq!(data, packet[14 + header..].to_vec());
            prop_assert_eq!(more, place & 0x2000 != 0);
        }
    }
}
