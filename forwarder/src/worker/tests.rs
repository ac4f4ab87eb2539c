//! Two workers over rings in plain memory: the test is the kernel of every queue.

mod fragments;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use classifier::qsbr::Reader;

use super::fabric::{Command, Fabric, Returned};
use super::rounds::Rounds;
use super::wait::Sleep;
use crate::fib::{AdjId, AdjState, Adjacency, Fib, Group, Member};
use crate::frame::{Frame, Memory};
use crate::path::{Path, PathConfig};
use crate::port::queue::tests::{Kernel, queue};
use crate::reason::Reason;
use crate::ring::Desc;
use crate::settings::{AntiSpoof, Mode, PortAttrs, PortId, PortSpec, Role, Settings};
use crate::tables::Shared;
use crate::umem::Umem;

const FRAMES: u32 = 8192;
const IN: PortId = PortId(0);
const OUT: PortId = PortId(1);

/// A worker whose rounds the test takes one by one.
struct Hand {
    rounds: Rounds,
    reader: Reader,
    sleep: Sleep,
}

struct Lab {
    shared: Arc<Shared>,
    fabric: Arc<Fabric>,
    umem: Umem,
    hands: Vec<Hand>,
    kernels: Vec<Kernel>,
    fib: Fib,
    adj: AdjId,
    sequence: u32,
    /// How packets come in: payload bytes, and bytes in each UMEM frame.
    shape: (usize, usize),
}

fn spec(name: &str, ifindex: u32) -> PortSpec {
    PortSpec {
        name: name.to_owned(),
        ifindex,
        role: Role::Uplink,
        mode: Mode::Auto,
        on_exit_drop: false,
        fix_checksums: false,
        anti_spoof: AntiSpoof::Off,
        attrs: PortAttrs {
            mac: [2, 0, 0, 0, 0, ifindex as u8],
            mtu: 1500,
            up: true,
            ..PortAttrs::default()
        },
        acl_ingress: None,
        acl_egress: None,
    }
}

impl Lab {
    /// Port `IN` with the first worker, port `OUT` with the last one, and a route from the one to the other.
    fn new(workers: usize) -> Self {
        let settings = Settings {
            cores: (0..workers).collect(),
            frames: FRAMES,
            ..Settings::default()
        };
        let shared = Shared::new(&settings, 1);
        let mut fib = shared.fib();
        fib.set_tables(&[254]).expect("memory for a table");
        let adj = fib.add_adjacency(Adjacency {
            port: Some(OUT),
            ifindex: 2,
            neighbour: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            mtu: 1500,
            state: AdjState::Resolved {
                dst: [2, 0, 0, 0, 1, 1],
                src: [2, 0, 0, 0, 0, 2],
            },
        });
        let group = fib.add_group(Group::Forward {
            members: vec![Member { adj, weight: 1 }],
            prefsrc: None,
        });
        fib.insert(254, "198.18.0.0/15".parse().unwrap(), group).unwrap();

        let fabric = Fabric::new(workers).unwrap();
        let (umem, mut frames) = Umem::new(FRAMES, 2048).unwrap();
        let share = FRAMES as usize / workers;
        let mut hands = Vec::new();
        for number in 0..workers {
            let path = Path::new(PathConfig {
                worker: number,
                shared: shared.clone(),
            });
            let mine = frames.split_off(frames.len() - share);
            hands.push(Hand {
                rounds: Rounds::new(number, umem.clone(), mine, fabric.clone(), path),
                reader: shared.domain().register(),
                sleep: Sleep::new(&fabric.mailbox(number).waker).unwrap(),
            });
        }
        let mut lab = Self {
            shared,
            fabric,
            umem,
            hands,
            kernels: Vec::new(),
            fib,
            adj,
            sequence: 0,
            shape: (4, 1792),
        };
        for (port, owner) in [(IN, 0), (OUT, workers - 1)] {
            lab.shared
                .open_port(port, &spec(&format!("p{port}"), u32::from(port.0) + 1));
            let (queue, kernel) = queue(port.0, &lab.umem);
            lab.kernels.push(kernel);
            let mut queue = Some(queue);
            for (number, hand) in lab.hands.iter_mut().enumerate() {
                let queues = if number == owner {
                    vec![queue.take().unwrap()]
                } else {
                    vec![]
                };
                let command = Command::Open {
                    port,
                    owners: [owner as u16].into(),
                    queues,
                };
                hand.rounds
                    .command(command, &hand.reader.online(), &hand.sleep, Instant::now());
            }
        }
        lab
    }

    /// The next packet's header: it may be fragmented, and its identification is its number.
    fn header(&self) -> etherparse::IpHeaders {
        let header = etherparse::Ipv4Header {
            identification: self.sequence as u16,
            dont_fragment: false,
            time_to_live: 64,
            protocol: etherparse::IpNumber::UDP,
            source: [198, 18, 0, 1],
            destination: [198, 19, 0, (self.sequence % 200) as u8],
            ..etherparse::Ipv4Header::default()
        };
        etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
    }

    /// The kernel receives a UDP packet on `IN`, with a number in its payload; false when it has no frames for it.
    fn deliver(&mut self) -> bool {
        let mut packet = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0], [2, 0, 0, 0, 0, 1])
            .ip(self.header())
            .udp(1000, 2000);
        let (payload, each) = self.shape;
        let filler = (4..payload).map(|at| (at as u32 ^ self.sequence) as u8);
        let payload: Vec<u8> = self.sequence.to_be_bytes().into_iter().chain(filler).collect();
        builder.write(&mut packet, &payload).unwrap();
        let kernel = &mut self.kernels[IN.index()];
        let mut pieces = packet.chunks(each).peekable();
        if (kernel.fill.available(u32::MAX) as usize) < pieces.len() {
            return false;
        }
        while let Some(piece) = pieces.next() {
            let addr = kernel.fill.pop().unwrap();
            let mut frame = Frame::claim(addr, 0);
            self.umem.room_mut(&mut frame)[..piece.len()].copy_from_slice(piece);
            let _ = frame.surrender();
            let goes_on = pieces.peek().is_some();
            assert!(kernel.rx.push(Desc {
                addr,
                len: piece.len() as u32,
                options: if goes_on { libc::XDP_PKT_CONTD } else { 0 },
            }));
        }
        kernel.fill.release();
        kernel.rx.publish();
        self.sequence += 1;
        true
    }

    /// Lets packets of so many bytes through.
    fn set_mtu(&mut self, mtu: u32) {
        for port in [IN, OUT] {
            let mut attrs = spec("p", u32::from(port.0) + 1).attrs;
            attrs.mtu = mtu;
            self.shared.update_port(port, &attrs);
        }
        let adjacency = *self.fib.adjacency(self.adj).unwrap();
        assert!(self.fib.set_adjacency(self.adj, Adjacency { mtu, ..adjacency }));
    }

    fn round(&mut self) -> bool {
        let mut worked = false;
        for hand in &mut self.hands {
            worked |= hand.rounds.round(&hand.reader.online(), Instant::now());
            hand.reader.quiescent();
        }
        worked
    }

    /// The kernel sends what is on the TX ring of `OUT`; the packets, whole.
    fn leave(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let kernel = &mut self.kernels[OUT.index()];
        let mut packet = Vec::new();
        while let Some(desc) = kernel.tx.pop() {
            let frame = Frame::claim(desc.addr, desc.len);
            packet.extend_from_slice(self.umem.data(&frame));
            let _ = frame.surrender();
            assert!(kernel.completion.push(desc.addr));
            if !desc.goes_on() {
                packets.push(std::mem::take(&mut packet));
            }
        }
        assert!(packet.is_empty(), "packets are put on the ring whole");
        kernel.tx.release();
        kernel.completion.publish();
        packets
    }

    /// The same; the numbers of the packets, which are as they were sent.
    fn transmit(&mut self) -> Vec<u32> {
        let payload = self.shape.0;
        let of = |packet: Vec<u8>| {
            assert_eq!(packet[22], 63, "the TTL went down");
            let number = u32::from_be_bytes(packet[42..46].try_into().unwrap());
            assert_eq!(packet.len(), 42 + payload);
            for (at, &byte) in packet[42..].iter().enumerate().skip(4) {
                assert_eq!(byte, (at as u32 ^ number) as u8, "byte {at} of packet {number}");
            }
            number
        };
        self.leave().into_iter().map(of).collect()
    }

    fn census(&self) -> u64 {
        use std::sync::atomic::Ordering::Relaxed;
        let of = |number| {
            let gauges = &self.fabric.mailbox(number).gauges;
            [&gauges.free, &gauges.rx, &gauges.tx, &gauges.held]
                .map(|gauge| gauge.load(Relaxed))
                .iter()
                .sum::<u64>()
        };
        (0..self.hands.len()).map(of).sum::<u64>() + self.fabric.in_transit()
    }

    /// Ends the workers and takes every frame back.
    fn end(self) {
        let mut frames = Vec::new();
        for hand in self.hands {
            frames.extend(hand.rounds.end(&hand.reader.online()));
        }
        while let Some(Returned { queues, .. }) = self.fabric.returned.pop() {
            frames.extend(queues.into_iter().flat_map(|queue| queue.close()));
        }
        self.fabric.drain(&self.umem, &mut frames);
        let mut chunks: Vec<_> = frames
            .iter()
            .map(|frame| self.umem.chunk(frame.addr()).unwrap())
            .collect();
        frames.into_iter().for_each(crate::frame::tests::end);
        chunks.sort_unstable();
        assert_eq!(
            chunks,
            (0..FRAMES).collect::<Vec<_>>(),
            "each frame is there once"
        );
    }
}

/// Packets of `IN` that were forwarded, and dropped for a reason.
fn counted(lab: &Lab, reason: Reason) -> (u64, u64) {
    let totals = lab.shared.counters().port(IN);
    (totals.forwarded, totals.reason(reason).packets)
}

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
