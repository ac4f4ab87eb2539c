//! The mirror's state as an operator sees it: views, and the text of differences.

use std::fmt::Write as _;
use std::net::IpAddr;

use classifier::lpm::IpPrefix;
use forwarder::MacAddr;
use forwarder::fib::{AdjState, Adjacency, Group};

use super::message::{self, DEAD, ENCAP, LINKDOWN, LinkMsg, NeighbourMsg, ONLINK, RouteMsg, Target};
use super::plan::Found;
use super::rib::Route;
use super::state::{Happened, State};
use super::view::{Event, LinkView, MemberView, NeighbourView, NexthopView, RouteView};

/// An Ethernet address as text.
pub fn mac(mac: Option<MacAddr>) -> String {
    let Some(mac) = mac else { return String::new() };
    let mut text = String::with_capacity(17);
    for (i, byte) in mac.iter().enumerate() {
        let _ = write!(text, "{}{byte:02x}", if i == 0 { "" } else { ":" });
    }
    text
}

/// Names of `RTPROT_…` as /etc/iproute2/rt_protos has them.
fn protocol(number: u8) -> String {
    let name = match number {
        0 => "unspec",
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        8 => "gated",
        9 => "ra",
        10 => "mrt",
        11 => "zebra",
        12 => "bird",
        13 => "dnrouted",
        14 => "xorp",
        15 => "ntk",
        16 => "dhcp",
        18 => "keepalived",
        42 => "babel",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        other => return other.to_string(),
    };
    name.to_owned()
}

/// Names of `RTN_…`.
fn kind(number: u8) -> &'static str {
    match number {
        message::UNICAST => "unicast",
        message::LOCAL => "local",
        message::BROADCAST => "broadcast",
        message::ANYCAST => "anycast",
        5 => "multicast",
        message::BLACKHOLE => "blackhole",
        message::UNREACHABLE => "unreachable",
        message::PROHIBIT => "prohibit",
        message::THROW => "throw",
        10 => "nat",
        11 => "xresolve",
        _ => "unknown",
    }
}

/// Names of `NUD_…`.
pub fn neighbour_state(state: u16) -> &'static str {
    match state {
        0x01 => "incomplete",
        0x02 => "reachable",
        0x04 => "stale",
        0x08 => "delay",
        0x10 => "probe",
        0x20 => "failed",
        0x40 => "noarp",
        0x80 => "permanent",
        _ => "none",
    }
}

/// What an adjacency can do.
pub fn adjacency_state(adjacency: &Adjacency) -> &'static str {
    match (adjacency.port, adjacency.state) {
        (None, _) => "not_a_port",
        (_, AdjState::Resolved { .. }) => "resolved",
        (_, AdjState::Unresolved) => "unresolved",
        (_, AdjState::Failed) => "failed",
        (_, AdjState::Down) => "down",
    }
}

impl State {
    /// Name of a device, its number when it is gone.
    fn dev(&self, index: u32) -> String {
        match self.links.get(&index) {
            Some(link) => link.name.clone(),
            None if index == 0 => String::new(),
            None => format!("if{index}"),
        }
    }

    /// A device's view.
    pub(super) fn link_view(&self, link: &LinkMsg) -> LinkView {
        LinkView {
            name: link.name.clone(),
            index: link.index,
            master: link.master,
            parent: link.parent,
            kind: link.kind.clone(),
            mac: mac(link.mac),
            mtu: link.mtu,
            admin_up: link.admin_up(),
            up: link.up(),
        }
    }

    /// A neighbour's view.
    pub(super) fn neighbour_view(&self, msg: &NeighbourMsg) -> NeighbourView {
        NeighbourView {
            address: msg.address,
            dev: self.dev(msg.index),
            mac: mac(msg.mac),
            state: neighbour_state(msg.state),
            managed: msg.managed,
        }
    }

    fn hops_view(&self, target: &Target) -> Vec<NexthopView> {
        let view = |hop: &message::Hop| {
            let entry = hop.via.and_then(|via| self.neighbours.get(&(via, hop.index)));
            let names = [
                (DEAD, "dead"),
                (LINKDOWN, "linkdown"),
                (ONLINK, "onlink"),
                (ENCAP, "encap"),
            ];
            NexthopView {
                via: hop.via,
                dev: self.dev(hop.index),
                weight: u32::from(hop.weight),
                neighbour: match hop.via {
                    Some(_) => entry.map_or("none", |n| neighbour_state(n.msg.state)).to_owned(),
                    None => String::new(),
                },
                flags: names
                    .into_iter()
                    .filter(|(bit, _)| hop.flags & bit != 0)
                    .map(|(_, n)| n)
                    .collect(),
            }
        };
        target.hops.iter().map(view).collect()
    }

    fn view(&self, table: u32, prefix: IpPrefix, route: &Route, target: &Target, active: bool) -> RouteView {
        RouteView {
            prefix: prefix.to_string(),
            table,
            protocol: protocol(route.protocol),
            kind: kind(target.kind),
            metric: route.metric,
            active,
            prefsrc: target.prefsrc,
            mtu: (target.mtu != 0).then_some(target.mtu),
            nexthops: self.hops_view(target),
        }
    }

    /// The views of the routes of a prefix.
    pub(super) fn route_views(&self, table: u32, prefix: IpPrefix) -> Vec<RouteView> {
        let best = self.rib.best(table, prefix).copied();
        let mut active_seen = false;
        let view = |route: &Route| {
            let target = self.rib.targets.get(route.target)?;
            let active = !active_seen && best == Some(*route);
            active_seen |= active;
            Some(self.view(table, prefix, route, target, active))
        };
        self.rib.get(table, prefix).iter().filter_map(view).collect()
    }

    /// The view of a route that a message tells of.
    fn message_view(&self, msg: &RouteMsg) -> RouteView {
        let route = Route {
            target: 0,
            metric: msg.metric,
            protocol: msg.protocol,
            tos: msg.tos,
        };
        let active = self.rib.best(msg.table, msg.prefix).is_some_and(|best| {
            (best.metric, best.protocol) == (msg.metric, msg.protocol)
                && self.rib.targets.get(best.target) == Some(&msg.target)
        });
        self.view(msg.table, msg.prefix, &route, &msg.target, active)
    }

    /// An event for those who watch.
    pub(super) fn event(&self, happened: &Happened) -> Event {
        match happened {
            Happened::Link(action, link) => Event::Link {
                action: *action,
                link: self.link_view(link),
            },
            Happened::Route(action, route) => Event::Route {
                action: *action,
                route: self.message_view(route),
            },
            Happened::Neighbour(action, neighbour) => Event::Neighbour {
                action: *action,
                neighbour: self.neighbour_view(neighbour),
            },
        }
    }

    /// The routes of a prefix in one line, much as `ip route` has them.
    pub(super) fn text(&self, table: u32, prefix: IpPrefix) -> String {
        let mut text = String::new();
        for view in self.route_views(table, prefix) {
            if !text.is_empty() {
                text.push_str("; ");
            }
            let _ = write!(
                text,
                "{} proto {} metric {}",
                view.kind, view.protocol, view.metric
            );
            if let Some(source) = view.prefsrc {
                let _ = write!(text, " src {source}");
            }
            for hop in view.nexthops {
                if let Some(via) = hop.via {
                    let _ = write!(text, " via {via}");
                }
                let _ = write!(text, " dev {} weight {}", hop.dev, hop.weight);
                for flag in hop.flags {
                    let _ = write!(text, " {flag}");
                }
            }
        }
        text
    }

    /// What a group does in one line.
    pub(super) fn found_text(&self, found: &Found) -> String {
        match found {
            Found::Forward(members, prefsrc) => {
                let mut text = String::from("forward");
                if let Some(source) = prefsrc {
                    let _ = write!(text, " src {source}");
                }
                for (adjacency, weight) in members {
                    let _ = write!(
                        text,
                        " to {} dev {} weight {weight} mtu {} {}",
                        adjacency.neighbour,
                        self.dev(adjacency.ifindex),
                        adjacency.mtu,
                        adjacency_state(adjacency)
                    );
                }
                text
            }
            Found::Other(Group::Glean { ifindex, port }) => match port {
                Some(_) => format!("glean dev {}", self.dev(*ifindex)),
                None => format!("glean dev {} not a port", self.dev(*ifindex)),
            },
            Found::Other(group) => group_kind(group).to_owned(),
            Found::Broken => "a group without adjacency".to_owned(),
        }
    }

    /// The members of a group, for `nexthop show`.
    pub(super) fn member_views(&self, found: &Found) -> Vec<MemberView> {
        let Found::Forward(members, _) = found else {
            return Vec::new();
        };
        let view = |(adjacency, weight): &(Adjacency, u16)| MemberView {
            via: adjacency.neighbour,
            dev: self.dev(adjacency.ifindex),
            weight: u32::from(*weight),
            state: adjacency_state(adjacency),
        };
        members.iter().map(view).collect()
    }

    /// The kind of a group of the data plane.
    pub(super) fn found_kind(found: &Found) -> &'static str {
        match found {
            Found::Forward(..) => "forward",
            Found::Other(group) => group_kind(group),
            Found::Broken => "broken",
        }
    }

    /// Addresses that ICMP errors about packets from a port may come from: for IPv4 the port's own primary address,
    /// else the first of another device in the same VRF (as `inet_select_addr` of net/ipv4/devinet.c chooses, the loopback device
    /// first); for IPv6 the port's global addresses, those of other devices, the port's link-local ones.
    pub(super) fn icmp_sources(&self, index: u32) -> (Option<std::net::Ipv4Addr>, Vec<std::net::Ipv6Addr>) {
        /// `IFA_F_SECONDARY` of IPv4.
        const SECONDARY: u32 = 0x01;
        /// Not to be used: `IFA_F_DADFAILED` and `IFA_F_TENTATIVE`.
        const UNUSABLE: u32 = 0x08 | 0x40;
        /// `IFA_F_DEPRECATED`.
        const DEPRECATED: u32 = 0x20;
        let four = |own: bool| {
            let mut found: Vec<_> = (self.addresses.iter())
                .filter(|a| (a.index == index) == own && a.flags & SECONDARY == 0)
                .filter(|a| self.shares_vrf(index, a.index, false))
                .filter(|a| {
                    a.scope
                        < if own {
                            message::SCOPE_HOST
                        } else {
                            message::SCOPE_LINK
                        }
                })
                .collect();
            // The kernel goes through the devices in order of their creation.
            found.sort_by_key(|a| a.index);
            found.into_iter().find_map(|a| match a.address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
        };
        let mut six: Vec<_> = (self.addresses.iter())
            .filter_map(|a| match a.address {
                IpAddr::V6(address) if a.flags & UNUSABLE == 0 && a.scope < message::SCOPE_HOST => {
                    let link_local = a.scope == message::SCOPE_LINK;
                    let usable = a.index == index || !link_local && self.shares_vrf(index, a.index, true);
                    let class = (link_local, a.flags & DEPRECATED != 0, a.index != index);
                    usable.then_some((class, a.index, address))
                }
                _ => None,
            })
            .collect();
        // RFC 6724 5: rules 2 (scope), 3 (deprecated) and 5 (outgoing interface) come before the longest common prefix.
        six.sort_by_key(|(class, index, _)| (*class, *index));
        if let Some((best, ..)) = six.first().copied() {
            six.retain(|(class, ..)| *class == best);
        }
        (
            four(true).or_else(|| four(false)),
            six.into_iter().map(|(.., address)| address).collect(),
        )
    }
}

fn group_kind(group: &Group) -> &'static str {
    match group {
        Group::Forward { .. } => "forward",
        Group::Glean { .. } => "glean",
        Group::Blackhole => "blackhole",
        Group::Unreachable => "unreachable",
        Group::Prohibit => "prohibit",
        Group::Throw => "throw",
        Group::Local => "local",
        Group::NotAPort => "not_a_port",
    }
}
