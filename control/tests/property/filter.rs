//! The filter language against its slow twin: a recursion over the expression, addresses and prefixes as strings of bits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use classifier::filter::{Expr, Side, Test};
use classifier::packet::{Family, Fragment, Headers};
use control::filter::{expression, parse};

/// A packet of which only what filters look at is told.
pub fn packet(src: IpAddr, dst: IpAddr, proto: u8, sport: u16, dport: u16, fragment: Fragment) -> Headers {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    Headers {
        family: if src.is_ipv4() { Family::V4 } else { Family::V6 },
        src: number(src),
        dst: number(dst),
        proto,
        sport,
        dport,
        tcp_flags: 0,
        icmp: None,
        fragment,
        dscp: 0,
        ttl: 64,
        dont_fragment: false,
        source_route: false,
        l3: 14,
        l4: 34,
        len: 64,
        flow_label: 0,
        flaw: None,
    }
}

/// An address as bits, behind the letter of its family.
fn bits(family: Family, address: u128) -> String {
    match family {
        Family::V4 => format!("4{address:032b}"),
        Family::V6 => format!("6{address:0128b}"),
    }
}

/// The twin: what an expression says about a packet.
pub fn slow(expr: &Expr, packet: &Headers) -> bool {
    match expr {
        Expr::Not(inner) => !slow(inner, packet),
        Expr::And(a, b) => slow(a, packet) & slow(b, packet),
        Expr::Or(a, b) => slow(a, packet) | slow(b, packet),
        Expr::Test(Test::Family(family)) => bits(packet.family, 0)[..1] == bits(*family, 0)[..1],
        Expr::Test(Test::Proto(number)) => packet.proto == *number,
        Expr::Test(Test::Net {
            side,
            family,
            bits: prefix,
            mask,
        }) => {
            let length = 1 + mask.count_ones() as usize;
            let wanted = &bits(*family, *prefix)[..length];
            either(*side, packet.src, packet.dst, |address| {
                bits(packet.family, address).starts_with(wanted)
            })
        }
        Expr::Test(Test::Port { side, lo, hi }) => {
            let ports: &[u8] = &[6, 17, 33, 132, 136];
            ports.contains(&packet.proto)
                && packet.fragment != Fragment::Later
                && either(*side, packet.sport, packet.dport, |port| {
                    port >= *lo && port <= *hi
                })
        }
    }
}

fn either<T>(side: Side, src: T, dst: T, test: impl Fn(T) -> bool) -> bool {
    match side {
        Side::Src => test(src),
        Side::Dst => test(dst),
        Side::Either => [src, dst].into_iter().any(test),
    }
}

/// A filter from outside: understood, and then alike with its twin on every sample; or refused at one of its words.
pub fn filter(text: &str) {
    match parse(text) {
        Ok(filter) => {
            let expr = expression(text).expect("it was understood just now");
            for packet in samples() {
                let wanted = expr.as_ref().is_none_or(|expr| slow(expr, &packet));
                assert_eq!(filter.matches(Some(&packet)), wanted, "{text:?} {packet:?}");
            }
            assert_eq!(filter.matches(None), expr.is_none());
        }
        Err(error) => {
            let from: String = text.chars().skip(error.at).collect();
            assert!(
                from.starts_with(&error.word) || text.len() > control::filter::MAX_TEXT,
                "{error:?}"
            );
            assert!(!error.message.is_empty() && !error.to_string().is_empty());
            let marked = error.marked();
            assert_eq!(marked.lines().count(), 2, "{marked:?}");
            assert!(marked.lines().all(|line| line.starts_with("  ")));
        }
    }
}

/// Packets of both families, with ports and without.
pub fn samples() -> Vec<Headers> {
    let v4 = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    let v6 = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    let mut packets = Vec::new();
    for (src, dst) in [
        (v4(1), v4(2)),
        (v4(2), "192.0.2.1".parse().expect("an address")),
        (v6(1), v6(2)),
        (v6(2), v6(3)),
    ] {
        for proto in [1, 6, 17, 58, 132] {
            for (ports, fragment) in [
                ((80, 443), Fragment::Whole),
                ((53, 80), Fragment::First),
                ((0, 0), Fragment::Later),
            ] {
                packets.push(packet(src, dst, proto, ports.0, ports.1, fragment));
            }
        }
    }
    packets
}
