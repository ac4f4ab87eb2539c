//! Tables by policy rules: which are followed, for which device, and whose own an address is in each.

use std::time::Duration;

use classifier::lpm::IpPrefix;
use control::mirror::MirrorConfig;
use forwarder::fib::VrfId;

use crate::lab::{Lab, inside, sh};

/// Runs a line, lets the mirror follow, and compares with the kernel.
async fn step(lab: &mut Lab, line: &str) {
    sh(line);
    lab.pump(Duration::from_millis(25)).await;
    lab.agree(line).await;
}

/// The VRF of a device.
fn vrf(lab: &Lab, name: &str) -> VrfId {
    let link = lab.mirror.link(name).expect("the device is there");
    lab.mirror.vrf_id(link.index)
}

/// The prefix and table by which packets from a device go, as the data plane has it.
fn way(lab: &Lab, name: &str, address: &str) -> Option<(u32, String)> {
    let found = lab
        .plane
        .fib
        .lookup(vrf(lab, name), address.parse().expect("address"))?;
    Some((found.0, found.1.to_string()))
}

fn is_own(lab: &Lab, name: &str, prefix: &str) -> bool {
    let prefix: IpPrefix = prefix.parse().expect("prefix");
    lab.plane.local.contains(&(vrf(lab, name), prefix))
}

#[test]
fn rules_give_devices_tables() {
    inside("vrf::rules_give_devices_tables", |_| async {
        let mut lab = Lab::start(MirrorConfig::default()).await;
        step(
            &mut lab,
            "ip route add 10.9.0.0/16 via 10.0.0.2; ip route add 10.9.0.0/16 via 10.0.1.2 table 100
             ip -6 route add 2001:db8:9::/48 via 2001:db8:b::2 table 100; ip route add 10.8.0.0/16 via 10.0.1.2 table 101",
        )
        .await;
        assert_eq!(way(&lab, "v0", "10.9.0.1"), Some((254, "10.9.0.0/16".into())));
        assert_eq!(vrf(&lab, "v0"), VrfId::DEFAULT);
        // Routes that were there before the rule are read, those that come after it are followed.
        step(&mut lab, "ip rule add iif v0 lookup 100 pref 500").await;
        lab.until("the table has been read", |lab| {
            way(lab, "v0", "10.9.0.1") == Some((100, "10.9.0.0/16".into()))
        })
        .await;
        assert_ne!(vrf(&lab, "v0"), VrfId::DEFAULT);
        assert_eq!(way(&lab, "v1", "10.9.0.1"), Some((254, "10.9.0.0/16".into())));
        assert_eq!(
            way(&lab, "v0", "10.0.0.9"),
            None,
            "the main table is not looked up"
        );
        assert_eq!(way(&lab, "v0", "2001:db8:9::1"), None, "the rule is one for IPv4");
        step(
            &mut lab,
            "ip -6 rule add iif v0 lookup 100 pref 500; ip route add 10.7.0.0/16 via 10.0.1.2 table 100",
        )
        .await;
        lab.until("IPv6 follows", |lab| way(lab, "v0", "2001:db8:9::1").is_some())
            .await;
        assert_eq!(way(&lab, "v0", "10.7.0.1"), Some((100, "10.7.0.0/16".into())));
        // Rules in their order, and a route that throws.
        step(
            &mut lab,
            "ip rule add iif v0 lookup 101 pref 400; ip route add throw 10.9.0.0/16 table 101",
        )
        .await;
        lab.until("both tables are looked up", |lab| {
            way(lab, "v0", "10.8.0.1") == Some((101, "10.8.0.0/16".into()))
        })
        .await;
        assert_eq!(way(&lab, "v0", "10.9.0.1"), Some((100, "10.9.0.0/16".into())));
        lab.agree("a route that throws").await;
        // Whose own the addresses of devices are.
        step(
            &mut lab,
            "ip rule add iif v1 lookup 102 pref 500; ip -6 rule add iif v1 lookup 102 pref 500; ip addr add 10.13.0.1/32 dev lo",
        )
        .await;
        assert!(is_own(&lab, "v0", "10.0.0.1/32") && !is_own(&lab, "v1", "10.0.0.1/32"));
        assert!(is_own(&lab, "v1", "10.0.1.1/32") && !is_own(&lab, "v0", "10.0.1.1/32"));
        assert!(!is_own(&lab, "v2", "10.0.0.1/32"), "v2 is in neither plan");
        for name in ["v0", "v1", "v2"] {
            assert!(
                is_own(&lab, name, "10.13.0.1/32"),
                "the loopback device's: {name}"
            );
        }
        assert!(is_own(&lab, "v0", "2001:db8:a::1/128") && !is_own(&lab, "v1", "2001:db8:a::1/128"));
        // The same address on another device: the node's in both.
        step(&mut lab, "ip addr add 10.0.0.1/32 dev v1").await;
        assert!(is_own(&lab, "v0", "10.0.0.1/32") && is_own(&lab, "v1", "10.0.0.1/32"));
        step(&mut lab, "ip addr del 10.0.0.1/32 dev v1").await;
        assert!(!is_own(&lab, "v1", "10.0.0.1/32"));
        // Rules that ask for more are not followed; a device that is renamed is another one.
        step(&mut lab, "ip rule add iif v2 from 10.0.0.0/8 lookup 100; ip rule add iif v2 fwmark 1 lookup 100; ip rule add not iif v2 lookup 100").await;
        assert_eq!(vrf(&lab, "v2"), VrfId::DEFAULT);
        step(&mut lab, "ip link set v2 down; ip link set v2 name v9; ip rule add iif v9 lookup 100; ip -6 rule add iif v9 lookup 100; ip link set v9 up").await;
        lab.until("the rule is followed", |lab| way(lab, "v9", "10.7.0.1").is_some())
            .await;
        // What nobody uses any more is forgotten.
        step(
            &mut lab,
            "for f in -4 -6; do ip $f rule flush; ip $f rule add lookup main pref 32766; done; ip rule add lookup local pref 0 || :",
        )
        .await;
        lab.until("all are in the default VRF again", |lab| {
            ["v0", "v1", "v9"]
                .iter()
                .all(|name| vrf(lab, name) == VrfId::DEFAULT)
        })
        .await;
        assert_eq!(lab.plane.fib.len(100) + lab.plane.fib.len(101), 0);
        assert_eq!(lab.mirror.followed().iter().copied().collect::<Vec<_>>(), [254]);
        assert!(is_own(&lab, "v1", "10.0.0.1/32"));
        assert_eq!(lab.mirror.stats().bad_messages, 0);
    });
}
