//! What the mirror tells others about the kernel's state: plain values with the field names of the JSON contract.

use std::net::IpAddr;

use serde::Serialize;

/// A network device as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkView {
    /// Name, for instance `eth1`.
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// Index of the device that this one is enslaved to (bridge, bond, VRF), 0 when none.
    pub master: u32,
    /// Index of the device that this one is stacked upon (VLAN, macvlan, …), 0 when none.
    #[serde(skip)]
    pub parent: u32,
    /// Kind as `ip -d link` names it (`veth`, `bridge`, `vlan`, …); empty for a plain device.
    pub kind: String,
    /// Ethernet address as text; empty when the device has none of six bytes.
    pub mac: String,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up (`IFF_UP`).
    pub admin_up: bool,
    /// Whether it is up and has a carrier: packets can be sent.
    pub up: bool,
}

/// One next hop of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NexthopView {
    /// The gateway; `None` where the destination itself is on the device.
    pub via: Option<IpAddr>,
    /// Name of the device, empty where the route has none (`blackhole`).
    pub dev: String,
    /// Weight, from 1.
    pub weight: u32,
    /// State of the gateway's neighbour entry (`reachable`, `stale`, `failed`, …), `none` when the kernel has none,
    /// empty for a next hop without gateway.
    pub neighbour: String,
    /// `dead`, `linkdown`, `onlink`, as the kernel flags it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<&'static str>,
}

/// A route as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteView {
    /// Destination, `0.0.0.0/0` for the default route.
    pub prefix: String,
    /// Table number.
    pub table: u32,
    /// Who installed it: a name (`kernel`, `static`, `bird`, …) or the number.
    pub protocol: String,
    /// `unicast`, `blackhole`, `unreachable`, `prohibit`, `throw`, `local`, `broadcast`, …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Metric (priority); the lowest wins.
    pub metric: u32,
    /// Whether packets use it: it is the best of its prefix and has a next hop that works.
    pub active: bool,
    /// Preferred source address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefsrc: Option<IpAddr>,
    /// MTU of the route in bytes where it has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Next hops; empty for `blackhole` and its like.
    pub nexthops: Vec<NexthopView>,
}

/// A neighbour entry as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NeighbourView {
    /// IP address.
    pub address: IpAddr,
    /// Name of the device.
    pub dev: String,
    /// Ethernet address as text; empty when not known.
    pub mac: String,
    /// `reachable`, `stale`, `delay`, `probe`, `incomplete`, `failed`, `permanent`, `noarp`, `none`.
    pub state: &'static str,
    /// Whether the kernel keeps it resolved at Margay's wish (`NTF_EXT_MANAGED`).
    pub managed: bool,
}

/// A next-hop group of the data plane with the number of prefixes that share it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupView {
    /// The group's number.
    pub id: u32,
    /// `forward`, `glean`, `blackhole`, `unreachable`, `prohibit`, `not_a_port`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The members, as they take part in forwarding.
    pub members: Vec<MemberView>,
    /// How many prefixes use the group.
    pub routes: usize,
}

/// A member of a next-hop group of the data plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberView {
    /// The neighbour that frames go to.
    pub via: IpAddr,
    /// Name of the device.
    pub dev: String,
    /// Weight, from 1.
    pub weight: u32,
    /// `resolved`, `unresolved`, `failed`, `down`, `not_a_port`.
    pub state: &'static str,
}

/// One prefix on which the kernel and Margay do not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Destination.
    pub prefix: String,
    /// Table number.
    pub table: u32,
    /// What the kernel has, as text; empty when it has nothing.
    pub kernel: String,
    /// What Margay has, as text; empty when it has nothing.
    pub margay: String,
}

/// What happened, in the order in which the kernel told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A device appeared or changed. Ports that wait for it are opened on this event.
    Link {
        /// What happened to it.
        action: Action,
        /// The device as it is now; as it was last when it is gone.
        link: LinkView,
    },
    /// A route was added, replaced or removed. Only while [`watch`](super::Mirror::watch) is on.
    Route {
        /// What happened to it.
        action: Action,
        /// The route as the kernel's message has it.
        route: RouteView,
    },
    /// A neighbour entry changed. Only while [`watch`](super::Mirror::watch) is on.
    Neighbour {
        /// What happened to it.
        action: Action,
        /// The entry as it is now; as it was last when it is gone.
        neighbour: NeighbourView,
    },
    /// The kernel's state was read anew and compared.
    Resync {
        /// Why: `overrun`, `bad_message`, `verify`.
        cause: &'static str,
        /// Prefixes that had to be corrected.
        corrected: usize,
    },
}

/// What happened to the object of an [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It appeared.
    Added,
    /// It is another now.
    Changed,
    /// It is gone.
    Removed,
}
