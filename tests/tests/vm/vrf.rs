//! VRFs of the kernel: two address plans that are the same to the last bit, on the same NICs.
//!
//! ```text
//!   u 10.0.0.2 ══╤═ up0     10.0.0.1 ┐ VRF red,  table 10 ┌ 10.1.0.1 up1     ═╤══ 10.1.0.2 v
//!   w 10.0.0.2 ══╛  up0.100 10.0.0.1 ┘ VRF blue, table 20 └ 10.1.0.1 up1.100 ═╛   10.1.0.2 x, 10.9.0.1 x
//! ```

use tests::{Host, LIMIT, Margay, guest, wait_for};

use crate::common::RUNTIME;

#[test]
fn two_plans() {
    let Some(net) = guest::wired("vrf", "virtio_net") else {
        return;
    };
    let (w, x) = (net.lab.host("w"), net.lab.host("x"));
    for (name, table) in [("red", 10), ("blue", 20)] {
        net.r.sh(&format!(
            "ip link add {name} type vrf table {table}; ip link set {name} up"
        ));
    }
    // IPv6 addresses do not survive that a device is enslaved.
    for (trunk, half, host, other) in [("up0", 0, &net.u, &w), ("up1", 1, &net.v, &x)] {
        net.r.try_sh(&format!("ethtool -K {trunk} rxvlan off"));
        net.r.sh(&format!(
            "ip link set {trunk} master red; ip -6 addr replace fd0{half}::1/64 dev {trunk} nodad
             ip link add link {trunk} name {trunk}.100 type vlan id 100; ip link set {trunk}.100 master blue up
             ip addr add 10.{half}.0.1/24 dev {trunk}.100; ip -6 addr add fd0{half}::1/64 dev {trunk}.100 nodad"
        ));
        host.sh(&format!(
            "ip link add link r0 name r0.100 type vlan id 100; ip link set r0.100 netns {}",
            other.netns()
        ));
        other.sh(&format!(
            "ip link set r0.100 up; ip addr add 10.{half}.0.2/24 dev r0.100; ip -6 addr add fd0{half}::2/64 dev r0.100 nodad
             ip route add default via 10.{half}.0.1; ip -6 route add default via fd0{half}::1"
        ));
    }
    // An address that is the node's in red and a host's in blue.
    net.r
        .sh("ip addr add 10.9.0.1/32 dev red; ip route add 10.9.0.1 via 10.1.0.2 dev up1.100 vrf blue");
    x.sh("ip addr add 10.9.0.1/32 dev lo");
    let config = format!("{RUNTIME}[[port]]\nmatch = \"up*\"\nrole = \"uplink\"\n");
    let margay = Margay::start(&net.lab, &net.r, &config);
    for port in ["up0", "up1", "up0.100", "up1.100"] {
        margay.has_port(port);
    }
    let goes = |from: &Host, address: &str, port: &str, twin: &str| {
        from.reaches(address);
        let count = |name: &str| margay.port(name, "tx_packets");
        let before = (count(port), count(twin));
        from.sh(&format!("ping -n -c 3 -i 0.2 -W 10 {address}"));
        assert!(count(port) >= before.0 + 3, "{address} by {port}");
        assert_eq!(count(twin), before.1, "{address} not by {twin}");
    };
    for address in ["10.1.0.2", "fd01::2"] {
        goes(&net.u, address, "up1", "up1.100");
        goes(&w, address, "up1.100", "up1");
    }
    goes(&w, "10.9.0.1", "up1.100", "up1");
    // The node's own addresses in each VRF are the kernel's.
    let forwarded = margay.port("up0", "forwarded");
    net.u.reaches("10.9.0.1");
    net.u.reaches("10.0.0.1");
    assert_eq!(margay.port("up0", "forwarded"), forwarded);
    w.reaches("10.0.0.1");
    for (port, name, table) in [("up0", "red", 10), ("up0.100", "blue", 20)] {
        let shown = margay.find_port(port).expect("it is open");
        assert_eq!(shown["vrf"]["name"], name, "{shown}");
        assert_eq!(shown["vrf"]["tables"]["ipv4"][0], table, "{shown}");
        assert_eq!(shown["on_exit"], "drop", "{shown}");
        margay.mirrors_table(table);
    }
    // From one VRF to another only by a route that names a device of the other.
    let refused = |address: &str| {
        wait_for(&format!("{address} is refused"), LIMIT, || {
            let out = net.u.try_sh(&format!("ping -n -c 1 -W 5 {address}")).out;
            if out.contains("Net Unreachable") {
                Ok(())
            } else {
                Err(out)
            }
        });
    };
    x.sh("ip addr add 10.8.0.1/32 dev lo");
    net.r
        .sh("ip route add 10.8.0.1 via 10.1.0.2 dev up1.100 vrf blue");
    refused("10.8.0.1");
    let leaked = margay.port("up1.100", "tx_packets");
    net.r
        .sh("ip route add 10.8.0.1 via 10.1.0.2 dev up1.100 table 10 onlink");
    wait_for("the leak is followed", LIMIT, || {
        net.u.try_sh("ping -n -c 1 -W 1 10.8.0.1");
        (margay.port("up1.100", "tx_packets") > leaked).then_some(())
    });
    margay.check_sums();
    // Out of the VRF at run time.
    net.r.sh("ip link set up0.100 nomaster");
    wait_for("the port is in no VRF", LIMIT, || {
        let port = margay.find_port("up0.100")?;
        port["vrf"].is_null().then_some(())
    });
    assert_eq!(margay.terminate(), 0);
}
