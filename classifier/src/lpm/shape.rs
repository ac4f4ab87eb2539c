//! How the default engine cuts the addresses of a family.

use std::sync::Arc;

use super::Addr;
use super::lookup::{Lookup, Reader, Shared};

/// How the bits of an address are cut.
pub(super) trait Shape: Addr {
    /// Bits of the root table.
    const ROOT_BITS: u8;
    /// Bits of the tables below.
    const TABLE_BITS: u8;
    /// Whether the root's entries are tables (IPv6) or leaves (IPv4), and steps may be search nodes.
    const DEEP: bool;
    /// Words that an image may take. The memory is only taken as it is used.
    const WORDS: usize;
    /// `bits` bits of the address behind the first `depth`.
    fn bits_at(self, depth: u8, bits: u8) -> u32;
    /// The address with these bits in that place, added to `self`.
    #[must_use]
    fn with_bits(self, depth: u8, bits: u8, index: u32) -> Self;
    /// The look-up of this family.
    fn reader(shared: Arc<Shared>) -> Arc<dyn Lookup<Self>>;
}

impl Shape for u32 {
    const ROOT_BITS: u8 = 18;
    const TABLE_BITS: u8 = 2;
    const DEEP: bool = false;
    // 128 MiB: a full leaf for each of the root's words takes 53 MiB, the rest is for what is longer than /24.
    const WORDS: usize = 1 << 25;

    #[inline(always)]
    fn bits_at(self, depth: u8, bits: u8) -> u32 {
        self << depth >> (32 - bits)
    }

    #[inline(always)]
    fn with_bits(self, depth: u8, bits: u8, index: u32) -> Self {
        self | index << (32 - depth - bits)
    }

    fn reader(shared: Arc<Shared>) -> Arc<dyn Lookup<Self>> {
        Arc::new(Reader(shared))
    }
}

impl Shape for u128 {
    const ROOT_BITS: u8 = 16;
    const TABLE_BITS: u8 = 10;
    const DEEP: bool = true;
    // 256 MiB: what 22 bits of lines can refer to.
    const WORDS: usize = 1 << 26;

    #[inline(always)]
    fn bits_at(self, depth: u8, bits: u8) -> u32 {
        (self << depth >> (128 - bits)) as u32
    }

    #[inline(always)]
    fn with_bits(self, depth: u8, bits: u8, index: u32) -> Self {
        self | u128::from(index) << (128 - depth - bits)
    }

    fn reader(shared: Arc<Shared>) -> Arc<dyn Lookup<Self>> {
        Arc::new(Reader(shared))
    }
}
