//! Flow hashes for choosing among equal next hops.

use super::{Fragment, Headers};

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
        finish(self.addresses(seed), self.flow_label as u64)
    }

    /// Hash of addresses, protocol and ports (`fib_multipath_hash_policy = 1`); ICMP and protocols without ports hash by the rest.
    /// Fragments are hashed as [`flow_hash_l3`](Self::flow_hash_l3) does, since only the first one knows its ports.
    #[inline]
    pub fn flow_hash_l4(&self, seed: u32) -> u32 {
        if self.fragment != Fragment::Whole {
            return self.flow_hash_l3(seed);
        }
        let ports = (self.sport as u64) << 16 | self.dport as u64;
        finish(self.addresses(seed), (self.proto as u64) << 32 | ports)
    }

    #[inline]
    fn addresses(&self, seed: u32) -> u64 {
        let seed = seed as u64;
        let source = mix(self.src as u64 ^ K[0] ^ seed, (self.src >> 64) as u64 ^ K[1]);
        let destination = mix(
            self.dst as u64 ^ K[2],
            (self.dst >> 64) as u64 ^ K[3] ^ seed << 32,
        );
        source.rotate_left(32) ^ destination
    }
}

#[inline]
fn finish(addresses: u64, rest: u64) -> u32 {
    let hash = mix(addresses ^ K[1], rest ^ K[2]);
    let hash = mix(hash ^ K[3], K[0]);
    (hash ^ hash >> 32) as u32
}
