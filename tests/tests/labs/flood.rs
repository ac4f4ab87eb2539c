//! A frame that a bridge floods to every port is forwarded by the router whose MAC it bears, and by no other.
//!
//! ```text
//!                       ┌ sw1 ── up0 r1 (margayd) up1 ── t1 ┐
//!   u r0 ── swu sw ─────┤        10.0.0.1     10.77.1.1     ├ t 10.77.0.9 (on both of its links)
//!          (a bridge    └ sw2 ── up0 r2 (margayd) up1 ── t2 ┘
//!          that never learns)    10.0.0.3     10.77.2.1
//! ```

use std::net::Ipv4Addr;

use tests::margay::list;
use tests::raw::{Wire, ethernet, ipv4, is_ipv4, udp};
use tests::{LIMIT, Lab, Margay, wait_for};

use crate::common::PORTS;

#[test]
fn flooded_frames_are_forwarded_once() {
    let Some(lab) = Lab::new("flood") else { return };
    let [u, sw, r1, r2, t] = ["u", "sw", "r1", "r2", "t"].map(|name| lab.host(name));
    lab.veth(&u, "r0", &sw, "swu");
    lab.veth(&r1, "up0", &sw, "sw1");
    lab.veth(&r2, "up0", &sw, "sw2");
    lab.veth(&r1, "up1", &t, "t1");
    lab.veth(&r2, "up1", &t, "t2");
    sw.sh("ip link add br0 type bridge mcast_snooping 0; ip link set br0 up
           for port in swu sw1 sw2; do ip link set $port master br0; ip link set $port type bridge_slave learning off flood on; done");
    u.sh("ip addr add 10.0.0.2/24 dev r0");
    t.sh("ip addr add 10.77.0.9/32 dev lo; ip addr add 10.77.1.9/24 dev t1; ip addr add 10.77.2.9/24 dev t2");
    for (r, n, up0) in [(&r1, 1, 1), (&r2, 2, 3)] {
        r.sh(&format!(
            "ip addr add 10.0.0.{up0}/24 dev up0; ip addr add 10.77.{n}.1/24 dev up1; ip route add 10.77.0.9 via 10.77.{n}.9"
        ));
    }
    let (m1, m2) = (Margay::start(&lab, &r1, PORTS), Margay::start(&lab, &r2, PORTS));
    for margay in [&m1, &m2] {
        margay.has_port("up0");
        margay.has_port("up1");
        margay.mirrors_kernel();
        // The way to t is resolved before anything is counted.
        wait_for("the next hop is resolved", LIMIT, || {
            let shown = margay.json("neigh show");
            let known = list(&shown, "neighbours")
                .iter()
                .any(|neighbour| neighbour["dev"] == "up1" && neighbour["mac"].is_string());
            if known { Ok(()) } else { Err(shown.to_string()) }
        });
    }

    let (source, target) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 77, 0, 9));
    let frame = |mac| {
        ethernet(
            mac,
            u.mac("r0"),
            0x0800,
            &ipv4(source, target, 64, 17, &udp(None, 4000, 4000, b"once")),
        )
    };
    let wire = Wire::open(&u, "r0");
    let ways = [Wire::open(&t, "t1"), Wire::open(&t, "t2")];
    let seen = |way: &Wire| way.count(|frame| is_ipv4(frame, source, target));
    let stranger = [0x02, 0, 0, 0, 0, 0x99];
    for (mac, expected) in [
        (r1.mac("up0"), [200, 0]),
        (r2.mac("up0"), [0, 200]),
        (stranger, [0, 0]),
    ] {
        let rx = [&m1, &m2].map(|margay| margay.port("up0", "rx_packets"));
        let frame = frame(mac);
        for _ in 0..200 {
            wire.send(&frame);
        }
        for (margay, rx) in [&m1, &m2].into_iter().zip(rx) {
            wait_for("all 200 frames have come in", LIMIT, || {
                margay.port("up0", "rx_packets") >= rx + 200
            });
            margay.check_sums();
        }
        let mut got = [0, 0];
        wait_for(&format!("t receives {expected:?}"), LIMIT, || {
            got = [got[0] + seen(&ways[0]), got[1] + seen(&ways[1])];
            if got[0] >= expected[0] && got[1] >= expected[1] {
                Ok(())
            } else {
                Err(format!("{got:?} so far"))
            }
        });
        tests::never(
            "a frame arrives twice",
            std::time::Duration::from_millis(300),
            || {
                got = [got[0] + seen(&ways[0]), got[1] + seen(&ways[1])];
                got != expected
            },
        );
    }
    for margay in [&m1, &m2] {
        assert!(
            margay.port("up0", "punted") >= 400,
            "frames for another MAC are the kernel's"
        );
        margay.check_sums();
    }
}
