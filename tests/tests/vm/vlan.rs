//! VLAN sub-interfaces and VRF slaves as ports.

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

/// Ports enslaved to a VRF: their routes are those of its table, which the configuration names; what is the node's own in
/// the VRF is the kernel's.
#[test]
fn vrf() {
    let Some(net) = guest::wired("vrf", "virtio_net") else {
        return;
    };
    net.r.sh("ip link add red type vrf table 10; ip link set red up
              ip link set up0 master red; ip link set up1 master red
              ip -6 addr add fd00::1/64 dev up0 nodad || :; ip -6 addr add fd01::1/64 dev up1 nodad || :");
    let config = format!("{RUNTIME}[kernel]\ntables = [10]\n[[port]]\nmatch = \"up*\"\nrole = \"uplink\"\n");
    let margay = Margay::start(&net.lab, &net.r, &config);
    for port in ["up0", "up1"] {
        margay.has_port(port);
    }
    net.u.reaches("10.1.0.2");
    net.u.reaches("fd01::2");
    net.u.reaches("10.0.0.1");
    assert!(margay.port("up0", "forwarded") > 0);
    margay.mirrors_table(10);
    margay.check_sums();
    assert_eq!(margay.terminate(), 0);
}
