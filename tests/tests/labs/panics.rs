//! A worker that panics takes the whole daemon with it: nothing is forwarded by half a node, and closed ports stay closed.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a (closed) r (margayd, ip_forward=1) up0 ── u 203.0.113.1
//! ```

use std::fs;
use std::process::Command;

use tests::sys::StoppedThread;
use tests::traffic::Stream;
use tests::{LIMIT, Margay, host, margay, wait_for};

use crate::common::{PORTS, node};

/// Where the standard library's function for `None.unwrap()` is in a running margayd: it panics and takes nothing but the place in the
/// source that it is to name.
fn unwrap_failed(margay: &Margay) -> u64 {
    let program = margay::program("margayd");
    let symbols = host::finish(Command::new("nm").arg(&program)).out;
    let line = symbols
        .lines()
        .find(|line| line.contains("6option13unwrap_failed"))
        .unwrap_or_else(|| panic!("no such symbol in {}", program.display()));
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("an address");
    let offset = hex(line.split_whitespace().next().unwrap_or_default());
    let maps = fs::read_to_string(format!("/proc/{}/maps", margay.process().pid())).expect("margayd lives");
    let first = maps
        .lines()
        .find(|line| line.ends_with("/margayd"))
        .expect("the program is mapped");
    hex(first.split('-').next().unwrap_or_default()) + offset
}

/// A `core::panic::Location` that will lie at `at`: pointer and length of the file's name, line, column, and the name behind it.
fn location(at: u64) -> Vec<u8> {
    let name = b"a/lab.rs";
    let mut bytes = (at + 24).to_ne_bytes().to_vec();
    bytes.extend((name.len() as u64).to_ne_bytes());
    bytes.extend([7_u32.to_ne_bytes(), 1_u32.to_ne_bytes()].concat());
    bytes.extend(name);
    bytes.push(0);
    bytes
}

#[test]
fn a_worker_that_panics_ends_the_process() {
    let Some(net) = node("panics") else { return };
    let a = net.container("a", 2);
    net.r.sysctl("net.ipv4.ip_forward", "1");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if cores > 1 { "[0, 1]" } else { "[0]" };
    let runtime = format!(
        "[runtime]\nprofile = \"adaptive\"\nworkers = {workers}\nframes = 8192\nstall_after = \"5s\"\n"
    );
    let margay = Margay::start(&net.lab, &net.r, &format!("{runtime}{PORTS}"));
    a.reaches("203.0.113.1");
    let workers = margay.threads("margay-w").len();
    for number in 0..workers {
        let process = margay.process();
        let worker = margay.threads("margay-w")[number];
        let stream = Stream::at_rate(&a, &net.u, "203.0.113.1".parse().expect("an address"), 16, 10_000);
        stream.flows_on(500);
        let function = unwrap_failed(&margay);
        let stopped = StoppedThread::stop(worker).expect("a thread of margayd can be stopped");
        stopped
            .call(function, location)
            .expect("a stopped thread can be changed");
        let code = wait_for("margayd ends", LIMIT, || process.exited());
        let log = process.log();
        assert_eq!(code, 128 + libc::SIGABRT, "{log}");
        let said = format!("margayd: thread margay-w{number} has panicked");
        for words in ["a/lab.rs:7:1", &said] {
            assert!(log.contains(words), "{words:?} is not said: {log}");
        }
        // The kernel would forward, and the guard does not let it.
        let sent_on = |more: u64| {
            let before = stream.so_far();
            wait_for("packets are sent on", LIMIT, || {
                stream.so_far().sent > before.sent + more
            });
            before
        };
        // What was on the way has arrived by then.
        sent_on(500);
        let before = sent_on(2_000);
        let more = stream.so_far().received - before.received;
        assert_eq!(more, 0, "a closed port stays closed");
        stream.stop();
        margay.launch();
        margay.ready();
        a.reaches("203.0.113.1");
    }
    margay.mirrors_kernel();
    margay.check_sums();
}
