//! Classes of the addresses of a burst.

// Why unsafe: maps are indexed without bounds checks and vector instructions read whole lines.
#![allow(unsafe_code)]

use super::{BURST, Ops, at, set};
use crate::acl::compile::map::{CUT, Few4, LOW, Map6, NODE, bucket};
use crate::acl::image::{AddressMap, Node64};

/// Classes of one address of every packet.
///
/// # Safety
/// As for [`super::steps`]; `of` gives an address for every number below `n`.
#[inline(always)]
pub(super) unsafe fn classes<O: Ops>(
    map: &AddressMap,
    n: usize,
    class: &mut [u32; BURST],
    of: impl Fn(usize) -> u128,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match map {
            AddressMap::Flat(map) => {
                for i in 0..n {
                    let addr = of(i) as u32;
                    let entry = *at(&map.root, (addr >> 16) as usize);
                    let entry = *at(&map.cells, ((entry >> 8) + (addr >> 8 & entry & 0xff)) as usize);
                    set(
                        class,
                        i,
                        *at(&map.cells, ((entry >> 8) + (addr & entry & 0xff)) as usize),
                    );
                }
            }
            AddressMap::Few(map) => few(map, n, class, of),
            AddressMap::Large4(map) => {
                let mut keys = [0u32; BURST];
                (0..n).for_each(|i| set(&mut keys, i, of(i) as u32));
                map.lookup_burst(&keys[..n], &mut class[..n]);
            }
            AddressMap::Large6(map) => {
                let mut keys = [0u128; BURST];
                (0..n).for_each(|i| set(&mut keys, i, of(i)));
                map.lookup_burst(&keys[..n], &mut class[..n]);
            }
            AddressMap::V6(map) => {
                for i in 0..n {
                    set(class, i, v6::<O>(map, of(i)));
                }
            }
        }
    }
}

/// Half byte number `i`.
///
/// # Safety
/// The table is that long.
#[inline(always)]
unsafe fn half(table: &[u8], i: usize) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { u32::from(*at(table, i / 2)) >> (i % 2 * 4) & 15 }
}

/// Asks for the line of an address's entry.
#[inline(always)]
pub(super) fn ask(map: &Few4, addr: u32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: needed because it is an intrinsic; SSE is part of x86-64, and a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(map.entries.as_ptr().wrapping_add(addr as usize >> 9).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (map, addr);
}

/// The class of an address, or [`CUT`].
///
/// # Safety
/// The map is as the compiler built it: it has entries for all addresses.
#[inline(always)]
pub(super) unsafe fn few_entry(map: &Few4, addr: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { half(&map.entries, (addr >> 8) as usize) }
}

/// The class of an address whose entry is [`CUT`].
///
/// # Safety
/// As for [`few_entry`]: it has cells for every /24 whose entry is `CUT`.
#[inline(always)]
pub(super) unsafe fn few_cut(map: &Few4, addr: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let [bits, first] = at(&map.cut, (addr >> 14) as usize);
        let before = (bits & ((1 << (addr >> 8 & 63)) - 1)).count_ones() as usize;
        half(
            &map.cells,
            (*first as usize + before) << 8 | (addr & 0xff) as usize,
        )
    }
}

/// Classes in a map of few classes: a load each, and two more for the addresses of /24s that are cut.
///
/// # Safety
/// As for [`classes`].
#[inline(always)]
unsafe fn few(map: &Few4, n: usize, class: &mut [u32; BURST], of: impl Fn(usize) -> u128) {
    // SAFETY: the caller's promise. `count` never passes the number of packets seen, so it stays below BURST + 1.
    unsafe {
        let mut any = 0;
        for i in 0..n {
            let entry = few_entry(map, of(i) as u32);
            // Bit 4 is set for CUT alone.
            any |= entry + 1;
            set(class, i, entry);
        }
        if any <= CUT {
            return;
        }
        let mut cut = [0u8; BURST + 1];
        let mut count = 0;
        for i in 0..n {
            set(&mut cut, count, i as u8);
            count += usize::from(*at(class, i) == CUT);
        }
        for k in 0..count {
            let i = usize::from(*at(&cut, k));
            set(class, i, few_cut(map, of(i) as u32));
        }
    }
}

/// # Safety
/// As for [`super::steps`].
#[inline(always)]
unsafe fn v6<O: Ops>(map: &Map6, addr: u128) -> u32 {
    let (high, low) = ((addr >> 64) as u64, addr as u64);
    // SAFETY: all entries of the root are classes, or nodes that the map has.
    unsafe {
        let last = map.root.len() as u64 - 1;
        let mut entry = *at(&map.root, bucket(high, map.base, map.shift).min(last) as usize);
        for _ in 0..map.depth_high {
            entry = node64::<O>(&map.nodes, entry, high);
        }
        if map.depth_low > 0 {
            // A cut /64 goes on over the lower half.
            entry = entry & !LOW | (entry & LOW) >> 1;
            for _ in 0..map.depth_low {
                entry = node64::<O>(&map.nodes, entry, low);
            }
        }
        entry
    }
}

/// # Safety
/// As for [`super::steps`].
#[inline(always)]
unsafe fn node64<O: Ops>(nodes: &[Node64], entry: u32, key: u64) -> u32 {
    // SAFETY: node numbers are valid; node 0 stands in for an entry that is none.
    unsafe {
        let is_node = ((entry << 1) as i32 >> 31) as u32;
        let node = at(nodes, (entry & !NODE & is_node) as usize);
        let next = *node.entries.get_unchecked(O::rank64(node, key));
        entry & !is_node | next & is_node
    }
}
