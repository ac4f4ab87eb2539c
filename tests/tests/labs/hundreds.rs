//! 256 ports of one queue each: what they cost, ports that come and go by the dozen while others talk, and the port for which there are
//! no frames left.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a ┐
//!   b 10.65.0.3 ── cali-b ┼─ r (margayd) up0 ── u 203.0.113.1
//!   x ── w0 … w252 ───────┘ cali-w0 … cali-w252 (nobody talks there)
//! ```

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tests::traffic::Stream;
use tests::{Host, LIMIT, Margay, lab, wait_for};

use crate::common::{PORTS, node};

const MOST_BYTES: u64 = 1280 << 20;

fn idle_ports(r: &Host, x: &Host, count: u32) {
    let file = r.directory().join("ports");
    let lines: String = (0..count)
        .map(|n| {
            format!(
                "link add cali-w{n} type veth peer name w{n} netns {}\n",
                x.netns()
            )
        })
        .chain((0..count).map(|n| format!("link set cali-w{n} up\n")))
        .collect();
    std::fs::write(&file, lines).expect("the lab's directory can be written");
    r.sh(&format!("ip -batch {}", file.display()));
    let lines: String = (0..count).map(|n| format!("link set w{n} up\n")).collect();
    std::fs::write(&file, lines).expect("the lab's directory can be written");
    x.sh(&format!("ip -batch {}", file.display()));
}

/// What the machine has to give, in bytes.
fn available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<u64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.expect("MemAvailable is a number") * 1024
}

#[track_caller]
fn has_ports(margay: &Margay, count: usize) {
    wait_for(&format!("{count} ports are open"), LIMIT * 3, || {
        let open = margay.json("status")["ports"].as_u64().unwrap_or(0);
        if open == count as u64 {
            Ok(())
        } else {
            Err(format!("{open} are"))
        }
    });
}

#[test]
fn two_hundred_and_fifty_six() {
    let Some(net) = node("hundreds") else { return };
    let (a, b, x) = (net.container("a", 2), net.container("b", 3), net.lab.host("x"));
    let runtime = "[runtime]\nprofile = \"adaptive\"\nworkers = [0]\nframes = 16384\nstall_after = \"5s\"\n";
    idle_ports(&net.r, &x, 253);
    let before = available();
    let margay = Margay::start(&net.lab, &net.r, &format!("{runtime}{PORTS}"));
    has_ports(&margay, 256);
    let fell = before.saturating_sub(available());
    a.reaches("203.0.113.1");
    a.reaches("10.65.0.3");
    let status = margay.json("status");
    let kernel = status["frames"]["kernel_bytes"].as_u64().expect("a number");
    lab::announce(&format!(
        "256 ports: MemAvailable fell by {} MiB, of which {} MiB are the kernel's table of frames",
        fell >> 20,
        kernel >> 20
    ));
    // Other programs of the machine have a part in MemAvailable; the kernel's table is all the daemon's.
    assert!(kernel < MOST_BYTES, "{status}");
    assert!(!lab::soak() || fell < MOST_BYTES, "{fell} bytes; {status}");
    let address = |text: &str| text.parse().expect("an address");
    let streams = [
        Stream::at_rate(&a, &net.u, address("203.0.113.1"), 16, 10_000),
        Stream::at_rate(&net.u, &b, address("10.65.0.3"), 16, 10_000),
    ];
    streams.iter().for_each(|stream| stream.flows_on(500));
    // Two ports of the 256 go and come, twenty changes a second.
    let time = Duration::from_secs(if lab::soak() { 60 } else { 5 });
    let opened = margay.process().log().matches(" is open after ").count();
    let mut command = net.r.command("ip");
    let mut ip = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("ip (package iproute2) can be run");
    let mut lines = ip.stdin.take().expect("it was asked for");
    let (start, mut changes) = (Instant::now(), 0_u32);
    while start.elapsed() < time || changes % 4 != 0 {
        let name = format!("cali-w{}", changes / 2 % 2);
        let change = if changes.is_multiple_of(2) {
            format!("link del {name}\n")
        } else {
            format!(
                "link add {name} type veth peer name y{changes}\nlink set {name} up\nlink set y{changes} up\n"
            )
        };
        lines.write_all(change.as_bytes()).expect("ip reads");
        changes += 1;
        let due = start + Duration::from_millis(50) * changes;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    drop(lines);
    let done = ip.wait().expect("it was started");
    assert!(done.success(), "ip -batch failed: {done}");
    let took = start.elapsed().as_secs_f64();
    streams.iter().for_each(|stream| stream.flows_on(500));
    has_ports(&margay, 256);
    let opened = margay.process().log().matches(" is open after ").count() - opened;
    lab::announce(&format!(
        "{changes} changes of ports in {took:.1} s, ports opened {opened} times"
    ));
    let tallies = streams.map(Stream::stop);
    assert!(tallies.iter().all(|tally| tally.corrupt == 0), "{tallies:?}");
    margay.lost_nothing(&tallies);
    // The 257th port is one too many: said clearly, and nobody is disturbed.
    let stream = Stream::at_rate(&a, &net.u, address("203.0.113.1"), 16, 10_000);
    stream.flows_on(500);
    net.r
        .sh("ip link add cali-z0 type veth peer name z0; ip link set cali-z0 up");
    wait_for("the limit is explained", LIMIT, || {
        let log = margay.process().log();
        log.contains("raise runtime.frames to at least") && log.contains("cali-z0")
    });
    let doctor = margay.run("-j doctor cali-z0");
    assert_eq!(doctor.code, 1, "{}{}", doctor.out, doctor.err);
    for words in ["\"frames\"", "runtime.frames", "under [runtime] in "] {
        assert!(
            doctor.out.contains(words),
            "{words:?} is not said: {}",
            doctor.out
        );
    }
    stream.flows_on(500);
    margay.lost_nothing(&[stream.stop()]);
    // When another port goes there is room.
    net.r.sh("ip link del cali-w7");
    wait_for("the port that waited is opened", LIMIT, || {
        margay.find_port("cali-z0").is_some()
    });
    margay.mirrors_kernel();
    margay.check_sums();
}
