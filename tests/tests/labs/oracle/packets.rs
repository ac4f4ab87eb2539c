//! Packets for the twin networks: random ones of every kind that a router tells apart, those of the shared capture, and what scapy
//! makes when it is told to fuzz.

use tests::host::finish;
use tests::lab;
use tests::random::Random;
use tests::raw::{checksum, icmp, ipv6};

#[path = "../../../../classifier/tests/support/capture.rs"]
mod capture;

/// A packet with its EtherType.
pub type Packet = (u16, Vec<u8>);

pub const V4: u16 = 0x0800;
const V6: u16 = 0x86dd;

/// Seconds bytes of IPv4 destinations behind each of the twin's routes; several of a kind are more of that kind.
const NETS4: [[u8; 2]; 14] = [
    [10, 40],
    [10, 41],
    [198, 51],
    [172, 16],
    [10, 20],
    [10, 20],
    [10, 21],
    [10, 21],
    [10, 22],
    [10, 30],
    [10, 31],
    [10, 32],
    [203, 0],
    [10, 10],
];

/// So many random packets, about as many of each family.
pub fn random(count: usize, seed: u64) -> Vec<Packet> {
    let mut random = Random::new(seed);
    let one = |random: &mut Random| {
        if random.once_in(2) {
            (V4, v4(random))
        } else {
            (V6, v6(random))
        }
    };
    (0..count)
        .map(|_| {
            let (ethertype, mut packet) = one(&mut random);
            if random.once_in(20) {
                // Bytes behind the packet: padding, or what a tunnel forgot.
                let length = random.below(60);
                packet.extend(random.bytes(length));
            }
            packet.truncate(1500);
            (ethertype, packet)
        })
        .collect()
}

/// Lengths of payloads: small ones, and those around the MTUs of the twin.
fn length(random: &mut Random) -> usize {
    let length = match random.below(4) {
        0 => random.below(40),
        1 => random.below(1400),
        _ => random.of(&[1500, 1400, 1300, 1280, 600, 576, 68]) - 60 + random.below(70),
    };
    length.min(1472)
}

/// What follows the IP header: a transport header with correct fields, or none, and data.
fn payload(random: &mut Random, icmp_number: u8) -> (u8, Vec<u8>) {
    let length = length(random);
    let mut data = random.bytes(length);
    match random.below(10) {
        0..4 => {
            data.splice(0..0, random.bytes(4).into_iter().chain([0, 0, 0, 0]));
            let length = (data.len() as u16).to_be_bytes();
            data[4..6].copy_from_slice(&length);
            if data[2..4] == 68_u16.to_be_bytes() {
                data[3] = 69;
            }
            (17, data)
        }
        4..6 => {
            let mut tcp = random.bytes(20);
            tcp[12] = 0x50;
            tcp.extend(data);
            (6, tcp)
        }
        6..8 if icmp_number == 1 => {
            let kind = random.of(&[8, 8, 0, 3, 4, 5, 11, 12, 13, 1, 9, 10, 42, 200]);
            let code = random.below(3) as u8;
            data.splice(0..0, random.bytes(4));
            (1, icmp(kind, code, &data))
        }
        6..8 => {
            let kind = random.of(&[128, 128, 129, 1, 2, 3, 4, 100, 137, 135, 160]);
            data.splice(0..0, [kind, random.below(3) as u8, 0, 0, 0, 0, 0, 0]);
            (58, data)
        }
        // Whatever the number is, and however little of the transport header is there.
        _ => (
            random.of(&[6, 17, 1, 58, 47, 50, 51, 132, 33, 136, 2, 103, 255, 4, 41]),
            data,
        ),
    }
}

fn v4(random: &mut Random) -> Vec<u8> {
    let (protocol, payload) = payload(random, 1);
    let options = if random.once_in(4) {
        options(random)
    } else {
        Vec::new()
    };
    let mut packet = vec![0x45 + (options.len() / 4) as u8, random.bits() as u8, 0, 0];
    packet.extend(random.bytes(2));
    let fragment: u16 = match random.below(12) {
        0 => 0x2000,
        1 => 0x2000 | random.below(180) as u16,
        2 => 1 + random.below(180) as u16,
        3 => 0x8000,
        4..8 => 0x4000,
        _ => 0,
    };
    packet.extend(fragment.to_be_bytes());
    packet.extend([random.of(&[64, 64, 64, 64, 64, 255, 2, 1, 0]), protocol, 0, 0]);
    let source: [u8; 4] = match random.below(40) {
        0 => random.of(&[
            [127, 0, 0, 1],
            [0, 0, 0, 0],
            [0, 1, 2, 3],
            [224, 0, 0, 9],
            [255, 255, 255, 255],
            [240, 1, 2, 3],
            [169, 254, 3, 4],
        ]),
        1 => [10, 0, 0, 1],
        _ => [10, 10, random.below(250) as u8, 1 + random.below(250) as u8],
    };
    packet.extend(source);
    let [a, b] = random.of(&NETS4);
    let destination: [u8; 4] = match random.below(60) {
        0 => random.of(&[
            [127, 0, 0, 1],
            [0, 0, 0, 0],
            [240, 0, 0, 1],
            [250, 1, 2, 3],
            [0, 9, 9, 9],
        ]),
        _ => [a, b, random.below(250) as u8, 1 + random.below(250) as u8],
    };
    packet.extend(destination);
    packet.extend(options);
    let header = packet.len();
    packet.extend(payload);
    packet.truncate(1500);
    let total = match random.below(40) {
        0 => random.below(40),
        1 => packet.len() + 1 + random.below(100),
        2 => packet.len() - random.below(packet.len() - header + 1),
        _ => packet.len(),
    };
    packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    if random.once_in(40) {
        packet[0] = random.bits() as u8;
    }
    seal(&mut packet);
    if random.once_in(30) {
        let at = random.below(header.min(packet.len()));
        packet[at] ^= 1 << random.below(8);
    }
    packet
}

/// Sets the checksum of an IPv4 header right.
fn seal(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let length = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
    let check = checksum(&[&packet[..length]]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
}

/// IPv4 options: good ones, unknown ones, and such as do not fit.
fn options(random: &mut Random) -> Vec<u8> {
    let mut options = Vec::new();
    while options.len() < 36 && (options.is_empty() || !random.once_in(3)) {
        let slots = 1 + random.below(3);
        let option = match random.below(12) {
            0 | 1 => vec![1],
            // Record route (RFC 791 3.1) with some slots taken.
            2 | 3 => [
                vec![7, 3 + 4 * slots as u8, 4 + 4 * random.below(slots + 1) as u8],
                vec![0; 4 * slots],
            ]
            .concat(),
            // Timestamps only.
            4 => [
                vec![68, 4 + 4 * slots as u8, 5 + 4 * random.below(slots + 1) as u8, 0],
                vec![0; 4 * slots],
            ]
            .concat(),
            // Router alert (RFC 2113).
            5 | 6 => vec![148, 4, 0, 0],
            7 => vec![random.of(&[131, 137]), 7, 4, 10, 1, 0, 2],
            // Security (RFC 1108) and what nobody knows, copied into fragments or not.
            8 => vec![130, 3, 0xab],
            9 => [vec![random.of(&[0x9f, 0x1f, 0xde, 0x5e]), 6], random.bytes(4)].concat(),
            10 => [vec![0], random.bytes(3)].concat(),
            _ => random.bytes(3),
        };
        options.extend(option);
    }
    options.truncate(40);
    let padding = options.len().next_multiple_of(4) - options.len();
    options.extend(vec![random.of(&[0, 1]); padding]);
    options
}

fn v6(random: &mut Random) -> Vec<u8> {
    let (protocol, payload) = payload(random, 58);
    let mut next = protocol;
    let mut headers: Vec<u8> = Vec::new();
    if random.once_in(3) {
        // From the inside out: each one names what follows it.
        let mut many = 1 + random.below(3);
        if random.once_in(12) {
            many = 9 + random.below(3);
        }
        for _ in 0..many {
            let kind = random.of(&[60, 60, 43, 44, 51, 0]);
            let mut header = extension(random, kind);
            header[0] = next;
            if random.once_in(25) {
                header[1] = random.bits() as u8;
            }
            headers.splice(0..0, header);
            next = kind;
        }
        if random.once_in(3) {
            let mut header = extension(random, 0);
            header[0] = next;
            headers.splice(0..0, header);
            next = 0;
        }
    }
    let source = match random.below(40) {
        0 => random
            .of(&["::", "::1", "ff02::1", "fe80::7", "::ffff:10.0.0.9", "::9.9.9.9"])
            .to_owned(),
        _ => format!("fd10::{:x}:{:x}", random.below(500), 1 + random.below(60_000)),
    };
    let destination = match random.below(60) {
        0 => random
            .of(&["::", "::1", "::ffff:10.1.0.2", "::7.7.7.7", "4000::1"])
            .to_owned(),
        _ => format!(
            "{}::{:x}:{:x}",
            random.of(&[
                "2001:db8", "2001:db8", "2a00", "fd20", "fd20", "fd21", "fd21", "fd30", "fd31", "fd32",
                "fd99", "fd10"
            ]),
            random.below(500),
            1 + random.below(60_000)
        ),
    };
    let address = |text: &str| text.parse().expect("an address");
    let hops = random.of(&[64, 64, 64, 64, 64, 255, 2, 1, 0]);
    headers.extend(payload);
    headers.truncate(1460);
    let mut packet = ipv6(address(&source), address(&destination), hops, next, &headers);
    packet[0] |= random.below(16) as u8;
    packet[1..4].copy_from_slice(&random.bytes(3));
    match random.below(40) {
        0 => packet[4..6].copy_from_slice(&(random.below(1600) as u16).to_be_bytes()),
        1 => {
            let at = random.below(8);
            packet[at] ^= 1 << random.below(8);
        }
        2 => packet[4..6].fill(0),
        _ => {}
    }
    packet
}

/// An extension header whose first byte is still to be set.
fn extension(random: &mut Random, kind: u8) -> Vec<u8> {
    match kind {
        44 => {
            let place: u16 = match random.below(4) {
                0 => 0,
                1 => 1,
                _ => (random.below(180) as u16) << 3 | random.below(2) as u16,
            };
            [vec![0, 0], place.to_be_bytes().to_vec(), random.bytes(4)].concat()
        }
        51 => [vec![0, 1 + random.of(&[0, 2]) as u8], random.bytes(10)].concat(),
        43 => vec![0, 0, random.of(&[0, 4, 253]), random.below(2) as u8, 0, 0, 0, 0],
        _ => {
            // Options (RFC 8200 4.2): padding, router alert, and unknown ones of which some ask to be answered about.
            let option = match random.below(6) {
                0..3 => vec![1, 4, 0, 0, 0, 0],
                3 => vec![5, 2, 0, 0, 1, 0],
                4 => vec![random.of(&[0x1e, 0x5e, 0x9e, 0xde]), 4, 1, 2, 3, 4],
                _ => random.bytes(6),
            };
            [vec![0, 0], option].concat()
        }
    }
}

/// The IP packets of the shared capture, as far as they fit the twin's MTU; `None` where it is not there.
pub fn captured() -> Option<Vec<Packet>> {
    let Some(frames) = capture::frames() else {
        lab::skip(
            "the packets of the capture",
            "set MARGAY_DATA to the folder that holds pcap/",
        );
        return None;
    };
    let packets = frames.iter().filter_map(|frame| {
        let (header, packet) = frame.split_first_chunk::<14>()?;
        let ethertype = u16::from_be_bytes([header[12], header[13]]);
        ([V4, V6].contains(&ethertype) && packet.len() <= 1500).then(|| (ethertype, packet.to_vec()))
    });
    // What is for the router itself is answered by the kernel in both networks, and unreachable destinations are told to a sender only
    // some five times in a row (ip_error in net/ipv4/route.c; the limit belongs to the first namespace).
    let mut told = std::collections::BTreeMap::<Vec<u8>, u32>::new();
    let packets = packets.filter(|(ethertype, packet)| {
        if *ethertype != V4 || packet.len() < 20 {
            return true;
        }
        let unreachable =
            (192..224).contains(&packet[16]) || packet[16] == 10 && (30..=32).contains(&packet[17]);
        let times = told.entry(packet[12..16].to_vec()).or_default();
        *times += u32::from(unreachable);
        // Neighbours that are not there are told of seconds later.
        let is_near = packet[16] == 10 && packet[17] <= 2 && packet[18] == 0 && packet[19] != 2;
        !is_near && (!unreachable || *times <= 2)
    });
    Some(packets.collect())
}

/// What can be said of the headers behind an IPv6 header.
pub struct Chain {
    /// A fragment that is not the first.
    pub later: bool,
    /// The type of an ICMPv6 message.
    pub icmp: Option<u8>,
}

/// Walks the extension headers as far as a router may be asked to: at most 8 of them, hop-by-hop options first only, one fragment
/// header. `Err` when that does not lead to an upper-layer header, or to an ICMPv6 message without a type.
pub fn chain(packet: &[u8]) -> Result<Chain, ()> {
    let length = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    let packet = packet.get(..length).ok_or(())?;
    let (mut next, mut at, mut seen) = (packet[6], 40, Vec::new());
    while [0, 43, 44, 51, 60].contains(&next) {
        let header = packet.get(at..at + 8).ok_or(())?;
        if seen.len() == 8
            || next == 0 && !seen.is_empty()
            || next == 44 && seen.contains(&44)
            || next == 51 && header[1] == 0
        {
            return Err(());
        }
        at += match next {
            44 => 8,
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if at > packet.len() {
            return Err(());
        }
        if next == 44 && (header[2] != 0 || header[3] & 0xf8 != 0) {
            return Ok(Chain {
                later: true,
                icmp: None,
            });
        }
        seen.push(next);
        next = header[0];
    }
    let icmp = match next {
        58 => Some(*packet.get(at..at + 2).ok_or(())?.first().ok_or(())?),
        _ => None,
    };
    Ok(Chain { later: false, icmp })
}

/// So many packets with layers that scapy has fuzzed.
pub fn fuzzed(count: usize, seed: u64) -> Vec<Packet> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scapy/fuzz.py");
    let mut command = std::process::Command::new("/usr/bin/python3");
    let done = finish(command.args([script, &seed.to_string(), &count.to_string()]));
    assert_eq!(
        done.code, 0,
        "scapy (package python3-scapy) makes packets: {}",
        done.err
    );
    done.out.lines().map(parse).collect()
}

/// `4 HEX` or `6 HEX`.
pub fn parse(line: &str) -> Packet {
    let (family, hex) = line.split_once(' ').expect("a family and a packet");
    let bytes = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"));
    (if family == "4" { V4 } else { V6 }, bytes.collect())
}
