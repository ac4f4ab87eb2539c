//! Addresses that no router forwards from or to (RFC 1812 5.3.7 and what IPv6 has in its place).

use super::{Family, Headers};

/// Why a packet's addresses forbid forwarding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Martian {
    /// The source cannot be a host's address: 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, 240.0.0.0/4; `::/96` (unspecified, loopback,
    /// IPv4-compatible), `::ffff:0:0/96` (IPv4-mapped), `ff00::/8`.
    Source,
    /// The destination is nothing that unicast forwarding reaches: the same prefixes.
    Destination,
    /// Source or destination is link-local: 169.254.0.0/16 (RFC 3927 2.7), `fe80::/10` (RFC 4291 2.5.6).
    LinkLocal,
}

/// Whether the addresses of a packet forbid forwarding it. A bad source is named before a bad destination, and both
/// before a link-local one.
#[inline]
pub fn martian(headers: &Headers) -> Option<Martian> {
    match headers.family {
        Family::V4 => judge(headers, never_v4, link_local_v4),
        Family::V6 => judge(headers, never_v6, link_local_v6),
    }
}

#[inline]
fn judge(
    headers: &Headers,
    never: impl Fn(u128) -> bool,
    link_local: impl Fn(u128) -> bool,
) -> Option<Martian> {
    if never(headers.src) {
        Some(Martian::Source)
    } else if never(headers.dst) {
        Some(Martian::Destination)
    } else if link_local(headers.src) || link_local(headers.dst) {
        Some(Martian::LinkLocal)
    } else {
        None
    }
}

#[inline]
fn never_v4(address: u128) -> bool {
    let first = (address >> 24) as u8;
    // 224.0.0.0/4 is multicast, 240.0.0.0/4 reserved and never forwarded (RFC 6890 table 15), the limited broadcast
    // address being the last of it.
    first == 0 || first == 127 || first >= 224
}

#[inline]
fn link_local_v4(address: u128) -> bool {
    address as u32 >> 16 == 0xa9fe
}

#[inline]
fn never_v6(address: u128) -> bool {
    // RFC 4291 2.5.2, 2.5.3, 2.5.5, 2.7; RFC 6890 tables 17, 18, 20.
    let top96 = address >> 32;
    top96 == 0 || top96 == 0xffff || address >> 120 == 0xff
}

#[inline]
fn link_local_v6(address: u128) -> bool {
    address >> 118 == 0xfe80 >> 6
}
