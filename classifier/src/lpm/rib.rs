//! The control side's copy of the routes: what every image is built from.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};

use super::{Addr, NO_ROUTE, Prefix, Value};

/// A stretch of addresses with one answer: its first address and the answer, [`NO_ROUTE`] for none. It ends where
/// the next one begins.
pub(super) type Run<A> = (A, Value);

/// Routes in order of address and length, so that what lies in a prefix stands behind it.
pub(super) struct Rib<A> {
    map: BTreeMap<Prefix<A>, Value>,
}

impl<A: Addr> Rib<A> {
    pub(super) fn new() -> Self {
        Self { map: BTreeMap::new() }
    }

    pub(super) fn get(&self, prefix: &Prefix<A>) -> Option<Value> {
        self.map.get(prefix).copied()
    }

    pub(super) fn set(&mut self, prefix: Prefix<A>, value: Option<Value>) -> Option<Value> {
        match value {
            Some(value) => self.map.insert(prefix, value),
            None => self.map.remove(&prefix),
        }
    }

    /// Takes over sorted routes without duplicates; those here already get the new value.
    pub(super) fn merged(&self, sorted: Vec<(Prefix<A>, Value)>) -> Self {
        if self.map.is_empty() {
            return Self {
                map: sorted.into_iter().collect(),
            };
        }
        let mut map = self.map.clone();
        map.extend(sorted);
        Self { map }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Prefix<A>, Value)> + '_ {
        self.map.iter().map(|(prefix, value)| (*prefix, *value))
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Upper bound of the bytes: a B-tree node holds 5 to 11 entries, two lengths, a parent and (every sixth node
    /// at most) twelve children.
    pub(super) fn bytes(&self) -> usize {
        let node = 11 * size_of::<(Prefix<A>, Value)>() + 16 + 12 * size_of::<usize>() / 6;
        self.map.len().div_ceil(5) * node
    }

    /// The longest prefix of at most `max_len` bits that covers the address.
    ///
    /// The greatest entry not above the probe either covers the address, or parts from it at some bit; whatever
    /// covers the address and stands before that entry covers it too, so it is no longer than what they share.
    pub(super) fn longest(&self, addr: A, max_len: u8) -> Option<(Prefix<A>, Value)> {
        let mut limit = max_len;
        loop {
            let (found, value) = self.map.range(..=Prefix::covering(addr, limit)).next_back()?;
            if found.contains(addr) {
                return Some((*found, *value));
            }
            limit = found.addr().common(addr);
        }
    }

    /// Whether there are at least `least` > 0 prefixes inside this one, other than itself.
    pub(super) fn has_inside(&self, prefix: &Prefix<A>, least: usize) -> bool {
        self.inside(prefix).nth(least - 1).is_some()
    }

    fn inside(&self, prefix: &Prefix<A>) -> impl Iterator<Item = (&Prefix<A>, &Value)> {
        let last = Prefix::covering(prefix.last(), A::BITS);
        // A host prefix is its own last one: the range between would have two excluded ends.
        let end = if last == *prefix {
            Excluded(last)
        } else {
            Included(last)
        };
        let start = if last == *prefix {
            Included(*prefix)
        } else {
            Excluded(*prefix)
        };
        self.map.range((start, end))
    }

    /// The answers in `region`, as runs in order of address. The first begins with the region; neighbours differ.
    pub(super) fn runs(&self, region: &Prefix<A>, out: &mut Vec<Run<A>>) {
        out.clear();
        let outer = self
            .longest(region.addr(), region.len())
            .map_or(NO_ROUTE, |(_, value)| value);
        out.push((region.addr(), outer));
        // The prefixes around the present address: where each ends, and its answer.
        let mut around: Vec<(A, Value)> = vec![(region.last(), outer)];
        for (prefix, value) in self.inside(region) {
            leave(&mut around, Some(prefix.addr()), out);
            emit(out, prefix.addr(), *value);
            around.push((prefix.last(), *value));
        }
        leave(&mut around, None, out);
    }
}

/// Ends the prefixes that end before `next` (all but the outermost when `None`).
fn leave<A: Addr>(around: &mut Vec<(A, Value)>, next: Option<A>, out: &mut Vec<Run<A>>) {
    while let [.., (_, outer), (last, _)] = around[..] {
        if next.is_some_and(|next| last >= next) {
            return;
        }
        // The region's own last address ends everything: nothing follows it here.
        if let (Some(after), true) = (last.next(), last < around[0].0) {
            emit(out, after, outer);
        }
        around.pop();
    }
}

fn emit<A: Addr>(out: &mut Vec<Run<A>>, start: A, value: Value) {
    if out.last().is_some_and(|(last, _)| *last == start) {
        out.pop();
    }
    if out.last().is_none_or(|(_, last)| *last != value) {
        out.push((start, value));
    }
}
