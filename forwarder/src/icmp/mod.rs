//! Answers about packets that cannot be forwarded: ICMP errors, and TCP resets for rejected connections.
//!
//! An answer is built in the frame of the packet that caused it, so that no frame has to be found for it. It leaves
//! without its Ethernet header, which is written like that of any packet when its next hop is known.

mod limit;
mod reset;
mod source;
mod v4;
mod v6;

use classifier::packet::{Family, Flaw, Fragment, Headers, protocol};

pub(crate) use limit::Bucket;
pub(crate) use source::source;

use crate::reason::Reason;

/// TTL and hop limit of answers: the default of RFC 1700, and what the kernel uses.
pub(crate) const TTL: u8 = 64;

/// What kind of answer a packet gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An ICMP or ICMPv6 error.
    Error(Error),
    /// A TCP reset.
    Reset,
}

/// An ICMP error: RFC 792 and RFC 1812 5.2.7, RFC 4443 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Error {
    kind: u8,
    code: u8,
    /// The second word of the ICMP header: the next hop's MTU or zero.
    word: u32,
}

/// Bytes of a frame that an answer may quote of its packet, and more: no answer is longer than 1,280 bytes (RFC 4443 2.4 (c)).
pub(crate) const QUOTED: usize = 1_300;

/// Bytes of the ICMP header, in both families.
const ICMP: usize = 8;

/// Moves what is quoted of the packet at the start of `room` behind an IP header of `ip` bytes and the ICMP header, and
/// fills in the latter with a checksum of zero. At most `largest` bytes with the IP header. Returns where the ICMP
/// header begins and where the message ends, in bytes from the start of the frame; `None`, and nothing done, when the
/// room does not hold it.
fn message(
    room: &mut [u8],
    about: &Headers,
    ip: usize,
    largest: usize,
    error: Error,
) -> Option<(usize, usize)> {
    let l3 = about.l3 as usize;
    let quoted = (about.len as usize).min(largest.checked_sub(ip + ICMP)?);
    let (l4, end) = (l3 + ip, l3 + ip + ICMP + quoted);
    if end > room.len() {
        return None;
    }
    room.copy_within(l3..l3 + quoted, l4 + ICMP);
    let icmp = &mut room[l4..l4 + ICMP];
    icmp[0] = error.kind;
    icmp[1] = error.code;
    icmp[2..4].fill(0);
    icmp[4..].copy_from_slice(&error.word.to_be_bytes());
    Some((l4, end))
}

/// The answer for a reason, to a packet of that family. `mtu` is the next hop's.
pub(crate) fn answer(reason: Reason, headers: &Headers, mtu: u32) -> Answer {
    let error = |kind, code| Answer::Error(Error { kind, code, word: 0 });
    let acl = matches!(reason, Reason::AclRejectIngress | Reason::AclRejectEgress);
    let is_segment = headers.proto == protocol::TCP && headers.l4_len() >= reset::TCP;
    if acl && is_segment && headers.fragment == Fragment::Whole {
        return Answer::Reset;
    }
    match headers.family {
        Family::V4 => match reason {
            // RFC 792: parameter problem, with the byte where it was found in the first byte of the second word.
            Reason::BadOptions => Answer::Error(Error {
                kind: 12,
                code: 0,
                word: match headers.flaw {
                    Some(Flaw::BadOption(at)) => u32::from(at) << 24,
                    _ => 0,
                },
            }),
            // RFC 792: time exceeded in transit.
            Reason::TtlExceeded => error(11, 0),
            // RFC 1191 4: fragmentation needed, with the MTU in the low half of the second word.
            Reason::MtuExceeded => Answer::Error(Error {
                kind: 3,
                code: 4,
                word: mtu.min(0xffff),
            }),
            // RFC 1812 5.2.7.1: communication administratively prohibited.
            Reason::Prohibit | Reason::AclRejectIngress | Reason::AclRejectEgress => error(3, 13),
            // RFC 1812 5.2.7.1: network unreachable where there is no route, host unreachable where the way ends here.
            Reason::NoRoute => error(3, 0),
            _ => error(3, 1),
        },
        Family::V6 => match reason {
            // RFC 4443 3.3: hop limit exceeded in transit.
            Reason::TtlExceeded => error(3, 0),
            // RFC 4443 3.2: packet too big.
            Reason::MtuExceeded => Answer::Error(Error {
                kind: 2,
                code: 0,
                word: mtu,
            }),
            // RFC 4443 3.1: communication administratively prohibited.
            Reason::Prohibit | Reason::AclRejectIngress | Reason::AclRejectEgress => error(1, 1),
            // RFC 4443 3.1: no route; the kernel says the same for routes of type unreachable (ip6_pkt_discard).
            Reason::NoRoute | Reason::Unreachable => error(1, 0),
            // RFC 4443 3.1: address unreachable.
            _ => error(1, 3),
        },
    }
}

/// Whether an answer may be sent about this packet (RFC 1812 4.3.2.7, RFC 4443 2.4 (e), RFC 9293 3.10.7.1). Its source
/// is a unicast address: what has another one was dropped as martian before.
pub(crate) fn due(answer: Answer, headers: &Headers, frame: &[u8]) -> bool {
    // To a link-layer group address.
    if frame.first().is_none_or(|first| first & 1 != 0) {
        return false;
    }
    let group = match headers.family {
        Family::V4 => headers.dst as u32 >> 28 >= 0xe,
        Family::V6 => headers.dst >> 120 == 0xff,
    };
    if group || headers.fragment == Fragment::Later {
        return false;
    }
    match answer {
        Answer::Reset => headers.tcp_flags & reset::RST == 0,
        Answer::Error(_) => !about_an_error(headers),
    }
}

/// Whether the packet is an ICMP error or a redirect, or may be one.
fn about_an_error(headers: &Headers) -> bool {
    match (headers.family, headers.icmp) {
        // RFC 1122 3.2.2: destination unreachable, source quench, redirect, time exceeded, parameter problem. What is
        // not known may be an error as well: only the queries are answered.
        (Family::V4, Some((kind, _))) => !matches!(kind, 0 | 8 | 9 | 10 | 13..=18 | 42 | 43),
        // RFC 4443 2.1: types below 128 are errors; 137 is the redirect.
        (Family::V6, Some((kind, _))) => kind < 128 || kind == 137,
        // Without a type, or behind headers that cannot be walked, it may be one.
        (Family::V4, None) => headers.proto == protocol::ICMP,
        (Family::V6, None) => headers.proto == protocol::ICMPV6 || headers.flaw == Some(Flaw::ExtensionChain),
    }
}

/// The headers of the answer, as far as its way depends on them: it goes back to where the packet came from.
/// `source` is the address to send an error from; a reset comes from where the packet was going.
pub(crate) fn headers(answer: Answer, about: &Headers, source: u128) -> Headers {
    let (src, proto) = match (answer, about.family) {
        (Answer::Reset, _) => (about.dst, protocol::TCP),
        (Answer::Error(_), Family::V4) => (source, protocol::ICMP),
        (Answer::Error(_), Family::V6) => (source, protocol::ICMPV6),
    };
    let reset = answer == Answer::Reset;
    Headers {
        src,
        dst: about.src,
        proto,
        sport: if reset { about.dport } else { 0 },
        dport: if reset { about.sport } else { 0 },
        tcp_flags: 0,
        icmp: match answer {
            Answer::Error(error) => Some((error.kind, error.code)),
            Answer::Reset => None,
        },
        fragment: Fragment::Whole,
        dscp: 0,
        ttl: TTL,
        dont_fragment: about.family == Family::V6,
        source_route: false,
        flow_label: 0,
        flaw: None,
        ..*about
    }
}

/// Writes the answer over the packet. `room` begins with the frame that carries the packet that `about` describes and
/// goes on to the end of the frame's memory. `to` are the headers that [`headers`] made, and `mtu` is that of the way back.
/// Returns the answer's length in bytes from the start of the frame and its headers with all lengths right; `None` when
/// the room is too small.
pub(crate) fn write(
    answer: Answer,
    room: &mut [u8],
    about: &Headers,
    to: &Headers,
    id: u16,
    mtu: u32,
) -> Option<(usize, Headers)> {
    let (l4, end) = match (answer, about.family) {
        (Answer::Error(error), Family::V4) => v4::error(room, about, to, error, id, mtu)?,
        (Answer::Error(error), Family::V6) => v6::error(room, about, to, error)?,
        (Answer::Reset, _) => reset::reset(room, about, to, id)?,
    };
    let len = (end - about.l3 as usize) as u16;
    Some((
        end,
        Headers {
            l4: l4 as u16,
            len,
            ..*to
        },
    ))
}
