//! Counts what arrives behind the router, in an XDP program that checks and drops it.

use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::{Link, MapCore, MapFlags, Object, ObjectBuilder};

use crate::{Context, Error, Result, generator, sys};

/// The only key of the one-entry maps.
const KEY: [u8; 4] = [0; 4];
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sink.o"));

/// What the router must have made of the packets.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// MAC of the receiving port.
    pub dst_mac: [u8; 6],
    /// MAC of the router's port.
    pub src_mac: [u8; 6],
    /// TTL or hop limit; `None` where the contender does not route but only rewrites MACs.
    pub ttl: Option<u8>,
}

/// What has arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets as expected.
    pub good: u64,
    /// The generator's packets with other MACs or another TTL.
    pub bad: u64,
    /// Bytes of the good ones.
    pub bytes: u64,
    /// When the first good one since the last reset came, ns of CLOCK_MONOTONIC; 0 when none has, or stamps are off.
    pub first_ns: u64,
    /// When the last good one came.
    pub last_ns: u64,
}

/// The attached program. Dropping it detaches it.
pub struct Sink {
    object: Object,
    _link: Link,
}

impl Sink {
    /// Attaches to `dev` in namespace `netns`. `stamps` asks for arrival times, which cost about 30 ns a packet.
    pub fn attach(netns: &str, dev: &str, expected: Expected, stamps: bool) -> Result<Self> {
        // A thread of its own enters the namespace, so that the caller stays where it is.
        let (netns, dev) = (netns.to_owned(), dev.to_owned());
        let attach = move || {
            sys::enter_netns(&netns)?;
            let object = ObjectBuilder::default().open_memory(OBJECT).context("sink")?;
            let object = object.load().context("loading the sink (root needed)")?;
            let index = generator::ifindex(&dev)? as i32;
            let program = object.progs_mut().find(|program| program.name() == "sink");
            let program = program.ok_or_else(|| Error::new("no program sink"))?;
            let link = program.attach_xdp(index).context(format!("attaching to {dev}"))?;
            Ok(Sink { object, _link: link })
        };
        let sink = thread::spawn(attach)
            .join()
            .map_err(|_| Error::new("the sink's thread panicked"))??;
        let mut value = [&expected.dst_mac[..], &expected.src_mac].concat();
        value.extend([expected.ttl.unwrap_or(0), stamps as u8, 0, 0]);
        sink.map("expected")?
            .update(&KEY, &value, MapFlags::ANY)
            .context("configuring the sink")?;
        Ok(sink)
    }

    /// What has arrived since the last reset. Counters of all cores are added while they run.
    pub fn seen(&self) -> Result<Seen> {
        let cores = self
            .map("seen")?
            .lookup_percpu(&KEY, MapFlags::ANY)
            .context("reading the sink")?;
        let mut total = Seen::default();
        for core in cores.unwrap_or_default() {
            let number = |at: usize| {
                core[at * 8..]
                    .first_chunk()
                    .map_or(0, |bytes| u64::from_ne_bytes(*bytes))
            };
            total.good += number(0);
            total.bad += number(1);
            total.bytes += number(2);
            let first = number(3);
            if first != 0 && (total.first_ns == 0 || first < total.first_ns) {
                total.first_ns = first;
            }
            total.last_ns = total.last_ns.max(number(4));
        }
        Ok(total)
    }

    /// When the first packet since the last reset has come, in nanoseconds of `CLOCK_MONOTONIC`. `alive` is asked meanwhile whether
    /// what should bring it about still runs.
    ///
    /// # Errors
    /// None has come within 5 s: `what` was not followed.
    pub fn first_ns(&self, what: &str, mut alive: impl FnMut() -> Result<()>) -> Result<u64> {
        let limit = Instant::now() + Duration::from_secs(5);
        loop {
            let first = self.seen()?.first_ns;
            if first != 0 {
                return Ok(first);
            }
            if Instant::now() > limit {
                return Err(Error::new(format!("{what} was not followed within 5 s")));
            }
            alive()?;
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Sets everything to zero. Packets that arrive meanwhile may be lost to the count.
    pub fn reset(&self) -> Result<()> {
        let cores = libbpf_rs::num_possible_cpus().context("number of cores")?;
        let zeros = vec![vec![0; 40]; cores];
        self.map("seen")?
            .update_percpu(&KEY, &zeros, MapFlags::ANY)
            .context("resetting the sink")
    }

    fn map(&self, name: &str) -> Result<libbpf_rs::Map<'_>> {
        self.object
            .maps()
            .find(|map| map.name() == name)
            .ok_or_else(|| Error::new(format!("no map {name}")))
    }
}
