//! A bond, a bridge and a macvlan as ports: generic mode, and what `doctor` says of each.
//!
//! ```text
//!   u 10.0.0.2 ══ up0 ─ bond0 10.0.0.1   r   10.1.0.1 br0 or mac0 ─ up1 ══ 10.1.0.2 v
//! ```

use tests::margay::list;
use tests::{Margay, guest};

use crate::common::RUNTIME;

#[test]
fn bond_bridge_and_macvlan() {
    let Some(net) = guest::wired("stacked", "virtio_net_copy") else {
        return;
    };
    net.r.sh("ip addr flush dev up0; ip addr flush dev up1; ip link set up0 down
              ip link add bond0 type bond mode active-backup miimon 100; ip link set up0 master bond0; ip link set bond0 up
              ip addr add 10.0.0.1/24 dev bond0; ip -6 addr add fd00::1/64 dev bond0 nodad");
    for (port, make, remove) in [
        (
            "br0",
            "ip link add br0 type bridge; ip link set up1 master br0; ip link set br0 up",
            "ip link del br0",
        ),
        (
            "mac0",
            "ip link add link up1 name mac0 type macvlan mode bridge; ip link set mac0 up",
            "ip link del mac0",
        ),
    ] {
        net.r.sh(&format!(
            "{make}; ip addr add 10.1.0.1/24 dev {port}; ip -6 addr add fd01::1/64 dev {port} nodad"
        ));
        net.v.sh("ip neigh flush dev r0; ip -6 neigh flush dev r0");
        let table = |name: &str| {
            format!("[[port]]\nname = \"{name}\"\nrole = \"uplink\"\nfix_checksums = \"auto\"\n")
        };
        let config = format!("{RUNTIME}{}{}", table("bond0"), table(port));
        let margay = Margay::start(&net.lab, &net.r, &config);
        for name in ["bond0", port] {
            margay.has_port(name);
            let shown = margay.find_port(name).expect("just seen");
            assert_eq!(shown["mode"], "generic", "{shown}");
        }
        let before = margay.port("bond0", "forwarded");
        net.u.reaches("10.1.0.2");
        net.u.reaches("fd01::2");
        assert!(margay.port("bond0", "forwarded") >= before + 2);
        let checks = margay.run("-j doctor").out;
        let checks: serde_json::Value = serde_json::from_str(&checks).expect("doctor prints JSON");
        for name in ["bond0", port] {
            let mut lines = list(&checks, "checks").iter();
            let line = lines.find(|check| check["name"] == "kind" && check["port"] == name);
            assert!(
                line.is_some_and(|line| line["result"] == "warn"),
                "{name}: {checks}"
            );
        }
        margay.mirrors_kernel();
        margay.check_sums();
        assert_eq!(margay.terminate(), 0);
        net.r.sh(remove);
    }
}
