//! VLAN sub-interfaces as ports.

use tests::{LIMIT, Margay, guest, wait_for};

use crate::common::RUNTIME;

/// A sub-interface is a port of its own: its driver has no XDP, so that frames come in generic mode after the kernel has taken
/// the tag away, and leave through it with the tag put on.
///
/// ```text
///   u 10.100.0.2 r0.100 ══ up0.100 10.100.0.1  r  up1 10.1.0.1 ══ 10.1.0.2 v
/// ```
fn vlan(kind: &str, parent_too: bool) {
    let name = if parent_too { "both" } else { "vlan" };
    let Some(net) = guest::wired(&format!("{name}-{kind}"), kind) else {
        return;
    };
    net.r.sh(
        "ip link add link up0 name up0.100 type vlan id 100; ip link set up0.100 up
              ip addr add 10.100.0.1/24 dev up0.100; ip -6 addr add fd10::1/64 dev up0.100 nodad",
    );
    net.u.sh(
        "ip link add link r0 name r0.100 type vlan id 100; ip link set r0.100 up
              ip addr add 10.100.0.2/24 dev r0.100; ip -6 addr add fd10::2/64 dev r0.100 nodad
              ip route add 10.1.0.0/24 via 10.100.0.1; ip -6 route add fd01::/64 via fd10::1",
    );
    // A driver that strips tags would hide them from the parent's program.
    net.r.try_sh("ethtool -K up0 rxvlan off");
    let parent = if parent_too {
        "[[port]]\nname = \"up0\"\nrole = \"uplink\"\n"
    } else {
        ""
    };
    let config = format!(
        "{RUNTIME}{parent}[[port]]\nname = \"up0.100\"\nrole = \"uplink\"\n[[port]]\nname = \"up1\"\nrole = \"uplink\"\n"
    );
    let margay = Margay::start(&net.lab, &net.r, &config);
    for port in ["up0.100", "up1"] {
        margay.has_port(port);
    }
    assert_eq!(margay.find_port("up0.100").expect("just seen")["mode"], "generic");
    let before = margay.port("up0.100", "forwarded");
    for address in ["10.1.0.2", "fd01::2"] {
        wait_for("the VLAN reaches the host beyond", LIMIT, || {
            let source = if address.contains(':') {
                "fd10::2"
            } else {
                "10.100.0.2"
            };
            net.u
                .try_sh(&format!("ping -n -c 1 -W 2 -I {source} {address}"))
                .code
                == 0
        });
    }
    assert!(margay.port("up0.100", "forwarded") >= before + 2);
    net.u.reaches("10.100.0.1");
    margay.mirrors_kernel();
    margay.check_sums();
    assert_eq!(margay.terminate(), 0);
}

#[test]
fn virtio_net() {
    vlan("virtio_net", false);
}

#[test]
fn igb_with_its_parent() {
    vlan("igb", true);
}

/// VLANs in and out in each combination, two of them on one trunk, a trunk that strips the tags itself, two tags, and a closed trunk.
///
/// ```text
///   u 10.100.0.2 r0.100 ══╤═ up0 (no port) up0.100 10.100.0.1, up0.200 10.200.0.1   r   up1 10.1.0.1 ══╤═ r0 10.1.0.2 v
///   w 10.200.0.2 r0.200 ══╛                                           up1.300 10.30.0.1 ═══════════════╛ r0.300 10.30.0.2
/// ```
#[test]
fn combinations() {
    let Some(net) = guest::wired("combinations", "e1000e") else {
        return;
    };
    let w = net.lab.host("w");
    for (id, subnet, trunk) in [(100, 100, "up0"), (200, 200, "up0"), (300, 30, "up1")] {
        let port = format!("{trunk}.{id}");
        net.r.sh(&format!(
            "ip link add link {trunk} name {port} type vlan id {id}; ip link set {port} up; ip addr add 10.{subnet}.0.1/24 dev {port}"
        ));
        let on = if trunk == "up0" { &net.u } else { &net.v };
        on.sh(&format!("ip link add link r0 name r0.{id} type vlan id {id}"));
        let host = if id == 200 { &w } else { on };
        if id == 200 {
            on.sh(&format!("ip link set r0.200 netns {}", w.netns()));
        }
        host.sh(&format!(
            "ip link set r0.{id} up; ip addr add 10.{subnet}.0.2/24 dev r0.{id}"
        ));
    }
    // Answers go back the way that the question came.
    net.u.sh("ip route replace default via 10.100.0.1");
    w.sh("ip route replace default via 10.200.0.1");
    net.v
        .sh("ip rule add from 10.30.0.2 lookup 30; ip route add default via 10.30.0.1 table 30");
    let port = |name: &str| format!("[[port]]\nname = \"{name}\"\nrole = \"uplink\"\n");
    let ports = ["up0.100", "up0.200", "up1", "up1.300"];
    let config = format!("{RUNTIME}{}", ports.map(port).concat());
    let margay = Margay::start(&net.lab, &net.r, &config);
    for port in ports {
        margay.has_port(port);
    }
    // The driver takes the tags away on the way in and puts them on on the way out, or leaves both to the kernel.
    for offload in ["on", "off"] {
        net.r
            .try_sh(&format!("ethtool -K up0 rxvlan {offload} txvlan {offload}"));
        for (from, to, way_in, way_out) in [
            (&net.u, "10.1.0.2", "up0.100", "up1"),
            (&net.u, "10.30.0.2", "up0.100", "up1.300"),
            (&net.u, "10.200.0.2", "up0.100", "up0.200"),
            (&w, "10.100.0.2", "up0.200", "up0.100"),
            (&net.v, "10.100.0.2", "up1", "up0.100"),
        ] {
            from.reaches(to);
            let count = || {
                (
                    margay.port(way_in, "forwarded"),
                    margay.port(way_out, "tx_packets"),
                )
            };
            let before = count();
            from.sh(&format!("ping -n -c 3 -i 0.2 -W 10 {to}"));
            let after = count();
            assert!(
                after.0 >= before.0 + 3 && after.1 >= before.1 + 3,
                "{to} by {way_in} and {way_out}, offload {offload}: {before:?} {after:?}"
            );
        }
    }
    // A second tag is the kernel's, and what is in it the node's.
    for (host, below, address) in [(&net.r, "up0.100", "10.77.0.1"), (&net.u, "r0.100", "10.77.0.2")] {
        host.sh(&format!(
            "ip link add link {below} name inner type vlan id 7; ip link set inner up; ip addr add {address}/24 dev inner"
        ));
    }
    let punted = margay.port("up0.100", "punted");
    net.u.reaches("10.77.0.1");
    assert!(margay.port("up0.100", "punted") > punted);
    margay.mirrors_kernel();
    margay.check_sums();
    assert_eq!(margay.terminate(), 0);
    // A closed trunk closes its sub-interfaces, ports or not.
    net.r.sysctl("net.ipv4.ip_forward", "1");
    net.u.reaches("10.30.0.2");
    let closed = format!("{config}{}on_exit = \"drop\"\n", port("up0"));
    margay.write_config(&closed.replace("name = \"up0.200\"", "name = \"other\""));
    margay.launch();
    margay.ready();
    margay.has_port("up0");
    assert!(
        !w.pings("10.30.0.2"),
        "up0.200 is no port now, and upon a closed one"
    );
    assert!(margay.run("doctor").out.contains("a VLAN sub-interface"));
    assert_eq!(margay.terminate(), 0);
    assert!(!w.pings("10.30.0.2"), "nor while margayd is away");
    assert!(net.r.sh("nft list table inet margay").contains("up0.*"));
}
