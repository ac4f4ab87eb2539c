//! More changes than the netlink socket can hold while nobody reads: the mirror knows that it has lost track, reads the kernel's tables
//! anew, and never forgets what it knew meanwhile.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── u 203.0.113.1
//! ```

use std::time::Duration;

use tests::traffic::Stream;
use tests::{Margay, wait_for};

use crate::common::{PORTS, node, route_lines};

const ROUTES: u32 = 250_000;

#[test]
fn the_mirror_recovers() {
    let Some(net) = node("overrun") else { return };
    let a = net.container("a", 2);
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    a.reaches("203.0.113.1");
    let stream = Stream::start(
        &a,
        &net.u,
        "203.0.113.1".parse().expect("an address"),
        4,
        Duration::from_millis(2),
    );
    stream.flows_on(50);
    let resyncs = margay.json("status")["resyncs"].as_u64().expect("a number");
    // Stopped, margayd reads nothing; each message takes about a kilobyte of the socket's buffer.
    margay.process().signal(libc::SIGSTOP);
    let file = net.lab.directory().join("routes");
    let lines = route_lines(ROUTES);
    std::fs::write(&file, &lines).expect("the lab's directory can be written");
    net.r.sh(&format!("ip -batch {}", file.display()));
    margay.process().signal(libc::SIGCONT);
    wait_for("the overrun is noticed", tests::LIMIT, || {
        margay.json("status")["resyncs"].as_u64() > Some(resyncs)
    });
    margay.mirrors_kernel();
    assert!(margay.json("status")["routes"].as_u64() >= Some(u64::from(ROUTES)));
    stream.flows_on(100);
    // Again with everything withdrawn, and with a table that is full meanwhile.
    let resyncs = margay.json("status")["resyncs"].as_u64().expect("a number");
    margay.process().signal(libc::SIGSTOP);
    std::fs::write(&file, lines.replace("route add", "route del"))
        .expect("the lab's directory can be written");
    net.r.sh(&format!("ip -batch {}", file.display()));
    margay.process().signal(libc::SIGCONT);
    wait_for("the overrun is noticed", tests::LIMIT, || {
        margay.json("status")["resyncs"].as_u64() > Some(resyncs)
    });
    margay.mirrors_kernel();
    stream.flows_on(100);
    stream.stop();
    assert_eq!(
        margay.drops("no_route"),
        0,
        "there was no moment of an empty table"
    );
    margay.check_sums();
}
