//! Neighbours: packets wait while the kernel resolves one, none is lost; what does not resolve is answered as unreachable; a neighbour
//! that changes its MAC address is followed; gateways are kept resolved by the kernel.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── 10.0.0.1 fd00::1 ──── r0 u 10.0.0.2, and 10.0.0.11 … 10.0.0.40
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tests::margay::list;
use tests::raw::{Mac, Wire, ethernet, icmpv6, ipv6};
use tests::{LIMIT, Margay, wait_for};

use crate::common::{PORTS, node};

#[test]
fn packets_wait_for_resolution() {
    let Some(net) = node("hold") else { return };
    let a = net.container("a", 2);
    for n in 11..=40 {
        net.u.sh(&format!(
            "ip addr add 10.0.0.{n}/24 dev r0; ip -6 addr add fd00::{n}/64 dev r0 nodad"
        ));
    }
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    // Five datagrams at once to hosts that nobody has spoken to yet: all arrive, the first one included.
    for n in 11..=20 {
        for any in [format!("10.0.0.{n}:0"), format!("[fd00::{n}]:0")] {
            let any: SocketAddr = any.parse().expect("an address");
            let receiver = net.u.enter(|| UdpSocket::bind(any)).expect("a UDP port is free");
            receiver
                .set_read_timeout(Some(LIMIT))
                .expect("a time limit can be set");
            let from: SocketAddr = if any.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
                .parse()
                .expect("an address");
            let sender = a.enter(|| UdpSocket::bind(from)).expect("a UDP port is free");
            for number in 0..5_u8 {
                let target = receiver.local_addr().expect("the socket is bound");
                sender.send_to(&[number], target).expect("a datagram is sent");
            }
            for number in 0..5_u8 {
                let mut buffer = [0; 8];
                let length = receiver
                    .recv(&mut buffer)
                    .unwrap_or_else(|error| panic!("datagram {number} to {any}: {error}"));
                assert_eq!(buffer[..length], [number], "in order");
            }
        }
    }
    margay.mirrors_kernel();
    // Hosts that are not there.
    for (address, word) in [
        ("10.0.0.99", "Destination Host Unreachable"),
        ("fd00::99", "Address unreachable"),
    ] {
        wait_for(&format!("{address} is answered as unreachable"), LIMIT, || {
            let out = a.try_sh(&format!("ping -n -c 1 -W 4 {address}")).out;
            if out.contains(word) { Ok(()) } else { Err(out) }
        });
    }
    // A scan of a thousand addresses neither fills the kernel's table nor stops anybody.
    let sender = a
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("a UDP port is free");
    net.r.sh("ip addr add 10.128.0.1/20 dev up0");
    margay.mirrors_kernel();
    for n in 0..1000 {
        let _ = sender.send_to(b"anybody?", format!("10.128.{}.{}:9", n / 250, 2 + n % 250));
    }
    a.reaches("203.0.113.1");
    a.reaches("10.0.0.30");
    let unresolved = net
        .r
        .sh("ip neigh show nud incomplete; ip neigh show nud failed")
        .lines()
        .count();
    assert!(
        unresolved <= 300,
        "{unresolved} unresolved entries in the kernel's table"
    );
    wait_for("nothing is held any more", LIMIT, || {
        margay.port("cali-a", "held") == 0
    });
    margay.check_sums();
}

#[test]
fn changes_are_followed() {
    let Some(net) = node("macs") else { return };
    let a = net.container("a", 2);
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    let mac = |address: &str| {
        let shown = margay.json("neigh show");
        let found = list(&shown, "neighbours")
            .iter()
            .find(|neighbour| neighbour["address"] == address);
        found.and_then(|neighbour| neighbour["mac"].as_str().map(str::to_owned))
    };
    assert_eq!(
        mac("10.0.0.2"),
        net.r
            .sh("ip neigh show 10.0.0.2 dev up0")
            .split_whitespace()
            .skip_while(|word| *word != "lladdr")
            .nth(1)
            .map(str::to_owned)
    );
    // The gateway is exchanged for one with another MAC address; the kernel, which keeps it resolved, finds out.
    net.u.sh("ip link set r0 down; ip link set r0 address 02:00:00:00:be:ef; ip link set r0 up
              ip route replace 10.65.0.0/24 via 10.0.0.1; ip -6 addr replace fd00::2/64 dev r0 nodad; ip -6 route replace fd65::/64 via fd00::1
              ping -n -c 1 -W 1 10.0.0.1 || :; ping -n -c 1 -W 1 fd00::1 || :");
    wait_for("the new MAC address is mirrored", LIMIT, || {
        mac("10.0.0.2").as_deref() == Some("02:00:00:00:be:ef")
    });
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    // The container gets a new address on its interface, as after a restart.
    a.sh("ip link set eth0 address 02:00:00:00:ca:fe; ip neigh flush dev eth0; ip -6 neigh flush dev eth0");
    wait_for("u reaches the container", LIMIT, || {
        a.try_sh("ping -n -c 1 -W 1 169.254.1.1; ping -n -c 1 -W 1 fe80::1%eth0");
        net.u.pings("10.65.0.2") && net.u.pings("fd65::2")
    });
    // The node's own port changes its MAC address.
    net.r.sh("ip link set up0 address 02:00:00:00:00:aa");
    net.u.sh("ip neigh flush dev r0; ip -6 neigh flush dev r0");
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    margay.mirrors_kernel();
    // Gateways are managed entries while margayd runs; afterwards there are none.
    assert!(
        net.r.sh("ip neigh show dev up0").contains("managed"),
        "{}",
        net.r.sh("ip neigh show dev up0")
    );
    tests::never("the gateway is lost", Duration::from_millis(200), || {
        mac("10.0.0.2").is_none()
    });
    margay.check_sums();
    assert_eq!(margay.terminate(), 0);
    assert!(!net.r.sh("ip neigh show; ip -6 neigh show").contains("managed"));
}

/// The destination address of the first frame to `address` that `wire` shows.
fn frames_to(wire: &Wire, address: Ipv4Addr) -> Option<Mac> {
    let to =
        |frame: &[u8]| frame.get(12..14) == Some(&[8, 0]) && frame.get(30..34) == Some(&address.octets());
    let frame = wire.find(Duration::from_millis(300), to)?;
    frame.first_chunk().copied()
}

#[test]
fn announcements_are_followed() {
    let Some(net) = node("garp") else { return };
    let a = net.container("a", 2);
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    let (wire, old) = (Wire::open(&net.u, "r0"), net.u.mac("r0"));
    let new: Mac = [2, 0, 0, 0, 0xbe, 0xef];
    let own = Ipv4Addr::new(10, 0, 0, 2);
    let own6: Ipv6Addr = "fd00::2".parse().expect("an address");
    // A gratuitous ARP reply (RFC 5227 3): sender and target are the same address.
    let arp = |mac: Mac| {
        let addresses = [&mac[..], &own.octets(), &[0xff; 6], &own.octets()].concat();
        let body = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &addresses].concat();
        ethernet([0xff; 6], mac, 0x0806, &body)
    };
    // An unsolicited neighbour advertisement with the override flag (RFC 4861 7.2.6), and the option with the address.
    let advert = |mac: Mac| {
        let all: Ipv6Addr = "ff02::1".parse().expect("an address");
        let rest = [&[0xa0, 0, 0, 0][..], &own6.octets(), &[2, 1], &mac].concat();
        let message = icmpv6(own6, all, 136, 0, &rest);
        ethernet(
            [0x33, 0x33, 0, 0, 0, 1],
            mac,
            0x86dd,
            &ipv6(own6, all, 255, 58, &message),
        )
    };
    // The kernel believes no second change within a second, unless told otherwise.
    net.r.sysctl("net.ipv4.neigh.up0.locktime", "0");
    for mac in [new, old] {
        wire.send(&arp(mac));
        wire.send(&advert(mac));
        wait_for("the next frames go to the new address", LIMIT, || {
            a.try_sh("ping -n -c 1 -W 1 203.0.113.1");
            match frames_to(&wire, Ipv4Addr::new(203, 0, 113, 1)) {
                Some(to) if to == mac => Ok(()),
                other => {
                    wire.send(&arp(mac));
                    Err(format!("{other:?}"))
                }
            }
        });
        let text = mac.map(|byte| format!("{byte:02x}")).join(":");
        wait_for("both entries have it", LIMIT, || {
            let shown = margay.json("neigh show");
            let known = |address: &str| {
                let mut all = list(&shown, "neighbours").iter();
                all.any(|n| n["address"] == address && n["mac"] == text.as_str())
            };
            if known("10.0.0.2") && known("fd00::2") {
                return Ok(());
            }
            // The kernel may have asked in between, and the true owner answered.
            wire.send(&arp(mac));
            wire.send(&advert(mac));
            Err(shown.to_string())
        });
    }
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    margay.mirrors_kernel();
    margay.check_sums();
}

/// The kernel sees nothing of what is forwarded: without being asked it would let a host's entry become stale, and forget it.
#[test]
fn entries_in_use_stay_fresh() {
    let Some(net) = node("fresh") else { return };
    let a = net.container("a", 2);
    net.u.sh("ip addr add 10.0.0.11/24 dev r0");
    net.r.sysctl("net.ipv4.neigh.up0.base_reachable_time_ms", "500");
    net.r.sysctl("net.ipv4.neigh.up0.delay_first_probe_time", "1");
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    a.reaches("10.0.0.11");
    let wire = Wire::open(&net.u, "r0");
    // An ARP request for it.
    let asked = |frame: &[u8]| {
        frame.get(12..14) == Some(&[8, 6])
            && frame.get(20..22) == Some(&[0, 1])
            && frame.get(38..42) == Some(&[10, 0, 0, 11])
    };
    // One way only: no answer that could confirm anything.
    net.u.sh(
        "nft 'add table ip quiet; add chain ip quiet out { type filter hook output priority 0; }; add rule ip quiet out ip daddr 10.65.0.2 drop'",
    );
    let sender = a
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("a UDP port is free");
    let lost = margay.drops("neighbour_unresolved");
    let mut confirmed = 0;
    wait_for("the entry is confirmed again and again", LIMIT, || {
        for _ in 0..10 {
            let _ = sender.send_to(b"still there?", "10.0.0.11:9");
            std::thread::sleep(Duration::from_millis(20));
        }
        confirmed += wire.count(asked);
        if confirmed >= 3 {
            Ok(())
        } else {
            Err(format!("{confirmed} times"))
        }
    });
    assert_eq!(margay.drops("neighbour_unresolved"), lost);
    margay.check_sums();
}

/// The kernel answers for addresses behind the node, with forwarding on for that port alone; packets go through margayd.
#[test]
fn proxies_are_the_kernels() {
    let Some(net) = node("proxy") else { return };
    let a = net.container("a", 2);
    for (name, value) in [
        ("net.ipv4.conf.up0.forwarding", "1"),
        ("net.ipv4.conf.up0.proxy_arp", "1"),
        ("net.ipv4.neigh.up0.proxy_delay", "0"),
        ("net.ipv6.conf.up0.forwarding", "1"),
        ("net.ipv6.conf.up0.proxy_ndp", "1"),
        ("net.ipv6.neigh.up0.proxy_delay", "0"),
    ] {
        net.r.sysctl(name, value);
    }
    net.r.sh("ip neigh add proxy fd65::2 dev up0");
    assert_eq!(net.r.get_sysctl("net.ipv4.ip_forward"), "0");
    // u believes the containers to be on the link.
    net.u.sh(
        "ip route replace 10.65.0.0/24 dev r0; ip -6 route del fd65::/64; ip -6 route add fd65::/64 dev r0",
    );
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    margay.has_port("up0");
    margay.has_port("cali-a");
    net.u.reaches("10.65.0.2");
    net.u.reaches("fd65::2");
    let mac = net.r.mac("up0").map(|byte| format!("{byte:02x}")).join(":");
    let known = net.u.sh("ip neigh show 10.65.0.2; ip -6 neigh show fd65::2");
    assert_eq!(
        known.matches(&mac).count(),
        2,
        "the node answers for both: {known}"
    );
    let before = margay.port("up0", "forwarded");
    net.u
        .sh("ping -n -c 5 -i 0.02 -W 5 10.65.0.2; ping -n -c 5 -i 0.02 -W 5 fd65::2");
    assert!(margay.port("up0", "forwarded") >= before + 10);
    a.reaches("203.0.113.1");
    margay.mirrors_kernel();
    margay.check_sums();
}
