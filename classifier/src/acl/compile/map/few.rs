//! IPv4 address to one of few classes: what large sets make of a family's addresses.

use crate::lpm::Bytes;

/// The entry of a /24 that is cut: its addresses have cells of their own.
pub(in crate::acl) const CUT: u32 = 15;
/// Bytes of the cells of a cut /24: four bits an address.
const CELLS: usize = 128;
/// /24s that may be cut: beyond that the cells would take more than 32 MiB.
const MOST_CUT: usize = 1 << 18;

/// IPv4 address to class in one load, for up to 15 classes: four bits for each /24.
///
/// Most prefixes of large sets are not longer than /24. The others cut their /24, which costs two loads more: a bitmap for
/// each /18 tells where the cells of its cut /24s begin. 8 MiB and, where /24s are cut, 4 MiB: zero pages where nothing was
/// written, and class 0 is that of address 0, which is nearly always "in no set".
#[derive(Debug)]
pub(in crate::acl) struct Few4 {
    /// By the upper 24 bits: class or [`CUT`]; the lower half of a byte first.
    pub(in crate::acl) entries: Bytes,
    /// By the upper 18 bits: which of the 64 /24s are cut, and the number of the first one's cells.
    pub(in crate::acl) cut: Vec<[u64; 2]>,
    /// 128 bytes for each cut /24, as `entries`.
    pub(in crate::acl) cells: Vec<u8>,
}

impl Few4 {
    /// `None` when there are more classes than an entry can tell, too many /24s are cut, or the kernel has no memory left.
    pub(in crate::acl::compile) fn build(intervals: &[(u128, u32)], classes: usize) -> Option<Few4> {
        if classes > CUT as usize {
            return None;
        }
        let mut map = Few4 {
            entries: Bytes::zeroed(1 << 23).ok()?,
            cut: Vec::new(),
            cells: Vec::new(),
        };
        // The /24s that are cut, in order; the last one may still be filled.
        let mut cut: Vec<u32> = Vec::new();
        for (i, &(first, class)) in intervals.iter().enumerate() {
            let first = first as u32;
            let last = intervals.get(i + 1).map_or(u32::MAX, |next| next.0 as u32 - 1);
            let (from, to) = (first >> 8, last >> 8);
            // Whole /24s, the cut ones at both ends left out.
            let whole = from + u32::from(first & 0xff != 0)..to + u32::from(last & 0xff == 0xff);
            if class != 0 {
                fill(
                    &mut map.entries,
                    whole.start as usize,
                    whole.end as usize,
                    class as u8,
                );
            }
            let mut part = |block: u32, lo: u32, hi: u32| {
                if cut.last() != Some(&block) {
                    cut.push(block);
                    map.cells.resize(cut.len() * CELLS, 0);
                    let at = block as usize;
                    fill(&mut map.entries, at, at + 1, CUT as u8);
                }
                let base = (cut.len() - 1) * 2 * CELLS;
                fill(
                    &mut map.cells,
                    base + lo as usize,
                    base + hi as usize + 1,
                    class as u8,
                );
            };
            if from == to && whole.is_empty() {
                part(from, first & 0xff, last & 0xff);
            } else if from != to {
                if first & 0xff != 0 {
                    part(from, first & 0xff, 0xff);
                }
                if last & 0xff != 0xff {
                    part(to, 0, last & 0xff);
                }
            }
            if cut.len() > MOST_CUT {
                return None;
            }
        }
        if !cut.is_empty() {
            map.cut = vec![[0; 2]; 1 << 18];
            for (number, block) in cut.iter().enumerate() {
                let [bits, base] = &mut map.cut[(block >> 6) as usize];
                if *bits == 0 {
                    *base = number as u64;
                }
                *bits |= 1 << (block & 63);
            }
        }
        Some(map)
    }

    pub(in crate::acl) fn bytes(&self) -> usize {
        self.entries.len() + size_of_val(&self.cut[..]) + self.cells.len()
    }
}

/// Sets the half bytes from `from` to before `to`.
fn fill(halves: &mut [u8], from: usize, to: usize, class: u8) {
    let (mut from, mut to) = (from, to);
    if from < to && from % 2 == 1 {
        halves[from / 2] = halves[from / 2] & 0x0f | class << 4;
        from += 1;
    }
    if from < to && to % 2 == 1 {
        to -= 1;
        halves[to / 2] = halves[to / 2] & 0xf0 | class;
    }
    if from < to {
        halves[from / 2..to / 2].fill(class << 4 | class);
    }
}
