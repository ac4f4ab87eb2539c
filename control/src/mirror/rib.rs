//! The routes as the kernel has them, compact enough for a full table.
//!
//! A route is twelve bytes: what it leads to is a [`Target`] shared by all routes that lead to the same. Routes of one
//! prefix stand in the kernel's order; the first that can be used is the best.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use classifier::lpm::{IpPrefix, Prefix};

use super::hash::Seeded;
use super::message::{DEAD, THROW, Target, UNICAST};

/// Number of a [`Target`] in [`Targets`].
pub type TargetId = u32;

/// One route of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// What it leads to.
    pub target: TargetId,
    /// Metric; the lowest wins.
    pub metric: u32,
    /// `RTPROT_…`.
    pub protocol: u8,
    /// Type of service that packets must have; 0 for any.
    pub tos: u8,
}

/// Whether packets can take a route that leads there.
pub fn usable(target: &Target) -> bool {
    target.kind != UNICAST || target.hops.iter().any(|hop| hop.flags & DEAD == 0)
}

/// A prefix of a table.
pub type Place = (u32, IpPrefix);

/// Longest list of prefixes that a target remembers; beyond it they are searched for.
const MOST_USERS: usize = 32;

#[derive(Debug)]
struct Shared {
    content: Target,
    /// Routes that lead there, and other holds on it.
    refs: u32,
    /// Where they are, while they are few.
    users: Vec<Place>,
    /// There were too many to remember them all.
    many: bool,
}

/// What routes lead to, each content once.
#[derive(Debug, Default)]
pub struct Targets {
    slots: Vec<Option<Shared>>,
    by_content: HashMap<Target, TargetId>,
    free: Vec<TargetId>,
    /// No longer in use, but the data plane may still have groups by these numbers.
    retired: Vec<TargetId>,
}

impl Targets {
    /// The content of a target; an empty one when there is none of that number.
    pub fn get(&self, id: TargetId) -> Option<&Target> {
        Some(&self.slots.get(id as usize)?.as_ref()?.content)
    }

    /// All targets.
    pub fn iter(&self) -> impl Iterator<Item = (TargetId, &Target)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(i, slot)| Some((i as TargetId, &slot.as_ref()?.content)))
    }

    /// The number of a content. It stays valid until it has been taken and given back, see [`take`](Self::take).
    pub fn intern(&mut self, content: &Target) -> TargetId {
        if let Some(id) = self.by_content.get(content) {
            return *id;
        }
        let shared = Shared {
            content: content.clone(),
            refs: 0,
            users: Vec::new(),
            many: false,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = Some(shared);
                id
            }
            None => {
                self.slots.push(Some(shared));
                (self.slots.len() - 1) as TargetId
            }
        };
        self.by_content.insert(content.clone(), id);
        id
    }

    /// A route at `place` leads to the target.
    fn take(&mut self, id: TargetId, place: Place) {
        let Some(Some(shared)) = self.slots.get_mut(id as usize) else {
            return;
        };
        shared.refs += 1;
        if shared.users.len() == MOST_USERS {
            shared.many = true;
            shared.users = Vec::new();
        }
        if !shared.many {
            shared.users.push(place);
        }
    }

    /// A route at `place` leads to the target no longer.
    fn give_back(&mut self, id: TargetId, place: Place) {
        let Some(Some(shared)) = self.slots.get_mut(id as usize) else {
            return;
        };
        if let Some(at) = shared.users.iter().position(|user| *user == place) {
            shared.users.swap_remove(at);
        }
        self.unpin(id);
    }

    /// Keeps a target that no route leads to yet.
    pub fn pin(&mut self, id: TargetId) {
        if let Some(Some(shared)) = self.slots.get_mut(id as usize) {
            shared.refs += 1;
        }
    }

    /// Lets go of a target; it is gone when that was the last hold on it.
    pub fn unpin(&mut self, id: TargetId) {
        let Some(Some(shared)) = self.slots.get_mut(id as usize) else {
            return;
        };
        shared.refs -= 1;
        if shared.refs == 0 {
            self.drop_content(id);
            self.slots[id as usize] = None;
            self.retired.push(id);
        }
    }

    fn drop_content(&mut self, id: TargetId) {
        if let Some(Some(shared)) = self.slots.get(id as usize)
            && self.by_content.get(&shared.content) == Some(&id)
        {
            self.by_content.remove(&shared.content);
        }
    }

    /// Gives a target another content, for all routes that lead there.
    pub fn change(&mut self, id: TargetId, content: Target) {
        self.drop_content(id);
        if let Some(Some(shared)) = self.slots.get_mut(id as usize) {
            shared.content = content.clone();
            self.by_content.entry(content).or_insert(id);
        }
    }

    /// Lets numbers be given out again that are not in use. Call it when the data plane has followed.
    pub fn recycle(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// Forgets targets that were interned but never taken.
    pub fn forget_unused(&mut self, id: TargetId) {
        if matches!(self.slots.get(id as usize), Some(Some(shared)) if shared.refs == 0) {
            self.drop_content(id);
            self.slots[id as usize] = None;
            self.free.push(id);
        }
    }
}

/// The routes of one prefix: nearly always one.
#[derive(Debug)]
enum Slot {
    One(Route),
    Many(Vec<Route>),
}

impl Slot {
    fn routes(&self) -> &[Route] {
        match self {
            Slot::One(route) => std::slice::from_ref(route),
            Slot::Many(routes) => routes,
        }
    }
}

#[derive(Debug)]
struct Table {
    v4: HashMap<Prefix<u32>, Slot, Seeded>,
    v6: HashMap<Prefix<u128>, Slot, Seeded>,
    /// Prefixes by length, so that look-ups skip the lengths that are not there.
    lengths4: [u32; 33],
    lengths6: [u32; 129],
    routes: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            v4: HashMap::default(),
            v6: HashMap::default(),
            lengths4: [0; 33],
            lengths6: [0; 129],
            routes: 0,
        }
    }
}

impl Table {
    fn slot(&self, prefix: IpPrefix) -> Option<&Slot> {
        match prefix {
            IpPrefix::V4(prefix) => self.v4.get(&prefix),
            IpPrefix::V6(prefix) => self.v6.get(&prefix),
        }
    }

    fn remove(&mut self, prefix: IpPrefix) -> Option<Slot> {
        let (slot, count) = match prefix {
            IpPrefix::V4(prefix) => (
                self.v4.remove(&prefix),
                &mut self.lengths4[usize::from(prefix.len())],
            ),
            IpPrefix::V6(prefix) => (
                self.v6.remove(&prefix),
                &mut self.lengths6[usize::from(prefix.len())],
            ),
        };
        *count -= u32::from(slot.is_some());
        slot
    }

    fn put(&mut self, prefix: IpPrefix, slot: Slot) {
        let (old, count) = match prefix {
            IpPrefix::V4(prefix) => (
                self.v4.insert(prefix, slot),
                &mut self.lengths4[usize::from(prefix.len())],
            ),
            IpPrefix::V6(prefix) => (
                self.v6.insert(prefix, slot),
                &mut self.lengths6[usize::from(prefix.len())],
            ),
        };
        *count += u32::from(old.is_none());
    }
}

/// All routes of the mirrored tables.
#[derive(Debug, Default)]
pub struct Rib {
    tables: BTreeMap<u32, Table>,
    /// What they lead to.
    pub targets: Targets,
}

impl Rib {
    /// How many routes there are in these tables.
    pub fn count<'a>(&self, tables: impl IntoIterator<Item = &'a u32>) -> usize {
        tables
            .into_iter()
            .filter_map(|table| self.tables.get(table))
            .map(|table| table.routes)
            .sum()
    }

    /// The routes of a prefix, in the kernel's order.
    pub fn get(&self, table: u32, prefix: IpPrefix) -> &[Route] {
        self.tables
            .get(&table)
            .and_then(|t| t.slot(prefix))
            .map_or(&[], Slot::routes)
    }

    /// Replaces the routes of a prefix.
    pub fn set(&mut self, table: u32, prefix: IpPrefix, routes: &[Route]) {
        let place = (table, prefix);
        for route in routes {
            self.targets.take(route.target, place);
        }
        let tables = self.tables.entry(table).or_default();
        let old = match routes {
            [] => tables.remove(prefix),
            _ => {
                let slot = match routes {
                    [one] => Slot::One(*one),
                    many => Slot::Many(many.to_vec()),
                };
                let old = tables.slot(prefix).map(|slot| match slot {
                    Slot::One(route) => Slot::One(*route),
                    Slot::Many(routes) => Slot::Many(routes.clone()),
                });
                tables.put(prefix, slot);
                old
            }
        };
        tables.routes += routes.len();
        if let Some(old) = old {
            tables.routes -= old.routes().len();
            for route in old.routes() {
                self.targets.give_back(route.target, place);
            }
        }
    }

    /// Adds the first route of a prefix; false, and nothing done, when the prefix has one already.
    pub fn add_first(&mut self, table: u32, prefix: IpPrefix, content: &Target, route: Route) -> bool {
        let slots = self.tables.entry(table).or_default();
        let id = self.targets.intern(content);
        let slot = Slot::One(Route { target: id, ..route });
        let added = match prefix {
            IpPrefix::V4(prefix) => match slots.v4.entry(prefix) {
                Entry::Vacant(entry) => {
                    entry.insert(slot);
                    slots.lengths4[usize::from(prefix.len())] += 1;
                    true
                }
                Entry::Occupied(_) => false,
            },
            IpPrefix::V6(prefix) => match slots.v6.entry(prefix) {
                Entry::Vacant(entry) => {
                    entry.insert(slot);
                    slots.lengths6[usize::from(prefix.len())] += 1;
                    true
                }
                Entry::Occupied(_) => false,
            },
        };
        if added {
            slots.routes += 1;
            self.targets.take(id, (table, prefix));
        } else {
            self.targets.forget_unused(id);
        }
        added
    }

    /// The first route of a prefix that packets of any type of service can take.
    pub fn best(&self, table: u32, prefix: IpPrefix) -> Option<&Route> {
        self.get(table, prefix)
            .iter()
            .find(|route| route.tos == 0 && self.targets.get(route.target).is_some_and(usable))
    }

    /// The route that packets to an address take, the tables in order, as the kernel looks it up.
    pub fn lookup(&self, tables: &[u32], address: IpAddr) -> Option<(u32, IpPrefix, &Route)> {
        tables.iter().find_map(|table| {
            let (prefix, route) = self.longest(*table, address)?;
            let target = self.targets.get(route.target)?;
            (target.kind != THROW).then_some((*table, prefix, route))
        })
    }

    /// The route of the longest prefix in a table that covers an address and can be used.
    pub fn longest(&self, table: u32, address: IpAddr) -> Option<(IpPrefix, &Route)> {
        let lengths: &[u32] = match (address, self.tables.get(&table)?) {
            (IpAddr::V4(_), table) => &table.lengths4,
            (IpAddr::V6(_), table) => &table.lengths6,
        };
        let there = (0..lengths.len()).rev().filter(|len| lengths[*len] != 0);
        there
            .map(|len| covering(address, len as u8))
            .find_map(|prefix| Some((prefix, self.best(table, prefix)?)))
    }

    /// The prefixes of a table in no order.
    pub fn prefixes(&self, table: u32) -> impl Iterator<Item = IpPrefix> + '_ {
        self.tables.get(&table).into_iter().flat_map(|table| {
            let v4 = table.v4.keys().map(|prefix| IpPrefix::V4(*prefix));
            v4.chain(table.v6.keys().map(|prefix| IpPrefix::V6(*prefix)))
        })
    }

    /// The tables that have or had routes.
    pub fn tables(&self) -> impl Iterator<Item = u32> + '_ {
        self.tables.keys().copied()
    }

    /// Where the routes are that lead to a target; each place at least once.
    pub fn users(&self, id: TargetId) -> Vec<Place> {
        match self.targets.slots.get(id as usize) {
            Some(Some(shared)) if !shared.many => shared.users.clone(),
            Some(Some(_)) => {
                let mut places = Vec::new();
                for (number, table) in &self.tables {
                    let hit = |slot: &Slot| slot.routes().iter().any(|route| route.target == id);
                    let v4 = table.v4.iter().filter(|(_, slot)| hit(slot));
                    places.extend(v4.map(|(prefix, _)| (*number, IpPrefix::V4(*prefix))));
                    let v6 = table.v6.iter().filter(|(_, slot)| hit(slot));
                    places.extend(v6.map(|(prefix, _)| (*number, IpPrefix::V6(*prefix))));
                }
                places
            }
            _ => Vec::new(),
        }
    }
}

/// The prefix of that length over an address.
pub fn covering(address: IpAddr, len: u8) -> IpPrefix {
    match address {
        IpAddr::V4(address) => IpPrefix::V4(Prefix::covering(u32::from(address), len)),
        IpAddr::V6(address) => IpPrefix::V6(Prefix::covering(u128::from(address), len)),
    }
}

/// Whether a prefix is a single address.
pub fn is_host(prefix: IpPrefix) -> bool {
    match prefix {
        IpPrefix::V4(prefix) => prefix.len() == 32,
        IpPrefix::V6(prefix) => prefix.len() == 128,
    }
}
