//! Access lists: a deny in each direction, counted as a drop and by its rule; reject answers; a bad file changes nothing; a missing list
//! denies; a list that is exchanged under traffic judges every packet whole; a source that is not the workload's is dropped
//! before any list.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a (ingress from-a) ┐
//!                                          ├─ r (margayd) up0 ── u 203.0.113.1
//!   b 10.65.0.3 ── cali-b (egress to-b)    ┘
//! ```

mod exchange;
mod explain;
mod mistakes;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tests::margay::list;
use tests::raw::{Wire, ethernet, ipv4, ipv6, udp};
use tests::{Host, LIMIT, Margay, wait_for};

use crate::common::{Node, node};

const PORTS: &str = r#"
[[port]]
name = "up0"
role = "uplink"
[[port]]
name = "cali-a"
role = "workload"
acl = { ingress = "from-a" }
[[port]]
name = "cali-b"
role = "workload"
acl = { egress = "to-{port}" }
"#;

const FROM_A: &str = r#"
[sets.far]
prefixes = ["203.0.113.0/24", "2001:db8:113::/48"]
[[acl]]
name = "from-a"
default = "allow"
[[acl.rule]]
action = "deny"
proto = "udp"
dst = ["@far"]
dport = [7]
[[acl.rule]]
action = "reject"
proto = "udp"
dst = ["@far"]
dport = ["8-9"]
"#;

const TO_B: &str = r#"
[sets.a]
prefixes = ["10.65.0.2", "fd65::2"]
[[acl]]
name = "to-cali-b"
default = "deny"
[[acl.rule]]
action = "allow"
proto = "icmp"
[[acl.rule]]
action = "allow"
proto = "icmpv6"
[[acl.rule]]
action = "deny"
proto = "udp"
dport = [1000]
[[acl.rule]]
action = "allow"
proto = "udp"
src = ["@a"]
"#;

const A4: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, 0, 2);

fn build(name: &str) -> Option<(Node, Host, Host, Arc<Margay>)> {
    let net = node(name)?;
    let (a, b) = (net.container("a", 2), net.container("b", 3));
    let margay = Margay::start_with(&net.lab, &net.r, PORTS, &[("a", FROM_A), ("b", TO_B)]);
    for port in ["up0", "cali-a", "cali-b"] {
        margay.has_port(port);
    }
    for address in ["203.0.113.1", "2001:db8:113::1", "10.65.0.3", "fd65::3"] {
        a.reaches(address);
    }
    Some((net, a, b, margay))
}

/// Sends `count` datagrams of each family from container a to a port of `to4` and `to6`.
fn send(net: &Node, a: &Host, to4: &str, to6: &str, port: u16, count: usize) {
    let wire = Wire::open(a, "eth0");
    let (router, host) = (net.r.mac("cali-a"), a.mac("eth0"));
    let (to4, to6) = (to4.parse().expect("an address"), to6.parse().expect("an address"));
    for _ in 0..count {
        wire.send(&ethernet(
            router,
            host,
            0x0800,
            &ipv4(A4, to4, 64, 17, &udp(None, 5000, port, b"acl")),
        ));
        let datagram = udp(Some((A6, to6)), 5000, port, b"acl");
        wire.send(&ethernet(router, host, 0x86dd, &ipv6(A6, to6, 64, 17, &datagram)));
    }
}

/// Packets that a rule of a list has matched; the last index is the default's.
fn hits(margay: &Margay, name: &str, index: i64) -> u64 {
    let shown = margay.json(&format!("-s acl show {name}"));
    let lists = list(&shown, "lists");
    let rules = list(
        lists
            .iter()
            .find(|list| list["name"] == name)
            .expect("the list is shown"),
        "rules",
    );
    let rule = rules
        .iter()
        .find(|rule| rule["index"] == index)
        .unwrap_or_else(|| panic!("no rule {index}: {shown}"));
    rule["packets"].as_u64().expect("a count")
}

#[track_caller]
fn counted(margay: &Margay, reason: &str, acl: &str, rule: i64, packets: u64, act: impl FnOnce()) {
    let before = (margay.drops(reason), hits(margay, acl, rule));
    act();
    wait_for(
        &format!("{packets} packets count as {reason}, by rule {rule} of {acl}"),
        LIMIT,
        || {
            let now = (margay.drops(reason), hits(margay, acl, rule));
            let more = (now.0 - before.0, now.1 - before.1);
            if more == (packets, packets) {
                Ok(())
            } else {
                Err(format!("{more:?}"))
            }
        },
    );
}

#[test]
fn denies_are_counted() {
    let Some((net, a, _b, margay)) = build("acl") else {
        return;
    };
    counted(&margay, "acl_ingress", "from-a", 0, 40, || {
        send(&net, &a, "203.0.113.1", "2001:db8:113::1", 7, 20)
    });
    counted(&margay, "acl_egress", "to-cali-b", 2, 30, || {
        send(&net, &a, "10.65.0.3", "fd65::3", 1000, 15)
    });
    // What a rule allows gets through, next to what the default denies.
    let tx = margay.port("cali-b", "tx_packets");
    send(&net, &a, "10.65.0.3", "fd65::3", 1001, 10);
    wait_for("what is allowed gets through", LIMIT, || {
        margay.port("cali-b", "tx_packets") >= tx + 20
    });
    counted(&margay, "acl_egress", "to-cali-b", -1, 5, || {
        let wire = Wire::open(&net.u, "r0");
        let packet = ipv4(
            Ipv4Addr::new(10, 0, 0, 2),
            Ipv4Addr::new(10, 65, 0, 3),
            64,
            17,
            &udp(None, 1, 1001, b""),
        );
        for _ in 0..5 {
            wire.send(&ethernet(net.r.mac("up0"), net.u.mac("r0"), 0x0800, &packet));
        }
    });
    margay.check_sums();
}

#[test]
fn reject_answers() {
    let Some((net, a, _b, margay)) = build("reject") else {
        return;
    };
    let replied = margay.port("cali-a", "replied");
    let wire = Wire::open(&a, "eth0");
    send(&net, &a, "203.0.113.1", "2001:db8:113::1", 9, 3);
    // ICMP type 3 code 13 (RFC 1812 5.2.7.1) and ICMPv6 type 1 code 1 (RFC 4443 3.1): communication administratively prohibited.
    let (mut four, mut six) = (0, 0);
    wire.find(LIMIT, |frame| {
        four += usize::from(frame[12..14] == [8, 0] && frame[23] == 1 && frame[34..36] == [3, 13]);
        six += usize::from(frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54..56] == [1, 1]);
        four >= 3 && six >= 3
    })
    .unwrap_or_else(|| panic!("{four} and {six} answers of 3 each"));
    assert!(margay.port("cali-a", "replied") >= replied + 6);
    assert_eq!(margay.drops("acl_ingress"), 0);
    margay.check_sums();
}

#[test]
fn port_set_is_kept() {
    let Some((_net, a, _b, margay)) = build("portset") else {
        return;
    };
    margay.write_acl("more", "[[acl]]\nname = \"nothing\"\ndefault = \"deny\"\n");
    assert_eq!(margay.run("acl reload").code, 0);
    let done = margay.run("port set up0 --acl-egress nothing");
    assert_eq!(done.code, 0, "{done:?}");
    wait_for("the list is in force", LIMIT, || !a.pings("203.0.113.1"));
    assert!(margay.drops("acl_egress") > 0);
    assert_eq!(margay.terminate(), 0);
    margay.launch();
    margay.ready();
    margay.has_port("cali-a");
    a.reaches("10.65.0.3");
    assert!(!a.pings("203.0.113.1"), "it is in force after a restart");
    assert_eq!(margay.run("port set nosuch --acl-ingress nothing").code, 3);
    margay.check_sums();
}

#[test]
fn spoofed_sources_are_dropped() {
    let Some((net, a, _b, margay)) = build("spoof") else {
        return;
    };
    let wire = Wire::open(&a, "eth0");
    let (router, host) = (net.r.mac("cali-a"), a.mac("eth0"));
    let before = margay.drops("spoofed_source");
    let other = Ipv4Addr::new(10, 65, 0, 3);
    for _ in 0..5 {
        let packet = ipv4(
            other,
            Ipv4Addr::new(203, 0, 113, 1),
            64,
            17,
            &udp(None, 1, 2, b"not mine"),
        );
        wire.send(&ethernet(router, host, 0x0800, &packet));
        let (from, to) = (
            "fd65::3".parse().expect("an address"),
            "2001:db8:113::1".parse().expect("an address"),
        );
        wire.send(&ethernet(
            router,
            host,
            0x86dd,
            &ipv6(from, to, 64, 17, &udp(Some((from, to)), 1, 2, b"not mine")),
        ));
    }
    wait_for("ten packets are dropped as spoofed", LIMIT, || {
        margay.drops("spoofed_source") == before + 10
    });
    margay.check_sums();
}
