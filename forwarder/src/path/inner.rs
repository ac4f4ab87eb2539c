//! The flow that a packet belongs to when its own headers do not tell: that of the packet inside.
//!
//! An ICMP error follows the flow that it is about, so that behind an anycast address it reaches the host that it
//! concerns. A tunnel's packets are spread by what they carry, if the node is set so.

use classifier::packet::{Family, Fragment, Headers, protocol};

/// The headers to hash instead of the packet's own, if there are any. `frame` is the packet that `headers` describe, or the
/// first of its frames.
/// The answer is good for hashing only: nothing in it has been validated.
pub(super) fn flow(frame: &[u8], headers: &Headers, tunnels: bool) -> Option<Headers> {
    if headers.fragment != Fragment::Whole {
        return None;
    }
    let end = (headers.l3 as usize + headers.len as usize).min(frame.len());
    let payload = frame.get(headers.l4 as usize..end)?;
    let error = match (headers.family, headers.icmp) {
        (Family::V4, Some((3 | 4 | 11 | 12, _))) => Some(Family::V4),
        (Family::V6, Some((1..=4, _))) => Some(Family::V6),
        _ => None,
    };
    if let Some(family) = error {
        // Both kinds have 8 bytes before what they quote (RFC 792, RFC 4443 3). The quoted packet went the other way.
        return read(family, payload.get(8..)?).map(|quoted| Headers {
            src: quoted.dst,
            dst: quoted.src,
            sport: quoted.dport,
            dport: quoted.sport,
            ..quoted
        });
    }
    if !tunnels {
        return None;
    }
    match headers.proto {
        protocol::IPIP => read(Family::V4, payload),
        protocol::IPV6 => read(Family::V6, payload),
        protocol::GRE => gre(payload),
        _ => None,
    }
}

/// What a GRE packet carries (RFC 2784, RFC 2890).
fn gre(payload: &[u8]) -> Option<Headers> {
    let flags = *payload.first()?;
    // Checksum, key and sequence number, 4 bytes each, where their bits are set; routing is obsolete.
    if flags & 0x40 != 0 || payload.get(1)? & 7 != 0 {
        return None;
    }
    let options = (flags & 0x80).count_ones() + (flags & 0x30).count_ones();
    let inner = payload.get(4 + 4 * options as usize..)?;
    match u16::from_be_bytes([*payload.get(2)?, *payload.get(3)?]) {
        classifier::packet::ETHERTYPE_IPV4 => read(Family::V4, inner),
        classifier::packet::ETHERTYPE_IPV6 => read(Family::V6, inner),
        _ => None,
    }
}

/// Addresses, protocol and ports of the IP packet that begins `packet`, which may be cut.
fn read(family: Family, packet: &[u8]) -> Option<Headers> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let first = *packet.first()?;
    let (src, dst, proto, l4, later) = match (family, first >> 4) {
        (Family::V4, 4) => {
            let address = |at: usize| Some(u128::from(word(at)?) << 16 | u128::from(word(at + 2)?));
            let fragmented = word(6)? & 0x3fff != 0;
            (
                address(12)?,
                address(16)?,
                *packet.get(9)?,
                usize::from(first & 15) * 4,
                fragmented,
            )
        }
        (Family::V6, 6) => {
            let address = |at: usize| {
                let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(u128::from_be_bytes(bytes))
            };
            (address(8)?, address(24)?, *packet.get(6)?, 40, false)
        }
        _ => return None,
    };
    let ports = matches!(
        proto,
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDP_LITE
    ) && !later;
    let port = |at: usize| if ports { word(at).unwrap_or(0) } else { 0 };
    Some(Headers {
        family,
        src,
        dst,
        proto,
        sport: port(l4),
        dport: port(l4 + 2),
        tcp_flags: 0,
        icmp: None,
        fragment: if later { Fragment::Later } else { Fragment::Whole },
        dscp: 0,
        ttl: 0,
        dont_fragment: false,
        source_route: false,
        l3: 0,
        l4: l4 as u16,
        len: 0,
        // The other direction has another label, and a quoted packet only its own.
        flow_label: 0,
        flaw: None,
    })
}
