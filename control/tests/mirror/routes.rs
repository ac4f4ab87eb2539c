//! Every kind of route, in every table: what the data plane makes of it.

use classifier::lpm::IpPrefix;
use control::mirror::MirrorConfig;
use forwarder::fib::VrfId;

use crate::lab::{Lab, inside};
use crate::{ip, steps};

#[test]
fn every_kind_of_route() {
    inside("routes::every_kind_of_route", |_| async {
        let mut lab = Lab::start(MirrorConfig::default()).await;
        steps(
            &mut lab,
            &[
                (
                    "true",
                    &[("10.0.0.99", "10.0.0.0/24: glean"), ("9.9.9.9", "nothing")],
                ),
                (
                    "ip route add 10.1.0.0/16 via 10.0.0.2",
                    &[("10.1.2.3", "10.1.0.0/16: 10.0.0.2 x1")],
                ),
                (
                    "ip route replace 10.1.0.0/16 via 10.0.1.2",
                    &[("10.1.2.3", "10.1.0.0/16: 10.0.1.2 x1")],
                ),
                (
                    "ip route add 10.2.0.0/16 nexthop via 10.0.0.2 weight 1 nexthop via 10.0.1.2 weight 3",
                    &[("10.2.0.1", "10.2.0.0/16: 10.0.0.2 x1, 10.0.1.2 x3")],
                ),
                (
                    "ip route add 10.65.0.2 dev v2 scope link",
                    &[("10.65.0.2", "10.65.0.2/32: 10.65.0.2 x1")],
                ),
                (
                    "ip route add 10.3.0.0/16 via inet6 fe80::2 dev v0",
                    &[("10.3.0.1", "10.3.0.0/16: fe80::2 x1")],
                ),
                (
                    "ip nexthop add id 7 via 10.0.0.2 dev v0; ip route add 10.4.0.0/16 nhid 7",
                    &[("10.4.0.1", "10.4.0.0/16: 10.0.0.2 x1")],
                ),
                (
                    "ip nexthop replace id 7 via 10.0.1.2 dev v1",
                    &[("10.4.0.1", "10.4.0.0/16: 10.0.1.2 x1")],
                ),
                (
                    "ip nexthop add id 8 via 10.0.0.3 dev v0; ip nexthop add id 9 group 7/8,5
                     ip route add 10.5.0.0/16 nhid 9",
                    &[("10.5.0.1", "10.5.0.0/16: 10.0.0.3 x5, 10.0.1.2 x1")],
                ),
                ("ip nexthop del id 8", &[("10.5.0.1", "10.5.0.0/16: 10.0.1.2 x1")]),
                (
                    "ip nexthop del id 7",
                    &[("10.4.0.1", "nothing"), ("10.5.0.1", "nothing")],
                ),
                (
                    "ip route add blackhole 10.6.1.0/24; ip route add unreachable 10.6.2.0/24
                     ip route add prohibit 10.6.3.0/24; ip route add throw 10.6.4.0/24",
                    &[
                        ("10.6.1.1", "10.6.1.0/24: blackhole"),
                        ("10.6.2.1", "10.6.2.0/24: unreachable"),
                        ("10.6.3.1", "10.6.3.0/24: prohibit"),
                    ],
                ),
                (
                    "ip route add 10.7.0.0/16 via 10.0.0.2 metric 20",
                    &[("10.7.0.1", "10.7.0.0/16: 10.0.0.2 x1")],
                ),
                (
                    "ip route add 10.7.0.0/16 via 10.0.1.2 metric 10",
                    &[("10.7.0.1", "10.7.0.0/16: 10.0.1.2 x1")],
                ),
                (
                    "ip route append 10.7.0.0/16 via 10.0.0.3 metric 10",
                    &[("10.7.0.1", "10.7.0.0/16: 10.0.1.2 x1")],
                ),
                (
                    "ip route prepend 10.7.0.0/16 via 10.0.0.3 dev v0 metric 20",
                    &[("10.7.0.1", "10.7.0.0/16: 10.0.1.2 x1")],
                ),
                (
                    "ip route replace 10.7.0.0/16 via 10.0.0.2 metric 10",
                    &[("10.7.0.1", "10.7.0.0/16: 10.0.0.2 x1")],
                ),
                (
                    "ip route del 10.7.0.0/16 metric 10",
                    &[("10.7.0.1", "10.7.0.0/16: 10.0.0.3 x1")],
                ),
                (
                    "ip route del 10.7.0.0/16 metric 10",
                    &[("10.7.0.1", "10.7.0.0/16: 10.0.0.3 x1")],
                ),
                (
                    "ip route del 10.7.0.0/16 metric 20",
                    &[("10.7.0.1", "10.7.0.0/16: 10.0.0.2 x1")],
                ),
                (
                    "ip route add 10.8.0.0/16 tos 0x10 via 10.0.0.2",
                    &[("10.8.0.1", "nothing")],
                ),
                (
                    "ip route add default via 10.0.0.2",
                    &[("9.9.9.9", "0.0.0.0/0: 10.0.0.2 x1")],
                ),
                (
                    "ip route add 10.9.0.0/16 via 172.16.0.1 dev v1 onlink",
                    &[("10.9.0.1", "10.9.0.0/16: 172.16.0.1 x1")],
                ),
                (
                    "ip route add 10.10.0.0/16 via 10.0.0.2 mtu 1300 src 10.0.1.1",
                    &[("10.10.0.1", "10.10.0.0/16: 10.0.0.2 x1")],
                ),
                (
                    "ip route add 10.11.0.0/16 dev v1",
                    &[("10.11.0.1", "10.11.0.0/16: glean")],
                ),
                (
                    "ip route add local 10.12.0.0/16 dev lo; ip addr add 10.13.0.1/32 dev lo",
                    &[],
                ),
                (
                    "ip route flush 10.1.0.0/16; ip route del default",
                    &[("10.1.2.3", "nothing")],
                ),
            ],
        )
        .await;
        let prefix: IpPrefix = "10.12.0.0/16".parse().expect("prefix");
        assert!(
            lab.plane.local.contains(&(VrfId::DEFAULT, prefix)),
            "{:?}",
            lab.plane.local
        );
        let view = lab.mirror.route_get(None, ip("10.2.0.1")).expect("route");
        assert_eq!(
            (view.prefix.as_str(), view.kind, view.nexthops.len()),
            ("10.2.0.0/16", "unicast", 2)
        );
        assert_eq!(
            lab.mirror.route_get(None, ip("10.13.0.1")).expect("route").kind,
            "local"
        );
        assert!(lab.mirror.route_get(None, ip("11.0.0.1")).is_none());
    });
}

#[test]
fn every_kind_of_ipv6_route() {
    inside("routes::every_kind_of_ipv6_route", |_| async {
        let mut lab = Lab::start(MirrorConfig::default()).await;
        let (a, b) = ("2001:db8:a::2", "2001:db8:b::2");
        steps(
            &mut lab,
            &[
                ("true", &[("2001:db8:a::99", "2001:db8:a::/64: glean"), ("2001:db8:1::1", "nothing")]),
                (&format!("ip -6 route add 2001:db8:1::/48 via {a}"), &[("2001:db8:1::1", "2001:db8:1::/48: 2001:db8:a::2 x1")]),
                (
                    &format!("ip -6 route append 2001:db8:1::/48 via {b}"),
                    &[("2001:db8:1::1", "2001:db8:1::/48: 2001:db8:a::2 x1, 2001:db8:b::2 x1")],
                ),
                (
                    &format!("ip -6 route del 2001:db8:1::/48 via {a}"),
                    &[("2001:db8:1::1", "2001:db8:1::/48: 2001:db8:b::2 x1")],
                ),
                (
                    &format!("ip -6 route replace 2001:db8:1::/48 nexthop via {a} weight 2 nexthop via {b} weight 5"),
                    &[("2001:db8:1::1", "2001:db8:1::/48: 2001:db8:a::2 x2, 2001:db8:b::2 x5")],
                ),
                (&format!("ip -6 route add 2001:db8:1::/48 via {a} metric 5"), &[("2001:db8:1::1", "2001:db8:1::/48: 2001:db8:a::2 x1")]),
                ("ip -6 route del 2001:db8:1::/48 metric 5", &[("2001:db8:1::1", "2001:db8:1::/48: 2001:db8:a::2 x2, 2001:db8:b::2 x5")]),
                (&format!("ip -6 route replace 2001:db8:1::/48 via {a}"), &[("2001:db8:1::1", "2001:db8:1::/48: 2001:db8:a::2 x1")]),
                ("ip -6 route del 2001:db8:1::/48", &[("2001:db8:1::1", "nothing")]),
                ("ip -6 route add 2001:db8:2::/48 via fe80::2 dev v0", &[("2001:db8:2::1", "2001:db8:2::/48: fe80::2 x1")]),
                (
                    &format!("ip nexthop add id 21 via {a} dev v0; ip nexthop add id 22 via {b} dev v1
                      ip nexthop add id 23 group 21/22; ip -6 route add 2001:db8:3::/48 nhid 23"),
                    &[("2001:db8:3::1", "2001:db8:3::/48: 2001:db8:a::2 x1, 2001:db8:b::2 x1")],
                ),
                ("ip nexthop replace id 23 group 22", &[("2001:db8:3::1", "2001:db8:3::/48: 2001:db8:b::2 x1")]),
                ("ip nexthop replace id 22 via fe80::2 dev v1", &[("2001:db8:3::1", "2001:db8:3::/48: fe80::2 x1")]),
                ("ip nexthop del id 22", &[("2001:db8:3::1", "nothing")]),
                (
                    "ip -6 route add blackhole 2001:db8:4::/48; ip -6 route add unreachable 2001:db8:5::/48
                     ip -6 route add prohibit 2001:db8:6::/48",
                    &[
                        ("2001:db8:4::1", "2001:db8:4::/48: blackhole"),
                        ("2001:db8:5::1", "2001:db8:5::/48: unreachable"),
                        ("2001:db8:6::1", "2001:db8:6::/48: prohibit"),
                    ],
                ),
                (&format!("ip -6 route add default via {a}"), &[("2001:db8:99::1", "::/0: 2001:db8:a::2 x1")]),
                ("ip -6 route add 2001:db8:7::7 dev v2", &[("2001:db8:7::7", "2001:db8:7::7/128: 2001:db8:7::7 x1")]),
                ("ip -6 addr add 2001:db8:c::1/64 dev v2 nodad", &[("2001:db8:c::5", "2001:db8:c::/64: glean")]),
                (&format!("ip -6 route add 2001:db8:8::/48 via {a} src 2001:db8:c::1 dev v0"), &[]),
                ("ip -6 addr del 2001:db8:c::1/64 dev v2", &[("2001:db8:c::5", "::/0: 2001:db8:a::2 x1")]),
            ],
        )
        .await;
    });
}

#[test]
fn several_tables_in_order() {
    inside("routes::several_tables_in_order", |_| async {
        let config = MirrorConfig {
            tables: vec![100, 254],
            ..MirrorConfig::default()
        };
        let mut lab = Lab::start(config).await;
        steps(
            &mut lab,
            &[
                (
                    "ip route add 10.1.0.0/16 via 10.0.0.2",
                    &[("10.1.0.1", "10.1.0.0/16: 10.0.0.2 x1")],
                ),
                (
                    "ip route add 10.0.0.0/8 via 10.0.1.2 table 100",
                    &[("10.1.0.1", "10.0.0.0/8: 10.0.1.2 x1")],
                ),
                ("ip route add 10.9.0.0/16 via 10.0.1.2 table 101", &[]),
                (
                    "ip route flush table 100",
                    &[("10.1.0.1", "10.1.0.0/16: 10.0.0.2 x1")],
                ),
            ],
        )
        .await;
    });
}
