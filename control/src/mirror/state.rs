//! The kernel's state as its messages tell it: a pure machine without sockets or clocks.
//!
//! [`State::apply`] takes one message and notes in [`Changes`] what it made dirty. What the kernel does without saying
//! so is in [`silent`](super::silent).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use classifier::lpm::IpPrefix;

use super::dump::Gaps;
use super::message::{AddressMsg, LinkMsg, Message, NeighbourMsg, NexthopMsg, RouteMsg, Target};
use super::rib::{Place, Rib, Route, TargetId, usable};
use super::rules;
use super::view::Action;
use super::vrf::{self, RuleMsg, Vrf};

/// The table of the node's own addresses.
pub const LOCAL_TABLE: u32 = 255;

/// `NUD_INCOMPLETE`: being resolved.
pub const NUD_INCOMPLETE: u16 = 0x01;
/// `NUD_STALE`: usable, to be confirmed when used.
pub const NUD_STALE: u16 = 0x04;
/// `NUD_FAILED`: did not answer.
pub const NUD_FAILED: u16 = 0x20;
/// The states in which the kernel sends to the entry's address (`NUD_VALID`).
pub const NUD_VALID: u16 = 0x02 | NUD_STALE | 0x08 | 0x10 | 0x40 | 0x80;

/// A neighbour entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// What the kernel said last.
    pub msg: NeighbourMsg,
    /// It failed so long ago that the next packet may try again.
    pub forgiven: bool,
}

impl Neighbour {
    /// Frames can be sent to it.
    pub fn resolved(&self) -> bool {
        self.msg.state & NUD_VALID != 0 && self.msg.mac.is_some()
    }

    /// It is known not to answer.
    pub fn failed(&self) -> bool {
        self.msg.state & NUD_FAILED != 0 && !self.forgiven
    }
}

/// What became dirty, and what happened when someone watches.
#[derive(Debug, Default)]
pub struct Changes {
    /// Prefixes whose best route may be another one.
    pub prefixes: Vec<Place>,
    /// Targets whose content has changed in place.
    pub targets: BTreeSet<TargetId>,
    /// Neighbours by device and address.
    pub neighbours: BTreeSet<(IpAddr, u32)>,
    /// Devices that changed, appeared or vanished.
    pub links: BTreeSet<u32>,
    /// Devices are in other VRFs, or VRFs have other tables.
    pub vrfs: bool,
    /// Addresses of the node changed.
    pub addresses: bool,
    /// Something happened that the kernel follows up without messages: worth a verification.
    pub verify: bool,
    /// Whether routes and neighbours are recorded in `events`.
    pub watch: bool,
    /// What happened, in order.
    pub events: Vec<Happened>,
}

impl Changes {
    /// Whether nothing is dirty.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
            && self.targets.is_empty()
            && self.neighbours.is_empty()
            && self.links.is_empty()
            && !self.vrfs
            && !self.addresses
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// To a device.
    Link(Action, LinkMsg),
    /// To a route.
    Route(Action, RouteMsg),
    /// To a neighbour.
    Neighbour(Action, NeighbourMsg),
}

/// The kernel's state.
#[derive(Debug, Default)]
pub struct State {
    /// The routing tables of devices that are in no VRF, in order.
    pub tables: Vec<u32>,
    /// All routing tables that are followed, besides the local one.
    pub followed: BTreeSet<u32>,
    /// Policy rules that ask for a device alone, in the kernel's order.
    pub rules: Vec<RuleMsg>,
    /// The VRFs of devices that are not in the default one, by device.
    pub vrfs: BTreeMap<u32, Vrf>,
    /// Links or rules have changed since that was found out.
    pub(super) vrfs_stale: bool,
    /// Devices by index.
    pub links: BTreeMap<u32, LinkMsg>,
    /// The node's addresses, in the order in which they were added.
    pub addresses: Vec<AddressMsg>,
    /// Neighbours by address and device.
    pub neighbours: BTreeMap<(IpAddr, u32), Neighbour>,
    /// Routes.
    pub rib: Rib,
    /// Nexthop objects by number.
    pub nexthops: BTreeMap<u32, NexthopMsg>,
    /// `ignore_routes_with_linkdown` by family and device; `None` is the setting for all devices.
    pub ignore_linkdown: BTreeSet<(bool, Option<u32>)>,
}

impl State {
    /// Nothing known yet.
    pub fn new(tables: &[u32]) -> Self {
        Self {
            tables: tables.to_vec(),
            followed: tables.iter().copied().collect(),
            ..Self::default()
        }
    }

    /// Whether the routes of a table are followed.
    pub fn follows(&self, table: u32) -> bool {
        table == LOCAL_TABLE || self.followed.contains(&table)
    }

    /// Applies a message.
    pub fn apply(&mut self, message: Message, changes: &mut Changes) {
        match message {
            Message::Route { gone, flags, route } => self.route(gone, flags, route, changes),
            Message::Neighbour { gone, neighbour } => self.neighbour(gone, neighbour, changes),
            Message::Link { gone, link } => self.link(gone, link, changes),
            Message::Address { gone, address } => self.address(gone, address, changes),
            Message::Nexthop { gone, nexthop } => self.nexthop(gone, nexthop, changes),
            Message::Rule { gone, rule } => {
                let changed = if gone {
                    let before = self.rules.len();
                    self.rules.retain(|other| *other != rule);
                    self.rules.len() != before
                } else {
                    vrf::add_rule(&mut self.rules, rule)
                };
                self.vrfs_stale |= changed;
                changes.vrfs |= changed;
            }
            Message::IgnoreLinkdown { v6, ifindex, on } => {
                let changed = if on {
                    self.ignore_linkdown.insert((v6, ifindex))
                } else {
                    self.ignore_linkdown.remove(&(v6, ifindex))
                };
                if changed {
                    self.ignore_changed(changes);
                }
            }
        }
    }

    fn route(&mut self, gone: bool, flags: u16, mut msg: RouteMsg, changes: &mut Changes) {
        self.settle_vrfs(changes);
        if !self.follows(msg.table) {
            return;
        }
        self.complete_target(&mut msg.target);
        let (table, prefix) = (msg.table, msg.prefix);
        let first = Route {
            target: 0,
            metric: msg.metric,
            protocol: msg.protocol,
            tos: msg.tos,
        };
        let changed = if !gone && self.rib.add_first(table, prefix, &msg.target, first) {
            true
        } else {
            let mut list = self.rib.get(table, prefix).to_vec();
            let changed = if gone {
                rules::remove(&mut list, &mut self.rib.targets, &msg)
            } else {
                rules::add(&mut list, &mut self.rib.targets, flags, &msg)
            };
            if changed {
                self.rib.set(table, prefix, &list);
            }
            changed
        };
        if changed {
            changes.prefixes.push((table, prefix));
        }
        if changes.watch {
            let action = match (gone, flags & super::wire::NLM_F_REPLACE != 0) {
                (true, _) => Action::Removed,
                (false, true) => Action::Changed,
                (false, false) => Action::Added,
            };
            changes.events.push(Happened::Route(action, msg));
        }
    }

    fn neighbour(&mut self, gone: bool, msg: NeighbourMsg, changes: &mut Changes) {
        let key = (msg.address, msg.index);
        let old = if gone {
            self.neighbours.remove(&key)
        } else {
            self.neighbours.insert(
                key,
                Neighbour {
                    msg: msg.clone(),
                    forgiven: false,
                },
            )
        };
        if gone && old.is_none() {
            return;
        }
        changes.neighbours.insert(key);
        if changes.watch {
            let action = match (gone, old.is_some()) {
                (true, _) => Action::Removed,
                (false, true) => Action::Changed,
                (false, false) => Action::Added,
            };
            changes.events.push(Happened::Neighbour(action, msg));
        }
    }

    fn link(&mut self, gone: bool, msg: LinkMsg, changes: &mut Changes) {
        let index = msg.index;
        let old = if gone {
            self.links.remove(&index)
        } else {
            self.links.insert(index, msg.clone())
        };
        if gone && old.is_none() {
            return;
        }
        if old.as_ref() == Some(&msg) && !gone {
            self.link_changed(old.as_ref(), Some(&msg), index, changes);
            return;
        }
        changes.links.insert(index);
        let action = match (gone, &old) {
            (true, _) => Action::Removed,
            (false, Some(_)) => Action::Changed,
            (false, None) => Action::Added,
        };
        self.link_changed(old.as_ref(), (!gone).then_some(&msg), index, changes);
        let vrf = |link: &LinkMsg| (link.name.clone(), link.master, link.vrf_table);
        if gone || old.as_ref().map(vrf) != Some(vrf(&msg)) {
            (self.vrfs_stale, changes.vrfs) = (true, true);
        }
        changes.events.push(Happened::Link(action, msg));
    }

    fn address(&mut self, gone: bool, msg: AddressMsg, changes: &mut Changes) {
        let same = |a: &AddressMsg| (a.index, a.address, a.len) == (msg.index, msg.address, msg.len);
        let at = self.addresses.iter().position(same);
        changes.addresses = true;
        match (gone, at) {
            (true, Some(at)) => {
                self.addresses.remove(at);
                self.address_removed(&msg, changes);
            }
            (true, None) => {}
            (false, Some(at)) => self.addresses[at] = msg,
            (false, None) => {
                self.addresses.push(msg.clone());
                self.address_added(&msg, changes);
            }
        }
    }

    /// Sets the content of a target in place, for all routes that lead there.
    pub(super) fn change_target(&mut self, id: TargetId, content: Target, changes: &mut Changes) {
        let Some(old) = self.rib.targets.get(id) else {
            return;
        };
        if *old == content {
            return;
        }
        // A prefix of one address leads to another group when the destination itself is the neighbour.
        let direct = |target: &Target| target.hops.iter().any(|hop| hop.via.is_none());
        let flips =
            usable(old) != usable(&content) || old.kind != content.kind || direct(old) != direct(&content);
        self.rib.targets.change(id, content);
        changes.targets.insert(id);
        if flips {
            changes.prefixes.extend(self.rib.users(id));
        }
    }

    /// Takes all routes away that lead to a target.
    pub(super) fn drop_target(&mut self, id: TargetId, changes: &mut Changes) {
        for (table, prefix) in self.rib.users(id) {
            let rest: Vec<Route> = self
                .rib
                .get(table, prefix)
                .iter()
                .filter(|route| route.target != id)
                .copied()
                .collect();
            self.rib.set(table, prefix, &rest);
            changes.prefixes.push((table, prefix));
        }
    }

    /// The neighbours whose addresses are in a prefix.
    pub fn neighbours_in(&self, prefix: IpPrefix) -> impl Iterator<Item = &Neighbour> {
        let (first, last) = match prefix {
            IpPrefix::V4(p) => (IpAddr::V4(p.addr().into()), IpAddr::V4(p.last().into())),
            IpPrefix::V6(p) => (IpAddr::V6(p.addr().into()), IpAddr::V6(p.last().into())),
        };
        self.neighbours
            .range((first, 0)..=(last, u32::MAX))
            .map(|(_, neighbour)| neighbour)
    }

    /// Whether one table says that a prefix is the node's own.
    pub fn has_local(&self, table: u32, prefix: IpPrefix) -> bool {
        self.rib.get(table, prefix).iter().any(|route| {
            self.rib
                .targets
                .get(route.target)
                .is_some_and(|target| vrf::is_own(target.kind))
        })
    }

    /// Notes everything that there is as changed.
    pub fn note_all(&self, changes: &mut Changes) {
        for table in self.rib.tables() {
            changes
                .prefixes
                .extend(self.rib.prefixes(table).map(|prefix| (table, prefix)));
        }
        changes.neighbours.extend(self.neighbours.keys().copied());
        changes.links.extend(self.links.keys().copied());
        changes.addresses = true;
        changes.vrfs = true;
        let links = self.links.values().cloned();
        changes
            .events
            .extend(links.map(|link| Happened::Link(Action::Added, link)));
    }

    /// Takes the state of a fresh dump for its own; what differs becomes dirty. Returns how many prefixes, devices and
    /// neighbours differed.
    pub fn adopt(&mut self, fresh: State, gaps: Gaps, changes: &mut Changes) -> usize {
        let mut corrected = 0;
        let links: BTreeSet<u32> = self.links.keys().chain(fresh.links.keys()).copied().collect();
        for index in links {
            let (old, new) = (self.links.get(&index), fresh.links.get(&index));
            if old == new || new.is_none() && gaps.others {
                continue;
            }
            corrected += 1;
            changes.links.insert(index);
            let happened = match (old, new) {
                (None, Some(new)) => Happened::Link(Action::Added, new.clone()),
                (Some(_), Some(new)) => Happened::Link(Action::Changed, new.clone()),
                (Some(old), None) => Happened::Link(Action::Removed, old.clone()),
                (None, None) => continue,
            };
            changes.events.push(happened);
            match new {
                Some(new) => self.links.insert(index, new.clone()),
                None => self.links.remove(&index),
            };
        }
        if !gaps.others {
            changes.addresses |= self.addresses != fresh.addresses;
            self.addresses = fresh.addresses;
            self.nexthops = fresh.nexthops;
            corrected += usize::from(self.rules != fresh.rules);
            self.rules = fresh.rules;
        }
        self.vrfs_stale = true;
        self.settle_vrfs(changes);
        self.ignore_linkdown = fresh.ignore_linkdown;
        let keys: BTreeSet<(IpAddr, u32)> = self
            .neighbours
            .keys()
            .chain(fresh.neighbours.keys())
            .copied()
            .collect();
        for key in keys {
            let (old, new) = (self.neighbours.get(&key), fresh.neighbours.get(&key));
            if old.map(|n| &n.msg) != new.map(|n| &n.msg) && !(new.is_none() && gaps.neighbours) {
                // States of neighbours go on by themselves: that they differ is no sign of something lost.
                changes.neighbours.insert(key);
                match new {
                    Some(new) => self.neighbours.insert(key, new.clone()),
                    None => self.neighbours.remove(&key),
                };
            }
        }
        corrected + self.adopt_routes(fresh.rib, gaps, changes)
    }

    fn adopt_routes(&mut self, fresh: Rib, gaps: Gaps, changes: &mut Changes) -> usize {
        let mut corrected = 0;
        // Numbers of the fresh targets in this RIB, as far as known.
        let mut numbers: Vec<Option<TargetId>> = Vec::new();
        for (id, content) in fresh.targets.iter() {
            numbers.resize(id as usize + 1, None);
            let own = self.rib.targets.intern(content);
            // Held until all is set: the one route that leads there may be replaced first.
            self.rib.targets.pin(own);
            numbers[id as usize] = Some(own);
        }
        let mut list: Vec<Route> = Vec::new();
        for table in fresh
            .tables()
            .filter(|table| self.follows(*table))
            .collect::<Vec<_>>()
        {
            for prefix in fresh.prefixes(table) {
                list.clear();
                list.extend(fresh.get(table, prefix).iter().filter_map(|route| {
                    let target = numbers.get(route.target as usize).copied().flatten()?;
                    Some(Route { target, ..*route })
                }));
                if !self.same_routes(table, prefix, &list) {
                    self.rib.set(table, prefix, &list);
                    changes.prefixes.push((table, prefix));
                    corrected += 1;
                }
            }
        }
        let tables: Vec<u32> = self.rib.tables().collect();
        for table in tables {
            let missing = |prefix: &IpPrefix| {
                fresh.get(table, *prefix).is_empty() && !(gaps.routes6 && prefix.addr().is_ipv6())
            };
            let gone: Vec<IpPrefix> = self.rib.prefixes(table).filter(missing).collect();
            for prefix in gone {
                self.rib.set(table, prefix, &[]);
                changes.prefixes.push((table, prefix));
                corrected += 1;
            }
        }
        for id in numbers.into_iter().flatten() {
            self.rib.targets.unpin(id);
        }
        corrected
    }

    /// Whether the routes of a prefix are these; two targets may have the same content after a change in place.
    fn same_routes(&self, table: u32, prefix: IpPrefix, list: &[Route]) -> bool {
        let own = self.rib.get(table, prefix);
        own.len() == list.len()
            && own.iter().zip(list).all(|(a, b)| {
                (a.metric, a.protocol, a.tos) == (b.metric, b.protocol, b.tos)
                    && (a.target == b.target
                        || self.rib.targets.get(a.target) == self.rib.targets.get(b.target))
            })
    }
}
