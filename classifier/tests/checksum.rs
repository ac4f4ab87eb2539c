//! Checksums against RFC 1071's definition, word by word.

mod support;

use classifier::checksum::{self, fold, sum, update16};
use classifier::packet::{parse, protocol};
use proptest::prelude::*;
use support::{Spec, make_partial, reference_checksum, reference_sum, valid};

/// The upper-layer checksum field of a TCP or UDP packet.
fn field(frame: &[u8]) -> (usize, u16) {
    let h = parse(frame).expect("valid");
    let at = h.l4 as usize + if h.proto == protocol::TCP { 16 } else { 6 };
    (at, u16::from_be_bytes([frame[at], frame[at + 1]]))
}

/// Whether the receiver's check passes: with the field included, everything sums to all ones.
fn verifies(frame: &[u8]) -> bool {
    let h = parse(frame).expect("valid");
    let mut covered = frame[h.l4 as usize..(h.l3 + h.len) as usize].to_vec();
    let (at, check) = (field(frame).0 - h.l4 as usize, field(frame).1);
    covered[at..at + 2].fill(0);
    let expected = reference_checksum(h.family, h.src, h.dst, h.proto, &covered);
    // 0 and 0xffff are the same number; UDP sends only the latter.
    check == expected || (h.proto == protocol::TCP && check ^ expected == 0xffff)
}

/// Whole TCP or UDP packets of both families.
fn whole() -> impl Strategy<Value = Spec> {
    (valid(), any::<bool>()).prop_map(|(spec, tcp)| {
        let proto = if tcp { protocol::TCP } else { protocol::UDP };
        Spec {
            proto,
            fragment: None,
            ..spec
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn sums_are_those_of_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..300), initial: u16) {
        prop_assert_eq!(fold(sum(&bytes, 0)), reference_sum(&bytes));
        let with = [&initial.to_be_bytes()[..], &bytes].concat();
        prop_assert_eq!(fold(sum(&bytes, initial as u32)), reference_sum(&with));
        prop_assert!(sum(&bytes, initial as u32) < 1 << 17);
    }

    /// Sums chain over pieces that begin at even offsets.
    #[test]
    fn sums_chain(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0..150_usize) {
        let cut = (cut * 2).min(bytes.len() & !1);
        prop_assert_eq!(fold(sum(&bytes[cut..], sum(&bytes[..cut], 0))), reference_sum(&bytes));
    }

    /// RFC 1624: updating a field gives what summing anew gives.
    #[test]
    fn incremental_equals_full(mut bytes in prop::collection::vec(1..=255_u8, 4..60), at: prop::sample::Index, new: u16) {
        bytes.truncate(bytes.len() & !1);
        let check = !reference_sum(&bytes);
        let at = at.index(bytes.len() / 2 - 1) * 2;
        let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
        prop_assert_eq!(update16(check, old, new), !reference_sum(&bytes));
    }

    /// Every TTL of every header: the decremented header is bit for bit the one with the checksum computed anew.
    #[test]
    fn decremented_ttl_equals_full(spec in valid(), ttl in 1..=255_u8) {
        let build = |ttl| Spec { v6: false, ttl, ..spec.clone() }.build();
        let mut frame = build(ttl);
        checksum::decrement_ttl_v4(&mut frame[14..]);
        prop_assert_eq!(frame, build(ttl - 1));
    }

    /// A finished packet is never taken for a partial one.
    #[test]
    fn finished_packets_are_left_alone(spec in whole()) {
        let frame = spec.build();
        let h = parse(&frame).expect("valid");
        prop_assert!(verifies(&frame));
        prop_assert!(!checksum::is_partial(&frame, &h));
        let mut same = frame.clone();
        prop_assert!(!checksum::complete_partial(&mut same, &h));
        prop_assert_eq!(same, frame);
    }

    /// A partial packet is seen to be one, and completing it gives the packet that the stack would have sent.
    #[test]
    fn partial_packets_are_completed(spec in whole()) {
        let finished = spec.build();
        let mut frame = finished.clone();
        let h = parse(&frame).expect("valid");
        make_partial(&mut frame, &h);
        prop_assume!(!verifies(&frame));
        prop_assert!(checksum::is_partial(&frame, &h));
        prop_assert!(checksum::complete_partial(&mut frame, &h));
        prop_assert!(verifies(&frame));
        prop_assert_eq!(frame, finished);
    }

    /// It does not matter into how many places a packet is spread, nor where it is cut behind its headers.
    #[test]
    fn packets_in_several_places_are_completed(spec in whole(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let finished = spec.build();
        let mut frame = finished.clone();
        let h = parse(&frame).expect("valid");
        make_partial(&mut frame, &h);
        prop_assume!(!verifies(&frame));
        let (at, _) = field(&frame);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| at + 2 + cut.index(frame.len() - at - 1)).collect();
        cuts.extend([0, frame.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &frame[pair[0]..pair[1]]).collect();
        let found = checksum::completed(parts[0], frame.len(), &h, || parts[1..].iter().copied());
        let (place, check) = found.expect("it is partial");
        prop_assert_eq!(place, at);
        frame[place..place + 2].copy_from_slice(&check);
        prop_assert_eq!(frame, finished);
    }

    #[test]
    fn transport_sums_from_nothing(spec in whole()) {
        let frame = spec.build();
        let h = parse(&frame).expect("valid");
        let mut upper = frame[h.l4 as usize..(h.l3 + h.len) as usize].to_vec();
        let (at, check) = field(&frame);
        upper[at - h.l4 as usize..][..2].fill(0);
        prop_assert_eq!(checksum::transport(&h, &upper), check);
    }
}

/// RFC 1624 4's own example, on which equation 4 fails.
#[test]
fn rfc_1624_example() {
    assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
}

/// A UDP checksum that comes out as zero is sent as all ones (RFC 768), a TCP one as zero.
#[test]
fn udp_never_sends_zero() {
    for v6 in [false, true] {
        for proto in [protocol::UDP, protocol::TCP] {
            // The last word makes the sum all ones.
            let mut spec = Spec {
                proto,
                payload: vec![0; 4],
                ..Spec::plain(v6)
            };
            let check = field(&spec.build()).1;
            spec.payload[2..].copy_from_slice(&check.to_be_bytes());
            let finished = spec.build();
            let expected = if proto == protocol::UDP { 0xffff } else { 0 };
            assert_eq!(field(&finished).1, expected);
            let mut frame = finished.clone();
            let h = parse(&frame).expect("valid");
            make_partial(&mut frame, &h);
            assert!(checksum::complete_partial(&mut frame, &h));
            assert_eq!(frame, finished);
        }
    }
}

#[test]
fn udp_without_checksum_is_not_partial() {
    let mut frame = Spec {
        proto: protocol::UDP,
        ..Spec::plain(false)
    }
    .build();
    let at = field(&frame).0;
    frame[at..at + 2].fill(0);
    let h = parse(&frame).expect("valid");
    assert!(!checksum::is_partial(&frame, &h));
}

/// Bytes behind the UDP length are not covered (RFC 768), and a length that lies is not believed.
#[test]
fn udp_length_decides() {
    let finished = Spec {
        proto: protocol::UDP,
        ..Spec::plain(true)
    }
    .build();
    let mut frame = finished.clone();
    frame.extend([0xaa; 6]);
    let packet_len = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&packet_len.to_be_bytes());
    let h = parse(&frame).expect("valid");
    let inner = parse(&finished).expect("valid");
    make_partial(&mut frame, &inner);
    assert!(checksum::complete_partial(&mut frame, &h));
    assert_eq!(field(&frame).1, field(&finished).1);
    for lie in [0_u16, 7, packet_len + 1, u16::MAX] {
        frame[58..60].copy_from_slice(&lie.to_be_bytes());
        assert!(!checksum::is_partial(&frame, &h));
    }
}

/// With segments left, the pseudo-header holds another destination (RFC 8200 8.1): such packets are left alone.
#[test]
fn source_routed_packets_are_left_alone() {
    let mut frame = Spec {
        extensions: vec![(43, 2)],
        ..Spec::plain(true)
    }
    .build();
    let h = parse(&frame).expect("valid");
    make_partial(&mut frame, &h);
    assert!(checksum::is_partial(&frame, &h));
    frame[57] = 1;
    let h = parse(&frame).expect("valid");
    assert!(!checksum::is_partial(&frame, &h));
}

#[test]
fn fragments_are_left_alone() {
    let mut frame = Spec {
        fragment: Some((0, true)),
        ..Spec::plain(false)
    }
    .build();
    let h = parse(&frame).expect("valid");
    make_partial(&mut frame, &h);
    assert!(!checksum::is_partial(&frame, &h));
}
