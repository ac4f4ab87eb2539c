//! What a router changes in a packet that it sends on: Ethernet addresses, TTL, and the checksum over it.

use classifier::checksum;
use classifier::packet::{Family, Headers};

use crate::settings::MacAddr;

/// Writes the Ethernet addresses. `frame` begins with the Ethernet header.
#[inline]
pub(super) fn ethernet(frame: &mut [u8], dst: MacAddr, src: MacAddr) {
    if let Some(header) = frame.first_chunk_mut::<12>() {
        header[..6].copy_from_slice(&dst);
        header[6..].copy_from_slice(&src);
    }
}

/// Takes one from the TTL, with the checksum corrected as RFC 1624 says, or from the hop limit. The `ttl` stage has
/// stopped packets that had none left.
#[inline]
pub(super) fn ttl(frame: &mut [u8], headers: &Headers) {
    let Some(ip) = frame.get_mut(headers.l3 as usize..) else {
        return;
    };
    match headers.family {
        Family::V4 => checksum::decrement_ttl_v4(ip),
        Family::V6 => {
            if let Some(limit) = ip.get_mut(7) {
                *limit = limit.saturating_sub(1);
            }
        }
    }
}
