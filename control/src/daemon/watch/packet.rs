//! A packet's headers for people and programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{SystemTime, UNIX_EPOCH};

use classifier::filter::has_ports;
use classifier::packet::{Family, Fragment, Headers, glance};
use serde_json::{Value, json};

use crate::acl::protocol_name;

/// What can be read of a packet: `{from, to, proto, sport, dport, tcp_flags, icmp, ttl, fragment}`; null when not even
/// its addresses can.
pub(super) fn headers(bytes: &[u8]) -> Value {
    glance(bytes).map_or(Value::Null, |headers| of(&headers))
}

/// The source of a packet.
pub(super) fn source(bytes: &[u8]) -> Option<IpAddr> {
    glance(bytes).map(|headers| address(headers.family, headers.src))
}

pub(super) fn address(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(bits as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

fn of(headers: &Headers) -> Value {
    let ports = has_ports(headers);
    json!({
        "from": address(headers.family, headers.src),
        "to": address(headers.family, headers.dst),
        "proto": protocol_name(headers.proto),
        "sport": ports.then_some(headers.sport),
        "dport": ports.then_some(headers.dport),
        "tcp_flags": (headers.proto == 6 && ports).then_some(headers.tcp_flags),
        "icmp": headers.icmp,
        "ttl": headers.ttl,
        "fragment": match headers.fragment {
            Fragment::Whole => "none",
            Fragment::First => "first",
            Fragment::Later => "later",
        },
    })
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
    text
}

/// Nanoseconds since 1970.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}
