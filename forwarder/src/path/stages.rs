//! The stages of a packet's way that only look at headers and tables: workers run them over bursts, `explain` over one
//! packet. None of them touches a frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use classifier::acl::{Action, Match};
use classifier::lpm::{BURST as LPM_BURST, NO_ROUTE};
use classifier::packet::{Family, Flaw, Headers, Malformed, Martian, martian};
use classifier::qsbr::Online;

use super::lanes::{Lanes, Link, NextHop, Verdict};
use super::{BURST, fragment};
use crate::acl::Instance;
use crate::fib::{AdjId, AdjState, GroupId, Target};
use crate::reason::Reason;
use crate::settings::{AntiSpoof, PortId};
use crate::tables::{Port, Shared};
use crate::watch::{Decided, Tap};

const _: () = assert!(BURST <= LPM_BURST && BURST <= classifier::acl::BURST);

/// The tables as they stand for one burst from one port.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) online: &'a Online<'a>,
    /// The port that the burst came in through.
    pub(crate) id: PortId,
    pub(crate) port: &'a Port,
    /// Whose rule counters count; `None` counts nothing.
    pub(crate) worker: Option<usize>,
    /// Who wants to see packets.
    pub(crate) taps: &'a [Arc<Tap>],
}

impl<'a> View<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        online: &'a Online<'a>,
        id: PortId,
        worker: Option<usize>,
    ) -> View<'a> {
        View {
            shared,
            online,
            id,
            port: shared.port(online, id),
            worker,
            taps: shared.watch().taps(online),
        }
    }

    /// Whether anybody wants to see packets.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        !self.taps.is_empty()
    }
}

/// An address as the control thread writes it.
pub(crate) fn address(family: Family, address: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(address as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(address).into(),
    }
}

/// The reason that a malformed packet is dropped for.
pub(crate) fn malformed(fault: Malformed) -> Reason {
    match fault {
        Malformed::NotIp => Reason::NotIp,
        Malformed::Truncated => Reason::Truncated,
        Malformed::BadVersion => Reason::BadVersion,
        Malformed::BadHeaderLength => Reason::BadHeaderLength,
        Malformed::BadTotalLength => Reason::BadTotalLength,
        Malformed::BadChecksum => Reason::BadChecksum,
    }
}

/// The reason that a packet with a flaw is stopped for: at once, or where a list has to look at what the flaw hides.
fn flawed(flaw: Flaw) -> Reason {
    match flaw {
        Flaw::BadOption(_) => Reason::BadOptions,
        Flaw::ExtensionChain => Reason::ExtensionChain,
        Flaw::TransportTruncated => Reason::TransportTruncated,
        Flaw::TinyFragment => Reason::TinyFragment,
    }
}

/// The reason that no list can judge a packet, if there is one. Without a list nobody on the way has to look there
/// (RFC 8200 4).
#[inline]
fn hidden(headers: &Headers) -> Option<Verdict> {
    let flaw = headers.flaw.filter(|flaw| flaw.hides_transport())?;
    Some(Verdict::Drop(flawed(flaw)))
}

/// Addresses that are never forwarded (RFC 1812 5.3.7), source routes, and sources that do not belong behind the port.
pub(crate) fn addresses(view: &View<'_>, lanes: &mut Lanes) {
    for lane in 0..lanes.len() {
        let headers = &lanes.headers[lane];
        if let Some(fault) = martian(headers) {
            lanes.verdict[lane] = Verdict::Drop(match fault {
                Martian::Source => Reason::MartianSource,
                Martian::Destination => Reason::MartianDestination,
                Martian::LinkLocal => Reason::LinkLocal,
            });
        } else if headers.source_route && headers.family == Family::V4 {
            // RFC 7126 4.3 and 4.4 advise to drop them. An IPv6 routing header is for its own destinations to judge
            // (RFC 8200 4.4): a router on the way does not look at it.
            lanes.verdict[lane] = Verdict::Drop(Reason::SourceRoute);
        }
    }
    if view.port.anti_spoof == AntiSpoof::Off {
        return;
    }
    let mut groups = [NO_ROUTE; BURST];
    lookup(view, &lanes.headers, |headers| headers.src, &mut groups);
    for (lane, group) in groups.iter().enumerate().take(lanes.len()) {
        if lanes.goes(lane) && !belongs(view, GroupId(*group)) {
            lanes.verdict[lane] = Verdict::Drop(Reason::SpoofedSource);
        }
    }
}

/// Whether a source with that route may come in through the port (RFC 3704 2.2 and 2.4).
fn belongs(view: &View<'_>, group: GroupId) -> bool {
    let routes = view.shared.routes();
    let Some(image) = routes.group(view.online, group) else {
        return false;
    };
    let strict = view.port.anti_spoof == AntiSpoof::Strict;
    match &image.target {
        Target::One(_) | Target::Many(_) if strict => image.members().iter().any(|adj| {
            let adjacency = routes.adjacency(view.online, *adj);
            adjacency.port == Some(view.id) || adjacency.ifindex == view.port.ifindex
        }),
        Target::Glean { ifindex, port } if strict => *port == Some(view.id) || *ifindex == view.port.ifindex,
        Target::NotAPort => !strict,
        Target::One(_) | Target::Many(_) | Target::Glean { .. } => true,
        Target::Nothing
        | Target::Throw
        | Target::Blackhole
        | Target::Unreachable
        | Target::Prohibit
        | Target::Local => false,
    }
}

/// What the port's ingress list says.
pub(crate) fn ingress_acl(view: &View<'_>, lanes: &mut Lanes) {
    let Some(list) = &view.port.ingress else { return };
    list.image().classify_burst(&lanes.headers, &mut lanes.ingress);
    for lane in 0..lanes.len() {
        if lanes.goes(lane) {
            let decision = lanes.ingress[lane];
            let refused = (Reason::AclIngress, Reason::AclRejectIngress);
            lanes.verdict[lane] = hidden(&lanes.headers[lane])
                .unwrap_or_else(|| judged(view, list, decision, lanes.lens[lane], refused));
        }
    }
}

/// Counts the decision of a list and turns it into a verdict; `refused` are the reasons for deny and reject.
fn judged(view: &View<'_>, list: &Instance, decision: Match, len: u32, refused: (Reason, Reason)) -> Verdict {
    if let Some(worker) = view.worker {
        list.count(worker, decision, len as usize);
    }
    match decision.action {
        Action::Allow => Verdict::Go,
        Action::Deny => Verdict::Drop(refused.0),
        Action::Reject => Verdict::Answer(refused.1),
    }
}

/// A packet whose TTL or hop limit would become zero goes no further (RFC 1812 5.3.1, RFC 8200 3), nor does one whose
/// options cannot be walked (RFC 1812 4.3.3.5).
pub(crate) fn ttl(lanes: &mut Lanes) {
    for lane in 0..lanes.len() {
        let headers = &lanes.headers[lane];
        let reason = match headers.flaw {
            Some(flaw @ Flaw::BadOption(_)) => flawed(flaw),
            _ if headers.ttl <= 1 => Reason::TtlExceeded,
            _ => continue,
        };
        if lanes.goes(lane) {
            lanes.verdict[lane] = Verdict::Answer(reason);
        }
    }
}

/// The route of each destination.
pub(crate) fn routes(view: &View<'_>, lanes: &mut Lanes) {
    lookup(view, &lanes.headers, |headers| headers.dst, &mut lanes.group);
}

fn lookup(view: &View<'_>, headers: &[Headers], key: impl Fn(&Headers) -> u128, groups: &mut [u32; BURST]) {
    let mut keys = [(Family::V4, 0); BURST];
    for (slot, headers) in keys.iter_mut().zip(headers) {
        *slot = (headers.family, key(headers));
    }
    view.shared
        .routes()
        .lookup_burst(view.online, view.port.vrf, &keys[..headers.len()], groups);
}

/// The hash of each flow, by the packets' own headers.
pub(crate) fn hashes(view: &View<'_>, lanes: &mut Lanes) {
    for (hash, headers) in lanes.hash.iter_mut().zip(&lanes.headers) {
        *hash = view.shared.routes().hash(headers);
    }
}

/// The group's member for each flow, and its adjacency.
pub(crate) fn next_hops(view: &View<'_>, lanes: &mut Lanes) {
    for lane in 0..lanes.len() {
        if lanes.goes(lane) {
            let next = next_hop(view, lanes.group[lane], &lanes.headers[lane], lanes.hash[lane]);
            if let Link::Never(verdict) = next.link {
                lanes.verdict[lane] = verdict;
            }
            lanes.next[lane] = next;
        }
    }
}

/// The smallest MTU of IPv6 (RFC 8200 5): no router answers with a smaller one, whatever a route says.
const MIN_MTU6: u32 = 1280;

/// Where a packet with that route goes.
pub(crate) fn next_hop(view: &View<'_>, group: u32, headers: &Headers, hash: u32) -> NextHop {
    let next = by_group(view, group, headers, hash);
    match headers.family {
        Family::V6 if next.mtu < MIN_MTU6 => NextHop {
            mtu: MIN_MTU6,
            ..next
        },
        _ => next,
    }
}

fn by_group(view: &View<'_>, group: u32, headers: &Headers, hash: u32) -> NextHop {
    let routes = view.shared.routes();
    let answer = |reason| NextHop::never(Verdict::Answer(reason));
    let drop = |reason| NextHop::never(Verdict::Drop(reason));
    let Some(image) = routes.group(view.online, GroupId(group)) else {
        return answer(Reason::NoRoute);
    };
    match &image.target {
        Target::One(adj) => by_adjacency(view, *adj),
        Target::Many(buckets) => by_adjacency(
            view,
            buckets.pick(hash, |adj| routes.adjacency(view.online, adj).lost()),
        ),
        Target::Glean {
            port: Some(port),
            ifindex,
        } => by_port(
            view,
            *port,
            NextHop {
                adj: None,
                egress: *port,
                ifindex: *ifindex,
                neighbour: address(headers.family, headers.dst),
                mtu: 0,
                link: Link::Waiting,
            },
        ),
        Target::Glean { port: None, .. } | Target::NotAPort => answer(Reason::EgressNotAPort),
        Target::Nothing | Target::Throw => answer(Reason::NoRoute),
        Target::Unreachable => answer(Reason::Unreachable),
        Target::Prohibit => answer(Reason::Prohibit),
        Target::Blackhole => drop(Reason::Blackhole),
        Target::Local => drop(Reason::Local),
    }
}

fn by_adjacency(view: &View<'_>, adj: AdjId) -> NextHop {
    let adjacency = view.shared.routes().adjacency(view.online, adj);
    let never = |reason| Link::Never(Verdict::Answer(reason));
    let next = NextHop {
        adj: Some(adj),
        egress: adjacency.port.unwrap_or(PortId(0)),
        ifindex: adjacency.ifindex,
        neighbour: adjacency.neighbour,
        mtu: adjacency.mtu,
        link: match (adjacency.port, adjacency.state) {
            // An adjacency that was taken away has no device either.
            (None, _) if adjacency.ifindex != 0 => never(Reason::EgressNotAPort),
            (None, _) | (_, AdjState::Down) => never(Reason::EgressDown),
            (_, AdjState::Failed) => never(Reason::NeighbourUnresolved),
            (_, AdjState::Unresolved) => Link::Waiting,
            (_, AdjState::Resolved { dst, src }) => Link::Ready { dst, src },
        },
    };
    match adjacency.port {
        Some(port) => by_port(view, port, next),
        None => next,
    }
}

/// What the egress port adds: whether it is there at all, and its MTU.
fn by_port(view: &View<'_>, id: PortId, mut next: NextHop) -> NextHop {
    let port = view.shared.port(view.online, id);
    if !matches!(next.link, Link::Never(_)) {
        if !port.open {
            next.link = Link::Never(Verdict::Drop(Reason::PortClosed));
        } else if !port.up {
            next.link = Link::Never(Verdict::Answer(Reason::EgressDown));
        }
    }
    next.mtu = match (next.mtu, port.mtu) {
        (0, 0) => u32::MAX,
        (0, mtu) | (mtu, 0) => mtu,
        (way, port) => way.min(port),
    };
    next
}

/// A packet that does not fit the next link is answered if nobody on the way may fragment it (RFC 1191 4, RFC 8200 5), and
/// else goes on, to be sent in fragments at the end of its way.
pub(crate) fn mtu(lanes: &mut Lanes) {
    for lane in 0..lanes.len() {
        if lanes.goes(lane) {
            lanes.verdict[lane] = fits(&lanes.headers[lane], lanes.next[lane].mtu);
        }
    }
}

/// Whether a packet fits a link of that MTU.
pub(crate) fn fits(headers: &Headers, mtu: u32) -> Verdict {
    if u32::from(headers.len) <= mtu {
        Verdict::Go
    } else if headers.dont_fragment {
        Verdict::Answer(Reason::MtuExceeded)
    } else if fragment::count(headers, mtu).is_some() {
        Verdict::Go
    } else {
        Verdict::Drop(Reason::MtuExceeded)
    }
}

/// What the egress ports' lists say, one call for all packets to the same port.
pub(crate) fn egress_acl(view: &View<'_>, lanes: &mut Lanes) {
    let mut waiting: u64 = 0;
    for lane in 0..lanes.len() {
        if lanes.goes(lane) {
            waiting |= 1 << lane;
        }
    }
    while waiting != 0 {
        let egress = lanes.next[waiting.trailing_zeros() as usize].egress;
        let mut same: u64 = 0;
        let mut rest = waiting;
        while rest != 0 {
            let lane = rest.trailing_zeros();
            rest &= rest - 1;
            same |= u64::from(lanes.next[lane as usize].egress == egress) << lane;
        }
        waiting &= !same;
        if let Some(list) = &view.shared.port(view.online, egress).egress {
            egress_list(view, lanes, list, same);
        }
    }
}

/// Applies one list to the lanes whose bits are set.
fn egress_list(view: &View<'_>, lanes: &mut Lanes, list: &Instance, set: u64) {
    let mut decisions = [Match::default(); BURST];
    lanes.gathered.clear();
    let mut rest = set;
    while rest != 0 {
        lanes.gathered.push(lanes.headers[rest.trailing_zeros() as usize]);
        rest &= rest - 1;
    }
    list.image().classify_burst(&lanes.gathered, &mut decisions);
    let mut rest = set;
    for decision in decisions.iter().take(lanes.gathered.len()) {
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        lanes.egress[lane] = *decision;
        let refused = (Reason::AclEgress, Reason::AclRejectEgress);
        lanes.verdict[lane] = hidden(&lanes.headers[lane])
            .unwrap_or_else(|| judged(view, list, *decision, lanes.lens[lane], refused));
    }
}

/// What one egress list says about one packet that was held, and by which rule.
pub(crate) fn egress_again(
    view: &View<'_>,
    headers: &Headers,
    egress: PortId,
    len: u32,
) -> (Verdict, Decided) {
    match &view.shared.port(view.online, egress).egress {
        None => (Verdict::Go, Decided::NONE),
        Some(list) => {
            let found = list.image().classify(headers);
            let refused = (Reason::AclEgress, Reason::AclRejectEgress);
            let decided = Decided {
                list: list.serial(),
                found,
            };
            match hidden(headers) {
                Some(verdict) => (verdict, Decided::NONE),
                None => (judged(view, list, found, len, refused), decided),
            }
        }
    }
}

/// The rule that stopped a packet, if an access list did.
#[inline]
pub(crate) fn decided(view: &View<'_>, lanes: &Lanes, lane: usize) -> Decided {
    let (Verdict::Drop(reason) | Verdict::Answer(reason)) = lanes.verdict[lane] else {
        return Decided::NONE;
    };
    match reason {
        Reason::AclIngress | Reason::AclRejectIngress => {
            by_list(view.port.ingress.as_deref(), lanes.ingress[lane])
        }
        Reason::AclEgress | Reason::AclRejectEgress => {
            let egress = view.shared.port(view.online, lanes.next[lane].egress);
            by_list(egress.egress.as_deref(), lanes.egress[lane])
        }
        _ => Decided::NONE,
    }
}

/// What a list said, if there is one.
pub(crate) fn by_list(list: Option<&Instance>, found: Match) -> Decided {
    list.map_or(Decided::NONE, |list| Decided {
        list: list.serial(),
        found,
    })
}
