//! In which order the kernel keeps the routes of one prefix, and what a notification does to them.
//!
//! IPv4 (`fib_table_insert` of net/ipv4/fib_trie.c): by type of service falling, then by metric rising; among equals a
//! new route goes first, an appended one last, and a replacing one takes the place of the first. IPv6
//! (`fib6_add_rt2node` of net/ipv6/ip6_fib.c): by metric rising; routes with gateways and equal metric are one
//! multipath route, told as a whole whenever one is added, and hop by hop when they are removed.

use super::message::{DEAD, Hop, LINKDOWN, PROTO_RA, RouteMsg, Target, UNICAST};
use super::rib::{Route, Targets};
use super::wire::{NLM_F_APPEND, NLM_F_REPLACE};

/// Whether the message is part of a dump: entries come in the kernel's order.
pub const NLM_F_MULTI: u16 = 2;

/// Applies an addition or change to the routes of its prefix; whether they changed.
pub fn add(list: &mut Vec<Route>, targets: &mut Targets, flags: u16, msg: &RouteMsg) -> bool {
    let target = targets.intern(&msg.target);
    let route = Route {
        target,
        metric: msg.metric,
        protocol: msg.protocol,
        tos: msg.tos,
    };
    let changed = if msg.target.v6 {
        add6(list, targets, flags, msg, route)
    } else {
        add4(list, targets, flags, msg, route)
    };
    if !changed {
        targets.forget_unused(target);
    }
    changed
}

/// The routes with the same type of service and metric.
fn equals(list: &[Route], tos: u8, metric: u32) -> std::ops::Range<usize> {
    let before = |route: &Route| (std::cmp::Reverse(route.tos), route.metric);
    let key = (std::cmp::Reverse(tos), metric);
    let start = list
        .iter()
        .position(|route| before(route) >= key)
        .unwrap_or(list.len());
    let end = list
        .iter()
        .position(|route| before(route) > key)
        .unwrap_or(list.len());
    start..end
}

fn replace(list: &mut [Route], at: usize, route: Route) -> bool {
    std::mem::replace(&mut list[at], route) != route
}

fn add4(list: &mut Vec<Route>, targets: &Targets, flags: u16, msg: &RouteMsg, route: Route) -> bool {
    let same = equals(list, msg.tos, msg.metric);
    if flags & NLM_F_REPLACE != 0 && !same.is_empty() {
        // A changed nexthop object is told as a replacement of each route that uses it.
        let by_object = (msg.target.nexthop != 0)
            .then(|| {
                same.clone().find(|i| {
                    targets
                        .get(list[*i].target)
                        .is_some_and(|t| t.nexthop == msg.target.nexthop)
                })
            })
            .flatten();
        return replace(list, by_object.unwrap_or(same.start), route);
    }
    // Told again: a change of flags only.
    if let Some(at) = find(&list[same.clone()], targets, msg) {
        return replace(list, same.start + at, route);
    }
    let at = if flags & (NLM_F_APPEND | NLM_F_MULTI) != 0 {
        same.end
    } else {
        same.start
    };
    list.insert(at, route);
    true
}

/// Whether the route can be part of a multipath route (`rt6_qualify_for_ecmp`).
fn joins(target: &Target, protocol: u8) -> bool {
    target.kind == UNICAST
        && target.nexthop == 0
        && protocol != PROTO_RA
        && !target.hops.is_empty()
        && target.hops.iter().all(|hop| hop.via.is_some())
}

fn add6(list: &mut Vec<Route>, targets: &Targets, flags: u16, msg: &RouteMsg, route: Route) -> bool {
    let same = equals(list, msg.tos, msg.metric);
    let joins_new = joins(&msg.target, msg.protocol);
    let joins_old = |i: &usize| {
        targets
            .get(list[*i].target)
            .is_some_and(|t| joins(t, list[*i].protocol))
    };
    if flags & NLM_F_REPLACE != 0 && !same.is_empty() {
        let by_object = same.clone().find(|i| {
            msg.target.nexthop != 0
                && targets
                    .get(list[*i].target)
                    .is_some_and(|t| t.nexthop == msg.target.nexthop)
        });
        let at = by_object
            .or_else(|| same.clone().find(|i| joins_old(i) == joins_new))
            .unwrap_or(same.start);
        return replace(list, at, route);
    }
    if joins_new && let Some(at) = same.clone().find(joins_old) {
        return replace(list, at, route);
    }
    if let Some(at) = find(&list[same.clone()], targets, msg) {
        return replace(list, same.start + at, route);
    }
    list.insert(same.end, route);
    true
}

/// Hops without what a change of the link may have changed meanwhile.
fn bare(hop: &Hop) -> Hop {
    Hop {
        flags: hop.flags & !(DEAD | LINKDOWN),
        ..*hop
    }
}

/// Whether two targets are the same but for the state of their links.
pub fn alike(a: &Target, b: &Target) -> bool {
    (a.v6, a.kind, a.scope, a.nexthop, a.mtu, a.extras, a.prefsrc)
        == (b.v6, b.kind, b.scope, b.nexthop, b.mtu, b.extras, b.prefsrc)
        && same_hops(&a.hops, &b.hops)
}

fn same_hops(a: &[Hop], b: &[Hop]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if a.len() == 1 {
        return bare(&a[0]) == bare(&b[0]);
    }
    let sorted = |hops: &[Hop]| {
        let mut hops: Vec<Hop> = hops.iter().map(bare).collect();
        hops.sort_unstable();
        hops
    };
    sorted(a) == sorted(b)
}

/// The route that is the message's.
fn find(list: &[Route], targets: &Targets, msg: &RouteMsg) -> Option<usize> {
    list.iter().position(|route| {
        route.protocol == msg.protocol && targets.get(route.target).is_some_and(|t| alike(t, &msg.target))
    })
}

/// Applies a removal to the routes of its prefix; whether they changed.
pub fn remove(list: &mut Vec<Route>, targets: &mut Targets, msg: &RouteMsg) -> bool {
    let same = equals(list, msg.tos, msg.metric);
    if let Some(at) = find(&list[same.clone()], targets, msg) {
        list.remove(same.start + at);
        return true;
    }
    if msg.target.v6 && joins(&msg.target, msg.protocol) {
        return remove_hops(list, same, targets, msg);
    }
    // The same route with other details, for instance an object that has changed meanwhile.
    let near = same.clone().find(|i| {
        targets.get(list[*i].target).is_some_and(|t| {
            t.kind == msg.target.kind
                && t.nexthop == msg.target.nexthop
                && (t.nexthop != 0 || same_hops(&t.hops, &msg.target.hops))
        })
    });
    if let Some(at) = near {
        list.remove(at);
    }
    near.is_some()
}

/// Takes hops out of an IPv6 multipath route.
fn remove_hops(
    list: &mut Vec<Route>,
    same: std::ops::Range<usize>,
    targets: &mut Targets,
    msg: &RouteMsg,
) -> bool {
    for at in same {
        let Some(target) = targets.get(list[at].target) else {
            continue;
        };
        if !joins(target, list[at].protocol) {
            continue;
        }
        let mut rest = target.clone();
        let gone = |hop: &Hop| {
            msg.target
                .hops
                .iter()
                .any(|g| (g.index, g.via) == (hop.index, hop.via))
        };
        rest.hops.retain(|hop| !gone(hop));
        if rest.hops.len() == target.hops.len() {
            continue;
        }
        if rest.hops.is_empty() {
            list.remove(at);
        } else {
            list[at].target = targets.intern(&rest);
        }
        return true;
    }
    false
}
