//! IPv6 headers and the extension headers behind them (RFC 8200 3, 4).

use super::{Family, Flaw, Fragment, Headers, Malformed, transport};

/// Bytes of the IPv6 header.
const FIXED_HEADER: usize = 40;
/// No more extension headers than this are walked in search of the upper layer: a chain costs a step each, and a router
/// may limit what it walks (RFC 8504 5.3, RFC 8883 3.4).
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// Extension header numbers (IANA, IPv6 extension header types). ESP and "no next header" end a chain: what stands
/// behind them cannot be read or is not there.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Reads the IPv6 packet that starts at byte `l3` of its frame. `packet` holds the first of its `whole` bytes.
#[inline]
pub(super) fn parse(packet: &[u8], whole: usize, l3: u16) -> Result<Headers, Malformed> {
    let Some(fixed) = packet.first_chunk::<FIXED_HEADER>() else {
        return Err(first_fault_of_short_header(packet));
    };
    if fixed[0] >> 4 != 6 {
        return Err(Malformed::BadVersion);
    }
    let payload = u16::from_be_bytes([fixed[4], fixed[5]]);
    // Payload length 0 with a hop-by-hop header announces a jumbogram (RFC 2675 3), which no Ethernet frame holds.
    if payload == 0 && fixed[6] == HOP_BY_HOP {
        return Err(Malformed::BadTotalLength);
    }
    let Some(len) = payload.checked_add(FIXED_HEADER as u16) else {
        return Err(Malformed::BadTotalLength);
    };
    if len.checked_add(l3).is_none() {
        return Err(Malformed::BadTotalLength);
    }
    if len as usize > whole {
        return Err(Malformed::Truncated);
    }
    let packet = &packet[..packet.len().min(len as usize)];

    let first_word = u32::from_be_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
    let mut headers = Headers {
        family: Family::V6,
        src: address(packet, 8),
        dst: address(packet, 24),
        proto: fixed[6],
        sport: 0,
        dport: 0,
        tcp_flags: 0,
        icmp: None,
        fragment: Fragment::Whole,
        dscp: (first_word >> 22) as u8 & 0x3f,
        ttl: fixed[7],
        dont_fragment: true,
        source_route: false,
        l3,
        l4: l3 + FIXED_HEADER as u16,
        len,
        flow_label: first_word & 0x000f_ffff,
        flaw: None,
    };
    let mut offset = 0;
    if is_extension(headers.proto) {
        match walk(&mut headers, packet) {
            Some(found) => offset = found,
            None => {
                headers.flaw = Some(Flaw::ExtensionChain);
                return Ok(headers);
            }
        }
    }
    let l4 = (headers.l4 - l3) as usize;
    transport::read(&mut headers, &packet[l4..], offset);
    Ok(headers)
}

/// The address at byte `at`. The caller has checked that the fixed header is there.
#[inline]
fn address(packet: &[u8], at: usize) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&packet[at..at + 16]);
    u128::from_be_bytes(bytes)
}

#[inline]
fn is_extension(proto: u8) -> bool {
    matches!(
        proto,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}

/// What is wrong with fewer bytes than a header has: the version, if there is one to see, or that they are too few.
#[cold]
fn first_fault_of_short_header(packet: &[u8]) -> Malformed {
    match packet.first() {
        Some(first) if first >> 4 != 6 => Malformed::BadVersion,
        _ => Malformed::Truncated,
    }
}

/// Walks the extension headers; sets protocol, fragment, source route and the start of the upper layer. Returns the
/// fragment offset in units of 8 bytes; `None` when the chain cannot be walked to its end, and then protocol and start
/// are those of the header where that shows.
///
/// Any order and repetition is accepted (RFC 8200 4.1: "must accept and attempt to process extension headers in any order"),
/// but for hop-by-hop options, which stand first only, and a second fragment header, which no sender may make.
#[cold]
fn walk(headers: &mut Headers, packet: &[u8]) -> Option<u16> {
    let mut at = FIXED_HEADER;
    let mut seen = 0;
    let mut fragmented = false;
    let mut offset = 0;
    while is_extension(headers.proto) {
        // Every extension header is at least 8 bytes long and a multiple of 8 (of 4 for AH) bytes.
        let start = packet.get(at..)?.first_chunk::<8>()?;
        if seen == MAX_EXTENSION_HEADERS || (headers.proto == HOP_BY_HOP && seen > 0) {
            return None;
        }
        seen += 1;
        let len = match headers.proto {
            FRAGMENT if fragmented => return None,
            FRAGMENT => {
                fragmented = true;
                let field = u16::from_be_bytes([start[2], start[3]]);
                offset = field >> 3;
                headers.fragment = match (offset, field & 1 != 0) {
                    (0, false) => Fragment::Whole,
                    (0, true) => Fragment::First,
                    _ => Fragment::Later,
                };
                8
            }
            // RFC 4302 2: in words of 4 bytes, minus 2; the fixed part alone is three words.
            AUTHENTICATION if start[1] == 0 => return None,
            AUTHENTICATION => (start[1] as usize + 2) * 4,
            _ => (start[1] as usize + 1) * 8,
        };
        if at + len > packet.len() {
            return None;
        }
        // RFC 8200 4.4: byte 3 is the number of segments left.
        headers.source_route |= headers.proto == ROUTING && start[3] > 0;
        at += len;
        headers.l4 += len as u16;
        headers.proto = start[0];
        // What follows in a later fragment is the middle of something.
        if headers.fragment == Fragment::Later {
            break;
        }
    }
    Some(offset)
}
