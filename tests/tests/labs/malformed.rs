//! Frames that no honest host sends: each is dropped with its one reason, none is forwarded, and the node goes on.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── r0 u      (u sends the frames to a)
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use tests::raw::{Wire, ethernet, ipv4, ipv6, udp};
use tests::{LIMIT, Margay, wait_for};

use crate::common::{PORTS, node};

const U4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const A4: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const U6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, 0, 2);

/// A good packet with some bytes changed.
fn with(mut packet: Vec<u8>, changes: &[(usize, u8)], fix_checksum: bool) -> Vec<u8> {
    for &(at, byte) in changes {
        packet[at] = byte;
    }
    if fix_checksum {
        packet[10..12].fill(0);
        let length = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
        let check = tests::raw::checksum(&[&packet[..length]]);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
    }
    packet
}

#[test]
fn every_malformed_packet_has_its_reason() {
    let Some(net) = node("malformed") else { return };
    let a = net.container("a", 2);
    // With a list, so that somebody has to look behind extension headers and into short packets.
    let ports = PORTS.replacen(
        "role = \"uplink\"",
        "role = \"uplink\"\nacl = { ingress = \"all\" }",
        1,
    );
    let all = ("all", "[[acl]]\nname = \"all\"\ndefault = \"allow\"\n");
    let margay = Margay::start_with(&net.lab, &net.r, &ports, &[all]);
    net.u.reaches("10.65.0.2");
    net.u.reaches("fd65::2");
    let wire = Wire::open(&net.u, "r0");
    let far = Wire::open(&a, "eth0");
    let (router, host) = (net.r.mac("up0"), net.u.mac("r0"));
    let v4 = || ipv4(U4, A4, 64, 17, &udp(None, 9, 4242, b"broken"));
    let v6 = || ipv6(U6, A6, 64, 17, &udp(Some((U6, A6)), 9, 4242, b"broken"));
    let chain: Vec<u8> = (0..12).flat_map(|_| [60, 0, 1, 4, 0, 0, 0, 0]).collect();
    let from = |source: [u8; 4]| ipv4(source.into(), A4, 64, 17, &udp(None, 9, 4242, b""));
    let cases: Vec<(&str, u16, Vec<u8>)> = vec![
        (
            "bad_checksum",
            0x0800,
            with(v4(), &[(10, 0x12), (11, 0x34)], false),
        ),
        ("bad_version", 0x0800, with(v4(), &[(0, 0x55)], true)),
        ("bad_header_length", 0x0800, with(v4(), &[(0, 0x44)], true)),
        ("bad_total_length", 0x0800, with(v4(), &[(2, 0), (3, 19)], true)),
        ("truncated", 0x0800, with(v4(), &[(2, 4), (3, 0)], true)),
        ("truncated", 0x86dd, with(v6(), &[(4, 4), (5, 0)], false)),
        ("bad_version", 0x86dd, with(v6(), &[(0, 0x45)], false)),
        (
            "extension_chain",
            0x86dd,
            ipv6(U6, A6, 64, 60, &[&chain[..], &udp(None, 1, 2, b"")].concat()),
        ),
        ("transport_truncated", 0x0800, ipv4(U4, A4, 64, 17, &[0, 1, 0, 2])),
        ("transport_truncated", 0x0800, ipv4(U4, A4, 64, 6, &[0; 12])),
        ("martian_source", 0x0800, from([127, 0, 0, 1])),
        ("martian_source", 0x0800, from([224, 0, 0, 1])),
        ("martian_source", 0x0800, from([0, 0, 0, 0])),
        ("link_local", 0x0800, from([169, 254, 7, 7])),
        ("martian_source", 0x86dd, {
            let from = Ipv6Addr::LOCALHOST;
            ipv6(from, A6, 64, 17, &udp(Some((from, A6)), 9, 4242, b""))
        }),
        ("link_local", 0x86dd, {
            let from = "fe80::77".parse().expect("an address");
            ipv6(from, A6, 64, 17, &udp(Some((from, A6)), 9, 4242, b""))
        }),
    ];
    for (number, (reason, ethertype, packet)) in cases.iter().enumerate() {
        let before = margay.drops(reason);
        let frame = ethernet(router, host, *ethertype, packet);
        for _ in 0..3 {
            wire.send(&frame);
        }
        wait_for(
            &format!("frame {number} is dropped three times as {reason}"),
            LIMIT,
            || {
                let now = margay.drops(reason);
                if now == before + 3 {
                    Ok(())
                } else {
                    Err(format!("{before} before, {now} now: {}", margay.json("drops")))
                }
            },
        );
    }
    // Cut off after every byte: a drop or the kernel's, never a crash, and every frame is accounted for.
    for (ethertype, packet) in [(0x0800, v4()), (0x86dd, v6())] {
        for length in 0..packet.len() {
            wire.send(&ethernet(router, host, ethertype, &packet[..length]));
        }
    }
    margay.check_sums();
    // None of them arrived: all that a gets with this destination port is a good packet that follows.
    wire.send(&ethernet(
        router,
        host,
        0x0800,
        &ipv4(U4, A4, 64, 17, &udp(None, 9, 4242, b"whole")),
    ));
    let to_a = |frame: &[u8]| {
        frame.len() > 42
            && frame[12..14] == [8, 0]
            && frame[23] == 17
            && frame[36..38] == 4242_u16.to_be_bytes()
    };
    let first = far.find(LIMIT, to_a).expect("the good packet arrives");
    assert!(
        first[42..].starts_with(b"whole"),
        "nothing malformed arrived before it: {first:?}"
    );
    net.u.reaches("10.65.0.2");
    margay.check_sums();
}
