//! The properties of the packet parser, as one body that the unit tests and the fuzz target share.
//!
//! [`check`] compares [`classifier::packet::parse`] with a slow, obvious twin that reads every header with etherparse, and
//! tries everything else that the data plane does with a packet.

use classifier::checksum;
use classifier::packet::{self, Family, Flaw, Fragment, Headers, Malformed, parse};
use etherparse::{
    IpAuthHeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice,
};

/// Asserts every property of one frame. Panics where one does not hold.
pub fn check(frame: &[u8]) {
    let parsed = parse(frame);
    assert_eq!(parsed, twin(frame), "parser and twin disagree on {frame:02x?}");
    let Ok(headers) = parsed else { return };

    let end = headers.l3 as usize + headers.len as usize;
    assert!(headers.l3 < headers.l4 && headers.l4 as usize <= end && end <= frame.len());
    assert_eq!(headers.l4_len(), end - headers.l4 as usize);
    // Padding changes nothing, and every proper prefix of a packet is truncated, nothing else.
    assert_eq!(parse(&frame[..end]), Ok(headers));
    for cut in 0..end {
        assert_eq!(
            parse(&frame[..cut]),
            Err(Malformed::Truncated),
            "cut at {cut} of {end}"
        );
    }

    let _ = packet::martian(&headers);
    if headers.fragment == Fragment::Whole {
        let moved = Headers {
            sport: headers.sport ^ 1,
            ..headers
        };
        assert_ne!(
            headers.flow_hash_l4(7),
            moved.flow_hash_l4(7),
            "ports do not reach the hash"
        );
    } else {
        let other = Headers {
            proto: 60,
            sport: 9,
            fragment: Fragment::Later,
            ..headers
        };
        assert_eq!(
            headers.flow_hash_l4(7),
            other.flow_hash_l4(7),
            "fragments of a datagram part"
        );
    }
    let _ = headers.flow_hash_inner(frame, 7);
    in_parts(frame, &headers);

    let mut completed = frame.to_vec();
    let partial = checksum::is_partial(frame, &headers);
    assert_eq!(checksum::complete_partial(&mut completed, &headers), partial);
    if partial {
        assert!(
            !checksum::is_partial(&completed, &headers),
            "completed, yet partial"
        );
        let changed = frame.iter().zip(&completed).filter(|(a, b)| a != b).count();
        assert!(changed <= 2, "more than the field changed");
        assert_eq!(parse(&completed).map(|h| h.len), Ok(headers.len));
    } else {
        assert_eq!(frame, completed);
    }
    if headers.family == Family::V4 && headers.ttl > 0 {
        let mut sent = frame.to_vec();
        checksum::decrement_ttl_v4(&mut sent[headers.l3 as usize..]);
        assert_eq!(
            parse(&sent),
            Ok(Headers {
                ttl: headers.ttl - 1,
                ..headers
            })
        );
    }
}

/// What `parse` must answer, found the long way.
pub fn twin(frame: &[u8]) -> Result<Headers, Malformed> {
    if frame.len() < 14 {
        return Err(Malformed::Truncated);
    }
    let (ethertype, packet) = (u16::from_be_bytes([frame[12], frame[13]]), &frame[14..]);
    let version = match ethertype {
        0x0800 => 4,
        0x86dd => 6,
        _ => return Err(Malformed::NotIp),
    };
    if packet.is_empty() {
        return Err(Malformed::Truncated);
    }
    if packet[0] >> 4 != version {
        return Err(Malformed::BadVersion);
    }
    let (headers, offset) = if version == 4 {
        twin_v4(packet)?
    } else {
        twin_v6(packet)?
    };
    let (l4, end) = (headers.l4 as usize, headers.l3 as usize + headers.len as usize);
    if headers.flaw == Some(Flaw::ExtensionChain) {
        return Ok(headers);
    }
    Ok(twin_transport(headers, &frame[l4..end], offset))
}

fn twin_v4(packet: &[u8]) -> Result<(Headers, u16), Malformed> {
    if packet.len() < 20 {
        return Err(Malformed::Truncated);
    }
    if packet[0] & 15 < 5 {
        return Err(Malformed::BadHeaderLength);
    }
    let ip = Ipv4HeaderSlice::from_slice(packet).map_err(|_| Malformed::Truncated)?;
    let words = ip
        .slice()
        .chunks(2)
        .map(|w| u16::from_be_bytes([w[0], w[1]]) as u64);
    // RFC 1071: the one's complement sum of a good header is all ones; a sum is congruent to it modulo 65,535.
    if words.sum::<u64>() % 65535 != 0 {
        return Err(Malformed::BadChecksum);
    }
    let len = ip.total_len();
    if (len as usize) < ip.slice().len() || len as usize + 14 > 65535 {
        return Err(Malformed::BadTotalLength);
    }
    if packet.len() < len as usize {
        return Err(Malformed::Truncated);
    }
    let offset = ip.fragments_offset().value();
    let (source_route, flaw) = match twin_options(ip.options()) {
        Ok(found) => (found, None),
        Err(at) => (false, Some(Flaw::BadOption(20 + at as u8))),
    };
    let headers = Headers {
        family: Family::V4,
        src: u32::from(ip.source_addr()) as u128,
        dst: u32::from(ip.destination_addr()) as u128,
        proto: ip.protocol().0,
        sport: 0,
        dport: 0,
        tcp_flags: 0,
        icmp: None,
        fragment: place(offset, ip.more_fragments()),
        dscp: ip.dcp().value(),
        ttl: ip.ttl(),
        dont_fragment: ip.dont_fragment(),
        source_route,
        l3: 14,
        l4: 14 + ip.slice().len() as u16,
        len,
        flow_label: 0,
        flaw,
    };
    Ok((headers, offset))
}

fn twin_options(options: &[u8]) -> Result<bool, usize> {
    let (mut at, mut source_route) = (0, false);
    while at < options.len() && options[at] != 0 {
        if options[at] == 1 {
            at += 1;
            continue;
        }
        let len = options.get(at + 1).copied().unwrap_or(0) as usize;
        if len < 2 || at + len > options.len() {
            return Err(at);
        }
        source_route |= [131, 137].contains(&options[at]);
        at += len;
    }
    Ok(source_route)
}

fn twin_v6(packet: &[u8]) -> Result<(Headers, u16), Malformed> {
    let ip = Ipv6HeaderSlice::from_slice(packet).map_err(|_| Malformed::Truncated)?;
    let len = ip.payload_length() as usize + 40;
    if (ip.payload_length() == 0 && ip.next_header() == IpNumber::IPV6_HEADER_HOP_BY_HOP) || len + 14 > 65535
    {
        return Err(Malformed::BadTotalLength);
    }
    if packet.len() < len {
        return Err(Malformed::Truncated);
    }
    let mut headers = Headers {
        family: Family::V6,
        src: u128::from_be_bytes(ip.source()),
        dst: u128::from_be_bytes(ip.destination()),
        proto: ip.next_header().0,
        sport: 0,
        dport: 0,
        tcp_flags: 0,
        icmp: None,
        fragment: Fragment::Whole,
        dscp: ip.traffic_class() >> 2,
        ttl: ip.hop_limit(),
        dont_fragment: true,
        source_route: false,
        l3: 14,
        l4: 0,
        len: len as u16,
        flow_label: ip.flow_label().value(),
        flaw: None,
    };
    let mut rest = &packet[40..len];
    let mut offset = 0;
    let mut kinds: Vec<u8> = Vec::new();
    while [0, 43, 44, 51, 60].contains(&headers.proto) && headers.fragment != Fragment::Later {
        kinds.push(headers.proto);
        let hop_by_hop_inside = headers.proto == 0 && kinds.len() > 1;
        let second_fragment = kinds.iter().filter(|&&kind| kind == 44).count() > 1;
        let stands_wrong = kinds.len() > 8 || hop_by_hop_inside || second_fragment;
        let Some((used, next)) = (!stands_wrong)
            .then(|| twin_extension(&mut headers, rest, &mut offset))
            .flatten()
        else {
            headers.flaw = Some(Flaw::ExtensionChain);
            break;
        };
        rest = &rest[used..];
        headers.proto = next;
    }
    headers.l4 = (14 + len - rest.len()) as u16;
    Ok((headers, offset))
}

/// Length and next header of the extension header that `rest` begins with; `None` when it does not fit.
fn twin_extension(headers: &mut Headers, rest: &[u8], offset: &mut u16) -> Option<(usize, u8)> {
    Some(match headers.proto {
        44 => {
            let header = Ipv6FragmentHeaderSlice::from_slice(rest).ok()?;
            *offset = header.fragment_offset().value();
            headers.fragment = place(*offset, header.more_fragments());
            (header.slice().len(), header.next_header().0)
        }
        51 => {
            let header = IpAuthHeaderSlice::from_slice(rest).ok()?;
            (header.slice().len(), header.next_header().0)
        }
        kind => {
            let header = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
            headers.source_route |= kind == 43 && header.payload()[1] != 0;
            (header.slice().len(), header.next_header().0)
        }
    })
}

fn place(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

fn twin_transport(mut headers: Headers, l4: &[u8], offset: u16) -> Headers {
    if headers.fragment == Fragment::Later {
        if headers.proto == 6 && [1, 2].contains(&offset) {
            headers.flaw = headers.flaw.or(Some(Flaw::TinyFragment));
        }
        return headers;
    }
    let needed = match (headers.proto, headers.family) {
        (6, _) => 20,
        (17 | 136, _) | (1, Family::V4) | (58, Family::V6) => 8,
        (33 | 132, _) => 12,
        _ => return headers,
    };
    let is_icmp = [1, 58].contains(&headers.proto);
    if is_icmp && l4.len() >= 2 {
        headers.icmp = Some((l4[0], l4[1]));
    }
    if l4.len() < needed {
        headers.flaw = headers.flaw.or(Some(Flaw::TransportTruncated));
    } else if !is_icmp {
        headers.sport = u16::from_be_bytes([l4[0], l4[1]]);
        headers.dport = u16::from_be_bytes([l4[2], l4[3]]);
        headers.tcp_flags = if headers.proto == 6 { l4[13] } else { 0 };
    }
    headers
}

/// A frame of which only the first bytes are at hand says what the whole frame does, or that a header is cut off.
fn in_parts(frame: &[u8], headers: &Headers) {
    for cut in [
        frame.len() / 2,
        frame.len() * 3 / 4,
        frame.len().saturating_sub(1),
    ] {
        let (start, rest) = frame.split_at(cut);
        let Ok(found) = packet::parse_start(start, frame.len()) else {
            continue;
        };
        // What is behind a flaw is read from nowhere; a flaw may hide another.
        if found.flaw.is_some() {
            let cut_off = matches!(found.flaw, Some(Flaw::ExtensionChain | Flaw::TransportTruncated));
            assert!(found.flaw == headers.flaw || cut_off, "{found:?} of {headers:?}");
            continue;
        }
        assert_eq!(found, *headers);
        let whole = checksum::completed(frame, frame.len(), headers, core::iter::empty);
        let parts = checksum::completed(start, frame.len(), headers, || core::iter::once(rest));
        // The field may be behind the cut.
        assert!(parts.is_none() || parts == whole);
    }
}
