//! Workers over rings in plain memory, round by round.

mod fragments;
mod rig;

use std::time::Instant;

use super::fabric::{Command, Fabric, Returned};
use crate::reason::Reason;
use crate::ring::Desc;
use crate::settings::Settings;
use crate::tables::Shared;
use crate::umem::Umem;
use rig::{FRAMES, IN, Lab, OUT, counted};

fn flows_in_order_and_no_frame_is_lost(workers: usize) {
    let mut lab = Lab::new(workers);
    in_order(&mut lab, if cfg!(miri) { 5 } else { 2000 });
    lab.end();
}

fn in_order(lab: &mut Lab, bursts: usize) {
    let mut next = 0;
    for burst in 0..bursts {
        for _ in 0..burst % 100 {
            assert!(lab.deliver(), "no frame for packet {}", lab.sequence);
        }
        while lab.round() {
            for number in lab.transmit() {
                assert_eq!(number, next, "in order");
                next += 1;
            }
        }
        assert_eq!(lab.census(), u64::from(FRAMES), "after burst {burst}");
    }
    assert_eq!(next, lab.sequence);
    assert_eq!(counted(lab, Reason::TxRingFull), (u64::from(next), 0));
}

/// Packets in several frames: as the kernel copies them, as a driver may spread them with one byte at the end, and in more
/// frames than the egress queue takes.
#[test]
fn packets_in_several_frames_are_forwarded_whole_and_lose_no_frame() {
    for workers in [1, 2] {
        for shape in [(3500, 1792), (1751, 1792), (6000, 1600), (1450, 200)] {
            let mut lab = Lab::new(workers);
            lab.shape = shape;
            lab.set_mtu(9000);
            in_order(&mut lab, if cfg!(miri) { 2 } else { 120 });
            lab.end();
        }
    }
}

/// A packet of many frames for an egress queue that takes fewer, even moved together.
#[test]
fn what_does_not_fit_the_egress_queues_frames_is_dropped() {
    let mut lab = Lab::new(1);
    lab.shape = (8000, 1792);
    lab.set_mtu(9000);
    for _ in 0..10 {
        assert!(lab.deliver());
        while lab.round() {}
    }
    assert_eq!(lab.transmit(), Vec::<u32>::new());
    assert_eq!(counted(&lab, Reason::MtuExceeded), (0, 10));
    assert_eq!(lab.census(), u64::from(FRAMES));
    lab.end();
}

/// What waits for the second half of a packet, the port being closed meanwhile, is not lost.
#[test]
fn half_a_packet_comes_back_with_its_port() {
    let mut lab = Lab::new(1);
    lab.shape = (3500, 1792);
    assert!(lab.deliver());
    let kernel = &mut lab.kernels[IN.index()];
    let addr = kernel.fill.pop().unwrap();
    kernel.fill.release();
    assert!(kernel.rx.push(Desc {
        addr,
        len: 1792,
        options: libc::XDP_PKT_CONTD,
    }));
    kernel.rx.publish();
    while lab.round() {}
    assert_eq!(
        lab.census(),
        u64::from(FRAMES),
        "half a packet counts as being received"
    );
    lab.end();
}

#[test]
fn one_worker_forwards_in_order_and_loses_no_frame() {
    flows_in_order_and_no_frame_is_lost(1);
}

#[test]
fn a_packet_for_another_workers_queue_is_handed_over_and_its_frame_comes_home() {
    flows_in_order_and_no_frame_is_lost(2);
    flows_in_order_and_no_frame_is_lost(4);
}

#[test]
fn what_the_egress_port_does_not_take_is_dropped_and_counted() {
    for workers in [1, 2] {
        let mut lab = Lab::new(workers);
        for _ in 0..4000 {
            if !lab.deliver() {
                lab.round();
                lab.round();
                assert!(
                    lab.deliver(),
                    "a stuck egress port must not starve the ingress port"
                );
            }
        }
        while lab.round() {}
        let (forwarded, full) = counted(&lab, Reason::TxRingFull);
        assert_eq!((forwarded, full), (2048, 4000 - 2048), "{workers} workers");
        // The worker of the egress queue has dropped them, and keeps them as they were to leave.
        let mut kept = Vec::new();
        lab.shared.watch().recent(workers - 1).last(usize::MAX, &mut kept);
        assert_eq!(kept.len() as u64, full);
        assert!(
            kept.iter().all(|packet| packet.reason == Reason::TxRingFull
                && packet.port == IN
                && packet.data[22] == 63)
        );
        assert_eq!(lab.census(), u64::from(FRAMES));
        lab.end();
    }
}

#[test]
fn a_port_that_is_closed_gives_everything_back() {
    for workers in [1, 2] {
        let mut lab = Lab::new(workers);
        for _ in 0..50 {
            assert!(lab.deliver());
        }
        // Packets are on the TX ring of the port (one worker) or on their way to it (two).
        let first = &mut lab.hands[0];
        first.rounds.round(&first.reader.online(), Instant::now());
        for hand in &mut lab.hands {
            hand.rounds.command(
                Command::Close { port: OUT },
                &hand.reader.online(),
                &hand.sleep,
                Instant::now(),
            );
        }
        let before = Instant::now();
        let mut back = Vec::new();
        while back.len() < workers {
            lab.round();
            back.extend(std::iter::from_fn(|| lab.fabric.returned.pop()));
            assert!(before.elapsed().as_secs() < 10, "the queues do not come back");
        }
        for Returned { worker, port, queues } in back {
            assert_eq!((port, queues.len()), (OUT, usize::from(worker == workers - 1)));
            for queue in queues {
                let adopt = Command::Adopt(queue.close());
                let hand = &mut lab.hands[worker];
                hand.rounds
                    .command(adopt, &hand.reader.online(), &hand.sleep, Instant::now());
            }
        }
        assert!(lab.deliver(), "the other port goes on");
        while lab.round() {}
        let (forwarded, closed) = counted(&lab, Reason::PortClosed);
        assert_eq!(forwarded + closed, 51, "every packet has one fate");
        assert!(closed > 0);
        assert_eq!(lab.census(), u64::from(FRAMES));
        lab.end();
    }
}

/// A worker that panics takes the process with it, with a message. The test runs itself once more to see that from outside: the worker
/// is one that the fabric does not know, a mistake that is found on its own thread.
#[test]
fn a_panic_ends_the_process() {
    const INSIDE: &str = "MARGAY_TEST_WORKER_PANICS";
    if std::env::var_os(INSIDE).is_some() {
        let settings = Settings::default();
        let (umem, free) = Umem::new(FRAMES, 2048).unwrap();
        free.into_iter().for_each(crate::frame::tests::end);
        let _ = super::Worker::start(super::Plan {
            number: 7,
            core: 0,
            profile: settings.profile,
            umem,
            free: Vec::new(),
            shared: Shared::new(&settings, 1),
            fabric: Fabric::new(1).unwrap(),
            beat: crate::steer::beats::Beats::in_memory().unwrap().of(7),
        });
        // Nobody gets here: the worker's end is everybody's.
        std::process::exit(0);
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "worker::tests::a_panic_ends_the_process",
            "--exact",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("worker 7 has panicked"), "{said}");
}

#[test]
fn what_waited_for_a_stalled_worker_is_dropped_and_counted() {
    let mut lab = Lab::new(1);
    for _ in 0..200 {
        assert!(lab.deliver());
    }
    let hand = &mut lab.hands[0];
    hand.rounds.discard_stale(&hand.reader.online());
    while lab.round() {}
    assert_eq!(counted(&lab, Reason::Stale), (0, 200));
    assert!(lab.deliver());
    while lab.round() {}
    assert_eq!(
        counted(&lab, Reason::Stale),
        (1, 200),
        "what comes later is forwarded"
    );
    assert_eq!(lab.census(), u64::from(FRAMES));
    lab.end();
}
