//! A path with three ports, a FIB, and packets to send through it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::acl::{Action, Image, Limits, List, Origin, Rule};
use classifier::packet::{self, Headers};
use classifier::qsbr::Reader;
use etherparse::{PacketBuilder, SlicedPacket};

use crate::acl::Instance;
use crate::counters::PortTotals;
use crate::fib::{AdjId, AdjState, Adjacency, Fib, Group, GroupId, Member, TableId, VrfId};
use crate::frame::{Buffers, Frame, Memory};
use crate::path::{Kind, Outcome, Path, PathConfig};
use crate::reason::Reason;
use crate::settings::{AntiSpoof, Direction, Mode, PortAttrs, PortId, PortSpec, Role, Settings};
use crate::tables::{NeighbourRequest, Shared};

pub(crate) const UPLINK: PortId = PortId(0);
pub(crate) const WORKLOAD: PortId = PortId(1);
pub(crate) const OTHER: PortId = PortId(2);
const PORTS: [PortId; 3] = [UPLINK, WORKLOAD, OTHER];
const FRAMES: usize = 700;
const ROOM: usize = 2048;

/// A packet that left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) egress: PortId,
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
}

impl Sent {
    pub(crate) fn headers(&self) -> Headers {
        packet::parse(&self.bytes).expect("what leaves is well formed")
    }
}

pub(crate) struct Rig {
    pub(crate) shared: Arc<Shared>,
    pub(crate) fib: Fib,
    pub(crate) path: Path,
    mem: Buffers,
    pub(crate) out: Outcome,
    /// Frames that the path is not to have.
    kept: Vec<Frame>,
    /// Bytes of a packet that are put into one frame.
    each: usize,
    reader: Option<Reader>,
    now: Instant,
    /// The adjacencies of the three ports' neighbours, by port.
    pub(crate) adjs: [AdjId; 3],
    pub(crate) groups: [GroupId; 3],
}

/// Where rules made by tests stand.
pub(crate) fn nowhere() -> Origin {
    Origin {
        file: "test.toml".into(),
        line: 1,
    }
}

/// The Ethernet address of a port.
pub(crate) fn mac(port: PortId) -> [u8; 6] {
    [2, 0, 0, 0, 0, port.0 as u8]
}

/// The Ethernet address of a port's neighbour.
pub(crate) fn neighbour_mac(port: PortId) -> [u8; 6] {
    [2, 0, 0, 0, 1, port.0 as u8]
}

pub(crate) fn attrs(port: PortId) -> PortAttrs {
    PortAttrs {
        mac: mac(port),
        mtu: 1500,
        up: true,
        vrf: VrfId::DEFAULT,
        icmp4_source: Some(Ipv4Addr::new(10, port.0 as u8, 0, 254)),
        icmp6_sources: vec![format!("2001:db8:{}::fe", port.0).parse().unwrap()],
    }
}

pub(crate) fn spec(port: PortId) -> PortSpec {
    PortSpec {
        name: format!("p{port}"),
        ifindex: 10 + u32::from(port.0),
        role: if port == WORKLOAD {
            Role::Workload
        } else {
            Role::Uplink
        },
        mode: Mode::Auto,
        on_exit_drop: false,
        fix_checksums: port == WORKLOAD,
        anti_spoof: if port == WORKLOAD {
            AntiSpoof::Strict
        } else {
            AntiSpoof::Off
        },
        attrs: attrs(port),
        acl_ingress: None,
        acl_egress: None,
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(&Settings::default())
    }

    pub(crate) fn with(settings: &Settings) -> Self {
        Self::with_room(settings, ROOM, ROOM)
    }

    /// For packets of up to 9,000 bytes, which come in with `each` bytes in a frame.
    pub(crate) fn jumbo(each: usize) -> Self {
        let rig = Self::with_room(&Settings::default(), 16_384, each);
        for port in PORTS {
            rig.set_mtu(port, 9000);
        }
        rig
    }

    pub(crate) fn set_mtu(&self, port: PortId, mtu: u32) {
        self.shared.update_port(port, &PortAttrs { mtu, ..attrs(port) });
    }

    fn with_room(settings: &Settings, room: usize, each: usize) -> Self {
        let shared = Shared::new(settings, 7);
        let mut fib = shared.fib();
        let mut groups = [GroupId(0); 3];
        let mut adjs = [AdjId(0); 3];
        for (i, port) in PORTS.into_iter().enumerate() {
            shared.open_port(port, &spec(port));
            adjs[i] = fib.add_adjacency(Adjacency {
                port: Some(port),
                ifindex: 10 + i as u32,
                neighbour: IpAddr::V4(Ipv4Addr::new(10, i as u8, 0, 1)),
                mtu: 0,
                state: AdjState::Resolved {
                    dst: neighbour_mac(port),
                    src: mac(port),
                },
            });
            let members = vec![Member {
                adj: adjs[i],
                weight: 1,
            }];
            groups[i] = fib.add_group(Group::Forward {
                members,
                prefsrc: None,
            });
            fib.insert(254, format!("10.{i}.0.0/16").parse().unwrap(), groups[i])
                .unwrap();
            fib.insert(254, format!("2001:db8:{i}::/48").parse().unwrap(), groups[i])
                .unwrap();
        }
        let (mem, free) = Buffers::new(FRAMES, room);
        let mut out = Outcome::new();
        out.free.extend(free);
        Self {
            path: Path::new(PathConfig {
                worker: 0,
                shared: shared.clone(),
            }),
            reader: Some(shared.domain().register()),
            shared,
            fib,
            mem,
            out,
            kept: Vec::new(),
            each,
            now: Instant::now(),
            adjs,
            groups,
        }
    }

    /// Gives a prefix a group of its own.
    pub(crate) fn route(&mut self, prefix: &str, group: Group) -> GroupId {
        self.route_in(254, prefix, group)
    }

    /// The same in any table.
    pub(crate) fn route_in(&mut self, table: TableId, prefix: &str, group: Group) -> GroupId {
        let id = self.fib.add_group(group);
        self.fib.insert(table, prefix.parse().unwrap(), id).unwrap();
        id
    }

    pub(crate) fn set_state(&mut self, port: PortId, state: AdjState) {
        let id = self.adjs[port.index()];
        let adjacency = *self.fib.adjacency(id).unwrap();
        assert!(self.fib.set_adjacency(id, Adjacency { state, ..adjacency }));
    }

    pub(crate) fn acl(
        &self,
        port: PortId,
        direction: Direction,
        rules: Vec<Rule>,
        default: Action,
    ) -> Arc<Instance> {
        let list = List {
            name: "test".into(),
            default,
            rules,
            origin: nowhere(),
        };
        let image = Image::compile(&list, &Limits::default()).unwrap();
        let instance = Arc::new(Instance::new(Arc::new(image), 1));
        self.shared.set_acl(port, direction, Some(instance.clone()));
        instance
    }

    /// Sends packets in through a port, in bursts, and returns what leaves.
    pub(crate) fn send(&mut self, port: PortId, packets: &[Vec<u8>]) -> Vec<Sent> {
        let mut sent = Vec::new();
        for burst in packets.chunks(crate::path::BURST) {
            let mut rx = Vec::new();
            for bytes in burst {
                let count = bytes.len().div_ceil(self.each).max(1);
                let mut frames = self.out.free.split_off(self.out.free.len() - count);
                for frame in &mut frames {
                    // What an earlier packet left behind must not matter.
                    self.mem.room_mut(frame).fill(0xa5);
                    self.mem.set_len(frame, 0);
                }
                rx.push(match frames.len() {
                    1 => {
                        let mut frame = frames.remove(0);
                        self.mem.set_len(&mut frame, bytes.len());
                        self.mem.data_mut(&mut frame).copy_from_slice(bytes);
                        frame
                    }
                    _ => self.mem.spread(frames, bytes, self.each),
                });
            }
            let reader = self.reader.as_ref().unwrap();
            self.path
                .burst(&mut self.mem, &reader.online(), port, &mut rx, &mut self.out);
            assert!(rx.is_empty());
            sent.extend(self.collect());
        }
        sent
    }

    /// The same with so many frames less to take from.
    pub(crate) fn burst_with(&mut self, port: PortId, packets: &[Vec<u8>], kept: Vec<Frame>) -> Vec<Sent> {
        self.kept = kept;
        let sent = self.send(port, packets);
        self.out.free.append(&mut self.kept);
        sent
    }

    pub(crate) fn send_one(&mut self, port: PortId, packet: Vec<u8>) -> Option<Sent> {
        let mut sent = self.send(port, &[packet]);
        assert!(sent.len() <= 1);
        sent.pop()
    }

    /// Lets time pass and ticks.
    pub(crate) fn after(&mut self, time: Duration) -> Vec<Sent> {
        self.now += time;
        let reader = self.reader.as_ref().unwrap();
        self.path
            .tick(&mut self.mem, &reader.online(), self.now, &mut self.out);
        self.collect()
    }

    /// Plays the worker: puts departures on the wire, gives frames back, and checks that none is lost.
    fn collect(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        for departure in self.out.tx.drain(..) {
            self.path.counters().sent(&departure);
            let bytes = self.mem.parts(&departure.frame).collect::<Vec<_>>().concat();
            assert_eq!(departure.len as usize, bytes.len());
            assert_eq!(self.mem.total(&departure.frame), bytes.len());
            sent.push(Sent {
                egress: departure.egress,
                kind: departure.kind,
                bytes,
            });
            self.mem.release(departure.frame, &mut self.out.free);
        }
        self.reader.as_mut().unwrap().quiescent();
        self.shared.domain().reclaim();
        assert_eq!(
            self.out.free.len() + self.path.held_frames() + self.kept.len(),
            FRAMES,
            "every frame is in one place"
        );
        for port in PORTS {
            let totals = self.totals(port);
            let places = totals.forwarded + totals.replied + totals.dropped() + totals.held;
            assert_eq!(
                totals.rx_packets, places,
                "{port}: every packet has one fate: {totals:?}"
            );
        }
        sent
    }

    pub(crate) fn totals(&self, port: PortId) -> PortTotals {
        self.shared.counters().port(port)
    }

    /// The reasons that packets from a port were dropped for.
    pub(crate) fn drops(&self, port: PortId) -> Vec<(Reason, u64)> {
        let totals = self.totals(port);
        let all = Reason::ALL
            .iter()
            .map(|reason| (*reason, totals.reason(*reason).packets));
        all.filter(|(_, packets)| *packets > 0).collect()
    }

    pub(crate) fn requests(&self) -> Vec<NeighbourRequest> {
        std::iter::from_fn(|| self.shared.next_request()).collect()
    }

    /// Drops everything that waits.
    pub(crate) fn purge(&mut self, port: Option<PortId>) {
        let reader = self.reader.as_ref().unwrap();
        self.path.purge(&self.mem, &reader.online(), port, &mut self.out);
        self.collect();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.purge(None);
            assert_eq!(self.path.held(), 0);
        }
        for frame in self.out.free.drain(..) {
            frame.surrender();
        }
    }
}

/// A UDP packet over IPv4 from the network of one port to that of another.
pub(crate) fn udp4(from: u8, to: u8, ttl: u8, payload: usize) -> Vec<u8> {
    build4([10, from, 0, 9], [10, to, 0, 9], ttl, payload)
}

pub(crate) fn build4(src: [u8; 4], dst: [u8; 4], ttl: u8, payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 2, 9], [2, 0, 0, 0, 0, 0])
        .ipv4(src, dst, ttl)
        .udp(4000, 53);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &vec![0x5a; payload]).unwrap();
    bytes
}

/// The same over IPv6.
pub(crate) fn udp6(from: u16, to: u16, hops: u8, payload: usize) -> Vec<u8> {
    let address = |net: u16| {
        let address: std::net::Ipv6Addr = format!("2001:db8:{net}::9").parse().unwrap();
        address.octets()
    };
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 2, 9], [2, 0, 0, 0, 0, 0])
        .ipv6(address(from), address(to), hops)
        .udp(4000, 53);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &vec![0x5a; payload]).unwrap();
    bytes
}

/// A TCP segment over IPv4.
pub(crate) fn tcp4(from: u8, to: u8, flags: &str, payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 2, 9], [2, 0, 0, 0, 0, 0])
        .ipv4([10, from, 0, 9], [10, to, 0, 9], 64)
        .tcp(4000, 80, 1_000_000, 1024);
    let builder = flags.chars().fold(builder, |builder, flag| match flag {
        'S' => builder.syn(),
        'A' => builder.ack(77),
        'R' => builder.rst(),
        _ => builder.fin(),
    });
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &vec![0x5a; payload]).unwrap();
    bytes
}

/// Changes an IPv4 header and sets its checksum right.
pub(crate) fn edit4(mut packet: Vec<u8>, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    edit(&mut packet[14..]);
    let header_len = usize::from(packet[14] & 15) * 4;
    packet[24..26].fill(0);
    let sum = classifier::checksum::sum(&packet[14..14 + header_len], 0);
    let check = !classifier::checksum::fold(sum);
    packet[24..26].copy_from_slice(&check.to_be_bytes());
    packet
}

/// A packet with options, which must be a multiple of 4 bytes.
pub(crate) fn with_options(mut packet: Vec<u8>, options: &[u8]) -> Vec<u8> {
    packet.splice(34..34, options.iter().copied());
    edit4(packet, |ip| {
        ip[0] += (options.len() / 4) as u8;
        let len = u16::from_be_bytes([ip[2], ip[3]]) + options.len() as u16;
        ip[2..4].copy_from_slice(&len.to_be_bytes());
    })
}

/// Reads a packet by a parser that is not ours and checks every checksum in it.
pub(crate) fn verify(bytes: &[u8]) {
    use etherparse::{NetSlice, TransportSlice};
    let sliced = SlicedPacket::from_ethernet(bytes).expect("etherparse accepts what leaves");
    let transport = sliced.transport.clone();
    match sliced.net.expect("an IP packet") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(
                header.calc_header_checksum(),
                header.header_checksum,
                "IPv4 header checksum"
            );
            match transport {
                Some(TransportSlice::Udp(udp)) => {
                    let payload = udp.payload();
                    let checksum = udp.to_header().calc_checksum_ipv4(&header, payload).unwrap();
                    assert_eq!(checksum, udp.checksum(), "UDP checksum");
                }
                Some(TransportSlice::Tcp(tcp)) => {
                    let checksum = tcp.calc_checksum_ipv4(header.source, header.destination).unwrap();
                    assert_eq!(checksum, tcp.checksum(), "TCP checksum");
                }
                Some(TransportSlice::Icmpv4(icmp)) => {
                    let checksum = icmp.icmp_type().calc_checksum(icmp.payload());
                    assert_eq!(checksum, icmp.checksum(), "ICMP checksum");
                }
                _ => {}
            }
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            match transport {
                Some(TransportSlice::Udp(udp)) => {
                    let checksum = udp
                        .to_header()
                        .calc_checksum_ipv6(&header, udp.payload())
                        .unwrap();
                    assert_eq!(checksum, udp.checksum(), "UDP checksum");
                }
                Some(TransportSlice::Tcp(tcp)) => {
                    let checksum = tcp.calc_checksum_ipv6(header.source, header.destination).unwrap();
                    assert_eq!(checksum, tcp.checksum(), "TCP checksum");
                }
                Some(TransportSlice::Icmpv6(icmp)) => {
                    assert!(
                        icmp.is_checksum_valid(header.source, header.destination),
                        "ICMPv6 checksum"
                    );
                }
                _ => {}
            }
        }
        NetSlice::Arp(_) => panic!("no ARP leaves a worker"),
    }
}
