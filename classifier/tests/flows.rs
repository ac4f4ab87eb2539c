//! Flow hashes and the addresses that are never forwarded.

mod support;

use classifier::packet::{Headers, Martian, martian, parse};
use support::Spec;

#[test]
fn fragments_of_a_datagram_hash_alike() {
    for v6 in [false, true] {
        let hash = |fragment| {
            let h = parse(
                &Spec {
                    fragment,
                    ..Spec::plain(v6)
                }
                .build(),
            )
            .expect("valid");
            (h.flow_hash_l3(1), h.flow_hash_l4(1))
        };
        let (first, later) = (hash(Some((0, true))), hash(Some((100, false))));
        assert_eq!(first, later);
        assert_eq!(first.0, first.1, "fragments hash by addresses");
        assert_ne!(hash(None).1, first.1);
    }
}

#[test]
fn tunnels_hash_by_what_is_inside() {
    let tunnel = |proto: u8, head: &[u8], inner: &Spec, outer_port: u128| {
        let payload = [head, &inner.build()[14..]].concat();
        let mut outer = Spec {
            proto,
            payload,
            ..Spec::plain(false)
        };
        outer.addresses.0 += outer_port;
        let frame = outer.build();
        parse(&frame).expect("valid").flow_hash_inner(&frame, 3)
    };
    let (v4, v6) = (Spec::plain(false), Spec::plain(true));
    let ip_in_ip = tunnel(4, &[], &v4, 0);
    assert_eq!(ip_in_ip, tunnel(4, &[], &v4, 1), "outer addresses do not count");
    assert_eq!(ip_in_ip, tunnel(47, &[0, 0, 8, 0], &v4, 0), "GRE");
    let all = [0xb0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1];
    assert_eq!(
        ip_in_ip,
        tunnel(47, &all, &v4, 0),
        "GRE with checksum, key and sequence number"
    );
    assert_eq!(tunnel(41, &[], &v6, 0), tunnel(47, &[0, 0, 0x86, 0xdd], &v6, 0));
    let other = Spec {
        addresses: (1, 2),
        ..v4.clone()
    };
    assert_ne!(ip_in_ip, tunnel(4, &[], &other, 0));
    // PPTP's version 1 and other payloads hash by the outer addresses.
    assert_ne!(
        tunnel(47, &[0x30, 1, 0x88, 0x0b], &v4, 0),
        tunnel(47, &[0x30, 1, 0x88, 0x0b], &v4, 1)
    );
}

#[test]
fn martians() {
    let says = |v6: bool, src: &str, dst: &str| {
        let number = |text: &str| match text.parse().expect("an address") {
            std::net::IpAddr::V4(address) => u32::from(address) as u128,
            std::net::IpAddr::V6(address) => u128::from(address),
        };
        let h = parse(
            &Spec {
                addresses: (number(src), number(dst)),
                ..Spec::plain(v6)
            }
            .build(),
        )
        .expect("valid");
        martian(&h)
    };
    let v4 = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
    ];
    let v6 = ["::", "::1", "::10.0.0.1", "::ffff:10.0.0.1", "ff02::1", "ff0e::1"];
    for address in v4 {
        assert_eq!(
            says(false, address, "10.0.0.1"),
            Some(Martian::Source),
            "{address}"
        );
        assert_eq!(
            says(false, "10.0.0.1", address),
            Some(Martian::Destination),
            "{address}"
        );
    }
    for address in v6 {
        assert_eq!(
            says(true, address, "2001:db8::1"),
            Some(Martian::Source),
            "{address}"
        );
        assert_eq!(
            says(true, "2001:db8::1", address),
            Some(Martian::Destination),
            "{address}"
        );
    }
    for address in ["169.254.0.0", "169.254.255.255"] {
        assert_eq!(says(false, address, "10.0.0.1"), Some(Martian::LinkLocal));
        assert_eq!(says(false, "10.0.0.1", address), Some(Martian::LinkLocal));
    }
    for address in ["fe80::1", "febf:ffff::"] {
        assert_eq!(says(true, address, "2001:db8::1"), Some(Martian::LinkLocal));
        assert_eq!(says(true, "2001:db8::1", address), Some(Martian::LinkLocal));
    }
    for address in [
        "1.0.0.1",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "169.255.0.0",
        "223.255.255.255",
    ] {
        assert_eq!(says(false, address, address), None, "{address}");
    }
    for address in [
        "::1:0:0:0",
        "64:ff9b::1",
        "fc00::1",
        "fec0::1",
        "fe7f::1",
        "2000::",
        "::fffe:0:1",
    ] {
        assert_eq!(says(true, address, address), None, "{address}");
    }
}

#[test]
fn hashes_avalanche() {
    let base = parse(&Spec::plain(true).build()).expect("valid");
    let flips: [fn(&mut Headers, u32); 5] = [
        |h, bit| h.src ^= 1 << (bit * 4),
        |h, bit| h.dst ^= 1 << (bit * 4),
        |h, bit| h.sport ^= 1 << (bit % 16),
        |h, bit| h.dport ^= 1 << (bit % 16),
        |h, bit| h.proto ^= 1 << (bit % 8),
    ];
    for (field, flip) in flips.iter().enumerate() {
        let mut changed = 0;
        let mut trials = 0;
        for bit in 0..32 {
            for seed in 0..64 {
                let mut other = base;
                flip(&mut other, bit);
                changed += (base.flow_hash_l4(seed) ^ other.flow_hash_l4(seed)).count_ones();
                trials += 32;
            }
        }
        let share = changed as f64 / trials as f64;
        assert!((0.45..0.55).contains(&share), "field {field}: {share}");
    }
    assert_ne!(base.flow_hash_l4(1), base.flow_hash_l4(2));
    assert_ne!(base.flow_hash_l3(1), base.flow_hash_l4(1));
}

#[test]
fn hashes_spread() {
    let base = parse(&Spec::plain(false).build()).expect("valid");
    for ways in [2_u32, 3, 7, 16] {
        let (mut low, mut high) = (vec![0_i32; ways as usize], vec![0_i32; ways as usize]);
        for sport in 0..16384 {
            let hash = Headers { sport, ..base }.flow_hash_l4(0);
            low[(hash % ways) as usize] += 1;
            high[((hash as u64 * ways as u64) >> 32) as usize] += 1;
        }
        for count in low.into_iter().chain(high) {
            assert!(
                (count - 16384 / ways as i32).abs() < 400,
                "{count} of 16384 in one of {ways}"
            );
        }
    }
}
