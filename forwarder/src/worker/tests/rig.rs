//! Workers over rings in plain memory, of which the test is the kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use classifier::qsbr::Reader;

use crate::fib::{AdjId, AdjState, Adjacency, Fib, Group, Member};
use crate::frame::{Frame, Memory};
use crate::path::{Path, PathConfig};
use crate::port::queue::tests::{Kernel, queue};
use crate::reason::Reason;
use crate::ring::Desc;
use crate::settings::{AntiSpoof, Mode, PortAttrs, PortId, PortSpec, Role, Settings};
use crate::tables::Shared;
use crate::umem::Umem;
use crate::worker::fabric::{Command, Fabric, Returned};
use crate::worker::rounds::Rounds;
use crate::worker::wait::Sleep;

pub(super) const FRAMES: u32 = 8192;
pub(super) const IN: PortId = PortId(0);
pub(super) const OUT: PortId = PortId(1);

/// A worker whose rounds the test takes one by one.
pub(super) struct Hand {
    pub(super) rounds: Rounds,
    pub(super) reader: Reader,
    pub(super) sleep: Sleep,
}

pub(super) struct Lab {
    pub(super) shared: Arc<Shared>,
    pub(super) fabric: Arc<Fabric>,
    pub(super) umem: Umem,
    pub(super) hands: Vec<Hand>,
    pub(super) kernels: Vec<Kernel>,
    pub(super) fib: Fib,
    pub(super) adj: AdjId,
    pub(super) sequence: u32,
    /// How packets come in: payload bytes, and bytes in each UMEM frame.
    pub(super) shape: (usize, usize),
}

pub(super) fn spec(name: &str, ifindex: u32) -> PortSpec {
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
    pub(super) fn new(workers: usize) -> Self {
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
    pub(super) fn header(&self) -> etherparse::IpHeaders {
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
    pub(super) fn deliver(&mut self) -> bool {
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
    pub(super) fn set_mtu(&mut self, mtu: u32) {
        for port in [IN, OUT] {
            let mut attrs = spec("p", u32::from(port.0) + 1).attrs;
            attrs.mtu = mtu;
            self.shared.update_port(port, &attrs);
        }
        let adjacency = *self.fib.adjacency(self.adj).unwrap();
        assert!(self.fib.set_adjacency(self.adj, Adjacency { mtu, ..adjacency }));
    }

    pub(super) fn round(&mut self) -> bool {
        let mut worked = false;
        for hand in &mut self.hands {
            worked |= hand.rounds.round(&hand.reader.online(), Instant::now());
            hand.reader.quiescent();
        }
        worked
    }

    /// The kernel sends what is on the TX ring of `OUT`; the packets, whole.
    pub(super) fn leave(&mut self) -> Vec<Vec<u8>> {
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
    pub(super) fn transmit(&mut self) -> Vec<u32> {
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

    pub(super) fn census(&self) -> u64 {
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
    pub(super) fn end(self) {
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
pub(super) fn counted(lab: &Lab, reason: Reason) -> (u64, u64) {
    let totals = lab.shared.counters().port(IN);
    (totals.forwarded, totals.reason(reason).packets)
}
