//! The packet's way through a worker.

pub mod explain;
mod finish;
mod fragment;
mod inner;
mod lanes;
pub mod offline;
mod prefetch;
mod rewrite;
mod stages;
mod taps;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::checksum;
use classifier::packet::{self, Headers};
use classifier::qsbr::Online;

use finish::Finish;
use lanes::{Lanes, Link, Verdict};
use prefetch::prefetch;
use stages::View;
pub(crate) use stages::address;
use taps::Pending;

use crate::counters::WorkerCounters;
use crate::frame::{Frame, Memory};
use crate::hold::{Fate, Held, Hold};
use crate::reason::Reason;
use crate::settings::PortId;
use crate::tables::{MAX_HELD, Shared};
use crate::watch::{Decided, End};

/// Most frames of a burst.
pub const BURST: usize = 64;
/// How many frames ahead the parser asks for a packet's first line.
const PREFETCH: usize = 4;
/// While packets wait, [`Path::tick`] is due so often: the tables are looked at, not the packets.
const POLL: Duration = Duration::from_millis(1);
/// Packets that wait are looked through so often, in nanoseconds, even when the tables do not change.
const LOOK_AGAIN: u64 = 100_000_000;
/// Changes of the tables let so few waiting packets be looked through at once: what was resolved leaves before anything
/// newer. More are looked through every so many nanoseconds, so that a full table being loaded during an address scan
/// does not cost the time of forwarding.
const FEW: usize = 32;
const SPACING: u64 = 500_000;

/// What a departing packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It came in and is sent on; of a packet that is sent in fragments, the last one.
    Transit,
    /// A fragment of a packet that came in; more of them follow, the last one as [`Transit`](Self::Transit).
    Fragment,
    /// Margay made it: an answer about a packet that came in.
    Originated,
}

/// A packet ready for the TX ring of its egress port.
#[derive(Debug)]
pub struct Departure {
    /// The frame; its bytes are complete.
    pub frame: Frame,
    /// The port that the packet came in through; of an answer, the one that the answered packet came in through.
    pub ingress: PortId,
    /// The port to send it by.
    pub egress: PortId,
    /// The flow's hash, to choose a TX queue with its low bits: the top bits have chosen the next hop.
    pub hash: u32,
    /// What it is.
    pub kind: Kind,
    /// Bytes of the frame.
    pub len: u32,
}

/// Room for the fragments that one burst may make beside its packets: as many frames as a TX ring holds would only be dropped.
const MORE: usize = 1024;

/// What becomes of the frames of a burst. Reused from burst to burst, so that nothing is allocated.
#[derive(Debug)]
pub struct Outcome {
    /// To be sent, in order. It never grows: a packet for whose fragments there is no room is dropped.
    pub tx: Vec<Departure>,
    /// The free list: frames that are done with go there, and those of fragments are taken from it.
    pub free: Vec<Frame>,
}

impl Outcome {
    /// Room for what one burst and one tick can leave behind.
    pub fn new() -> Self {
        let most = BURST + crate::tables::MAX_HELD;
        Self {
            tx: Vec::with_capacity(most + MORE),
            free: Vec::with_capacity(most),
        }
    }
}

impl Default for Outcome {
    fn default() -> Self {
        Self::new()
    }
}

/// What a path is made of.
#[derive(Debug, Clone)]
pub struct PathConfig {
    /// The worker's number, an index into the counters.
    pub worker: usize,
    /// What the control thread and the workers share.
    pub shared: Arc<Shared>,
}

/// One worker's packet processing: what it decides about a packet depends on the packet, the packets that wait, and the
/// published tables alone. It does no system call, takes no lock and allocates nothing.
#[derive(Debug)]
pub struct Path {
    worker: usize,
    shared: Arc<Shared>,
    lanes: Lanes,
    finish: Finish,
    /// What taps are to be told about the packets of a burst.
    pending: Pending,
    /// Packets taken out of the hold queue, with whether they waited too long.
    released: Vec<(Held, bool)>,
    /// The state of the tables when the hold queue was looked through last.
    looked_at: u64,
    /// When that was, in nanoseconds of the worker's clock.
    looked: u64,
    /// The time of the last tick.
    ticked: Instant,
}

impl Path {
    /// The path of one worker.
    pub fn new(config: PathConfig) -> Self {
        let PathConfig { worker, shared } = config;
        Self {
            worker,
            lanes: Lanes::new(),
            finish: Finish::new(&shared),
            pending: Pending::new(),
            released: Vec::with_capacity(MAX_HELD),
            looked_at: 0,
            looked: 0,
            ticked: Instant::now(),
            shared,
        }
    }

    /// This worker's counters.
    pub fn counters(&self) -> &WorkerCounters {
        self.shared.counters().worker(self.worker)
    }

    /// Packets that wait for a neighbour on this worker.
    pub fn held(&self) -> usize {
        self.finish.hold.len()
    }

    /// UMEM frames of the packets that wait.
    pub fn held_frames(&self) -> usize {
        self.finish.hold.frames()
    }

    /// The way of up to [`BURST`] frames that came in through `port`. Each frame leaves `rx` and ends in `out.tx`, in
    /// `out.free`, or among the packets that wait.
    pub fn burst(
        &mut self,
        mem: &mut impl Memory,
        online: &Online<'_>,
        port: PortId,
        rx: &mut Vec<Frame>,
        out: &mut Outcome,
    ) {
        // Packets that waited go first: they are older.
        self.release(mem, online, out);
        let Self {
            worker,
            shared,
            lanes,
            finish,
            pending,
            ..
        } = self;
        let view = View::new(shared, online, port, Some(*worker));

        receive(&view, lanes, mem, rx, out);
        if view.is_watched() {
            pending.received(&view, lanes, mem);
        }
        stages::addresses(&view, lanes);
        complete_checksums(&view, lanes, mem);
        stages::ingress_acl(&view, lanes);
        stages::ttl(lanes);
        stages::routes(&view, lanes);
        hashes(&view, lanes, mem);
        stages::next_hops(&view, lanes);
        if finish.hold.len() > 0 && overtakes(lanes, &finish.hold) {
            let clock = self.counters().clock();
            self.release_now(mem, online, clock, out);
        }
        let Self {
            worker,
            shared,
            lanes,
            finish,
            pending,
            ..
        } = self;
        let view = View::new(shared, online, port, Some(*worker));
        stages::mtu(lanes);
        stages::egress_acl(&view, lanes);
        if view.is_watched() {
            leave::<true>(&view, lanes, finish, pending, mem, out);
            taps::publish(&view);
        } else {
            leave::<false>(&view, lanes, finish, pending, mem, out);
        }
    }

    /// Sets the time that this worker's packets are stamped with; to be called before the bursts of a round.
    #[inline]
    pub fn set_time(&self, now: Instant) {
        self.counters().set_clock(self.shared.counters().nanoseconds(now));
    }

    /// What time brings: packets that waited go on when their neighbour is known, and are answered when it does not
    /// turn up. To be called between bursts and on waking.
    pub fn tick(&mut self, mem: &mut impl Memory, online: &Online<'_>, now: Instant, out: &mut Outcome) {
        self.ticked = now;
        self.set_time(now);
        self.release(mem, online, out);
    }

    /// When [`tick`](Self::tick) is due at the latest, `None` when nothing waits.
    pub fn next_deadline(&self) -> Option<Instant> {
        (self.held() > 0).then(|| self.ticked + POLL)
    }

    /// Drops the packets that wait: those that came in through `port`, or all of them.
    pub fn purge(&mut self, mem: &impl Memory, online: &Online<'_>, port: Option<PortId>, out: &mut Outcome) {
        let Self {
            worker,
            shared,
            finish,
            ..
        } = self;
        finish.hold.take(
            shared,
            |held| port.is_none_or(|port| held.ingress == port),
            |held| {
                let view = View::new(shared, online, held.ingress, Some(*worker));
                finish::counters(&view).released(held.ingress);
                finish::discard(&view, mem, held, Reason::PortClosed, Decided::NONE, out);
                taps::publish(&view);
            },
        );
    }

    /// Drops a packet that had passed the path, or never came to it: counted once, and kept as any dropped packet. Its
    /// frame is the caller's.
    #[cold]
    pub fn discard(
        &self,
        mem: &impl Memory,
        online: &Online<'_>,
        ingress: PortId,
        frame: &Frame,
        reason: Reason,
    ) {
        let view = View::new(&self.shared, online, ingress, Some(self.worker));
        finish::count_drop(&view, mem, frame, reason, Decided::NONE);
        taps::publish(&view);
    }

    /// Looks through the packets that wait, if the tables have changed since the last time or it is long ago.
    #[inline]
    fn release(&mut self, mem: &mut impl Memory, online: &Online<'_>, out: &mut Outcome) {
        if self.finish.hold.len() > 0 {
            let generation = self.shared.routes().generation();
            let clock = self.counters().clock();
            let changed = generation != self.looked_at;
            let waited = clock.saturating_sub(self.looked);
            if (changed && (self.finish.hold.len() <= FEW || waited >= SPACING)) || waited >= LOOK_AGAIN {
                self.looked_at = generation;
                self.looked = clock;
                self.release_now(mem, online, clock, out);
            }
        }
    }

    #[cold]
    fn release_now(&mut self, mem: &mut impl Memory, online: &Online<'_>, clock: u64, out: &mut Outcome) {
        let Self {
            worker,
            shared,
            finish,
            released,
            ..
        } = self;
        finish.hold.sweep(shared, clock, released, |held, neighbour| {
            let view = View::new(shared, online, held.ingress, Some(*worker));
            let next = finish::way(&view, &held.headers, held.hash);
            match next.link {
                Link::Waiting if finish::neighbour(&next) == *neighbour => Fate::Wait,
                _ => Fate::Release,
            }
        });
        for (held, late) in released.drain(..) {
            let view = View::new(shared, online, held.ingress, Some(*worker));
            finish::counters(&view).released(held.ingress);
            if view.is_watched() {
                taps::released(&view, finish, mem, held, late, out);
            } else if late {
                finish.late(&view, mem, held, out);
            } else {
                finish.onward(&view, mem, held, out);
            }
        }
    }
}

/// Whether a packet of the burst is about to go where older ones wait to go: their neighbour has become known since they
/// were looked at, in this very burst.
#[cold]
fn overtakes(lanes: &Lanes, hold: &Hold) -> bool {
    (0..lanes.len()).any(|lane| {
        let next = &lanes.next[lane];
        lanes.goes(lane) && matches!(next.link, Link::Ready { .. }) && hold.holds(&finish::neighbour(next))
    })
}

/// Takes the frames of a burst, counts them, and validates what they carry (RFC 1812 5.2.2, RFC 8200 3).
fn receive(
    view: &View<'_>,
    lanes: &mut Lanes,
    mem: &mut impl Memory,
    rx: &mut Vec<Frame>,
    out: &mut Outcome,
) {
    lanes.clear();
    let burst = rx.len().min(BURST);
    for ahead in rx[..burst].iter().take(PREFETCH) {
        prefetch(mem.data(ahead));
    }
    let (mut bytes, port) = (0, view.id);
    let mut frames = rx.drain(..burst);
    while let Some(frame) = frames.next() {
        if let Some(ahead) = frames.as_slice().get(PREFETCH - 1) {
            prefetch(mem.data(ahead));
        }
        let (data, whole) = (mem.data(&frame), mem.total(&frame));
        let len = whole as u32;
        bytes += u64::from(len);
        if !view.port.open {
            refuse(view, mem, frame, Reason::PortClosed, out);
            continue;
        }
        match packet::parse_start(data, whole) {
            Ok(headers) => {
                lanes.push(headers, len);
                lanes.frames.push(frame);
            }
            Err(fault) => refuse(view, mem, frame, stages::malformed(fault), out),
        }
    }
    finish::counters(view).received(port, burst as u64, bytes);
}

/// Drops a frame before it became a packet.
#[cold]
fn refuse(view: &View<'_>, mem: &impl Memory, frame: Frame, reason: Reason, out: &mut Outcome) {
    if view.is_watched() {
        taps::refused(view, mem, &frame, reason);
    }
    finish::drop_frame(view, mem, frame, reason, Decided::NONE, out);
}

/// The end of a burst: each frame is sent, held, answered or dropped. `WATCHED` when there is a tap: without one, that is
/// not asked for every packet.
fn leave<const WATCHED: bool>(
    view: &View<'_>,
    lanes: &mut Lanes,
    finish: &mut Finish,
    pending: &mut Pending,
    mem: &mut impl Memory,
    out: &mut Outcome,
) {
    let mut frames = std::mem::take(&mut lanes.frames);
    for (lane, frame) in frames.drain(..).enumerate() {
        let (len, next) = (lanes.lens[lane], &lanes.next[lane]);
        let (egress, hash, kind) = (next.egress, lanes.hash[lane], Kind::Transit);
        // Nearly all packets take this branch: it is kept short.
        let is_whole = u32::from(lanes.headers[lane].len) <= next.mtu;
        if let (Verdict::Go, Link::Ready { .. }, true) = (lanes.verdict[lane], next.link, is_whole) {
            let departure = Departure {
                frame,
                ingress: view.id,
                egress,
                hash,
                kind,
                len,
            };
            finish::depart(view, mem, departure, &lanes.headers[lane], next, out);
            if WATCHED {
                let last = out.tx.len().saturating_sub(1);
                pending.ended(view, lanes, lane, End::Forwarded, mem, &out.tx[last..]);
            }
            continue;
        }
        let packet = Held {
            frame,
            headers: lanes.headers[lane],
            ingress: view.id,
            egress,
            kind,
            hash,
            len,
        };
        let decided = stages::decided(view, lanes, lane);
        let before = out.tx.len();
        let end = finish.packet(view, mem, packet, lanes.verdict[lane], decided, next, out);
        if WATCHED {
            pending.ended(view, lanes, lane, end, mem, &out.tx[before..]);
        }
    }
    lanes.frames = frames;
}

/// The hash of each flow, by the packet inside where that tells more.
fn hashes(view: &View<'_>, lanes: &mut Lanes, mem: &impl Memory) {
    stages::hashes(view, lanes);
    let tunnels = view.shared.routes().looks_inside();
    for lane in 0..lanes.len() {
        let headers = &lanes.headers[lane];
        if (headers.icmp.is_some() || tunnels)
            && let Some(flow) = inner::flow(mem.data(&lanes.frames[lane]), headers, tunnels)
        {
            lanes.hash[lane] = view.shared.routes().hash(&flow);
        }
    }
}

/// Completes the TCP and UDP checksums that a local stack left to its network card, which a veth does not have. It comes
/// before anything is quoted in an answer or sent.
fn complete_checksums(view: &View<'_>, lanes: &mut Lanes, mem: &mut impl Memory) {
    if !view.port.fix_checksums {
        return;
    }
    for lane in 0..lanes.len() {
        if lanes.goes(lane) {
            let (frame, headers) = (&mut lanes.frames[lane], &lanes.headers[lane]);
            if frame.is_chained() {
                complete_in_parts(mem, frame, headers);
            } else {
                checksum::complete_partial(mem.data_mut(frame), headers);
            }
        }
    }
}

/// The same for a packet in several frames.
#[cold]
fn complete_in_parts(mem: &mut impl Memory, frame: &mut Frame, headers: &Headers) {
    let rest = || mem.parts(frame).skip(1);
    let found = checksum::completed(mem.data(frame), mem.total(frame), headers, rest);
    if let Some((at, check)) = found {
        mem.data_mut(frame)[at..at + 2].copy_from_slice(&check);
    }
}
