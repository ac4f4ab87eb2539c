//! What the kernel changes without saying so.

use control::mirror::MirrorConfig;

use crate::lab::{Lab, inside, sh};
use crate::steps;

#[test]
fn what_the_kernel_does_silently() {
    inside("silent::what_the_kernel_does_silently", |peer| async move {
        let mut lab = Lab::start(MirrorConfig::default()).await;
        // The kernel acts on a carrier up to a second later.
        let wire = |to: &str| {
            let state = if to == "up" { "UP" } else { "DOWN" };
            format!(
                "ip -n {peer} link set w0 {to}; timeout 5 sh -c \"until ip link show v0 | grep -q 'state {state} '; do sleep 0.02; done\""
            )
        };
        let both = "10.0.0.2 x1, 10.0.1.2 x1";
        sh("sysctl -qw net.ipv6.conf.all.keep_addr_on_down=1
            ip route add 10.1.0.0/16 via 10.0.0.2
            ip route add 10.2.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.1.2
            ip -6 route add 2001:db8:2::/48 nexthop via 2001:db8:a::2 nexthop via 2001:db8:b::2
            ip route add 10.3.0.0/16 via 10.0.0.2 src 10.0.1.1
            ip nexthop add id 5 via 10.0.0.2 dev v0; ip route add 10.4.0.0/16 nhid 5
            ip nexthop add id 6 via 10.0.1.2 dev v1; ip nexthop add id 7 group 5/6; ip route add 10.5.0.0/16 nhid 7
            ip route add 10.6.0.0/16 dev v0; ip route add 10.6.0.0/17 via 10.0.1.2");
        steps(
            &mut lab,
            &[
                (
                    "true",
                    &[
                        ("10.2.0.1", &format!("10.2.0.0/16: {both}")),
                        ("10.4.0.1", "10.4.0.0/16: 10.0.0.2 x1"),
                    ],
                ),
                // Carrier lost on the peer: routes stay, nexthop objects go with their routes.
                (
                    &wire("down"),
                    &[("10.4.0.1", "nothing"), ("10.5.0.1", "10.5.0.0/16: 10.0.1.2 x1")],
                ),
                (&wire("up"), &[("10.2.0.1", &format!("10.2.0.0/16: {both}"))]),
                ("sysctl -qw net.ipv4.conf.v0.ignore_routes_with_linkdown=1", &[]),
                (
                    &wire("down"),
                    &[("10.2.0.1", "10.2.0.0/16: 10.0.1.2 x1"), ("10.1.0.1", "nothing")],
                ),
                (
                    &wire("up"),
                    &[
                        ("10.2.0.1", &format!("10.2.0.0/16: {both}")),
                        ("10.1.0.1", "10.1.0.0/16: 10.0.0.2 x1"),
                    ],
                ),
                ("sysctl -qw net.ipv4.conf.v0.ignore_routes_with_linkdown=0", &[]),
                // The source address of a route goes, and the route with it.
                (
                    "ip addr del 10.0.1.1/24 dev v1",
                    &[("10.3.0.1", "nothing"), ("10.2.0.1", "10.2.0.0/16: 10.0.0.2 x1")],
                ),
                (
                    "ip addr add 10.0.1.1/24 dev v1",
                    &[("10.2.0.1", &format!("10.2.0.0/16: {both}"))],
                ),
                (
                    "ip link set v0 down",
                    &[
                        ("10.1.0.1", "nothing"),
                        ("10.2.0.1", "10.2.0.0/16: 10.0.1.2 x1"),
                        ("10.6.200.1", "nothing"),
                    ],
                ),
                (
                    "ip link set v0 up",
                    &[("10.2.0.1", &format!("10.2.0.0/16: {both}"))],
                ),
                ("ip link set v1 down", &[]),
                ("ip link set v0 down", &[("10.2.0.1", "nothing")]),
                ("ip link set v0 up; ip link set v1 up", &[]),
                (
                    "ip route add 10.1.0.0/16 via 10.0.0.2; ip link del v0",
                    &[("10.1.0.1", "nothing")],
                ),
                (
                    &format!("ip route add 10.1.0.0/16 via 10.0.1.2; ip link set v1 netns {peer}"),
                    &[("10.1.0.1", "nothing")],
                ),
            ],
        )
        .await;
    });
}
