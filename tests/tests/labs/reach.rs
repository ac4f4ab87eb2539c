//! Ping, traceroute, mtr, tracepath and iperf3 between containers that nobody has tuned, over both families, with `ip_forward=0`.
//!
//! ```text
//!   a 10.65.0.2  fd65::2 ── cali-a ┐                                          ┌ cali-b ── b 10.66.0.2  fd66::2
//!                                  ├─ n1 up0 ─ 10.0.0.1 ── 10.0.0.2 ─ up0 n2 ─┤
//!   c 10.65.0.3  fd65::3 ── cali-c ┘        fd00::1        fd00::2            (margayd on n1 and on n2)
//! ```

use std::sync::Arc;

use tests::{Host, Lab, Margay};

const PORTS: &str = r#"
[[port]]
name = "up0"
role = "uplink"
[[port]]
match = "cali*"
role = "workload"
"#;

struct Net {
    a: Host,
    b: Host,
    c: Host,
    n1: Arc<Margay>,
    n2: Arc<Margay>,
    _lab: Arc<Lab>,
}

fn build(name: &str) -> Option<Net> {
    let lab = Lab::new(name)?;
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    lab.veth(&n1, "up0", &n2, "up0");
    n1.sh(
        "ip addr add 10.0.0.1/24 dev up0; ip -6 addr add fd00::1/64 dev up0 nodad
           ip route add 10.66.0.0/24 via 10.0.0.2; ip -6 route add fd66::/64 via fd00::2",
    );
    n2.sh(
        "ip addr add 10.0.0.2/24 dev up0; ip -6 addr add fd00::2/64 dev up0 nodad
           ip route add 10.65.0.0/24 via 10.0.0.1; ip -6 route add fd65::/64 via fd00::1",
    );
    let a = lab.container("a", &n1, "cali-a", "10.65.0.2", "fd65::2");
    let c = lab.container("c", &n1, "cali-c", "10.65.0.3", "fd65::3");
    let b = lab.container("b", &n2, "cali-b", "10.66.0.2", "fd66::2");
    let (n1, n2) = (Margay::start(&lab, &n1, PORTS), Margay::start(&lab, &n2, PORTS));
    for port in ["up0", "cali-a", "cali-c"] {
        n1.has_port(port);
    }
    for port in ["up0", "cali-b"] {
        n2.has_port(port);
    }
    Some(Net {
        a,
        b,
        c,
        n1,
        n2,
        _lab: lab,
    })
}

impl Net {
    fn finish(&self) {
        for node in [&self.n1, &self.n2] {
            assert_eq!(node.host().get_sysctl("net.ipv4.ip_forward"), "0");
            node.mirrors_kernel();
            node.check_sums();
        }
    }
}

#[test]
fn ping() {
    let Some(net) = build("ping") else { return };
    for address in ["10.66.0.2", "fd66::2", "10.65.0.3", "fd65::3"] {
        net.a.reaches(address);
        let (before, _) = (net.n1.port("cali-a", "forwarded"), ());
        let out = net.a.sh(&format!("ping -n -c 20 -i 0.05 -W 5 {address}"));
        assert!(
            out.contains("20 received") && !out.contains("duplicates"),
            "{out}"
        );
        assert!(
            net.n1.port("cali-a", "forwarded") >= before + 20,
            "the pings went through margayd"
        );
    }
    // Close to the MTU, and beyond it in fragments.
    for address in ["10.66.0.2", "fd66::2"] {
        for size in [1400, 4000] {
            let out = net
                .a
                .sh(&format!("ping -n -c 5 -i 0.05 -W 5 -s {size} {address}"));
            assert!(out.contains("5 received"), "{out}");
        }
    }
    net.finish();
}

#[test]
fn traceroute() {
    let Some(net) = build("traceroute") else { return };
    net.a.reaches("10.66.0.2");
    net.a.reaches("fd66::2");
    // The first hop answers from an address of n1, the second from the address of n2's uplink, by which the probe came in.
    for (options, target, second) in [("-4", "10.66.0.2", "10.0.0.2"), ("-6", "fd66::2", "fd00::2")] {
        for method in ["", "-I", "-T -p 80"] {
            let out = net.a.sh(&format!(
                "traceroute {options} -n -w 3 -q 2 -N 2 -m 5 {method} {target}"
            ));
            let hops: Vec<&str> = out.lines().skip(1).collect();
            assert_eq!(hops.len(), 3, "two nodes and the target: {out}");
            assert!(hops[1].contains(second), "the second node: {out}");
            assert!(hops[2].contains(target), "the target: {out}");
            assert!(!out.contains('*'), "every probe is answered: {out}");
        }
        let out = net.a.sh(&format!("mtr {options} -n -r -c 3 -i 0.2 {target}"));
        assert!(out.contains(second) && out.contains(target), "{out}");
        assert!(!out.contains("???"), "{out}");
        let out = net.a.sh(&format!("tracepath {options} -n -m 5 {target}"));
        assert!(
            out.contains(second) && out.contains("reached") && out.contains("pmtu 1500"),
            "{out}"
        );
    }
    net.finish();
}

#[test]
fn iperf3() {
    let Some(net) = build("iperf3") else { return };
    for (family, far, near) in [("-4", "10.66.0.2", "10.65.0.3"), ("-6", "fd66::2", "fd65::3")] {
        net.a.reaches(far);
        for (server, address) in [(&net.b, far), (&net.c, near)] {
            for (number, options) in ["-n 4M", "-n 4M -R", "-n 200K -u -b 5M", "-n 4M -P 4"]
                .into_iter()
                .enumerate()
            {
                let port = 5201 + number;
                let one = format!("iperf3 {family} -s -1 -p {port}");
                let serving = server.spawn(&format!("iperf3{family}-{port}"), &one);
                tests::wait_for("iperf3 listens", tests::LIMIT, || {
                    server.sh("ss -Hltn").contains(&format!(":{port} "))
                });
                let out = net
                    .a
                    .sh(&format!("iperf3 {family} -c {address} -p {port} -J {options}"));
                let report: serde_json::Value = serde_json::from_str(&out).expect("iperf3 -J prints JSON");
                let end = &report["end"];
                let sum = if options.contains("-u") {
                    &end["sum"]
                } else {
                    &end["sum_received"]
                };
                let bytes = sum["bytes"].as_u64().unwrap_or_else(|| panic!("no sum in {end}"));
                assert!(bytes > 100_000, "{bytes} bytes got through: {options} {address}");
                tests::wait_for("the iperf3 server ends", tests::LIMIT, || serving.exited());
            }
        }
    }
    net.finish();
}
