//! IPv6 address to class.

use super::{FAN, LOW, NODE};
use crate::acl::image::Node64;

/// IPv6 address to class.
#[derive(Debug, Default)]
pub(in crate::acl) struct Map6 {
    /// Where the window over the upper 64 bits begins.
    pub(in crate::acl) base: u64,
    /// Bits of the upper 64 that are below the window.
    pub(in crate::acl) shift: u32,
    /// By the window: class, `NODE` or `LOW`.
    pub(in crate::acl) root: Vec<u32>,
    pub(in crate::acl) nodes: Vec<Node64>,
    /// Levels of nodes over the upper 64 bits.
    pub(in crate::acl) depth_high: u32,
    /// Levels of nodes over the lower 64 bits.
    pub(in crate::acl) depth_low: u32,
}

impl Map6 {
    pub(in crate::acl::compile) fn build(intervals: &[(u128, u32)]) -> Map6 {
        let mut map = Map6 {
            nodes: vec![Node64::NOTHING],
            ..Map6::default()
        };
        let mut high: Vec<(u64, u32)> = Vec::new(); // first upper half, entry
        let mut i = 0;
        while i < intervals.len() {
            let (start, class) = intervals[i];
            let top = (start >> 64) as u64;
            let same = intervals[i..]
                .iter()
                .take_while(|iv| (iv.0 >> 64) as u64 == top)
                .count();
            if same == 1 && start as u64 == 0 {
                high.push((top, class));
                i += 1;
                continue;
            }
            // This /64 is cut: a tree over the lower half, from what was valid before it.
            let mut low: Vec<(u64, u32)> = Vec::new();
            if start as u64 != 0 {
                low.push((0, intervals[i - 1].1));
            }
            low.extend(intervals[i..i + same].iter().map(|iv| (iv.0 as u64, iv.1)));
            let last = low[low.len() - 1].1;
            let runs = ends(&low);
            let (entry, levels) = tree64(&mut map.nodes, &runs);
            map.depth_low = map.depth_low.max(levels);
            high.push((top, LOW | entry & !NODE));
            i += same;
            let next = intervals.get(i).map(|iv| (iv.0 >> 64) as u64);
            if top < u64::MAX && next != Some(top + 1) {
                high.push((top + 1, last));
            }
        }
        map.window(&high);
        map
    }

    /// Chooses the window of the upper 64 bits that cuts the intervals most evenly, and fills the root.
    fn window(&mut self, high: &[(u64, u32)]) {
        let m = high.len();
        let mut best = (f64::MAX, 0u64, 63u32);
        if m > FAN {
            for cut in [0, m / 100, m / 20, m / 8, m / 4] {
                let (lo, hi) = (high[cut].0, high[m - 1 - cut].0);
                let mut shift = 0;
                while (hi - lo) >> shift >= ROOT6 as u64 - 2 {
                    shift += 1;
                }
                let base = lo & !((1u64 << shift) - 1);
                let mut cost = 0.0;
                let mut i = 0;
                while i < m {
                    let at = bucket(high[i].0, base, shift);
                    let n = high[i..]
                        .iter()
                        .take_while(|h| bucket(h.0, base, shift) == at)
                        .count();
                    cost += n as f64 * (n as f64 + 1.0).log2();
                    i += n;
                }
                if cost < best.0 {
                    best = (cost, base, shift);
                }
            }
        }
        (self.base, self.shift) = (best.1, best.2);
        let size = if m > FAN { ROOT6 } else { 2 };
        let mut from = 0;
        for b in 0..size {
            // The first bucket takes what lies before the window, the last one what lies behind it.
            let lo = if b == 0 {
                0
            } else {
                self.base.wrapping_add((b as u64) << self.shift)
            };
            if b > 0 && (b as u64) > (u64::MAX - self.base) >> self.shift {
                self.root.push(high[m - 1].1);
                continue;
            }
            while from + 1 < m && high[from + 1].0 <= lo {
                from += 1;
            }
            let mut to = from + 1;
            while to < m && bucket(high[to].0, self.base, self.shift).min(size as u64 - 1) == b as u64 {
                to += 1;
            }
            let (entry, levels) = tree64(&mut self.nodes, &ends(&high[from..to]));
            self.depth_high = self.depth_high.max(levels);
            self.root.push(entry);
        }
    }

    pub(in crate::acl) fn bytes(&self) -> usize {
        self.root.len() * 4 + self.nodes.len() * size_of::<Node64>()
    }
}

/// Entries of the root of an IPv6 map.
const ROOT6: usize = 1 << 16;

/// The root's entry for an upper half.
#[inline]
pub(in crate::acl) fn bucket(high: u64, base: u64, shift: u32) -> u64 {
    (high.saturating_sub(base) >> shift).min(ROOT6 as u64 - 1)
}

/// First keys to last keys.
fn ends(starts: &[(u64, u32)]) -> Vec<(u64, u32)> {
    (0..starts.len())
        .map(|i| (starts.get(i + 1).map_or(u64::MAX, |n| n.0 - 1), starts[i].1))
        .collect()
}

/// As [`tree`], over keys of 64 bits.
fn tree64(nodes: &mut Vec<Node64>, runs: &[(u64, u32)]) -> (u32, u32) {
    let mut level: Vec<(u64, u32)> = runs.to_vec();
    let mut levels = 0;
    while level.len() > 1 {
        level = level
            .chunks(FAN)
            .map(|part| {
                if part.len() == 1 {
                    return part[0];
                }
                let mut node = Node64::NOTHING;
                for i in 0..FAN {
                    node.ends[i] = if i + 1 < part.len() { part[i].0 } else { u64::MAX };
                    node.entries[i] = part[i.min(part.len() - 1)].1;
                }
                nodes.push(node);
                (part[part.len() - 1].0, NODE | (nodes.len() - 1) as u32)
            })
            .collect();
        levels += 1;
    }
    (level[0].1, levels)
}
