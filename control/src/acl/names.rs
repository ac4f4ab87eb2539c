//! Names of protocols, ICMP types, TCP flags and code points, and the nearest name to a misspelt one.

use classifier::acl::{IcmpMatch, IcmpType, Protocols};

/// Protocol names (IANA "Protocol Numbers"); `icmp` stands apart because it means another number in IPv6.
const PROTOCOLS: &[(&str, u8)] = &[
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

/// What a protocol name means.
pub(super) fn protocol(name: &str) -> Option<Protocols> {
    if name == "icmp" {
        return Some(Protocols::icmp());
    }
    PROTOCOLS
        .iter()
        .find(|(n, _)| *n == name)
        .map(|&(_, number)| Protocols::number(number))
}

/// The name of a protocol.
pub(super) fn protocol_name(number: u8) -> Option<&'static str> {
    PROTOCOLS
        .iter()
        .find(|(_, n)| *n == number)
        .map(|(name, _)| *name)
}

/// All protocol names.
pub(super) fn protocols() -> impl Iterator<Item = &'static str> {
    PROTOCOLS.iter().map(|(n, _)| *n).chain(["icmp"])
}

type Meaning = Option<(u8, Option<u8>)>;

/// ICMP type names: what they mean in ICMP (RFC 792, RFC 1256) and in ICMPv6 (RFC 4443, RFC 4861).
const ICMP: &[(&str, Meaning, Meaning)] = &[
    ("echo-request", Some((8, None)), Some((128, None))),
    ("echo-reply", Some((0, None)), Some((129, None))),
    ("destination-unreachable", Some((3, None)), Some((1, None))),
    ("network-unreachable", Some((3, Some(0))), Some((1, Some(0)))),
    ("host-unreachable", Some((3, Some(1))), Some((1, Some(3)))),
    ("port-unreachable", Some((3, Some(3))), Some((1, Some(4)))),
    ("admin-prohibited", Some((3, Some(13))), Some((1, Some(1)))),
    ("fragmentation-needed", Some((3, Some(4))), Some((2, None))),
    ("packet-too-big", Some((3, Some(4))), Some((2, None))),
    ("time-exceeded", Some((11, None)), Some((3, None))),
    ("parameter-problem", Some((12, None)), Some((4, None))),
    ("redirect", Some((5, None)), Some((137, None))),
    ("router-solicitation", Some((10, None)), Some((133, None))),
    ("router-advertisement", Some((9, None)), Some((134, None))),
    ("timestamp-request", Some((13, None)), None),
    ("timestamp-reply", Some((14, None)), None),
    ("neighbour-solicitation", None, Some((135, None))),
    ("neighbor-solicitation", None, Some((135, None))),
    ("neighbour-advertisement", None, Some((136, None))),
    ("neighbor-advertisement", None, Some((136, None))),
];

/// What an ICMP type name means.
pub(super) fn icmp(name: &str) -> Option<IcmpMatch> {
    let side = |m: Meaning| m.map(|(kind, code)| IcmpType { kind, code });
    ICMP.iter()
        .find(|(n, ..)| *n == name)
        .map(|&(_, v4, v6)| IcmpMatch {
            v4: side(v4),
            v6: side(v6),
        })
}

/// All ICMP type names.
pub(super) fn icmps() -> impl Iterator<Item = &'static str> {
    ICMP.iter().map(|(n, ..)| *n)
}

/// TCP flags (RFC 9293 3.1) and their bits.
pub(super) const FLAGS: &[(&str, u8)] = &[
    ("fin", 0x01),
    ("syn", 0x02),
    ("rst", 0x04),
    ("psh", 0x08),
    ("ack", 0x10),
    ("urg", 0x20),
    ("ece", 0x40),
    ("cwr", 0x80),
];

/// The code point of a name: `ef` (RFC 3246), `csN` (RFC 2474), `afXY` (RFC 2597).
pub(super) fn dscp(name: &str) -> Option<u8> {
    if name == "ef" {
        return Some(46);
    }
    let digits: Vec<u8> = name.get(2..)?.bytes().map(|b| b.wrapping_sub(b'0')).collect();
    match (name.get(..2)?, digits.as_slice()) {
        ("cs", &[class @ 0..=7]) => Some(class * 8),
        ("af", &[class @ 1..=4, drop @ 1..=3]) => Some(class * 8 + drop * 2),
        _ => None,
    }
}

/// The known name nearest to a misspelt one, when one is near enough to be meant.
pub(crate) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (distance(given, k), k))
        .filter(|&(d, k)| d <= 1 + k.len().max(given.len()) / 3)
        .min()
        .map(|(_, k)| k)
}

/// Edits (insert, delete, replace) between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let cost = (diagonal + usize::from(x != *y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}
