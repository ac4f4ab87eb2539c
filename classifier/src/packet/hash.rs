//! Flow hashes for choosing among equal next hops.

use super::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Headers, protocol};

/// Odd constants without structure (fractional parts of square roots of primes), so that zero fields still mix.
const K: [u64; 4] = [
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
];

/// Folded multiplication: both halves of the 128-bit product, so that every input bit reaches every output bit.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

impl Headers {
    /// Hash of the addresses and the IPv6 flow label (RFC 6438 3): what the kernel's `fib_multipath_hash_policy = 0` looks at. The same
    /// for all fragments of a datagram. `seed` makes routers in a row choose independently.
    #[inline]
    pub fn flow_hash_l3(&self, seed: u32) -> u32 {
        finish(addresses(self.src, self.dst, seed), self.flow_label as u64)
    }

    /// Hash of addresses, protocol and ports (`fib_multipath_hash_policy = 1`); ICMP and protocols without ports hash by the rest.
    /// Fragments are hashed as [`flow_hash_l3`](Self::flow_hash_l3) does, since only the first one knows its ports.
    #[inline]
    pub fn flow_hash_l4(&self, seed: u32) -> u32 {
        if self.fragment != Fragment::Whole {
            return self.flow_hash_l3(seed);
        }
        let ports = (self.sport as u64) << 16 | self.dport as u64;
        finish(
            addresses(self.src, self.dst, seed),
            (self.proto as u64) << 32 | ports,
        )
    }

    /// Hash of the addresses and flow label of the packet inside an IP-in-IP or GRE tunnel, of the outer ones where there is none
    /// (`fib_multipath_hash_policy = 2`). `self` are the headers of `frame`. Fragments are hashed by the outer addresses.
    pub fn flow_hash_inner(&self, frame: &[u8], seed: u32) -> u32 {
        match self.inner(frame) {
            Some((src, dst, flow_label)) => finish(addresses(src, dst, seed), flow_label as u64),
            None => self.flow_hash_l3(seed),
        }
    }

    /// Source, destination and flow label of the tunnelled packet.
    fn inner(&self, frame: &[u8]) -> Option<(u128, u128, u32)> {
        if self.fragment != Fragment::Whole {
            return None;
        }
        let payload = frame.get(self.l4 as usize..self.l4 as usize + self.l4_len())?;
        let packet = match self.proto {
            protocol::IPIP | protocol::IPV6 => payload,
            protocol::GRE => gre_payload(payload)?,
            _ => return None,
        };
        let v4 = |at: usize| Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?) as u128);
        let v6 = |at: usize| Some(u128::from_be_bytes(*packet.get(at..)?.first_chunk()?));
        match packet.first()? >> 4 {
            4 => Some((v4(12)?, v4(16)?, 0)),
            6 => Some((
                v6(8)?,
                v6(24)?,
                u32::from_be_bytes(*packet.first_chunk()?) & 0x000f_ffff,
            )),
            _ => None,
        }
    }
}

/// What stands behind a GRE header that carries IP (RFC 2784 2, RFC 2890 2): four bytes each for checksum, key and sequence
/// number where their flags are set.
fn gre_payload(gre: &[u8]) -> Option<&[u8]> {
    let fixed = gre.first_chunk::<4>()?;
    let flags = u16::from_be_bytes([fixed[0], fixed[1]]);
    let ethertype = u16::from_be_bytes([fixed[2], fixed[3]]);
    // Routing (0x4000) is deprecated; a version other than 0 is PPTP.
    if flags & 0x4007 != 0 || !matches!(ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6) {
        return None;
    }
    let options = (flags & 0xb000).count_ones() as usize;
    gre.get(4 + 4 * options..)
}

#[inline]
fn addresses(src: u128, dst: u128, seed: u32) -> u64 {
    let seed = seed as u64;
    let source = mix(src as u64 ^ K[0] ^ seed, (src >> 64) as u64 ^ K[1]);
    let destination = mix(dst as u64 ^ K[2], (dst >> 64) as u64 ^ K[3] ^ seed << 32);
    source.rotate_left(32) ^ destination
}

#[inline]
fn finish(addresses: u64, rest: u64) -> u32 {
    let hash = mix(addresses ^ K[1], rest ^ K[2]);
    let hash = mix(hash ^ K[3], K[0]);
    (hash ^ hash >> 32) as u32
}
