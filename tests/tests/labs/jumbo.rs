//! Packets larger than a UMEM frame: spread over several frames by the kernel and forwarded so, without a byte copied.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a  r (margayd) up0 ── r0 u 203.0.113.1      MTU 9,000 everywhere
//! ```

use std::time::Duration;

use tests::traffic::Stream;
use tests::transfer::{Arrived, transfer};
use tests::{Host, LIMIT, Margay, wait_for};

use crate::common::{Node, PORTS, node};

/// Largest payload of UDP over IPv6 with an MTU of 9,000 bytes.
const LARGEST: usize = 9000 - 48;

fn set_mtu(net: &Node, a: &Host, mtu: u32) {
    for (host, device) in [(&net.u, "r0"), (&net.r, "up0"), (&net.r, "cali-a"), (a, "eth0")] {
        host.sh(&format!("ip link set {device} mtu {mtu}"));
    }
}

/// Datagrams of all lengths, both ways and in both families.
#[track_caller]
fn conserves(net: &Node, a: &Host, count: u64) {
    for (from, to, address) in [
        (a, &net.u, "203.0.113.1"),
        (a, &net.u, "2001:db8:113::1"),
        (&net.u, a, "10.65.0.2"),
        (&net.u, a, "fd65::2"),
    ] {
        let arrived = transfer(from, to, address.parse().expect("an address"), count, 8, LARGEST);
        let all = Arrived {
            intact: count,
            ..Arrived::default()
        };
        assert_eq!(arrived, all, "to {address}");
    }
}

fn shown(margay: &Margay, port: &str) -> serde_json::Value {
    margay.find_port(port).expect("the port is open")
}

/// In frames of 4,096 and of 2,048 bytes, with one worker and with two: every length up to 9,000 bytes arrives as it was sent,
/// large packets of a local stack get their checksums, and frames are conserved.
fn lab(name: &str, runtime: &str, mode: &str) {
    if !has_parts() {
        return;
    }
    let Some(net) = node(name) else { return };
    let a = net.container("a", 2);
    set_mtu(&net, &a, 9000);
    if mode == "generic" {
        // The kernel leaves large segments alone, which are larger than any MTU, where the program is not native.
        for (host, device) in [(&a, "eth0"), (&net.u, "r0")] {
            host.sh(&format!("ethtool -K {device} tso off gso off"));
        }
    }
    let ports = PORTS.replace("role =", &format!("mode = \"{mode}\"\nrole ="));
    let margay = Margay::start(
        &net.lab,
        &net.r,
        &format!("[runtime]\nprofile = \"adaptive\"\nframes = 16384\nstall_after = \"5s\"\n{runtime}{ports}"),
    );
    for port in ["up0", "cali-a"] {
        margay.has_port(port);
        assert_eq!(shown(&margay, port)["mode"], mode);
        assert!(shown(&margay, port)["largest_mtu"].as_u64() >= Some(9000));
    }
    a.sh("ping -n -c 2 -W 5 -M do -s 8972 203.0.113.1");
    conserves(&net, &a, 1_500);
    for reason in ["rx_no_frame", "rx_ring_full"] {
        assert_eq!(margay.drops(reason), 0, "{reason}");
    }
    // Partial checksums over several frames: TCP segments as large as the MTU.
    let server = net.u.spawn("iperf3", "iperf3 -s -1");
    wait_for("iperf3 listens", LIMIT, || {
        net.u.sh("ss -Hltn").contains(":5201 ")
    });
    a.sh("iperf3 -c 203.0.113.1 -n 20M -M 8948");
    wait_for("the iperf3 server ends", LIMIT, || server.exited());
    // What does not fit the next link is answered from its start.
    net.r.sh("ip link set up0 mtu 1500");
    wait_for("9,000 bytes are too many", LIMIT, || {
        let out = a.try_sh("ping -n -c 1 -W 5 -M do -s 8972 203.0.113.1").out;
        a.sh("ip route flush cache");
        if out.contains("mtu = 1500") {
            Ok(())
        } else {
            Err(out)
        }
    });
    net.r.sh("ip link set up0 mtu 9000");
    wait_for("9,000 bytes pass again", LIMIT, || {
        a.sh("ip route flush cache");
        a.try_sh("ping -n -c 1 -W 5 -M do -s 8972 203.0.113.1").code == 0
    });
    // What TCP sent faster than a busy machine took it was sent again.
    for reason in ["oversize", "truncated"] {
        assert_eq!(margay.drops(reason), 0, "{reason}");
    }
    margay.check_sums();
    assert_eq!(margay.terminate(), 0);
}

/// Kernels before 6.6 have no packets in several frames.
fn has_parts() -> bool {
    tests::guest::kernel() >= (6, 6)
}

#[test]
fn large_frames() {
    lab("jumbo", "workers = [0]\n", "copy");
}

#[test]
fn small_frames_and_two_workers() {
    lab("jumbo2", "workers = [0, 1]\nframe_size = 2048\n", "copy");
}

#[test]
fn in_generic_mode() {
    lab("jumbo-generic", "workers = [0]\n", "generic");
}

/// The MTU of open ports goes up and down under traffic: what is too large for how a port is bound has it opened again, and
/// nothing is reordered, damaged or stuck.
#[test]
fn mtu_goes_up_and_down() {
    let Some(net) = node("jumbo-change") else { return };
    if !has_parts() {
        return;
    }
    let a = net.container("a", 2);
    let margay = Margay::start(
        &net.lab,
        &net.r,
        &format!(
            "[runtime]\nprofile = \"adaptive\"\nworkers = [0]\nframes = 16384\nstall_after = \"5s\"\n{PORTS}"
        ),
    );
    let to = "203.0.113.1".parse().expect("an address");
    a.reaches("203.0.113.1");
    let stream = Stream::start(&a, &net.u, to, 4, Duration::from_millis(5));
    stream.flows_on(50);
    for (mtu, passes) in [
        (9000, true),
        (1500, false),
        (3818, false),
        (3819, false),
        (9000, true),
    ] {
        set_mtu(&net, &a, mtu);
        wait_for("the ports have the MTU", LIMIT, || {
            ["up0", "cali-a"].into_iter().all(|port| {
                let port = margay.find_port(port);
                port.is_some_and(|port| port["mtu"] == mtu)
            })
        });
        let large = || a.try_sh("ping -n -c 1 -W 5 -M do -s 8972 203.0.113.1").code == 0;
        wait_for("large packets pass, or do not", LIMIT, || large() == passes);
        stream.flows_on(50);
    }
    let tally = stream.stop();
    assert_eq!(tally.reordered, 0, "{tally:?}");
    conserves(&net, &a, 500);
    margay.check_sums();
    assert_eq!(margay.terminate(), 0);
}

/// A port with a larger MTU than it can have is not opened, says why, and is when the MTU has come down.
#[test]
fn more_than_a_packet_may_have() {
    let Some(net) = node("jumbo-refused") else { return };
    let a = net.container("a", 2);
    let margay = Margay::start(
        &net.lab,
        &net.r,
        &format!(
            "[runtime]\nprofile = \"adaptive\"\nworkers = [0]\nframes = 8192\nframe_size = 2048\n{PORTS}"
        ),
    );
    margay.has_port("up0");
    net.r.sh("ip link set up0 mtu 60000");
    let why = wait_for("the port is refused with the reason", LIMIT, || {
        let answer = margay.json("port show");
        let waiting = tests::margay::list(&answer, "waiting");
        let message = waiting
            .iter()
            .find(|port| port["name"] == "up0")
            .map(|port| port["message"].to_string());
        message.ok_or_else(|| answer.to_string())
    });
    let largest = shown(&margay, "cali-a")["largest_mtu"].clone();
    assert!(
        why.contains("MTU of 60000") && why.contains(&format!("ip link set up0 mtu {largest}")),
        "{why}"
    );
    let doctor = margay.run("-j doctor up0").out;
    assert!(
        doctor.contains(&format!("ip link set dev up0 mtu {largest}")),
        "{doctor}"
    );
    net.r.sh(&format!("ip link set up0 mtu {largest}"));
    margay.has_port("up0");
    a.reaches("203.0.113.1");
    margay.check_sums();
    assert_eq!(margay.terminate(), 0);
}
