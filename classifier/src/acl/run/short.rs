//! Look-ups in short lists: all lanes at once, one packet after the other.

// Why unsafe: the operations of a way may only be called where the CPU has its instructions.
#![allow(unsafe_code)]

use super::{Match, Ops, at, decode, set};
use crate::acl::compile::short::{LANES, Range, Short, Word};
use crate::packet::{Family, Fragment, Headers};

/// # Safety
/// As for [`super::steps`].
#[inline(always)]
pub(super) unsafe fn judge<O: Ops>(
    s: &Short,
    default: u32,
    packets: &[Headers],
    n: usize,
    pick: impl Fn(usize) -> usize,
    out: &mut [Match],
) {
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..n {
            let p = at(packets, pick(i));
            let mut mask = rest(s, p);
            mask &= if s.lanes <= LANES / 2 {
                lanes::<O, 1>(s, p)
            } else {
                lanes::<O, 2>(s, p)
            };
            let rule = if mask == 0 {
                default
            } else {
                *at(&s.rules, mask.trailing_zeros() as usize)
            };
            set(out, pick(i), decode(rule));
        }
    }
}

/// Lanes whose conditions hold, but for addresses and ports.
#[inline(always)]
fn rest(s: &Short, p: &Headers) -> u32 {
    let place = match p.fragment {
        Fragment::Whole => 0,
        Fragment::First => 256,
        Fragment::Later => 512,
    };
    let mut mask = s.proto[place + usize::from(p.proto)];
    if !s.dscp.is_empty() {
        mask &= s.dscp[usize::from(p.dscp & 63)];
    }
    // A later fragment has no header to look at: rules that ask for one are not among its lanes.
    if p.fragment != Fragment::Later {
        if !s.tcp.is_empty() {
            mask &= s.tcp[usize::from(p.tcp_flags)];
        }
        if !s.icmp.is_empty() {
            let mut takes = s.not_icmp;
            if let Some((kind, code)) = p.icmp {
                takes |= s.icmp[usize::from(kind)];
                for &(k, c, bit) in &s.icmp_codes {
                    takes |= if (k, c) == (kind, code) { bit } else { 0 };
                }
            }
            mask &= takes;
        }
    }
    mask
}

/// Lanes whose addresses and ports hold, in `N` groups of 16.
///
/// # Safety
/// The CPU has the instructions of `O`.
#[inline(always)]
unsafe fn lanes<O: Ops, const N: usize>(s: &Short, p: &Headers) -> u32 {
    let mut found = 0;
    // Ports of later fragments are not looked at.
    let ports = if p.fragment == Fragment::Later {
        0
    } else {
        u32::MAX
    };
    for group in 0..N {
        let from = group * 16;
        let mut differ = [0u32; 16];
        let top = if p.family == Family::V4 { 0 } else { 96 };
        for (words, addr) in [(&s.src, p.src), (&s.dst, p.dst)] {
            for (i, word) in words.iter().enumerate() {
                compare(
                    &mut differ,
                    word,
                    from,
                    (addr >> (top - 32 * i.min(top / 32))) as u32,
                );
            }
        }
        outside(&mut differ, &s.sport, from, u32::from(p.sport), ports);
        outside(&mut differ, &s.dport, from, u32::from(p.dport), ports);
        // SAFETY: the caller's promise.
        found |= unsafe { O::zeros(&differ) } << from;
    }
    found
}

#[inline(always)]
fn compare(differ: &mut [u32; 16], word: &Word, from: usize, key: u32) {
    let (value, mask) = (&word.value[from..from + 16], &word.mask[from..from + 16]);
    for ((d, v), m) in differ.iter_mut().zip(value).zip(mask) {
        *d |= (key ^ v) & m;
    }
}

#[inline(always)]
fn outside(differ: &mut [u32; 16], range: &Range, from: usize, key: u32, looked_at: u32) {
    let (low, span) = (&range.low[from..from + 16], &range.span[from..from + 16]);
    for ((d, l), s) in differ.iter_mut().zip(low).zip(span) {
        *d |= u32::from(key.wrapping_sub(*l) > *s) & looked_at;
    }
}
