//! What taps are told. Nothing here runs unless there is one.
//!
//! A packet's bytes are copied where it comes in, before anything changes them, into a place of the tap's ring; what became
//! of it is written there when that is known, and the places of a burst become readable together at its end.

use classifier::packet::{glance, parse_start};

use super::finish::Finish;
use super::lanes::{Lanes, Link, NextHop, Verdict};
use super::stages::{self, View};
use super::{BURST, Departure, Kind, Outcome};
use crate::fib::GroupId;
use crate::frame::{Frame, Memory};
use crate::hold::Held;
use crate::reason::Reason;
use crate::settings::PortId;
use crate::watch::{Decided, End, LinkState, MAX_TAPS, Point, Record, Slot, Way};

/// The points at which a packet that comes in is shown.
const ARRIVALS: [Point; 2] = [Point::Rx, Point::Trace];

/// The place of a packet, and the point that it is shown at.
type Place = Option<(Point, Slot)>;

/// Places taken for packets of the burst: of each tap, by lane.
#[derive(Debug)]
pub(super) struct Pending(Box<[[Place; BURST]; MAX_TAPS]>);

impl Pending {
    pub(super) fn new() -> Self {
        Self(Box::new([[None; BURST]; MAX_TAPS]))
    }

    /// Takes places for the packets of a burst as they came in.
    #[cold]
    pub(super) fn received(&mut self, view: &View<'_>, lanes: &Lanes, mem: &impl Memory) {
        let worker = view.worker.unwrap_or(0);
        for (tap, places) in view.taps.iter().zip(self.0.iter_mut()) {
            let point = ARRIVALS.into_iter().find(|point| tap.looks(*point, view.id));
            for (lane, place) in places.iter_mut().enumerate().take(lanes.len()) {
                *place = point
                    .filter(|_| tap.wants(Some(&lanes.headers[lane])))
                    .and_then(|point| Some((point, tap.stage(worker, mem.parts(&lanes.frames[lane]))?)));
            }
        }
    }

    /// Tells what became of the packet of a lane, and shows what has departed because of it: the packet, its fragments, or
    /// an answer, unless that waits for a next hop of its own.
    #[cold]
    pub(super) fn ended(
        &mut self,
        view: &View<'_>,
        lanes: &Lanes,
        lane: usize,
        end: End,
        mem: &impl Memory,
        departures: &[Departure],
    ) {
        let is_shown = self
            .0
            .iter()
            .take(view.taps.len())
            .any(|places| places[lane].is_some());
        // All of them leave by one port.
        let is_seen_off = departures
            .first()
            .is_some_and(|departure| view.taps.iter().any(|tap| tap.looks(Point::Tx, departure.egress)));
        if !is_shown && !is_seen_off {
            return;
        }
        let record = of_lane(view, lanes, lane, end);
        for (tap, places) in view.taps.iter().zip(self.0.iter_mut()) {
            if let Some((point, slot)) = places[lane].take() {
                tap.tell(view.worker.unwrap_or(0), slot, &Record { point, ..record });
            }
        }
        for departure in departures {
            departed(view, &record, mem, departure);
        }
    }
}

/// Everything that is known of a packet at the end of a burst.
fn of_lane(view: &View<'_>, lanes: &Lanes, lane: usize, end: End) -> Record {
    let stopped = match lanes.verdict[lane] {
        Verdict::Go => None,
        Verdict::Drop(reason) | Verdict::Answer(reason) => Some(reason),
    };
    let has_list = view.port.ingress.is_some();
    let asked = |last: Stage| stopped.is_none_or(|reason| stage(reason, has_list) >= last);
    let next = &lanes.next[lane];
    let rule = |decided: Decided| (decided.list != 0).then_some(decided);
    let routed = asked(Stage::Route);
    let goes_out = asked(Stage::EgressList) && !matches!(next.link, Link::Never(_));
    Record {
        ingress_rule: asked(Stage::IngressList)
            .then(|| stages::by_list(view.port.ingress.as_deref(), lanes.ingress[lane]))
            .and_then(rule),
        egress_rule: goes_out
            .then(|| {
                let egress = view.shared.port(view.online, next.egress);
                stages::by_list(egress.egress.as_deref(), lanes.egress[lane])
            })
            .and_then(rule),
        way: routed.then(|| way(GroupId(lanes.group[lane]), lanes.hash[lane], next)),
        ..blank(view, lanes.lens[lane], end)
    }
}

/// The stages whose findings are told, in their order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Addresses,
    IngressList,
    Ttl,
    Route,
    Mtu,
    EgressList,
}

/// The last stage that found something out about a packet that was stopped for a reason; `has_list` says whether there is
/// an ingress list.
fn stage(reason: Reason, has_list: bool) -> Stage {
    match reason {
        // The first list that has to look at the packet stops it before it is asked.
        Reason::ExtensionChain | Reason::TransportTruncated | Reason::TinyFragment if has_list => {
            Stage::Addresses
        }
        Reason::ExtensionChain | Reason::TransportTruncated | Reason::TinyFragment => Stage::Mtu,
        Reason::MartianSource
        | Reason::MartianDestination
        | Reason::LinkLocal
        | Reason::SourceRoute
        | Reason::SpoofedSource => Stage::Addresses,
        Reason::AclIngress | Reason::AclRejectIngress => Stage::IngressList,
        Reason::BadOptions | Reason::TtlExceeded => Stage::Ttl,
        Reason::MtuExceeded => Stage::Mtu,
        Reason::AclEgress | Reason::AclRejectEgress => Stage::EgressList,
        _ => Stage::Route,
    }
}

fn blank(view: &View<'_>, len: u32, end: End) -> Record {
    Record {
        time: super::finish::counters(view).clock(),
        point: Point::Rx,
        ingress: view.id,
        end,
        originated: false,
        len,
        ingress_rule: None,
        egress_rule: None,
        way: None,
    }
}

fn way(group: GroupId, hash: u32, next: &NextHop) -> Way {
    let lost = matches!(next.link, Link::Never(_));
    Way {
        group,
        adj: next.adj,
        hash,
        egress: (!lost).then_some(next.egress),
        ifindex: next.ifindex,
        neighbour: next.neighbour,
        mtu: next.mtu,
        link: match next.link {
            Link::Ready { dst, src } => LinkState::Ready { dst, src },
            Link::Waiting => LinkState::Waiting,
            Link::Never(_) => LinkState::Never,
        },
    }
}

/// Shows what has departed: a packet that is sent on, or the answer to it.
fn departed(view: &View<'_>, record: &Record, mem: &impl Memory, departure: &Departure) {
    let record = Record {
        originated: departure.kind == Kind::Originated,
        len: departure.len,
        ..*record
    };
    show(view, Point::Tx, departure.egress, mem, &departure.frame, &record);
}

/// Shows a packet at a point.
fn show(view: &View<'_>, point: Point, port: PortId, mem: &impl Memory, frame: &Frame, record: &Record) {
    let worker = view.worker.unwrap_or(0);
    let mut headers = None;
    for tap in view.taps.iter().filter(|tap| tap.looks(point, port)) {
        let headers = headers.get_or_insert_with(|| {
            let start = mem.data(frame);
            parse_start(start, mem.total(frame))
                .ok()
                .or_else(|| glance(start))
        });
        if tap.wants(headers.as_ref())
            && let Some(slot) = tap.stage(worker, mem.parts(frame))
        {
            tap.tell(worker, slot, &Record { point, ..*record });
        }
    }
}

/// A frame that came in and is dropped before it became a packet.
#[cold]
pub(super) fn refused(view: &View<'_>, mem: &impl Memory, frame: &Frame, reason: Reason) {
    let record = blank(view, mem.total(frame) as u32, End::Dropped(reason));
    for point in ARRIVALS {
        show(view, point, view.id, mem, frame, &record);
    }
}

/// A packet that is being dropped.
#[cold]
pub(super) fn dropped(view: &View<'_>, mem: &impl Memory, frame: &Frame, reason: Reason, decided: Decided) {
    let mut record = blank(view, mem.total(frame) as u32, End::Dropped(reason));
    let rule = (decided.list != 0).then_some(decided);
    match stage(reason, false) {
        Stage::EgressList => record.egress_rule = rule,
        _ => record.ingress_rule = rule,
    }
    show(view, Point::Drop, view.id, mem, frame, &record);
}

/// A packet that has waited goes on, or has waited too long.
#[cold]
pub(super) fn released(
    view: &View<'_>,
    finish: &mut Finish,
    mem: &mut impl Memory,
    held: Held,
    late: bool,
    out: &mut Outcome,
) {
    let worker = view.worker.unwrap_or(0);
    let (headers, hash, len, kind) = (held.headers, held.hash, held.len, held.kind);
    let mut places = [None; MAX_TAPS];
    for (tap, place) in view.taps.iter().zip(&mut places) {
        if kind == Kind::Transit && tap.looks(Point::Trace, view.id) && tap.wants(Some(&headers)) {
            *place = tap.stage(worker, mem.parts(&held.frame));
        }
    }
    let before = out.tx.len();
    let (end, next) = if late {
        (finish.late(view, mem, held, out), None)
    } else {
        let (end, next) = finish.onward(view, mem, held, out);
        (end, Some(next))
    };
    let group = view
        .shared
        .routes()
        .lookup(view.online, view.port.vrf, headers.family, headers.dst);
    let record = Record {
        point: Point::Released,
        originated: kind == Kind::Originated,
        way: next
            .zip(group)
            .map(|(next, group)| way(GroupId(group.0), hash, &next)),
        ..blank(view, len, end)
    };
    for (tap, place) in view.taps.iter().zip(places) {
        if let Some(slot) = place {
            tap.tell(worker, slot, &record);
        }
    }
    for departure in &out.tx[before..] {
        departed(view, &record, mem, departure);
    }
    publish(view);
}

/// Makes what was shown readable.
pub(super) fn publish(view: &View<'_>) {
    for tap in view.taps {
        tap.publish(view.worker.unwrap_or(0));
    }
}
