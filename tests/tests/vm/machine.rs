//! A virtual machine behind a tap port, with Linux's virtio_net in it: its frames come with partial checksums and, when it may
//! send them, in large segments. The node is this machine, the guest is the workload; the lab runs outside of the other guest.
//!
//! ```text
//!   machine 10.2.0.2 fd02::2 ── tap0 10.2.0.1 fd02::1  r (margayd)  up0 ── r0 10.0.0.2 fd00::2 u
//! ```

use std::sync::Arc;

use tests::host::Program;
use tests::lab::{announce, skip};
use tests::{LIMIT, Lab, Margay, wait_for};

/// A program that boots a guest, and what its script begins with: `xtask/src/vm` makes both.
const LAUNCH: &str = "MARGAY_VM_LAUNCH";
const PRELUDE: &str = "MARGAY_VM_PRELUDE";

/// What the machine does. Each line of its console that begins with `machine:` is a result.
const SCRIPT: &str = r#"
tell() { echo "machine: $*"; }
try() { name=$1; shift; if "$@" >/tmp/said 2>&1; then tell "$name works"; else tail -n 3 /tmp/said; tell "$name fails"; fi; }
for device in /sys/class/net/*/device; do device=${device%/device}; device=${device##*/}; done
ip link set "$device" up
ip addr add 10.2.0.2/24 dev "$device"; ip -6 addr add fd02::2/64 dev "$device" nodad
ip route add default via 10.2.0.1; ip -6 route add default via fd02::1
ethtool -k "$device" | grep -E '^(tx-checksumming|tcp-segmentation-offload):' | tr '\n' ' '; echo
for count in 1 2 3 4 5 6 7 8 9 10; do ping -n -c 1 -W 5 10.0.0.2 >/dev/null && break; done
try ping4 ping -n -c 3 -W 5 10.0.0.2
try ping6 ping -n -c 3 -W 5 fd00::2
try segments timeout 20 iperf3 -c 10.0.0.2 -n 500K
ethtool -K "$device" tso off
sleep 1
try tcp4 iperf3 -c 10.0.0.2 -n 1M
try tcp6 iperf3 -6 -c fd00::2 -n 1M
try back iperf3 -c 10.0.0.2 -n 1M -R
try udp iperf3 -u -c 10.0.0.2 -b 1M -n 200K
tell ended
power_off
"#;

/// Waits until the machine has told the result of a step.
#[track_caller]
fn told(machine: &Arc<Program>, what: &str) -> bool {
    wait_for(&format!("the machine tells of {what}"), LIMIT * 5, || {
        let log = machine.log();
        let ends = |end: &str| log.contains(&format!("machine: {what} {end}"));
        if ends("works") {
            Ok(true)
        } else if ends("fails") {
            Ok(false)
        } else {
            Err(machine.log_tail(20))
        }
    })
}

#[test]
fn behind_a_tap() {
    let (Some(launch), Some(prelude)) = (std::env::var_os(LAUNCH), std::env::var_os(PRELUDE)) else {
        return skip(
            "machine",
            "made for cargo xtask test --vm, which gives it a machine to boot",
        );
    };
    let Some(lab) = Lab::new("machine") else { return };
    let (r, u) = (lab.host("r"), lab.host("u"));
    lab.veth(&r, "up0", &u, "r0");
    r.sh(
        "ip addr add 10.0.0.1/24 dev up0; ip -6 addr add fd00::1/64 dev up0 nodad
          ip tuntap add tap0 mode tap vnet_hdr; ip link set tap0 up
          ip addr add 10.2.0.1/24 dev tap0; ip -6 addr add fd02::1/64 dev tap0 nodad",
    );
    u.sh(
        "ip addr add 10.0.0.2/24 dev r0; ip -6 addr add fd00::2/64 dev r0 nodad
          ip route add default via 10.0.0.1; ip -6 route add default via fd00::1",
    );
    let config = format!(
        "{}[[port]]\nname = \"up0\"\nrole = \"uplink\"\nfix_checksums = \"auto\"\n\
         [[port]]\nname = \"tap0\"\nrole = \"workload\"\n",
        crate::common::RUNTIME
    );
    let server = u.spawn("iperf3", "iperf3 -s");
    wait_for("iperf3 listens", LIMIT, || u.sh("ss -Hltn").contains(":5201 "));

    let script = lab.directory().join("machine.sh");
    let prelude = std::fs::read_to_string(prelude).expect("xtask has written it");
    std::fs::write(&script, format!("{prelude}{SCRIPT}")).expect("the lab's directory can be written");
    let mut command = r.command("sh");
    command.arg(launch).arg(&script).args([
        "-netdev",
        "tap,id=wire,ifname=tap0,script=no,downscript=no,vhost=off",
        "-device",
        "virtio-net-pci,netdev=wire,romfile=,mac=52:54:00:00:00:02",
    ]);
    let machine = r.start("machine", command);
    let margay = Margay::start(&lab, &r, &config);
    for port in ["up0", "tap0"] {
        margay.has_port(port);
    }
    announce(&format!(
        "tap0: {}",
        margay.find_port("tap0").expect("just seen")["mode"]
    ));
    let doctor = margay.run("-j doctor tap0").out;
    assert!(
        doctor.contains("segments") && doctor.contains("host_tso4=off"),
        "{doctor}"
    );

    for step in ["ping4", "ping6"] {
        assert!(told(&machine, step), "{}", machine.log_tail(40));
    }
    // Large segments are larger than any MTU: they are lost, and what gets through is what TCP sends again in small ones. How
    // far it comes is told here; that doctor's cure helps is what must hold.
    announce(&format!(
        "TCP with large segments gets through: {}",
        told(&machine, "segments")
    ));
    for step in ["tcp4", "tcp6", "back", "udp"] {
        assert!(told(&machine, step), "{step}: {}", machine.log_tail(40));
    }
    assert!(
        machine.log().contains("tx-checksumming: on"),
        "the machine leaves checksums to its card: {}",
        machine.log_tail(60)
    );
    wait_for("the machine ends", LIMIT, || machine.exited());
    server.end();
    // Its frames came by the tap and not through the kernel.
    assert!(
        margay.port("tap0", "forwarded") > 500,
        "{}",
        margay.json("port show")
    );
    margay.check_sums();
    assert_eq!(margay.terminate(), 0);
}
