//! The ICMP errors that a router owes: time exceeded, packet too big, fragmentation needed; with `ip_forward=0`, from the right address,
//! quoting the right bytes, at a limited rate.
//!
//! ```text
//!   a 10.65.0.2 fd65::2 ── cali-a r (margayd) up0 ── 10.0.0.1 fd00::1 ── r0 u 203.0.113.1
//!                                             up0's MTU is 1280 in one of the labs
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use tests::raw::{Wire, checksum, ethernet, ipv4, ipv6, udp};
use tests::{LIMIT, Margay, wait_for};

use crate::common::{PORTS, node};

const U4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const A4: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const U6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, 0, 2);

#[test]
fn time_exceeded() {
    let Some(net) = node("ttl") else { return };
    let a = net.container("a", 2);
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    let wire = Wire::open(&net.u, "r0");
    let (router, host) = (net.r.mac("up0"), net.u.mac("r0"));
    for ttl in [0, 1] {
        let packet = ipv4(U4, A4, ttl, 17, &udp(None, 4321, 33434, b"how far is it"));
        wire.send(&ethernet(router, host, 0x0800, &packet));
        let answer = wire
            .find(LIMIT, |frame| {
                frame[12..14] == [8, 0] && frame[23] == 1 && frame[34..36] == [11, 0]
            })
            .expect("a time exceeded message");
        assert_eq!(answer[..6], host, "it comes back to the sender's MAC address");
        assert_eq!(
            answer[26..30],
            [10, 0, 0, 1],
            "from the address of the port by which the packet came"
        );
        assert_eq!(answer[30..34], U4.octets());
        assert_eq!(checksum(&[&answer[14..34]]), 0);
        let end = 14 + usize::from(u16::from_be_bytes([answer[16], answer[17]]));
        assert_eq!(checksum(&[&answer[34..end]]), 0, "the ICMP checksum is right");
        // RFC 1812 4.3.2.3: as much of the packet as fits into 576 bytes; here that is all of it, unchanged.
        assert_eq!(answer[42..end], packet[..], "the packet is quoted as it came");
    }
    let long = vec![7; 1300];
    let packet = ipv6(U6, A6, 1, 17, &udp(Some((U6, A6)), 4321, 33434, &long));
    wire.send(&ethernet(router, host, 0x86dd, &packet));
    let answer = wire
        .find(LIMIT, |frame| {
            frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54..56] == [3, 0]
        })
        .expect("a time exceeded message");
    assert_eq!(
        answer[22..38],
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets()
    );
    assert_eq!(answer[38..54], U6.octets());
    // RFC 4443 2.4 (c): as much as fits into the minimum MTU, 1280.
    assert_eq!(answer.len() - 14, 1280);
    assert_eq!(answer[62..], packet[..1232]);
    let length = ((answer.len() - 54) as u32).to_be_bytes();
    assert_eq!(
        checksum(&[&answer[22..54], &length, &[0, 0, 0, 58], &answer[54..]]),
        0
    );
    // A flood of expiring packets is answered at a limited rate, and every one of them is accounted for.
    let replied = margay.port("up0", "replied");
    let packet = ethernet(
        router,
        host,
        0x0800,
        &ipv4(U4, A4, 1, 17, &udp(None, 1, 33434, b"")),
    );
    for _ in 0..3000 {
        wire.send(&packet);
    }
    margay.check_sums();
    let replied = margay.port("up0", "replied") - replied;
    assert!(
        replied >= 100,
        "the burst that is allowed was answered: {replied}"
    );
    wait_for("the others count as rate limited", LIMIT, || {
        let limited = margay.drops("icmp_rate_limited");
        // A busy machine may not schedule the worker for longer than its RX ring is deep.
        let missed = margay.drops("rx_no_frame") + margay.drops("rx_ring_full");
        if limited > 0 && limited + missed + replied >= 2900 {
            Ok(())
        } else {
            Err(format!(
                "{limited} limited, {missed} never received, {replied} answered"
            ))
        }
    });
    // No errors about errors (RFC 1122 3.2.2): an ICMP error whose TTL runs out is dropped.
    let dropped = margay.drops("ttl_exceeded");
    let error = tests::raw::icmp(
        3,
        1,
        &[&[0; 4][..], &ipv4(A4, U4, 64, 17, &udp(None, 1, 2, b""))].concat(),
    );
    wire.send(&ethernet(router, host, 0x0800, &ipv4(U4, A4, 1, 1, &error)));
    wait_for("the error is dropped without an answer", LIMIT, || {
        margay.drops("ttl_exceeded") == dropped + 1
    });
    margay.check_sums();
}

#[test]
fn too_big() {
    let Some(net) = node("mtu") else { return };
    let a = net.container("a", 2);
    net.r.sh("ip link set up0 mtu 1280");
    net.u.sh("ip link set r0 mtu 1280");
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    for (options, address) in [("-4", "203.0.113.1"), ("-6", "2001:db8:113::1")] {
        let out = a.sh(&format!("tracepath {options} -n -m 5 {address}"));
        assert!(out.contains("pmtu 1280") && out.contains("reached"), "{out}");
        a.sh("ip route flush cache; ip -6 route flush cache");
        let done = a.try_sh(&format!("ping -n -c 2 -i 0.2 -W 2 -M do -s 1350 {address}"));
        assert!(
            done.out.contains("mtu = 1280") || done.out.contains("mtu=1280") || done.err.contains("mtu"),
            "{done:?}"
        );
        // TCP finds its way by the same messages.
        let family = options;
        let _server = net
            .u
            .spawn(&format!("iperf3{family}"), &format!("iperf3 {family} -s -1"));
        wait_for("iperf3 listens", LIMIT, || {
            net.u.sh("ss -Hltn").contains(":5201 ")
        });
        a.sh("ip route flush cache; ip -6 route flush cache");
        a.sh(&format!("iperf3 {family} -c {address} -n 2M"));
    }
    assert!(margay.port("cali-a", "replied") >= 2);
    margay.check_sums();
}
