//! A fast seeded hash for prefixes.
//!
//! The standard hash costs more than the rest of storing a route. Prefixes come from BGP peers, so the seed keeps
//! them from choosing prefixes that collide.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Makes [`PrefixHasher`]s with one random seed.
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Default for Seeded {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0u8) | 1)
    }
}

impl BuildHasher for Seeded {
    type Hasher = PrefixHasher;

    fn build_hasher(&self) -> PrefixHasher {
        PrefixHasher(self.0)
    }
}

/// Mixes each number by a full multiplication, folded.
#[derive(Debug)]
pub struct PrefixHasher(u64);

impl PrefixHasher {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = ((product as u64) ^ ((product >> 64) as u64)).rotate_left(23) ^ self.0.rotate_left(41);
    }
}

impl Hasher for PrefixHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_ne_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.mix(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }

    fn write_u128(&mut self, n: u128) {
        self.mix(n as u64);
        self.mix((n >> 64) as u64);
    }
}
