//! What is addressed to the node goes to its kernel, whatever address it is and however it came to be: unicast, AnyIP ranges, broadcast,
//! addresses that are added and removed while traffic flows. It is not subject to access lists.
//!
//! ```text
//!   a 10.65.0.2 fd65::2 ── cali-a r (margayd) up0 ── 10.0.0.1 fd00::1 ── r0 u
//! ```

use tests::{LIMIT, Margay, wait_for};

use crate::common::node;

/// Both lists deny everything: they guard what is forwarded, and not the node.
const PORTS: &str = r#"
[[port]]
match = "up*"
role = "uplink"
acl = { ingress = "nothing", egress = "nothing" }
[[port]]
match = "cali*"
role = "workload"
acl = { ingress = "nothing", egress = "nothing" }
"#;

#[test]
fn the_node_answers_for_itself() {
    let Some(net) = node("local") else { return };
    let a = net.container("a", 2);
    let nothing = ("nothing", "[[acl]]\nname = \"nothing\"\ndefault = \"deny\"\n");
    let margay = Margay::start_with(&net.lab, &net.r, PORTS, &[nothing]);
    margay.has_port("up0");
    margay.has_port("cali-a");
    for (host, addresses) in [
        (&a, ["10.0.0.1", "fd00::1", "169.254.1.1", "fe80::1%eth0"]),
        (&net.u, ["10.0.0.1", "fd00::1", "10.0.0.1", "fd00::1"]),
    ] {
        for address in addresses {
            host.reaches(address);
            let out = host.sh(&format!("ping -n -c 10 -i 0.02 -W 5 {address}"));
            assert!(out.contains("10 received") && !out.contains("DUP"), "{out}");
        }
    }
    assert!(!a.pings("203.0.113.1"), "the lists deny what is forwarded");
    // TCP with the node, both ways, large segments included.
    let _server = net.r.spawn("iperf3", "iperf3 -s");
    wait_for("iperf3 listens", LIMIT, || {
        net.r.sh("ss -Hltn").contains(":5201 ")
    });
    for (host, address) in [
        (&a, "10.0.0.1"),
        (&a, "fd00::1"),
        (&net.u, "10.0.0.1"),
        (&net.u, "fd00::1"),
    ] {
        for direction in ["", "-R"] {
            host.sh(&format!("iperf3 -c {address} -n 2M {direction}"));
        }
    }
    // Addresses and local ranges come and go.
    net.u.sh("ip route add 10.99.0.0/16 via 10.0.0.1; ip -6 route add fd99::/64 via fd00::1; ip route add 192.0.2.7 via 10.0.0.1");
    for address in ["10.99.3.4", "fd99::3", "192.0.2.7"] {
        assert!(!net.u.pings(address));
    }
    net.r.sh("ip route add local 10.99.0.0/16 dev lo; ip -6 route add local fd99::/64 dev lo; ip addr add 192.0.2.7/32 dev lo");
    for address in ["10.99.3.4", "fd99::3", "192.0.2.7"] {
        net.u.reaches(address);
    }
    net.r.sh("ip route del local 10.99.0.0/16 dev lo; ip -6 route del local fd99::/64 dev lo; ip addr del 192.0.2.7/32 dev lo");
    wait_for("they are the node's no longer", LIMIT, || {
        ["10.99.3.4", "fd99::3", "192.0.2.7"]
            .iter()
            .all(|address| !net.u.pings(address))
    });
    // Broadcast and multicast are the kernel's.
    net.r.sysctl("net.ipv4.icmp_echo_ignore_broadcasts", "0");
    for address in [
        "-b 10.0.0.255",
        "-b 255.255.255.255 -I r0",
        "224.0.0.1 -I r0",
        "ff02::1%r0",
    ] {
        let punted = margay.port("up0", "punted");
        wait_for(&format!("ping {address} is answered"), LIMIT, || {
            let out = net.u.try_sh(&format!("ping -n -c 1 -W 1 {address}")).out;
            if out.contains(" 0% packet loss") {
                Ok(())
            } else {
                Err(out)
            }
        });
        assert!(margay.port("up0", "punted") > punted);
    }
    for reason in ["acl_ingress", "acl_egress"] {
        // Only what was to be forwarded was ever before a list: the pings above that must fail.
        assert!(margay.drops(reason) < 100, "{reason}");
    }
    margay.mirrors_kernel();
    margay.check_sums();
}
