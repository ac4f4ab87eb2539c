//! Microseconds from `ip route add` to the first packet that uses the route.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::Prober;
use crate::lab::{GATEWAY_V4, Lab};
use crate::router::{Contender, Router};
use crate::sink::Sink;
use crate::{Context, Error, Result, sys};

/// Time between two packets of the stream: the resolution of the figure.
const INTERVAL: Duration = Duration::from_micros(20);

/// The destination of a trial, each in a /24 of its own.
fn destination(trial: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, (trial / 256) as u8, (trial % 256) as u8, 1)
}

/// Measures `trials` routes. A stream of packets towards the destination is on its way all the time and is dropped for want of
/// a route; the clock starts when the line is given to a waiting `ip -batch` and stops when the sink sees the first packet.
pub fn measure(lab: &Lab, contender: Contender, trials: usize) -> Result<Vec<f64>> {
    let trials = trials.min(1 << 16);
    let sink = Sink::attach(&lab.sink(), "s0", lab.routed(), true)?;
    let mut router = Router::start(lab, contender)?;
    let mut frames = Vec::new();
    for trial in 0..trials {
        let mut traffic = lab.traffic(false, 64);
        traffic.dst = destination(trial).into();
        frames.push(traffic.frame()?);
    }
    let prober = Prober::start(lab, frames, Some(INTERVAL))?;
    let mut ip = Command::new("ip")
        .args(["netns", "exec", &lab.router(), "ip", "-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("ip -batch")?;
    let mut batch = ip
        .stdin
        .take()
        .ok_or_else(|| Error::new("ip -batch has no input"))?;
    let mut line = |text: String| batch.write_all(text.as_bytes()).context("ip -batch");

    let mut micros = Vec::new();
    for trial in 0..trials {
        prober.choose(trial);
        thread::sleep(Duration::from_millis(4));
        sink.reset()?;
        thread::sleep(Duration::from_millis(1));
        if sink.seen()?.good != 0 {
            return Err(Error::new("packets arrive without a route"));
        }
        let route = format!("{}/24", Ipv4Addr::from(destination(trial).to_bits() & !0xff));
        let start = sys::monotonic_ns();
        line(format!("route add {route} via {GATEWAY_V4}\n"))?;
        let first = sink.first_ns(&route, || {
            router.check()?;
            prober.check()
        })?;
        micros.push(first.saturating_sub(start) as f64 / 1000.0);
    }
    for trial in 0..trials {
        line(format!(
            "route del {}/24\n",
            Ipv4Addr::from(destination(trial).to_bits() & !0xff)
        ))?;
    }
    drop(batch);
    ip.wait().context("ip -batch")?;
    Ok(micros)
}
