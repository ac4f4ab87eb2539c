//! Change-overs of open ports under 20,000 packets a second, each with what it cost; stalls of the worker and of the control thread;
//! a busy machine that must not look like a stall.
//!
//! ```text
//!   v 10.1.0.2 ── up1 r (margayd, ip_forward=1) up0 ── u 203.0.113.1       (up*: on_exit kernel)
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tests::sys::StoppedThread;
use tests::traffic::Stream;
use tests::{Host, LIMIT, Margay, lab, wait_for};

use crate::common::{Node, PORTS, node, route_lines};

const STALL_AFTER: Duration = Duration::from_millis(100);

struct Net {
    node: Node,
    v: Host,
    margay: Arc<Margay>,
}

fn build(name: &str, runtime: &str) -> Option<Net> {
    let node = node(name)?;
    let v = node.lab.host("v");
    node.lab.veth(&node.r, "up1", &v, "v0");
    node.r.sh("ip addr add 10.1.0.1/24 dev up1");
    node.r.sysctl("net.ipv4.ip_forward", "1");
    v.sh("ip addr add 10.1.0.2/24 dev v0; ip route add default via 10.1.0.1");
    node.u.sh("ip route add 10.1.0.0/24 via 10.0.0.1");
    let runtime =
        format!("[runtime]\nprofile = \"adaptive\"\nframes = 8192\nstall_after = \"100ms\"\n{runtime}");
    let margay = Margay::start(&node.lab, &node.r, &format!("{runtime}{PORTS}"));
    for port in ["up0", "up1"] {
        margay.has_port(port);
    }
    v.reaches("203.0.113.1");
    Some(Net { node, v, margay })
}

impl Net {
    fn stream(&self) -> Stream {
        let address = "203.0.113.1".parse().expect("an address");
        let stream = Stream::at_rate(&self.v, &self.node.u, address, 16, 20_000);
        stream.flows_on(2000);
        stream
    }

    /// Packets that the kernel has forwarded so far.
    fn by_kernel(&self) -> u64 {
        let snmp = self.node.r.sh("cat /proc/net/snmp");
        let mut lines = snmp.lines().filter(|line| line.starts_with("Ip:"));
        let (names, values) = (lines.next().expect("a head"), lines.next().expect("values"));
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        let value = pairs
            .find(|(name, _)| *name == "ForwDatagrams")
            .expect("a counter")
            .1;
        value.parse().expect("a number")
    }
}

#[derive(Default)]
struct Cost {
    lost: Vec<u64>,
    blackout: Vec<Duration>,
}

impl Cost {
    fn add(&mut self, lost: u64, blackout: Duration) {
        self.lost.push(lost);
        self.blackout.push(blackout);
    }

    fn tell(mut self, what: &str) {
        self.lost.sort_unstable();
        self.blackout.sort_unstable();
        let (Some(lost), Some(blackout)) = (self.lost.last(), self.blackout.last()) else {
            return;
        };
        let middle = self.lost.len() / 2;
        lab::announce(&format!(
            "change-over, {what}: lost {} (most {lost}), blackout {:.1} ms (most {:.1} ms), of {} times",
            self.lost[middle],
            self.blackout[middle].as_secs_f64() * 1e3,
            blackout.as_secs_f64() * 1e3,
            self.lost.len()
        ));
    }
}

/// With `on_exit = "kernel"` the kernel carries on when margayd goes, and margayd when it is back; each costs something.
#[test]
fn change_overs() {
    let Some(net) = build("changes", "workers = [0]\n") else {
        return;
    };
    let stream = net.stream();
    let rounds = if lab::soak() { 50 } else { 5 };
    let mut costs = [(); 5].map(|()| Cost::default());
    let mut step = |index: usize, act: &mut dyn FnMut()| {
        stream.flows_on(500);
        let before = stream.so_far();
        stream.longest_gap();
        act();
        stream.flows_on(2000);
        let after = stream.so_far();
        costs[index].add(after.lost().saturating_sub(before.lost()), stream.longest_gap());
    };
    for _ in 0..rounds {
        step(0, &mut || {
            net.margay.process().signal(libc::SIGKILL);
            wait_for("the process ends", LIMIT, || net.margay.process().exited());
        });
        let kernel = net.by_kernel();
        stream.flows_on(200);
        assert!(net.by_kernel() > kernel, "the kernel carries on");
        step(1, &mut || {
            net.margay.launch();
            net.margay.ready();
            wait_for("margayd forwards", LIMIT, || {
                net.margay.port("up1", "forwarded") > 100
            });
        });
        step(2, &mut || assert_eq!(net.margay.terminate(), 0));
        net.margay.launch();
        net.margay.ready();
        wait_for("margayd forwards", LIMIT, || {
            net.margay.port("up1", "forwarded") > 100
        });
        step(3, &mut || {
            net.margay.process().signal(libc::SIGSTOP);
            let kernel = net.by_kernel();
            wait_for("the kernel takes over from a stalled worker", LIMIT, || {
                net.by_kernel() > kernel + 100
            });
        });
        step(4, &mut || {
            net.margay.process().signal(libc::SIGCONT);
            // The stream goes on, the kernel forwards nothing of it any more, and margayd does.
            wait_for("margayd takes over again", LIMIT, || {
                let (kernel, own) = (net.by_kernel(), net.margay.port("up1", "forwarded"));
                stream.flows_on(100);
                net.by_kernel() == kernel && net.margay.port("up1", "forwarded") > own
            });
        });
    }
    let names = ["kill -9", "start", "SIGTERM", "stall", "end of a stall"];
    for (cost, name) in costs.into_iter().zip(names) {
        cost.tell(name);
    }
    assert_eq!(stream.stop().corrupt, 0);
    net.margay.mirrors_kernel();
    net.margay.check_sums();
}

/// A worker that is stopped is noticed within 1.5 times `stall_after` (and the tick of a coarse clock). Frames that were waiting for it
/// all the while are dropped and counted when it wakes: late answers are worse than none.
#[test]
fn noticed_in_time() {
    let Some(net) = build("notice", "workers = [0]\n") else {
        return;
    };
    let stream = net.stream();
    let mut slowest = Duration::ZERO;
    for _ in 0..if lab::soak() { 50 } else { 5 } {
        stream.flows_on(500);
        stream.longest_gap();
        net.margay.process().signal(libc::SIGSTOP);
        // Nobody but the kernel can be the one that goes on.
        stream.flows_on(200);
        slowest = slowest.max(stream.longest_gap());
        net.margay.process().signal(libc::SIGCONT);
        wait_for("margayd forwards again", LIMIT, || {
            let before = net.margay.port("up1", "forwarded");
            stream.flows_on(100);
            net.margay.port("up1", "forwarded") > before
        });
    }
    lab::announce(&format!(
        "stall noticed after at most {:.1} ms (stall_after {} ms)",
        slowest.as_secs_f64() * 1e3,
        STALL_AFTER.as_millis()
    ));
    // The time itself is a figure. What is asserted is that the steering program steps in by itself, soon: a busy machine may keep the
    // stream's own threads from running for a while.
    let limit = STALL_AFTER * 3 / 2 + Duration::from_millis(350);
    assert!(slowest < limit, "{slowest:?} is more than {limit:?}");
    let stale = net.margay.drops("stale");
    assert!(
        stale > 0,
        "frames that waited for a stopped worker are dropped: {}",
        net.margay.json("drops")
    );
    assert_eq!(stream.stop().corrupt, 0);
    net.margay.check_sums();
}

/// A worker that others keep from its core is noticed as a stopped one is. It gets what nobody else wants of the core (`SCHED_IDLE`), and
/// everybody wants it.
#[test]
fn a_starved_worker_is_noticed() {
    let Some(net) = build("hungry", "workers = [0]\n") else {
        return;
    };
    let stream = net.stream();
    let worker = net.margay.threads("margay-w")[0];
    net.node.r.sh(&format!("chrt --idle --pid 0 {worker}"));
    let competitors: Vec<_> = (0..8)
        .map(|n| {
            let line = "taskset -c 0 sh -c 'while :; do :; done'";
            net.node.u.spawn(&format!("greedy{n}"), line)
        })
        .collect();
    let kernel = net.by_kernel();
    wait_for("the kernel takes over from a starved worker", LIMIT, || {
        net.by_kernel() > kernel + 1_000
    });
    for competitor in competitors {
        competitor.end();
    }
    net.node.r.sh(&format!("chrt --other --pid 0 {worker}"));
    wait_for("margayd takes over again", LIMIT, || {
        let (kernel, own) = (net.by_kernel(), net.margay.port("up1", "forwarded"));
        stream.flows_on(100);
        net.by_kernel() == kernel && net.margay.port("up1", "forwarded") > own
    });
    assert_eq!(stream.stop().corrupt, 0);
    net.margay.check_sums();
}

/// Packets that a busy machine kept from margayd, or margayd's worker from its core.
fn missed(margay: &Margay) -> u64 {
    margay.missed() + margay.drops("stale")
}

/// Whatever `work` does to the control thread, so many times, no packet is lost of a stream that flows all the while.
#[track_caller]
fn undisturbed(net: &Net, what: &str, times: u32, work: impl Fn(u32, &Stream)) {
    let stream = net.stream();
    let (begin, excused) = (stream.so_far(), missed(&net.margay));
    for round in 0..times {
        work(round, &stream);
    }
    stream.flows_on(1000);
    let tally = stream.stop();
    let lost = tally.lost().saturating_sub(begin.lost());
    let excused = missed(&net.margay) - excused;
    // What was on the way when the count began is in it as well.
    assert!(
        lost <= excused + 64,
        "{lost} lost, {excused} never received: {tally:?}"
    );
    assert_eq!((tally.reordered, tally.corrupt), (0, 0));
    lab::announce(&format!(
        "control thread {what} {times} times: {lost} of {} lost, {excused} never received",
        tally.sent - begin.sent
    ));
    net.margay.check_sums();
}

/// The control thread is stopped as a debugger would stop it, again and again, in the middle of what it has to do: workers go on.
#[test]
fn a_stopped_control_thread_loses_nothing() {
    let Some(net) = build("halted", "workers = [0]\n") else {
        return;
    };
    let file = net.node.lab.directory().join("routes");
    let (times, each) = if lab::soak() { (20, 60_000) } else { (3, 10_000) };
    undisturbed(&net, "stopped", times, |round, stream| {
        let stopped =
            StoppedThread::stop(net.margay.process().pid()).expect("the main thread can be stopped");
        // Routes that it would have to follow come and go meanwhile.
        let verb = if round % 2 == 0 { "add" } else { "del" };
        let lines = route_lines(5_000).replace("route add", &format!("route {verb}"));
        std::fs::write(&file, lines).expect("the lab's directory can be written");
        net.node.r.sh(&format!("ip -batch {}", file.display()));
        stream.flows_on(each);
        drop(stopped);
        net.margay.mirrors_kernel();
    });
}

/// A slow control thread is not the data path's: with the daemon's main thread kept busy (full dumps, reloads, a stopped client) no
/// packet is lost.
#[test]
fn a_slow_control_thread_loses_nothing() {
    let Some(net) = build("control", "workers = [0]\n") else {
        return;
    };
    let file = net.node.lab.directory().join("routes");
    std::fs::write(&file, route_lines(50_000)).expect("the lab's directory can be written");
    net.node.r.sh(&format!("ip -batch {}", file.display()));
    net.margay.mirrors_kernel();
    undisturbed(&net, "kept busy", if lab::soak() { 100 } else { 5 }, |_, _| {
        net.margay.mirrors_kernel();
        assert_eq!(net.margay.run("route show").code, 0);
        net.margay.process().signal(libc::SIGHUP);
    });
}

/// Eight busy competitors a core: the worker waits for its turn again and again, and is not taken for stalled. What else goes on on the
/// machine is told by a thread beside the worker that wants as little of the same core: among other labs, a pause of its own as long excuses an
/// alarm.
#[test]
fn no_false_alarms() {
    let Some(net) = build("alarm", "workers = [0]\n") else {
        return;
    };
    let stream = net.stream();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let competitors: Vec<_> = (0..8 * cores)
        .map(|n| {
            net.node
                .u
                .spawn(&format!("busy{n}"), "sh -c 'while :; do :; done'")
        })
        .collect();
    let time = Duration::from_secs(if lab::soak() { 600 } else { 5 });
    let over = Arc::<AtomicBool>::default();
    let beside = {
        let over = over.clone();
        std::thread::spawn(move || {
            tests::sys::pin_to_core(0).expect("core 0 may be used");
            let (mut pauses, mut before) = (0_u32, Instant::now());
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                pauses += u32::from(before.elapsed() > STALL_AFTER);
                before = Instant::now();
            }
            pauses
        })
    };
    let (start, kernel) = (Instant::now(), net.by_kernel());
    let (mut alarms, mut seen, mut last) = (0, kernel, false);
    while start.elapsed() < time {
        std::thread::sleep(Duration::from_millis(100));
        let now = net.by_kernel();
        // An alarm may go on from one look to the next.
        alarms += u32::from(now > seen && !last);
        last = now > seen;
        seen = now;
    }
    over.store(true, Ordering::Relaxed);
    let pauses = beside.join().expect("the thread beside the worker ends");
    for competitor in competitors {
        competitor.end();
    }
    let tally = stream.stop();
    lab::announce(&format!(
        "false alarms: {alarms} in {} s with {} competitors ({pauses} pauses of a thread beside it); the kernel forwarded {} of {}",
        time.as_secs(),
        8 * cores,
        seen - kernel,
        tally.sent
    ));
    // Where only the competitors are there too, nothing excuses an alarm.
    let excused = if lab::soak() { 0 } else { pauses };
    assert!(
        alarms <= excused,
        "{alarms} alarms, {pauses} pauses of the machine"
    );
    assert_eq!(tally.corrupt, 0);
    net.margay.check_sums();
}
