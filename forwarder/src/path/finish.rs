//! The end of a packet's way: it departs, waits for its neighbour, is answered, or is dropped and counted.

use std::time::Instant;

use classifier::packet::Headers;

use super::fragment::{self, Scratch};
use super::lanes::{Link, NextHop, Verdict};
use super::stages::{self, View};
use super::{Departure, Kind, Outcome, rewrite};
use crate::counters::WorkerCounters;
use crate::fib::GroupId;
use crate::frame::{Frame, Memory};
use crate::hold::{Held, Hold};
use crate::icmp::{self, Bucket};
use crate::reason::Reason;
use crate::tables::{NeighbourRequest, Shared};
use crate::watch::{Decided, End};

/// Rewrites the packet that `headers` describe and hands it over to be sent.
#[inline]
pub(super) fn depart(
    view: &View<'_>,
    mem: &mut impl Memory,
    mut departure: Departure,
    headers: &Headers,
    next: &NextHop,
    out: &mut Outcome,
) {
    rewritten(view, mem, &mut departure, headers, next);
    out.tx.push(departure);
}

/// Shortest Ethernet frame without its check sequence (IEEE 802.3): so many bytes are passed on even of a packet that needs
/// fewer.
const SHORTEST: u32 = 60;

/// Writes into a departing packet what a router changes, and takes off what came behind it.
#[inline]
fn rewritten(
    view: &View<'_>,
    mem: &mut impl Memory,
    departure: &mut Departure,
    headers: &Headers,
    next: &NextHop,
) {
    let end = u32::from(headers.l3) + u32::from(headers.len);
    if departure.len > end && departure.len > SHORTEST {
        departure.len = end.max(SHORTEST);
        mem.set_len(&mut departure.frame, departure.len as usize);
    }
    if let Link::Ready { dst, src } = next.link {
        let bytes = mem.data_mut(&mut departure.frame);
        rewrite::ethernet(bytes, dst, src);
        if departure.kind == Kind::Transit {
            rewrite::ttl(bytes, headers);
        }
    }
    if let Some(adj) = next.adj {
        view.shared.routes().mark_used(adj);
    }
}

/// What a worker keeps from one burst to the next.
#[derive(Debug)]
pub(super) struct Finish {
    pub(super) hold: Hold,
    icmp: Bucket,
    /// Identification of the next IPv4 answer (RFC 6864 4.1 asks for uniqueness only where it is fragmented).
    id: u16,
    scratch: Scratch,
}

/// This worker's counters. The view's worker is always known here: only `explain` has none, and ends before.
pub(super) fn counters<'a>(view: &View<'a>) -> &'a WorkerCounters {
    view.shared.counters().worker(view.worker.unwrap_or(0))
}

/// Nanoseconds of the worker's clock, read anew. Only packets that do not simply pass on need it.
fn now(shared: &Shared) -> u64 {
    shared.counters().nanoseconds(Instant::now())
}

impl Finish {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            hold: Hold::new(),
            icmp: Bucket::new(shared.icmp()),
            id: 0,
            scratch: Scratch::new(),
        }
    }

    /// A packet that has passed all stages, or was stopped by one: `next` is its next hop, if it came so far, and
    /// `decided` is the rule that stopped it, if one did. Returns what became of it.
    #[inline]
    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of one decision, borrowed from different places"
    )]
    pub(super) fn packet(
        &mut self,
        view: &View<'_>,
        mem: &mut impl Memory,
        packet: Held,
        verdict: Verdict,
        decided: Decided,
        next: &NextHop,
        out: &mut Outcome,
    ) -> End {
        match (verdict, next.link) {
            (Verdict::Go, Link::Ready { .. }) => self.send(view, mem, packet, next, out),
            (Verdict::Go, Link::Waiting) => self.wait(view, mem, packet, next, out),
            (Verdict::Go, Link::Never(Verdict::Drop(reason))) | (Verdict::Drop(reason), _) => {
                discard(view, mem, packet, reason, decided, out)
            }
            (Verdict::Go, Link::Never(Verdict::Answer(reason))) | (Verdict::Answer(reason), _) => {
                if reason == Reason::NeighbourUnresolved && next.ifindex != 0 {
                    // The kernel gave up; it may try again, but not for every packet.
                    self.hold
                        .ask_again(view.shared, neighbour(next), now(view.shared));
                }
                self.answer(view, mem, packet, reason, decided, next.mtu, out)
            }
            // No stage leaves a next hop like this behind; a packet without a way on has no route.
            (Verdict::Go, Link::Never(Verdict::Go)) => {
                discard(view, mem, packet, Reason::NoRoute, decided, out)
            }
        }
    }

    /// Sends a packet, in fragments if it does not fit the link.
    fn send(
        &mut self,
        view: &View<'_>,
        mem: &mut impl Memory,
        packet: Held,
        next: &NextHop,
        out: &mut Outcome,
    ) -> End {
        let is_whole = u32::from(packet.headers.len) <= next.mtu || packet.kind == Kind::Originated;
        let parts = if is_whole {
            None
        } else {
            match fragment::plan(mem, &packet.frame, &packet.headers, next.mtu, out) {
                Ok(parts) => Some(parts),
                Err(reason) => return discard(view, mem, packet, reason, Decided::NONE, out),
            }
        };
        let Held {
            frame,
            headers,
            ingress,
            kind,
            hash,
            len,
            ..
        } = packet;
        let mut departure = Departure {
            frame,
            ingress,
            egress: next.egress,
            hash,
            kind,
            len,
        };
        rewritten(view, mem, &mut departure, &headers, next);
        match parts {
            None => out.tx.push(departure),
            Some(parts) => self.scratch.send(mem, departure, &headers, parts, out),
        }
        End::Forwarded
    }

    /// Holds the packet while its neighbour is being resolved.
    fn wait(
        &mut self,
        view: &View<'_>,
        mem: &impl Memory,
        packet: Held,
        next: &NextHop,
        out: &mut Outcome,
    ) -> End {
        let ingress = packet.ingress;
        match self
            .hold
            .push(view.shared, neighbour(next), packet, now(view.shared))
        {
            Ok(()) => {
                counters(view).held(ingress);
                End::Held
            }
            Err(packet) => discard(view, mem, packet, Reason::HoldFull, Decided::NONE, out),
        }
    }

    /// Answers the packet, if an answer is due and there is a way for it; else it is dropped. Answers are routed like
    /// any packet but pass no access list: they are the node's own.
    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of one decision, borrowed from different places"
    )]
    fn answer(
        &mut self,
        view: &View<'_>,
        mem: &mut impl Memory,
        mut packet: Held,
        reason: Reason,
        decided: Decided,
        mtu: u32,
        out: &mut Outcome,
    ) -> End {
        let about = packet.headers;
        let plan = if packet.kind == Kind::Originated {
            None
        } else {
            plan(view, &about, mem.data(&packet.frame), reason, mtu)
        };
        let Some(Plan {
            answer,
            source,
            hash,
            next,
        }) = plan
        else {
            return discard(view, mem, packet, reason, decided, out);
        };
        if !self.icmp.take(now(view.shared)) {
            return discard(view, mem, packet, Reason::IcmpRateLimited, decided, out);
        }
        if packet.frame.is_chained() {
            // The answer quotes the packet's start and is written into its first frame. Behind the packet's bytes there are
            // another packet's: what the frame does not hold cannot be quoted.
            if mem.data(&packet.frame).len() < icmp::QUOTED {
                return discard(view, mem, packet, reason, decided, out);
            }
            mem.cut(&mut packet.frame, &mut out.free);
        }
        let to = icmp::headers(answer, &about, source);
        let room = mem.room_mut(&mut packet.frame);
        let Some((len, to)) = icmp::write(answer, room, &about, &to, self.id, next.mtu) else {
            return discard(view, mem, packet, reason, decided, out);
        };
        self.id = self.id.wrapping_add(1);
        mem.set_len(&mut packet.frame, len);
        counters(view).answered(packet.ingress, reason);
        let reply = Held {
            headers: to,
            egress: next.egress,
            kind: Kind::Originated,
            hash,
            len: len as u32,
            ..packet
        };
        let end = match next.link {
            Link::Ready { .. } => self.send(view, mem, reply, &next, out),
            _ => self.wait(view, mem, reply, &next, out),
        };
        match end {
            End::Dropped(_) => end,
            _ => End::Replied(reason),
        }
    }

    /// Sends a packet on that has waited: its way is looked up again, and a list that it has not passed yet is asked.
    /// Returns what became of it, and its way.
    pub(super) fn onward(
        &mut self,
        view: &View<'_>,
        mem: &mut impl Memory,
        packet: Held,
        out: &mut Outcome,
    ) -> (End, NextHop) {
        let next = way(view, &packet.headers, packet.hash);
        let (mut verdict, mut decided) = (Verdict::Go, Decided::NONE);
        if packet.kind == Kind::Transit && !matches!(next.link, Link::Never(_)) {
            verdict = stages::fits(&packet.headers, next.mtu);
            if verdict == Verdict::Go && next.egress != packet.egress {
                (verdict, decided) = stages::egress_again(view, &packet.headers, next.egress, packet.len);
            }
        }
        let packet = Held {
            egress: next.egress,
            ..packet
        };
        let end = self.packet(view, mem, packet, verdict, decided, &next, out);
        (end, next)
    }

    /// A packet whose neighbour did not resolve in time.
    pub(super) fn late(
        &mut self,
        view: &View<'_>,
        mem: &mut impl Memory,
        packet: Held,
        out: &mut Outcome,
    ) -> End {
        self.answer(
            view,
            mem,
            packet,
            Reason::NeighbourUnresolved,
            Decided::NONE,
            0,
            out,
        )
    }
}

/// How a packet is to be answered.
pub(super) struct Plan {
    answer: icmp::Answer,
    /// The address that the answer comes from.
    source: u128,
    /// The hash of the answer's flow, and its next hop.
    hash: u32,
    next: NextHop,
}

/// The answer that a packet gets for a reason: `None` when none is due, or it would have no way or no source. Only the
/// limit of answers is not asked. `frame` is the packet's; of it, only the link-layer destination is looked at.
pub(super) fn plan(view: &View<'_>, about: &Headers, frame: &[u8], reason: Reason, mtu: u32) -> Option<Plan> {
    let answer = icmp::answer(reason, about, mtu);
    if !icmp::due(answer, about, frame) {
        return None;
    }
    let routes = view.shared.routes();
    let group = routes.lookup(view.online, view.port.vrf, about.family, about.src)?;
    let back = icmp::headers(answer, about, 0);
    let hash = routes.hash(&back);
    let next = stages::next_hop(view, group.0, &back, hash);
    // Nothing of IPv4 goes over a link that has no room for 68 bytes (RFC 791 3.2).
    if matches!(next.link, Link::Never(_)) || next.mtu < 68 {
        return None;
    }
    let prefsrc = routes
        .group(view.online, GroupId(group.0))
        .and_then(|image| image.prefsrc);
    let egress = view.shared.port(view.online, next.egress);
    let source = icmp::source(about, view.port, prefsrc, egress)?;
    Some(Plan {
        answer,
        source,
        hash,
        next,
    })
}

/// The way of one packet as the tables are now.
pub(super) fn way(view: &View<'_>, headers: &Headers, hash: u32) -> NextHop {
    let routes = view.shared.routes();
    match routes.lookup(view.online, view.port.vrf, headers.family, headers.dst) {
        Some(group) => stages::next_hop(view, group.0, headers, hash),
        None => NextHop::never(Verdict::Answer(Reason::NoRoute)),
    }
}

pub(super) fn neighbour(next: &NextHop) -> NeighbourRequest {
    NeighbourRequest {
        ifindex: next.ifindex,
        address: next.neighbour,
    }
}

/// Drops a packet: counted once, with its one reason, kept among the last dropped ones, and its frame is free again.
pub(super) fn discard(
    view: &View<'_>,
    mem: &impl Memory,
    packet: Held,
    reason: Reason,
    decided: Decided,
    out: &mut Outcome,
) -> End {
    debug_assert_eq!(packet.ingress, view.id, "a view is of the packet's own port");
    drop_frame(view, mem, packet.frame, reason, decided, out);
    End::Dropped(reason)
}

/// [`discard`] for a frame that never became a packet.
pub(super) fn drop_frame(
    view: &View<'_>,
    mem: &impl Memory,
    frame: Frame,
    reason: Reason,
    decided: Decided,
    out: &mut Outcome,
) {
    count_drop(view, mem, &frame, reason, decided);
    mem.release(frame, &mut out.free);
}

/// What is noted of every dropped packet that came in through the view's port.
pub(super) fn count_drop(
    view: &View<'_>,
    mem: &impl Memory,
    frame: &Frame,
    reason: Reason,
    decided: Decided,
) {
    let counters = counters(view);
    let (start, whole) = (mem.data(frame), mem.total(frame));
    counters.dropped(view.id, reason, whole);
    let recent = view.shared.watch().recent(view.worker.unwrap_or(0));
    recent.keep(counters.clock(), view.id, reason, decided, whole as u32, start);
    if view.is_watched() {
        super::taps::dropped(view, mem, frame, reason, decided);
    }
}
