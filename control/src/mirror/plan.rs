//! What the data plane is to contain for a prefix: pure functions of the kernel's state.

use std::net::IpAddr;

use classifier::lpm::IpPrefix;
use forwarder::fib::{Adjacency, Fib, Group, GroupId};

use super::message::{BLACKHOLE, DEAD, ENCAP, Hop, PROHIBIT, THROW, UNICAST, UNREACHABLE};
use super::rib::{TargetId, is_host};
use super::state::State;

/// What a group of the data plane stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A target.
    Target(TargetId),
    /// A target with hops that have no gateway, for a prefix that is one address.
    Host(TargetId, IpAddr),
    /// A known neighbour on a connected prefix: device, address, MTU of the route.
    Neighbour(u32, IpAddr, u32),
}

/// What an adjacency stands for: device, neighbour, MTU of the route (0 when it has none).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdjKey {
    pub index: u32,
    pub address: IpAddr,
    pub mtu: u32,
}

/// A member of a planned group: where to, weight, and whether it is a gateway.
pub type PlanMember = (AdjKey, u16, bool);

/// The content of a group, in the mirror's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Forward {
        members: Vec<PlanMember>,
        prefsrc: Option<IpAddr>,
    },
    Glean(u32),
    Blackhole,
    Unreachable,
    Prohibit,
    Throw,
    Local,
    NotAPort,
}

/// The group that a prefix is to lead to; `None` when it is to have none.
pub fn want(state: &State, table: u32, prefix: IpPrefix) -> Option<Key> {
    if let Some(route) = state.rib.best(table, prefix) {
        let target = state.rib.targets.get(route.target)?;
        let direct = target.kind == UNICAST && target.hops.iter().any(|hop| hop.via.is_none());
        return Some(match is_host(prefix) && direct {
            true => Key::Host(route.target, prefix.addr()),
            false => Key::Target(route.target),
        });
    }
    if is_host(prefix) {
        want_neighbour(state, table, prefix.addr())
    } else {
        None
    }
}

/// A known neighbour gets a host route where the best route of its address is that of its device.
fn want_neighbour(state: &State, table: u32, address: IpAddr) -> Option<Key> {
    let known = |index: u32| {
        state
            .neighbours
            .get(&(address, index))
            .is_some_and(|n| n.resolved() || n.failed())
    };
    state
        .neighbours
        .range((address, 0)..=(address, u32::MAX))
        .find(|((_, index), _)| known(*index))?;
    let (_, route) = state.rib.longest(table, address)?;
    let target = state.rib.targets.get(route.target)?;
    let mut live = target.hops.iter().filter(|hop| hop.flags & DEAD == 0);
    if target.kind != UNICAST
        || target
            .hops
            .iter()
            .any(|hop| hop.via.is_some() || hop.flags & ENCAP != 0)
    {
        return None;
    }
    let hop = live.find(|hop| known(hop.index))?;
    Some(Key::Neighbour(hop.index, address, target.mtu))
}

/// The content of a group.
pub fn plan(state: &State, key: Key) -> Plan {
    let (id, host) = match key {
        Key::Neighbour(index, address, mtu) => {
            let members = vec![(AdjKey { index, address, mtu }, 1, false)];
            return Plan::Forward {
                members,
                prefsrc: None,
            };
        }
        Key::Target(id) => (id, None),
        Key::Host(id, address) => (id, Some(address)),
    };
    let Some(target) = state.rib.targets.get(id) else {
        return Plan::Unreachable;
    };
    match target.kind {
        UNICAST => {}
        BLACKHOLE => return Plan::Blackhole,
        UNREACHABLE => return Plan::Unreachable,
        PROHIBIT => return Plan::Prohibit,
        THROW => return Plan::Throw,
        _ => return Plan::Local,
    }
    let live = || target.hops.iter().filter(|hop| hop.flags & DEAD == 0);
    if live().any(|hop| hop.flags & ENCAP != 0) {
        return Plan::NotAPort;
    }
    let member = |hop: &Hop| {
        let address = hop.via.or(host)?;
        Some((
            AdjKey {
                index: hop.index,
                address,
                mtu: target.mtu,
            },
            hop.weight,
            hop.via.is_some(),
        ))
    };
    let members: Vec<PlanMember> = live().filter_map(member).collect();
    match live().next() {
        Some(first) if members.is_empty() => Plan::Glean(first.index),
        _ => Plan::Forward {
            members,
            prefsrc: target.prefsrc,
        },
    }
}

/// What the data plane has under a group's number.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// Adjacencies in order, with weights, and the preferred source.
    Forward(Vec<(Adjacency, u16)>, Option<IpAddr>),
    /// Anything else.
    Other(Group),
    /// Nothing, or a member without adjacency.
    Broken,
}

impl Found {
    pub(super) fn forward(mut members: Vec<(Adjacency, u16)>, prefsrc: Option<IpAddr>) -> Self {
        members.sort_by_key(|(adj, weight)| (adj.ifindex, adj.neighbour, adj.mtu, *weight));
        Self::Forward(members, prefsrc)
    }

    /// Reads a group out of the FIB.
    pub fn read(fib: &Fib, id: GroupId) -> Self {
        match fib.group(id) {
            Some(Group::Forward { members, prefsrc }) => {
                let read: Option<Vec<_>> = members
                    .iter()
                    .map(|m| Some((*fib.adjacency(m.adj)?, m.weight)))
                    .collect();
                read.map_or(Self::Broken, |read| Self::forward(read, *prefsrc))
            }
            Some(other) => Self::Other(other.clone()),
            None => Self::Broken,
        }
    }
}
