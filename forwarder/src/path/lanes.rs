//! The packets of one burst, side by side: each stage goes over all of them before the next one begins.

use std::net::{IpAddr, Ipv4Addr};

use classifier::acl::Match;
use classifier::lpm::NO_ROUTE;
use classifier::packet::Headers;

use super::BURST;
use crate::fib::AdjId;
use crate::frame::Frame;
use crate::reason::Reason;
use crate::settings::{MacAddr, PortId};

/// What the stages have decided about a packet so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Still on its way.
    Go,
    /// Dropped silently.
    Drop(Reason),
    /// Not forwarded: answered with an ICMP error if one is due, else dropped.
    Answer(Reason),
}

/// How the next hop can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// By these Ethernet addresses.
    Ready { dst: MacAddr, src: MacAddr },
    /// Not yet: the neighbour is being resolved.
    Waiting,
    /// Not at all.
    Never(Verdict),
}

/// Where a packet goes next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NextHop {
    /// The adjacency; `None` for a host of a connected prefix that is not known yet.
    pub(crate) adj: Option<AdjId>,
    /// The port to leave by; valid unless `link` is `Never`.
    pub(crate) egress: PortId,
    /// The device of the neighbour, 0 when there is none.
    pub(crate) ifindex: u32,
    /// The neighbour.
    pub(crate) neighbour: IpAddr,
    /// Largest IP packet that goes this way.
    pub(crate) mtu: u32,
    pub(crate) link: Link,
}

impl NextHop {
    /// No way on, and why.
    pub(crate) const fn never(verdict: Verdict) -> NextHop {
        NextHop {
            adj: None,
            egress: PortId(0),
            ifindex: 0,
            neighbour: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            mtu: 0,
            link: Link::Never(verdict),
        }
    }
}

/// The burst. Lane `i` of each array belongs to one packet; `headers` and `frames` end where the burst does.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(crate) headers: Vec<Headers>,
    /// Parallel to `headers`; empty when a packet is only explained.
    pub(crate) frames: Vec<Frame>,
    /// Bytes of each frame.
    pub(crate) lens: [u32; BURST],
    pub(crate) verdict: [Verdict; BURST],
    /// What the ingress list said, where there is one.
    pub(crate) ingress: [Match; BURST],
    /// What the egress list said, where there is one.
    pub(crate) egress: [Match; BURST],
    /// The group number of the route.
    pub(crate) group: [u32; BURST],
    /// The flow's hash.
    pub(crate) hash: [u32; BURST],
    pub(crate) next: [NextHop; BURST],
    /// Headers gathered for one egress list.
    pub(crate) gathered: Vec<Headers>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self {
            headers: Vec::with_capacity(BURST),
            frames: Vec::with_capacity(BURST),
            lens: [0; BURST],
            verdict: [Verdict::Go; BURST],
            ingress: [Match::default(); BURST],
            egress: [Match::default(); BURST],
            group: [NO_ROUTE; BURST],
            hash: [0; BURST],
            next: [NextHop::never(Verdict::Go); BURST],
            gathered: Vec::with_capacity(BURST),
        }
    }

    /// Starts a burst.
    pub(crate) fn clear(&mut self) {
        self.headers.clear();
        debug_assert!(
            self.frames.is_empty(),
            "a burst ends with every frame somewhere else"
        );
    }

    /// Adds a packet that has passed validation.
    #[inline]
    pub(crate) fn push(&mut self, headers: Headers, len: u32) {
        let lane = self.headers.len();
        self.headers.push(headers);
        self.lens[lane] = len;
        self.verdict[lane] = Verdict::Go;
    }

    /// How many packets.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.headers.len()
    }

    /// Whether the packet is still on its way.
    #[inline]
    pub(crate) fn goes(&self, lane: usize) -> bool {
        self.verdict[lane] == Verdict::Go
    }
}
