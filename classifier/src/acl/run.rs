//! Look-ups: one burst through the tables, step by step.
//!
//! The steps are written once, over a trait with the three operations that vector instructions make fast, and compiled
//! for each way. Every step is a loop over the burst of its own: the loads of one packet do not wait for those of
//! another. No step's length depends on the packets, except the chains of leaves with more than ten rules.

// Why unsafe: tables are indexed without bounds checks and vector instructions read whole lines.
#![allow(unsafe_code)]

use super::compile::map::{CHUNK, LOW, Map4, Map6, NODE, bucket};
use super::image::{AddressMap, Engine, LEAF_RULES, Line, Node64, Way};
use super::model::{Action, Match};
use super::{BURST, compile::upper::Upper};
use crate::packet::{Fragment, Headers};

#[cfg(target_arch = "x86_64")]
mod x86;

/// The operations that differ from way to way.
trait Ops {
    /// How many of the line's first eight words are less than `key`.
    ///
    /// # Safety
    /// The CPU has the instructions of the way.
    unsafe fn rank32(line: &Line, key: u32) -> usize;
    /// How many of the node's ends are less than `key`.
    ///
    /// # Safety
    /// The CPU has the instructions of the way.
    unsafe fn rank64(node: &Node64, key: u64) -> usize;
    /// Bit i is set when the i-th signature of the leaf's line holds.
    ///
    /// # Safety
    /// The CPU has the instructions of the way, and `row` has a bit for every signature of the line.
    unsafe fn holds(line: &Line, row: &[Line]) -> u32;
}

/// Plain Rust.
struct Scalar;

impl Ops for Scalar {
    #[inline(always)]
    unsafe fn rank32(line: &Line, key: u32) -> usize {
        line.0[..8].iter().map(|&end| usize::from(end < key)).sum()
    }

    #[inline(always)]
    unsafe fn rank64(node: &Node64, key: u64) -> usize {
        node.ends.iter().map(|&end| usize::from(end < key)).sum()
    }

    #[inline(always)]
    unsafe fn holds(line: &Line, row: &[Line]) -> u32 {
        (0..LEAF_RULES).fold(0, |mask, i| {
            let signature = (line.0[i / 2] >> (16 * (i % 2)) & 0xffff) as usize;
            mask | (row[signature >> 9].0[signature >> 5 & 15] >> (signature & 31) & 1) << i
        })
    }
}

/// The ways that this CPU has, the widest last.
pub(super) fn available() -> Vec<Way> {
    let mut ways = vec![Way::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("popcnt")
        {
            ways.push(Way::Avx2);
        }
        let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        if wide && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512dq") {
            ways.push(Way::Avx512);
        }
    }
    ways
}

/// Judges the packets that `order` names, all of the engine's family; at most [`BURST`].
pub(super) fn burst(engine: &Engine, way: Way, packets: &[Headers], order: &[u8], out: &mut [Match]) {
    assert!(order.len() <= BURST && out.len() >= packets.len());
    assert!(order.iter().all(|&i| usize::from(i) < packets.len()));
    match way {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an image has a way only when `available` found its instructions.
        Way::Avx2 => unsafe { x86::burst_avx2(engine, packets, order, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Way::Avx512 => unsafe { x86::burst_avx512(engine, packets, order, out) },
        // SAFETY: plain Rust needs no instructions; `order` was checked above.
        _ => unsafe { steps::<Scalar>(engine, packets, order, out) },
    }
}

/// Element `i`, which the compiler of the tables guarantees to be there.
///
/// # Safety
/// `i < table.len()`.
#[inline(always)]
unsafe fn at<T>(table: &[T], i: usize) -> &T {
    debug_assert!(i < table.len());
    // SAFETY: the caller's promise. A check here would cost a compare and a branch at each of some fifteen loads.
    unsafe { table.get_unchecked(i) }
}

/// All steps for one burst.
///
/// # Safety
/// The CPU has the instructions of `O`, and every element of `order` is less than `packets.len()` and `out.len()`.
#[inline(always)]
unsafe fn steps<O: Ops>(e: &Engine, packets: &[Headers], order: &[u8], out: &mut [Match]) {
    let n = order.len();
    let mut class = [0u32; BURST];
    let mut src = [0u32; BURST];
    let mut dst = [0u32; BURST];
    // SAFETY (whole block): `order` is checked by the caller; all other indices come from tables that were built
    // together, see `Engine`.
    unsafe {
        for i in 0..n {
            class[i] = upper_class(&e.upper, at(packets, usize::from(order[i])));
        }
        addresses::<O>(&e.src, packets, order, &mut src, |p| p.src);
        addresses::<O>(&e.dst, packets, order, &mut dst, |p| p.dst);
        let mut best = [e.default; BURST];
        if !e.src_rows.is_empty() {
            rows::<O>(e, &e.src_rows, e.src_depth, &src, &dst, &class, n, &mut best);
        }
        if !e.dst_rows.is_empty() {
            rows::<O>(e, &e.dst_rows, e.dst_depth, &dst, &src, &class, n, &mut best);
        }
        if !e.dense_src.is_empty() {
            let mut leaf = [0u32; BURST];
            for i in 0..n {
                let cell = at(&e.dense_src, src[i] as usize) + at(&e.dense_dst, dst[i] as usize);
                leaf[i] = *at(&e.cells, cell as usize);
            }
            leaves::<O>(e, &leaf, &class, n, &mut best);
        }
        for i in 0..n {
            const ACTIONS: [Action; 4] = [Action::Allow, Action::Deny, Action::Reject, Action::Deny];
            let m = Match {
                action: ACTIONS[best[i] as usize & 3],
                rule: best[i] as i32 >> 2,
            };
            *out.get_unchecked_mut(usize::from(order[i])) = m;
        }
    }
}

/// The upper class of a packet.
///
/// # Safety
/// The tables are as the compiler built them.
#[inline(always)]
unsafe fn upper_class(u: &Upper, p: &Headers) -> u32 {
    // SAFETY: ports, protocol and place index tables of their full range; the rest are classes of those tables.
    unsafe {
        let place = match p.fragment {
            Fragment::Whole => 0,
            Fragment::First => 256,
            Fragment::Later => 512,
        };
        let mut proto = u32::from(*at(&u.proto, place + usize::from(p.proto)));
        if let Some(x) = &u.extra {
            let icmp = p
                .icmp
                .map_or(1 << 16, |(kind, code)| usize::from(kind) << 8 | usize::from(code));
            let tcp = u32::from(*at(&x.tcp, usize::from(p.tcp_flags)));
            let icmp = u32::from(*at(&x.icmp, icmp));
            let dscp = u32::from(*at(&x.dscp, usize::from(p.dscp & 63)));
            let cell = ((proto * x.tcp_classes + tcp) * x.icmp_classes + icmp) * x.dscp_classes + dscp;
            proto = u32::from(*at(&x.table, cell as usize));
        }
        let dport = u32::from(*at(&u.dport, usize::from(p.dport)));
        let sport = u32::from(*at(&u.sport, usize::from(p.sport)));
        let first = *at(&u.first, (proto * u.dport_classes + dport) as usize);
        *at(&u.second, (first + sport) as usize)
    }
}

/// Classes of one address of every packet.
///
/// # Safety
/// As for [`steps`].
#[inline(always)]
unsafe fn addresses<O: Ops>(
    map: &AddressMap,
    packets: &[Headers],
    order: &[u8],
    class: &mut [u32; BURST],
    of: impl Fn(&Headers) -> u128,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match map {
            AddressMap::V4(map) => {
                for (i, &k) in order.iter().enumerate() {
                    class[i] = v4::<O>(map, of(at(packets, usize::from(k))) as u32);
                }
            }
            AddressMap::V6(map) => {
                for (i, &k) in order.iter().enumerate() {
                    class[i] = v6::<O>(map, of(at(packets, usize::from(k))));
                }
            }
        }
    }
}

/// # Safety
/// As for [`steps`].
#[inline(always)]
unsafe fn v4<O: Ops>(map: &Map4, addr: u32) -> u32 {
    // SAFETY: chunk and node numbers are valid; entry 0 of both stands in for an entry that is a class already.
    unsafe {
        let mut entry = *at(&map.root, (addr >> 16) as usize);
        for shift in [8, 0] {
            // All bits set when the entry is a chunk: selects without a branch that traffic could mispredict.
            let chunk = ((entry & CHUNK) as i32 >> 31) as u32;
            let next = *at(
                &map.chunks,
                ((entry << 8 | addr >> shift & 0xff) & chunk) as usize,
            );
            entry = entry & !chunk | next & chunk;
        }
        for _ in 0..map.depth {
            entry = node::<O>(&map.nodes, entry, addr);
        }
        entry
    }
}

/// One level of nodes: entries that are no node stay as they are.
///
/// # Safety
/// As for [`steps`].
#[inline(always)]
unsafe fn node<O: Ops>(nodes: &[Line], entry: u32, key: u32) -> u32 {
    // SAFETY: node numbers are valid; node 0 stands in for an entry that is none.
    unsafe {
        let is_node = ((entry << 1) as i32 >> 31) as u32;
        let line = at(nodes, (entry & !NODE & is_node) as usize);
        let next = *line.0.get_unchecked(8 + O::rank32(line, key));
        entry & !is_node | next & is_node
    }
}

/// # Safety
/// As for [`steps`].
#[inline(always)]
unsafe fn v6<O: Ops>(map: &Map6, addr: u128) -> u32 {
    let (high, low) = ((addr >> 64) as u64, addr as u64);
    // SAFETY: as in `v4`.
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
/// As for [`steps`].
#[inline(always)]
unsafe fn node64<O: Ops>(nodes: &[Node64], entry: u32, key: u64) -> u32 {
    // SAFETY: as in `node`.
    unsafe {
        let is_node = ((entry << 1) as i32 >> 31) as u32;
        let node = at(nodes, (entry & !NODE & is_node) as usize);
        let next = *node.entries.get_unchecked(O::rank64(node, key));
        entry & !is_node | next & is_node
    }
}

/// Rows of one group: the near class's tree, walked by the far class, then the leaf.
///
/// # Safety
/// As for [`steps`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn rows<O: Ops>(
    e: &Engine,
    root: &[u32],
    depth: u32,
    near: &[u32; BURST],
    far: &[u32; BURST],
    class: &[u32; BURST],
    n: usize,
    best: &mut [u32; BURST],
) {
    let mut leaf = [0u32; BURST];
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..n {
            let mut entry = *at(root, near[i] as usize);
            for _ in 0..depth {
                entry = node::<O>(&e.nodes, entry, far[i]);
            }
            leaf[i] = entry;
        }
        leaves::<O>(e, &leaf, class, n, best);
    }
}

/// The first rule of each leaf whose signature holds.
///
/// # Safety
/// As for [`steps`].
#[inline(always)]
unsafe fn leaves<O: Ops>(
    e: &Engine,
    leaf: &[u32; BURST],
    class: &[u32; BURST],
    n: usize,
    best: &mut [u32; BURST],
) {
    let lines = e.upper.words / 16;
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..n {
            let row = e
                .upper
                .rows
                .get_unchecked(class[i] as usize * lines..(class[i] as usize + 1) * lines);
            let mut line = at(&e.leaves, leaf[i] as usize);
            loop {
                let mask = O::holds(line, row);
                // With no bit set this reads the line's last word, which cannot win or is masked below.
                if mask != 0 {
                    let rule = *line.0.get_unchecked(6 + mask.trailing_zeros() as usize);
                    best[i] = best[i].min(rule);
                    break;
                }
                if line.0[5] == 0 {
                    break;
                }
                line = at(&e.leaves, line.0[5] as usize);
            }
        }
    }
}
