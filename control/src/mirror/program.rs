//! From the kernel's state to the data plane's tables: prefix → group → members → adjacencies.
//!
//! A group stands for a [`Target`](super::message::Target), so that all prefixes that lead to the same share one; an
//! adjacency stands for a neighbour on a device. A MAC change or a lost link is one write to an adjacency. Only what
//! [`Changes`] names is looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use classifier::lpm::IpPrefix;
use forwarder::PortId;
use forwarder::fib::{AdjId, AdjState, Adjacency, Fib, Group, GroupId, Member, VrfId};

use super::plan::{AdjKey, Found, Key, Plan, plan, want};
use super::rib::Place;
use super::state::{Changes, LOCAL_TABLE, State};
use super::vrf::{Scopes, Vrf};

/// Changes of a batch beyond which prefixes are loaded together.
const BULK: usize = 4096;

#[derive(Debug)]
struct Entry {
    id: GroupId,
    prefixes: usize,
    plan: Plan,
}

#[derive(Debug)]
struct AdjEntry {
    id: AdjId,
    members: usize,
    gateways: usize,
}

/// What a batch asks of the data plane besides its FIB.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Prefixes that became the node's own.
    pub local_added: Vec<(VrfId, IpPrefix)>,
    /// Prefixes that are the node's own no longer.
    pub local_removed: Vec<(VrfId, IpPrefix)>,
    /// Changes that the data plane refused.
    pub refused: Vec<(Place, String)>,
}

/// What is programmed.
#[derive(Debug, Default)]
pub struct Program {
    ports: HashMap<u32, PortId>,
    groups: BTreeMap<Key, Entry>,
    keys: HashMap<GroupId, Key>,
    adjacencies: BTreeMap<AdjKey, AdjEntry>,
    pub(super) local: BTreeSet<(IpPrefix, VrfId)>,
    pub(super) vrfs: BTreeMap<Vrf, VrfId>,
    /// Made anew with every change of the VRFs.
    pub(super) scopes: Option<Scopes>,
    /// The set of gateways may be another one.
    pub gateways_changed: bool,
}

impl Program {
    /// The adjacency that stands for a neighbour now.
    fn adjacency(&self, state: &State, key: AdjKey) -> Adjacency {
        let link = state.links.get(&key.index);
        let neighbour = state.neighbours.get(&(key.address, key.index));
        let src = link.and_then(|link| link.mac);
        let adj = match (link, neighbour) {
            (Some(link), _) if !link.up() => AdjState::Down,
            (None, _) => AdjState::Down,
            (_, Some(n)) if n.resolved() => match (n.msg.mac, src) {
                (Some(dst), Some(src)) => AdjState::Resolved { dst, src },
                _ => AdjState::Unresolved,
            },
            (_, Some(n)) if n.failed() => AdjState::Failed,
            _ => AdjState::Unresolved,
        };
        let mtu = link.map_or(0, |link| link.mtu);
        Adjacency {
            port: self.ports.get(&key.index).copied(),
            ifindex: key.index,
            neighbour: key.address,
            mtu: if key.mtu == 0 { mtu } else { mtu.min(key.mtu) },
            state: adj,
        }
    }

    fn take_adjacency(&mut self, fib: &mut Fib, state: &State, key: AdjKey, gateway: bool) -> AdjId {
        if !self.adjacencies.contains_key(&key) {
            let id = fib.add_adjacency(self.adjacency(state, key));
            self.adjacencies.insert(
                key,
                AdjEntry {
                    id,
                    members: 0,
                    gateways: 0,
                },
            );
        }
        let Some(entry) = self.adjacencies.get_mut(&key) else {
            return AdjId(u32::MAX);
        };
        entry.members += 1;
        if gateway {
            entry.gateways += 1;
            self.gateways_changed |= entry.gateways == 1;
        }
        entry.id
    }

    fn release_plan(&mut self, fib: &mut Fib, plan: &Plan) {
        let Plan::Forward { members, .. } = plan else {
            return;
        };
        for (key, _, gateway) in members {
            let Some(entry) = self.adjacencies.get_mut(key) else {
                continue;
            };
            entry.members -= 1;
            if *gateway {
                entry.gateways -= 1;
                self.gateways_changed |= entry.gateways == 0;
            }
            if entry.members == 0 {
                fib.remove_adjacency(entry.id);
                self.adjacencies.remove(key);
            }
        }
    }

    fn materialise(&mut self, fib: &mut Fib, state: &State, plan: &Plan) -> Group {
        match plan {
            Plan::Forward { members, prefsrc } => {
                let members = members.iter().map(|(key, weight, gateway)| Member {
                    adj: self.take_adjacency(fib, state, *key, *gateway),
                    weight: *weight,
                });
                Group::Forward {
                    members: members.collect(),
                    prefsrc: *prefsrc,
                }
            }
            Plan::Glean(ifindex) => Group::Glean {
                ifindex: *ifindex,
                port: self.ports.get(ifindex).copied(),
            },
            Plan::Blackhole => Group::Blackhole,
            Plan::Unreachable => Group::Unreachable,
            Plan::Prohibit => Group::Prohibit,
            Plan::Throw => Group::Throw,
            Plan::Local => Group::Local,
            Plan::NotAPort => Group::NotAPort,
        }
    }

    /// One more prefix leads to the group, which led to `before` until now: a route that was replaced by one with a next hop more or
    /// less moves those flows alone that have to move.
    fn take_group(&mut self, fib: &mut Fib, state: &State, key: Key, before: Option<GroupId>) -> GroupId {
        if let Some(entry) = self.groups.get_mut(&key) {
            entry.prefixes += 1;
            return entry.id;
        }
        let plan = plan(state, key);
        let group = self.materialise(fib, state, &plan);
        let id = fib.add_group_after(group, before);
        self.groups.insert(
            key,
            Entry {
                id,
                prefixes: 1,
                plan,
            },
        );
        self.keys.insert(id, key);
        id
    }

    /// One prefix less leads to the group.
    fn release_group(&mut self, fib: &mut Fib, id: GroupId) {
        let Some(key) = self.keys.get(&id).copied() else {
            return;
        };
        let Some(entry) = self.groups.get_mut(&key) else {
            return;
        };
        entry.prefixes -= 1;
        if entry.prefixes == 0 {
            fib.remove_group(id);
            self.keys.remove(&id);
            if let Some(entry) = self.groups.remove(&key) {
                self.release_plan(fib, &entry.plan);
            }
        }
    }

    /// Brings a group up to date: one write, whatever number of prefixes leads to it.
    fn update_group(&mut self, fib: &mut Fib, state: &State, key: Key) {
        let new = plan(state, key);
        let Some(entry) = self.groups.get(&key) else {
            return;
        };
        if entry.plan == new {
            return;
        }
        let id = entry.id;
        let group = self.materialise(fib, state, &new);
        fib.set_group(id, group);
        let old = self
            .groups
            .get_mut(&key)
            .map(|entry| std::mem::replace(&mut entry.plan, new));
        if let Some(old) = old {
            self.release_plan(fib, &old);
        }
    }

    /// Brings the data plane up to date with what changed.
    pub fn apply(&mut self, fib: &mut Fib, state: &State, changes: &mut Changes) -> Outcome {
        let mut outcome = Outcome::default();
        let gone = self.update_vrfs(fib, state, changes, &mut outcome);
        for index in &changes.links {
            self.update_adjacencies(fib, state, *index, None);
        }
        for (address, index) in &changes.neighbours {
            self.update_adjacencies(fib, state, *index, Some(*address));
        }
        for id in &changes.targets {
            if state.rib.targets.get(*id).is_none() {
                continue;
            }
            let lowest = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
            let hosts = self
                .groups
                .range(Key::Host(*id, lowest)..Key::Host(*id + 1, lowest));
            let keys: Vec<Key> = hosts.map(|(key, _)| *key).chain([Key::Target(*id)]).collect();
            for key in keys {
                self.update_group(fib, state, key);
            }
        }
        let places = self.places(state, changes, &mut outcome);
        self.sync(fib, state, &places, &mut outcome);
        self.remove_vrfs(fib, state, gone, &places);
        outcome
    }

    /// The prefixes of the data plane to look at, each once; those that are the node's own go to the outcome.
    fn places(&mut self, state: &State, changes: &mut Changes, outcome: &mut Outcome) -> Vec<Place> {
        let mut places = std::mem::take(&mut changes.prefixes);
        places.sort_unstable();
        places.dedup();
        let mut hosts: BTreeSet<IpAddr> = changes.neighbours.iter().map(|(address, _)| *address).collect();
        for id in &changes.targets {
            // A device that became usable or not may change which neighbours are reached.
            let direct = state
                .rib
                .targets
                .get(*id)
                .is_some_and(|t| t.hops.iter().any(|h| h.via.is_none()));
            if direct {
                for (_, prefix) in state.rib.users(*id) {
                    hosts.extend(state.neighbours_in(prefix).map(|n| n.msg.address));
                }
            }
        }
        places.retain(|(table, prefix)| {
            self.update_local(state, *prefix, outcome);
            if *table == LOCAL_TABLE {
                return false;
            }
            if !state.neighbours.is_empty() {
                hosts.extend(state.neighbours_in(*prefix).map(|n| n.msg.address));
            }
            true
        });
        if !hosts.is_empty() {
            // Those that are followed no longer have host routes, too.
            let dirty = places.iter().map(|(table, _)| *table);
            let tables: BTreeSet<u32> = dirty.chain(state.followed.iter().copied()).collect();
            let of = |address: IpAddr| tables.iter().map(move |table| (*table, IpPrefix::host(address)));
            places.extend(hosts.into_iter().flat_map(of));
            places.sort_unstable();
            places.dedup();
        }
        places
    }

    fn sync(&mut self, fib: &mut Fib, state: &State, places: &[Place], outcome: &mut Outcome) {
        let mut loads: BTreeMap<u32, Vec<(IpPrefix, GroupId)>> = BTreeMap::new();
        // Groups whose prefixes are taken away from them: released at the end, so that none is built anew meanwhile.
        let mut released: Vec<GroupId> = Vec::new();
        let bulk = places.len() > BULK;
        for &(table, prefix) in places {
            let old = fib.get(table, prefix);
            let Some(key) = want(state, table, prefix) else {
                if let Some(old) = old {
                    match fib.remove(table, prefix) {
                        Ok(_) => released.push(old),
                        Err(error) => outcome.refused.push(((table, prefix), error.to_string())),
                    }
                }
                continue;
            };
            if old.is_some_and(|old| self.keys.get(&old) == Some(&key)) {
                continue;
            }
            let id = self.take_group(fib, state, key, old);
            if bulk {
                loads.entry(table).or_default().push((prefix, id));
                released.extend(old);
                continue;
            }
            match fib.insert(table, prefix, id) {
                Ok(old) => released.extend(old),
                Err(error) => {
                    released.push(id);
                    outcome.refused.push(((table, prefix), error.to_string()));
                }
            }
        }
        for (table, routes) in loads {
            let first = routes.first().copied();
            if let (Err(error), Some((prefix, _))) = (fib.bulk(table, routes), first) {
                outcome.refused.push(((table, prefix), error.to_string()));
            }
        }
        for id in released {
            self.release_group(fib, id);
        }
    }

    /// Brings the adjacencies of a device, or of one neighbour on it, up to date.
    fn update_adjacencies(&self, fib: &mut Fib, state: &State, index: u32, only: Option<IpAddr>) {
        let lowest = only.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        let from = AdjKey {
            index,
            address: lowest,
            mtu: 0,
        };
        for (key, entry) in self.adjacencies.range(from..) {
            if key.index != index || only.is_some_and(|only| key.address != only) {
                break;
            }
            fib.set_adjacency(entry.id, self.adjacency(state, *key));
        }
    }

    /// A port over the device was opened or closed: adjacencies and gleans point to it or no longer do.
    pub fn set_port(&mut self, fib: &mut Fib, state: &State, index: u32, port: Option<PortId>) {
        match port {
            Some(port) => self.ports.insert(index, port),
            None => self.ports.remove(&index),
        };
        self.gateways_changed = true;
        self.update_adjacencies(fib, state, index, None);
        for entry in self
            .groups
            .values()
            .filter(|entry| entry.plan == Plan::Glean(index))
        {
            fib.set_group(entry.id, Group::Glean { ifindex: index, port });
        }
    }

    /// The port over a device.
    pub fn port(&self, index: u32) -> Option<PortId> {
        self.ports.get(&index).copied()
    }

    /// The open ports by device.
    pub fn ports(&self) -> impl Iterator<Item = (u32, PortId)> + '_ {
        self.ports.iter().map(|(index, port)| (*index, *port))
    }

    /// The gateways that routes use, on devices that are ports.
    pub fn gateways(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        (self.adjacencies.iter())
            .filter(|(key, entry)| entry.gateways > 0 && self.ports.contains_key(&key.index))
            .map(|(key, _)| (key.index, key.address))
    }

    /// The adjacencies with their numbers.
    pub fn adjacencies(&self) -> impl Iterator<Item = (AdjKey, AdjId)> + '_ {
        self.adjacencies.iter().map(|(key, entry)| (*key, entry.id))
    }

    /// The groups with their numbers, content and number of prefixes.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &Plan, usize)> + '_ {
        self.groups
            .values()
            .map(|entry| (entry.id, &entry.plan, entry.prefixes))
    }

    /// What a group of the data plane stands for.
    pub fn key(&self, id: GroupId) -> Option<Key> {
        self.keys.get(&id).copied()
    }

    /// The prefixes that the data plane leaves to the kernel, each with a VRF in which it does.
    pub fn local(&self) -> &BTreeSet<(IpPrefix, VrfId)> {
        &self.local
    }

    /// What the data plane has to contain for a plan, with every number resolved: for comparison.
    pub fn expected(&self, state: &State, plan: &Plan) -> Found {
        match plan {
            Plan::Forward { members, prefsrc } => Found::forward(
                members
                    .iter()
                    .map(|(key, weight, _)| (self.adjacency(state, *key), *weight))
                    .collect(),
                *prefsrc,
            ),
            Plan::Glean(index) => Found::Other(Group::Glean {
                ifindex: *index,
                port: self.port(*index),
            }),
            Plan::Blackhole => Found::Other(Group::Blackhole),
            Plan::Unreachable => Found::Other(Group::Unreachable),
            Plan::Prohibit => Found::Other(Group::Prohibit),
            Plan::Throw => Found::Other(Group::Throw),
            Plan::Local => Found::Other(Group::Local),
            Plan::NotAPort => Found::Other(Group::NotAPort),
        }
    }
}
