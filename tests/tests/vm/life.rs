//! What happens to ports while they work, in each mode: the link goes and comes, the MTU changes, the configuration is read
//! again, margayd is killed under traffic and starts again, many times.

use std::time::{Duration, Instant};

use tests::guest::Wired;
use tests::lab::announce;
use tests::traffic::Stream;
use tests::{LIMIT, wait_for};

use crate::common::{RUNTIME, Router, ports, router, router_with};

/// Every few milliseconds a datagram to `v`, over several flows.
fn stream(router: &Router) -> Stream {
    let address = "10.1.0.2".parse().expect("an address");
    Stream::start(&router.net.u, &router.net.v, address, 4, Duration::from_millis(5))
}

/// Link down and up, MTU change, reload and kill -9, all under traffic.
fn lab(kind: &str, mode: &str) {
    let Some(router) = router(&format!("life-{mode}-{kind}"), kind, mode) else {
        return;
    };
    let stream = stream(&router);
    stream.flows_on(50);
    link(&router);
    stream.flows_on(50);
    // What waited for a neighbour while the link was down may have come behind what did not have to.
    stream.stop();
    let stream = self::stream(&router);
    mtu(&router);
    stream.flows_on(50);
    reload(&router, mode);
    stream.flows_on(50);
    killed(&router, mode);
    stream.flows_on(50);
    let tally = stream.stop();
    assert_eq!(tally.reordered, 0, "{tally:?}");
    router.forwards();
    assert_eq!(router.mode(), mode);
    router.finish();
}

/// Routes through a device go when it goes down; the link-down is the peer's and the node's own in turn.
fn link(router: &Router) {
    let (r, v) = (&router.net.r, &router.net.v);
    for (host, device) in [(v, "r0"), (r, "up1")] {
        let keep = host.sh(&format!("ip -6 route show default; ip -6 addr show dev {device}"));
        host.sh(&format!("ip link set {device} down"));
        wait_for("nothing goes through", LIMIT, || !router.net.u.pings("10.1.0.2"));
        host.sh(&format!("ip link set {device} up"));
        // IPv6 addresses of a device go with the link, and so do IPv4 routes: as an administrator would, put them back.
        let net = if device == "up1" {
            "fd01::1/64"
        } else {
            "fd01::2/64"
        };
        host.try_sh(&format!("ip -6 addr add {net} dev {device} nodad"));
        if device == "r0" {
            host.try_sh("ip route add default via 10.1.0.1; :");
            host.try_sh("ip -6 route add default via fd01::1; :");
        }
        assert!(!keep.is_empty());
        router.forwards();
        router.margay.mirrors_kernel();
    }
}

/// A smaller egress MTU holds at once, and a larger one again; some drivers take the device down for a moment.
fn mtu(router: &Router) {
    let (r, u) = (&router.net.r, &router.net.u);
    let passes = |size: u32| u.try_sh(&format!("ping -n -c 1 -W 5 -M do -s {} 10.1.0.2", size - 28));
    wait_for("1,500 bytes pass", LIMIT, || passes(1500).code == 0);
    r.sh("ip link set up1 mtu 1400");
    wait_for("1,500 bytes are too many", LIMIT, || {
        let done = passes(1500);
        u.sh("ip route flush cache");
        if done.code != 0 && done.out.contains("mtu = 1400") {
            Ok(())
        } else {
            Err(done.out)
        }
    });
    assert_eq!(passes(1400).code, 0);
    r.sh("ip link set up1 mtu 1500");
    u.sh("ip route flush cache");
    wait_for("1,500 bytes pass again", LIMIT, || {
        u.sh("ip route flush cache");
        passes(1500).code == 0
    });
}

/// What an open port cannot change is changed by opening it again: here the role.
fn reload(router: &Router, mode: &str) {
    router
        .margay
        .write_config(&format!("{}\nanti_spoof = \"loose\"\n", ports(mode)));
    router.margay.process().signal(libc::SIGHUP);
    wait_for("the ports are opened again", LIMIT, || {
        let log = router.margay.process().log();
        log.matches("is open after").count() >= 4
    });
    router.forwards();
    assert_eq!(router.mode(), mode, "after a reload");
}

/// Waits until a process that was asked to end has ended. igb resets its device whenever a socket or the program goes, which
/// takes seconds here; what the process waits for in the kernel is told when it does not end.
fn ends(process: &tests::host::Program) {
    let begun = Instant::now();
    wait_for("margayd ends", LIMIT * 3, || {
        process.exited().ok_or_else(|| {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid()))
                .into_iter()
                .flatten()
                .flatten();
            tasks
                .filter_map(|task| std::fs::read_to_string(task.path().join("stack")).ok())
                .collect::<Vec<_>>()
                .join("\n")
        })
    });
    let seconds = begun.elapsed().as_secs_f64();
    if seconds > 5.0 {
        announce(&format!("margayd took {seconds:.1} s to end"));
    }
}

/// Killed while frames are on their way, and started again at once: the driver's queues are still being taken down.
fn killed(router: &Router, mode: &str) {
    for _ in 0..3 {
        let process = router.margay.process();
        process.signal(libc::SIGKILL);
        ends(&process);
        router.launch();
        assert_eq!(router.mode(), mode, "after a kill");
    }
}

#[test]
fn virtio_net_zerocopy() {
    lab("virtio_net", "zerocopy");
}

#[test]
fn igb_zerocopy() {
    lab("igb", "zerocopy");
}

#[test]
fn virtio_net_copy() {
    lab("virtio_net_copy", "copy");
}

#[test]
fn e1000e_generic() {
    lab("e1000e", "generic");
}

/// While margayd is away, an open port is the kernel's, a closed one nobody's.
fn exit(kind: &str, mode: &str) {
    for (on_exit, through) in [("kernel", true), ("drop", false)] {
        let config = format!("{}on_exit = \"{on_exit}\"\n", ports(mode));
        let Some(router) = router_with(&format!("exit-{on_exit}-{kind}"), kind, &config, &[]) else {
            return;
        };
        router.net.r.sysctl("net.ipv4.ip_forward", "1");
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            let process = router.margay.process();
            process.signal(signal);
            ends(&process);
            let links = router.net.r.sh("ip link");
            assert!(!links.contains("xdp"), "an XDP program is left: {links}");
            router.net.u.reaches("10.0.0.1");
            if through {
                router.net.u.reaches("10.1.0.2");
            } else {
                assert!(!router.net.u.pings("10.1.0.2"), "the kernel forwards nothing");
            }
            router.launch();
        }
        router.finish();
    }
}

#[test]
fn virtio_net_exit() {
    exit("virtio_net", "zerocopy");
}

#[test]
fn igb_exit() {
    exit("igb", "zerocopy");
}

/// Fifty starts and ends in a row, every other one by kill -9, with traffic meanwhile: each obtains the mode again, and the
/// kernel's memory does not grow.
fn restarts(kind: &str) {
    let Some(router) = router(&format!("restarts-{kind}"), kind, "zerocopy") else {
        return;
    };
    // igb takes its link down with every reset. What a host's kernel sends while it asks for a neighbour anew may overtake what
    // has waited for the answer; here nobody has to ask, and whatever is out of order is Margay's doing.
    let Wired { r, u, v, .. } = &router.net;
    let pin = |host: &tests::Host, device: &str, address: &str, mac: [u8; 6]| {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        host.sh(&format!(
            "ip neigh replace {address} lladdr {mac} dev {device} nud permanent"
        ));
    };
    pin(u, "r0", "10.0.0.1", r.mac("up0"));
    pin(r, "up1", "10.1.0.2", v.mac("r0"));
    let stream = stream(&router);
    let mut used = Vec::new();
    let begun = Instant::now();
    for round in 0..50 {
        let process = router.margay.process();
        process.signal(if round % 2 == 0 {
            libc::SIGTERM
        } else {
            libc::SIGKILL
        });
        ends(&process);
        router.margay.launch();
        router.margay.ready();
        for port in ["up0", "up1"] {
            router.margay.has_port(port);
        }
        assert_eq!(router.mode(), "zerocopy", "round {round}");
        stream.flows_on(5);
        used.push(unreclaimable());
        if round % 10 == 9 {
            announce(&format!(
                "{} restarts after {:.0} s",
                round + 1,
                begun.elapsed().as_secs_f64()
            ));
        }
    }
    let tally = stream.stop();
    assert_eq!(tally.reordered, 0, "{tally:?}");
    // The first rounds fill caches.
    let (early, late) = (used[10], used[49]);
    announce(&format!(
        "kernel memory after 11 restarts {early} KiB, after 50 {late} KiB"
    ));
    assert!(late < early + 8_192, "the kernel's memory grows: {used:?}");
    router.forwards();
    router.finish();
}

#[test]
fn virtio_net_restarts() {
    restarts("virtio_net");
}

#[test]
fn igb_restarts() {
    restarts("igb");
}

/// Memory that the kernel holds for itself, KiB: slab that cannot be reclaimed, page tables, per-CPU areas, vmalloc.
fn unreclaimable() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("the kernel tells its memory");
    ["SUnreclaim:", "VmallocUsed:", "Percpu:"]
        .iter()
        .filter_map(|name| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum()
}

/// Two queues of each port with two workers: frames cross from worker to worker, and nothing is overtaken. Resident memory
/// of margayd after the traffic is what it was before.
fn two_workers(kind: &str) {
    let config = ports("zerocopy").replace("workers = [0]", "workers = [0, 1]");
    assert_ne!(config, ports("zerocopy"), "{RUNTIME}");
    let Some(router) = router_with(&format!("workers-{kind}"), kind, &config, &[]) else {
        return;
    };
    assert_eq!(router.margay.port("up0", "queues"), 2);
    router.conserves(2_000, 1_400);
    let resident = || {
        let pid = router.margay.process().pid();
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("margayd runs");
        let line = text
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("VmRSS")
            .to_owned();
        line.split_whitespace()
            .nth(1)
            .and_then(|number| number.parse::<u64>().ok())
            .expect("a number")
    };
    let before = resident();
    router.conserves(40_000, 1_400);
    let after = resident();
    assert!(
        after <= before + 4_096,
        "margayd grew from {before} to {after} KiB"
    );
    let status = router.margay.json("status");
    let workers = tests::margay::list(&status, "workers");
    assert!(
        workers.len() == 2 && workers.iter().all(|worker| worker["bursts"].as_u64() > Some(0)),
        "both work: {status}"
    );
    router.finish();
}

#[test]
fn igb_two_workers() {
    two_workers("igb");
}

#[test]
fn virtio_net_two_workers() {
    two_workers("virtio_net_queues");
}
