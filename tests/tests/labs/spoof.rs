//! Sources that do not belong: on a workload's port, on a strict uplink and on a loose one, in both families.
//!
//! ```text
//!   a 10.65.0.2 fd65::2 ─┐                   ┌ up0 (strict) ── u 10.0.0.2 fd00::2, before 203.0.113.0/24 2001:db8:113::/48
//!   b 10.65.0.3 fd65::3 ─┼ cali-* r (margayd) ┤
//!   c 10.65.0.4 fd65::4 ─┘  (strict)         └ up1 (loose) ─── w 10.2.0.2 fd02::2, before 198.51.100.0/24 2001:db8:51::/48
//! ```
//! r has no default route: 100.64.0.1 and 2001:db8:64::1 are routed nowhere, 100.65.0.0/16 and 2001:db8:65::/48 are unreachable.

use std::net::IpAddr;

use tests::raw::{Wire, ethernet, ipv4, ipv6, udp};
use tests::{Host, LIMIT, Margay, wait_for};

use crate::common::node;

const PORTS: &str = r#"
[[port]]
name = "up0"
fix_checksums = "auto"
anti_spoof = "strict"
[[port]]
name = "up1"
fix_checksums = "auto"
anti_spoof = "loose"
[[port]]
match = "cali*"
role = "workload"
"#;

const TO: [&str; 2] = ["10.65.0.4", "fd65::4"];
/// Sources of either family: b's, one beyond up0, one beyond up1, one without a route, one that is unreachable.
const B: [&str; 2] = ["10.65.0.3", "fd65::3"];
const BEYOND_UP0: [&str; 2] = ["203.0.113.7", "2001:db8:113::7"];
const BEYOND_UP1: [&str; 2] = ["198.51.100.7", "2001:db8:51::7"];
const UNROUTED: [&str; 2] = ["100.64.0.1", "2001:db8:64::1"];
const UNREACHABLE: [&str; 2] = ["100.65.0.1", "2001:db8:65::1"];

/// A packet to c, with a text of its own at its end.
fn packet(from: &str, to: &str, text: &str) -> (u16, Vec<u8>) {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    match (address(from), address(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (
            0x0800,
            ipv4(from, to, 64, 17, &udp(None, 7, 4242, text.as_bytes())),
        ),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let datagram = udp(Some((from, to)), 7, 4242, text.as_bytes());
            (0x86dd, ipv6(from, to, 64, 17, &datagram))
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

#[test]
fn sources_pass_where_they_belong() {
    let Some(net) = node("sources") else { return };
    let w = net.lab.host("w");
    net.lab.veth(&net.r, "up1", &w, "eth0");
    net.r.sh(
        "ip addr add 10.2.0.1/24 dev up1; ip -6 addr add fd02::1/64 dev up1 nodad
          ip route del default; ip -6 route del default
          ip route add 203.0.113.0/24 via 10.0.0.2; ip -6 route add 2001:db8:113::/48 via fd00::2
          ip route add 198.51.100.0/24 via 10.2.0.2; ip -6 route add 2001:db8:51::/48 via fd02::2
          ip route add unreachable 100.65.0.0/16; ip -6 route add unreachable 2001:db8:65::/48",
    );
    w.sh(
        "ip addr add 10.2.0.2/24 dev eth0; ip -6 addr add fd02::2/64 dev eth0 nodad
          ip route add default via 10.2.0.1; ip -6 route add default via fd02::1",
    );
    let [a, _b, c] = [("a", 2), ("b", 3), ("c", 4)].map(|(name, number)| net.container(name, number));
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    for port in ["up0", "up1", "cali-a", "cali-b", "cali-c"] {
        margay.has_port(port);
    }
    for host in [&a, &net.u, &w] {
        TO.iter().for_each(|to| host.reaches(to));
    }
    margay.mirrors_kernel();
    let far = Wire::open(&c, "eth0");

    type Side<'a> = (&'a str, &'a Host, &'a str, &'a [[&'a str; 2]], &'a [[&'a str; 2]]);
    // Port, host and its device, sources that belong, sources that do not.
    let sides: [Side<'_>; 3] = [
        (
            "cali-a",
            &a,
            "eth0",
            &[["10.65.0.2", "fd65::2"]],
            &[B, BEYOND_UP0, BEYOND_UP1, UNROUTED, UNREACHABLE],
        ),
        (
            "up0",
            &net.u,
            "r0",
            &[["10.0.0.2", "fd00::2"], BEYOND_UP0],
            &[B, BEYOND_UP1, UNROUTED, UNREACHABLE],
        ),
        (
            "up1",
            &w,
            "eth0",
            &[["10.2.0.2", "fd02::2"], BEYOND_UP1, BEYOND_UP0, B],
            &[UNROUTED, UNREACHABLE],
        ),
    ];
    for (port, host, device, good, bad) in sides {
        let wire = Wire::open(host, device);
        let macs = (net.r.mac(port), host.mac(device));
        let send = |from: &str, to: &str, text: &str| {
            let (kind, bytes) = packet(from, to, text);
            wire.send(&ethernet(macs.0, macs.1, kind, &bytes));
        };
        for (from, to) in good.iter().flat_map(|of| of.iter().zip(TO)) {
            let text = format!("{from} by {port}");
            wait_for(&format!("{text} arrives"), LIMIT, || {
                send(from, to, &text);
                let wait = std::time::Duration::from_millis(300);
                far.find(wait, |frame| frame.ends_with(text.as_bytes())).is_some()
            });
        }
        let counted = || (margay.drops("spoofed_source"), margay.port(port, "dropped"));
        for (from, to) in bad.iter().flat_map(|of| of.iter().zip(TO)) {
            let text = format!("{from} by {port}");
            let before = counted();
            send(from, to, &text);
            wait_for(&format!("{text} is dropped as spoofed"), LIMIT, || {
                let now = counted();
                if now == (before.0 + 1, before.1 + 1) {
                    Ok(())
                } else {
                    Err(format!("{before:?}, now {now:?}"))
                }
            });
            assert_eq!(
                far.count(|frame| frame.ends_with(text.as_bytes())),
                0,
                "{text} arrived"
            );
        }
    }
    // It follows the routes: what is routed by the other uplink from now on belongs there.
    net.r.sh(
        "ip route replace 203.0.113.0/24 via 10.2.0.2; ip -6 route replace 2001:db8:113::/48 via fd02::2",
    );
    margay.mirrors_kernel();
    let before = margay.drops("spoofed_source");
    let wire = Wire::open(&net.u, "r0");
    for (from, to) in BEYOND_UP0.iter().zip(TO) {
        let (kind, bytes) = packet(from, to, "no longer");
        wire.send(&ethernet(net.r.mac("up0"), net.u.mac("r0"), kind, &bytes));
    }
    wait_for("both are dropped as spoofed", LIMIT, || {
        margay.drops("spoofed_source") == before + 2
    });
    margay.check_sums();
}
