//! What a worker does between rounds: ports that come and go, as the control thread tells it.

use std::time::{Duration, Instant};

use classifier::qsbr::Online;

use super::Rounds;
use crate::frame::{Frame, Memory};
use crate::port::queue::{BASE_FILL, Queue};
use crate::port::socket::Kick;
use crate::reason::Reason;
use crate::settings::PortId;
use crate::worker::fabric::{Command, Gauges, Returned};
use crate::worker::wait::Sleep;

/// What a queue is first given to receive into, as far as the budget reaches.
const FIRST_FILL: u32 = 256;

/// How long packets on the TX ring of a port that is being closed get to leave.
const DRAIN: Duration = Duration::from_millis(20);

/// A queue whose port is being closed.
pub(super) struct Closing {
    pub(super) queue: Queue,
    until: Instant,
    done: bool,
}

impl Rounds {
    /// Does what the control thread asks. Not part of a round: it may allocate and call the kernel.
    pub(crate) fn command(&mut self, command: Command, online: &Online<'_>, sleep: &Sleep, now: Instant) {
        match command {
            Command::Open { port, owners, queues } => {
                for mut queue in queues {
                    // Half of what may be grown is kept for queues that turn out to need it.
                    let room = (self.growth / 2).saturating_sub(self.grown);
                    self.grown += queue.raise(FIRST_FILL, room);
                    queue.refill(&mut self.out.free);
                    if let Err(error) = sleep.add(queue.socket().fd()) {
                        eprintln!(
                            "port {port}: epoll: {error}; its packets wait for other traffic to wake the worker"
                        );
                    }
                    self.queues.push(queue);
                }
                self.staged.reserve(self.queues.len());
                self.lagging.reserve(self.queues.len());
                self.egress.open(port, owners, &self.queues);
            }
            Command::Close { port } => {
                self.path.purge(&self.umem, online, Some(port), &mut self.out);
                self.dispatch(online);
                self.kick();
                self.close(port, sleep, now);
            }
            Command::Adopt(frames) => self.out.free.extend(frames),
            Command::Stop => self.over = true,
        }
        Gauges::set(
            &self.gauges().queues,
            (self.queues.len() + self.closing.len()) as u64,
        );
        self.recycle();
        Gauges::release(&self.gauges().done);
    }

    /// Takes a port's queues out of the rounds. They come back to the control thread when they are drained.
    fn close(&mut self, port: PortId, sleep: &Sleep, now: Instant) {
        let (gone, rest) = std::mem::take(&mut self.queues)
            .into_iter()
            .partition(|queue| queue.port() == port);
        self.queues = rest;
        self.egress.close(port, &self.queues);
        // Places have changed: whoever has packets left is found anew.
        self.lagging.clear();
        for (place, queue) in self.queues.iter_mut().enumerate() {
            if queue.unsent() > 0 {
                self.lagging.push(place);
            }
        }
        let gone: Vec<Queue> = gone;
        if gone.is_empty() {
            self.give_back(port, Vec::new());
            return;
        }
        for queue in gone {
            // A socket whose device is gone may have left epoll by itself.
            let _ = sleep.remove(queue.socket().fd());
            self.grown -= queue.level().saturating_sub(BASE_FILL).min(self.grown);
            self.closing.push(Closing {
                queue,
                until: now + DRAIN,
                done: false,
            });
        }
    }

    /// Lets packets that are on the TX rings of closing queues leave, and drops what they have received.
    pub(super) fn drain_closing(&mut self, online: &Online<'_>, now: Instant) {
        for closing in &mut self.closing {
            let queue = &mut closing.queue;
            queue.receive(u32::MAX, &mut self.rx);
            for frame in self.rx.drain(..) {
                let bytes = self.umem.total(&frame) as u64;
                self.path.counters().drained(queue.port(), 1, bytes);
                self.path
                    .discard(&self.umem, online, queue.port(), &frame, Reason::PortClosed);
                self.umem.release(frame, &mut self.out.free);
            }
            let gone = queue.unsent() > 0 && queue.kick() == Kick::Down;
            queue.complete(&mut self.out.free);
            closing.done = gone || queue.sending() == 0 || now >= closing.until;
        }
        // All queues of a port go together.
        while let Some(port) = self.closing.first().map(|closing| closing.queue.port()) {
            if self
                .closing
                .iter()
                .any(|closing| closing.queue.port() == port && !closing.done)
            {
                break;
            }
            let (gone, rest) = std::mem::take(&mut self.closing)
                .into_iter()
                .partition(|closing| closing.queue.port() == port);
            self.closing = rest;
            let gone: Vec<Closing> = gone;
            self.give_back(port, gone.into_iter().map(|closing| closing.queue).collect());
            Gauges::set(
                &self.gauges().queues,
                (self.queues.len() + self.closing.len()) as u64,
            );
        }
    }

    fn give_back(&self, port: PortId, queues: Vec<Queue>) {
        self.fabric.returned.push(Returned {
            worker: self.number,
            port,
            queues,
        });
    }

    /// Gives all queues to the control thread and all frames to the caller.
    pub(crate) fn end(mut self, online: &Online<'_>) -> Vec<Frame> {
        self.kick();
        self.path.purge(&self.umem, online, None, &mut self.out);
        let closing = std::mem::take(&mut self.closing)
            .into_iter()
            .map(|closing| closing.queue);
        for queue in closing.chain(std::mem::take(&mut self.queues)) {
            self.fabric.returned.push(Returned {
                worker: self.number,
                port: queue.port(),
                queues: vec![queue],
            });
        }
        std::mem::take(&mut self.out.free)
    }
}
