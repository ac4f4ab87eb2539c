//! Frames are conserved: whatever happens to ports, links and tables under load, once the traffic has ceased each frame of the UMEM is in
//! exactly one place, nothing was corrupted or overtaken, and the daemon has not grown.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a ┐                           ┌ u 203.0.113.1
//!   b 10.65.0.3 ── cali-b ┼─ r (margayd, 2 workers) up0
//!   x* (come and go) ─────┴─ up1 ── 10.1.0.2 v (its link goes down and up)
//! ```

use std::time::Duration;

use tests::traffic::Stream;
use tests::{LIMIT, Margay, lab, wait_for};

use crate::common::{PORTS, node};

/// Resident memory of a process in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no VmRSS in {status}"))
}

/// Where the frames are once nothing moves: all of them, none twice, none waiting.
#[track_caller]
fn conserved(margay: &Margay) {
    wait_for("every frame is in exactly one place", LIMIT, || {
        let frames = margay.json("status")["frames"].clone();
        let count = |name: &str| frames["census"][name].as_u64().unwrap_or(u64::MAX / 8);
        let sum: u64 = ["free", "rx", "tx", "held", "handover"].map(count).iter().sum();
        // Frames that go home to a worker that sleeps wait for it on a ring between workers.
        let waiting = count("tx") + count("held");
        if Some(sum) == frames["total"].as_u64() && waiting == 0 {
            Ok(())
        } else {
            Err(format!("{sum} counted, {waiting} on their way: {frames}"))
        }
    });
}

#[test]
fn frames_are_conserved() {
    let Some(net) = node("census") else { return };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if cores > 1 { "[0, 1]" } else { "[0]" };
    let runtime = format!(
        "[runtime]\nprofile = \"adaptive\"\nworkers = {workers}\nframes = 8192\nstall_after = \"5s\"\n"
    );
    let (a, b, v) = (net.container("a", 2), net.container("b", 3), net.lab.host("v"));
    net.lab.veth(&net.r, "up1", &v, "v0");
    net.r.sh("ip addr add 10.1.0.1/24 dev up1");
    v.sh("ip addr add 10.1.0.2/24 dev v0; ip route add default via 10.1.0.1");
    let lists = "[[acl]]\nname = \"all\"\ndefault = \"allow\"\n";
    let ports = PORTS.replacen(
        "role = \"workload\"",
        "role = \"workload\"\nacl = { ingress = \"all\" }",
        1,
    );
    let margay = Margay::start_with(&net.lab, &net.r, &format!("{runtime}{ports}"), &[("all", lists)]);
    for address in ["203.0.113.1", "10.65.0.3", "fd65::3"] {
        a.reaches(address);
    }
    conserved(&margay);
    let address = |text: &str| text.parse().expect("an address");
    let streams = [
        Stream::at_rate(&a, &net.u, address("203.0.113.1"), 16, 10_000),
        Stream::at_rate(&net.u, &b, address("10.65.0.3"), 16, 5_000),
        Stream::at_rate(&b, &a, address("fd65::2"), 16, 5_000),
    ];
    // Towards the link that goes up and down: what it loses is not counted, what it does with frames is.
    let doomed = Stream::at_rate(&a, &v, address("10.1.0.2"), 4, 1_000);
    let packets = if lab::soak() { 1_000_000 } else { 60_000 };
    let total = || -> u64 { streams.iter().map(|stream| stream.so_far().received).sum() };
    let (mut round, mut before) = (0_u32, 0);
    while total() < packets || round < 3 {
        round += 1;
        let x = net.container(&format!("x{round}"), 10 + (round % 200) as u8);
        margay.has_port(&format!("cali-x{round}"));
        x.reaches("203.0.113.1");
        net.r.sh(
            "ip link set up1 down; ip link set up1 up; ip link set cali-a mtu 1400; ip link set up1 mtu 1300",
        );
        let (metric, action) = (100 + round, if round % 2 == 0 { "allow" } else { "deny" });
        net.r.sh(&format!(
            "ip route replace default via 10.0.0.2 metric {metric}; ip route replace 198.51.100.0/24 via 10.0.0.2
             ip link set cali-a mtu 1500; ip link set up1 mtu 1500"
        ));
        let rule = format!("[[acl.rule]]\naction = \"{action}\"\nproto = \"udp\"\ndport = [9]\n");
        margay.write_acl("all", &format!("{lists}{rule}"));
        assert_eq!(margay.run("acl reload").code, 0);
        net.r.sh(&format!("ip link del cali-x{round}"));
        wait_for("the port is let go", LIMIT, || {
            margay.find_port(&format!("cali-x{round}")).is_none()
        });
        for stream in &streams {
            stream.flows_on(100);
        }
        if round == 2 {
            before = resident(margay.process().pid());
        }
    }
    doomed.stop();
    let tallies = streams.map(Stream::stop);
    let received: u64 = tallies.iter().map(|tally| tally.received).sum();
    assert!(tallies.iter().all(|tally| tally.corrupt == 0), "{tallies:?}");
    margay.lost_nothing(&tallies);
    conserved(&margay);
    margay.mirrors_kernel();
    margay.check_sums();
    let after = resident(margay.process().pid());
    lab::announce(&format!(
        "census: all frames accounted for after {received} packets and {round} rounds; resident {before} KiB, then {after} KiB"
    ));
    assert!(
        after < before + 8192,
        "resident memory grew from {before} to {after} KiB"
    );
    // And when a port with everything on it goes.
    net.r.sh("ip link del cali-a");
    wait_for("the port is let go", LIMIT, || {
        margay.find_port("cali-a").is_none()
    });
    std::thread::sleep(Duration::from_millis(50));
    conserved(&margay);
}
