//! IPv4 headers (RFC 791), checked as RFC 1812 5.2.2 asks.

use super::{Family, Flaw, Fragment, Headers, Malformed, transport};
use crate::checksum;

/// Bytes of a header without options.
const FIXED_HEADER: usize = 20;
/// Option numbers (IANA, IP option numbers).
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// Reads the IPv4 packet that starts at byte `l3` of its frame. `packet` holds the first of its `whole` bytes.
#[inline]
pub(super) fn parse(packet: &[u8], whole: usize, l3: u16) -> Result<Headers, Malformed> {
    let Some(fixed) = packet.first_chunk::<FIXED_HEADER>() else {
        return Err(first_fault_of_short_header(packet));
    };
    if fixed[0] >> 4 != 4 {
        return Err(Malformed::BadVersion);
    }
    let header_len = (fixed[0] & 0x0f) as usize * 4;
    if header_len < FIXED_HEADER {
        return Err(Malformed::BadHeaderLength);
    }
    let Some(header) = packet.get(..header_len) else {
        return Err(Malformed::Truncated);
    };
    // The checksum comes before any other field is believed.
    if !checksum::ipv4_header_ok(header) {
        return Err(Malformed::BadChecksum);
    }
    let total = u16::from_be_bytes([fixed[2], fixed[3]]);
    if (total as usize) < header_len || total.checked_add(l3).is_none() {
        return Err(Malformed::BadTotalLength);
    }
    if total as usize > whole {
        return Err(Malformed::Truncated);
    }
    // Trailing bytes are Ethernet padding.
    let packet = &packet[..packet.len().min(total as usize)];

    let fragmentation = u16::from_be_bytes([fixed[6], fixed[7]]);
    let offset = fragmentation & 0x1fff;
    let more = fragmentation & 0x2000 != 0;
    let mut headers = Headers {
        family: Family::V4,
        src: u32::from_be_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]) as u128,
        dst: u32::from_be_bytes([fixed[16], fixed[17], fixed[18], fixed[19]]) as u128,
        proto: fixed[9],
        sport: 0,
        dport: 0,
        tcp_flags: 0,
        icmp: None,
        fragment: match (offset, more) {
            (0, false) => Fragment::Whole,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        },
        dscp: fixed[1] >> 2,
        ttl: fixed[8],
        dont_fragment: fragmentation & 0x4000 != 0,
        source_route: false,
        l3,
        l4: l3 + header_len as u16,
        len: total,
        flow_label: 0,
        flaw: None,
    };
    if header_len > FIXED_HEADER {
        match source_route(&header[FIXED_HEADER..]) {
            Ok(found) => headers.source_route = found,
            Err(at) => headers.flaw = Some(Flaw::BadOption((FIXED_HEADER + at) as u8)),
        }
    }
    transport::read(&mut headers, &packet[header_len..], offset);
    Ok(headers)
}

/// What is wrong with fewer bytes than a header has: the version, if there is one to see, or that they are too few.
#[cold]
fn first_fault_of_short_header(packet: &[u8]) -> Malformed {
    match packet.first() {
        Some(first) if first >> 4 != 4 => Malformed::BadVersion,
        _ => Malformed::Truncated,
    }
}

/// Walks the options; says whether one of them is a source route, or at which byte one begins that does not fit.
///
/// Options that are not known here pass as they are (RFC 1812 4.2.2.6: a router must pass over those it does not recognise).
#[cold]
fn source_route(options: &[u8]) -> Result<bool, usize> {
    let (all, mut options) = (options.len(), options);
    let mut found = false;
    while let [kind, rest @ ..] = options {
        match *kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => options = rest,
            kind => {
                // The length counts the kind and itself.
                let len = rest.first().map_or(0, |len| *len as usize);
                if len < 2 || len > options.len() {
                    return Err(all - options.len());
                }
                found |= kind == LOOSE_SOURCE_ROUTE || kind == STRICT_SOURCE_ROUTE;
                options = &options[len..];
            }
        }
    }
    Ok(found)
}
