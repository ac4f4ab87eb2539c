//! A workload cannot change the node's routes: router advertisements and redirects from it are dropped as `host_protection`, with and
//! without extension headers in front. From an uplink they are the kernel's, as on any host.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── u     (a sends what only a router may send; so does u, which is one)
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use tests::raw::{Wire, ethernet, icmp, icmpv6, ipv4, ipv6, udp};
use tests::{LIMIT, Margay, wait_for};

use crate::common::{PORTS, node};

/// ff02::1, all nodes, and its MAC address (RFC 2464 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// A router advertisement (RFC 4861 4.2): default router for half an hour, and a prefix for addresses.
fn advertisement(source: Ipv6Addr, prefix: Ipv6Addr) -> Vec<u8> {
    let mut rest = vec![64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    rest.extend([3, 4, 64, 0xc0, 0, 0, 0x07, 0x08, 0, 0, 0x07, 0x08, 0, 0, 0, 0]);
    rest.extend(prefix.octets());
    icmpv6(source, ALL_NODES, 134, 0, &rest)
}

#[test]
fn workloads_are_no_routers() {
    let Some(net) = node("protection") else { return };
    let a = net.container("a", 2);
    net.r.sysctl("net.ipv6.conf.cali-a.accept_ra", "1");
    net.r.sysctl("net.ipv6.conf.up0.accept_ra", "1");
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    let (routes, addresses) = ("ip route; ip -6 route", "ip -o addr show scope global");
    let before = (net.r.sh(routes), net.r.sh(addresses));

    let wire = Wire::open(&a, "eth0");
    let (router, host) = (net.r.mac("cali-a"), a.mac("eth0"));
    let link_local: Ipv6Addr = "fe80::bad".parse().expect("an address");
    let gateway: Ipv6Addr = "fe80::1".parse().expect("an address");
    let message = advertisement(link_local, "2001:db8:bad::".parse().expect("an address"));
    // A destination-options header and a hop-by-hop header, each of eight bytes of padding (RFC 8200 4.2).
    let option = |next: u8, message: &[u8]| [&[next, 0, 1, 4, 0, 0, 0, 0], message].concat();
    let redirect4 = {
        let quoted = ipv4(
            Ipv4Addr::new(10, 0, 0, 1),
            Ipv4Addr::new(203, 0, 113, 1),
            64,
            17,
            &udp(None, 1, 1, b""),
        );
        let rest = [&Ipv4Addr::new(10, 65, 0, 2).octets()[..], &quoted].concat();
        icmp(5, 1, &rest)
    };
    let redirect6 = {
        let target: Ipv6Addr = "2001:db8:113::1".parse().expect("an address");
        let rest = [&[0; 4][..], &link_local.octets(), &target.octets()].concat();
        icmpv6(gateway, "fd00::1".parse().expect("an address"), 137, 0, &rest)
    };
    let frames = [
        ethernet(
            ALL_NODES_MAC,
            host,
            0x86dd,
            &ipv6(link_local, ALL_NODES, 255, 58, &message),
        ),
        ethernet(
            router,
            host,
            0x86dd,
            &ipv6(link_local, gateway, 255, 58, &{
                let mut unicast = message.clone();
                unicast[2..4].copy_from_slice(&[0, 0]);
                icmpv6(link_local, gateway, 134, 0, &unicast[4..])
            }),
        ),
        ethernet(
            ALL_NODES_MAC,
            host,
            0x86dd,
            &ipv6(link_local, ALL_NODES, 255, 60, &option(58, &message)),
        ),
        ethernet(
            ALL_NODES_MAC,
            host,
            0x86dd,
            &ipv6(link_local, ALL_NODES, 255, 0, &option(58, &message)),
        ),
        ethernet(
            ALL_NODES_MAC,
            host,
            0x86dd,
            &ipv6(link_local, ALL_NODES, 255, 0, &option(60, &option(58, &message))),
        ),
        ethernet(
            router,
            host,
            0x86dd,
            &ipv6(
                gateway,
                "fd00::1".parse().expect("an address"),
                255,
                58,
                &redirect6,
            ),
        ),
        ethernet(
            router,
            host,
            0x0800,
            &ipv4(
                Ipv4Addr::new(10, 65, 0, 2),
                Ipv4Addr::new(10, 0, 0, 1),
                64,
                1,
                &redirect4,
            ),
        ),
        ethernet(
            router,
            host,
            0x0800,
            &ipv4(
                Ipv4Addr::new(169, 254, 1, 9),
                Ipv4Addr::new(169, 254, 1, 1),
                64,
                1,
                &redirect4,
            ),
        ),
    ];
    for (number, frame) in frames.iter().enumerate() {
        let dropped = margay.drops("host_protection");
        for _ in 0..10 {
            wire.send(frame);
        }
        wait_for(
            &format!("frame {number} is dropped as host_protection"),
            LIMIT,
            || {
                let now = margay.drops("host_protection");
                if now == dropped + 10 {
                    Ok(())
                } else {
                    Err(format!("{dropped} before, {now} now"))
                }
            },
        );
    }
    assert_eq!(
        before,
        (net.r.sh(routes), net.r.sh(addresses)),
        "the node's routes and addresses are as they were"
    );
    // Ordinary neighbour discovery and ICMP from the workload still work.
    a.reaches("fe80::1%eth0");
    a.reaches("169.254.1.1");
    // The uplink's router may advertise.
    let wire = Wire::open(&net.u, "r0");
    let message = advertisement(
        "fe80::5".parse().expect("an address"),
        "2001:db8:900d::".parse().expect("an address"),
    );
    let packet = ipv6(
        "fe80::5".parse().expect("an address"),
        ALL_NODES,
        255,
        58,
        &message,
    );
    wire.send(&ethernet(ALL_NODES_MAC, net.u.mac("r0"), 0x86dd, &packet));
    wait_for(
        "the advertisement of the uplink's router is accepted",
        LIMIT,
        || net.r.sh("ip -6 route").contains("via fe80::5"),
    );
    margay.mirrors_kernel();
    margay.check_sums();
}
