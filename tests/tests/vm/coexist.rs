//! Others at the same device: another XDP program, libxdp's dispatcher, and drivers that cannot take the program as they are.

use std::path::Path;

use tests::guest;
use tests::{Host, LIMIT, Lab, Link, Margay, wait_for};

use crate::common::{RUNTIME, named, ports};

/// margayd, started on a device that has another program, says so and names the cure; with that done it starts.
fn occupied(name: &str, occupy: &str, cure: &str) {
    let Some(net) = guest::wired(name, "virtio_net") else {
        return;
    };
    net.r.sh(occupy);
    let margay = Margay::prepare(&net.lab, &net.r, &named("auto"), &[]);
    let process = margay.launch();
    let code = wait_for("margayd ends", LIMIT, || process.exited());
    let log = process.log();
    assert_ne!(code, 0, "{log}");
    assert!(
        log.contains("up0")
            && log.contains("another XDP program")
            && log.contains("ip link set dev up0 xdp off"),
        "{log}"
    );
    // What was there stays there.
    assert!(net.r.sh("ip link show up0").contains("xdp"));
    // A port that a pattern names is taken up as soon as the other program has gone.
    margay.write_config(&ports("auto"));
    margay.launch();
    margay.ready();
    margay.has_port("up1");
    assert!(margay.find_port("up0").is_none(), "{}", margay.json("port show"));
    let shown = margay.json("port show").to_string();
    assert!(shown.contains("another XDP program"), "{shown}");
    net.r.sh(cure);
    margay.has_port("up0");
    net.u.reaches("10.1.0.2");
    assert_eq!(margay.terminate(), 0);
}

/// Where QEMU's tools are unpacked, xdp-tools among them.
fn tools() -> String {
    std::env::var("MARGAY_VM_TOOLS").expect("the guest's script says where its tools are")
}

/// Where the BPF objects of libxdp are: unpacked with the tools, unless the host had the library already.
fn objects() -> String {
    let folders = [tools(), String::new()].map(|root| format!("{root}/usr/lib/x86_64-linux-gnu/bpf"));
    let found = folders
        .iter()
        .find(|folder| Path::new(folder).join("xdpfilt_alw_all.o").exists());
    found.expect("libxdp's objects are somewhere").clone()
}

/// A program attached as iproute2 does it: not through the dispatcher.
fn program() -> String {
    format!("{}/xsk_def_xdp_prog_5.3.o", objects())
}

#[test]
fn native_program() {
    let attach = format!("ip link set dev up0 xdpdrv object {} section xdp", program());
    occupied("native", &attach, "ip link set dev up0 xdpdrv off");
}

#[test]
fn generic_program() {
    let attach = format!("ip link set dev up0 xdpgeneric object {} section xdp", program());
    occupied("generic", &attach, "ip link set dev up0 xdpgeneric off");
}

/// A libxdp dispatcher (`xdp-filter`, `xdp-loader`) stays what it is until it is unloaded; margayd's program is not one
/// that a dispatcher can hold beside others.
#[test]
fn dispatcher() {
    let (at, objects) = (tools(), objects());
    let xdp = format!(
        "export LD_LIBRARY_PATH={at}/usr/lib/x86_64-linux-gnu LIBXDP_OBJECT_PATH={objects}
         mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf; {at}/usr/sbin/xdp-loader"
    );
    occupied(
        "dispatcher",
        &format!("{xdp} load -m native up0 {objects}/xdpfilt_alw_all.o"),
        &format!("{xdp} unload up0 --all"),
    );
}

/// A veth whose peer has more TX queues than it has RX queues takes no native program: `auto` obtains generic mode, `copy` is
/// refused with the reason.
#[test]
fn fewer_queues_than_the_peer() {
    let Some(lab) = guest::lab("queues") else { return };
    let (r, u, v) = (lab.host("r"), lab.host("u"), lab.host("v"));
    lab.veth_with(
        &r,
        "up0",
        &u,
        "r0",
        Link {
            near: (1, 1),
            far: (1, 2),
        },
    );
    lab.veth(&r, "up1", &v, "r0");
    addresses(&r, &u, &v);
    let margay = Margay::start(&lab, &r, &format!("{}fix_checksums = \"auto\"\n", ports("auto")));
    margay.has_port("up0");
    assert_eq!(margay.find_port("up0").expect("just seen")["mode"], "generic");
    assert_eq!(
        margay.find_port("up1").expect("it was opened too")["mode"],
        "copy"
    );
    u.reaches("10.1.0.2");
    margay.check_sums();
    assert_eq!(margay.terminate(), 0);
    refuses(&lab, &r, "copy", &["up0", "copy", "mode = \"generic\""]);
}

fn addresses(r: &Host, u: &Host, v: &Host) {
    r.sh("ip addr add 10.0.0.1/24 dev up0; ip addr add 10.1.0.1/24 dev up1");
    u.sh("ip addr add 10.0.0.2/24 dev r0; ip route add default via 10.0.0.1");
    v.sh("ip addr add 10.1.0.2/24 dev r0; ip route add default via 10.1.0.1");
}

/// margayd ends with an error that holds these words.
#[track_caller]
pub fn refuses(lab: &std::sync::Arc<Lab>, r: &Host, mode: &str, words: &[&str]) {
    let margay = Margay::prepare(lab, r, &named(mode), &[]);
    let process = margay.launch();
    let code = wait_for("margayd ends", LIMIT, || process.exited());
    let log = process.log();
    assert_ne!(code, 0, "{log}");
    for word in words {
        assert!(log.contains(word), "{word} is missing in: {log}");
    }
}

/// RX queues that are bound to somebody's socket are told of by name.
#[test]
fn second_daemon() {
    let Some(net) = guest::wired("second", "igb") else {
        return;
    };
    let first = Margay::start(&net.lab, &net.r, &ports("auto"));
    first.has_port("up0");
    let config = net.lab.directory().join("second.toml");
    let socket = net.lab.directory().join("second.sock");
    std::fs::write(
        &config,
        format!(
            "version = 1\n{RUNTIME}[control]\nsocket = \"{}\"\n[[port]]\nname = \"up0\"\nrole = \"uplink\"\n",
            socket.display()
        ),
    )
    .expect("the lab's directory can be written");
    let mut command = net.r.command(tests::margay::program("margayd"));
    command.arg("--config").arg(&config);
    let second = net.r.start("second", command);
    let code = wait_for("the second margayd ends", LIMIT, || second.exited());
    assert_ne!(code, 0);
    let log = second.log();
    assert!(log.contains("another XDP program"), "{log}");
    net.u.reaches("10.1.0.2");
    first.check_sums();
}
