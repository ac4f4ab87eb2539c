//! What a router gets through between two veth pairs.

use std::time::{Duration, Instant};

use crate::command::{pause, wait_for};
use crate::generator::{Generator, Limits, Traffic};
use crate::lab::Lab;
use crate::router::{Contender, GENERATOR_CORE, Router};
use crate::sink::{Expected, Seen, Sink};
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
    measure_into(
        lab,
        contender,
        &lab.traffic(ipv6, size),
        &[("s0", expected)],
        seconds,
    )
}

/// The same with packets that leave by several ports: each receiving device with what is expected there. All together count.
pub fn measure_into(
    lab: &Lab,
    contender: Contender,
    traffic: &Traffic,
    sinks: &[(&str, Expected)],
    seconds: f64,
) -> Result<Measured> {
    let attach = |(dev, expected): &(&str, Expected)| Sink::attach(&lab.sink(), dev, *expected, false);
    let sinks: Vec<Sink> = sinks.iter().map(attach).collect::<Result<_>>()?;
    let seen = || -> Result<Vec<Seen>> { sinks.iter().map(Sink::seen).collect() };
    let good = |seen: &[Seen]| -> u64 { seen.iter().map(|seen| seen.good).sum() };
    let mut router = Router::start(lab, contender)?;
    let unlimited = Limits {
        packets: u64::MAX,
        time: Duration::from_secs_f64(seconds + 60.0),
        rate: Some(1000),
    };
    // A trickle until the first packet comes through: it resolves neighbours, and testpmd does not say when it is ready.
    let trickle = Generator::start(&lab.generator(), "g0", traffic, GENERATOR_CORE, unlimited)?;
    wait_for("a routed packet on each port", Duration::from_secs(20), || {
        Ok(seen()?.iter().all(|seen| seen.good > 0))
    })?;
    trickle.stop()?;
    let generator = Generator::start(
        &lab.generator(),
        "g0",
        traffic,
        GENERATOR_CORE,
        Limits {
            rate: None,
            ..unlimited
        },
    )?;
    pause(Duration::from_millis(700))?;
    let (before, start) = (seen()?, Instant::now());
    pause(Duration::from_secs_f64(seconds))?;
    let (after, took) = (seen()?, start.elapsed().as_secs_f64());
    let (_, offered) = generator.stop()?;
    router.check()?;
    let bad: u64 = after.iter().map(|seen| seen.bad).sum();
    if bad > 0 {
        return Err(Error::new(format!(
            "{}: {bad} packets with wrong MACs or TTL",
            contender.name()
        )));
    }
    Ok(Measured {
        routed: (good(&after) - good(&before)) as f64 / took,
        offered,
    })
}
