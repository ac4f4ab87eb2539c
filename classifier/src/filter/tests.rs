use super::*;

fn packet(family: Family, src: u128, dst: u128, proto: u8, ports: (u16, u16)) -> Headers {
    Headers {
        family,
        src,
        dst,
        proto,
        sport: ports.0,
        dport: ports.1,
        tcp_flags: 0,
        icmp: None,
        fragment: Fragment::Whole,
        dscp: 0,
        ttl: 64,
        dont_fragment: false,
        source_route: false,
        l3: 14,
        l4: 34,
        len: 40,
        flow_label: 0,
        flaw: None,
    }
}

fn test(test: Test) -> Box<Expr> {
    Box::new(Expr::Test(test))
}

fn port(side: Side, lo: u16, hi: u16) -> Box<Expr> {
    test(Test::Port { side, lo, hi })
}

#[test]
fn each_test_looks_at_its_field() {
    let web = packet(Family::V4, 0x0a00_0001, 0x0a01_0002, 6, (4000, 443));
    let net = |side, bits, mask| Test::Net {
        side,
        family: Family::V4,
        bits,
        mask,
    };
    for (test, wanted) in [
        (Test::Family(Family::V4), true),
        (Test::Family(Family::V6), false),
        (net(Side::Src, 0x0a00_0000, 0xffff_0000), true),
        (net(Side::Dst, 0x0a00_0000, 0xffff_0000), false),
        (net(Side::Either, 0x0a01_0002, 0xffff_ffff), true),
        (Test::Proto(6), true),
        (Test::Proto(17), false),
    ] {
        let filter = Filter::compile(&Expr::Test(test)).unwrap();
        assert_eq!(filter.matches(Some(&web)), wanted, "{test:?}");
        assert!(!filter.matches(None), "what cannot be read matches nothing");
    }
    let on = |expr: &Expr, headers: &Headers| Filter::compile(expr).unwrap().matches(Some(headers));
    assert!(on(&port(Side::Dst, 443, 443), &web) && !on(&port(Side::Src, 443, 443), &web));
    assert!(on(&port(Side::Either, 4000, 4100), &web));
    let later = Headers {
        fragment: Fragment::Later,
        ..web
    };
    assert!(
        !on(&port(Side::Either, 0, 65535), &later),
        "a later fragment has no ports"
    );
    let ping = packet(Family::V4, 1, 2, 1, (0, 0));
    assert!(!on(&port(Side::Either, 0, 65535), &ping), "nor has ICMP");
}

#[test]
fn the_filter_of_everything_matches_what_cannot_be_read() {
    assert!(Filter::all().matches(None) && Filter::all().is_all());
}

#[test]
fn a_filter_has_an_end() {
    let mut expr = port(Side::Either, 1, 1);
    for _ in 1..MAX_TESTS {
        expr = Box::new(Expr::Or(expr, port(Side::Either, 2, 2)));
    }
    assert!(Filter::compile(&expr).is_ok());
    let longer = Expr::And(expr, port(Side::Either, 2, 2));
    assert_eq!(Filter::compile(&longer), Err(TooLong));
}
