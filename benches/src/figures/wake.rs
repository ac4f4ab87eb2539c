//! Microseconds that a packet takes through a router that has been idle, from one veth to another.

use std::thread;
use std::time::{Duration, Instant};

use super::Prober;
use crate::lab::Lab;
use crate::router::{Contender, Router};
use crate::sink::Sink;
use crate::{Error, Result};

/// How long nothing happens before each packet.
const IDLE: Duration = Duration::from_millis(20);

/// Measures `trials` single packets, each after [`IDLE`]: from the call that sends it to the sink's XDP program.
pub fn measure(lab: &Lab, contender: Contender, trials: usize) -> Result<Vec<f64>> {
    let sink = Sink::attach(&lab.sink(), "s0", lab.routed(), true)?;
    let mut router = Router::start(lab, contender)?;
    let prober = Prober::start(lab, vec![lab.traffic(false, 64).frame()?], None)?;
    let mut micros = Vec::new();
    // The first packets resolve neighbours and fill caches.
    for trial in 0..trials + 10 {
        thread::sleep(IDLE);
        let before = sink.seen()?.good;
        let sent = prober.send_one()?;
        let limit = Instant::now() + Duration::from_secs(2);
        let seen = loop {
            let seen = sink.seen()?;
            if seen.good > before {
                break seen;
            }
            if Instant::now() > limit {
                return Err(Error::new(format!("packet {trial} did not arrive")));
            }
            router.check()?;
            thread::sleep(Duration::from_micros(500));
        };
        if trial >= 10 {
            micros.push(seen.last_ns.saturating_sub(sent) as f64 / 1000.0);
        }
    }
    Ok(micros)
}
