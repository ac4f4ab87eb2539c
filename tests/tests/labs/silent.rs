//! IPv4 routes that the kernel deletes without saying so vanish in Margay as well: link down, address deleted, device moved or deleted,
//! nexthop object deleted. A link without carrier keeps its routes. Meanwhile the other uplink loses nothing.
//!
//! The topology is that of `routes.rs`: two uplinks, up0 and up1, between r and u.

use std::time::Duration;

use tests::traffic::Stream;

use crate::routes::build;

/// 50 routes of each family by up1, and a stream by up0 that must not notice anything.
#[test]
fn vanish() {
    let Some(net) = build("silent", "") else { return };
    net.change("ip route add 203.0.113.1 via 10.0.0.2");
    net.a.reaches("203.0.113.1");
    let stream = Stream::start(
        &net.a,
        &net.u,
        "203.0.113.1".parse().expect("an address"),
        4,
        Duration::from_millis(5),
    );
    stream.flows_on(100);
    let fifty = "for i in $(seq 1 50); do echo route add 198.51.100.$i via 10.0.1.2; echo route add 2001:db8:51::$i via fd00:1::2; done \
                 | ip -batch -";
    let addresses = "ip addr replace 10.0.1.1/24 dev up1; ip -6 addr replace fd00:1::1/64 dev up1 nodad";
    for (what, gone, back) in [
        ("the link goes down", "ip link set up1 down", "ip link set up1 up"),
        (
            "the last address goes",
            "ip addr del 10.0.1.1/24 dev up1; ip -6 addr del fd00:1::1/64 dev up1",
            ":",
        ),
    ] {
        net.change(fifty);
        let there = net
            .margay
            .route_get("198.51.100.7")
            .unwrap_or_else(|| panic!("before {what}"));
        assert_eq!(there["route"]["prefix"], "198.51.100.7/32", "{there}");
        net.change(gone);
        assert!(
            net.r
                .sh("ip route show dev up1")
                .lines()
                .filter(|line| line.starts_with("198.51"))
                .count()
                == 0
        );
        assert!(net.margay.route_get("198.51.100.7").is_none(), "{what}");
        net.change(&format!(
            "{back}; ip -6 route flush root 2001:db8:51::/64; ip route flush root 198.51.100.0/24; {addresses}"
        ));
    }
    // The nexthop object goes, and 50 routes with it.
    net.change(
        "ip nexthop add id 7 via 10.0.1.2 dev up1
         for i in $(seq 1 50); do echo route add 198.51.100.$i nhid 7; done | ip -batch -",
    );
    assert!(net.margay.route_get("198.51.100.9").is_some());
    net.change("ip nexthop del id 7");
    assert!(net.margay.route_get("198.51.100.9").is_none());
    // The peer goes down: the routes stay, marked, and lead nowhere until it is back.
    net.change(fifty);
    net.u.sh("ip link set r1 down");
    tests::wait_for("the kernel marks the routes", tests::LIMIT, || {
        net.r.sh("ip route show dev up1").contains("linkdown")
    });
    net.margay.mirrors_kernel();
    net.refused("198.51.100.7", &["Unreachable"]);
    net.u.sh(
        "ip link set r1 up; ip -6 addr replace fd00:1::2/64 dev r1 nodad; ip addr add 198.51.100.7/32 dev lo",
    );
    net.margay.mirrors_kernel();
    net.goes_among("198.51.100.7", "up1", &["up1", "cali-b"]);
    // The device goes to another namespace, and back again.
    let elsewhere = net.lab.host("elsewhere");
    net.change(&format!("ip link set up1 netns {}", elsewhere.netns()));
    assert!(net.margay.route_get("198.51.100.7").is_none());
    tests::wait_for("port up1 is let go", tests::LIMIT, || {
        net.margay.find_port("up1").is_none()
    });
    elsewhere.sh(&format!("ip link set up1 netns {}", net.r.netns()));
    net.change(&format!("ip link set up1 up; {addresses}; {fifty}"));
    net.margay.has_port("up1");
    net.goes_among("198.51.100.7", "up1", &["up1", "cali-b"]);
    // The device is deleted.
    net.change("ip link del up1");
    assert!(net.margay.route_get("198.51.100.7").is_none());
    tests::wait_for("port up1 is let go", tests::LIMIT, || {
        net.margay.find_port("up1").is_none()
    });
    stream.flows_on(100);
    // The other uplink lost nothing.
    net.margay.lost_nothing(&[stream.stop()]);
    net.finish();
}
