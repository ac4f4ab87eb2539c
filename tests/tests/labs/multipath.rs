//! Flows over four ways at once: shares by weight, one flow on one way, and what moves when a way is lost.
//!
//! ```text
//!   a 10.65.0.2 fd65::2 ── cali-a r (margayd) ─┬ up0 10.0.0.1 ── 10.0.0.2 r0 ┐
//!                                              ├ up1 10.0.1.1 ── 10.0.1.2 r1 ├ u (203.0.113.0/24 and 2001:db8:113::/48)
//!                                              ├ up2 10.0.2.1 ── 10.0.2.2 r2 │
//!                                              └ up3 10.0.3.1 ── 10.0.3.2 r3 ┘
//! ```
//! Nodes that announce the same address by BGP are in `anycast`.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tests::raw::{Mac, Wire, ethernet, ipv4, ipv6, udp};
use tests::{Host, LIMIT, Lab, Margay, wait_for};

use crate::common::PORTS;

const FLOWS: usize = 10_000;
const WAYS: usize = 4;

struct Net {
    _lab: Arc<Lab>,
    a: Host,
    r: Host,
    u: Host,
    margay: Arc<Margay>,
    /// Of a's port on r.
    gateway: Mac,
}

fn build(name: &str, more: &str) -> Option<Net> {
    let lab = Lab::new(name)?;
    let (r, u) = (lab.host("r"), lab.host("u"));
    for way in 0..WAYS {
        lab.veth(&r, &format!("up{way}"), &u, &format!("r{way}"));
        r.sh(&format!(
            "ip addr add 10.0.{way}.1/24 dev up{way}; ip -6 addr add fd00:{way}::1/64 dev up{way} nodad"
        ));
        u.sh(&format!(
            "ip addr add 10.0.{way}.2/24 dev r{way}; ip -6 addr add fd00:{way}::2/64 dev r{way} nodad"
        ));
    }
    // What arrives is counted on the wire and then thrown away, silently.
    u.sh(
        "ip route add blackhole 203.0.113.0/24; ip -6 route add blackhole 2001:db8:113::/48
          ip route add 10.65.0.0/24 via 10.0.0.1; ip -6 route add fd65::/64 via fd00:0::1",
    );
    let a = lab.container("a", &r, "cali-a", "10.65.0.2", "fd65::2");
    let margay = Margay::start(&lab, &r, &format!("{PORTS}{more}"));
    for way in 0..WAYS {
        margay.has_port(&format!("up{way}"));
    }
    margay.has_port("cali-a");
    let gateway = r.mac("cali-a");
    Some(Net {
        _lab: lab,
        a,
        r,
        u,
        margay,
        gateway,
    })
}

/// A generator of numbers that is the same in every run (Knuth's MMIX).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }
}

impl Net {
    fn v4(&self, packet: &[u8]) -> Vec<u8> {
        ethernet(self.gateway, self.a.mac("eth0"), 0x0800, packet)
    }

    /// UDP datagrams of so many flows, the same in every run.
    fn flows(&self) -> Vec<Vec<u8>> {
        let mut random = Random(7);
        let flow = |number: u32, random: &mut Random| {
            let bits = random.next();
            let to = Ipv4Addr::new(203, 0, 113, bits as u8);
            let ports = ((bits >> 8) as u16 | 1024, random.next() as u16 | 1);
            let datagram = udp(None, ports.0, ports.1, &number.to_be_bytes());
            self.v4(&ipv4(Ipv4Addr::new(10, 65, 0, 2), to, 64, 17, &datagram))
        };
        (0..FLOWS as u32)
            .map(|number| flow(number, &mut random))
            .collect()
    }

    /// Sends frames, whose last four bytes are their numbers, and answers the way that each of them took.
    #[track_caller]
    fn ways(&self, frames: &[Vec<u8>]) -> Vec<usize> {
        self.ways_without(None, frames)
    }

    /// The same while the far end of one way is down.
    #[track_caller]
    fn ways_without(&self, down: Option<usize>, frames: &[Vec<u8>]) -> Vec<usize> {
        let up = (0..WAYS).filter(|way| Some(*way) != down);
        let wires: Vec<(usize, Wire)> = up
            .map(|way| (way, Wire::open(&self.u, &format!("r{way}"))))
            .collect();
        let sender = Wire::open(&self.a, "eth0");
        let mut seen: HashMap<u32, usize> = HashMap::new();
        let look = |seen: &mut HashMap<u32, usize>| {
            for &(way, ref wire) in &wires {
                wire.count(|frame| {
                    let Some(tail) = frame.last_chunk::<4>() else {
                        return false;
                    };
                    let number = u32::from_be_bytes(*tail);
                    let ours = frame.get(12..14) != Some(&[0x08, 0x06])
                        && (number as usize) < frames.len()
                        && frame.len() == frames[number as usize].len();
                    if ours && let Some(other) = seen.insert(number, way) {
                        assert_eq!(other, way, "packet {number} was seen twice");
                    }
                    ours
                });
            }
        };
        // Few at a time, so that no queue of the kernel overflows; what a busy machine loses is sent again.
        for round in 0..20 {
            let missing: Vec<usize> = (0..frames.len())
                .filter(|n| !seen.contains_key(&(*n as u32)))
                .collect();
            if missing.is_empty() {
                break;
            }
            assert!(round < 19, "{} of {} never arrive", missing.len(), frames.len());
            for some in missing.chunks(100) {
                let before = seen.len();
                for number in some {
                    sender.send(&frames[*number]);
                }
                let end = std::time::Instant::now() + std::time::Duration::from_millis(500);
                while seen.len() < before + some.len() && std::time::Instant::now() < end {
                    look(&mut seen);
                    std::thread::yield_now();
                }
            }
        }
        (0..frames.len()).map(|number| seen[&(number as u32)]).collect()
    }

    /// Waits until every gateway is known, so that nothing is held.
    #[track_caller]
    fn resolved(&self) {
        wait_for("all gateways are resolved", LIMIT, || {
            let shown = self.margay.json("nexthop show");
            let resolved = shown.to_string().matches("\"resolved\"").count();
            if resolved >= WAYS {
                Ok(())
            } else {
                Err(shown.to_string())
            }
        });
    }
}

/// Shares of the ways, in percent.
fn shares(ways: &[usize]) -> [f64; WAYS] {
    let mut counts = [0; WAYS];
    for way in ways {
        counts[*way] += 1;
    }
    counts.map(|count| f64::from(count) * 100.0 / ways.len() as f64)
}

#[test]
fn ten_thousand_flows() {
    let Some(net) = build("ecmp", "") else { return };
    let frames = net.flows();
    for (weights, of) in [([1, 1, 1, 1], 4.0), ([1, 2, 3, 4], 10.0)] {
        let hops: String = weights
            .iter()
            .enumerate()
            .map(|(way, weight)| format!(" nexthop via 10.0.{way}.2 weight {weight}"))
            .collect();
        net.r.sh(&format!("ip route replace 203.0.113.0/24{hops}"));
        net.margay.mirrors_kernel();
        net.resolved();
        let before = net.ways(&frames);
        let shares = shares(&before);
        for (share, weight) in shares.iter().zip(weights) {
            let due = f64::from(weight) * 100.0 / of;
            assert!(
                (share - due).abs() <= 2.0,
                "{shares:?} percent for weights {weights:?}"
            );
        }
        assert_eq!(net.ways(&frames), before, "flows keep their ways");
        // A way is lost: its link goes down. Only its flows move, and to all others.
        net.u.sh("ip link set r2 down");
        wait_for("the lost link is seen", LIMIT, || {
            let shown = net.margay.find_port("up2").ok_or("up2 is not open")?;
            if shown["up"] == false {
                Ok(())
            } else {
                Err(shown.to_string())
            }
        });
        let after = net.ways_without(Some(2), &frames);
        let mut heirs = [0; WAYS];
        for (was, is) in before.iter().zip(&after) {
            if *was == 2 {
                heirs[*is] += 1;
            } else {
                assert_eq!(was, is, "a flow of another way moved");
            }
        }
        assert_eq!(heirs[2], 0);
        assert!(heirs.iter().filter(|heirs| **heirs > 0).count() == 3, "{heirs:?}");
        net.u.sh("ip link set r2 up; ip addr replace 10.0.2.2/24 dev r2");
        wait_for("the link is back", LIMIT, || {
            let shown = net.margay.find_port("up2").ok_or("up2 is not open")?;
            if shown["up"] == true {
                Ok(())
            } else {
                Err(shown.to_string())
            }
        });
        net.resolved();
        assert_eq!(net.ways(&frames), before, "and all is as before");
        // A neighbour is lost: the kernel gives up on it.
        net.r.sh("ip neigh replace 10.0.1.2 dev up1 nud failed");
        let lost = net.ways(&frames);
        let moved = before
            .iter()
            .zip(&lost)
            .filter(|(was, is)| **was != 1 && was != is);
        assert_eq!(moved.count(), 0, "flows of other ways moved");
        net.r
            .sh("ip neigh del 10.0.1.2 dev up1 || :; ping -n -c 1 -W 2 10.0.1.2");
        net.resolved();
    }
    net.margay.mirrors_kernel();
    net.margay.check_sums();
}

/// Fragments of a datagram, an ICMP error about a flow, and a flow label each keep to one way.
#[test]
fn what_belongs_together_stays_together() {
    let Some(net) = build("together", "[multipath]\nhash = \"l4\"\n") else {
        return;
    };
    net.r.sh("ip route replace 203.0.113.0/24 nexthop via 10.0.0.2 nexthop via 10.0.1.2 nexthop via 10.0.2.2 nexthop via 10.0.3.2
              ip -6 route add 2001:db8:113::/48 nexthop via fd00:0::2 nexthop via fd00:1::2 nexthop via fd00:2::2 nexthop via fd00:3::2");
    net.margay.mirrors_kernel();
    net.resolved();
    let from = Ipv4Addr::new(10, 65, 0, 2);
    // Three fragments of each of 50 datagrams, the first of which alone has ports.
    let mut frames = Vec::new();
    for datagram in 0..50_u32 {
        for part in 0..3_u16 {
            let number = frames.len() as u32;
            let tail = [&[0; 12][..], &number.to_be_bytes()].concat();
            let payload = match part {
                0 => udp(None, 1000 + datagram as u16, 53, &tail),
                _ => [&[0; 8][..], &tail].concat(),
            };
            let mut packet = ipv4(from, Ipv4Addr::new(203, 0, 113, datagram as u8), 64, 17, &payload);
            let field = (part * 3) | if part < 2 { 0x2000 } else { 0 };
            packet[4..6].copy_from_slice(&(datagram as u16).to_be_bytes());
            packet[6..8].copy_from_slice(&field.to_be_bytes());
            packet[10..12].fill(0);
            let check = tests::raw::checksum(&[&packet[..20]]);
            packet[10..12].copy_from_slice(&check.to_be_bytes());
            frames.push(net.v4(&packet));
        }
    }
    let ways = net.ways(&frames);
    assert!(
        ways.chunks(3)
            .all(|parts| parts.iter().all(|way| *way == parts[0])),
        "{ways:?}"
    );
    assert!(shares(&ways).iter().all(|share| *share > 0.0), "{ways:?}");
    // Errors about flows towards a go the way of these flows: those of a's answers. Here a is the one that complains about what
    // came from 203.0.113.x to its port 2000 and on; a datagram from there back is of the same flow.
    let mut frames = Vec::new();
    for flow in 0..50_u16 {
        let to = Ipv4Addr::new(203, 0, 113, flow as u8);
        for error in [false, true] {
            let number = (frames.len() as u32).to_be_bytes();
            let packet = if error {
                let quoted = ipv4(to, from, 60, 17, &udp(None, 53, 2000 + flow, &number));
                let message = tests::raw::icmp(3, 3, &[&[0; 4][..], &quoted].concat());
                ipv4(from, to, 64, 1, &message)
            } else {
                ipv4(from, to, 64, 17, &udp(None, 2000 + flow, 53, &number))
            };
            frames.push(net.v4(&packet));
        }
    }
    let ways = net.ways(&frames);
    assert!(ways.chunks(2).all(|pair| pair[0] == pair[1]), "{ways:?}");
    // IPv6 fragments go by addresses and flow label: two of each datagram, of which each has a label of its own.
    let (source, to): (Ipv6Addr, Ipv6Addr) = (
        "fd65::2".parse().expect("an address"),
        "2001:db8:113::9".parse().expect("an address"),
    );
    let labelled = |number: u32| {
        let (datagram, later) = (number / 2, number % 2 == 1);
        // Fragment header (RFC 8200 4.5) before a protocol for experiments: at 0, or at 8 bytes; more follows.
        let field = if later { 9_u8 } else { 1 };
        let fragment = [
            &[253, 0, 0, field][..],
            &datagram.to_be_bytes(),
            &[0; 4],
            &number.to_be_bytes(),
        ]
        .concat();
        let mut packet = ipv6(source, to, 64, 44, &fragment);
        packet[1..4].copy_from_slice(&(datagram * 977 + 1).to_be_bytes()[1..]);
        packet
    };
    let frames: Vec<Vec<u8>> = (0..100)
        .map(|number| ethernet(net.gateway, net.a.mac("eth0"), 0x86dd, &labelled(number)))
        .collect();
    let ways = net.ways(&frames);
    assert!(ways.chunks(2).all(|pair| pair[0] == pair[1]), "{ways:?}");
    assert!(
        shares(&ways).iter().all(|share| *share > 0.0),
        "labels spread: {ways:?}"
    );
    net.margay.check_sums();
}

/// `hash = "kernel"` asks the kernel's setting: by addresses alone, all flows between two hosts take one way.
#[test]
fn as_the_kernel_hashes() {
    let Some(net) = build("hash", "[multipath]\nhash = \"kernel\"\n") else {
        return;
    };
    let route = "ip route replace 203.0.113.0/24 nexthop via 10.0.0.2 nexthop via 10.0.1.2 nexthop via 10.0.2.2 nexthop via 10.0.3.2";
    net.r.sh(route);
    let frames: Vec<Vec<u8>> = (0..100_u32)
        .map(|number| {
            let datagram = udp(None, 2000 + number as u16, 53, &number.to_be_bytes());
            net.v4(&ipv4(
                Ipv4Addr::new(10, 65, 0, 2),
                Ipv4Addr::new(203, 0, 113, 1),
                64,
                17,
                &datagram,
            ))
        })
        .collect();
    net.margay.mirrors_kernel();
    net.resolved();
    assert_eq!(net.r.get_sysctl("net.ipv4.fib_multipath_hash_policy"), "0");
    let ways = net.ways(&frames);
    assert!(ways.iter().all(|way| *way == ways[0]), "by addresses: {ways:?}");
    assert_eq!(net.margay.terminate(), 0);
    net.r.sysctl("net.ipv4.fib_multipath_hash_policy", "1");
    net.margay.launch();
    net.margay.ready();
    net.margay.has_port("cali-a");
    net.margay.has_port("up3");
    net.resolved();
    let ways = net.ways(&frames);
    assert!(
        shares(&ways).iter().all(|share| *share > 0.0),
        "by ports: {ways:?}"
    );
}
