//! What a router gets through between two veth pairs.

use std::time::{Duration, Instant};

use crate::command::{pause, wait_for};
use crate::generator::{Generator, Limits};
use crate::lab::Lab;
use crate::router::{Contender, GENERATOR_CORE, Router};
use crate::sink::{Expected, Sink};
use crate::{Error, Result};

/// Packets a second, routed and offered.
pub struct Measured {
    /// Packets a second that came out as the router had to make them.
    pub routed: f64,
    /// Packets a second that were sent.
    pub offered: f64,
}

/// Offers frames of `size` bytes without pause for so many seconds. A packet with wrong MACs or TTL is an error.
pub fn measure(lab: &Lab, contender: Contender, ipv6: bool, size: usize, seconds: f64) -> Result<Measured> {
    let expected = lab.routed();
    let expected = Expected {
        ttl: expected.ttl.filter(|_| contender.routes()),
        ..expected
    };
    let sink = Sink::attach(&lab.sink(), "s0", expected, false)?;
    let mut router = Router::start(lab, contender)?;
    let traffic = lab.traffic(ipv6, size);
    let unlimited = Limits {
        packets: u64::MAX,
        time: Duration::from_secs_f64(seconds + 60.0),
        rate: Some(1000),
    };
    // A trickle until the first packet comes through: it resolves neighbours, and testpmd does not say when it is ready.
    let trickle = Generator::start(&lab.generator(), "g0", &traffic, GENERATOR_CORE, unlimited)?;
    wait_for("a routed packet", Duration::from_secs(20), || {
        Ok(sink.seen()?.good > 0)
    })?;
    trickle.stop()?;
    let generator = Generator::start(
        &lab.generator(),
        "g0",
        &traffic,
        GENERATOR_CORE,
        Limits {
            rate: None,
            ..unlimited
        },
    )?;
    pause(Duration::from_millis(700))?;
    let (before, start) = (sink.seen()?, Instant::now());
    pause(Duration::from_secs_f64(seconds))?;
    let (after, took) = (sink.seen()?, start.elapsed().as_secs_f64());
    let (_, offered) = generator.stop()?;
    router.check()?;
    if after.bad > 0 {
        return Err(Error::new(format!(
            "{}: {} packets with wrong MACs or TTL",
            contender.name(),
            after.bad
        )));
    }
    Ok(Measured {
        routed: (after.good - before.good) as f64 / took,
        offered,
    })
}
