//! Frames that are larger than usual, and UMEM frames that are smaller.

use tests::{LIMIT, Margay, guest, wait_for};

use crate::common::{Router, expected, ports, router, router_with};

/// Sets the MTU of the hosts and of the ports.
fn set_mtu(router: &Router, mtu: u32) {
    for (host, device) in [
        (&router.net.u, "r0"),
        (&router.net.v, "r0"),
        (&router.net.r, "up0"),
        (&router.net.r, "up1"),
    ] {
        host.sh(&format!("ip link set {device} mtu {mtu}"));
    }
}

/// As large as one UMEM frame holds, the port forwards.
fn largest(kind: &str, mode: &str) {
    let Some(router) = router(&format!("largest-{kind}"), kind, mode) else {
        return;
    };
    set_mtu(&router, 3_818);
    router.forwards();
    // As much as IPv6 carries, every length down from there.
    router.conserves(1_000, 3_818 - 48);
    router.finish();
}

/// Whether the kernel spreads packets over several UMEM frames.
fn has_parts() -> bool {
    guest::kernel() >= (6, 6)
}

/// Waits until both ports are refused for their MTU, with a reason that holds these words.
#[track_caller]
fn refused(router: &Router, words: &[&str]) {
    wait_for("the ports are refused with the reason", LIMIT, || {
        let shown = router.margay.json("port show").to_string();
        let told = shown.matches("MTU of 9000").count() == 2
            && shown.contains("ip link set up0 mtu 3818")
            && words.iter().all(|word| shown.contains(word));
        if told { Ok(()) } else { Err(shown) }
    });
    // The node itself goes on, with large packets too. Linux 6.1's virtio_net was seen to lose these when the MTU had grown while
    // an XDP program was on the device.
    if has_parts() {
        router.net.u.sh("ping -n -c 2 -W 5 -s 8000 10.0.0.1");
    } else {
        router.net.u.reaches("10.0.0.1");
    }
}

/// An MTU of 9,000 bytes while margayd runs: zero-copy gives way to copying where the driver has one frame for a packet, and
/// comes back with the smaller MTU. Where the kernel has no packets in several frames, ports wait, and say why.
fn nine_thousand(kind: &str) {
    let Some(router) = router(&format!("jumbo-{kind}"), kind, "auto") else {
        return;
    };
    let small = router.mode();
    set_mtu(&router, 9_000);
    if has_parts() {
        wait_for("the ports are opened anew", LIMIT, || {
            let ports = ["up0", "up1"].map(|name| router.margay.find_port(name));
            ports
                .into_iter()
                .flatten()
                .filter(|port| port["mtu"] == 9_000)
                .count()
                == 2
        });
        router.forwards();
        let large = router.mode();
        tests::lab::announce(&format!("{kind}: {small} with 1,500 bytes, {large} with 9,000"));
        assert_eq!(
            large,
            if small == "zerocopy" {
                "copy"
            } else {
                small.as_str()
            }
        );
        router.conserves(2_000, 9_000 - 48);
        router.margay.check_sums();
    } else {
        refused(&router, &["Linux 6.6"]);
    }
    set_mtu(&router, 1_500);
    router.forwards();
    assert_eq!(router.mode(), small, "as before");
    router.conserves(400, 1_400);
    router.finish();
}

/// A mode that cannot have such packets is not left for another one: the ports wait, and say why.
fn too_large(kind: &str, mode: &str, words: &[&str]) {
    let Some(router) = router(&format!("too-large-{kind}"), kind, mode) else {
        return;
    };
    set_mtu(&router, 9_000);
    refused(&router, words);
    let doctor = router.margay.run("-j doctor up0").out;
    assert!(doctor.contains("ip link set dev up0 mtu 3818"), "{doctor}");
    assert_eq!(router.margay.terminate(), 0);
    router.margay.launch();
    refused(&router, words);
    set_mtu(&router, 1_500);
    router.forwards();
    assert_eq!(router.mode(), mode);
    router.finish();
}

#[test]
fn virtio_net_largest() {
    largest("virtio_net", "zerocopy");
}

#[test]
fn virtio_net_copy_largest() {
    largest("virtio_net_copy", "copy");
}

/// A router whose devices have a larger MTU before margayd starts.
fn from_the_start(name: &str, kind: &str, mtu: u32) -> Option<Router> {
    let net = guest::wired(name, kind)?;
    for (host, device) in [(&net.u, "r0"), (&net.v, "r0"), (&net.r, "up0"), (&net.r, "up1")] {
        host.sh(&format!("ip link set {device} mtu {mtu}"));
    }
    let margay = Margay::prepare(&net.lab, &net.r, &ports("auto"), &[]);
    let router = Router { net, margay };
    router.launch();
    Some(router)
}

/// igb itself takes no larger MTU while it has an XDP program; with a large MTU from the start it takes no program, and the
/// port is in generic mode. Neither is a reason to lose anything.
#[test]
fn igb_largest() {
    let Some(router) = from_the_start("largest-igb", "igb", 3_818) else {
        return;
    };
    tests::lab::announce(&format!("igb with an MTU of 3,818: {}", router.mode()));
    router.conserves(1_000, 3_818 - 48);
    router.finish();
}

#[test]
fn virtio_net_nine_thousand() {
    nine_thousand("virtio_net");
}

#[test]
fn virtio_net_copy_nine_thousand() {
    nine_thousand("virtio_net_copy");
}

#[test]
fn e1000e_nine_thousand() {
    nine_thousand("e1000e");
}

/// igb takes no program with such an MTU: the port is in generic mode.
#[test]
fn igb_nine_thousand() {
    let Some(router) = from_the_start("jumbo-igb", "igb", 9_000) else {
        return;
    };
    assert_eq!(router.mode(), "generic");
    router.conserves(1_000, 9_000 - 48);
    router.finish();
}

#[test]
fn virtio_net_too_large() {
    if expected("virtio_net") == "zerocopy" {
        let why = "virtio_net has one frame of 3840 bytes for a packet in zero-copy mode";
        too_large("virtio_net", "zerocopy", &[why]);
    }
}

/// UMEM frames of 2,048 bytes hold packets of 1,500; igb would receive into 1,024 of them by zero-copy, and is copied from.
fn small_frames(kind: &str, mode: &str) {
    let config = ports("auto").replace("frames = 16384", "frames = 16384\nframe_size = 2048");
    let Some(router) = router_with(&format!("small-{kind}"), kind, &config, &[]) else {
        return;
    };
    assert_eq!(router.mode(), mode);
    router.conserves(2_000, 1_452);
    router.finish();
}

#[test]
fn virtio_net_small_frames() {
    small_frames("virtio_net", "zerocopy");
}

#[test]
fn igb_small_frames() {
    small_frames("igb", "copy");
}

/// A port named in the configuration whose MTU is too large does not keep margayd from starting; it waits.
#[test]
fn named_and_too_large() {
    let Some(net) = guest::wired("named-jumbo", "virtio_net") else {
        return;
    };
    net.r.sh("ip link set up0 mtu 9000");
    let margay = Margay::prepare(&net.lab, &net.r, &crate::common::named("zerocopy"), &[]);
    margay.launch();
    wait_for("the port is refused with the reason", LIMIT, || {
        let done = margay.run("-j port show");
        done.out.contains("MTU of 9000")
    });
    assert_eq!(margay.terminate(), 0);
}
