//! Neighbours under attack: scans of a whole /16 and a whole /64 through the node, packets for a host that does not answer, and a flood
//! that wants to be answered. BGP, other flows and the kernel's table go on as if nothing was.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a ┐                       ┌ u 203.0.113.1 (BIRD)
//!   b 10.65.0.3 ── cali-b ┴─ r (margayd, BIRD) up0┘
//!                               up1 (10.200.0.1/16, 2001:db8:200::1/64) ── v (silent)
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use tests::raw::{Wire, ethernet, ipv4, udp};
use tests::traffic::Stream;
use tests::{Host, LIMIT, Margay, lab, wait_for};

use crate::common::{Node, PORTS, node};

/// A session of three seconds' hold time between the two ends of the uplink.
fn bgp(net: &Node) {
    for (host, us) in [(&net.r, 1_u8), (&net.u, 2)] {
        let (peer, asn, peer_asn) = (3 - us, 64_511 + u32::from(us), 64_514 - u32::from(us));
        let config = format!(
            "log stderr all; router id 10.0.0.{us};
             protocol device {{ scan time 1; }}
             protocol bgp peer {{ local as {asn}; neighbor 10.0.0.{peer} as {peer_asn}; hold time 3; keepalive time 1;
               connect delay time 1; connect retry time 1; error wait time 1, 2; ipv4 {{ import all; export none; }}; }}"
        );
        let base = host.directory().join(format!("{}-bird", host.name()));
        let (file, control) = (base.with_extension("conf"), base.with_extension("ctl"));
        std::fs::write(&file, config).expect("the lab's directory can be written");
        host.spawn(
            "bird",
            &format!("bird -f -c {} -s {}", file.display(), control.display()),
        );
    }
    wait_for("the session is up", LIMIT, || {
        session(&net.r).contains("Established")
    });
}

/// What BIRD says about its session, with the time since when.
fn session(host: &Host) -> String {
    let control = host.directory().join(format!("{}-bird.ctl", host.name()));
    let out = host
        .try_sh(&format!("birdc -s {} show protocols peer", control.display()))
        .out;
    out.lines()
        .filter(|line| line.starts_with("peer"))
        .map(str::to_owned)
        .collect()
}

/// Entries of the neighbour tables of a host.
fn entries(host: &Host, family: &str) -> usize {
    host.sh(&format!("ip {family} neigh show nud all"))
        .lines()
        .count()
}

fn limit(family: &str) -> usize {
    // The limits belong to the first namespace; the others live under them.
    let path = format!("/proc/sys/net/{family}/neigh/default/gc_thresh3");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim().parse().expect("a number")
}

#[test]
fn scans_and_floods() {
    let Some(net) = node("attack") else { return };
    let (a, b, v) = (net.container("a", 2), net.container("b", 3), net.lab.host("v"));
    net.lab.veth(&net.r, "up1", &v, "v0");
    net.r
        .sh("ip addr add 10.200.0.1/16 dev up1; ip -6 addr add 2001:db8:200::1/64 dev up1 nodad");
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    margay.has_port("up1");
    bgp(&net);
    let since = session(&net.r);
    a.reaches("203.0.113.1");
    b.reaches("203.0.113.1");
    let address = |text: &str| text.parse().expect("an address");
    let transit = Stream::at_rate(&b, &net.u, address("203.0.113.1"), 16, 10_000);
    transit.flows_on(500);

    // The whole /16, and as many addresses of the /64.
    let scanner = |any: &str| a.enter(|| UdpSocket::bind(any)).expect("a UDP port is free");
    let (four, six) = (scanner("0.0.0.0:0"), scanner("[::]:0"));
    let (mut most4, mut most6) = (0, 0);
    // The slower a scan, the more entries the kernel could pile up that it keeps for a minute.
    let (last, pause) = if lab::soak() {
        (65_535_u32, Duration::from_millis(20))
    } else {
        (16_383, Duration::from_micros(500))
    };
    let begin = Instant::now();
    for n in 2..last {
        let host = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 0)) + n);
        let _ = four.send_to(b"anybody?", (host, 9));
        let host = Ipv6Addr::from(
            u128::from("2001:db8:200::".parse::<Ipv6Addr>().expect("an address")) + u128::from(n),
        );
        let _ = six.send_to(b"anybody?", (host, 9));
        if n % 16 == 0 {
            std::thread::sleep(pause);
        }
        if n % 1024 == 0 {
            most4 = most4.max(entries(&net.r, "-4"));
            most6 = most6.max(entries(&net.r, "-6"));
        }
    }
    lab::announce(&format!(
        "scan of {last} addresses a family in {:.0} s: at most {most4} and {most6} entries in the kernel's tables",
        begin.elapsed().as_secs_f64()
    ));
    assert!(most4 < limit("ipv4") / 2, "{most4} of {}", limit("ipv4"));
    assert!(most6 < limit("ipv6") / 2, "{most6} of {}", limit("ipv6"));

    // 257 packets to one host that does not answer, once nothing of the scan waits any more.
    wait_for("nothing is held", LIMIT, || margay.port("cali-a", "held") == 0);
    let wire = Wire::open(&v, "v0");
    let silent = Ipv4Addr::new(10, 200, 255, 254);
    for _ in 0..257 {
        let _ = four.send_to(b"anybody?", (silent, 9));
        std::thread::sleep(Duration::from_millis(5));
    }
    // An ARP packet (RFC 826): the operation at 20, the address that is asked for at 38.
    let asks = |frame: &[u8]| {
        frame.len() >= 42 && frame[12..14] == [8, 6] && frame[21] == 1 && frame[38..42] == silent.octets()
    };
    let requests = wire.count(asks);
    lab::announce(&format!("257 packets to a silent host: {requests} ARP requests"));
    assert!((1..64).contains(&requests), "{requests} ARP requests");

    // A flood of packets whose TTL runs out here: answered, at the rate for answers and no faster.
    let sender = Wire::open(&a, "eth0");
    let frame = ethernet(
        net.r.mac("cali-a"),
        a.mac("eth0"),
        0x0800,
        &ipv4(
            Ipv4Addr::new(10, 65, 0, 2),
            Ipv4Addr::new(203, 0, 113, 1),
            1,
            17,
            &udp(None, 7, 7, b"late"),
        ),
    );
    let (before, start) = (margay.port("cali-a", "replied"), Instant::now());
    let time = Duration::from_secs(if lab::soak() { 20 } else { 3 });
    let mut sent = 0_u64;
    while start.elapsed() < time {
        for _ in 0..20 {
            sender.send(&frame);
        }
        sent += 20;
        std::thread::sleep(Duration::from_millis(1));
    }
    let (replied, took) = (
        margay.port("cali-a", "replied") - before,
        start.elapsed().as_secs_f64(),
    );
    lab::announce(&format!(
        "TTL 1: {sent} packets in {took:.1} s, {replied} answers"
    ));
    assert!(
        replied > 0 && (replied as f64) < 1000.0 * (took + 1.0) + 200.0,
        "{replied} answers in {took} s"
    );
    assert!(margay.drops("icmp_rate_limited") > 0);

    transit.flows_on(500);
    let tally = transit.stop();
    lab::announce(&format!(
        "transit meanwhile: {} of {} lost",
        tally.lost(),
        tally.sent
    ));
    margay.lost_nothing(&[tally]);
    assert_eq!(tally.corrupt, 0);
    assert_eq!(session(&net.r), since, "the session has not been down");
    margay.mirrors_kernel();
    margay.check_sums();
}
