//! Rules that can never match because an earlier one covers them.

use hashbrown::HashMap;

use super::model::{Addresses, IcmpMatch, List, PortRange, Rule, TcpMatch};
use crate::lpm::IpPrefix;
use crate::packet::Family;

/// A rule that can never match, and the first earlier rule that covers it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// Number of the rule that never matches, from 0.
    pub rule: usize,
    /// Number of the earlier rule, from 0.
    pub by: usize,
}

/// Rules with more address pairs than this are compared with every later rule instead of being indexed.
const INDEXED_PAIRS: usize = 64;

/// An address condition: `None` for any address.
type Key = Option<IpPrefix>;

/// Family (whether IPv4) and length of a prefix; `None` for any address.
type Length = Option<(bool, u8)>;

/// Finds every rule that one earlier rule covers. Rules covered only by several earlier ones together are not found.
///
/// Earlier rules are indexed by their prefix pairs; each rule probes the pairs of lengths that occur, so that a list
/// of 10,000 rules takes milliseconds and not a comparison of all with all.
pub fn covered(list: &List) -> Vec<Covered> {
    let mut index: HashMap<(Key, Key), Vec<u32>> = HashMap::new();
    let mut lengths: Vec<(Length, Length)> = Vec::new();
    let mut broad: Vec<u32> = Vec::new();
    let mut found = Vec::new();
    for (j, rule) in list.rules.iter().enumerate() {
        let probe = (first(&rule.src), first(&rule.dst));
        let mut by: Option<u32> = None;
        let mut consider = |i: u32| {
            if by.is_none_or(|b| i < b) && covers(&list.rules[i as usize], rule) {
                by = Some(i);
            }
        };
        for &(src, dst) in &lengths {
            if let (Some(src), Some(dst)) = (widen(probe.0, src), widen(probe.1, dst)) {
                for &i in index.get(&(src, dst)).into_iter().flatten() {
                    consider(i);
                }
            }
        }
        for &i in &broad {
            consider(i);
        }
        if let Some(by) = by {
            found.push(Covered {
                rule: j,
                by: by as usize,
            });
            continue; // What it covers, its own cover covers as well.
        }
        let (src, dst) = (keys(&rule.src), keys(&rule.dst));
        if src.len().saturating_mul(dst.len()) > INDEXED_PAIRS {
            broad.push(j as u32);
            continue;
        }
        for &s in &src {
            for &d in &dst {
                let pair = (s.map(|p| (is_v4(p), p.len())), d.map(|p| (is_v4(p), p.len())));
                if !lengths.contains(&pair) {
                    lengths.push(pair);
                }
                index.entry((s, d)).or_default().push(j as u32);
            }
        }
    }
    found
}

fn is_v4(p: IpPrefix) -> bool {
    matches!(p, IpPrefix::V4(_))
}

fn first(a: &Addresses) -> Key {
    a.all().next().copied()
}

fn keys(a: &Addresses) -> Vec<Key> {
    if a.is_any() {
        vec![None]
    } else {
        a.all().take(INDEXED_PAIRS + 1).map(|p| Some(*p)).collect()
    }
}

/// The prefix of the given family and length around `probe`; outer `None` when there is none.
fn widen(probe: Key, to: Length) -> Option<Key> {
    let Some((v4, len)) = to else { return Some(None) };
    match probe? {
        IpPrefix::V4(p) if v4 && len <= p.len() => {
            Some(Some(IpPrefix::V4(crate::lpm::Prefix::covering(p.addr(), len))))
        }
        IpPrefix::V6(p) if !v4 && len <= p.len() => {
            Some(Some(IpPrefix::V6(crate::lpm::Prefix::covering(p.addr(), len))))
        }
        _ => None,
    }
}

/// Whether every packet that `b` matches is matched by `a`. May answer no where the truth is yes, never the reverse.
fn covers(a: &Rule, b: &Rule) -> bool {
    fragments_cover(a, b)
        && b.dscp & !a.dscp == 0
        && [Family::V4, Family::V6]
            .iter()
            .all(|&f| !b.src.has(f) || !b.dst.has(f) || a.protocols_of(f).covers(b.protocols_of(f)))
        && ports_cover(&a.sport, &b.sport)
        && ports_cover(&a.dport, &b.dport)
        && tcp_covers(a.tcp, b.tcp)
        && icmp_covers(&a.icmp, &b.icmp)
        && addresses_cover(&a.src, &b.src)
        && addresses_cover(&a.dst, &b.dst)
}

fn fragments_cover(a: &Rule, b: &Rule) -> bool {
    use crate::packet::Fragment::{First, Later, Whole};
    // A rule with `fragment = "later"` does not look at ports, so ports need no cover there; the comparison of ports
    // below then asks for more than is needed, which is safe.
    [Whole, First, Later]
        .iter()
        .all(|&f| !b.fragment_matches(f) || a.fragment_matches(f))
}

fn ports_cover(a: &[PortRange], b: &[PortRange]) -> bool {
    if a.is_empty() {
        return true;
    }
    let mut merged: Vec<PortRange> = a.to_vec();
    merged.sort();
    merged.dedup_by(|next, prev| {
        let joins = u32::from(next.lo) <= u32::from(prev.hi) + 1;
        if joins {
            prev.hi = prev.hi.max(next.hi);
        }
        joins
    });
    let whole = [PortRange { lo: 0, hi: u16::MAX }];
    let wanted = if b.is_empty() { &whole[..] } else { b };
    wanted
        .iter()
        .all(|w| merged.iter().any(|m| m.lo <= w.lo && w.hi <= m.hi))
}

fn tcp_covers(a: Option<TcpMatch>, b: Option<TcpMatch>) -> bool {
    match (a, b) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => (0..=255).all(|flags| !b.matches(flags) || a.matches(flags)),
    }
}

fn icmp_covers(a: &[IcmpMatch], b: &[IcmpMatch]) -> bool {
    a.is_empty() || !b.is_empty() && b.iter().all(|w| a.contains(w))
}

fn addresses_cover(a: &Addresses, b: &Addresses) -> bool {
    if a.is_any() {
        return true;
    }
    if b.is_any() {
        return [Family::V4, Family::V6]
            .iter()
            .all(|f| a.all().any(|p| p.len() == 0 && is_v4(*p) == (*f == Family::V4)));
    }
    if b.prefixes.is_empty() && b.sets.iter().all(|s| a.sets.contains(s)) {
        return true;
    }
    // Two large address lists are not compared member by member: that could take minutes.
    let (na, nb) = (a.all().count(), b.all().count());
    na.saturating_mul(nb) <= 1 << 16 && b.all().all(|w| a.all().any(|p| prefix_covers(p, w)))
}

fn prefix_covers(a: &IpPrefix, b: &IpPrefix) -> bool {
    match (a, b) {
        (IpPrefix::V4(a), IpPrefix::V4(b)) => a.covers(b),
        (IpPrefix::V6(a), IpPrefix::V6(b)) => a.covers(b),
        _ => false,
    }
}
