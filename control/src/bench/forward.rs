//! `margay bench forward`: the whole way of a packet through a worker, over plain memory.
//!
//! Packets of 64 bytes are parsed, judged by an ingress list, looked up, rewritten and given to the egress port, by the code
//! that workers run. Rings and the kernel are not part of it. Building a packet is not timed, so its bytes are in the
//! processor's cache as they are after a network card has put them there.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::acl::{Action, Image, Limits, List};
use classifier::checksum;
use classifier::lpm::IpPrefix;
use classifier::packet;
use forwarder::acl::Instance;
use forwarder::fib::{AdjState, Adjacency, Fib, Group, GroupId, Member};
use forwarder::path::BURST;
use forwarder::path::offline::Offline;
use forwarder::{PortAttrs, PortId, Settings};

use super::{Error, answer, cost, millions, read};

/// Rounds of a measurement; the best one counts.
const ROUNDS: usize = 7;
/// Time in the path that a round takes at least.
const ROUND: Duration = Duration::from_millis(100);
/// Bytes of a packet from the destination MAC to the end of the payload.
const SIZE: usize = 64;
/// Next hops that the prefixes take turns in.
const NEXT_HOPS: u8 = 16;
/// Frames that go round: as many as a worker's fill ring holds.
const FRAMES: usize = 4096;
/// The kernel's main table.
const MAIN: u32 = 254;
const INGRESS: PortId = PortId(0);
const EGRESS: PortId = PortId(1);

/// What was measured.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Figures {
    /// Prefixes in the table.
    pub prefixes: usize,
    /// Rules in the ingress list.
    pub rules: usize,
    /// Keys in the file.
    pub keys: usize,
    /// Packets a second, the best of all rounds.
    pub packets_per_second: f64,
    /// Packets of one pass over the keys that were sent on.
    pub forwarded: u64,
    /// Packets of one pass that were dropped: no route, an address that is never forwarded.
    pub dropped: u64,
    /// Seconds to load the prefixes and compile the list; reading the files is not counted.
    pub load_seconds: f64,
    /// Bytes that look-ups of routes and rules read.
    pub image_bytes: usize,
    /// Bytes that the tables hold in all.
    pub bytes: usize,
}

/// Runs `margay bench forward` and prints its answer.
///
/// # Errors
/// A file that cannot be read or a line that is not in the format; a list or table that does not fit its limits.
pub fn run(prefixes: &Path, rules: &Path, keys: &Path, json: bool) -> Result<(), Error> {
    let prefixes = lines(prefixes, |line| {
        line.parse::<IpPrefix>().map_err(|e| e.to_string())
    })?;
    // ClassBench sets only allow. What no rule matches passes as well: it has to take the whole way.
    let list = List {
        default: Action::Allow,
        ..super::acl::parse_rules(&read(rules)?, rules)?
    };
    let keys = lines(keys, |line| {
        line.parse::<IpAddr>()
            .map_err(|_| format!("`{line}` is not an address"))
    })?;
    let figures = measure(&prefixes, &list, &keys)?;
    let [load, image, bytes] = cost(figures.load_seconds, figures.image_bytes, figures.bytes);
    let rows = [
        ("prefixes", figures.prefixes.to_string()),
        ("rules", figures.rules.to_string()),
        ("keys", figures.keys.to_string()),
        ("packets per second", millions(figures.packets_per_second)),
        (
            "forwarded, dropped",
            format!("{}, {}", figures.forwarded, figures.dropped),
        ),
        load,
        image,
        bytes,
    ];
    answer(&figures, "margay.bench-forward/1", json, &rows);
    Ok(())
}

/// Reads a file with one thing a line; empty lines are passed over.
fn lines<T>(path: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Error> {
    let text = read(path)?;
    let numbered = text
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty());
    numbered
        .map(|(at, line)| {
            parse(line).map_err(|message| Error::Line {
                path: path.to_owned(),
                line: at + 1,
                message,
            })
        })
        .collect()
}

/// Builds a node of two ports and measures bursts of 64 UDP packets, one for each key as destination, on the calling core.
///
/// # Errors
/// A list or table that does not fit its limits; no keys.
pub fn measure(prefixes: &[IpPrefix], list: &List, keys: &[IpAddr]) -> Result<Figures, Error> {
    if keys.is_empty() {
        return Err(Error::Failed("the file of keys holds none".into()));
    }
    // Answers would be limited to so many a second anyway; without them every round is alike.
    let settings = Settings {
        icmp_rate: 0,
        ..Settings::default()
    };
    let mut node = Offline::new(&settings, FRAMES, 2048);
    let start = Instant::now();
    let image = Arc::new(Image::compile(list, &Limits::default()).map_err(|e| Error::Failed(e.to_string()))?);
    let ingress = Arc::new(Instance::new(image.clone(), settings.cores.len()));
    let port = |last| PortAttrs {
        mac: mac(1, last),
        mtu: 1500,
        up: true,
        ..PortAttrs::default()
    };
    node.open_port(INGRESS, port(1), Some(ingress), None);
    node.open_port(EGRESS, port(2), None, None);
    let groups = next_hops(node.fib());
    let routes = prefixes
        .iter()
        .enumerate()
        .map(|(at, prefix)| (*prefix, groups[at % groups.len()]));
    node.fib()
        .bulk(MAIN, routes.collect())
        .map_err(|e| Error::Failed(e.to_string()))?;
    let load_seconds = start.elapsed().as_secs_f64();

    // One pass that is not measured: it warms up and says what becomes of the packets.
    let (mut forwarded, mut dropped) = (0, 0);
    pass(&mut node, keys, |done| {
        forwarded += done.forwarded;
        dropped += done.kept;
    });
    let mut best: f64 = 0.0;
    for _ in 0..ROUNDS {
        let (mut packets, mut time) = (0, Duration::ZERO);
        while time < ROUND {
            pass(&mut node, keys, |done| time += done.elapsed);
            packets += keys.len();
        }
        best = best.max(packets as f64 / time.as_secs_f64());
    }
    let (image_bytes, bytes) = node.fib().bytes();
    Ok(Figures {
        prefixes: prefixes.len(),
        rules: list.rules.len(),
        keys: keys.len(),
        packets_per_second: best,
        forwarded,
        dropped,
        load_seconds,
        image_bytes: image_bytes + image.image_bytes(),
        bytes: bytes + image.bytes(),
    })
}

/// A group for each of [`NEXT_HOPS`] neighbours behind the egress port.
fn next_hops(fib: &mut Fib) -> Vec<GroupId> {
    (0..NEXT_HOPS)
        .map(|number| {
            let adj = fib.add_adjacency(Adjacency {
                port: Some(EGRESS),
                ifindex: u32::from(EGRESS.0) + 1,
                neighbour: IpAddr::from([198, 19, 0, number + 1]),
                mtu: 0,
                state: AdjState::Resolved {
                    dst: mac(2, number),
                    src: mac(1, 2),
                },
            });
            fib.add_group(Group::Forward {
                members: vec![Member { adj, weight: 1 }],
                prefsrc: None,
            })
        })
        .collect()
}

/// A locally administered address.
fn mac(kind: u8, last: u8) -> [u8; 6] {
    [2, 0, 0, 0, kind, last]
}

/// Sends a packet to every key, in order.
fn pass(node: &mut Offline, keys: &[IpAddr], mut count: impl FnMut(forwarder::path::offline::Done)) {
    let mut packets = [[0; SIZE]; BURST];
    for (number, burst) in keys.chunks(BURST).enumerate() {
        for (at, (key, bytes)) in burst.iter().zip(&mut packets).enumerate() {
            *bytes = udp(*key, (number * BURST + at) as u64);
        }
        let slices: [&[u8]; BURST] = std::array::from_fn(|at| &packets[at][..]);
        count(node.burst(INGRESS, &slices[..burst.len()]));
    }
}

/// A UDP packet to `dst`, with a source and ports that look random but are the same for the same `number`, so that the list has
/// something to look at. The UDP checksum is 0 over IPv4 and not looked at over IPv6.
fn udp(dst: IpAddr, number: u64) -> [u8; SIZE] {
    // The finalizer of SplitMix64: every bit of the number reaches every bit of the result.
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let random = (mixed ^ mixed >> 31).to_be_bytes();
    let mut bytes = [0; SIZE];
    bytes[..6].copy_from_slice(&mac(1, 1));
    bytes[6..12].copy_from_slice(&mac(3, 1));
    let l4 = match dst {
        IpAddr::V4(dst) => {
            bytes[12..14].copy_from_slice(&packet::ETHERTYPE_IPV4.to_be_bytes());
            bytes[14] = 0x45;
            bytes[16..18].copy_from_slice(&(SIZE as u16 - 14).to_be_bytes());
            bytes[22] = 64;
            bytes[23] = packet::protocol::UDP;
            // 128.0.0.0/2 less its top: never a martian.
            bytes[26..30].copy_from_slice(&[128 | random[0] & 31, random[1], random[2], random[3]]);
            bytes[30..34].copy_from_slice(&dst.octets());
            let check = !checksum::fold(checksum::sum(&bytes[14..34], 0));
            bytes[24..26].copy_from_slice(&check.to_be_bytes());
            34
        }
        IpAddr::V6(dst) => {
            bytes[12..14].copy_from_slice(&packet::ETHERTYPE_IPV6.to_be_bytes());
            bytes[14] = 0x60;
            bytes[18..20].copy_from_slice(&(SIZE as u16 - 54).to_be_bytes());
            bytes[20] = packet::protocol::UDP;
            bytes[21] = 64;
            bytes[22..24].copy_from_slice(&[0x20, 0x01]);
            bytes[24..28].copy_from_slice(&random[..4]);
            bytes[38..54].copy_from_slice(&dst.octets());
            54
        }
    };
    bytes[l4..l4 + 4].copy_from_slice(&random[4..]);
    bytes[l4 + 4..l4 + 6].copy_from_slice(&((SIZE - l4) as u16).to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &str) -> List {
        let list = super::super::acl::parse_rules(rules, Path::new("rules")).expect("good rules");
        List {
            default: Action::Allow,
            ..list
        }
    }

    #[test]
    fn packets_are_valid() {
        for (number, dst) in ["10.0.0.1", "2001:db8::1"].iter().enumerate() {
            let dst: IpAddr = dst.parse().expect("an address");
            let headers = packet::parse(&udp(dst, number as u64)).expect("a valid packet");
            assert_eq!(
                headers.dst,
                match dst {
                    IpAddr::V4(dst) => u32::from(dst) as u128,
                    IpAddr::V6(dst) => u128::from(dst),
                }
            );
            assert_eq!(
                (headers.proto, packet::martian(&headers)),
                (packet::protocol::UDP, None)
            );
            assert_ne!(udp(dst, 1), udp(dst, 2));
        }
    }

    /// Every key meets its fate: routed, not routed, never forwarded.
    #[test]
    fn keys_of_both_families_are_forwarded() {
        let prefixes = ["10.0.0.0/8", "2001:db8::/32"].map(|p| p.parse().expect("a prefix"));
        let keys: Vec<IpAddr> = ["10.1.2.3", "2001:db8::1", "192.0.2.1", "127.0.0.1"]
            .iter()
            .map(|k| k.parse().expect("an address"))
            .collect();
        let keys: Vec<IpAddr> = keys.iter().copied().cycle().take(100).collect();
        let figures = measure(
            &prefixes,
            &list("@0.0.0.0/0\t0.0.0.0/0\t0 : 65535\t0 : 65535\t0x11/0xFF\t0/0\n"),
            &keys,
        );
        let figures = figures.expect("it fits");
        assert_eq!((figures.forwarded, figures.dropped), (50, 50));
        assert_eq!((figures.prefixes, figures.rules, figures.keys), (2, 1, 100));
        assert!(figures.packets_per_second > 0.0 && figures.bytes >= figures.image_bytes);
    }

    #[test]
    fn bad_files_are_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let (prefixes, keys) = (
            file("prefixes", "10.0.0.0/8\n\n"),
            file("keys", "10.0.0.1\n2001:db8::1\n"),
        );
        let rules = file("rules", "@0.0.0.0/0 0.0.0.0/0 0 : 65535 0 : 65535 0x00/0x00\n");
        run(&prefixes, &rules, &keys, true).expect("good files");
        let bad = file("bad", "10.0.0.0/8\n10.0.0.1/8\n");
        assert!(matches!(
            run(&bad, &rules, &keys, true),
            Err(Error::Line { line: 2, .. })
        ));
        assert!(matches!(
            run(&prefixes, &rules, &bad, true),
            Err(Error::Line { line: 1, .. })
        ));
        assert!(matches!(
            run(&prefixes, &rules, &file("none", "\n"), true),
            Err(Error::Failed(_))
        ));
        assert!(matches!(
            run(&dir.path().join("missing"), &rules, &keys, true),
            Err(Error::Io { .. })
        ));
    }
}
