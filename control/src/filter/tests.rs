use classifier::filter::{Expr, Side, Test};
use classifier::packet::Family;
use proptest::prelude::*;

use super::*;

/// The error of a filter: where, the word, what is said.
fn wrong(text: &str) -> (usize, String, String) {
    let error = parse(text).expect_err(text);
    let hint = error
        .hint
        .clone()
        .map(|hint| format!(" ({hint})"))
        .unwrap_or_default();
    (error.at, error.word.clone(), format!("{}{hint}", error.message))
}

#[test]
fn errors_point_at_the_word() {
    for (text, at, word, says) in [
        ("hosst 10.0.0.1", 0, "hosst", "do you mean `host`?"),
        ("tcp and prot 80", 8, "prot", "do you mean `proto`?"),
        (
            "host 10.0.0.1 port 80",
            14,
            "port",
            "expected `and`, `or` or the end",
        ),
        ("host 10.0.0.256", 5, "10.0.0.256", "no address"),
        ("host example.org", 5, "example.org", "names are not looked up"),
        ("host 10.0.0.0/8", 5, "10.0.0.0/8", "write `net 10.0.0.0/8`"),
        ("10.0.0.1", 0, "10.0.0.1", "write `host 10.0.0.1`"),
        ("src 10.0.0.0/8", 4, "10.0.0.0/8", "write `src net 10.0.0.0/8`"),
        ("net 10.0.0.1/8", 4, "10.0.0.1/8", ""),
        ("port 65536", 5, "65536", "from 0 to 65535"),
        ("port +80", 5, "+80", "no port"),
        ("portrange 90-80", 10, "90-80", "the larger one"),
        ("portrange 90", 10, "90", "8000-8080"),
        ("proto nosuch", 6, "nosuch", "behind `proto`"),
        ("proto 256", 6, "256", "from 0 to 255"),
        ("(tcp or udp", 11, "", "character 1 is open"),
        ("tcp)", 3, ")", "no parenthesis is open"),
        ("tcp and", 7, "", "expected a test"),
        ("not", 3, "", "expected a test"),
        ("src", 3, "", "behind `src`"),
        ("ärger tcp", 0, "ärger", "expected a test"),
        ("tcp && ärger", 7, "ärger", "expected a test"),
    ] {
        let (found, named, said) = wrong(text);
        assert_eq!((found, named.as_str()), (at, word), "{text}");
        assert!(said.contains(says), "{text}: {said}");
    }
}

#[test]
fn marks_stand_under_the_word() {
    let error = parse("tcp && ärger").expect_err("wrong");
    assert_eq!(error.marked(), "  tcp && ärger\n         ^^^^^");
    let error = parse("tcp\tand\n").expect_err("wrong");
    assert_eq!(error.marked(), "  tcp and \n         ^");
    assert_eq!(
        error.to_string(),
        "the filter is wrong at its character 8: expected a test such as `host 10.0.0.1`"
    );
}

#[test]
fn what_is_too_long_or_too_deep_is_refused() {
    assert!(wrong(&" ".repeat(MAX_TEXT + 1)).2.contains("4096"));
    assert!(wrong(&"!".repeat(200)).2.contains("64 deep"));
    assert!(wrong(&"(".repeat(200)).2.contains("64 deep"));
    let many = vec!["tcp"; 300].join(" or ");
    assert!(wrong(&many).2.contains("256 tests"));
}

#[test]
fn and_and_or_bind_alike_and_not_binds_tightest() {
    let test = |number| Box::new(Expr::Test(Test::Proto(number)));
    let expr = |text| expression(text).expect("good").expect("not empty");
    assert_eq!(
        expr("proto 1 or proto 2 and proto 3"),
        Expr::And(Box::new(Expr::Or(test(1), test(2))), test(3))
    );
    assert_eq!(
        expr("!proto 1 && (proto 2 || proto 3)"),
        Expr::And(Box::new(Expr::Not(test(1))), Box::new(Expr::Or(test(2), test(3))))
    );
    assert_eq!(expression(" \t"), Ok(None));
}

/// An expression, and one of the ways to write it.
fn written() -> impl Strategy<Value = (Expr, String)> {
    let side = prop_oneof![
        Just((Side::Src, "src ")),
        Just((Side::Dst, "dst ")),
        Just((Side::Either, ""))
    ];
    let host = (side.clone(), any::<std::net::IpAddr>(), any::<bool>()).prop_map(
        |((side, word), address, short)| {
            let (family, bits, mask) = match address {
                std::net::IpAddr::V4(address) => {
                    (Family::V4, u128::from(address.to_bits()), u128::from(u32::MAX))
                }
                std::net::IpAddr::V6(address) => (Family::V6, address.to_bits(), u128::MAX),
            };
            let host = if short && side != Side::Either {
                ""
            } else {
                "host "
            };
            (
                Expr::Test(Test::Net {
                    side,
                    family,
                    bits,
                    mask,
                }),
                format!("{word}{host}{address}"),
            )
        },
    );
    let net = (side.clone(), any::<u32>(), 0_u32..=32).prop_map(|((side, word), bits, length)| {
        let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        let test = Test::Net {
            side,
            family: Family::V4,
            bits: u128::from(bits & mask),
            mask: u128::from(mask),
        };
        (
            Expr::Test(test),
            format!("{word}net {}/{length}", std::net::Ipv4Addr::from(bits & mask)),
        )
    });
    let net6 = (side.clone(), any::<u128>(), 0_u32..=128).prop_map(|((side, word), bits, length)| {
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        let test = Test::Net {
            side,
            family: Family::V6,
            bits: bits & mask,
            mask,
        };
        (
            Expr::Test(test),
            format!("{word}net {}/{length}", std::net::Ipv6Addr::from(bits & mask)),
        )
    });
    let port = (side, any::<(u16, u16)>()).prop_map(|((side, word), (a, b))| {
        let (lo, hi) = (a.min(b), a.max(b));
        let text = if lo == hi {
            format!("{word}port {lo}")
        } else {
            format!("{word}portrange {lo}-{hi}")
        };
        (Expr::Test(Test::Port { side, lo, hi }), text)
    });
    let proto = any::<u8>().prop_map(|number| (Expr::Test(Test::Proto(number)), format!("proto {number}")));
    let leaf = prop_oneof![host, net, net6, port, proto];
    leaf.prop_recursive(5, 40, 2, |inner| {
        prop_oneof![
            (inner.clone(), any::<bool>()).prop_map(|((expr, text), sign)| {
                let not = if sign { "!" } else { "not " };
                (Expr::Not(Box::new(expr)), format!("{not}({text})"))
            }),
            (inner.clone(), inner.clone(), any::<bool>()).prop_map(|((a, left), (b, right), sign)| {
                // The left side needs no parentheses: terms bind from left to right. A lone `not` binds tighter still.
                let and = if sign { "&&" } else { " and " };
                (
                    Expr::And(Box::new(a), Box::new(b)),
                    format!("{left}{and}({right})"),
                )
            }),
            (inner.clone(), inner).prop_map(|((a, left), (b, right))| {
                (
                    Expr::Or(Box::new(a), Box::new(b)),
                    format!("({left}) or ({right})"),
                )
            }),
        ]
    })
}

proptest! {
    #[test]
    fn an_expression_is_read_as_it_was_written((expr, text) in written()) {
        prop_assert_eq!(expression(&text), Ok(Some(expr)), "{}", text);
    }
}
