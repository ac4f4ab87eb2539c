//! A worker's round, step by step.

mod commands;

use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::qsbr::Online;

use crate::frame::{Frame, Memory};
use crate::path::{BURST, Departure, Kind, Outcome, Path};
use crate::port::queue::{BASE_FILL, Queue};
use crate::port::socket::Kick;
use crate::reason::Reason;
use crate::umem::Umem;
use crate::worker::egress::{Egress, Hop};
use crate::worker::fabric::{Fabric, Gauges};
use crate::worker::{LINGER, RETRY};
use commands::Closing;

/// Everything that a worker's rounds work on.
pub(crate) struct Rounds {
    number: usize,
    umem: Umem,
    fabric: Arc<Fabric>,
    path: Path,
    queues: Vec<Queue>,
    closing: Vec<Closing>,
    egress: Egress,
    /// One burst.
    rx: Vec<Frame>,
    /// What the path leaves behind, and this worker's free list, which has room for every frame of the node.
    out: Outcome,
    /// The packets handed over by each other worker that lost a fragment: the rest of such a packet is lost as well.
    cut: Vec<Option<Reason>>,
    /// Queues with packets that the kernel was not told of yet, by their places.
    staged: Vec<usize>,
    /// Packets staged since the last kick.
    waiting: usize,
    /// Queues with packets that a kick left behind.
    lagging: Vec<usize>,
    kick_again: Instant,
    /// Workers that packets were handed to since the last kick.
    handed: Vec<bool>,
    /// Frames of each other worker that are here.
    owed: Vec<u32>,
    /// Frames given to queues above their base, and how many may be.
    grown: u32,
    growth: u32,
    over: bool,
}

impl Rounds {
    pub(crate) fn new(
        number: usize,
        umem: Umem,
        frames: Vec<Frame>,
        fabric: Arc<Fabric>,
        path: Path,
    ) -> Self {
        let workers = fabric.workers();
        let growth = growth(frames.len() as u32);
        let mut out = Outcome::new();
        out.free.reserve_exact(umem.frames() as usize);
        out.free.extend(frames);
        Gauges::set(&fabric.mailbox(number).gauges.free, out.free.len() as u64);
        Self {
            number,
            umem,
            path,
            queues: Vec::new(),
            closing: Vec::new(),
            egress: Egress::new(number),
            rx: Vec::with_capacity(BURST),
            out,
            cut: vec![None; workers],
            staged: Vec::new(),
            waiting: 0,
            lagging: Vec::new(),
            kick_again: Instant::now(),
            handed: vec![false; workers],
            owed: vec![0; workers],
            grown: 0,
            growth,
            over: false,
            fabric,
        }
    }

    /// One round. Returns whether there was anything to do.
    #[inline]
    pub(crate) fn round(&mut self, online: &Online<'_>, now: Instant) -> bool {
        let mut received = false;
        self.path.set_time(now);
        for place in 0..self.queues.len() {
            let queue = &mut self.queues[place];
            queue.receive(BURST as u32, &mut self.rx);
            if self.rx.is_empty() {
                continue;
            }
            received = true;
            let port = queue.port();
            if queue.is_pressed() && self.grown < self.growth {
                self.grown += queue.grow(self.growth - self.grown);
            }
            // Early, so that the kernel can receive while this burst is worked on.
            queue.refill(&mut self.out.free);
            self.path
                .burst(&mut self.umem, online, port, &mut self.rx, &mut self.out);
            self.dispatch(online);
            if self.waiting >= BURST {
                self.kick();
            }
        }
        let taken = self.take_handed(online);
        let held = self.path.held();
        self.path.tick(&mut self.umem, online, now, &mut self.out);
        let ticked = self.path.held() != held;
        self.dispatch(online);
        self.kick();
        if now >= self.kick_again {
            self.kick_lagging(now);
        }
        if !self.closing.is_empty() {
            self.drain_closing(online, now);
        }
        let completed = self.recycle();
        received || taken || ticked || completed
    }

    /// Puts departures on TX rings and hand-over rings.
    #[inline]
    fn dispatch(&mut self, online: &Online<'_>) {
        let mut tx = std::mem::take(&mut self.out.tx);
        let mut cut = None;
        for departure in tx.drain(..) {
            if cut.is_some() {
                self.rest(online, departure, &mut cut);
                continue;
            }
            match self.egress.hop(departure.egress, departure.hash) {
                Hop::Queue(place) => self.enqueue(online, place, departure, &mut cut),
                Hop::Worker(worker) => match self.fabric.hand_over(self.number, worker, departure) {
                    Ok(()) => self.handed[worker] = true,
                    Err(departure) => self.lose(online, departure, Reason::HandoverFull, &mut cut),
                },
                Hop::Closed => self.lose(online, departure, Reason::PortClosed, &mut cut),
            }
        }
        self.out.tx = tx;
    }

    #[inline]
    fn enqueue(&mut self, online: &Online<'_>, place: usize, departure: Departure, cut: &mut Option<Reason>) {
        let queue = &mut self.queues[place];
        if departure.frame.parts() > queue.most_parts() {
            return self.enqueue_compact(online, place, departure, cut);
        }
        if !queue.accepts(&departure.frame) {
            return self.lose(online, departure, Reason::TxRingFull, cut);
        }
        if queue.unkicked() == 0 {
            self.staged.push(place);
        }
        self.waiting += 1;
        self.path.counters().sent(&departure);
        queue.send(departure.frame);
    }

    /// Loses a departure. A packet in fragments is counted once, with its last one: if an earlier one is lost, `cut`
    /// says why until then.
    #[cold]
    fn lose(&mut self, online: &Online<'_>, departure: Departure, reason: Reason, cut: &mut Option<Reason>) {
        if departure.kind == Kind::Fragment {
            *cut = Some(reason);
        } else {
            *cut = None;
            self.path
                .discard(&self.umem, online, departure.ingress, &departure.frame, reason);
        }
        self.umem.release(departure.frame, &mut self.out.free);
    }

    /// A packet in more frames than its queue takes: it is moved together. What is too long even so is longer than the
    /// port's MTU can be.
    #[cold]
    fn enqueue_compact(
        &mut self,
        online: &Online<'_>,
        place: usize,
        mut departure: Departure,
        cut: &mut Option<Reason>,
    ) {
        self.umem.compact(&mut departure.frame, &mut self.out.free);
        if departure.frame.parts() > self.queues[place].most_parts() {
            return self.lose(online, departure, Reason::MtuExceeded, cut);
        }
        self.enqueue(online, place, departure, cut);
    }

    /// What follows a lost fragment, up to the last one of its packet: nobody could put the packet together.
    #[cold]
    fn rest(&mut self, online: &Online<'_>, departure: Departure, cut: &mut Option<Reason>) {
        if let Some(reason) = *cut {
            self.lose(online, departure, reason, cut);
        }
    }

    /// Sends what other workers handed over, and takes back frames that come home.
    #[inline]
    fn take_handed(&mut self, online: &Online<'_>) -> bool {
        let workers = self.fabric.workers();
        if workers == 1 {
            return false;
        }
        let mut any = false;
        for from in 0..workers {
            if from == self.number {
                continue;
            }
            for _ in 0..BURST {
                let Some(departure) = self.fabric.take_over(from, self.number) else {
                    break;
                };
                any = true;
                self.owed[from] += departure.frame.parts();
                let mut cut = self.cut[from];
                match self.egress.hop(departure.egress, departure.hash) {
                    _ if cut.is_some() => self.rest(online, departure, &mut cut),
                    Hop::Queue(place) => self.enqueue(online, place, departure, &mut cut),
                    // The port was closed, or given to other workers, while the packet was on its way.
                    Hop::Worker(_) | Hop::Closed => {
                        self.lose(online, departure, Reason::PortClosed, &mut cut);
                    }
                }
                self.cut[from] = cut;
            }
            while let Some(frame) = self.fabric.returns(from, self.number).pop() {
                self.out.free.push(frame);
            }
        }
        any
    }

    /// Kicks each TX ring that got packets, and wakes the workers that got some.
    #[inline]
    fn kick(&mut self) {
        let mut staged = std::mem::take(&mut self.staged);
        for place in staged.drain(..) {
            if !kick_until_sent(&mut self.queues[place]) && !self.lagging.contains(&place) {
                self.lagging.push(place);
            }
        }
        self.staged = staged;
        self.waiting = 0;
        for worker in 0..self.handed.len() {
            if std::mem::take(&mut self.handed[worker]) {
                self.fabric.mailbox(worker).waker.wake();
            }
        }
    }

    /// Kicks again where packets were left behind: the device was down or the kernel out of buffers. The tail of a
    /// burst does not wait for the next one.
    #[inline]
    fn kick_lagging(&mut self, now: Instant) {
        if self.lagging.is_empty() {
            return;
        }
        let queues = &mut self.queues;
        let before = self.lagging.len();
        self.lagging.retain(|&place| !kick_until_sent(&mut queues[place]));
        // A device that is down stays so for a while; buffers come back soon.
        self.kick_again = now
            + if self.lagging.len() < before {
                RETRY
            } else {
                LINGER
            };
    }

    /// Takes sent frames back, gives those of other workers home, and refills the fill rings.
    #[inline]
    fn recycle(&mut self) -> bool {
        let (mut completed, mut receiving, mut sending, mut nonsense) = (0, 0, 0, 0);
        for queue in &mut self.queues {
            completed += queue.complete(&mut self.out.free);
            queue.refill(&mut self.out.free);
            receiving += u64::from(queue.receiving());
            sending += u64::from(queue.sending());
            nonsense += queue.nonsense();
        }
        for closing in &mut self.closing {
            completed += closing.queue.complete(&mut self.out.free);
            receiving += u64::from(closing.queue.receiving());
            sending += u64::from(closing.queue.sending());
        }
        self.repay();
        let gauges = self.gauges();
        Gauges::set(&gauges.free, self.out.free.len() as u64);
        Gauges::set(&gauges.rx, receiving);
        Gauges::set(&gauges.tx, sending);
        Gauges::set(&gauges.held, self.path.held_frames() as u64);
        Gauges::set(&gauges.nonsense, nonsense);
        completed > 0
    }

    /// Gives frames home to the workers that handed them over. Any free frame will do.
    #[inline]
    fn repay(&mut self) {
        for (to, owed) in self.owed.iter_mut().enumerate() {
            while *owed > 0 {
                let Some(frame) = self.out.free.pop() else { return };
                if let Err(frame) = self.fabric.returns(self.number, to).push(frame) {
                    self.out.free.push(frame);
                    break;
                }
                *owed -= 1;
            }
        }
    }

    /// Whether something waits that a round would work on: the last look before sleeping.
    pub(crate) fn has_work(&mut self) -> bool {
        let handed = |from| from != self.number && self.fabric.has_handed(from, self.number);
        !self.fabric.mailbox(self.number).commands.is_empty()
            || (0..self.fabric.workers()).any(handed)
            || self.queues.iter_mut().any(Queue::has_received)
    }

    /// How long the worker may sleep if nothing arrives; `None` for as long as that lasts.
    pub(crate) fn patience(&self, now: Instant) -> Option<Duration> {
        let held = self
            .path
            .next_deadline()
            .map(|at| at.saturating_duration_since(now));
        let lagging =
            (!self.lagging.is_empty()).then(|| self.kick_again.saturating_duration_since(now).max(RETRY));
        let closing = (!self.closing.is_empty()).then_some(RETRY);
        let sending = self
            .queues
            .iter()
            .any(|queue| queue.sending() > 0)
            .then_some(LINGER);
        [held, lagging, closing, sending].into_iter().flatten().min()
    }

    /// Notes time spent on packets.
    #[inline]
    pub(crate) fn was_busy(&self, time: Duration) {
        Gauges::add(&self.gauges().busy, time.as_nanos() as u64);
    }

    /// Lowers the levels of fill rings that nobody needs so full, when little is left for those that do.
    pub(crate) fn relax(&mut self) {
        if self.grown < self.growth - self.growth / 4 {
            return;
        }
        for queue in &mut self.queues {
            self.grown -= queue.relax();
        }
    }

    /// Whether the worker was told to stop.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    fn gauges(&self) -> &Gauges {
        &self.fabric.mailbox(self.number).gauges
    }

    /// Drops what has waited on the RX rings while the worker did not run. Meanwhile the kernel has done the port's work,
    /// or nobody: packets that come this late are out of order at best.
    #[cold]
    pub(crate) fn discard_stale(&mut self, online: &Online<'_>) {
        for queue in &mut self.queues {
            while queue.receive(BURST as u32, &mut self.rx) > 0 || !self.rx.is_empty() {
                for frame in self.rx.drain(..) {
                    let bytes = self.umem.total(&frame) as u64;
                    self.path.counters().drained(queue.port(), 1, bytes);
                    self.path
                        .discard(&self.umem, online, queue.port(), &frame, Reason::Stale);
                    self.umem.release(frame, &mut self.out.free);
                }
            }
        }
    }
}

/// Kicks a queue until its packets are sent or the kernel gets no further: kernels before 6.17 send 32 frames a kick.
/// Returns whether all are sent.
#[inline]
fn kick_until_sent(queue: &mut Queue) -> bool {
    let mut left = u32::MAX;
    loop {
        if queue.kick() == Kick::Down {
            return false;
        }
        let now = queue.unsent();
        if now == 0 || now >= left {
            return now == 0;
        }
        left = now;
    }
}

/// How many frames a worker with so many may give to its queues above their base. Half of its frames are for the
/// bases, and a quarter is on its way: bursts, TX rings, packets that wait, other workers.
fn growth(frames: u32) -> u32 {
    frames / 4
}

/// How many queues a worker with so many frames can serve.
pub(crate) fn most_queues(frames: u32) -> u32 {
    frames / 2 / BASE_FILL
}

/// Frames that a worker needs for so many queues.
pub(crate) fn frames_for(queues: u32) -> u32 {
    queues * BASE_FILL * 2
}
