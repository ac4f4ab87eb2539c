//! Compiled filters agree with their slow twin: random expressions over random packets of a small world.

#[allow(dead_code)]
#[path = "property/filter.rs"]
mod twin;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use classifier::filter::{Expr, Filter, Side, Test};
use classifier::packet::{Family, Fragment, Headers};
use proptest::prelude::*;

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Src), Just(Side::Dst), Just(Side::Either)]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u8..4, 0_u8..4).prop_map(|(a, b)| Ipv4Addr::new(10, a, 0, b).into()),
        (0_u16..4, 0_u16..4).prop_map(|(a, b)| Ipv6Addr::new(0x2001, 0xdb8, a, 0, 0, 0, 0, b).into())
    ]
}

fn test() -> impl Strategy<Value = Test> {
    let net = (side(), address(), 0_u32..=128).prop_map(|(side, address, length)| {
        let (family, bits, mask) = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - length % 33).unwrap_or(0);
                (Family::V4, u128::from(address.to_bits() & mask), u128::from(mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
                (Family::V6, address.to_bits() & mask, mask)
            }
        };
        Test::Net {
            side,
            family,
            bits,
            mask,
        }
    });
    let port = (side(), 0_u16..6, 0_u16..6).prop_map(|(side, lo, hi)| Test::Port { side, lo, hi });
    prop_oneof![
        3 => net,
        3 => port,
        1 => prop_oneof![Just(6), Just(17), Just(1)].prop_map(Test::Proto),
        1 => any::<bool>().prop_map(|v4| Test::Family(if v4 { Family::V4 } else { Family::V6 }))
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    test().prop_map(Expr::Test).prop_recursive(6, 60, 2, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            inner.prop_map(|inner| Expr::Not(Box::new(inner))),
            two.clone().prop_map(|(a, b)| Expr::And(Box::new(a), Box::new(b))),
            two.prop_map(|(a, b)| Expr::Or(Box::new(a), Box::new(b)))
        ]
    })
}

fn packet() -> impl Strategy<Value = Headers> {
    let fragment =
        prop_oneof![3 => Just(Fragment::Whole), 1 => Just(Fragment::First), 1 => Just(Fragment::Later)];
    let proto = prop_oneof![Just(6), Just(17), Just(1), Just(132)];
    (address(), address(), proto, 0_u16..6, 0_u16..6, fragment)
        .prop_filter("one family", |(src, dst, ..)| src.is_ipv4() == dst.is_ipv4())
        .prop_map(|(src, dst, proto, sport, dport, fragment)| {
            twin::packet(src, dst, proto, sport, dport, fragment)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn compiled_filters_agree_with_the_slow_twin(expr in expr(), packets in prop::collection::vec(packet(), 40)) {
        let filter = Filter::compile(&expr).expect("short enough");
        for packet in packets {
            prop_assert_eq!(filter.matches(Some(&packet)), twin::slow(&expr, &packet), "{:?}", packet);
        }
    }
}
