//! ICMPv6 errors (RFC 4443).

use classifier::checksum;
use classifier::packet::Headers;

use super::Error;

/// Bytes of the IPv6 header.
pub(super) const IP: usize = 40;
/// Largest error in bytes, its IP header counted: the smallest MTU of IPv6 (RFC 4443 2.4 (c)).
const LARGEST: usize = 1280;

/// Writes an error about the packet at the start of `room` over it. Returns where its ICMPv6 header begins and where it
/// ends, in bytes from the start of the frame.
pub(super) fn error(room: &mut [u8], about: &Headers, to: &Headers, error: Error) -> Option<(usize, usize)> {
    let l3 = about.l3 as usize;
    let (l4, end) = super::message(room, about, IP, LARGEST, error)?;
    let icmp = &mut room[l4..end];
    let check = checksum::transport(to, icmp);
    icmp[2..4].copy_from_slice(&check.to_be_bytes());

    header(&mut room[l3..l4], to, (end - l4) as u16);
    Some((l4, end))
}

/// Writes an IPv6 header. `payload` is what follows it, in bytes.
pub(super) fn header(ip: &mut [u8], to: &Headers, payload: u16) {
    ip[0..4].copy_from_slice(&[0x60, 0, 0, 0]);
    ip[4..6].copy_from_slice(&payload.to_be_bytes());
    ip[6] = to.proto;
    ip[7] = to.ttl;
    ip[8..24].copy_from_slice(&to.src.to_be_bytes());
    ip[24..40].copy_from_slice(&to.dst.to_be_bytes());
}
