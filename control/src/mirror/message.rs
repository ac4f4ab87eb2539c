//! Netlink messages as typed values: what the mirror uses of each, and nothing else.

use std::net::IpAddr;

use classifier::lpm::IpPrefix;
use forwarder::MacAddr;

pub use super::numbers::*;
use super::vrf::{RuleAction, RuleMsg};
use super::wire::{Attributes, Malformed, Packet, address, number, u8_at, u16_at, u32_at};

/// What a message says. `gone` tells deletions from additions and changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A network device.
    Link { gone: bool, link: LinkMsg },
    /// An address of the node.
    Address { gone: bool, address: AddressMsg },
    /// A neighbour entry.
    Neighbour { gone: bool, neighbour: NeighbourMsg },
    /// A route; `flags` are those of the netlink header and say how it was added.
    Route { gone: bool, flags: u16, route: RouteMsg },
    /// A nexthop object.
    Nexthop { gone: bool, nexthop: NexthopMsg },
    /// A policy rule.
    Rule { gone: bool, rule: RuleMsg },
    /// Whether routes over devices without carrier are left out: of one device, or of all of them.
    IgnoreLinkdown {
        v6: bool,
        ifindex: Option<u32>,
        on: bool,
    },
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkMsg {
    pub index: u32,
    pub name: String,
    /// `IFF_…`.
    pub flags: u32,
    pub mtu: u32,
    pub mac: Option<MacAddr>,
    /// Device that it is enslaved to, 0 when none.
    pub master: u32,
    /// Device that it is stacked upon (a VLAN's, a macvlan's), 0 when none.
    pub parent: u32,
    /// `veth`, `bridge`, …
    pub kind: String,
    /// The table of a VRF, 0 when it is none.
    pub vrf_table: u32,
}

impl LinkMsg {
    /// Administratively up.
    pub fn admin_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// Has a carrier.
    pub fn carrier(&self) -> bool {
        self.flags & CARRIER != 0
    }

    /// Packets can be sent.
    pub fn up(&self) -> bool {
        self.admin_up() && self.flags & CARRIER == CARRIER
    }
}

/// An address of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressMsg {
    pub index: u32,
    pub address: IpAddr,
    pub len: u8,
    pub scope: u8,
    /// `IFA_F_…`.
    pub flags: u32,
}

/// A neighbour entry of ARP or neighbour discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourMsg {
    pub index: u32,
    pub address: IpAddr,
    pub mac: Option<MacAddr>,
    /// `NUD_…`.
    pub state: u16,
    /// `NTF_EXT_MANAGED` is set.
    pub managed: bool,
    /// Who made the entry (`NDA_PROTOCOL`).
    pub protocol: u8,
}

/// One next hop, as a route or a nexthop object has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// Device, 0 when none.
    pub index: u32,
    /// Gateway, `None` when the destination itself is on the device.
    pub via: Option<IpAddr>,
    /// From 1.
    pub weight: u16,
    /// `DEAD`, `LINKDOWN`, `ONLINK`.
    pub flags: u8,
}

/// What a route leads to: all that routes to different prefixes can have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Whether the route is an IPv6 one; a gateway may be of the other family.
    pub v6: bool,
    /// `RTN_…`.
    pub kind: u8,
    /// `RT_SCOPE_…`.
    pub scope: u8,
    /// Nexthop object, 0 when none.
    pub nexthop: u32,
    /// Path MTU of the route, 0 when none.
    pub mtu: u32,
    /// Digest of what else tells routes apart but changes nothing here (metrics, realms), 0 when there is none.
    pub extras: u32,
    pub prefsrc: Option<IpAddr>,
    /// Sorted, so that equal targets compare equal.
    pub hops: Vec<Hop>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMsg {
    pub prefix: IpPrefix,
    pub table: u32,
    /// `RTPROT_…`.
    pub protocol: u8,
    /// Type of service that packets must have, 0 for any.
    pub tos: u8,
    pub metric: u32,
    pub target: Target,
}

/// A nexthop object: a single one, or a group of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NexthopMsg {
    pub id: u32,
    pub blackhole: bool,
    pub hop: Hop,
    /// Numbers and weights of the members, empty for a single one.
    pub group: Vec<(u32, u16)>,
}

/// Reads a message. `None` is one that is of no concern here: another kind, a bridge's own, a cached route.
pub fn read(packet: &Packet<'_>) -> Result<Option<Message>, Malformed> {
    let body = packet.payload;
    let gone = matches!(
        packet.kind,
        RTM_DELLINK | RTM_DELADDR | RTM_DELROUTE | RTM_DELNEIGH | RTM_DELNEXTHOP | RTM_DELRULE
    );
    Ok(match packet.kind {
        RTM_NEWROUTE | RTM_DELROUTE => read_route(body)?.map(|route| Message::Route {
            gone,
            flags: packet.flags,
            route,
        }),
        RTM_NEWLINK | RTM_DELLINK => read_link(body)?.map(|link| Message::Link { gone, link }),
        RTM_NEWADDR | RTM_DELADDR => read_address(body)?.map(|address| Message::Address { gone, address }),
        RTM_NEWNEIGH | RTM_DELNEIGH => {
            read_neighbour(body)?.map(|neighbour| Message::Neighbour { gone, neighbour })
        }
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
            read_nexthop(body)?.map(|nexthop| Message::Nexthop { gone, nexthop })
        }
        RTM_NEWRULE | RTM_DELRULE => read_rule(body)?.map(|rule| Message::Rule { gone, rule }),
        RTM_NEWNETCONF => read_netconf(body)?,
        _ => None,
    })
}

/// The attributes behind a header of `len` bytes.
fn behind<'a>(body: &'a [u8], len: usize, what: &'static str) -> Result<Attributes<'a>, Malformed> {
    Ok(Attributes(body.get(len..).ok_or(Malformed(what))?))
}

fn mac(value: &[u8]) -> Option<MacAddr> {
    value.try_into().ok()
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// Kinds of devices that receive what comes in on the device below them.
const STACKED: [&str; 6] = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"];

fn read_link(body: &[u8]) -> Result<Option<LinkMsg>, Malformed> {
    let attributes = behind(body, 16, "link header")?;
    // A bridge tells of its ports with messages of its own family; they are not about the device.
    if body[0] != AF_UNSPEC {
        return Ok(None);
    }
    let mut link = LinkMsg {
        index: u32_at(body, 4).unwrap_or(0),
        flags: u32_at(body, 8).unwrap_or(0),
        ..LinkMsg::default()
    };
    let (mut elsewhere, mut data) = (false, None);
    for attribute in attributes {
        match attribute? {
            (1, value) => link.mac = mac(value),
            (3, value) => link.name = text(value),
            (4, value) => link.mtu = number(value)?,
            (5, value) => link.parent = number(value)?,
            (10, value) => link.master = number(value)?,
            (37, _) => elsewhere = true,
            (18, value) => {
                for info in Attributes(value) {
                    match info? {
                        (1, value) => link.kind = text(value),
                        (2, value) => data = Some(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if let (Some(data), "vrf") = (data, link.kind.as_str()) {
        for attribute in Attributes(data) {
            if let (1, value) = attribute? {
                link.vrf_table = number(value)?;
            }
        }
    }
    if link.index == 0 {
        return Err(Malformed("link without index"));
    }
    // Of a veth it is the other end, of a tunnel what it sends by; of a device in another namespace the number means nothing.
    if elsewhere || !STACKED.contains(&link.kind.as_str()) {
        link.parent = 0;
    }
    Ok(Some(link))
}

fn read_address(body: &[u8]) -> Result<Option<AddressMsg>, Malformed> {
    let attributes = behind(body, 8, "address header")?;
    let (mut address_, mut local) = (None, None);
    let mut flags = u32::from(body[2]);
    for attribute in attributes {
        match attribute? {
            (1, value) => address_ = Some(address(value)?),
            (2, value) => local = Some(address(value)?),
            (8, value) => flags = number(value)?,
            _ => {}
        }
    }
    // On point-to-point links IFA_ADDRESS is the other end and IFA_LOCAL the node's own.
    let Some(own) = local.or(address_) else {
        return Ok(None);
    };
    Ok(Some(AddressMsg {
        index: u32_at(body, 4).unwrap_or(0),
        address: own,
        len: body[1],
        scope: body[3],
        flags,
    }))
}

fn read_neighbour(body: &[u8]) -> Result<Option<NeighbourMsg>, Malformed> {
    let attributes = behind(body, 12, "neighbour header")?;
    // Others are a bridge's forwarding table.
    if body[0] != AF_INET && body[0] != AF_INET6 {
        return Ok(None);
    }
    // Entries of a proxy (NTF_PROXY) are not neighbours, nor are those of broadcast and multicast addresses.
    if body[10] & 0x08 != 0 || matches!(body[11], 3 | 5) {
        return Ok(None);
    }
    let (mut address_, mut mac_, mut managed, mut protocol) = (None, None, false, 0);
    for attribute in attributes {
        match attribute? {
            (1, value) => address_ = Some(address(value)?),
            (2, value) => mac_ = mac(value),
            (12, value) => protocol = u8_at(value, 0).unwrap_or(0),
            (15, value) => managed = number(value)? & 1 != 0,
            _ => {}
        }
    }
    let Some(address) = address_ else { return Ok(None) };
    Ok(Some(NeighbourMsg {
        index: u32_at(body, 4).unwrap_or(0),
        address,
        mac: mac_,
        state: u16_at(body, 8).unwrap_or(0),
        managed,
        protocol,
    }))
}

/// Reads `struct rtmsg` with its attributes.
pub fn read_route(body: &[u8]) -> Result<Option<RouteMsg>, Malformed> {
    let attributes = behind(body, 12, "route header")?;
    let v6 = match body[0] {
        AF_INET => false,
        AF_INET6 => true,
        _ => return Ok(None),
    };
    let flags = u32_at(body, 8).unwrap_or(0);
    // Cached entries are not routes; routes that look at the source address too (subtrees) are not supported.
    if flags & RTM_F_CLONED != 0 || body[2] != 0 {
        return Ok(None);
    }
    let mut dst = None;
    let mut table = u32::from(body[4]);
    let mut metric = 0;
    let mut target = Target {
        v6,
        kind: body[7],
        scope: body[6],
        nexthop: 0,
        mtu: 0,
        extras: 0,
        prefsrc: None,
        hops: Vec::new(),
    };
    // rtm_flags carries the RTNH_F_… of a single next hop in its low byte.
    let mut single = Hop {
        index: 0,
        via: None,
        weight: 1,
        flags: flags as u8 & (DEAD | LINKDOWN | ONLINK),
    };
    let mut multipath = None;
    for attribute in attributes {
        match attribute? {
            (1, value) => dst = Some(address(value)?),
            (4, value) => single.index = number(value)?,
            (5, value) => single.via = Some(address(value)?),
            (6, value) => metric = number(value)?,
            (7, value) => target.prefsrc = Some(address(value)?),
            (8, value) => {
                target.mtu = read_mtu(value)?;
                target.extras = digest(target.extras, value);
            }
            (11, value) => target.extras = digest(target.extras, value),
            (9, value) => multipath = Some(value),
            (15, value) => table = number(value)?,
            (18, value) => single.via = Some(read_via(value)?),
            (22, value) => {
                single.flags |= ENCAP;
                target.extras = digest(target.extras, value);
            }
            (30, value) => target.nexthop = number(value)?,
            _ => {}
        }
    }
    match multipath {
        Some(value) => read_hops(value, &mut target.hops)?,
        None if single.index != 0 || single.via.is_some() => target.hops.push(single),
        None => {}
    }
    // The kernel sets the hop limit and the MTU of a router advertisement on its default route after it has announced the
    // route, and announces neither (ndisc_router_discovery in net/ipv6/ndisc.c): a later dump shows what no message
    // did. The device's MTU is what counts for such a route.
    if body[5] == PROTO_RA {
        (target.mtu, target.extras) = (0, 0);
    }
    // An IPv6 blackhole names the loopback device: nothing goes there.
    if matches!(target.kind, BLACKHOLE | UNREACHABLE | PROHIBIT | THROW) {
        target.hops.clear();
    }
    target.hops.sort_unstable();
    let dst = dst.unwrap_or(if v6 {
        IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
    });
    if dst.is_ipv6() != v6 {
        return Err(Malformed("route of another family"));
    }
    let prefix = IpPrefix::new(dst, body[1]).map_err(|_| Malformed("route prefix"))?;
    Ok(Some(RouteMsg {
        prefix,
        table,
        protocol: body[5],
        tos: body[3],
        metric,
        target,
    }))
}

/// Mixes bytes into a digest (FNV-1a), never 0.
fn digest(seed: u32, bytes: &[u8]) -> u32 {
    let start = if seed == 0 { 0x811c_9dc5 } else { seed };
    bytes
        .iter()
        .fold(start, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        })
        .max(1)
}

/// `RTAX_MTU` of `RTA_METRICS`.
fn read_mtu(value: &[u8]) -> Result<u32, Malformed> {
    for metric in Attributes(value) {
        if let (2, value) = metric? {
            return number(value);
        }
    }
    Ok(0)
}

/// `struct rtvia`: a family and an address of it.
fn read_via(value: &[u8]) -> Result<IpAddr, Malformed> {
    address(value.get(2..).ok_or(Malformed("via"))?)
}

/// `struct rtnexthop` one after another.
fn read_hops(mut bytes: &[u8], out: &mut Vec<Hop>) -> Result<(), Malformed> {
    while bytes.len() >= 8 {
        let len = usize::from(u16_at(bytes, 0).unwrap_or(0));
        if len < 8 || len > bytes.len() {
            return Err(Malformed("next hop length"));
        }
        let mut hop = Hop {
            index: u32_at(bytes, 4).unwrap_or(0),
            via: None,
            weight: u16::from(bytes[3]) + 1,
            flags: bytes[2] & (DEAD | LINKDOWN | ONLINK),
        };
        for attribute in Attributes(&bytes[8..len]) {
            match attribute? {
                (5, value) => hop.via = Some(address(value)?),
                (18, value) => hop.via = Some(read_via(value)?),
                (22, _) => hop.flags |= ENCAP,
                _ => {}
            }
        }
        out.push(hop);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(())
}

/// Reads `struct nhmsg` with its attributes.
fn read_nexthop(body: &[u8]) -> Result<Option<NexthopMsg>, Malformed> {
    let attributes = behind(body, 8, "nexthop header")?;
    let flags = u32_at(body, 4).unwrap_or(0) as u8 & (DEAD | LINKDOWN | ONLINK);
    let mut nexthop = NexthopMsg {
        id: 0,
        blackhole: false,
        hop: Hop {
            index: 0,
            via: None,
            weight: 1,
            flags,
        },
        group: Vec::new(),
    };
    let mut fdb = false;
    for attribute in attributes {
        match attribute? {
            (1, value) => nexthop.id = number(value)?,
            (2, value) => {
                for member in value.chunks_exact(8) {
                    // The high byte of the weight was reserved, and zero, before Linux 6.12.
                    let weight = u16::from(member[4]) | u16::from(member[5]) << 8;
                    nexthop.group.push((number(member)?, weight.saturating_add(1)));
                }
            }
            (4, _) => nexthop.blackhole = true,
            (5, value) => nexthop.hop.index = number(value)?,
            (6, value) => nexthop.hop.via = Some(address(value)?),
            (8, _) => nexthop.hop.flags |= ENCAP,
            (11, _) => fdb = true,
            _ => {}
        }
    }
    if nexthop.id == 0 {
        return Err(Malformed("nexthop without id"));
    }
    // Those of a bridge's forwarding table carry no routes.
    Ok((!fdb).then_some(nexthop))
}

/// Reads `struct fib_rule_hdr` with its attributes (`linux/fib_rules.h`). `None` is a rule that asks for more than a device, and so
/// is not followed; so is one for all devices, but for that of VRFs.
fn read_rule(body: &[u8]) -> Result<Option<RuleMsg>, Malformed> {
    /// `FIB_RULE_INVERT`.
    const INVERT: u32 = 2;
    let attributes = behind(body, 12, "rule header")?;
    let v6 = match body[0] {
        AF_INET => false,
        AF_INET6 => true,
        _ => return Ok(None),
    };
    let mut table = u32::from(body[4]);
    let mut asks_more = body[1] != 0 || body[2] != 0 || body[3] != 0;
    asks_more |= u32_at(body, 8).unwrap_or(0) & INVERT != 0;
    let (mut iif, mut preference, mut vrf) = (None, 0, false);
    for attribute in attributes {
        match attribute? {
            (3, value) => iif = Some(text(value)),
            (6, value) => preference = number(value)?,
            (15, value) => table = number(value)?,
            (19, value) => vrf = u8_at(value, 0).unwrap_or(0) != 0,
            // Realms, padding, who made the rule.
            (11 | 18 | 21, _) => {}
            // Routes that are passed over, unless the value says none (-1).
            (13 | 14, value) => asks_more |= number(value)? != u32::MAX,
            // Addresses, marks, other devices, users, protocols, ports, and what later kernels may add.
            _ => asks_more = true,
        }
    }
    let action = match body[7] {
        1 if vrf => RuleAction::Vrf,
        1 => RuleAction::Lookup(table),
        6..=8 => RuleAction::End,
        _ => return Ok(None),
    };
    let followed = !asks_more && (iif.is_some() != (action == RuleAction::Vrf));
    Ok(followed.then_some(RuleMsg {
        v6,
        preference,
        iif,
        action,
    }))
}

fn read_netconf(body: &[u8]) -> Result<Option<Message>, Malformed> {
    let attributes = behind(body, 4, "netconf header")?;
    let v6 = match body[0] {
        AF_INET => false,
        AF_INET6 => true,
        _ => return Ok(None),
    };
    let (mut ifindex, mut on) = (None, None);
    for attribute in attributes {
        match attribute? {
            (1, value) => ifindex = Some(number(value)? as i32),
            (6, value) => on = Some(number(value)? != 0),
            _ => {}
        }
    }
    let (Some(ifindex), Some(on)) = (ifindex, on) else {
        return Ok(None);
    };
    // -1 stands for all devices, -2 for the default of devices to come.
    let ifindex = match ifindex {
        -1 => None,
        index if index > 0 => Some(index as u32),
        _ => return Ok(None),
    };
    Ok(Some(Message::IgnoreLinkdown { v6, ifindex, on }))
}
