//! Three Margay hops in a row, one link of them with an MTU of 1,400: traceroute in each of its modes, path MTU discovery, pings with and
//! without leave to fragment, and TCP whose MSS nobody clamps.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a n1 up0 ── 10.0.1.0/24 ── dn0 n2 up0 ── 10.0.2.0/24 ── dn0 n3 cali-b ── b 10.66.0.2
//!     fd65::2                       fd01::/64                    fd02::/64                         fd66::2
//!                                                                MTU 1400             (margayd on n1, n2 and n3)
//! ```

use std::sync::Arc;

use tests::{Host, LIMIT, Lab, Margay, wait_for};

const PORTS: &str = r#"
[[port]]
name = "up0"
role = "uplink"
[[port]]
name = "dn0"
role = "uplink"
[[port]]
match = "cali*"
role = "workload"
"#;

struct Net {
    a: Host,
    b: Host,
    nodes: [Arc<Margay>; 3],
    _lab: Arc<Lab>,
}

fn build(name: &str) -> Option<Net> {
    let lab = Lab::new(name)?;
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.host(name));
    lab.veth(&n1, "up0", &n2, "dn0");
    lab.veth(&n2, "up0", &n3, "dn0");
    n1.sh(
        "ip addr add 10.0.1.1/24 dev up0; ip -6 addr add fd01::1/64 dev up0 nodad
           ip route add default via 10.0.1.2; ip -6 route add default via fd01::2",
    );
    n2.sh(
        "ip addr add 10.0.1.2/24 dev dn0; ip -6 addr add fd01::2/64 dev dn0 nodad
           ip addr add 10.0.2.1/24 dev up0; ip -6 addr add fd02::1/64 dev up0 nodad; ip link set up0 mtu 1400
           ip route add 10.65.0.0/24 via 10.0.1.1; ip -6 route add fd65::/64 via fd01::1
           ip route add 10.66.0.0/24 via 10.0.2.2; ip -6 route add fd66::/64 via fd02::2",
    );
    n3.sh(
        "ip addr add 10.0.2.2/24 dev dn0; ip -6 addr add fd02::2/64 dev dn0 nodad; ip link set dn0 mtu 1400
           ip route add default via 10.0.2.1; ip -6 route add default via fd02::1",
    );
    let a = lab.container("a", &n1, "cali-a", "10.65.0.2", "fd65::2");
    let b = lab.container("b", &n3, "cali-b", "10.66.0.2", "fd66::2");
    let nodes = [n1, n2, n3].map(|node| Margay::start(&lab, &node, PORTS));
    for (node, ports) in nodes
        .iter()
        .zip([["up0", "cali-a"], ["up0", "dn0"], ["dn0", "cali-b"]])
    {
        ports.iter().for_each(|port| node.has_port(port));
    }
    a.reaches("10.66.0.2");
    a.reaches("fd66::2");
    Some(Net {
        a,
        b,
        nodes,
        _lab: lab,
    })
}

impl Net {
    fn finish(&self) {
        for node in &self.nodes {
            assert_eq!(node.host().get_sysctl("net.ipv4.ip_forward"), "0");
            assert_eq!(node.host().get_sysctl("net.ipv6.conf.all.forwarding"), "0");
            node.mirrors_kernel();
            node.check_sums();
        }
    }
}

#[test]
fn traceroute_names_three_hops() {
    let Some(net) = build("hops") else { return };
    // The first hop answers by a workload port without an address of its own beyond the link: in IPv6 with the node's (RFC 6724 5, rule 2).
    for (family, target, hops) in [
        ("-4", "10.66.0.2", ["", "10.0.1.2", "10.0.2.2"]),
        ("-6", "fd66::2", ["fd01::1", "fd01::2", "fd02::2"]),
    ] {
        for method in ["-U", "-U -p 33434", "-I", "-T -p 80", "-T -p 443 -O ack"] {
            let out = net.a.sh(&format!(
                "traceroute {family} -n -w 5 -q 2 -N 2 -m 6 {method} {target}"
            ));
            let lines: Vec<&str> = out.lines().skip(1).collect();
            assert_eq!(lines.len(), 4, "three nodes and the target: {out}");
            for (line, hop) in lines.iter().zip(hops) {
                assert!(line.contains(hop), "{hop}: {out}");
            }
            assert!(
                lines[3].contains(target) && !out.contains('*'),
                "every probe is answered: {out}"
            );
        }
        let out = net.a.sh(&format!("mtr {family} -n -r -c 3 -i 0.2 {target}"));
        assert!(
            hops.iter().all(|hop| out.contains(hop)) && out.contains(target) && !out.contains("???"),
            "{out}"
        );
    }
    net.finish();
}

#[test]
fn the_small_link_is_found() {
    let Some(net) = build("hopmtu") else { return };
    let forget = "ip route flush cache; ip -6 route flush cache";
    for (family, target, hop, header) in [
        ("-4", "10.66.0.2", "10.0.1.2", 28),
        ("-6", "fd66::2", "fd01::2", 48),
    ] {
        let out = net
            .a
            .sh(&format!("{forget}; tracepath {family} -n -m 6 {target}"));
        let line = out.lines().find(|line| line.contains("pmtu 1400"));
        assert!(
            line.is_some_and(|line| line.contains(hop)),
            "the node before the link says so: {out}"
        );
        assert!(
            out.contains("reached") && out.contains("Resume: pmtu 1400 hops 4"),
            "{out}"
        );

        // Around the MTU: what fits goes through, what is larger and may not be fragmented is answered.
        for size in [1399, 1400] {
            net.a.sh(&format!(
                "{forget}; ping {family} -n -c 2 -i 0.1 -W 5 -M do -s {} {target}",
                size - header
            ));
        }
        for size in [1401, 1500] {
            let done = net.a.try_sh(&format!(
                "{forget}; ping {family} -n -c 2 -i 0.1 -W 5 -M do -s {} {target}",
                size - header
            ));
            let said = format!("{}{}", done.out, done.err);
            assert!(
                done.code != 0 && (said.contains("mtu = 1400") || said.contains("mtu=1400")),
                "{size}: {said}"
            );
        }
        // And without that, whoever has to fragments: the node for IPv4, the sender for IPv6.
        for size in [1401, 1408, 1409, 1500, 2900, 8000] {
            let made = net.nodes[1].port("up0", "originated");
            let leave = if family == "-4" { "-M dont" } else { "-M want" };
            let out = net.a.sh(&format!(
                "{forget}; ping {family} -n -c 3 -i 0.1 -W 5 {leave} -s {} {target}",
                size - header
            ));
            if family == "-4" {
                assert!(out.contains("3 received"), "{size}: {out}");
                let more = net.nodes[1].port("up0", "originated") - made;
                assert!(
                    more >= 3,
                    "{size}: fragments beyond the first are made by the node: {more}"
                );
            } else {
                assert!(!out.contains(" 0 received"), "{size}: {out}");
            }
        }
    }
    net.finish();
}

#[test]
fn tcp_finds_its_way_without_a_clamp() {
    let Some(net) = build("hoptcp") else { return };
    for (family, target) in [("-4", "10.66.0.2"), ("-6", "fd66::2")] {
        for (number, more) in ["", "-R"].into_iter().enumerate() {
            let port = 5201 + number;
            let server = net.b.spawn(
                &format!("iperf3{family}-{port}"),
                &format!("iperf3 {family} -s -1 -p {port}"),
            );
            wait_for("iperf3 listens", LIMIT, || {
                net.b.sh("ss -Hltn").contains(&format!(":{port} "))
            });
            for host in [&net.a, &net.b] {
                host.sh("ip route flush cache; ip -6 route flush cache");
            }
            net.a
                .sh(&format!("iperf3 {family} -c {target} -p {port} -n 3M {more}"));
            wait_for("the iperf3 server ends", LIMIT, || server.exited());
        }
    }
    // TCP sets DF, so that the node before the small link has answered, from either side.
    for (node, port) in [(&net.nodes[1], "dn0"), (&net.nodes[2], "cali-b")] {
        assert!(
            node.port(port, "replied") >= 2,
            "{port}: {}",
            node.json("port show")
        );
    }
    net.finish();
}
