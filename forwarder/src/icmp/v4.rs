//! ICMP errors (RFC 792, RFC 1812 4.3.2).

use classifier::checksum;
use classifier::packet::Headers;

use super::Error;

/// Bytes of the IPv4 header that an error is sent with.
pub(super) const IP: usize = 20;
/// Largest error in bytes, its IP header counted: as much of the packet is quoted as fits (RFC 1812 4.3.2.3).
const LARGEST: usize = 576;

/// Writes an error about the packet at the start of `room` over it, no larger than the way back takes whole. Returns where
/// its ICMP header begins and where it ends, in bytes from the start of the frame.
pub(super) fn error(
    room: &mut [u8],
    about: &Headers,
    to: &Headers,
    error: Error,
    id: u16,
    mtu: u32,
) -> Option<(usize, usize)> {
    let l3 = about.l3 as usize;
    let tos = *room.get(l3 + 1)?;
    let (l4, end) = super::message(room, about, IP, LARGEST.min(mtu as usize), error)?;
    let icmp = &mut room[l4..end];
    let check = !checksum::fold(checksum::sum(icmp, 0));
    icmp[2..4].copy_from_slice(&check.to_be_bytes());

    // RFC 1812 4.3.2.5: precedence 6 (internetwork control); the type of service stays the packet's. The low bits are
    // ECN's now (RFC 3168 5) and stay clear.
    let tos = 0xc0 | (tos & 0x1c);
    header(&mut room[l3..l4], to, tos, (end - l3) as u16, id);
    Some((l4, end))
}

/// Writes an IPv4 header without options and without fragmentation bits.
pub(super) fn header(ip: &mut [u8], to: &Headers, tos: u8, len: u16, id: u16) {
    ip[0] = 0x45;
    ip[1] = tos;
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    ip[4..6].copy_from_slice(&id.to_be_bytes());
    ip[6..8].fill(0);
    ip[8] = to.ttl;
    ip[9] = to.proto;
    ip[10..12].fill(0);
    ip[12..16].copy_from_slice(&(to.src as u32).to_be_bytes());
    ip[16..20].copy_from_slice(&(to.dst as u32).to_be_bytes());
    let check = !checksum::fold(checksum::sum(ip, 0));
    ip[10..12].copy_from_slice(&check.to_be_bytes());
}
