//! Look-ups: one burst through the tables, step by step.
//!
//! The steps are written once, over a trait with the three operations that vector instructions make fast, and compiled
//! for each way. Every step is a loop over the burst of its own: the loads of one packet do not wait for those of
//! another. No step's length depends on the packets, except the chains of leaves with more than ten rules.

// Why unsafe: tables are indexed without bounds checks and vector instructions read whole lines.
#![allow(unsafe_code)]

use super::compile::map::{CUT, Few4, NODE};
use super::image::{AddressMap, Engine, LEAF_RULES, Line, Node64, Rest, Tables, Way};
use super::model::{Action, Match};
use super::{BURST, compile::upper::Upper};
use crate::packet::{Family, Headers};

mod address;
mod short;
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
    /// Bit i is set when word i is zero.
    ///
    /// # Safety
    /// The CPU has the instructions of the way.
    unsafe fn zeros(words: &[u32; 16]) -> u32;
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

    #[inline(always)]
    unsafe fn zeros(words: &[u32; 16]) -> u32 {
        words
            .iter()
            .enumerate()
            .fold(0, |mask, (i, &word)| mask | u32::from(word == 0) << i)
    }
}

/// A packed rule as it is answered.
#[inline(always)]
pub(super) fn decode(packed: u32) -> Match {
    const ACTIONS: [Action; 4] = [Action::Allow, Action::Deny, Action::Reject, Action::Deny];
    Match {
        action: ACTIONS[packed as usize & 3],
        rule: packed as i32 >> 2,
    }
}

/// The ways that this CPU has, the widest last.
pub(super) fn available() -> Vec<Way> {
    let mut ways = vec![Way::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
        {
            ways.push(Way::Avx2);
        }
        let wide =
            ways.len() > 1 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        if wide && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512dq") {
            ways.push(Way::Avx512);
        }
    }
    ways
}

/// Judges the packets that `order` names, or all; all of the engine's family, at most [`BURST`].
pub(super) fn burst(engine: &Tables, way: Way, packets: &[Headers], order: Option<&[u8]>, out: &mut [Match]) {
    assert!(packets.len() <= BURST && out.len() >= packets.len());
    if let Some(order) = order {
        assert!(order.len() <= BURST && order.iter().all(|&i| usize::from(i) < packets.len()));
    }
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

/// Sets element `i`.
///
/// # Safety
/// `i < table.len()`.
#[inline(always)]
unsafe fn set<T>(table: &mut [T], i: usize, value: T) {
    debug_assert!(i < table.len());
    // SAFETY: the caller's promise.
    unsafe { *table.get_unchecked_mut(i) = value }
}

/// All steps for one burst.
///
/// # Safety
/// The CPU has the instructions of `O`; at most `BURST` packets; every element of `order` is less than
/// `packets.len()`; `out` is as long as `packets`.
#[inline(always)]
unsafe fn steps<O: Ops>(tables: &Tables, packets: &[Headers], order: Option<&[u8]>, out: &mut [Match]) {
    // SAFETY: the caller's promise. Twice the same code: where all packets are of one family, nothing is looked up in
    // `order`.
    unsafe {
        match (tables, order) {
            (Tables::Full(e), None) => judge::<O>(e, packets, packets.len(), |i| i, out),
            (Tables::Full(e), Some(order)) => {
                judge::<O>(e, packets, order.len(), |i| usize::from(*at(order, i)), out);
            }
            (Tables::Short(s, default), None) => {
                short::judge::<O>(s, *default, packets, packets.len(), |i| i, out);
            }
            (Tables::Short(s, default), Some(order)) => {
                short::judge::<O>(
                    s,
                    *default,
                    packets,
                    order.len(),
                    |i| usize::from(*at(order, i)),
                    out,
                );
            }
        }
    }
}

/// # Safety
/// As for [`steps`]; `pick` maps numbers below `n` to packets.
#[inline(always)]
unsafe fn judge<O: Ops>(
    e: &Engine,
    packets: &[Headers],
    n: usize,
    pick: impl Fn(usize) -> usize,
    out: &mut [Match],
) {
    let (maps, e) = (e, &*e.rest);
    let mut class = [0u32; BURST];
    let mut src = [0u32; BURST];
    let mut dst = [0u32; BURST];
    // SAFETY (whole block): `pick` is the caller's promise; all other indices come from tables that were built
    // together, see `Engine`.
    unsafe {
        let packet = |i: usize| at(packets, pick(i));
        let asks = (e.upper.extra.is_some(), !e.upper.second.is_empty());
        match asks {
            (false, false) => upper_classes::<false, false>(&e.upper, n, packet, &mut class),
            (false, true) => upper_classes::<false, true>(&e.upper, n, packet, &mut class),
            (true, false) => upper_classes::<true, false>(&e.upper, n, packet, &mut class),
            (true, true) => upper_classes::<true, true>(&e.upper, n, packet, &mut class),
        }
        address::classes::<O>(&maps.src, n, &mut src, |i| packet(i).src);
        address::classes::<O>(&maps.dst, n, &mut dst, |i| packet(i).dst);
        if !e.cube.is_empty() {
            for i in 0..n {
                let cell = at(&e.dense_src, *at(&src, i) as usize) + at(&e.dense_dst, *at(&dst, i) as usize);
                set(out, pick(i), *at(&e.cube, (cell + at(&class, i)) as usize));
            }
            return;
        }
        let mut best = [e.default; BURST];
        if !e.src_rows.is_empty() {
            rows::<O>(e, &e.src_rows, &src, &dst, &class, n, &mut best);
        }
        if !e.dst_rows.is_empty() {
            rows::<O>(e, &e.dst_rows, &dst, &src, &class, n, &mut best);
        }
        if !e.decided.is_empty() {
            for i in 0..n {
                let cell = at(&e.dense_src, src[i] as usize) + at(&e.dense_dst, dst[i] as usize);
                let leaf = *at(&e.cells, cell as usize) + at(&class, i);
                let rule = *at(&e.decided, leaf as usize);
                let rule = rule.min(*at(&best, i));
                set(&mut best, i, rule);
            }
        } else if !e.dense_src.is_empty() {
            let mut leaf = [0u32; BURST];
            for i in 0..n {
                let cell = at(&e.dense_src, src[i] as usize) + at(&e.dense_dst, dst[i] as usize);
                set(&mut leaf, i, *at(&e.cells, cell as usize));
            }
            leaves::<O>(e, &leaf, &class, n, &mut best);
        }
        for i in 0..n {
            let rule = *at(&best, i);
            set(out, pick(i), decode(rule));
        }
    }
}

/// Judges a burst by a list over large sets, with so few combinations that one table decides: each packet in one go, so that
/// nothing is written down between the steps. The maps' lines are asked for beforehand: the steps of one packet are so many
/// that the processor would not get far enough ahead to have many misses under way. A branch tells the addresses of cut /24s
/// apart: where they are seldom it costs nothing, and a wrong guess is cheaper than a second pass over the burst.
///
/// Answers whether it has done so: only when all packets are IPv4.
///
/// # Safety
/// The tables are as the compiler built them; `out` is as long as `packets`.
#[inline(always)]
unsafe fn at_once<const EXTRA: bool, const SPORT: bool>(
    (src, dst): (&Few4, &Few4),
    e: &Rest,
    packets: &[Headers],
    out: &mut [Match],
) -> bool {
    let mut v4 = true;
    for p in packets {
        v4 &= p.family == Family::V4;
        address::ask(src, p.src as u32);
        address::ask(dst, p.dst as u32);
    }
    if !v4 {
        return false;
    }
    for (p, out) in packets.iter().zip(out) {
        // SAFETY: the caller's promise; the cube has an entry for every combination.
        unsafe {
            let upper = upper_class::<EXTRA, SPORT>(&e.upper, p);
            let mut s = address::few_entry(src, p.src as u32);
            let mut d = address::few_entry(dst, p.dst as u32);
            if s.max(d) == CUT {
                if s == CUT {
                    s = address::few_cut(src, p.src as u32);
                }
                if d == CUT {
                    d = address::few_cut(dst, p.dst as u32);
                }
            }
            let cell = at(&e.dense_src, s as usize) + at(&e.dense_dst, d as usize) + upper;
            *out = *at(&e.cube, cell as usize);
        }
    }
    true
}

/// [`at_once`], by what the list looks at.
///
/// # Safety
/// As for [`at_once`].
#[inline(always)]
unsafe fn few(maps: (&Few4, &Few4), e: &Rest, packets: &[Headers], out: &mut [Match]) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        match (e.upper.extra.is_some(), !e.upper.second.is_empty()) {
            (false, false) => at_once::<false, false>(maps, e, packets, out),
            (false, true) => at_once::<false, true>(maps, e, packets, out),
            (true, false) => at_once::<true, false>(maps, e, packets, out),
            (true, true) => at_once::<true, true>(maps, e, packets, out),
        }
    }
}

/// Judges a burst in one go, where the tables allow for it and all packets are IPv4; answers whether it has.
pub(super) fn burst_at_once(tables: &Tables, way: Way, packets: &[Headers], out: &mut [Match]) -> bool {
    let Tables::Full(e) = tables else { return false };
    let (AddressMap::Few(src), AddressMap::Few(dst), false) = (&e.src, &e.dst, e.rest.cube.is_empty()) else {
        return false;
    };
    assert!(packets.len() <= BURST && out.len() >= packets.len());
    // SAFETY: the compiler built the tables; an image has a way only when `available` found its instructions.
    unsafe {
        match way {
            #[cfg(target_arch = "x86_64")]
            Way::Avx2 | Way::Avx512 => x86::few_avx2((src, dst), &e.rest, packets, out),
            _ => few((src, dst), &e.rest, packets, out),
        }
    }
}

/// The upper classes of the packets.
///
/// # Safety
/// As for [`upper_class`]; `packet` gives one for every number below `n`.
#[inline(always)]
unsafe fn upper_classes<'p, const EXTRA: bool, const SPORT: bool>(
    u: &Upper,
    n: usize,
    packet: impl Fn(usize) -> &'p Headers,
    class: &mut [u32; BURST],
) {
    for i in 0..n {
        // SAFETY: the caller's promise.
        unsafe { set(class, i, upper_class::<EXTRA, SPORT>(u, packet(i))) };
    }
}

/// The upper class of a packet. `EXTRA`: the list looks at flags, types or DSCP; `SPORT`: at source ports.
///
/// # Safety
/// The tables are as the compiler built them.
#[inline(always)]
unsafe fn upper_class<const EXTRA: bool, const SPORT: bool>(u: &Upper, p: &Headers) -> u32 {
    // SAFETY: ports, protocol and place index tables of their full range; the rest are classes of those tables.
    unsafe {
        let mut entry = *at(&u.proto, (p.fragment as usize) << 8 | usize::from(p.proto));
        if let (true, Some(x)) = (EXTRA, &u.extra) {
            let icmp = p
                .icmp
                .map_or(1 << 16, |(kind, code)| usize::from(kind) << 8 | usize::from(code));
            let tcp = u32::from(*at(&x.tcp, usize::from(p.tcp_flags)));
            let icmp = u32::from(*at(&x.icmp, icmp));
            let dscp = u32::from(*at(&x.dscp, usize::from(p.dscp & 63)));
            let cell = entry + (tcp * x.icmp_classes + icmp) * x.dscp_classes + dscp;
            entry = *at(&x.table, cell as usize);
        }
        let dport = u32::from(*at(&u.dport, usize::from(p.dport)));
        entry = *at(&u.first, (entry + dport) as usize);
        if SPORT {
            let sport = u32::from(*at(&u.sport, usize::from(p.sport)));
            entry = *at(&u.second, (entry + sport) as usize);
        }
        entry
    }
}

/// Rows of one group: the near class's tree, walked by the far class, then the leaf.
///
/// Packets that have arrived at a leaf leave the list of those that walk on, without a branch on it; so that the work
/// is what the packets' rows ask for, and at most the depth of the deepest row.
///
/// # Safety
/// As for [`steps`].
#[inline(always)]
unsafe fn rows<O: Ops>(
    e: &Rest,
    root: &[u32],
    near: &[u32; BURST],
    far: &[u32; BURST],
    class: &[u32; BURST],
    n: usize,
    best: &mut [u32; BURST],
) {
    let mut entry = [0u32; BURST];
    let mut walking = [0u8; BURST + 1];
    let mut count = 0;
    // SAFETY: the caller's promise; `count` never passes the number of packets seen, so it stays below BURST + 1.
    unsafe {
        for i in 0..n {
            let found = *at(root, *at(near, i) as usize);
            set(&mut entry, i, found);
            set(&mut walking, count, i as u8);
            count += (found >> 30) as usize;
        }
        while count > 0 {
            let before = count;
            count = 0;
            for k in 0..before {
                let i = usize::from(*at(&walking, k));
                let line = at(&e.nodes, (*at(&entry, i) & !NODE) as usize);
                let found = *line.0.get_unchecked(8 + O::rank32(line, *at(far, i)));
                set(&mut entry, i, found);
                set(&mut walking, count, i as u8);
                count += (found >> 30) as usize;
            }
        }
        leaves::<O>(e, &entry, class, n, best);
    }
}

/// The first rule of each leaf whose signature holds.
///
/// # Safety
/// As for [`steps`].
#[inline(always)]
unsafe fn leaves<O: Ops>(
    e: &Rest,
    leaf: &[u32; BURST],
    class: &[u32; BURST],
    n: usize,
    best: &mut [u32; BURST],
) {
    let lines = e.upper.words / 16;
    let mut filled = [0u8; BURST + 1];
    let mut count = 0;
    // SAFETY: the caller's promise.
    unsafe {
        // Leaf 0 is empty.
        for i in 0..n {
            set(&mut filled, count, i as u8);
            count += usize::from(*at(leaf, i) != 0);
        }
        for k in 0..count {
            let i = usize::from(*at(&filled, k));
            let class = *at(class, i) as usize;
            let row = e.upper.rows.get_unchecked(class * lines..(class + 1) * lines);
            let mut line = at(&e.leaves, *at(leaf, i) as usize);
            let mut mask = O::holds(line, row);
            while mask == 0 && line.0[5] != 0 {
                line = at(&e.leaves, line.0[5] as usize);
                mask = O::holds(line, row);
            }
            // With no bit set this is word 6 + 10, held back to the last rule, and not taken.
            let at_rule = (mask | 1 << (LEAF_RULES - 1)).trailing_zeros() as usize;
            let rule = *line.0.get_unchecked(6 + at_rule);
            let rule = if mask != 0 { rule } else { u32::MAX };
            let rule = rule.min(*at(best, i));
            set(best, i, rule);
        }
    }
}
