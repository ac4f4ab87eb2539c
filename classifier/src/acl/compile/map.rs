//! Address to class, as tables that look-ups walk.
//!
//! IPv4: a table of the upper 16 bits, then 256-entry chunks for the next two bytes where many classes meet, and
//! nodes of eight intervals in one cache line where few do. IPv6: a table over a window of the upper 64 bits, then
//! nodes over them, then, where a /64 is cut, nodes over the lower 64 bits. The number of steps is the same for all
//! addresses of a map, so that no address is slower than another by more than its cache misses.

use crate::acl::image::Line;

mod few;
mod six;

pub(in crate::acl) use few::{CUT, Few4};
pub(in crate::acl) use six::{Map6, bucket};

/// The entry is the number of a 256-entry chunk.
pub(in crate::acl) const CHUNK: u32 = 1 << 31;
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

/// Cells of a [`Flat4`] at most; beyond that a [`Map4`] is taken.
const FLAT_CELLS: usize = 3 << 20;

impl Flat4 {
    pub(super) fn build(intervals: &[(u128, u32)]) -> Option<Flat4> {
        let iv: Vec<(u32, u32)> = intervals.iter().map(|&(a, c)| (a as u32, c)).collect();
        let mut map = Flat4 {
            root: Vec::with_capacity(1 << 16),
            cells: Vec::new(),
        };
        let mut from = 0;
        // The single cells of a class: for the last byte, and for the byte before.
        let mut single: [hashbrown::HashMap<u32, u32>; 2] = Default::default();
        for h in 0..1u32 << 16 {
            let lo = h << 16;
            let entry = map.table(&iv, &mut from, lo, 16, &mut single);
            map.root.push(entry);
            if map.cells.len() > FLAT_CELLS {
                return None;
            }
        }
        Some(map)
    }

    /// The entry for the `1 << bits` addresses from `lo` on.
    fn table(
        &mut self,
        iv: &[(u32, u32)],
        from: &mut usize,
        lo: u32,
        bits: u32,
        single: &mut [hashbrown::HashMap<u32, u32>; 2],
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
    fn single(&mut self, class: u32, bits: u32, single: &mut [hashbrown::HashMap<u32, u32>; 2]) -> u32 {
        let level = usize::from(bits == 16);
        if let Some(&entry) = single[level].get(&class) {
            return entry;
        }
        let value = if bits == 16 {
            self.single(class, 8, single)
        } else {
            class
        };
        let entry = (self.cells.len() as u32) << 8;
        self.cells.push(value);
        single[level].insert(class, entry);
        entry
    }

    pub(in crate::acl) fn bytes(&self) -> usize {
        (self.root.len() + self.cells.len()) * 4
    }
}

/// IPv4 address to class in one or two loads, for large sets: a table of the upper 24 bits.
///
/// An entry is a class, or `0x8000` | the number of a table of 256 cells for the last byte. The 32 MiB are zero pages
/// where nothing was written, and class 0 is that of address 0, which is nearly always "in no set".
#[derive(Debug)]
pub(in crate::acl) struct Wide4 {
    pub(in crate::acl) root: Vec<u16>,
    pub(in crate::acl) cells: Vec<u16>,
}

impl Wide4 {
    /// `None` when there are more classes, or more /24s cut, than an entry can tell.
    pub(super) fn build(intervals: &[(u128, u32)], classes: usize) -> Option<Wide4> {
        if classes > 0x8000 {
            return None;
        }
        let mut map = Wide4 {
            root: vec![0; 1 << 24],
            cells: vec![0; 256],
        };
        // The /24 that is being cut: its number and its first cell.
        let mut cut: Option<(u32, usize)> = None;
        for (i, &(first, class)) in intervals.iter().enumerate() {
            let first = first as u32;
            let last = intervals.get(i + 1).map_or(u32::MAX, |next| next.0 as u32 - 1);
            let (from, to) = (first >> 8, last >> 8);
            // Whole /24s, the cut ones at both ends left out.
            let whole = from + u32::from(first & 0xff != 0)..to + u32::from(last & 0xff == 0xff);
            if class != 0 && whole.start < whole.end {
                map.root[whole.start as usize..whole.end as usize].fill(class as u16);
            }
            let mut part = |block: u32, lo: u32, hi: u32| {
                let base = match cut {
                    Some((number, base)) if number == block => base,
                    _ => {
                        let base = map.cells.len();
                        map.cells.resize(base + 256, 0);
                        map.root[block as usize] = 0x8000 | (base / 256) as u16;
                        cut = Some((block, base));
                        base
                    }
                };
                map.cells[base + lo as usize..=base + hi as usize].fill(class as u16);
            };
            if from == to && (first & 0xff != 0 || last & 0xff != 0xff) {
                part(from, first & 0xff, last & 0xff);
            } else if from != to {
                if first & 0xff != 0 {
                    part(from, first & 0xff, 0xff);
                }
                if last & 0xff != 0xff {
                    part(to, 0, last & 0xff);
                }
            }
            if map.cells.len() > 0x8000 * 256 {
                return None;
            }
        }
        Some(map)
    }

    pub(in crate::acl) fn bytes(&self) -> usize {
        (self.root.len() + self.cells.len()) * 2
    }
}

/// IPv4 address to class, where the other two forms would be too large.
#[derive(Debug, Default)]
pub(in crate::acl) struct Map4 {
    /// By the upper 16 bits: class, `CHUNK` or `NODE`.
    pub(in crate::acl) root: Vec<u32>,
    /// 256 entries each.
    pub(in crate::acl) chunks: Vec<u32>,
    pub(in crate::acl) nodes: Vec<Line>,
    /// Levels of nodes that a look-up walks.
    pub(in crate::acl) depth: u32,
}

impl Map4 {
    pub(super) fn build(intervals: &[(u128, u32)]) -> Map4 {
        let intervals: Vec<(u32, u32)> = intervals.iter().map(|&(a, c)| (a as u32, c)).collect();
        // One level of nodes is the faster map; two levels save the chunks of sparsely used /16s.
        let map = Self::with_depth(&intervals, 1);
        if map.bytes() > 8 << 20 {
            let deeper = Self::with_depth(&intervals, 2);
            if deeper.bytes() * 2 < map.bytes() {
                return deeper;
            }
        }
        map
    }

    fn with_depth(intervals: &[(u32, u32)], depth: u32) -> Map4 {
        let mut map = Map4 {
            root: vec![0; 1 << 16],
            chunks: vec![0; 256],
            nodes: vec![Line::NOTHING],
            depth: 0,
        };
        let mut from = 0;
        for h in 0..1u32 << 16 {
            let (lo, hi) = (h << 16, h << 16 | 0xffff);
            map.root[h as usize] = map.entry(intervals, &mut from, lo, hi, depth, 16);
        }
        map
    }

    /// The entry for addresses `lo..=hi`; `from` is the interval that holds `lo`, and is moved on.
    fn entry(&mut self, iv: &[(u32, u32)], from: &mut usize, lo: u32, hi: u32, depth: u32, bits: u32) -> u32 {
        while *from + 1 < iv.len() && iv[*from + 1].0 <= lo {
            *from += 1;
        }
        let mut to = *from + 1;
        while to < iv.len() && iv[to].0 <= hi && to - *from <= 64 {
            to += 1;
        }
        let part = &iv[*from..to];
        if part.len() == 1 {
            return part[0].1;
        }
        if part.len() <= FAN || depth == 2 && part.len() <= FAN * FAN {
            let runs: Vec<(u32, u32)> = (0..part.len())
                .map(|i| (part.get(i + 1).map_or(u32::MAX, |next| next.0 - 1), part[i].1))
                .collect();
            let (entry, levels) = tree(&mut self.nodes, &runs);
            self.depth = self.depth.max(levels);
            return entry;
        }
        let id = (self.chunks.len() / 256) as u32;
        self.chunks.resize(self.chunks.len() + 256, 0);
        let step = (hi - lo) / 255; // 256 addresses at 16 bits, 1 at 8 bits
        let step = if bits == 16 { 256 } else { step.max(1) };
        for i in 0..256u32 {
            let sub = lo + i * step;
            let e = self.entry(iv, from, sub, sub + (step - 1), depth, 8);
            self.chunks[(id * 256 + i) as usize] = e;
        }
        CHUNK | id
    }

    pub(in crate::acl) fn bytes(&self) -> usize {
        (self.root.len() + self.chunks.len()) * 4 + self.nodes.len() * 64
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
            let flat = Flat4::build(&iv).expect("small");
            let wide = Wide4::build(&iv, 300).expect("few classes");
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
                    let entry = wide.root[(a >> 8) as usize];
                    let found = match entry & 0x8000 {
                        0 => entry,
                        _ => wide.cells[usize::from(entry & 0x7fff) << 8 | (a & 0xff) as usize],
                    };
                    assert_eq!(u32::from(found), expected);
                }
            }
        }
    }
}
