//! Containers come and go while others talk: ports are taken up and let go, and nobody else loses a packet.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a ┐
//!   b 10.65.0.3 ── cali-b ┼─ r (margayd) up0 ── u 203.0.113.1
//!   x1 … x5     ── cali-x*┘   (these come and go)
//! ```

use std::time::Duration;

use tests::traffic::Stream;
use tests::{LIMIT, Margay, wait_for};

use crate::common::{PORTS, node};

#[test]
fn containers_come_and_go() {
    let Some(net) = node("churn") else { return };
    let (a, b) = (net.container("a", 2), net.container("b", 3));
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    a.reaches("203.0.113.1");
    a.reaches("10.65.0.3");
    a.reaches("fd65::3");
    let status = margay.json("status");
    let address = |text: &str| text.parse().expect("an address");
    let streams = [
        Stream::start(&a, &net.u, address("203.0.113.1"), 4, Duration::from_millis(5)),
        Stream::start(&net.u, &b, address("10.65.0.3"), 4, Duration::from_millis(5)),
        Stream::start(&b, &a, address("fd65::2"), 4, Duration::from_millis(5)),
    ];
    for stream in &streams {
        stream.flows_on(100);
    }
    for round in 0..3 {
        let containers: Vec<_> = (1..=5)
            .map(|n| net.container(&format!("x{round}{n}"), 10 + n))
            .collect();
        for (n, container) in (1..=5).zip(&containers) {
            margay.has_port(&format!("cali-x{round}{n}"));
            container.reaches("203.0.113.1");
            container.reaches("fd65::2");
        }
        // Gone by deletion of the node's end, and by the end of the container.
        for (n, container) in (1..=5).zip(&containers) {
            if n % 2 == 0 {
                net.r.sh(&format!("ip link del cali-x{round}{n}"));
            } else {
                container.sh("ip link del eth0");
            }
        }
        for n in 1..=5 {
            wait_for("the port is let go", LIMIT, || {
                margay.find_port(&format!("cali-x{round}{n}")).is_none()
            });
        }
        for stream in &streams {
            stream.flows_on(50);
        }
    }
    margay.lost_nothing(&streams.map(Stream::stop));
    // Nothing leaks: the frames and the kernel's memory are what they were.
    wait_for("all frames are back", LIMIT, || {
        let now = margay.json("status");
        let (before, now) = (&status["frames"], &now["frames"]);
        if now["kernel_bytes"] == before["kernel_bytes"] && now["total"] == before["total"] {
            Ok(())
        } else {
            Err(format!("{before} before, {now} now"))
        }
    });
    margay.mirrors_kernel();
    margay.check_sums();
}

/// A port that is renamed, taken down and up, and one whose name the configuration gives exactly but that is not there yet.
#[test]
fn names_and_links() {
    let Some(net) = node("names") else { return };
    let a = net.container("a", 2);
    let exact = "[[port]]\nname = \"late0\"\nrole = \"uplink\"\n";
    let margay = Margay::start(&net.lab, &net.r, &format!("{PORTS}{exact}"));
    a.reaches("203.0.113.1");
    assert!(margay.find_port("late0").is_none());
    net.r
        .sh("ip link add late0 type veth peer name late1; ip link set late0 up; ip link set late1 up");
    margay.has_port("late0");
    assert_eq!(
        margay.find_port("late0").map(|port| port["role"].clone()),
        Some("uplink".into())
    );
    assert!(margay.find_port("late1").is_none(), "nobody asked for late1");
    net.r.sh("ip link set up0 down; ip link set up0 up
              ip route replace default via 10.0.0.2
              ip -6 addr replace fd00::1/64 dev up0 nodad; ip -6 route replace default via fd00::2");
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    // A device that gets a name that is asked for, and one that loses it.
    net.r
        .sh("ip link set late1 down; ip link set late1 name cali-z; ip link set cali-z up");
    margay.has_port("cali-z");
    net.r
        .sh("ip link set cali-z down; ip link set cali-z name none0; ip link set none0 up");
    wait_for("the port is let go", LIMIT, || {
        margay.find_port("cali-z").is_none()
    });
    margay.mirrors_kernel();
    margay.check_sums();
}
