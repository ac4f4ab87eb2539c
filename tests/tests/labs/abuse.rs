//! The control socket in bad hands: a thousand clients, requests that never end, a gigabyte of garbage, readers that hardly read or hang
//! up, a user who may not ask. Nothing stalls, memory stays bounded, and the data path loses nothing.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── u 203.0.113.1
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tests::traffic::Stream;
use tests::{LIMIT, Margay, lab, wait_for};

use crate::common::{PORTS, node, route_lines};

/// Memory of a process in KiB: resident now, and the most that ever was.
fn memory(margay: &Margay) -> (u64, u64) {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", margay.process().pid())).expect("it lives");
    let number = |key: &str| -> u64 {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .expect("the line is there");
        line.split_whitespace()
            .next()
            .and_then(|text| text.parse().ok())
            .expect("a number")
    };
    (number("VmRSS:"), number("VmHWM:"))
}

fn connect(margay: &Margay) -> UnixStream {
    let stream = UnixStream::connect(margay.socket()).expect("the socket accepts");
    stream
        .set_read_timeout(Some(LIMIT))
        .expect("a time limit can be set");
    stream
}

/// The daemon answers others, in time.
#[track_caller]
fn answers(margay: &Margay, when: &str) -> Duration {
    let start = Instant::now();
    assert_eq!(margay.run("status --ready").code, 0, "{when}");
    start.elapsed()
}

#[test]
fn abuse() {
    let Some(net) = node("abuse") else { return };
    let a = net.container("a", 2);
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    // A table whose dump is tens of megabytes.
    let count = if lab::soak() { 400_000_u32 } else { 60_000 };
    let routes = route_lines(count);
    let file = net.lab.directory().join("routes");
    std::fs::write(&file, routes).expect("the lab's directory can be written");
    net.r.sh(&format!("ip -batch {}", file.display()));
    margay.mirrors_kernel();
    a.reaches("203.0.113.1");
    let address = "203.0.113.1".parse().expect("an address");
    let stream = Stream::at_rate(&a, &net.u, address, 16, 20_000);
    stream.flows_on(1000);
    let dump = b"{\"command\": \"route show\", \"args\": {}}\n";
    let (before, _) = memory(&margay);

    // Readers of the whole table: one takes ten kilobytes a second, one hangs up half-way, one never reads.
    let slow = connect(&margay);
    (&slow).write_all(dump).expect("the daemon reads");
    let silent = connect(&margay);
    (&silent).write_all(dump).expect("the daemon reads");
    for _ in 0..10 {
        let mut gone = connect(&margay);
        gone.write_all(dump).expect("the daemon reads");
        let mut some = [0; 4096];
        gone.read_exact(&mut some).expect("the dump begins");
    }
    let reader = {
        let mut slow = slow.try_clone().expect("a descriptor can be copied");
        std::thread::spawn(move || {
            let mut some = [0; 1024];
            for _ in 0..if lab::soak() { 300 } else { 30 } {
                slow.read_exact(&mut some).expect("the slow reader is served");
                std::thread::sleep(Duration::from_millis(100));
            }
        })
    };
    answers(&margay, "with slow readers");

    // A thousand clients, each with half a request; then each with a whole one.
    let mut clients: Vec<UnixStream> = (0..1000).map(|_| connect(&margay)).collect();
    for client in &mut clients {
        client
            .write_all(b"{\"command\": \"sta")
            .expect("the daemon reads");
    }
    let took = answers(&margay, "with a thousand half requests");
    lab::announce(&format!(
        "a thousand half-sent requests: another client is answered after {} ms",
        took.as_millis()
    ));
    for client in clients.iter_mut().skip(500) {
        client
            .write_all(b"tus\", \"args\": {}}\n")
            .expect("the daemon reads");
    }
    for client in clients.iter().skip(500) {
        let mut line = String::new();
        BufReader::new(client)
            .read_line(&mut line)
            .expect("the daemon answers");
        assert!(line.contains("margay.status/1"), "{line}");
    }
    // The other half never ends; it is told so, after the time for a request.
    let mut line = String::new();
    BufReader::new(&clients[0])
        .read_line(&mut line)
        .expect("the daemon answers");
    assert!(line.contains("not complete"), "{line}");
    drop(clients);

    // A gigabyte of garbage: refused after a request's length; what is sent on is thrown away.
    let garbage = vec![b'x'; 1 << 20];
    let (mut sent, wanted) = (0_u64, if lab::soak() { 1_u64 << 30 } else { 64 << 20 });
    let start = Instant::now();
    while sent < wanted && start.elapsed() < LIMIT * 3 {
        let mut client = connect(&margay);
        // The daemon closes when it has had enough; another client goes on.
        while sent < wanted {
            match client.write(&garbage) {
                Ok(length) if length > 0 => sent += length as u64,
                _ => break,
            }
        }
    }
    lab::announce(&format!("{} MiB of garbage taken", sent >> 20));
    assert!(sent >= wanted, "only {sent} bytes were taken");
    for nonsense in [
        &b"\xff\xfe\x00\n"[..],
        b"[[[[[[[[[[\n",
        b"{\"command\": 7}\n",
        b"\n",
    ] {
        let mut client = connect(&margay);
        client.write_all(nonsense).expect("the daemon reads");
        let mut line = String::new();
        BufReader::new(&client)
            .read_line(&mut line)
            .expect("the daemon answers");
        assert!(line.contains("code"), "{line}");
    }
    answers(&margay, "after a lot of garbage");
    reader.join().expect("the slow reader is served all the while");
    drop((slow, silent));

    // What all this may cost: the dump once or twice, and some for each client.
    let (after, most) = memory(&margay);
    lab::announce(&format!(
        "resident {before} KiB before, {after} KiB after, {most} KiB at most"
    ));
    assert!(
        most < before + (256 << 10),
        "{before} KiB before, {most} KiB at most"
    );
    stream.flows_on(1000);
    let tally = stream.stop();
    margay.lost_nothing(&[tally]);
    assert_eq!(tally.corrupt, 0);
    wait_for("all clients are gone", LIMIT, || {
        let open =
            std::fs::read_dir(format!("/proc/{}/fd", margay.process().pid())).map_or(0, Iterator::count);
        if open < 200 {
            Ok(())
        } else {
            Err(format!("{open} descriptors"))
        }
    });
    margay.mirrors_kernel();
    margay.check_sums();
}
