//! The mirror under fire: random changes of links, addresses, neighbours, nexthop objects and routes, a table loaded while the mirror
//! loses messages, and changes without pause. Whenever it is quiet for a moment, kernel, mirror and data plane agree, and what was not
//! touched is forwarded all the while.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── u 203.0.113.1
//!                         d0, d1, d2 (10.20.*.1/24, fd20:*::1/64: links, addresses and routes change at random) ── x
//! ```

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tests::traffic::Stream;
use tests::{Host, LIMIT, Margay, lab, wait_for};

use crate::common::{Node, PORTS, node, route_lines};

/// Half a second at the least between what is asked of a busy machine.
const QUIET: Duration = Duration::from_millis(100);

/// xorshift64*: the same events for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

fn build(name: &str) -> Option<(Node, Arc<Margay>, Stream)> {
    let net = node(name)?;
    let a = net.container("a", 2);
    let x = net.lab.host("x");
    for n in 0..3 {
        net.lab.veth(&net.r, &format!("d{n}"), &x, &format!("x{n}"));
        net.r.sh(&format!(
            "ip addr add 10.20.{n}.1/24 dev d{n}; ip -6 addr add fd20:{n}::1/64 dev d{n} nodad"
        ));
    }
    let more = "[[port]]\nmatch = \"d*\"\nrole = \"uplink\"\n";
    let margay = Margay::start(&net.lab, &net.r, &format!("{PORTS}{more}"));
    a.reaches("203.0.113.1");
    let address = "203.0.113.1".parse().expect("an address");
    let stream = Stream::at_rate(&a, &net.u, address, 16, 10_000);
    stream.flows_on(500);
    Some((net, margay, stream))
}

/// One random change, as a line for `ip -batch`.
fn event(random: &mut Random) -> String {
    let (n, m, host) = (random.below(3), random.below(3), 2 + random.below(6));
    let (p, id, metric) = (random.below(24), 1 + random.below(6), 1 + random.below(3));
    let verb = ["add", "replace", "append", "del", "del"][random.below(5) as usize];
    let on_off = ["up", "up", "up", "down"][random.below(4) as usize];
    match random.below(16) {
        0 => format!("link set d{n} {on_off}"),
        1 => format!("link set d{n} mtu {}", 1300 + 100 * m),
        2 => format!("addr add 10.20.{n}.{}/24 dev d{n}", 100 + host),
        3 => format!("addr del 10.20.{n}.{}/24 dev d{n}", 100 + host),
        4 => format!("addr replace 10.20.{n}.1/24 dev d{n}"),
        5 => format!(
            "addr {} fd20:{n}::{host}:1/64 dev d{n}",
            ["add", "del"][m as usize % 2]
        ),
        6 => format!("neigh replace 10.20.{n}.{host} lladdr 02:00:00:00:0{m}:0{host} dev d{n} nud permanent"),
        7 => format!("neigh del 10.20.{n}.{host} dev d{n}"),
        8 => format!("nexthop replace id {id} via 10.20.{n}.{host} dev d{n}"),
        9 => format!("nexthop del id {id}"),
        10 => format!(
            "route {} 10.30.{p}.0/24 nhid {id}",
            ["replace", "del"][m as usize % 2]
        ),
        11 => format!("route {verb} fd30:{p:x}::/48 via fd20:{n}::{host} dev d{n} metric {metric}"),
        12 => format!(
            "route replace 10.30.{p}.0/24 metric {metric} nexthop via 10.20.{n}.{host} weight 2 nexthop via 10.20.{m}.9 weight 1"
        ),
        13 => format!("route {verb} blackhole 10.30.{p}.0/24 metric {metric}"),
        _ => format!("route {verb} 10.30.{p}.0/24 via 10.20.{n}.{host} metric {metric}"),
    }
}

fn batch(r: &Host, name: &str, lines: &str) {
    let file = r.directory().join(name);
    std::fs::write(&file, lines).expect("the lab's directory can be written");
    // Most random changes fail: what is not there cannot be deleted.
    r.try_sh(&format!("ip -force -batch {} >/dev/null 2>&1", file.display()));
}

/// In what kernel and margayd differ after a quiet moment; nothing is waited for.
fn difference(margay: &Margay) -> Option<String> {
    std::thread::sleep(QUIET);
    let done = margay.run("-j route show --diff-kernel");
    (done.code != 0).then(|| format!("{} {}", done.out, done.err))
}

fn untouched(stream: Stream, margay: &Margay) {
    stream.flows_on(500);
    let tally = stream.stop();
    let excused = margay.missed();
    let lost = tally.lost().saturating_sub(excused);
    lab::announce(&format!(
        "untouched prefixes: {} of {} lost, {excused} of all ports never received",
        tally.lost(),
        tally.sent
    ));
    assert!(lost * 1000 <= tally.sent, "more than 0.1 % lost: {tally:?}");
    assert_eq!(tally.corrupt, 0);
    margay.check_sums();
}

#[test]
fn random_events() {
    let Some((net, margay, stream)) = build("fire") else {
        return;
    };
    let seed = std::env::var("MARGAY_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(0x5eed_0000_0003_u64);
    let mut random = Random(seed);
    let (rounds, each) = if lab::soak() { (100, 100) } else { (40, 50) };
    let mut late = 0;
    for round in 0..rounds {
        let mut lines = String::new();
        for _ in 0..each {
            let _ = writeln!(lines, "{}", event(&mut random));
        }
        batch(&net.r, "events", &lines);
        if let Some(found) = difference(&margay) {
            late += 1;
            // What a machine that is busy with other things has not done in time it does later; a mirror that is wrong stays wrong.
            let again = difference(&margay);
            assert!(
                again.is_none(),
                "seed {seed:#x}, round {round}, after:\n{lines}\n{found}\nand then {again:?}"
            );
        }
    }
    lab::announce(&format!(
        "{} random events (seed {seed:#x}): equal after 100 ms of quiet in all but {late} of {rounds} rounds",
        rounds * each
    ));
    assert!(late * 10 <= rounds, "{late} of {rounds} rounds took longer");
    untouched(stream, &margay);
}

/// A table that is loaded while margayd is stopped now and then, so that its buffer overruns; then changes without pause.
#[test]
fn overruns_and_churn() {
    let Some((net, margay, stream)) = build("burn") else {
        return;
    };
    stream.stop();
    let table = if lab::soak() { full_table() } else { None };
    let lines = table.unwrap_or_else(|| route_lines(60_000));
    let routes = lines.lines().count() as u64;
    let address = "203.0.113.1".parse().expect("an address");
    let file = net.lab.directory().join("table");
    std::fs::write(&file, &lines).expect("the lab's directory can be written");
    let loading = net
        .r
        .spawn("load", &format!("ip -force -batch {}", file.display()));
    while loading.exited().is_none() {
        margay.process().signal(libc::SIGSTOP);
        let start = Instant::now();
        while loading.exited().is_none() && start.elapsed() < Duration::from_secs(4) {
            std::thread::sleep(Duration::from_millis(50));
        }
        margay.process().signal(libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(500));
    }
    margay.mirrors_kernel();
    let status = margay.json("status");
    assert!(status["routes"].as_u64() >= Some(routes / 100 * 99), "{status}");
    // A whole dump of it, read anew: the cost of being lost.
    let resync = Duration::from_nanos(status["mirror"]["last_dump_ns"].as_u64().unwrap_or(0));
    assert!(
        !lab::soak() || status["resyncs"].as_u64() > Some(0),
        "no overrun: {status}"
    );
    lab::announce(&format!(
        "{routes} routes loaded, {} resyncs, the last dump took {:.2} s",
        status["resyncs"],
        resync.as_secs_f64()
    ));

    // Ten thousand changes a second, each second's in ten batches.
    let a = net.container("c", 9);
    margay.has_port("cali-c");
    a.reaches("203.0.113.1");
    let stream = Stream::at_rate(&a, &net.u, address, 16, 10_000);
    stream.flows_on(500);
    let halves: Vec<String> = ["via 10.0.0.2", "via 10.0.0.3"]
        .iter()
        .map(|via| {
            (0..1000)
                .map(|n| format!("route replace 101.{}.{}.0/24 {via}\n", n >> 8, n & 255))
                .collect()
        })
        .collect();
    for (name, half) in ["even", "odd"].iter().zip(&halves) {
        std::fs::write(net.lab.directory().join(name), half).expect("the lab's directory can be written");
    }
    let (start, seconds) = (Instant::now(), if lab::soak() { 60 } else { 3 });
    let mut changes = 0_u32;
    while start.elapsed() < Duration::from_secs(seconds) {
        let name = if changes.is_multiple_of(2) { "even" } else { "odd" };
        net.r
            .sh(&format!("ip -batch {}", net.lab.directory().join(name).display()));
        changes += 1;
        let due = start + Duration::from_millis(100) * changes;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let rate = f64::from(changes) * 1000.0 / start.elapsed().as_secs_f64();
    lab::announce(&format!("churn of {rate:.0} changes a second for {seconds} s"));
    wait_for(
        "kernel, mirror and data plane agree",
        LIMIT,
        || match difference(&margay) {
            None => Ok(()),
            Some(text) => Err(text),
        },
    );
    untouched(stream, &margay);
}

/// The shared Internet table as lines for `ip -batch`; `None` when it is not there.
fn full_table() -> Option<String> {
    let folder = std::env::var_os("MARGAY_DATA").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        std::path::PathBuf::from,
    );
    let output = std::process::Command::new("gzip")
        .arg("-dc")
        .arg(folder.join("prefixes.txt.gz"))
        .output()
        .ok()?;
    if !output.status.success() {
        lab::announce("no table of prefixes (set MARGAY_DATA): a synthetic one is used");
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |prefix: &str| match prefix.contains(':') {
        true => format!("route add {prefix} via fd00::2\n"),
        false => format!("route add {prefix} via 10.0.0.2\n"),
    };
    Some(text.lines().map(line).collect())
}
