//! When margayd ends, dies or stalls: nothing is left in the kernel but the guard of closed ports; those forward nothing until they are
//! released, open ports go on through the kernel, and the node itself stays reachable.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a ┐                                  ┌ u 203.0.113.1
//!   (on_exit drop)        ├─ r (margayd, ip_forward=1) up0 ──┘
//!                         └─ up1 ── 10.1.0.1 ──── 10.1.0.2 v      (up0 and up1: on_exit kernel)
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tests::traffic::Stream;
use tests::{Host, LIMIT, Margay, sys, wait_for};

use crate::common::{Node, PORTS, node};

const RUNTIME: &str =
    "[runtime]\nprofile = \"adaptive\"\nworkers = [0]\nframes = 4096\nstall_after = \"100ms\"\n";

struct Net {
    node: Node,
    a: Host,
    v: Host,
    margay: Arc<Margay>,
}

fn build(name: &str) -> Option<Net> {
    let node = node(name)?;
    let v = node.lab.host("v");
    node.lab.veth(&node.r, "up1", &v, "v0");
    node.r.sh("ip addr add 10.1.0.1/24 dev up1");
    node.r.sysctl("net.ipv4.ip_forward", "1");
    v.sh("ip addr add 10.1.0.2/24 dev v0; ip route add default via 10.1.0.1");
    node.u.sh("ip route add 10.1.0.0/24 via 10.0.0.1");
    let a = node.container("a", 2);
    let margay = Margay::prepare(&node.lab, &node.r, &format!("{RUNTIME}{PORTS}"), &[]);
    Some(Net { node, a, v, margay })
}

impl Net {
    #[track_caller]
    fn launch(&self) {
        self.margay.launch();
        self.margay.ready();
        for port in ["up0", "up1", "cali-a"] {
            self.margay.has_port(port);
        }
        self.a.reaches("203.0.113.1");
        self.v.reaches("203.0.113.1");
    }

    /// What must be so while margayd is away.
    #[track_caller]
    fn away(&self) {
        let r = &self.node.r;
        wait_for("no XDP program is left", LIMIT, || {
            let links = r.sh("ip link");
            if links.contains("xdp") { Err(links) } else { Ok(()) }
        });
        assert!(
            r.sh("nft list table inet margay").contains("cali"),
            "the guard of the closed ports is there"
        );
        self.v.reaches("203.0.113.1");
        assert!(
            !self.a.pings("203.0.113.1"),
            "the kernel forwards nothing from a closed port"
        );
        assert!(!self.node.u.pings("10.65.0.2"), "and nothing to it");
        for (host, address) in [
            (&self.a, "10.0.0.1"),
            (&self.node.u, "10.0.0.1"),
            (&self.v, "10.1.0.1"),
        ] {
            host.reaches(address);
        }
    }
}

/// Ids of the BPF maps and programs that a process holds.
fn bpf_objects(pid: u32) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut maps, mut programs) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .expect("the process lives")
        .flatten()
    {
        for line in fs::read_to_string(entry.path()).unwrap_or_default().lines() {
            let id = |name: &str| {
                line.strip_prefix(name)
                    .and_then(|rest| rest.trim().parse::<u32>().ok())
            };
            maps.extend(id("map_id:"));
            programs.extend(id("prog_id:"));
        }
    }
    (maps, programs)
}

/// All sysctls below net.ipv4 and net.ipv6 that can be read, and the neighbour entries that somebody manages.
fn kernel_settings(r: &Host) -> BTreeSet<String> {
    let text = r.sh("grep -r . /proc/sys/net/ipv4 /proc/sys/net/ipv6 2>/dev/null | grep -v -e stable_secret -e inode -e icmp_msgs || :
                     ip neigh show | grep managed || :; ip -6 neigh show | grep managed || :");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn sigterm() {
    let Some(net) = build("sigterm") else { return };
    let before = kernel_settings(&net.node.r);
    net.launch();
    let (maps, programs) = bpf_objects(net.margay.process().pid());
    assert!(!maps.is_empty(), "margayd holds BPF maps");
    net.margay.check_sums();
    assert_eq!(net.margay.terminate(), 0);
    net.away();
    for map in maps {
        wait_for("the BPF maps are gone", LIMIT, || {
            !sys::bpf_map_exists(map).expect("root may ask")
        });
    }
    for program in programs {
        wait_for("the BPF programs are gone", LIMIT, || {
            !sys::bpf_program_exists(program).expect("root may ask")
        });
    }
    let after = kernel_settings(&net.node.r);
    let changed: Vec<_> = before.symmetric_difference(&after).collect();
    assert!(
        changed.is_empty(),
        "changed in the kernel and not undone: {changed:#?}"
    );
    assert!(!net.margay.socket().exists(), "the socket is gone");
    assert_eq!(net.margay.run("status").code, 4, "the daemon is not reachable");
    // Released, the port is the kernel's; releasing works without a daemon.
    let done = net.margay.run("release --all");
    assert_eq!(done.code, 0, "{done:?}");
    assert_ne!(
        net.node.r.try_sh("nft list table inet margay").code,
        0,
        "the guard is gone"
    );
    net.a.reaches("203.0.113.1");
    // And back.
    net.launch();
    assert_eq!(net.margay.terminate(), 0);
    net.away();
}

#[test]
fn sigkill() {
    let Some(net) = build("sigkill") else { return };
    let before = kernel_settings(&net.node.r);
    for _ in 0..3 {
        net.launch();
        let process = net.margay.process();
        process.signal(libc::SIGKILL);
        wait_for("the process ends", LIMIT, || process.exited());
        net.away();
    }
    // The start after a kill finds what was left and puts it right at its own end.
    net.launch();
    net.margay.mirrors_kernel();
    net.margay.check_sums();
    assert_eq!(net.margay.terminate(), 0);
    net.away();
    let after = kernel_settings(&net.node.r);
    let changed: Vec<_> = before.symmetric_difference(&after).collect();
    assert!(
        changed.is_empty(),
        "changed in the kernel and not undone: {changed:#?}"
    );
}

/// A worker that is silent counts as gone: its ports are the kernel's, as far as the guard allows, until it is back.
#[test]
fn stall() {
    let Some(net) = build("stall") else { return };
    net.launch();
    let forwarded = net.margay.port("up1", "forwarded");
    net.margay.process().signal(libc::SIGSTOP);
    // Through the kernel: margayd cannot be it.
    wait_for("open ports go on through the kernel", LIMIT, || {
        net.v.pings("203.0.113.1")
    });
    let out = net.v.sh("ping -n -c 20 -i 0.02 -W 2 203.0.113.1");
    assert!(out.contains("20 received"), "{out}");
    assert!(!net.a.pings("203.0.113.1"), "closed ports forward nothing");
    net.a.reaches("10.0.0.1");
    net.margay.process().signal(libc::SIGCONT);
    net.a.reaches("203.0.113.1");
    net.v.reaches("203.0.113.1");
    wait_for("margayd forwards again", LIMIT, || {
        net.v.pings("203.0.113.1");
        net.margay.port("up1", "forwarded") > forwarded
    });
    net.margay.mirrors_kernel();
    net.margay.check_sums();
}

/// A closed port is guarded before it exists: nothing of a container that appears while margayd is away is forwarded.
#[test]
fn closed_before_it_exists() {
    let Some(net) = build("closed") else { return };
    net.launch();
    assert_eq!(net.margay.terminate(), 0);
    let late = net.node.container("late", 9);
    net.away();
    assert!(!late.pings("203.0.113.1"));
    // Not for a moment while margayd starts either: a stream that is sent all the time begins to arrive only through margayd.
    let stream = Stream::start(
        &late,
        &net.node.u,
        "203.0.113.1".parse().expect("an address"),
        1,
        Duration::from_millis(1),
    );
    net.launch();
    net.margay.has_port("cali-late");
    stream.flows_on(100);
    let tally = stream.stop();
    let forwarded = net.margay.port("cali-late", "forwarded");
    assert!(
        tally.received <= forwarded,
        "{tally:?}, and margayd forwarded {forwarded}"
    );
    let kernel = net.node.r.sh("nft list table inet margay");
    assert!(kernel.contains("drop"), "{kernel}");
    net.margay.check_sums();
}
