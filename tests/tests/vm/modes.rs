//! Each mode on each driver: what the configuration asks for is obtained or refused with the reason, and traffic in it is conserved.

use tests::Margay;
use tests::guest;

use crate::common::{expected, named, router};

/// Datagrams a mode must carry without losing, damaging or overtaking one.
const MANY: u64 = 200_000;

/// Frames are conserved in a mode that the driver has.
fn conserved(kind: &str, mode: &str, count: u64) {
    let Some(router) = router(&format!("{mode}-{kind}"), kind, mode) else {
        return;
    };
    assert_eq!(router.mode(), mode, "port show tells what was asked for");
    router.conserves(count, 1_400);
    for reason in ["tx_ring_full", "rx_no_frame", "rx_ring_full"] {
        assert_eq!(router.margay.drops(reason), 0, "{reason}");
    }
    let status = router.margay.json("status");
    assert_eq!(status["frames"]["total"], 16_384, "{status}");
    router.finish();
}

/// A mode that the driver does not have ends margayd with an error that names the port, the mode and another one.
fn refused(kind: &str, mode: &str, words: &[&str]) {
    let Some(net) = guest::wired(&format!("{mode}-{kind}"), kind) else {
        return;
    };
    // A port that a pattern names is tried again and again; one that is named itself is missed.
    let margay = Margay::prepare(&net.lab, &net.r, &named(mode), &[]);
    let process = margay.launch();
    let code = tests::wait_for("margayd ends", tests::LIMIT, || process.exited());
    let log = process.log();
    assert_ne!(code, 0, "{log}");
    for word in words {
        assert!(log.contains(word), "{word} is missing in: {log}");
    }
    let links = net.r.sh("ip link");
    assert!(!links.contains("xdp"), "nothing is left: {links}");
}

#[test]
fn virtio_net_zerocopy() {
    if expected("virtio_net") == "zerocopy" {
        conserved("virtio_net", "zerocopy", MANY);
    } else {
        refused("virtio_net", "zerocopy", &["up0", "zerocopy", "mode = \"auto\""]);
    }
}

#[test]
fn igb_zerocopy() {
    if expected("igb") == "zerocopy" {
        conserved("igb", "zerocopy", MANY);
    } else {
        refused("igb", "zerocopy", &["up0", "zerocopy", "mode = \"auto\""]);
    }
}

#[test]
fn igb_copy() {
    conserved("igb", "copy", MANY / 20);
}

#[test]
fn igb_generic() {
    conserved("igb", "generic", MANY / 20);
}

#[test]
fn virtio_net_copy() {
    conserved("virtio_net_copy", "copy", MANY / 20);
}

#[test]
fn virtio_net_generic() {
    conserved("virtio_net_copy", "generic", MANY / 20);
}

#[test]
fn e1000e_generic() {
    conserved("e1000e", "generic", MANY / 20);
}

#[test]
fn virtio_net_without_zerocopy() {
    refused(
        "virtio_net_copy",
        "zerocopy",
        &["up0", "zerocopy", "mode = \"auto\""],
    );
}

#[test]
fn e1000e_without_xdp() {
    refused("e1000e", "zerocopy", &["up0", "zerocopy", "mode = \"generic\""]);
}

#[test]
fn e1000e_without_copy() {
    refused("e1000e", "copy", &["up0", "copy", "mode = \"generic\""]);
}
