//! Figures that are not throughput: how fast a route takes effect, how fast a sleeping worker wakes, what idling costs, and what
//! a full Internet table costs.

pub mod idle;
pub mod many;
pub mod route;
pub mod table;
pub mod wake;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::router::GENERATOR_CORE;
use crate::sys::{self, PacketSocket};
use crate::{Error, Result, generator, report};

/// One line of a table of latencies.
pub fn latency_row(name: &str, micros: &[f64]) -> Vec<String> {
    let cell = |share| format!("{:.0}", report::quantile(micros, share));
    vec![
        name.to_owned(),
        micros.len().to_string(),
        cell(0.5),
        cell(0.99),
        cell(1.0),
    ]
}

/// Head of a table of latencies.
pub const LATENCY_HEAD: [&str; 5] = ["router", "trials", "median µs", "p99 µs", "worst µs"];

/// Sends single frames from g0 on command, or one of them again and again, from a thread in the generator's namespace.
///
/// A packet socket, not the live-frame generator: a frame is on its way within a few microseconds of the call, while setting
/// up a run of live frames takes longer than what is measured.
pub struct Prober {
    thread: Option<JoinHandle<Result<()>>>,
    orders: Arc<Orders>,
}

/// Written by the owner of a `Prober`, read by its thread; `sent_ns` the other way round.
struct Orders {
    stop: AtomicBool,
    /// Which of the frames is sent.
    frame: AtomicUsize,
    /// How many single frames were asked for, and how many were sent.
    asked: AtomicUsize,
    sent: AtomicUsize,
    /// When the last single frame was handed to the kernel, ns of CLOCK_MONOTONIC.
    sent_ns: std::sync::atomic::AtomicU64,
}

impl Prober {
    /// Starts the thread. With an interval it sends the chosen frame that often; without one only when asked.
    pub fn start(lab: &Lab, frames: Vec<Vec<u8>>, interval: Option<Duration>) -> Result<Self> {
        let orders = Arc::new(Orders {
            stop: AtomicBool::new(false),
            frame: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
            sent_ns: 0.into(),
        });
        let (netns, seen) = (lab.generator(), orders.clone());
        let thread = thread::spawn(move || {
            sys::enter_netns(&netns)?;
            sys::pin(GENERATOR_CORE)?;
            let socket = PacketSocket::open(generator::ifindex("g0")?)?;
            let mut next = Instant::now();
            while !seen.stop.load(Ordering::Relaxed) {
                let frame = &frames[seen.frame.load(Ordering::Relaxed).min(frames.len() - 1)];
                match interval {
                    Some(interval) => {
                        socket.send(frame)?;
                        // Late is late: no bursts to make up for it.
                        next = (next + interval).max(Instant::now());
                        thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                    None if seen.asked.load(Ordering::Acquire) > seen.sent.load(Ordering::Relaxed) => {
                        seen.sent_ns.store(sys::monotonic_ns(), Ordering::Relaxed);
                        socket.send(frame)?;
                        seen.sent.fetch_add(1, Ordering::Release);
                    }
                    None => thread::sleep(Duration::from_micros(200)),
                }
            }
            Ok(())
        });
        Ok(Prober {
            thread: Some(thread),
            orders,
        })
    }

    /// Chooses the frame that is sent from now on.
    pub fn choose(&self, frame: usize) {
        self.orders.frame.store(frame, Ordering::Relaxed);
    }

    /// Sends one frame and returns when it was handed to the kernel, ns of CLOCK_MONOTONIC.
    pub fn send_one(&self) -> Result<u64> {
        let number = self.orders.asked.fetch_add(1, Ordering::Release) + 1;
        while self.orders.sent.load(Ordering::Acquire) < number {
            self.check()?;
            thread::sleep(Duration::from_micros(200));
        }
        Ok(self.orders.sent_ns.load(Ordering::Relaxed))
    }

    /// An error when the thread has ended.
    pub fn check(&self) -> Result<()> {
        sys::check_interrupt()?;
        match &self.thread {
            Some(thread) if !thread.is_finished() => Ok(()),
            _ => Err(Error::new("the sending thread has ended")),
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.orders.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("sender: {error}");
        }
    }
}
