//! Workers: one thread on one core each, with queues of its own.
//!
//! A round of a worker: take a burst from each RX ring, have the path decide, put what departs on TX rings or hand it
//! to the worker of the egress queue, kick each TX ring once, take sent frames back, refill the fill rings. In a round
//! there is no system call but the kicks, no allocation, no lock and no log line.

pub(crate) mod egress;
pub(crate) mod fabric;
mod handshake;
// The model's slots are cells that only the model checker can share between its threads.
#[cfg(test)]
#[allow(unsafe_code)]
mod model;
pub(crate) mod rounds;
/// The primitives of [`handshake`], which the model checker replaces by its own.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
}
#[cfg(test)]
mod tests;
pub(crate) mod wait;

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use classifier::qsbr::Reader;

use crate::error::Error;
use crate::frame::Frame;
use crate::path::{Path, PathConfig};
use crate::settings::Profile;
use crate::steer::beats::Beat;
use crate::tables::Shared;
use crate::umem::Umem;
use crate::worker::fabric::Fabric;
use crate::worker::rounds::Rounds;
use crate::worker::wait::Sleep;

/// An idle worker looks for packets so long before it sleeps: about what falling asleep and waking up cost together.
const SPIN: Duration = Duration::from_micros(20);

/// With frames still in the kernel to be sent, a worker looks for them so often although nothing arrives.
const LINGER: Duration = Duration::from_millis(10);

/// With packets left on a TX ring by a kick, a worker kicks again so soon.
const RETRY: Duration = Duration::from_millis(1);

/// How often the levels of fill rings are looked at.
const RELAX: Duration = Duration::from_secs(1);

/// What a worker is made of.
pub(crate) struct Plan {
    pub(crate) number: usize,
    pub(crate) core: usize,
    pub(crate) profile: Profile,
    pub(crate) umem: Umem,
    /// The frames that are this worker's.
    pub(crate) free: Vec<Frame>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) fabric: Arc<Fabric>,
    /// What tells the steering program that the worker runs.
    pub(crate) beat: Beat,
}

/// A worker's thread. It gives its frames back when it ends.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) core: usize,
    pub(crate) started: Instant,
    thread: JoinHandle<Vec<Frame>>,
}

/// Ends the process when a worker panics: a node that forwards with half its workers would lose flows silently.
struct Fatal(usize);

impl Drop for Fatal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "worker {} has panicked (see above): the process ends, as half a data plane is none",
                self.0
            );
            std::process::abort();
        }
    }
}

impl Worker {
    /// Starts a worker's thread and waits until it is pinned to its core.
    pub(crate) fn start(plan: Plan) -> Result<Self, Error> {
        let core = plan.core;
        let (tell, told) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("margay-w{}", plan.number))
            .spawn(move || {
                let _fatal = Fatal(plan.number);
                let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: core });
                // A wish: without it the worker works, and waits longer for a core that it has to share.
                let _ = wait::ask_for_short_turns();
                let sleep = Sleep::new(&plan.fabric.mailbox(plan.number).waker);
                match (pinned, sleep) {
                    (true, Ok(sleep)) => {
                        let _ = tell.send(Ok(()));
                        run(plan, &sleep)
                    }
                    (pinned, sleep) => {
                        let _ = tell.send(Err((pinned, sleep.err())));
                        plan.free
                    }
                }
            });
        let thread = thread.map_err(|source| Error::Kernel {
            what: "starting a worker's thread".to_owned(),
            source,
        })?;
        match told.recv() {
            Ok(Ok(())) => Ok(Self { core, started: Instant::now(), thread }),
            Ok(Err((true, Some(source)))) => Err(Error::Kernel { what: "creating an epoll descriptor".to_owned(), source }),
            _ => Err(Error::Setting {
                key: "runtime.workers",
                value: core.to_string(),
                why: "this process may not run on that core; `taskset -pc PID` and the cpuset of its cgroup say \
                      which it may use"
                    .to_owned(),
            }),
        }
    }

    /// Waits for the thread, which must have been told to stop, and gives its frames back.
    pub(crate) fn join(self) -> Vec<Frame> {
        self.thread.join().unwrap_or_default()
    }
}

/// The worker's loop. `Rounds` holds everything but the reader, whose guard is alive during a round.
fn run(plan: Plan, sleep: &Sleep) -> Vec<Frame> {
    let Plan {
        number,
        profile,
        umem,
        free,
        shared,
        fabric,
        beat,
        ..
    } = plan;
    let mut reader: Reader = shared.domain().register();
    let path = Path::new(PathConfig {
        worker: number,
        shared,
    });
    let mut rounds = Rounds::new(number, umem, free, fabric.clone(), path);
    let mailbox = fabric.mailbox(number);
    let mut now = Instant::now();
    let mut idle_since = now;
    let mut relaxed = now;

    loop {
        while let Some(command) = mailbox.commands.pop() {
            rounds.command(command, &reader.online(), sleep, now);
        }
        if rounds.is_over() {
            break;
        }
        if beat.was_given_up() {
            rounds.discard_stale(&reader.online());
        }
        beat.beat();
        let worked = rounds.round(&reader.online(), now);
        reader.quiescent();

        let before = std::mem::replace(&mut now, Instant::now());
        if worked {
            rounds.was_busy(now - before);
            idle_since = now;
        } else {
            std::hint::spin_loop();
        }
        if now - relaxed > RELAX {
            relaxed = now;
            rounds.relax();
        }
        if profile == Profile::Adaptive && !worked && now - idle_since > SPIN {
            sleep.prepare(&mailbox.waker);
            if !rounds.has_work() {
                reader.offline();
                sleep.sleep(&mailbox.waker, rounds.patience(now));
                now = Instant::now();
                idle_since = now;
            }
            sleep.resume(&mailbox.waker);
        }
    }
    rounds.end(&reader.online())
}
