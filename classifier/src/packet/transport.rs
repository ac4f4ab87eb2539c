//! The fixed parts of upper-layer headers that access lists look at.

use super::{Family, Flaw, Fragment, Headers};

/// Upper-layer protocol numbers (IANA, assigned Internet protocol numbers).
pub mod protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// DCCP (RFC 4340).
    pub const DCCP: u8 = 33;
    /// IPv6 in IP (RFC 2473, RFC 4213).
    pub const IPV6: u8 = 41;
    /// Generic routing encapsulation (RFC 2784).
    pub const GRE: u8 = 47;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
    /// UDP-Lite (RFC 3828).
    pub const UDP_LITE: u8 = 136;
}

/// Bytes of the fixed TCP header; a later fragment that begins before its end overlaps it.
const TCP_HEADER: usize = 20;

/// Reads ports, flags and ICMP type from `l4`, the packet's bytes from the upper-layer header to the end of the packet.
/// `offset` is the fragment offset in units of 8 bytes. What cannot be read is noted as a flaw, unless there is one already.
#[inline]
pub(super) fn read(headers: &mut Headers, l4: &[u8], offset: u16) {
    if headers.fragment == Fragment::Later {
        // RFC 1858 4 names offset 1; any offset inside the fixed header overwrites fields behind the ports as well.
        if headers.proto == protocol::TCP && (offset as usize) * 8 < TCP_HEADER {
            headers.flaw.get_or_insert(Flaw::TinyFragment);
        }
        return;
    }
    let is_icmp = match headers.family {
        Family::V4 => headers.proto == protocol::ICMP,
        Family::V6 => headers.proto == protocol::ICMPV6,
    };
    let fixed = match headers.proto {
        protocol::TCP => TCP_HEADER,
        protocol::UDP | protocol::UDP_LITE => 8,
        protocol::SCTP | protocol::DCCP => 12,
        _ if is_icmp => 8,
        _ => return,
    };
    if is_icmp {
        headers.icmp = l4.first_chunk().map(|[kind, code]| (*kind, *code));
    }
    if l4.len() < fixed {
        headers.flaw.get_or_insert(Flaw::TransportTruncated);
        return;
    }
    if is_icmp {
        return;
    }
    headers.sport = u16::from_be_bytes([l4[0], l4[1]]);
    headers.dport = u16::from_be_bytes([l4[2], l4[3]]);
    if headers.proto == protocol::TCP {
        headers.tcp_flags = l4[13];
    }
}
