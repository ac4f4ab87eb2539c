//! What a worker would do with a packet, told without sending one.

use std::net::IpAddr;

use classifier::acl::Match;
use classifier::lpm::IpPrefix;
use classifier::packet::Headers;

use super::lanes::{Lanes, Link, Verdict};
use super::stages::{self, View};
use super::{finish, fragment};
use crate::fib::{AdjId, Adjacency, Fib, GroupId, TableId};
use crate::reason::Reason;
use crate::settings::{AntiSpoof, PortId};
use crate::tables::Shared;

/// What becomes of an explained packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Sent on, at once or when its neighbour is known.
    Forward,
    /// Answered with an ICMP error or a TCP reset.
    Reply,
    /// The node's own: left to the kernel, which has its own firewall.
    Local,
    /// Dropped.
    Drop,
}

impl Fate {
    /// The word used in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Fate::Forward => "forward",
            Fate::Reply => "reply",
            Fate::Local => "local",
            Fate::Drop => "drop",
        }
    }
}

/// What a worker would do with a packet, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// What becomes of it.
    pub fate: Fate,
    /// Why it is not forwarded; `None` when it is.
    pub reason: Option<Reason>,
    /// Which sources the ingress port accepts.
    pub anti_spoof: AntiSpoof,
    /// Whether this source is among them; `None` when that is not asked.
    pub source_belongs: Option<bool>,
    /// What the ingress port's list says; `None` without a list, or when the packet does not come so far.
    pub ingress_rule: Option<Match>,
    /// What the egress port's list says; `None` without a list, or when the packet does not come so far.
    pub egress_rule: Option<Match>,
    /// The route of the destination, whether or not the packet comes so far.
    pub route: Option<(TableId, IpPrefix, GroupId)>,
    /// The member that the flow takes.
    pub member: Option<(AdjId, Adjacency)>,
    /// The flow's hash, which has chosen the member.
    pub hash: u32,
    /// Largest IP packet that goes this way, in bytes; `None` without a way.
    pub mtu: Option<u32>,
    /// In how many fragments it is sent: 1 when it goes whole, 0 when it is not forwarded.
    pub fragments: usize,
    /// The neighbour that it is given to, on the device of that index; `None` without a way.
    pub neighbour: Option<(IpAddr, u32)>,
    /// The port that it leaves by.
    pub egress_port: Option<PortId>,
    /// Whether the next hop's Ethernet address is known; a packet to one that is not waits for it.
    pub resolved: bool,
}

/// Explains a packet that comes in through `port`, by the very functions that workers run. Nothing is counted. That a
/// worker answers only so many packets a second, and holds only so many, is left out.
///
/// Packets to the node's own addresses never reach a worker; who knows these addresses says `local` before asking here.
pub fn explain(shared: &Shared, fib: &Fib, headers: &Headers, port: PortId) -> Explanation {
    let reader = shared.domain().register();
    let online = reader.online();
    let view = View::new(shared, &online, port, None);
    let mut lanes = Lanes::new();
    lanes.push(*headers, u32::from(headers.l3) + u32::from(headers.len));

    stages::addresses(&view, &mut lanes);
    if !view.port.open {
        // A worker does not even look at what is in the frame.
        lanes.verdict[0] = Verdict::Drop(Reason::PortClosed);
    }
    let came_in = lanes.goes(0);
    stages::ingress_acl(&view, &mut lanes);
    stages::ttl(&mut lanes);
    stages::routes(&view, &mut lanes);
    stages::hashes(&view, &mut lanes);
    stages::next_hops(&view, &mut lanes);
    stages::mtu(&mut lanes);
    let goes_out = lanes.goes(0);
    stages::egress_acl(&view, &mut lanes);

    let next = lanes.next[0];
    let (fate, reason) = match lanes.verdict[0] {
        Verdict::Go => (Fate::Forward, None),
        Verdict::Drop(Reason::Local) => (Fate::Local, Some(Reason::Local)),
        Verdict::Drop(reason) => (Fate::Drop, Some(reason)),
        Verdict::Answer(reason) => {
            // As of a frame to the port itself: the steering program passes no other one.
            let plan = finish::plan(&view, headers, &[0], reason, next.mtu);
            let fate = if plan.is_some() { Fate::Reply } else { Fate::Drop };
            (fate, Some(reason))
        }
    };
    let has_way = !matches!(next.link, Link::Never(_));
    // No list is asked about what it cannot see.
    let is_hidden = headers.flaw.is_some_and(|flaw| flaw.hides_transport());
    let is_martian = !came_in && reason != Some(Reason::SpoofedSource);
    let has_list = |id, direction: fn(&crate::tables::Port) -> bool| direction(shared.port(&online, id));
    Explanation {
        fate,
        reason,
        anti_spoof: view.port.anti_spoof,
        source_belongs: (view.port.anti_spoof != AntiSpoof::Off && !is_martian).then_some(came_in),
        ingress_rule: (came_in && !is_hidden && view.port.ingress.is_some()).then_some(lanes.ingress[0]),
        egress_rule: (goes_out && !is_hidden && has_list(next.egress, |port| port.egress.is_some()))
            .then_some(lanes.egress[0]),
        route: fib.lookup(view.port.vrf, stages::address(headers.family, headers.dst)),
        member: next.adj.and_then(|adj| Some((adj, *fib.adjacency(adj)?))),
        hash: lanes.hash[0],
        mtu: has_way.then_some(next.mtu),
        fragments: if fate == Fate::Forward {
            fragment::count(headers, next.mtu).unwrap_or(0)
        } else {
            0
        },
        neighbour: has_way.then_some((next.neighbour, next.ifindex)),
        egress_port: has_way.then_some(next.egress),
        resolved: matches!(next.link, Link::Ready { .. }),
    }
}
