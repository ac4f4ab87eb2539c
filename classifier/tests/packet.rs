//! The packet parser against its twin, on valid packets, on everything that can be wrong with one, and on a capture.

mod property;
mod support;

use classifier::packet::{Family, Flaw, Fragment, Headers, MAX_EXTENSION_HEADERS, Malformed, glance, parse};
use proptest::prelude::*;
use support::{Spec, reference_sum, valid};

/// Computes the IPv4 header checksum anew after a test has changed the header.
fn seal(frame: &mut [u8]) {
    let len = ((frame[14] & 15) as usize * 4).max(12);
    frame[24..26].fill(0);
    let check = !reference_sum(&frame[14..14 + len]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A packet that was built right is parsed, and says what it was built from.
    #[test]
    fn valid_packets_parse(spec in valid()) {
        let frame = spec.build();
        property::check(&frame);
        let h = parse(&frame).expect("valid");
        prop_assert_eq!((h.src, h.dst), spec.addresses);
        prop_assert_eq!((h.proto, h.ttl, h.dscp), (spec.proto, spec.ttl, spec.class >> 2));
        prop_assert_eq!(h.len as usize, frame.len() - 14 - spec.padding);
        let place = match spec.fragment {
            None | Some((0, false)) => Fragment::Whole,
            Some((0, true)) => Fragment::First,
            Some(_) => Fragment::Later,
        };
        prop_assert_eq!(h.fragment, place);
        if place != Fragment::Later {
            let has_ports = [6, 17, 33, 132, 136].contains(&spec.proto);
            prop_assert_eq!((h.sport, h.dport), if has_ports { spec.ports } else { (0, 0) });
            prop_assert_eq!(h.tcp_flags, if spec.proto == 6 { spec.flags } else { 0 });
            let is_icmp = spec.proto == if spec.v6 { 58 } else { 1 };
            let [kind, code] = spec.ports.0.to_be_bytes();
            prop_assert_eq!(h.icmp, is_icmp.then_some((kind, code)));
        }
        let seen = glance(&frame).expect("addresses");
        prop_assert_eq!(Headers { source_route: h.source_route, ..seen }, h, "a glance sees the same");
    }

    /// Any bytes at all, and valid packets with bytes overwritten, agree with the twin.
    #[test]
    fn damaged_packets_agree_with_the_twin(spec in valid(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), reseal: bool) {
        let mut frame = spec.build();
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        if reseal && !spec.v6 && frame.len() >= 14 + (frame[14] & 15) as usize * 4 {
            seal(&mut frame);
        }
        property::check(&frame);
    }

    #[test]
    fn noise_agrees_with_the_twin(mut noise in prop::collection::vec(any::<u8>(), 0..200), v6: bool) {
        property::check(&noise);
        if noise.len() > 14 {
            noise[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
            noise[14] = noise[14] & 15 | if v6 { 0x60 } else { 0x40 };
            property::check(&noise);
        }
    }
}

/// One damaged bit anywhere in an IPv4 header shows in its checksum, unless an earlier check names it.
#[test]
fn every_flipped_bit_of_an_ipv4_header_is_noticed() {
    for bit in 0..160 {
        let mut frame = Spec::plain(false).build();
        frame[14 + bit / 8] ^= 0x80 >> (bit % 8);
        let header_len = (frame[14] & 15) as usize * 4;
        let expected = match bit {
            0..4 => Malformed::BadVersion,
            _ if header_len < 20 => Malformed::BadHeaderLength,
            _ if header_len > frame.len() - 14 => Malformed::Truncated,
            _ => Malformed::BadChecksum,
        };
        assert_eq!(parse(&frame), Err(expected), "bit {bit}");
    }
}

#[test]
fn every_truncation_is_named() {
    for v6 in [false, true] {
        for extensions in [vec![], vec![(0, 0), (43, 1), (51, 2), (60, 0)]] {
            let frame = Spec {
                extensions,
                ..Spec::plain(v6)
            }
            .build();
            for cut in 0..frame.len() {
                assert_eq!(
                    parse(&frame[..cut]),
                    Err(Malformed::Truncated),
                    "v6 {v6}, cut at {cut}"
                );
            }
        }
    }
}

#[test]
fn ethertypes_other_than_ip_are_not_ip() {
    let mut frame = Spec::plain(false).build();
    for ethertype in [0x0806_u16, 0x8100, 0x88a8, 0x8847, 0x0100, 0] {
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        assert_eq!(parse(&frame), Err(Malformed::NotIp));
    }
}

#[test]
fn versions_must_fit_the_ethertype() {
    for v6 in [false, true] {
        let mut frame = Spec::plain(v6).build();
        for version in (0..16).filter(|&version| version != if v6 { 6 } else { 4 }) {
            frame[14] = frame[14] & 15 | version << 4;
            assert_eq!(parse(&frame), Err(Malformed::BadVersion));
            assert_eq!(parse(&frame[..15]), Err(Malformed::BadVersion));
        }
    }
}

#[test]
fn ipv4_header_lengths() {
    for ihl in 0..5 {
        let mut frame = Spec::plain(false).build();
        frame[14] = 0x40 | ihl;
        seal(&mut frame);
        assert_eq!(parse(&frame), Err(Malformed::BadHeaderLength), "IHL {ihl}");
    }
}

#[test]
fn ipv4_total_lengths() {
    let good = Spec::plain(false).build();
    let packet_len = good.len() as u16 - 14;
    for len in 0..=u16::MAX {
        let mut frame = good.clone();
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        seal(&mut frame);
        let expected = match len {
            0..20 => Err(Malformed::BadTotalLength),
            20..40 => Ok((len, Some(Flaw::TransportTruncated))),
            len if len <= packet_len => Ok((len, None)),
            len if len > u16::MAX - 14 => Err(Malformed::BadTotalLength),
            _ => Err(Malformed::Truncated),
        };
        assert_eq!(
            parse(&frame).map(|h| (h.len, h.flaw)),
            expected,
            "total length {len}"
        );
    }
}

#[test]
fn ipv6_payload_lengths() {
    let good = Spec::plain(true).build();
    let payload_len = good.len() as u16 - 54;
    for len in 0..=u16::MAX {
        let mut frame = good.clone();
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        let expected = match len {
            0..20 => Ok((len + 40, Some(Flaw::TransportTruncated))),
            len if len <= payload_len => Ok((len + 40, None)),
            len if len > u16::MAX - 54 => Err(Malformed::BadTotalLength),
            _ => Err(Malformed::Truncated),
        };
        assert_eq!(
            parse(&frame).map(|h| (h.len, h.flaw)),
            expected,
            "payload length {len}"
        );
    }
}

#[test]
fn jumbograms_are_refused_and_empty_packets_are_not() {
    let mut frame = Spec {
        extensions: vec![(0, 0)],
        ..Spec::plain(true)
    }
    .build();
    frame[18..20].fill(0);
    assert_eq!(parse(&frame), Err(Malformed::BadTotalLength));
    // RFC 8200 4.7: next header 59 and nothing behind it.
    let mut empty = Spec::plain(true).build();
    empty[18..20].fill(0);
    empty[20] = 59;
    assert_eq!(parse(&empty).map(|h| (h.proto, h.l4_len())), Ok((59, 0)));
}

#[test]
fn transport_headers_must_be_whole() {
    for v6 in [false, true] {
        let icmp = if v6 { 58 } else { 1 };
        for (proto, fixed) in [(6, 20), (17, 8), (136, 8), (132, 12), (33, 12), (icmp, 8)] {
            let frame = Spec {
                proto,
                payload: vec![0; 40],
                ..Spec::plain(v6)
            }
            .build();
            let header = if v6 { 54 } else { 34 };
            for have in 0..=fixed {
                let mut frame = frame[..header + have].to_vec();
                if v6 {
                    frame[18..20].copy_from_slice(&(have as u16).to_be_bytes());
                } else {
                    frame[16..18].copy_from_slice(&(20 + have as u16).to_be_bytes());
                    seal(&mut frame);
                }
                let flaw = (have < fixed).then_some(Flaw::TransportTruncated);
                assert_eq!(
                    parse(&frame).map(|h| (h.proto, h.flaw)),
                    Ok((proto, flaw)),
                    "proto {proto}, {have} bytes"
                );
            }
        }
    }
}

#[test]
fn fragments_have_ports_only_in_the_first() {
    for v6 in [false, true] {
        let at = |offset, more| {
            let frame = Spec {
                fragment: Some((offset, more)),
                ..Spec::plain(v6)
            }
            .build();
            let headers = parse(&frame).expect("a packet");
            match headers.flaw {
                None => Ok((headers.fragment, headers.sport, headers.dport, headers.tcp_flags)),
                Some(flaw) => Err(flaw),
            }
        };
        assert_eq!(at(0, true), Ok((Fragment::First, 40000, 443, 2)));
        assert_eq!(
            at(0, false),
            Ok((Fragment::Whole, 40000, 443, 2)),
            "RFC 6946: an atomic fragment is whole"
        );
        assert_eq!(at(3, true), Ok((Fragment::Later, 0, 0, 0)));
        assert_eq!(at(8191, false), Ok((Fragment::Later, 0, 0, 0)));
        assert_eq!(at(1, true), Err(Flaw::TinyFragment), "RFC 1858 4");
        assert_eq!(at(2, false), Err(Flaw::TinyFragment));
        let udp = Spec {
            proto: 17,
            fragment: Some((1, true)),
            ..Spec::plain(v6)
        }
        .build();
        assert_eq!(
            parse(&udp).map(|h| h.fragment),
            Ok(Fragment::Later),
            "UDP has 8 bytes of header"
        );
    }
}

#[test]
fn ipv4_options_are_walked() {
    let with = |options: &[u8]| {
        let mut frame = Spec {
            extensions: vec![(0, 0); options.len() / 4],
            ..Spec::plain(false)
        }
        .build();
        frame[34..34 + options.len()].copy_from_slice(options);
        seal(&mut frame);
        property::check(&frame);
        let headers = parse(&frame).expect("a packet");
        headers.flaw.map_or(Ok(headers.source_route), Err)
    };
    assert_eq!(with(&[148, 4, 0, 0]), Ok(false), "router alert (RFC 2113)");
    assert_eq!(with(&[7, 7, 4, 0, 0, 0, 0, 0]), Ok(false), "record route");
    assert_eq!(with(&[1, 131, 7, 4, 10, 0, 0, 1]), Ok(true), "loose source route");
    assert_eq!(
        with(&[137, 7, 4, 10, 0, 0, 1, 0]),
        Ok(true),
        "strict source route"
    );
    assert_eq!(
        with(&[0, 131, 0, 0]),
        Ok(false),
        "nothing counts behind the end of options"
    );
    assert_eq!(
        with(&[7, 0, 0, 0]),
        Err(Flaw::BadOption(20)),
        "length 0 would never end"
    );
    assert_eq!(with(&[1, 7, 1, 0]), Err(Flaw::BadOption(21)));
    assert_eq!(with(&[7, 5, 0, 0]), Err(Flaw::BadOption(20)));
    assert_eq!(
        with(&[1, 1, 1, 7]),
        Err(Flaw::BadOption(23)),
        "no room for the length"
    );
}

#[test]
fn extension_chains() {
    let chain = |extensions: &[(u8, u8)]| {
        let frame = Spec {
            extensions: extensions.to_vec(),
            ..Spec::plain(true)
        }
        .build();
        property::check(&frame);
        let headers = parse(&frame).expect("a packet");
        headers.flaw.map_or(Ok(headers.dport), Err)
    };
    assert_eq!(
        chain(&[(0, 0), (60, 0), (43, 2), (44, 0), (51, 4), (60, 1)]),
        Ok(443),
        "the order of RFC 8200 4.1"
    );
    assert_eq!(
        chain(&[(60, 0), (51, 1), (43, 0), (60, 0), (60, 0)]),
        Ok(443),
        "any order, any number"
    );
    assert_eq!(chain(&[(60, 0); MAX_EXTENSION_HEADERS]), Ok(443));
    assert_eq!(
        chain(&[(60, 0); MAX_EXTENSION_HEADERS + 1]),
        Err(Flaw::ExtensionChain)
    );
    assert_eq!(
        chain(&[(60, 0), (0, 0)]),
        Err(Flaw::ExtensionChain),
        "hop-by-hop stands first"
    );
    assert_eq!(chain(&[(0, 0), (0, 0)]), Err(Flaw::ExtensionChain));
    assert_eq!(
        chain(&[(44, 0), (44, 0)]),
        Err(Flaw::ExtensionChain),
        "one fragment header"
    );
}

#[test]
fn extension_headers_must_fit() {
    let good = Spec {
        extensions: vec![(60, 0)],
        payload: Vec::new(),
        ..Spec::plain(true)
    }
    .build();
    for len in 0..=255 {
        let mut frame = good.clone();
        frame[55] = len;
        // 8 + 20 bytes of payload hold a header of up to 24 bytes, and what remains holds no TCP header.
        let expected = match len {
            0 => (6, None),
            1..=2 => (6, Some(Flaw::TransportTruncated)),
            _ => (60, Some(Flaw::ExtensionChain)),
        };
        assert_eq!(
            parse(&frame).map(|h| (h.proto, h.flaw)),
            Ok(expected),
            "length field {len}"
        );
    }
    // The packet ends within an extension header, for every kind of it.
    for kind in [0, 43, 44, 51, 60] {
        let mut frame = good.clone();
        frame[20] = kind;
        for have in 1..8 {
            frame[18..20].copy_from_slice(&(have as u16).to_be_bytes());
            assert_eq!(
                parse(&frame).map(|h| (h.proto, h.l4, h.flaw)),
                Ok((kind, 54, Some(Flaw::ExtensionChain))),
                "{have} bytes of {kind}"
            );
        }
    }
    // An authentication header of less than its fixed part.
    let mut frame = good;
    frame[20] = 51;
    assert_eq!(parse(&frame).map(|h| h.flaw), Ok(Some(Flaw::ExtensionChain)));
}

#[test]
fn routing_headers_with_segments_left_are_source_routes() {
    let mut frame = Spec {
        extensions: vec![(43, 2)],
        ..Spec::plain(true)
    }
    .build();
    assert_eq!(parse(&frame).map(|h| h.source_route), Ok(false));
    frame[57] = 1;
    assert_eq!(parse(&frame).map(|h| h.source_route), Ok(true));
}

/// Every input bit changes about half of the hash's bits, and seeds and both hashes differ.
/// Flows that differ only in a port spread evenly, for any small number of next hops and by either end of the hash.
#[test]
fn captured_frames_agree_with_the_twin() {
    let Some(frames) = support::capture::frames() else {
        return;
    };
    assert!(frames.len() > 5000, "{} frames", frames.len());
    let (mut v4, mut v6, mut bad) = (0, 0, 0);
    for frame in &frames {
        property::check(frame);
        match parse(frame) {
            Ok(Headers {
                family: Family::V4, ..
            }) => v4 += 1,
            Ok(_) => v6 += 1,
            Err(Malformed::NotIp) => {}
            Err(_) => bad += 1,
        }
    }
    assert!(
        v4 > 500 && v6 > 100 && bad > 10,
        "{v4} IPv4, {v6} IPv6, {bad} malformed"
    );
}
