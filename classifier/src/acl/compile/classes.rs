//! Addresses to equivalence classes: two addresses are of one class when the same address conditions hold for both.
//!
//! A condition (a prefix, a list of prefixes, sets) is interned once, so that a set of 100,000 members is one
//! condition and adds one class, not 100,000. Prefixes nest or are disjoint, so one sweep with a stack finds all
//! classes. They are numbered in the order of the addresses: the classes under one prefix stand next to each other,
//! and a condition is a few runs of numbers.

use hashbrown::HashMap;

use crate::acl::model::Addresses;
use crate::lpm::IpPrefix;
use crate::packet::Family;

/// Number of an interned condition.
pub(super) type Spec = u32;

/// Runs of class numbers, both ends included, in order and apart.
pub(super) type Runs = Vec<(u32, u32)>;

/// First address and length of each prefix.
type Members = Vec<(u128, u8)>;

/// The conditions on one side (source or destination) of the rules of one family.
#[derive(Default)]
pub(super) struct Specs {
    ids: HashMap<Members, Spec>,
    /// Conditions that hold a large set are told apart by the set and not by its members.
    named: HashMap<(Members, Vec<usize>), Spec>,
    /// First address and length of every prefix, with its condition.
    members: Vec<(u128, u8, Spec)>,
    count: u32,
}

/// First address and length, for prefixes of the family.
fn of_family(p: &IpPrefix, family: Family) -> Option<(u128, u8)> {
    match (p, family) {
        (IpPrefix::V4(p), Family::V4) => Some((u128::from(p.addr()), p.len())),
        (IpPrefix::V6(p), Family::V6) => Some((p.addr(), p.len())),
        _ => None,
    }
}

impl Specs {
    /// The number of a condition; `None` when no address of the family meets it.
    pub(super) fn intern(&mut self, addresses: &Addresses, family: Family) -> Option<Spec> {
        if addresses.is_any() {
            return Some(self.intern_members(vec![(0, 0)]));
        }
        let literal: Vec<_> = addresses
            .prefixes
            .iter()
            .filter_map(|p| of_family(p, family))
            .collect();
        if addresses.sets.is_empty() {
            return (!literal.is_empty()).then(|| self.intern_members(literal));
        }
        // Sets are shared between rules: the same allocation is the same set.
        let mut sets: Vec<usize> = addresses
            .sets
            .iter()
            .map(|s| std::sync::Arc::as_ptr(s) as usize)
            .collect();
        sets.sort_unstable();
        sets.dedup();
        let key = (literal, sets);
        if let Some(&id) = self.named.get(&key) {
            return Some(id);
        }
        let members: Vec<_> = addresses.all().filter_map(|p| of_family(p, family)).collect();
        if members.is_empty() {
            return None;
        }
        let id = self.intern_members(members);
        self.named.insert(key, id);
        Some(id)
    }

    fn intern_members(&mut self, mut members: Members) -> Spec {
        members.sort_unstable();
        members.dedup();
        let next = self.count;
        let id = *self.ids.entry_ref(&members[..]).or_insert(next);
        if id == next {
            self.count += 1;
            self.members
                .extend(members.iter().map(|&(addr, len)| (addr, len, id)));
        }
        id
    }

    /// Sweeps over all prefixes of a family with addresses of `bits` bits.
    pub(super) fn classes(mut self, bits: u8) -> Classes {
        self.members.sort_unstable();
        let space_end = if bits == 32 {
            u128::from(u32::MAX)
        } else {
            u128::MAX
        };
        let mut sweep = Sweep::new(self.count as usize, space_end);
        let last = |addr: u128, len: u8| {
            let host = bits - len;
            if host == 0 {
                addr
            } else {
                addr | (u128::MAX >> (128 - host))
            }
        };
        let mut i = 0;
        while i < self.members.len() {
            let (addr, len, _) = self.members[i];
            while sweep.stack.last().is_some_and(|f| f.end < addr) {
                sweep.pop();
            }
            if addr > sweep.at {
                sweep.emit(addr - 1);
            }
            let mut specs = sweep.stack.last().map_or_else(Vec::new, |f| f.specs.clone());
            while i < self.members.len() && (self.members[i].0, self.members[i].1) == (addr, len) {
                specs.push(self.members[i].2);
                i += 1;
            }
            specs.sort_unstable();
            specs.dedup();
            sweep.stack.push(Frame {
                end: last(addr, len),
                specs,
            });
        }
        while !sweep.stack.is_empty() {
            sweep.pop();
        }
        if !sweep.done {
            sweep.emit(space_end);
        }
        sweep.finish()
    }
}

struct Frame {
    end: u128,
    specs: Vec<Spec>,
}

struct Sweep {
    /// Last address of the family.
    space_end: u128,
    stack: Vec<Frame>,
    /// First address without a class yet.
    at: u128,
    /// The whole space has classes.
    done: bool,
    ids: HashMap<Vec<Spec>, u32>,
    runs: Vec<Runs>,
    /// Conditions that hold in each class, all in one vector.
    active: Vec<Spec>,
    active_start: Vec<u32>,
    intervals: Vec<(u128, u32)>,
}

impl Sweep {
    fn new(specs: usize, space_end: u128) -> Self {
        Sweep {
            space_end,
            stack: Vec::new(),
            at: 0,
            done: false,
            ids: HashMap::new(),
            runs: vec![Vec::new(); specs],
            active: Vec::new(),
            active_start: vec![0],
            intervals: Vec::new(),
        }
    }

    /// Gives the addresses from `at` to `end` the class of the innermost prefix.
    fn emit(&mut self, end: u128) {
        let specs: &[Spec] = self.stack.last().map_or(&[], |f| &f.specs);
        let next = self.ids.len() as u32;
        let class = *self.ids.entry_ref(specs).or_insert(next);
        if class == next {
            for &s in specs {
                let runs = &mut self.runs[s as usize];
                match runs.last_mut() {
                    Some(run) if run.1 + 1 == class => run.1 = class,
                    _ => runs.push((class, class)),
                }
            }
            self.active.extend_from_slice(specs);
            self.active_start.push(self.active.len() as u32);
        }
        if self.intervals.last().is_none_or(|&(_, c)| c != class) {
            self.intervals.push((self.at, class));
        }
        self.done = end == self.space_end;
        if !self.done {
            self.at = end + 1;
        }
    }

    fn pop(&mut self) {
        let end = self.stack.last().map_or(0, |f| f.end);
        if !self.done && end >= self.at {
            self.emit(end);
        }
        self.stack.pop();
    }

    fn finish(self) -> Classes {
        Classes {
            intervals: self.intervals,
            runs: self.runs,
            active: self.active,
            active_start: self.active_start,
        }
    }
}

/// The classes of one side.
#[derive(Debug)]
pub(super) struct Classes {
    /// First address and class, in order, from address 0 on; neighbours differ.
    pub(super) intervals: Vec<(u128, u32)>,
    /// Class numbers at which each condition holds.
    pub(super) runs: Vec<Runs>,
    active: Vec<Spec>,
    active_start: Vec<u32>,
}

impl Classes {
    /// Number of classes.
    pub(super) fn len(&self) -> usize {
        self.active_start.len() - 1
    }

    /// Conditions that hold in a class.
    pub(super) fn active(&self, class: usize) -> &[Spec] {
        &self.active[self.active_start[class] as usize..self.active_start[class + 1] as usize]
    }

    /// Conditions of all classes: the class of each.
    pub(super) fn by_conditions(&self) -> HashMap<&[Spec], u32> {
        (0..self.len())
            .map(|class| (self.active(class), class as u32))
            .collect()
    }

    /// Forgets what only the compiler needs.
    pub(super) fn without_intervals(self) -> Classes {
        Classes {
            intervals: Vec::new(),
            runs: Vec::new(),
            ..self
        }
    }

    /// Bytes of the conditions.
    pub(super) fn bytes(&self) -> usize {
        (self.active.len() + self.active_start.len()) * 4
    }

    /// Number of classes at which a condition holds.
    pub(super) fn width(&self, spec: Spec) -> u64 {
        self.runs[spec as usize]
            .iter()
            .map(|&(lo, hi)| u64::from(hi - lo) + 1)
            .sum()
    }
}
