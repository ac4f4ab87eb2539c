//! Frames that are larger than usual, and UMEM frames that are smaller.

use tests::{LIMIT, Margay, guest, wait_for};

use crate::common::{Router, ports, router, router_with};

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

/// A port with a larger MTU is not opened, with the reason and the cure; one that is open when its MTU grows is closed, and
/// the kernel has it. Back below, it is a port again.
fn too_large(kind: &str, mode: &str) {
    let Some(router) = router(&format!("jumbo-{kind}"), kind, mode) else {
        return;
    };
    set_mtu(&router, 9_000);
    let refused = || {
        wait_for("the ports are refused with the reason", LIMIT, || {
            let shown = router.margay.json("port show").to_string();
            let told =
                shown.matches("MTU of 9000").count() == 2 && shown.contains("ip link set up0 mtu 3818");
            if told { Ok(()) } else { Err(shown) }
        });
    };
    refused();
    // The node itself goes on, with large packets too.
    router.net.u.sh("ping -n -c 2 -W 5 -s 8000 10.0.0.1");
    assert_eq!(router.margay.terminate(), 0);
    router.margay.launch();
    refused();
    set_mtu(&router, 1_500);
    router.forwards();
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

/// igb itself takes no larger MTU while it has an XDP program; with a large MTU from the start it takes no program, and the
/// port is in generic mode. Neither is a reason to lose anything.
#[test]
fn igb_largest() {
    let Some(net) = guest::wired("largest-igb", "igb") else {
        return;
    };
    for (host, device) in [(&net.u, "r0"), (&net.v, "r0"), (&net.r, "up0"), (&net.r, "up1")] {
        host.sh(&format!("ip link set {device} mtu 3818"));
    }
    let margay = Margay::prepare(&net.lab, &net.r, &ports("auto"), &[]);
    let router = Router { net, margay };
    router.launch();
    tests::lab::announce(&format!("igb with an MTU of 3,818: {}", router.mode()));
    router.conserves(1_000, 3_818 - 48);
    router.finish();
}

#[test]
fn virtio_net_too_large() {
    too_large("virtio_net", "auto");
}

#[test]
fn e1000e_too_large() {
    too_large("e1000e", "auto");
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
    let Some(net) = guest::wired("named-jumbo", "e1000e") else {
        return;
    };
    net.r.sh("ip link set up0 mtu 9000");
    let margay = Margay::prepare(&net.lab, &net.r, &crate::common::named("auto"), &[]);
    margay.launch();
    wait_for("the port is refused with the reason", LIMIT, || {
        let done = margay.run("-j port show");
        done.out.contains("MTU of 9000")
    });
    assert_eq!(margay.terminate(), 0);
}
