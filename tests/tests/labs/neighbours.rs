//! Neighbours: packets wait while the kernel resolves one, none is lost; what does not resolve is answered as unreachable; a neighbour
//! that changes its MAC address is followed; gateways are kept resolved by the kernel.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── 10.0.0.1 fd00::1 ──── r0 u 10.0.0.2, and 10.0.0.11 … 10.0.0.40
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tests::margay::list;
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
