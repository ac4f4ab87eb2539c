//! What watching costs a packet: counters, the ring of dropped packets, traces and captures; and the time of `explain`.
//!
//! ```text
//! cargo bench -p benches --bench watch
//! ```
//!
//! All variants take turns in every round, and the medians of the rounds are told: the machine's speed drifts.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::memory::{burst, node};
use benches::report::{median, table};
use classifier::acl::{Action, Image, Limits, List, Origin};
use classifier::filter::Filter;
use classifier::packet;
use forwarder::PortId;
use forwarder::acl::Instance;
use forwarder::counters::Counters;
use forwarder::frame::Buffers;
use forwarder::path::explain::explain;
use forwarder::path::offline::Offline;
use forwarder::path::{BURST, Departure, Kind};
use forwarder::reason::Reason;
use forwarder::watch::{Decided, Point, Points, PortSet, Recent, Tap, TapSpec};

const ROUNDS: usize = 1001;
const BURSTS: u32 = 20;

/// One thing that is measured: a round of it takes so long for each packet.
type Variant = (&'static str, Box<dyn FnMut() -> f64>);

/// Nanoseconds a packet.
fn each(time: Duration) -> f64 {
    time.as_nanos() as f64 / (f64::from(BURSTS) * BURST as f64)
}

fn denying() -> Arc<Instance> {
    let list = List {
        name: "deny".into(),
        default: Action::Deny,
        rules: Vec::new(),
        origin: Origin {
            file: "bench".into(),
            line: 1,
        },
    };
    let image = Image::compile(&list, &Limits::default()).expect("an empty list compiles");
    Arc::new(Instance::new(Arc::new(image), 1))
}

fn tap(node: &Offline, filter: &str, points: &[Point]) -> Arc<Tap> {
    let spec = TapSpec {
        filter: if filter.is_empty() {
            Filter::all()
        } else {
            control::filter::parse(filter).expect("a good filter")
        },
        points: points
            .iter()
            .fold(Points::default(), |set, point| set.with(*point)),
        ports: PortSet::ALL,
        snap: 128,
        slots: 1024,
    };
    let shared = node.shared();
    shared.watch().set(spec, shared.domain()).expect("there is room")
}

/// Bursts through a node, whose tap is read between them, off the clock.
fn path(name: &'static str, denied: bool, filter: Option<&str>, points: &[Point]) -> Variant {
    let mut node = node(denied.then(denying));
    let tap = filter.map(|filter| tap(&node, filter, points));
    let frames = burst(false);
    let run = move || {
        let packets: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let mut time = Duration::ZERO;
        for _ in 0..BURSTS {
            let done = node.burst(PortId(0), &packets);
            assert_eq!(done.forwarded, if denied { 0 } else { BURST as u64 });
            time += done.elapsed;
            if let Some(tap) = &tap {
                tap.read(0, |record, _| {
                    black_box(record);
                    true
                });
            }
        }
        each(time)
    };
    (name, Box::new(run))
}

fn counters() -> [Variant; 2] {
    let forwarded = {
        let counters = Counters::new(1);
        let (_memory, mut frames) = Buffers::new(1, 64);
        let departure = Departure {
            frame: frames.pop().expect("one"),
            ingress: PortId(0),
            egress: PortId(1),
            hash: 0,
            kind: Kind::Transit,
            len: 64,
        };
        move || {
            let begun = Instant::now();
            for _ in 0..BURSTS {
                let worker = counters.worker(0);
                worker.received(PortId(0), BURST as u64, 64 * BURST as u64);
                for _ in 0..BURST {
                    worker.sent(black_box(&departure));
                }
            }
            each(begun.elapsed())
        }
    };
    let dropped = {
        let counters = Counters::new(1);
        move || {
            let begun = Instant::now();
            for _ in 0..BURSTS {
                let worker = counters.worker(0);
                worker.received(PortId(0), BURST as u64, 64 * BURST as u64);
                for _ in 0..BURST {
                    worker.dropped(black_box(PortId(0)), black_box(Reason::AclIngress), 64);
                }
            }
            each(begun.elapsed())
        }
    };
    [
        ("counters of a forwarded packet", Box::new(forwarded)),
        ("counters of a dropped packet", Box::new(dropped)),
    ]
}

fn ring(name: &'static str, size: usize) -> Variant {
    let recent = Recent::new();
    let frame = vec![0x5a; size];
    let run = move || {
        let begun = Instant::now();
        for number in 0..BURSTS * BURST as u32 {
            let time = u64::from(number);
            recent.keep(
                time,
                PortId(0),
                Reason::AclIngress,
                Decided::NONE,
                size as u32,
                black_box(&frame),
            );
        }
        each(begun.elapsed())
    };
    (name, Box::new(run))
}

/// Microseconds of one `explain` by the data plane's own tables.
fn explaining() -> f64 {
    let mut node = node(Some(denying()));
    let headers = packet::parse(&burst(false)[0]).expect("a packet");
    let shared = node.shared().clone();
    let times: Vec<f64> = (0..1000)
        .map(|_| {
            let begun = Instant::now();
            black_box(explain(&shared, node.fib(), black_box(&headers), PortId(0)));
            begun.elapsed().as_nanos() as f64 / 1000.0
        })
        .collect();
    median(&times)
}

fn main() {
    let mut variants: Vec<Variant> = counters().into();
    variants.push(ring("drop ring, frames of 64 bytes", 64));
    variants.push(ring("drop ring, frames of 128 bytes and more", 128));
    let rx_tx = [Point::Rx, Point::Tx];
    variants.extend([
        path("forwarded, nobody watches", false, None, &[]),
        path(
            "forwarded, an armed trace that does not match",
            false,
            Some("host 192.0.2.1 and tcp port 443"),
            &[Point::Trace],
        ),
        path(
            "forwarded, an armed trace that matches",
            false,
            Some(""),
            &[Point::Trace],
        ),
        path(
            "forwarded, an armed capture at rx that matches",
            false,
            Some(""),
            &[Point::Rx],
        ),
        path(
            "forwarded, an armed capture at rx and tx that matches",
            false,
            Some(""),
            &rx_tx,
        ),
        path("denied, nobody watches", true, None, &[]),
        path(
            "denied, an armed capture at drop that matches",
            true,
            Some(""),
            &[Point::Drop],
        ),
    ]);
    let mut times = vec![Vec::new(); variants.len()];
    for _ in 0..ROUNDS {
        for ((_, run), times) in variants.iter_mut().zip(&mut times) {
            times.push(run());
        }
    }
    let rows: Vec<Vec<String>> = variants
        .iter()
        .zip(&times)
        .map(|((name, _), times)| vec![(*name).to_owned(), format!("{:.1}", median(times))])
        .collect();
    print!(
        "{}",
        table(&["64-byte packets, bursts of 64", "ns a packet"], &rows)
    );
    println!("\nexplain: {:.1} µs", explaining());
}
