//! Address to class, as tables that look-ups walk.
//!
//! IPv4: tables of the upper 16 bits and of each of the lower bytes ([`Flat4`]); for large sets and few classes four bits
//! for each /24 ([`Few4`]). IPv6: a table over a window of the upper 64 bits, then nodes over them, then, where a /64 is
//! cut, nodes over the lower 64 bits ([`Map6`]). What is too large for these is looked up in the LPM engine's image. The
//! number of steps is the same, or nearly so, for all addresses of a map, so that no address is slower than another by
//! much more than its cache misses.

use crate::acl::image::Line;

mod few;
mod six;

pub(in crate::acl) use few::{CUT, Few4};
pub(in crate::acl) use six::{Map6, bucket};

/// The entry is the number of a node.
pub(in crate::acl) const NODE: u32 = 1 << 30;
/// The entry is the number of a node over the lower 64 bits.
pub(in crate::acl) const LOW: u32 = 1 << 31;
/// Intervals of a node.
pub(in crate::acl) const FAN: usize = 8;

/// IPv4 address to class in three loads: tables of the upper 16 bits and of each of the lower bytes.
///
/// An entry of the first two is the index of the next table's first cell << 8 | the mask of the byte that selects a
/// cell: 0xff for a table of 256 cells, 0 for a single cell where all addresses are of one class. So that every look-up
/// is the same few instructions without a branch.
#[derive(Debug, Default)]
pub(in crate::acl) struct Flat4 {
    pub(in crate::acl) root: Vec<u32>,
    pub(in crate::acl) cells: Vec<u32>,
}

/// Single cells by class, with the one that was asked for last: most of the space is of one class.
#[derive(Default)]
struct Single {
    known: hashbrown::HashMap<u32, u32>,
    last: Option<(u32, u32)>,
}

impl Single {
    fn get(&mut self, class: u32) -> Option<u32> {
        if self.last.is_none_or(|(last, _)| last != class) {
            self.last = self.known.get(&class).map(|&entry| (class, entry));
        }
        self.last.map(|(_, entry)| entry)
    }
}

impl Flat4 {
    /// Cells that the map of these intervals has, single ones not counted.
    pub(super) fn cells(intervals: &[(u128, u32)]) -> usize {
        // The /16 and the /24 that is cut at last.
        let (mut cut16, mut cut24) = (None, None);
        let mut tables = 0;
        for at in intervals.iter().map(|iv| iv.0 as u32) {
            if at & 0xffff != 0 && cut16 != Some(at >> 16) {
                cut16 = Some(at >> 16);
                tables += 1;
            }
            if at & 0xff != 0 && cut24 != Some(at >> 8) {
                cut24 = Some(at >> 8);
                tables += 1;
            }
        }
        tables * 256
    }

    pub(super) fn build(intervals: &[(u128, u32)]) -> Flat4 {
        let iv: Vec<(u32, u32)> = intervals.iter().map(|&(a, c)| (a as u32, c)).collect();
        let mut map = Flat4 {
            root: Vec::with_capacity(1 << 16),
            cells: Vec::new(),
        };
        let mut from = 0;
        // The single cells of a class: for the last byte, and for the byte before.
        let mut single: [Single; 2] = Default::default();
        for h in 0..1u32 << 16 {
            let lo = h << 16;
            let entry = map.table(&iv, &mut from, lo, 16, &mut single);
            map.root.push(entry);
        }
        map
    }

    /// The entry for the `1 << bits` addresses from `lo` on.
    fn table(
        &mut self,
        iv: &[(u32, u32)],
        from: &mut usize,
        lo: u32,
        bits: u32,
        single: &mut [Single; 2],
    ) -> u32 {
        while *from + 1 < iv.len() && iv[*from + 1].0 <= lo {
            *from += 1;
        }
        let last = lo | ((1 << bits) - 1);
        if iv.get(*from + 1).is_none_or(|next| next.0 > last) {
            return self.single(iv[*from].1, bits, single);
        }
        let base = self.cells.len() as u32;
        self.cells.resize(self.cells.len() + 256, 0);
        for i in 0..256u32 {
            let value = if bits == 16 {
                self.table(iv, from, lo | i << 8, 8, single)
            } else {
                while *from + 1 < iv.len() && iv[*from + 1].0 <= lo | i {
                    *from += 1;
                }
                iv[*from].1
            };
            self.cells[(base + i) as usize] = value;
        }
        base << 8 | 0xff
    }

    /// The entry for addresses that are all of one class.
    fn single(&mut self, class: u32, bits: u32, single: &mut [Single; 2]) -> u32 {
        let level = usize::from(bits == 16);
        if let Some(entry) = single[level].get(class) {
            return entry;
        }
        let value = if bits == 16 {
            self.single(class, 8, single)
        } else {
            class
        };
        let entry = (self.cells.len() as u32) << 8;
        self.cells.push(value);
        single[level].known.insert(class, entry);
        entry
    }

    pub(in crate::acl) fn bytes(&self) -> usize {
        (self.root.len() + self.cells.len()) * 4
    }
}

/// Builds nodes over runs `(last key, value)` in order, the last one up to `u32::MAX`. Gives the entry and the levels.
pub(super) fn tree(nodes: &mut Vec<Line>, runs: &[(u32, u32)]) -> (u32, u32) {
    if runs.len() == 1 {
        return (runs[0].1, 0);
    }
    let mut level: Vec<(u32, u32)> = runs.to_vec();
    let mut levels = 0;
    while level.len() > 1 {
        level = level
            .chunks(FAN)
            .map(|part| {
                if part.len() == 1 {
                    return part[0];
                }
                let mut line = [0u32; 16];
                for i in 0..FAN {
                    // Behind the last interval the keys are the greatest: nothing is beyond them.
                    line[i] = if i + 1 < part.len() { part[i].0 } else { u32::MAX };
                    line[FAN + i] = part[i.min(part.len() - 1)].1;
                }
                nodes.push(Line(line));
                (part[part.len() - 1].0, NODE | (nodes.len() - 1) as u32)
            })
            .collect();
        levels += 1;
    }
    (level[0].1, levels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(iv: &[(u128, u32)], addr: u128) -> u32 {
        iv[iv.partition_point(|i| i.0 <= addr) - 1].1
    }

    /// All forms of an IPv4 map hold the same classes, whatever of them the compiler would choose.
    #[test]
    fn ipv4_maps_agree_with_the_intervals() {
        let mut seed = 1u64;
        let mut draw = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 32) as u32
        };
        for count in [1, 2, 9, 70, 5000] {
            let mut starts: Vec<u32> = (1..count)
                .map(|_| draw() & [u32::MAX, 0xffff_ff00, 0x3ff, 0xffff][draw() as usize % 4])
                .collect();
            starts.push(0);
            starts.sort_unstable();
            starts.dedup();
            let mut iv: Vec<(u128, u32)> = starts.iter().map(|&s| (s.into(), draw() % 300)).collect();
            iv.dedup_by_key(|i| i.1);
            let flat = Flat4::build(&iv);
            assert!(flat.cells.len() >= Flat4::cells(&iv));
            let fewer: Vec<(u128, u32)> = iv.iter().map(|&(at, class)| (at, class % 15)).collect();
            let few = Few4::build(&fewer, 15).expect("few classes");
            let half = |table: &[u8], i: usize| u32::from(table[i / 2] >> (i % 2 * 4) & 15);
            for &(start, _) in &iv {
                for addr in [
                    start,
                    start.wrapping_sub(1) & 0xffff_ffff,
                    start | 0xff,
                    (start | 0xff) + 1,
                    start ^ 0x100,
                ] {
                    let a = addr.min(u32::MAX.into()) as u32;
                    let expected = class(&iv, a.into());
                    let step = |e: u32, byte: u32| flat.cells[((e >> 8) + (byte & e & 0xff)) as usize];
                    assert_eq!(
                        step(step(flat.root[(a >> 16) as usize], a >> 8 & 0xff), a & 0xff),
                        expected
                    );
                    let mut found = half(&few.entries, (a >> 8) as usize);
                    if found == CUT {
                        let [bits, first] = few.cut[(a >> 14) as usize];
                        let before = (bits & ((1 << (a >> 8 & 63)) - 1)).count_ones() as usize;
                        found = half(&few.cells, (first as usize + before) << 8 | (a & 0xff) as usize);
                    }
                    assert_eq!(found, expected % 15);
                }
            }
        }
    }
}
