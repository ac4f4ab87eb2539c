//! Neighbours are resolved by the kernel when they are wanted, and let go of.

use std::net::IpAddr;
use std::time::Duration;

use control::mirror::{Mirror, MirrorConfig};
use forwarder::fib::{AdjState, Group};
use forwarder::tables::NeighbourRequest;

use crate::lab::{Lab, inside, sh};
use crate::{found, ip};

#[test]
fn neighbours_are_resolved_and_released() {
    inside(
        "neighbours::neighbours_are_resolved_and_released",
        |peer| async move {
            let mut lab = Lab::start(MirrorConfig::default()).await;
            let state = |lab: &mut Lab, address: &str| {
                let (_, _, id) = lab
                    .plane
                    .fib
                    .lookup(forwarder::fib::VrfId::DEFAULT, ip(address))?;
                match lab.plane.fib.group(id)? {
                    Group::Forward { members, .. } => {
                        Some(lab.plane.fib.adjacency(members.first()?.adj)?.state)
                    }
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
            // A silent IPv6 host was asked for through a group of its own, which the kernel holds as an entry too.
            lab.plane.requests.push(NeighbourRequest {
                ifindex: v0,
                address: ip("2001:db8:a::77"),
            });
            lab.until("the group is asked", |_| {
                sh("ip -6 neigh show nud all").contains("ff02::1:ff00:77")
            })
            .await;
            lab.until("neither stays", |_| {
                let left = sh("ip -6 neigh show nud all");
                !left.contains("2001:db8:a::77") && !left.contains("ff02::1:ff00:77")
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
        },
    );
}

#[test]
fn a_successor_cleans_up() {
    inside("neighbours::a_successor_cleans_up", |_| async {
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
