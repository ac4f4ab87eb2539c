//! Where Margay differs from Linux by intent, and what exactly it must send instead.

#![allow(
    clippy::ptr_arg,
    reason = "all of them have the type that Way::Change asks for"
)]

use tests::raw::{checksum, icmpv6_checksum};
use tests::twin::{At, Out};

use super::packets::{Packet, V4, chain};

/// One intended difference.
pub struct Difference {
    /// What it is about.
    pub name: &'static str,
    /// The clause or the kernel's file that it is grounded on.
    pub source: &'static str,
    /// How it shows.
    pub way: Way,
}

/// How what Margay must send follows from what the kernel sends.
pub enum Way {
    /// Margay must send what the kernel sends for this packet instead, with the bytes of the real one in it. `None` when the packet has
    /// nothing to do with the difference.
    Instead(fn(&Packet) -> Option<Vec<u8>>),
    /// Margay must send what this makes of what the kernel has sent; the last argument is what Margay has sent.
    Change(fn(&Packet, &mut Vec<Out>, &[Out])),
}

use Way::{Change, Instead};

/// All of them, in the order in which they are applied.
pub const DIFFERENCES: [Difference; 19] = [
    Difference {
        name: "record route and timestamp options pass untouched",
        source: "RFC 1812 5.3.13.5",
        way: Instead(recording_options),
    },
    Difference {
        name: "what stands behind the end of options passes",
        source: "net/ipv4/ip_options.c: __ip_options_compile clears it",
        way: Instead(behind_the_end),
    },
    Difference {
        name: "hop-by-hop options are not looked at",
        source: "RFC 8200 4: only by nodes that are configured to",
        way: Instead(hop_by_hop),
    },
    Difference {
        name: "the TTL is looked at before the route",
        source: "net/ipv4/route.c: ip_error, net/ipv6/route.c: ip6_pkt_drop come before the forwarding",
        way: Instead(expired),
    },
    Difference {
        name: "the node's own address as source is a matter of anti_spoof",
        source: "net/ipv4/fib_frontend.c: __fib_validate_source",
        way: Instead(own_source),
    },
    Difference {
        name: "errors to the node's own address have no way",
        source: "RFC 1812 5.3.8: such a source is invalid",
        way: Change(unanswerable),
    },
    Difference {
        name: "ICMP queries other than echo are answered about",
        source: "RFC 1812 4.3.2.7: not about errors; net/ipv4/icmp.c: icmp_pointers takes types 9, 10 and from 19 on for errors",
        way: Instead(queries),
    },
    Difference {
        name: "addresses of 0.0.0.0/8 and 240.0.0.0/4 are not forwarded",
        source: "RFC 1812 5.3.7, RFC 6890 2.2.2",
        way: Change(reserved4),
    },
    Difference {
        name: "source routes are not followed, and not judged either",
        source: "RFC 7126 4.3 and 4.4",
        way: Change(source_route),
    },
    Difference {
        name: "link-local sources are not forwarded, not even back to their link",
        source: "RFC 3927 7, RFC 4291 2.5.6",
        way: Change(link_local),
    },
    Difference {
        name: "IPv4-mapped and -compatible addresses are not forwarded",
        source: "RFC 4291 2.5.5, RFC 6890 2.2.3",
        way: Change(reserved6),
    },
    Difference {
        name: "UDP to port 68 is left to the node's kernel",
        source: "RFC 2131 4.1: answers to clients without an address",
        way: Change(dhcp),
    },
    Difference {
        name: "no jumbograms: a payload length of zero with hop-by-hop options",
        source: "RFC 2675 3",
        way: Change(jumbogram),
    },
    Difference {
        name: "no errors about later fragments, in IPv6 either",
        source: "RFC 1812 4.3.2.7; net/ipv6/icmp.c: is_ineligible lets them pass",
        way: Change(later_fragment6),
    },
    Difference {
        name: "no errors about redirects, and what may be an ICMPv6 error",
        source: "RFC 4443 2.4 (e.1) and (e.2)",
        way: Change(unreadable6),
    },
    Difference {
        name: "a route's MTU is told with the packet as it came",
        source: "net/ipv6/ip6_output.c: ip6_fragment answers when the hop limit is taken",
        way: Change(quoted_hop_limit),
    },
    Difference {
        name: "an error is not ECN-capable",
        source: "RFC 3168 5; net/ipv4/icmp.c: RT_TOS keeps ECT(0)",
        way: Change(congestion),
    },
    Difference {
        name: "identification of an error",
        source: "RFC 6864 4.1: atomic datagrams may have any",
        way: Change(identification),
    },
    Difference {
        name: "Ethernet padding passes",
        source: "RFC 894: octets of zero may be added",
        way: Change(padding),
    },
];

/// The walk over the IPv4 options that fit: start, kind and length of each, and where the end of options stands.
fn options(packet: &[u8]) -> (Vec<(usize, u8, usize)>, Option<usize>) {
    let end = packet
        .first()
        .map_or(0, |first| usize::from(first & 15) * 4)
        .min(packet.len());
    let (mut found, mut at) = (Vec::new(), 20);
    while at < end {
        let len = match packet[at] {
            0 => return (found, Some(at)),
            1 => 1,
            _ => packet.get(at + 1).map_or(0, |len| usize::from(*len)),
        };
        if len == 0 || (len < 2 && packet[at] != 1) || at + len > end {
            break;
        }
        found.push((at, packet[at], len));
        at += len;
    }
    (found, None)
}

/// The same packet with another byte at some places, its header checksum as right or wrong as before.
fn with(packet: &[u8], bytes: &[(usize, u8)]) -> Option<Vec<u8>> {
    let mut other = packet.to_vec();
    bytes.iter().for_each(|(at, byte)| other[*at] = *byte);
    let header = usize::from(packet[0] & 15) * 4;
    if packet[0] >> 4 == 4 && header <= packet.len() && checksum(&[&packet[..header]]) == 0 {
        other[10..12].fill(0);
        let check = checksum(&[&other[..header]]);
        other[10..12].copy_from_slice(&check.to_be_bytes());
    }
    (other != packet).then_some(other)
}

fn is_v4(packet: &Packet) -> bool {
    packet.0 == V4 && packet.1.len() >= 20 && packet.1[0] >> 4 == 4
}

fn is_v6(packet: &Packet) -> bool {
    packet.0 != V4 && packet.1.len() >= 40 && packet.1[0] >> 4 == 6
}

/// An option that nobody knows in the place of each that routers write to; not copied into fragments, as those are not.
fn recording_options(packet: &Packet) -> Option<Vec<u8>> {
    let (found, _) = options(is_v4(packet).then_some(&packet.1)?);
    let bytes: Vec<_> = found
        .iter()
        .filter(|(_, kind, _)| [7, 68].contains(kind))
        .map(|(at, ..)| (*at, 0x1e))
        .collect();
    with(&packet.1, &bytes)
}

fn behind_the_end(packet: &Packet) -> Option<Vec<u8>> {
    let (_, end) = options(is_v4(packet).then_some(&packet.1)?);
    let header = usize::from(packet.1[0] & 15) * 4;
    let bytes: Vec<_> = (end?..header.min(packet.1.len())).map(|at| (at, 0)).collect();
    with(&packet.1, &bytes)
}

/// Padding in the place of options.
fn hop_by_hop(packet: &Packet) -> Option<Vec<u8>> {
    let bytes = &packet.1;
    if !is_v6(packet) || bytes[6] != 0 || bytes.len() < 48 {
        return None;
    }
    let end = 40 + (usize::from(bytes[41]) + 1) * 8;
    let (end, length) = if end > bytes.len() {
        (48, 0)
    } else {
        (end, bytes[41])
    };
    // PadN of 6 bytes and then of 8 makes the kernel suspicious; of 6 and 2 it does not (RFC 8200 4.2).
    let mut changes: Vec<_> = (42..end).map(|at| (at, 0)).chain([(41, length)]).collect();
    let mut at = 42;
    while at < end {
        let len = (end - at).min(if at == 42 { 6 } else { 4 });
        changes.push((at, 1));
        changes.push((at + 1, len as u8 - 2));
        at += len;
    }
    with(bytes, &changes)
}

/// A destination that is routed, for a packet that has no hop left.
fn expired(packet: &Packet) -> Option<Vec<u8>> {
    let bytes = &packet.1;
    if is_v4(packet) && bytes[8] <= 1 {
        let there = [10, 40, 0, 9]
            .into_iter()
            .enumerate()
            .map(|(at, byte)| (16 + at, byte));
        let is_unrouted =
            bytes[16] >= 192 && bytes[16] < 224 || bytes[16] == 10 && (30..=32).contains(&bytes[17]);
        return is_unrouted.then(|| with(bytes, &there.collect::<Vec<_>>()))?;
    }
    if is_v6(packet) && bytes[7] <= 1 {
        let there = [0x20, 1, 0xd, 0xb8]
            .into_iter()
            .enumerate()
            .map(|(at, byte)| (24 + at, byte));
        let is_routed =
            bytes[24] >> 5 == 1 || bytes[24] == 0xfd && [0, 1, 2, 0x10, 0x20, 0x21].contains(&bytes[25]);
        let is_unrouted = !is_routed && bytes[24] != 0 && bytes[24] < 0xfe;
        return is_unrouted.then(|| with(bytes, &there.collect::<Vec<_>>()))?;
    }
    None
}

/// The last byte of the addresses that stand in for the node's own; no packet has it otherwise.
const STAND_IN: u8 = 254;

fn own_source(packet: &Packet) -> Option<Vec<u8>> {
    // One that no other packet has, as the kernel limits what it tells a sender.
    is_own(packet).then(|| with(&packet.1, &[(13, 10), (14, packet.1[4]), (15, STAND_IN)]))?
}

fn is_own(packet: &Packet) -> bool {
    is_v4(packet) && packet.1[12] == 10 && packet.1[13] <= 2 && packet.1[14..16] == [0, 1]
}

/// Errors to the node's own address have nowhere to go: where the stand-in was answered, at its own address, nothing is.
fn unanswerable(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    if is_own(packet) {
        outs.retain(|out| out.frame.get(30..32) != Some(&[10, 10]) || out.frame[33] != STAND_IN);
    }
}

/// Echo requests in the place of other queries.
fn queries(packet: &Packet) -> Option<Vec<u8>> {
    let header = usize::from(is_v4(packet).then_some(packet.1[0])? & 15) * 4;
    let is_query = packet.1[9] == 1 && [9, 10, 42, 43].contains(packet.1.get(header)?);
    is_query.then(|| with(&packet.1, &[(header, 8)]))?
}

fn reserved4(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    let is_reserved = |at: usize| packet.1[at] == 0 || packet.1[at] >= 240;
    if is_v4(packet) && (is_reserved(12) || is_reserved(16)) {
        outs.clear();
    }
}

fn source_route(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    if is_v4(packet)
        && options(&packet.1)
            .0
            .iter()
            .any(|(_, kind, _)| [131, 137].contains(kind))
        && !has_bad_option(&packet.1)
    {
        outs.clear();
    }
}

/// Whether there is an option that does not fit into the header: then the sender is told, whatever the others are.
fn has_bad_option(packet: &[u8]) -> bool {
    let (found, end) = options(packet);
    let walked = found.last().map_or(20, |(at, _, len)| at + len);
    end.is_none() && walked != usize::from(packet[0] & 15) * 4
}

fn link_local(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    if (is_v4(packet) && packet.1[12..14] == [169, 254]) || (is_v6(packet) && packet.1[8..10] == [0xfe, 0x80])
    {
        outs.clear();
    }
}

fn reserved6(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    let is_reserved = |at: usize| {
        packet.1[at..at + 10] == [0; 10]
            && [[0, 0], [0xff, 0xff]].contains(&[packet.1[at + 10], packet.1[at + 11]])
    };
    if is_v6(packet) && (is_reserved(8) || is_reserved(24)) {
        outs.clear();
    }
}

fn dhcp(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    if is_v4(packet) && packet.1[9] == 17 && packet.1[6] & 0x1f == 0 && packet.1[7] == 0 {
        let header = usize::from(packet.1[0] & 15) * 4;
        if packet.1.get(header + 2..header + 4) == Some(&[0, 68]) && packet.1.len() >= header + 8 {
            outs.clear();
        }
    }
}

fn jumbogram(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    if is_v6(packet) && packet.1[4..7] == [0, 0, 0] {
        outs.clear();
    }
}

fn later_fragment6(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    if is_v6(packet) && chain(&packet.1).is_ok_and(|found| found.later) {
        outs.retain(|out| !is_error6(&out.frame));
    }
}

/// Behind headers that cannot be walked, or without a type, may be an ICMPv6 error.
fn unreadable6(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    if is_v6(packet) && chain(&packet.1).map_or(true, |found| found.icmp == Some(137)) {
        outs.retain(|out| !is_error6(&out.frame));
    }
}

fn quoted_hop_limit(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    for out in outs {
        if is_error6(&out.frame) && out.frame[54] == 2 && packet.1[7].checked_sub(1) == Some(out.frame[69]) {
            out.frame[69] += 1;
            seal_error(&mut out.frame);
        }
    }
}

fn congestion(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    for out in outs {
        if !is_own(packet) && is_error4(&out.frame) && out.frame[15] & 2 != 0 {
            out.frame[15] &= !2;
            seal(&mut out.frame);
        }
    }
}

fn identification(packet: &Packet, outs: &mut Vec<Out>, margay: &[Out]) {
    for (out, sent) in outs.iter_mut().zip(margay) {
        if !is_own(packet) && is_error4(&out.frame) && is_error4(&sent.frame) {
            out.frame[18..20].copy_from_slice(&sent.frame[18..20]);
            seal(&mut out.frame);
        }
    }
}

/// What came behind a short packet, up to the shortest Ethernet frame.
fn padding(packet: &Packet, outs: &mut Vec<Out>, _: &[Out]) {
    if let [out] = &mut outs[..]
        && out.frame.len() < 60
        && !is_error4(&out.frame)
        && !is_error6(&out.frame)
    {
        let here = out.frame.len() - 14;
        let behind = packet.1.get(here..packet.1.len().min(46)).unwrap_or_default();
        out.frame.extend(behind);
    }
}

/// Whether a frame is an ICMP error of the router's: it comes from one of its addresses.
pub fn is_error4(frame: &[u8]) -> bool {
    frame.len() >= 42
        && frame[12..14] == [8, 0]
        && frame[23] == 1
        && frame[26] == 10
        && frame[27] <= 2
        && frame[28..30] == [0, 1]
}

/// The same for ICMPv6.
pub fn is_error6(frame: &[u8]) -> bool {
    frame.len() >= 62
        && frame[12..14] == [0x86, 0xdd]
        && frame[20] == 58
        && frame[22] == 0xfd
        && frame[23] <= 2
        && frame[37] == 1
}

/// Sets the header checksum of the IPv4 packet in a frame right.
pub fn seal(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let length = usize::from(frame[14] & 15) * 4;
    let check = checksum(&[&frame[14..14 + length]]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
}

/// Sets the checksum of the ICMP or ICMPv6 error in a frame right.
fn seal_error(frame: &mut [u8]) {
    let at = if frame[12] == 8 {
        14 + usize::from(frame[14] & 15) * 4
    } else {
        54
    };
    frame[at + 2..at + 4].fill(0);
    let check = if frame[12] == 8 {
        checksum(&[&frame[at..]])
    } else {
        icmpv6_checksum(&frame[22..38], &frame[38..54], &frame[54..])
    };
    frame[at + 2..at + 4].copy_from_slice(&check.to_be_bytes());
}

/// Puts the bytes of the real packet where the kernel has sent those of another one.
pub fn restore(real: &[u8], other: &[u8], outs: &mut [Out]) {
    let changed: Vec<usize> = (0..real.len()).filter(|at| real[*at] != other[*at]).collect();
    for Out { frame, at } in outs {
        let (is_v4, is_error) = (frame[12] == 8, is_error4(frame) || is_error6(frame));
        let start = match (is_error, is_v4) {
            (false, _) => 14,
            (true, true) => 14 + usize::from(frame[14] & 15) * 4 + 8,
            (true, false) => 62,
        };
        // A piece of ours that is not the first: it has neither the options that are not copied nor the first bytes of data.
        let is_later = !is_error && is_v4 && (real[6] ^ frame[20]) & 0x1f | real[7] ^ frame[21] != 0;
        let is_first = real[6] & 0x1f == 0 && real[7] == 0;
        let header = usize::from(real[0] & 15) * 4;
        let (found, _) = if is_v4 { options(real) } else { (Vec::new(), None) };
        for place in &changed {
            let is_check = is_v4 && (10..12).contains(place);
            // What was replaced is not in later fragments, in either form.
            let is_gone = is_later
                && (*place >= header
                    || is_first && found.iter().any(|(at, kind, _)| at == place && kind & 0x80 == 0));
            if let Some(byte) = frame.get_mut(start + place)
                && (is_error || !is_check)
                && !is_gone
            {
                *byte = real[*place];
            }
        }
        if is_error {
            seal_error(frame);
        } else if is_v4 {
            seal(frame);
        }
        debug_assert!([At::S, At::D, At::E].contains(at));
    }
}
