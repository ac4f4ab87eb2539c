//! Internet checksums (RFC 1071): full, incremental (RFC 1624), and partial ones left by a local stack.
//!
//! Sums are of 16-bit words in network order. A checksum field holds the complement of the folded sum.

use crate::packet::{Family, Fragment, Headers, protocol};

/// One's complement sum of `bytes` as 16-bit words in network order (an odd last byte is padded with zero), added to `initial`.
///
/// The result stays below 2^17 for an `initial` below 2^16, so sums can be chained without care for overflow.
#[inline]
pub fn sum(bytes: &[u8], initial: u32) -> u32 {
    // RFC 1071 2 (B): the sum does not depend on byte order, so wide words are added as they lie in memory and the
    // result is turned once.
    let mut total: u64 = 0;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        total += u32::from_ne_bytes([word[0], word[1], word[2], word[3]]) as u64;
    }
    let rest = words.remainder();
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    total += u32::from_ne_bytes(tail) as u64;
    total = (total >> 32) + (total & 0xffff_ffff);
    total = (total >> 32) + (total & 0xffff_ffff);
    let folded = u16::from_be(fold(total as u32));
    folded as u32 + fold(initial) as u32
}

/// Folds carries into 16 bits. The checksum is the complement of this.
#[inline]
pub fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    ((once >> 16) + (once & 0xffff)) as u16
}

/// Whether the checksum of a whole IPv4 header, options included, verifies (RFC 1071 1 (3)).
#[inline]
pub fn ipv4_header_ok(header: &[u8]) -> bool {
    fold(sum(header, 0)) == 0xffff
}

/// The checksum field after one 16-bit word of what it covers has changed from `old` to `new` (RFC 1624 3, equation 3).
#[inline]
pub fn update16(check: u16, old: u16, new: u16) -> u16 {
    !fold(!check as u32 + !old as u32 + new as u32)
}

/// Takes one from the TTL of an IPv4 header and corrects the checksum (RFC 1812 5.3.1, RFC 1624).
///
/// `header` is at least 12 bytes of a validated header. A TTL of 0 stays 0: the caller has answered such packets before.
#[inline]
pub fn decrement_ttl_v4(header: &mut [u8]) {
    let Some(header) = header.first_chunk_mut::<12>() else {
        return;
    };
    if header[8] == 0 {
        return;
    }
    let old = u16::from_be_bytes([header[8], header[9]]);
    let new = old - 0x0100;
    let check = update16(u16::from_be_bytes([header[10], header[11]]), old, new);
    header[8] = (new >> 8) as u8;
    header[10..12].copy_from_slice(&check.to_be_bytes());
}

/// Sum of the pseudo-header (RFC 9293 3.1, RFC 8200 8.1) over addresses, protocol and `l4_len`, the bytes of upper-layer header
/// and data. Not folded.
#[inline]
pub fn pseudo_header(headers: &Headers, l4_len: u32) -> u32 {
    let initial = headers.proto as u32 + (l4_len >> 16) + (l4_len & 0xffff);
    let words = |address: u128| sum(&address.to_be_bytes(), 0);
    // An IPv4 address is the low four bytes of 16, the others being zero words.
    words(headers.src) + words(headers.dst) + initial
}

/// Where the checksum field of a packet is and what it covers, for packets whose checksum can be completed: whole TCP and
/// UDP packets in a frame of `whole` bytes, the first of which are `start`. With a source route the pseudo-header's
/// destination is not the header's, so those are left alone.
#[inline]
fn covered(start: &[u8], whole: usize, headers: &Headers) -> Option<(usize, core::ops::Range<usize>)> {
    let field = match headers.proto {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => return None,
    };
    if headers.fragment != Fragment::Whole || headers.source_route {
        return None;
    }
    let l4 = headers.l4 as usize;
    let mut len = headers.l4_len();
    if headers.proto == protocol::UDP {
        // The UDP length decides, not the IP length (RFC 768): bytes behind it are not covered.
        let udp_len = u16::from_be_bytes([*start.get(l4 + 4)?, *start.get(l4 + 5)?]) as usize;
        if udp_len < 8 || udp_len > len {
            return None;
        }
        len = udp_len;
    }
    let ends_inside = field + 2 <= len && l4 + len <= whole && l4 + field + 2 <= start.len();
    ends_inside.then_some((l4 + field, l4..l4 + len))
}

/// Whether the TCP or UDP checksum is one that a local stack left for the network card to complete (`CHECKSUM_PARTIAL`): the
/// field holds the folded pseudo-header sum, and the packet does not verify. `headers` are those of `frame`.
///
/// An ordinary packet costs the pseudo-header sum and one comparison. The field of a UDP packet without checksum is 0, which no
/// pseudo-header sums up to.
#[inline]
pub fn is_partial(frame: &[u8], headers: &Headers) -> bool {
    completed(frame, frame.len(), headers, core::iter::empty).is_some()
}

/// Completes a partial checksum: the field, which holds the pseudo-header sum, gets the checksum of the packet. Returns
/// whether the packet had one; any other packet is left as it is.
#[inline]
pub fn complete_partial(frame: &mut [u8], headers: &Headers) -> bool {
    let Some((field, check)) = completed(frame, frame.len(), headers, core::iter::empty) else {
        return false;
    };
    frame[field..field + 2].copy_from_slice(&check);
    true
}

/// What [`complete_partial`] would write, and where, for a frame of `whole` bytes that lies in several places: `start` holds
/// the first of them and all headers, `rest` gives the others, place by place. `None` for a packet whose checksum is not
/// partial. The rest is looked at only when the field looks as if it were.
#[inline]
pub fn completed<'a, I: Iterator<Item = &'a [u8]>>(
    start: &'a [u8],
    whole: usize,
    headers: &Headers,
    rest: impl FnOnce() -> I,
) -> Option<(usize, [u8; 2])> {
    let (field, range) = covered(start, whole, headers)?;
    let pseudo = fold(pseudo_header(headers, range.len() as u32));
    if u16::from_be_bytes([start[field], start[field + 1]]) != pseudo {
        return None;
    }
    let mut left = range.len();
    let mut total = 0;
    for part in core::iter::once(&start[range.start..]).chain(rest()) {
        let part = &part[..part.len().min(left)];
        let odd = (range.len() - left) % 2 == 1;
        left -= part.len();
        let own = fold(sum(part, 0));
        // RFC 1071 2 (B): behind an odd number of bytes the two halves of each word have changed places.
        total += u32::from(if odd { own.swap_bytes() } else { own });
    }
    let total = fold(total);
    if fold(u32::from(total) + u32::from(pseudo)) == 0xffff {
        return None;
    }
    // The pseudo-header is in the sum already: it is what the field holds.
    let mut check = !total;
    // RFC 768: a UDP checksum that comes out as zero is sent as all ones.
    if check == 0 && headers.proto == protocol::UDP {
        check = 0xffff;
    }
    Some((field, check.to_be_bytes()))
}

/// Computes the TCP, UDP, ICMP or ICMPv6 checksum of a packet from nothing: `bytes` is the upper-layer header and data with
/// its checksum field zero. ICMP for IPv4 covers no pseudo-header (RFC 792); UDP never sends zero (RFC 768).
pub fn transport(headers: &Headers, bytes: &[u8]) -> u16 {
    let pseudo = match (headers.family, headers.proto) {
        (Family::V4, protocol::ICMP) => 0,
        _ => pseudo_header(headers, bytes.len() as u32),
    };
    match !fold(sum(bytes, pseudo)) {
        0 if headers.proto == protocol::UDP => 0xffff,
        check => check,
    }
}
