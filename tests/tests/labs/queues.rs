//! Two workers with an uplink of two and of four queues, and workloads of one queue: descriptors cross from worker to worker, in order
//! within each flow.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a ┐
//!   b 10.65.0.3 ── cali-b ┼─ r (margayd, 2 workers) up0 ══ 2 or 4 queues ══ r0 u 203.0.113.1
//!   c 10.65.0.4 ── cali-c ┤
//!   d 10.65.0.5 ── cali-d ┘
//! ```

use std::time::Duration;

use tests::margay::list;
use tests::traffic::Stream;
use tests::{LIMIT, Lab, Link, Margay, wait_for};

use crate::common::{Node, PORTS, address};

fn lab(queues: u32) {
    let Some(lab) = Lab::new(&format!("queues{queues}")) else {
        return;
    };
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
        return tests::lab::skip("queues", "two workers need two cores");
    }
    let (r, u) = (lab.host("r"), lab.host("u"));
    let link = Link {
        near: (queues, queues),
        far: (queues, queues),
    };
    lab.veth_with(&r, "up0", &u, "r0", link);
    address(&r, &u);
    let net = Node { lab, r, u };
    let names = ["a", "b", "c", "d"];
    let containers: Vec<_> = names
        .iter()
        .zip(2..)
        .map(|(name, number)| net.container(name, number))
        .collect();
    let runtime =
        "[runtime]\nprofile = \"adaptive\"\nworkers = [0, 1]\nframes = 16384\nstall_after = \"5s\"\n";
    let margay = Margay::start(&net.lab, &net.r, &format!("{runtime}{PORTS}"));
    assert_eq!(margay.port("up0", "queues"), u64::from(queues));
    assert_eq!(margay.port("cali-a", "queues"), 1);
    // A worker tells how many queues it serves when it has taken them, which a busy machine may delay.
    let total = |status: &serde_json::Value| -> u64 {
        let workers = list(status, "workers");
        workers
            .iter()
            .filter_map(|worker| worker["queues"].as_u64())
            .sum()
    };
    wait_for("the workers have taken every queue", LIMIT, || {
        total(&margay.json("status")) == u64::from(queues) + 4
    });
    // Evenly: the numbers of queues of the two workers differ by one at most.
    let status = margay.json("status");
    let workers = list(&status, "workers");
    assert_eq!(workers.len(), 2, "{status}");
    let of = |worker: &serde_json::Value| worker["queues"].as_u64().unwrap_or(0);
    let counts: Vec<u64> = workers.iter().map(of).collect();
    assert_eq!(counts.iter().sum::<u64>(), u64::from(queues) + 4, "{status}");
    assert!(counts[0].abs_diff(counts[1]) <= 1, "{status}");

    let parse = |text: String| text.parse().expect("an address");
    let mut streams = Vec::new();
    for (container, number) in containers.iter().zip(2..) {
        container.reaches("203.0.113.1");
        container.reaches("2001:db8:113::1");
        let pause = Duration::from_millis(5);
        streams.push(Stream::start(
            container,
            &net.u,
            parse("203.0.113.1".into()),
            16,
            pause,
        ));
        streams.push(Stream::start(
            &net.u,
            container,
            parse(format!("10.65.0.{number}")),
            16,
            pause,
        ));
        streams.push(Stream::start(
            &net.u,
            container,
            parse(format!("fd65::{number}")),
            16,
            pause,
        ));
    }
    for stream in &streams {
        stream.flows_on(300);
    }
    let tallies: Vec<_> = streams.into_iter().map(Stream::stop).collect();
    margay.lost_nothing(&tallies);
    // Both workers had work, and TCP gets through whichever of them its two directions are with.
    wait_for("both workers have seen bursts", LIMIT, || {
        let status = margay.json("status");
        list(&status, "workers")
            .iter()
            .all(|worker| worker["bursts"].as_u64().is_some_and(|bursts| bursts > 0))
    });
    for (number, container) in containers.iter().enumerate() {
        let port = 5201 + number;
        let _server = net
            .u
            .spawn(&format!("iperf3-{port}"), &format!("iperf3 -s -1 -p {port}"));
        wait_for("iperf3 listens", LIMIT, || {
            net.u.sh("ss -Hltn").contains(&format!(":{port} "))
        });
        container.sh(&format!("iperf3 -c 203.0.113.1 -p {port} -n 2M -P 4"));
    }
    margay.mirrors_kernel();
    margay.check_sums();
}

#[test]
fn two_queues() {
    lab(2);
}

#[test]
fn four_queues() {
    lab(4);
}
