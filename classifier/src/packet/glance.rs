//! What can still be read of a packet that is malformed, or of which only the first bytes were kept.

use super::transport::protocol;
use super::{
    ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, Fragment, Headers, MAX_EXTENSION_HEADERS,
};

/// Reads as many headers of an untagged Ethernet II frame as its bytes hold, without judging them: addresses, protocol,
/// ports, flags, ICMP type. For filters and for people; nothing is forwarded by it. `None` when not even the addresses
/// are there. What lies behind the bytes reads as zero; `len` is what the header says.
pub fn glance(frame: &[u8]) -> Option<Headers> {
    let (ethernet, packet) = frame.split_first_chunk::<ETHERNET_HEADER>()?;
    let mut headers = match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        ETHERTYPE_IPV4 => v4(packet),
        ETHERTYPE_IPV6 => v6(packet),
        _ => None,
    }?;
    if headers.fragment == Fragment::Later {
        return Some(headers);
    }
    let l4 = frame.get(usize::from(headers.l4)..).unwrap_or_default();
    match (headers.proto, headers.family) {
        (protocol::TCP | protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDP_LITE, _) => {
            headers.sport = number(l4, 0);
            headers.dport = number(l4, 2);
            if headers.proto == protocol::TCP {
                headers.tcp_flags = l4.get(13).copied().unwrap_or(0);
            }
        }
        (protocol::ICMP, Family::V4) | (protocol::ICMPV6, Family::V6) => {
            headers.icmp = l4.first_chunk::<2>().map(|[kind, code]| (*kind, *code));
        }
        _ => {}
    }
    Some(headers)
}

/// Two bytes in the order of the network; zero behind the end.
fn number(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |pair| u16::from_be_bytes(*pair))
}

/// Headers with nothing in them but what both families have.
fn blank(family: Family, src: u128, dst: u128) -> Headers {
    Headers {
        family,
        src,
        dst,
        proto: 0,
        sport: 0,
        dport: 0,
        tcp_flags: 0,
        icmp: None,
        fragment: Fragment::Whole,
        dscp: 0,
        ttl: 0,
        dont_fragment: true,
        source_route: false,
        l3: ETHERNET_HEADER as u16,
        l4: 0,
        len: 0,
        flow_label: 0,
        flaw: None,
    }
}

fn fragment(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

fn v4(packet: &[u8]) -> Option<Headers> {
    let header = packet.first_chunk::<20>()?;
    let address = |at: usize| {
        u128::from(u32::from_be_bytes([
            header[at],
            header[at + 1],
            header[at + 2],
            header[at + 3],
        ]))
    };
    let flags = number(header, 6);
    Some(Headers {
        proto: header[9],
        fragment: fragment(flags & 0x1fff, flags & 0x2000 != 0),
        dscp: header[1] >> 2,
        ttl: header[8],
        dont_fragment: flags & 0x4000 != 0,
        l4: ETHERNET_HEADER as u16 + u16::from(header[0] & 15) * 4,
        len: number(header, 2),
        ..blank(Family::V4, address(12), address(16))
    })
}

fn v6(packet: &[u8]) -> Option<Headers> {
    let header = packet.first_chunk::<40>()?;
    let address = |at: usize| {
        let bytes = header[at..].first_chunk::<16>().copied();
        u128::from_be_bytes(bytes.unwrap_or_default())
    };
    let mut headers = Headers {
        proto: header[6],
        dscp: (number(header, 0) >> 6 & 0x3f) as u8,
        ttl: header[7],
        len: number(header, 4).saturating_add(40),
        flow_label: u32::from(header[1] & 15) << 16 | u32::from(number(header, 2)),
        ..blank(Family::V6, address(8), address(24))
    };
    let mut at = 40;
    for _ in 0..MAX_EXTENSION_HEADERS {
        // RFC 8200 4.3, 4.4, 4.6: hop-by-hop options, routing and destination options name their length in units of
        // 8 bytes; 4.5: a fragment header has 8 bytes.
        let extension = packet.get(at..at + 8);
        match (headers.proto, extension) {
            (0 | 43 | 60, Some(extension)) => {
                headers.proto = extension[0];
                at += 8 + usize::from(extension[1]) * 8;
            }
            // RFC 4302 2: in words of 4 bytes, minus 2.
            (51, Some(extension)) => {
                headers.proto = extension[0];
                at += 8 + usize::from(extension[1]) * 4;
            }
            (44, Some(extension)) => {
                let place = number(extension, 2);
                headers.proto = extension[0];
                headers.fragment = fragment(place >> 3, place & 1 != 0);
                at += 8;
                if headers.fragment == Fragment::Later {
                    break;
                }
            }
            _ => break,
        }
    }
    headers.l4 = (ETHERNET_HEADER + at) as u16;
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_cut_short_still_tells_its_flow() {
        let mut frame = vec![2; 12];
        frame.extend([
            8, 0, 0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([0x0f, 0xa0, 1, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12]);
        let headers = glance(&frame).unwrap();
        assert_eq!(
            (headers.src, headers.dst, headers.proto),
            (0x0a00_0001, 0x0a00_0002, 6)
        );
        assert_eq!(
            (headers.sport, headers.dport, headers.tcp_flags),
            (4000, 443, 0x12)
        );
        assert_eq!((headers.ttl, headers.len), (64, 1500));
        for len in 0..frame.len() {
            assert_eq!(glance(&frame[..len]).is_some(), len >= 34, "{len}");
        }
        frame[20] = 0x20;
        frame[21] = 3;
        assert_eq!(
            glance(&frame).map(|headers| (headers.fragment, headers.dport)),
            Some((Fragment::Later, 0))
        );
    }

    #[test]
    fn extension_headers_are_passed_over() {
        let mut frame = vec![2; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 0, 9]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        frame.extend([44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9, 0, 53, 0, 54]);
        let headers = glance(&frame).unwrap();
        assert_eq!((headers.proto, headers.sport, headers.dport), (17, 53, 54));
        assert_eq!(
            (headers.fragment, headers.ttl, headers.len),
            (Fragment::First, 9, 64)
        );
    }
}
