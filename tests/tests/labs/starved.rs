//! A worker that gets no processor: what does not fit its rings any more, and what another worker cannot hand over to it, is dropped
//! under a reason each, and seen where drops are seen.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a (worker 1) r (worker 0) up0 ── u 203.0.113.1
//! ```

use std::fs;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use tests::lab::skip;
use tests::margay::list;
use tests::sys::StoppedThread;
use tests::{Host, LIMIT, Margay, schema, wait_for};

use crate::common::{Node, PORTS, node};
use crate::watch::{U4, background, flood, tshark};

/// Container a, and margayd with this under `[runtime]`; all ports are open.
fn build(name: &str, runtime: &str) -> Option<(Node, Host, Arc<Margay>)> {
    let net = node(name)?;
    let a = net.container("a", 2);
    let runtime = format!("[runtime]\nprofile = \"adaptive\"\n{runtime}\n");
    let margay = Margay::start(&net.lab, &net.r, &format!("{runtime}{PORTS}"));
    margay.has_port("up0");
    margay.has_port("cali-a");
    a.reaches("10.0.0.2");
    Some((net, a, margay))
}

/// Waits until drops are counted as `counted` wants them.
#[track_caller]
fn until(margay: &Margay, counted: impl Fn(&Margay) -> bool) {
    wait_for("the reasons have counted", LIMIT, || {
        if counted(margay) {
            Ok(())
        } else {
            Err(margay.json("drops").to_string())
        }
    });
}

#[test]
fn what_a_stopped_worker_leaves_behind() {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
        return skip("starved", "two workers need two cores");
    }
    // Workers count as gone only after a minute: the steering program must not step in.
    let Some((_net, a, margay)) = build(
        "starved",
        "workers = [0, 1]\nframes = 16384\nstall_after = \"60s\"",
    ) else {
        return;
    };
    let file = margay.host().directory().join("drops.pcapng");
    let words = format!(
        "capture --port cali-a --at drop -w {} udp dst port 5353",
        file.display()
    );
    let capture = background(&margay, "capture", &words);
    let trace = background(&margay, "trace", "-j trace -n 1 udp dst port 5353");
    wait_for("both watch", LIMIT, || {
        file.exists() && trace.log().contains("\"begin\"")
    });
    let workers = margay.threads("margay-w");
    assert_eq!(workers.len(), 2);
    // A port's queue and the other's belong to one worker each. With the uplink's stopped the hand-over ring (1,024 packets) fills;
    // with the workload's stopped the rings between it and the kernel (2,048 packets) do.
    for worker in workers {
        let stopped = StoppedThread::stop(worker).expect("a thread of margayd can be stopped");
        let sent = flood(&a, U4, 20_000, Duration::from_millis(500));
        assert!(sent > 5_000, "{sent}");
        drop(stopped);
        // What waited is worked off before the other worker's turn.
        a.reaches("10.0.0.2");
    }
    let not_received = |margay: &Margay| margay.drops("rx_ring_full") + margay.drops("rx_no_frame");
    until(&margay, |margay| {
        margay.drops("handover_full") > 0 && not_received(margay) > 0
    });
    let kept = margay.json("drops last 4096 udp dst port 5353");
    let rows = list(&kept, "packets");
    assert!(
        !rows.is_empty()
            && rows
                .iter()
                .all(|row| row["reason"] == "handover_full" && row["port"] == "cali-a"),
        "{kept}"
    );
    let said =
        margay.json("explain --in cali-a --from 10.65.0.2 --to 10.0.0.2 --proto udp --sport 9 --dport 5353");
    assert_eq!(said["verdict"], "forward", "no table is against it: {said}");
    let traced = schema::check_lines("trace", &trace.log());
    assert!(traced.iter().any(|line| line["event"] == "packet"), "{traced:?}");
    trace.end();
    wait_for("drops are captured", LIMIT, || {
        fs::metadata(&file).is_ok_and(|file| file.len() > 10_000)
    });
    capture.signal(libc::SIGINT);
    wait_for("the capture ends", LIMIT, || capture.exited().is_some());
    let captured = tshark(&file);
    assert!(!captured.is_empty());
    for (port, comment, _) in &captured {
        assert!(
            port == "cali-a" && comment.contains("handover_full"),
            "{port}: {comment}"
        );
    }
    margay.check_sums();
}

/// A daemon that is stopped as a whole: what waited in its rings is stale afterwards, and what came to a closed port meanwhile was
/// dropped by the steering program.
#[test]
fn what_a_stopped_daemon_leaves_behind() {
    let Some((_net, a, margay)) = build("stopped", "workers = [0]\nframes = 8192\nstall_after = \"200ms\"")
    else {
        return;
    };
    margay.process().signal(libc::SIGSTOP);
    flood(&a, U4, 2_000, Duration::from_secs(1));
    margay.process().signal(libc::SIGCONT);
    until(&margay, |margay| {
        margay.drops("stale") > 0 && margay.drops("port_closed") > 0
    });
    let kept = margay.json("drops last 4096 udp dst port 5353");
    assert!(
        list(&kept, "packets").iter().any(|row| row["reason"] == "stale"),
        "{kept}"
    );
    a.reaches("10.0.0.2");
    margay.check_sums();
}

/// Frames that grew beyond a chunk of the UMEM before margayd could close the port.
#[test]
fn what_fits_no_frame() {
    let Some((net, a, margay)) = build(
        "oversize",
        "workers = [0]\nframes = 8192\nframe_size = 2048\nstall_after = \"60s\"",
    ) else {
        return;
    };
    margay.process().signal(libc::SIGSTOP);
    net.r.sh("ip link set cali-a mtu 3000");
    a.sh("ip link set eth0 mtu 3000");
    let socket = a
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("a UDP port is free");
    for _ in 0..10 {
        socket.send_to(&[0; 2_500], (U4, 9)).expect("the link is up");
    }
    margay.process().signal(libc::SIGCONT);
    until(&margay, |margay| margay.drops("oversize") == 10);
}
