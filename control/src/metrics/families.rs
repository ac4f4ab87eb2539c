//! Every metric family, in one table: name, kind, labels, help, and where its numbers come from. What is served and the
//! reference page both come from it.

use std::time::UNIX_EPOCH;

use forwarder::PortStats;
use forwarder::counters::{BURST_CLASSES, BurstSizes};

use super::http::Refusal;
use super::sample::Sample;
use crate::mirror::Lag;

/// What kind of metric a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the daemon's start unless the help says otherwise. Its series end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size: `_bucket`, `_sum`, `_count`.
    Histogram,
    /// Constant labels. Its series ends in `_info`.
    Info,
}

/// One number, or one histogram.
#[derive(Debug, Clone, PartialEq)]
pub enum Number {
    /// A whole number.
    Whole(u64),
    /// Seconds or a share.
    Real(f64),
    /// Counts by upper end of their class, and the sum of what was counted. The last upper end is infinite.
    Counts {
        /// Upper end and count of each class, not added up.
        classes: Vec<(f64, u64)>,
        /// Sum of what was counted.
        sum: f64,
    },
}

/// One series: the values of the family's labels, and its number.
pub type Series = (Vec<String>, Number);

/// A metric family.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Name without the prefix `margay_` and without `_total`.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
    /// Its series.
    pub series: fn(&Sample) -> Vec<Series>,
}

fn one(number: u64) -> Vec<Series> {
    vec![(Vec::new(), Number::Whole(number))]
}

fn by_port(sample: &Sample, number: impl Fn(&PortStats) -> u64) -> Vec<Series> {
    let ports = sample.snapshot.ports.iter();
    ports
        .map(|port| (vec![port.name.clone()], Number::Whole(number(port))))
        .collect()
}

fn by_queue(sample: &Sample, number: fn(&forwarder::QueueStats) -> u64) -> Vec<Series> {
    let name = |queue: &forwarder::QueueStats| {
        let port = sample.snapshot.ports.iter().find(|port| port.id == queue.port)?;
        Some(port.name.clone())
    };
    let queues = sample.snapshot.queues.iter();
    queues
        .filter_map(|queue| {
            let labels = vec![name(queue)?, queue.queue.to_string()];
            Some((labels, Number::Whole(number(queue))))
        })
        .collect()
}

fn by_worker(sample: &Sample, number: fn(&forwarder::WorkerStats) -> Number) -> Vec<Series> {
    let workers = sample.snapshot.workers.iter().enumerate();
    workers
        .map(|(at, worker)| (vec![at.to_string(), worker.core.to_string()], number(worker)))
        .collect()
}

fn by_rule(sample: &Sample, number: fn(&super::RuleSample) -> u64) -> Vec<Series> {
    let name = |rule: Option<usize>| rule.map_or("default".to_owned(), |rule| rule.to_string());
    let rules = sample.rules.iter();
    rules
        .map(|rule| {
            (
                vec![rule.list.to_string(), name(rule.rule)],
                Number::Whole(number(rule)),
            )
        })
        .collect()
}

fn by_name<'n>(counts: impl IntoIterator<Item = (&'n str, u64)>) -> Vec<Series> {
    let counts = counts.into_iter();
    counts
        .map(|(name, count)| (vec![name.to_owned()], Number::Whole(count)))
        .collect()
}

/// The histogram of a worker's burst sizes.
fn bursts(sizes: &BurstSizes) -> Number {
    let mut classes: Vec<(f64, u64)> = (0..BURST_CLASSES)
        .map(|class| (BurstSizes::limit(class) as f64, sizes.classes[class]))
        .collect();
    classes.push((f64::INFINITY, 0));
    Number::Counts {
        classes,
        sum: sizes.packets as f64,
    }
}

fn lag(lag: &Lag) -> Number {
    let limits = Lag::LIMITS.iter().map(|limit| *limit as f64 / 1e6);
    Number::Counts {
        classes: limits.chain([f64::INFINITY]).zip(lag.messages).collect(),
        sum: lag.sum_ns as f64 / 1e9,
    }
}

macro_rules! families {
    ($( $name:literal $kind:ident [$( $label:literal ),*] $help:literal => $series:expr; )*) => {
        /// All families, in the order in which they are told.
        pub const FAMILIES: &[Family] = &[
            $( Family { name: $name, kind: Kind::$kind, labels: &[$( $label ),*], help: $help, series: $series }, )*
        ];
    };
}

families! {
    "build" Info ["version"] "The version of margayd." =>
        |_| vec![(vec![env!("CARGO_PKG_VERSION").to_owned()], Number::Whole(1))];
    "start_time_seconds" Gauge [] "When margayd was started, in seconds since 1970." =>
        |s| vec![(Vec::new(), Number::Real(s.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()))];
    "ready" Gauge [] "1 once the kernel's tables are mirrored, lists are compiled and every port that was there at the start is open." =>
        |s| one(u64::from(s.ready));
    "generation" Gauge [] "Raised with each batch of changes that workers see." => |s| one(s.mirror.generation);

    "ports" Gauge [] "Open ports." => |s| one(s.snapshot.ports.len() as u64);
    "ports_waiting" Gauge [] "Ports that are configured and not open; `margay port show` tells why." => |s| one(s.waiting as u64);
    "port_up" Gauge ["port"] "1 while the port is up and has a carrier." => |s| by_port(s, |p| u64::from(s.up.contains(&p.id)));
    "port_queues" Gauge ["port"] "RX queues of the port, each with a socket." => |s| by_port(s, |p| u64::from(p.queues));
    "port_rx_packets" Counter ["port"] "Frames that came in, since the port was opened." => |s| by_port(s, |p| p.rx_packets);
    "port_rx_bytes" Counter ["port"] "Their bytes." => |s| by_port(s, |p| p.rx_bytes);
    "port_tx_packets" Counter ["port"] "Frames that Margay sent by the port." => |s| by_port(s, |p| p.tx_packets);
    "port_tx_bytes" Counter ["port"] "Their bytes." => |s| by_port(s, |p| p.tx_bytes);
    "port_punted_packets" Counter ["port"] "Frames that came in and were left to the kernel." => |s| by_port(s, |p| p.punted);
    "port_forwarded_packets" Counter ["port"] "Packets that came in and were sent on." => |s| by_port(s, |p| p.forwarded);
    "port_replied_packets" Counter ["port"] "Packets that came in and were answered with an ICMP error or a TCP reset." => |s| by_port(s, |p| p.replied);
    "port_dropped_packets" Counter ["port"] "Packets that came in and were dropped." => |s| by_port(s, |p| p.dropped);
    "port_originated_packets" Counter ["port"] "Packets that Margay made and sent by the port: answers, and of each packet in fragments all but the last." => |s| by_port(s, |p| p.originated);
    "port_held_packets" Gauge ["port"] "Packets that came in and wait for a neighbour now." => |s| by_port(s, |p| p.held);

    "queue_rx_ring_full" Counter ["port", "queue"] "Packets that found the RX ring full: the worker was away for longer than the ring is deep." => |s| by_queue(s, |q| q.rx_ring_full);
    "queue_rx_no_frame" Counter ["port", "queue"] "Packets that found no frame in the fill ring." => |s| by_queue(s, |q| q.rx_no_frame);
    "queue_rx_oversize" Counter ["port", "queue"] "Packets that are longer than a frame." => |s| by_queue(s, |q| q.rx_oversize);
    "queue_invalid_descriptors" Counter ["port", "queue"] "Descriptors that the kernel refused; anything but 0 is a bug of Margay." => |s| by_queue(s, |q| q.invalid);

    "drops" Counter ["reason"] "Dropped packets by reason, over all ports, those that are gone included. Every reason is there." =>
        |s| by_name(s.drops.iter().map(|(reason, packets, _)| (reason.name(), *packets)));
    "drop_bytes" Counter ["reason"] "Bytes of their frames; 0 where the kernel dropped them and does not tell." =>
        |s| by_name(s.drops.iter().map(|(reason, _, bytes)| (reason.name(), *bytes)));

    "rule_packets" Counter ["acl", "rule"] "Packets that a rule decided, since the list was last changed; `default` stands for what no rule matches." => |s| by_rule(s, |r| r.count.packets);
    "rule_bytes" Counter ["acl", "rule"] "Their bytes." => |s| by_rule(s, |r| r.count.bytes);
    "rules_without_series" Gauge [] "Rules beyond the first 1,000 of all lists, which have no series; `margay acl show` has their counters." => |s| one(s.rules_left_out as u64);

    "routes" Gauge [] "Routes of the configured tables." => |s| one(s.mirror.routes);
    "fib_bytes" Gauge ["part"] "Bytes of the route tables: `image` is what look-ups read, `all` the control side's copy as well." =>
        |s| by_name([("image", s.fib_bytes.0 as u64), ("all", s.fib_bytes.1 as u64)]);
    "nexthop_groups" Gauge [] "Next-hop groups of the data plane." => |s| one(s.groups);
    "adjacencies" Gauge ["state"] "Adjacencies of the data plane by state." => |s| by_name(s.adjacencies.iter().map(|(n, c)| (*n, *c)));
    "neighbours" Gauge ["state"] "Neighbour entries of the kernel by state." => |s| by_name(s.neighbours.iter().map(|(n, c)| (*n, *c)));

    "mirror_lag_seconds" Histogram [] "From margayd reading a netlink message that changes something to the workers' tables having it." =>
        |s| vec![(Vec::new(), lag(&s.mirror.lag))];
    "mirror_messages" Counter [] "Netlink messages read, dumps included." => |s| one(s.mirror.messages);
    "mirror_bad_messages" Counter [] "Netlink messages that made no sense; each leads to a resync." => |s| one(s.mirror.bad_messages);
    "mirror_overruns" Counter [] "Times that the kernel had no room left for its messages and threw some away; each leads to a resync." => |s| one(s.mirror.overruns);
    "mirror_resyncs" Counter [] "Times that the kernel's state was read anew because it was no longer certain." => |s| one(s.mirror.resyncs);
    "mirror_corrected_prefixes" Counter [] "Prefixes that a resync or verification had to correct." => |s| one(s.mirror.corrected);
    "mirror_refused_requests" Counter [] "Neighbour requests of workers that were not taken up: too many hosts were being resolved." => |s| one(s.mirror.refused_requests);

    "worker_busy_seconds" Counter ["worker", "core"] "Time that a worker has spent on packets." => |s| by_worker(s, |w| Number::Real(w.busy_time.as_secs_f64()));
    "worker_idle_seconds" Counter ["worker", "core"] "The rest of its time: asleep, or looking for packets in vain." => |s| by_worker(s, |w| Number::Real(w.idle_time.as_secs_f64()));
    "worker_burst_packets" Histogram ["worker", "core"] "Packets of the bursts that a worker has taken." => |s| by_worker(s, |w| bursts(&w.sizes));
    "worker_queues" Gauge ["worker", "core"] "RX queues that a worker serves." => |s| by_worker(s, |w| Number::Whole(u64::from(w.queues)));

    "frames" Gauge ["place"] "UMEM frames by the place where they are." => |s| {
        let census = s.snapshot.frames.census;
        by_name([("free", census.free), ("rx", census.rx), ("tx", census.tx), ("held", census.held), ("handover", census.handover)])
    };
    "frames_kernel_bytes" Gauge [] "About what the kernel allocates for the frames beside the UMEM itself." => |s| one(s.snapshot.frames.kernel_bytes);

    "scrapes" Counter [] "Times that these metrics were served, this time not included." => |s| one(s.served.scrapes);
    "scrapes_refused" Counter ["reason"] "HTTP requests that were refused." =>
        |s| by_name(Refusal::ALL.iter().map(|refusal| (refusal.name(), s.served.refused[*refusal as usize])));
}
