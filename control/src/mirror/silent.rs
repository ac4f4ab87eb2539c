//! What the kernel does to routes without a message.
//!
//! IPv4 routes vanish silently when their link goes down or their preferred source address is removed, members of
//! multipath routes are marked dead or come back, and nexthop objects go with their device. The rules here are those of
//! `fib_sync_down_dev`, `fib_sync_down_addr` and `fib_sync_up` (net/ipv4/fib_semantics.c), `fib6_ifdown` and
//! `fib6_ifup` (net/ipv6/route.c) and `nexthop_flush_dev` (net/ipv4/nexthop.c). A verification by dump follows each
//! of these events some time later.

use std::net::IpAddr;

use super::message::{
    ANYCAST, AddressMsg, BLACKHOLE, DEAD, Hop, IFF_RUNNING, LINKDOWN, LOCAL, LinkMsg, NexthopMsg, SCOPE_HOST,
    Target, UNICAST,
};
use super::rib::TargetId;
use super::state::{Changes, LOCAL_TABLE, State};

impl State {
    /// Whether routes over a device without carrier are left out (`ignore_routes_with_linkdown`).
    fn ignores_linkdown(&self, v6: bool, index: u32) -> bool {
        // For IPv4 the setting of all devices counts as well; for IPv6 writing it sets each device's own.
        self.ignore_linkdown.contains(&(v6, Some(index))) || !v6 && self.ignore_linkdown.contains(&(v6, None))
    }

    /// The targets with a next hop of their own on the device; those of nexthop objects follow the objects.
    fn targets_on(&self, index: u32) -> Vec<(TargetId, Target)> {
        let on = |target: &Target| target.nexthop == 0 && target.hops.iter().any(|hop| hop.index == index);
        self.rib
            .targets
            .iter()
            .filter(|(_, t)| on(t))
            .map(|(id, t)| (id, t.clone()))
            .collect()
    }

    /// Changes the flags of the hops on a device.
    fn flag_hops(&mut self, index: u32, changes: &mut Changes, change: impl Fn(&Self, &Target, &mut Hop)) {
        for (id, old) in self.targets_on(index) {
            let mut new = old.clone();
            for hop in new.hops.iter_mut().filter(|hop| hop.index == index) {
                change(self, &old, hop);
            }
            new.hops.sort_unstable();
            self.change_target(id, new, changes);
        }
    }

    /// Removes the IPv4 routes that have no living hop left and one on the device.
    fn flush4(&mut self, index: u32, force: bool, changes: &mut Changes) {
        for (id, target) in self.targets_on(index) {
            let dead = target
                .hops
                .iter()
                .all(|hop| hop.flags & DEAD != 0 || force && hop.index == index);
            if !target.v6 && dead && (force || target.scope < SCOPE_HOST) {
                self.drop_target(id, changes);
            }
        }
    }

    /// A device appeared, changed or vanished.
    pub(super) fn link_changed(
        &mut self,
        old: Option<&LinkMsg>,
        new: Option<&LinkMsg>,
        index: u32,
        changes: &mut Changes,
    ) {
        let was_up = old.is_some_and(LinkMsg::admin_up);
        let had_carrier = old.is_some_and(LinkMsg::carrier);
        let Some(new) = new else {
            self.device_gone(index, changes);
            return;
        };
        match (was_up, new.admin_up()) {
            // Told again it is done again: a dump may have read the link before and the routes after it went down.
            (_, false) => {
                changes.verify |= was_up;
                self.drop_objects_of(index, changes);
                self.flag_hops(index, changes, |_, target, hop| {
                    if target.v6 && target.hops.len() == 1 || target.scope >= SCOPE_HOST && !target.v6 {
                        // IPv6 single routes are removed with a message of their own.
                        return;
                    }
                    hop.flags |= DEAD | LINKDOWN;
                });
                self.flush4(index, false, changes);
            }
            (false, true) if old.is_some() => {
                changes.verify = true;
                let (carrier, ready) = (new.carrier(), new.flags & IFF_RUNNING != 0);
                self.flag_hops(index, changes, |_, target, hop| {
                    // IPv6 waits until the device is operational (addrconf_link_ready).
                    if !target.v6 {
                        hop.flags &= !DEAD;
                    }
                    let back = if target.v6 { ready } else { carrier };
                    if back {
                        hop.flags &= !(DEAD | LINKDOWN);
                    }
                });
            }
            // The flags of a dump show a lost carrier before the kernel has acted on it; the message comes after.
            (true, true) if !new.carrier() => {
                changes.verify |= had_carrier;
                self.drop_objects_of(index, changes);
                self.flag_hops(index, changes, |state, target, hop| {
                    if target.scope >= SCOPE_HOST && !target.v6
                        || target.v6 && matches!(target.kind, LOCAL | ANYCAST)
                    {
                        return;
                    }
                    hop.flags |= LINKDOWN;
                    if state.ignores_linkdown(hop.via.map_or(target.v6, |via| via.is_ipv6()), index) {
                        hop.flags |= DEAD;
                    }
                });
            }
            (true, true) => {
                let ready = new.flags & IFF_RUNNING != 0;
                changes.verify |= !had_carrier;
                self.flag_hops(index, changes, |_, target, hop| {
                    if hop.flags & LINKDOWN != 0 && (ready || !target.v6) {
                        hop.flags &= !(LINKDOWN | DEAD);
                    }
                });
            }
            _ => {}
        }
    }

    fn device_gone(&mut self, index: u32, changes: &mut Changes) {
        changes.verify = true;
        self.drop_objects_of(index, changes);
        self.flag_hops(index, changes, |_, target, hop| {
            if !target.v6 || target.hops.len() > 1 {
                hop.flags |= DEAD | LINKDOWN;
            }
        });
        self.flush4(index, true, changes);
        if self.addresses.iter().any(|a| a.index == index) {
            self.addresses.retain(|a| a.index != index);
            changes.addresses = true;
        }
        let neighbours: Vec<(IpAddr, u32)> = self
            .neighbours
            .keys()
            .filter(|(_, i)| *i == index)
            .copied()
            .collect();
        for key in neighbours {
            self.neighbours.remove(&key);
            changes.neighbours.insert(key);
        }
        self.ignore_linkdown.retain(|(_, i)| *i != Some(index));
    }

    /// `ignore_routes_with_linkdown` was changed somewhere: dead is what lies behind a device without carrier.
    pub(super) fn ignore_changed(&mut self, changes: &mut Changes) {
        let without: Vec<u32> = self
            .links
            .values()
            .filter(|l| l.admin_up() && !l.carrier())
            .map(|l| l.index)
            .collect();
        for index in without {
            self.flag_hops(index, changes, |state, target, hop| {
                if hop.flags & LINKDOWN == 0 {
                    return;
                }
                if state.ignores_linkdown(hop.via.map_or(target.v6, |via| via.is_ipv6()), index) {
                    hop.flags |= DEAD;
                } else {
                    hop.flags &= !DEAD;
                }
            });
        }
        changes.verify = true;
    }

    /// An address was removed.
    pub(super) fn address_removed(&mut self, msg: &AddressMsg, changes: &mut Changes) {
        changes.verify = true;
        let elsewhere = self.addresses.iter().any(|a| a.address == msg.address);
        let sourced: Vec<(TargetId, Target)> = (self.rib.targets.iter())
            .filter(|(_, target)| target.prefsrc == Some(msg.address))
            .map(|(id, target)| (id, target.clone()))
            .collect();
        if msg.address.is_ipv6() {
            // IPv6 routes stay without it (fib6_remove_prefsrc).
            for (id, mut target) in sourced {
                if !elsewhere && target.kind == UNICAST {
                    target.prefsrc = None;
                    self.change_target(id, target, changes);
                }
            }
            return;
        }
        if !elsewhere {
            for (id, target) in sourced {
                // The node's own table is told entry by entry.
                let local = self.rib.users(id).iter().any(|(table, _)| *table == LOCAL_TABLE);
                if !target.v6 && !local {
                    self.drop_target(id, changes);
                }
            }
        }
        // With its last address a device loses IPv4 altogether (fib_disable_ip).
        let last = !self
            .addresses
            .iter()
            .any(|a| a.index == msg.index && a.address.is_ipv4());
        if last {
            self.flag_hops(msg.index, changes, |_, target, hop| {
                if !target.v6 {
                    hop.flags |= DEAD | LINKDOWN;
                }
            });
            self.flush4(msg.index, true, changes);
        }
    }

    /// An address was added: dead members of IPv4 multipath routes over its device live again.
    pub(super) fn address_added(&mut self, msg: &AddressMsg, changes: &mut Changes) {
        let Some(link) = self.links.get(&msg.index) else {
            return;
        };
        if msg.address.is_ipv6() || !link.admin_up() {
            return;
        }
        let carrier = link.carrier();
        self.flag_hops(msg.index, changes, |state, target, hop| {
            let hidden = hop.flags & LINKDOWN != 0 && !carrier && state.ignores_linkdown(false, hop.index);
            if !target.v6 && hop.flags & DEAD != 0 && !hidden {
                hop.flags &= !DEAD;
                if carrier {
                    hop.flags &= !LINKDOWN;
                }
            }
        });
        changes.verify = true;
    }

    /// A nexthop object was added, changed or removed.
    pub(super) fn nexthop(&mut self, gone: bool, msg: NexthopMsg, changes: &mut Changes) {
        changes.verify = true;
        if gone {
            self.drop_object(msg.id, changes);
            return;
        }
        let id = msg.id;
        self.nexthops.insert(id, msg);
        self.object_changed(id, changes);
        let groups: Vec<u32> = self.groups_with(id);
        for group in groups {
            self.object_changed(group, changes);
        }
    }

    fn groups_with(&self, id: u32) -> Vec<u32> {
        let has = |object: &NexthopMsg| object.group.iter().any(|(member, _)| *member == id);
        self.nexthops
            .values()
            .filter(|object| has(object))
            .map(|object| object.id)
            .collect()
    }

    /// The objects of a device go with it, and with its carrier (`nexthop_flush_dev`), without a message.
    fn drop_objects_of(&mut self, index: u32, changes: &mut Changes) {
        let objects: Vec<u32> = (self.nexthops.values())
            .filter(|object| object.group.is_empty() && !object.blackhole && object.hop.index == index)
            .map(|object| object.id)
            .collect();
        for id in objects {
            self.drop_object(id, changes);
        }
    }

    fn drop_object(&mut self, id: u32, changes: &mut Changes) {
        self.nexthops.remove(&id);
        let users: Vec<TargetId> = self
            .rib
            .targets
            .iter()
            .filter(|(_, t)| t.nexthop == id)
            .map(|(id, _)| id)
            .collect();
        for target in users {
            self.drop_target(target, changes);
        }
        for group in self.groups_with(id) {
            let Some(object) = self.nexthops.get_mut(&group) else {
                continue;
            };
            object.group.retain(|(member, _)| *member != id);
            if object.group.is_empty() {
                self.drop_object(group, changes);
            } else {
                self.object_changed(group, changes);
            }
        }
    }

    /// The hops of an object, and whether it is a blackhole; `None` when it or a member is not known.
    fn object_hops(&self, id: u32) -> Option<(bool, Vec<Hop>)> {
        let object = self.nexthops.get(&id)?;
        if object.group.is_empty() {
            let hops = if object.blackhole {
                Vec::new()
            } else {
                vec![object.hop]
            };
            return Some((object.blackhole, hops));
        }
        let mut hops = Vec::with_capacity(object.group.len());
        for (member, weight) in &object.group {
            let member = self.nexthops.get(member)?;
            if member.blackhole {
                // A blackhole can only be the one member of a group.
                return Some((true, Vec::new()));
            }
            hops.push(Hop {
                weight: *weight,
                ..member.hop
            });
        }
        hops.sort_unstable();
        Some((false, hops))
    }

    fn object_changed(&mut self, id: u32, changes: &mut Changes) {
        let Some((blackhole, hops)) = self.object_hops(id) else {
            return;
        };
        let users: Vec<(TargetId, Target)> = (self.rib.targets.iter())
            .filter(|(_, target)| target.nexthop == id)
            .map(|(number, target)| (number, target.clone()))
            .collect();
        for (number, mut target) in users {
            target.kind = if blackhole { BLACKHOLE } else { UNICAST };
            target.hops.clone_from(&hops);
            self.change_target(number, target, changes);
        }
    }

    /// Without compatibility mode a route names its nexthop object only.
    pub(super) fn complete_target(&self, target: &mut Target) {
        if target.nexthop != 0
            && target.kind == UNICAST
            && target.hops.is_empty()
            && let Some((blackhole, hops)) = self.object_hops(target.nexthop)
        {
            target.hops = hops;
            if blackhole {
                target.kind = BLACKHOLE;
            }
        }
    }
}
