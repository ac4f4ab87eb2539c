//! The mirror against the kernel: every kind of route, what the kernel does silently, overruns, neighbours.

mod mirror_lab;

use std::net::IpAddr;
use std::time::Duration;

use classifier::lpm::IpPrefix;
use control::mirror::{Mirror, MirrorConfig};
use forwarder::fib::{AdjState, Group};
use forwarder::tables::NeighbourRequest;
use mirror_lab::{Lab, inside, sh};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// What the data plane does with an address: the matched prefix and the group in a few words.
fn found(lab: &Lab, address: &str) -> String {
    let fib = &lab.plane.fib;
    let Some((_, prefix, id)) = fib.lookup(ip(address)) else {
        return "nothing".to_owned();
    };
    let text = match fib.group(id).expect("group") {
        Group::Forward { members, .. } => {
            let mut members: Vec<String> = (members.iter())
                .map(|m| {
                    format!(
                        "{} x{}",
                        fib.adjacency(m.adj).expect("adjacency").neighbour,
                        m.weight
                    )
                })
                .collect();
            members.sort();
            members.join(", ")
        }
        Group::Glean { .. } => "glean".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    format!("{prefix}: {text}")
}

/// Runs each line, lets the mirror follow, and compares: with the kernel as a whole and with what is written here.
/// Nothing may be left to the verification that follows silent changes.
async fn steps(lab: &mut Lab, steps: &[(&str, &[(&str, &str)])]) {
    for (line, expected) in steps {
        sh(line);
        lab.pump(Duration::from_millis(25)).await;
        lab.agree(line).await;
        for (address, what) in *expected {
            assert_eq!(found(lab, address), *what, "{address} after {line}");
        }
        assert_eq!(
            lab.mirror.stats().corrected,
            0,
            "left to the verification: {line}"
        );
        assert_eq!(lab.mirror.stats().bad_messages, 0, "after {line}");
    }
}

#[test]
fn every_kind_of_route() {
    inside("every_kind_of_route", |_| async {
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
        assert!(lab.plane.local.contains(&prefix), "{:?}", lab.plane.local);
        let view = lab.mirror.route_get(ip("10.2.0.1")).expect("route");
        assert_eq!(
            (view.prefix.as_str(), view.kind, view.nexthops.len()),
            ("10.2.0.0/16", "unicast", 2)
        );
        assert_eq!(
            lab.mirror.route_get(ip("10.13.0.1")).expect("route").kind,
            "local"
        );
        assert!(lab.mirror.route_get(ip("11.0.0.1")).is_none());
    });
}

#[test]
fn every_kind_of_ipv6_route() {
    inside("every_kind_of_ipv6_route", |_| async {
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
fn what_the_kernel_does_silently() {
    inside("what_the_kernel_does_silently", |peer| async move {
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

#[test]
fn neighbours_are_resolved_and_released() {
    inside("neighbours_are_resolved_and_released", |peer| async move {
        let mut lab = Lab::start(MirrorConfig::default()).await;
        let state = |lab: &mut Lab, address: &str| {
            let (_, _, id) = lab.plane.fib.lookup(ip(address))?;
            match lab.plane.fib.group(id)? {
                Group::Forward { members, .. } => Some(lab.plane.fib.adjacency(members.first()?.adj)?.state),
                _ => None,
            }
        };
        let resolved = |s: Option<AdjState>| matches!(s, Some(AdjState::Resolved { .. }));
        // A gateway is resolved without traffic, and managed.
        sh("ip route add 10.1.0.0/16 via 10.0.0.2; ip -6 route add 2001:db8:1::/48 via fe80::2 dev v0");
        lab.until("the gateways are resolved", |lab| {
            resolved(state(lab, "10.1.0.1")) && resolved(state(lab, "2001:db8:1::1"))
        })
        .await;
        let managed = sh("ip neigh show 10.0.0.2 dev v0; ip -6 neigh show fe80::2 dev v0");
        assert_eq!(managed.matches("managed").count(), 2, "{managed}");
        // A host on a connected prefix only when asked for.
        assert_eq!(found(&lab, "10.0.0.3"), "10.0.0.0/24: glean");
        let v0 = lab.mirror.link("v0").expect("v0").index;
        lab.plane.requests.push(NeighbourRequest {
            ifindex: v0,
            address: ip("10.0.0.3"),
        });
        lab.until("the host is resolved", |lab| resolved(state(lab, "10.0.0.3")))
            .await;
        assert_eq!(found(&lab, "10.0.0.3"), "10.0.0.3/32: 10.0.0.3 x1");
        // A more specific route takes the host's place, and gives it back.
        sh("ip route add 10.0.0.0/29 via 10.0.1.2");
        lab.until("the longer prefix wins", |lab| {
            found(lab, "10.0.0.3") == "10.0.0.0/29: 10.0.1.2 x1"
        })
        .await;
        lab.agree("a more specific route").await;
        sh("ip route del 10.0.0.0/29");
        lab.until("the host is back", |lab| {
            found(lab, "10.0.0.3") == "10.0.0.3/32: 10.0.0.3 x1"
        })
        .await;
        // A MAC change is followed.
        sh(&format!(
            "ip -n {peer} link set w0 address 02:00:00:00:00:77; nsenter --net=/run/netns/{peer} ping -qc1 -W1 10.0.0.1 >/dev/null || true"
        ));
        sh("ip neigh replace 10.0.0.3 lladdr 02:00:00:00:00:77 dev v0 nud reachable");
        let moved = |s| {
            matches!(
                s,
                Some(AdjState::Resolved {
                    dst: [2, 0, 0, 0, 0, 0x77],
                    ..
                })
            )
        };
        lab.until("the new MAC is used", |lab| moved(state(lab, "10.0.0.3")))
            .await;
        // A silent host fails, is left alone for a while, and may be tried again; no entry stays.
        lab.plane.requests.push(NeighbourRequest {
            ifindex: v0,
            address: ip("10.0.0.77"),
        });
        lab.until("the silent host failed", |lab| {
            state(lab, "10.0.0.77") == Some(AdjState::Failed)
        })
        .await;
        lab.until("it is forgotten", |lab| {
            found(lab, "10.0.0.77") == "10.0.0.0/24: glean"
        })
        .await;
        lab.until("so has the kernel", |_| {
            !sh("ip neigh show nud all").contains("10.0.0.77")
        })
        .await;
        // A scan is limited.
        for low in 1..=255u8 {
            for third in [0, 1] {
                let address = IpAddr::from([10, 11, third, low]);
                lab.plane.requests.push(NeighbourRequest { ifindex: v0, address });
            }
        }
        lab.pump(Duration::from_millis(50)).await;
        let unresolved = sh("ip neigh show nud incomplete").lines().count();
        assert!((1..=128).contains(&unresolved), "{unresolved} unresolved entries");
        assert_eq!(lab.mirror.stats().refused_requests, 510 - 128);
        // The link goes and comes back: managed again.
        sh("ip link set v0 down");
        lab.until("the adjacency is gone", |lab| state(lab, "10.1.0.1").is_none())
            .await;
        sh("ip link set v0 up; ip route add 10.1.0.0/16 via 10.0.0.2");
        lab.until("the gateway is resolved again", |lab| {
            resolved(state(lab, "10.1.0.1"))
        })
        .await;
        lab.agree("all of it").await;
        // Nothing of Margay's stays behind, and what is resolved stays resolved.
        lab.mirror.shutdown().expect("shutdown");
        let left = sh("ip neigh show");
        assert!(!left.contains("managed"), "{left}");
        assert!(left.contains("10.0.0.2 dev v0 lladdr"), "{left}");
    });
}

#[test]
fn a_successor_cleans_up() {
    inside("a_successor_cleans_up", |_| async {
        sh("ip route add 10.1.0.0/16 via 10.0.0.2; ip route add 10.2.0.0/16 via 10.0.0.99");
        let mut lab = Lab::start(MirrorConfig::default()).await;
        lab.until("gateways are managed", |_| {
            sh("ip neigh show").matches("managed").count() == 2
        })
        .await;
        // Killed: nothing is undone.
        drop(lab);
        let mut successor = Mirror::new(MirrorConfig::default()).expect("mirror");
        assert_eq!(successor.cleanup_stale().expect("clean-up"), 2);
        assert_eq!(successor.cleanup_stale().expect("clean-up"), 0);
        let left = sh("ip neigh show");
        assert!(!left.contains("managed"), "{left}");
        assert!(!left.contains("10.0.0.99"), "{left}");
        drop(successor);
        let mut lab = Lab::start(MirrorConfig::default()).await;
        lab.until("gateways are managed again", |_| {
            sh("ip neigh show").matches("managed").count() == 2
        })
        .await;
        lab.mirror.shutdown().expect("shutdown");
        assert!(!sh("ip neigh show").contains("managed"));
    });
}

#[test]
fn overruns_are_survived() {
    inside("overruns_are_survived", |_| async {
        let file = std::env::temp_dir().join(format!("mir-{}.batch", std::process::id()));
        let line = |verb: &str| -> String {
            (0..20_000u32)
                .map(|i| {
                    format!(
                        "route {verb} 20.{}.{}.0/24 via 10.0.0.2\n",
                        i / 256 % 256,
                        i % 256
                    )
                })
                .collect()
        };
        let mut lab = Lab::start(MirrorConfig {
            rcvbuf: 32 << 10,
            ..MirrorConfig::default()
        })
        .await;
        sh("ip route add 30.0.0.0/8 via 10.0.1.2");
        lab.until("the first route is there", |lab| {
            found(lab, "30.1.1.1") != "nothing"
        })
        .await;
        for verb in ["add", "del", "add"] {
            let half = if verb == "add" {
                line("add")
            } else {
                line("del").lines().step_by(2).map(|l| format!("{l}\n")).collect()
            };
            std::fs::write(&file, half).expect("batch file");
            // Everything is there at once: the mirror has not read a message meanwhile.
            sh(&format!(
                "ip -batch {} 2>/dev/null || ip -force -batch {} 2>/dev/null || true",
                file.display(),
                file.display()
            ));
            for _ in 0..20 {
                lab.pump(Duration::from_millis(5)).await;
                assert_eq!(
                    found(&lab, "30.1.1.1"),
                    "30.0.0.0/8: 10.0.1.2 x1",
                    "never without routes"
                );
            }
            lab.pump(Duration::from_millis(200)).await;
            lab.agree(verb).await;
        }
        assert!(lab.mirror.stats().resyncs > 0, "{:?}", lab.mirror.stats());
        assert_eq!(lab.mirror.stats().bad_messages, 0);
        std::fs::remove_file(&file).expect("batch file");
    });
}

#[test]
fn several_tables_in_order() {
    inside("several_tables_in_order", |_| async {
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

/// Kilobytes of this process that are in memory.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or("VmRSS unknown")
        .to_owned()
}

#[test]
fn a_full_table() {
    let data = std::env::var("MARGAY_DATA").unwrap_or_else(|_| "../../shared/data".to_owned());
    let file = std::path::Path::new(&data).join("prefixes.txt.gz");
    if !file.exists() {
        eprintln!(
            "SKIPPED a_full_table: no {}; MARGAY_DATA names another folder",
            file.display()
        );
        return;
    }
    let file = file.canonicalize().expect("path");
    inside("a_full_table", |_| async move {
        let batch = std::env::temp_dir().join(format!("mir-{}.table", std::process::id()));
        sh(&format!(
            "zcat {} | awk '{{ g = index($1, \":\") ? \"2001:db8:a::2\" : \"10.0.\" NR % 2 \".2\"; print \"route add \" $1 \" via \" g }}' > {}",
            file.display(),
            batch.display()
        ));
        let loading = std::time::Instant::now();
        sh(&format!(
            "ip -force -batch {} 2>/dev/null || true",
            batch.display()
        ));
        std::fs::remove_file(&batch).expect("batch file");
        eprintln!(
            "ip -batch: {:.1} s; before: {}",
            loading.elapsed().as_secs_f64(),
            resident()
        );
        let listing = std::time::Instant::now();
        let listed = sh("ip route show table main | wc -l; ip -6 route show table main | wc -l");
        eprintln!(
            "ip route show | wc -l, both families: {:.2} s: {}",
            listing.elapsed().as_secs_f64(),
            listed.replace('\n', " ")
        );
        let starting = std::time::Instant::now();
        let mut lab = Lab::start(MirrorConfig::default()).await;
        eprintln!(
            "mirrored and programmed: {:.2} s, {:?}; {}",
            starting.elapsed().as_secs_f64(),
            lab.mirror.stats(),
            resident()
        );
        eprintln!("FIB: {:?} bytes", lab.plane.fib.bytes());
        assert!(lab.plane.fib.len(254) > 1_000_000, "{}", lab.plane.fib.len(254));
        let comparing = std::time::Instant::now();
        lab.agree("loading a full table").await;
        eprintln!(
            "compared with a fresh dump: {:.2} s; {}",
            comparing.elapsed().as_secs_f64(),
            resident()
        );
        // A gateway's device goes: half of the IPv4 routes with it, silently.
        let before = lab.plane.fib.len(254);
        let cutting = std::time::Instant::now();
        sh("ip link set v1 down");
        lab.until("half of the routes are gone", |lab| {
            lab.plane.fib.len(254) < before - 400_000
        })
        .await;
        eprintln!(
            "half of the routes went with their link: {:.2} s",
            cutting.elapsed().as_secs_f64()
        );
        lab.agree("a link with half a million routes went down").await;
        assert_eq!(lab.mirror.stats().corrected, 0);
        // From a change to the table that workers read.
        let mut times: Vec<u64> = Vec::new();
        for i in 0..200u32 {
            let verb = if i % 2 == 0 { "add" } else { "del" };
            sh(&format!("ip route {verb} 203.0.113.77/32 via 10.0.0.2"));
            let before = lab.mirror.stats().generation;
            lab.until("it is followed", |lab| lab.mirror.stats().generation != before)
                .await;
            times.push(lab.mirror.stats().last_batch_ns);
        }
        times.sort_unstable();
        eprintln!(
            "message to table: median {} us, p99 {} us",
            times[100] / 1000,
            times[197] / 1000
        );
    });
}
