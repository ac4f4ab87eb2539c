use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::qsbr::Domain;

mod engines;
mod limits;
mod stress;

#[test]
fn prefixes_parse_and_print() {
    for (text, printed) in [
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("255.255.255.255/32", "255.255.255.255/32"),
        ("::/0", "::/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("2001:DB8:0::1", "2001:db8::1/128"),
    ] {
        assert_eq!(text.parse::<IpPrefix>().unwrap().to_string(), printed);
    }
    for text in [
        "",
        "/",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/8/8",
        "10.0.0/8",
        "::/-1",
        "x",
        "10.0.0.0/0008",
    ] {
        assert!(
            matches!(text.parse::<IpPrefix>(), Err(LpmError::Syntax(_))),
            "{text}"
        );
    }
    for text in ["10.0.0.0/33", "::/129", "10.0.0.0/999"] {
        assert!(
            matches!(text.parse::<IpPrefix>(), Err(LpmError::Length { .. })),
            "{text}"
        );
    }
    let error = "10.0.0.1/8".parse::<IpPrefix>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "prefix 10.0.0.1/8 has host bits set; 10.0.0.0/8 covers that address"
    );
    assert!(matches!(
        "::1/0".parse::<IpPrefix>(),
        Err(LpmError::HostBits { .. })
    ));
}

#[test]
fn prefix_ranges() {
    let all = Prefix::<u128>::new(0, 0).unwrap();
    assert_eq!(all.last(), u128::MAX);
    assert!(all.contains(u128::MAX) && all.covers(&Prefix::new(u128::MAX, 128).unwrap()));
    let host = Prefix::new(u32::MAX, 32).unwrap();
    assert_eq!((host.addr(), host.last()), (u32::MAX, u32::MAX));
    assert!(!host.contains(u32::MAX - 1));
}

/// The plainest answer there is: try every length.
fn scan<A: Addr>(routes: &BTreeMap<Prefix<A>, Value>, addr: A) -> Option<(Prefix<A>, Value)> {
    (0..=A::BITS)
        .rev()
        .find_map(|len| routes.get_key_value(&Prefix::covering(addr, len)))
        .map(|(p, v)| (*p, *v))
}

proptest! {
    #[test]
    fn the_twin_equals_a_scan(
        changes in proptest::collection::vec((any::<u32>(), 0u8..=32, proptest::option::of(0..=MAX_VALUE)), 1..200),
        keys in proptest::collection::vec(any::<u32>(), 1..64),
    ) {
        let domain = Domain::new();
        let mut table = trie::Table::<u32>::new(&domain);
        let mut plain = BTreeMap::new();
        for (addr, len, value) in &changes {
            // Few distinct high bits, so that prefixes nest.
            let prefix = Prefix::covering(addr & 0xc3ff_00ff, *len);
            let (was, expected) = match value {
                Some(value) => (table.insert(prefix, *value).unwrap(), plain.insert(prefix, *value)),
                None => (table.remove(prefix).unwrap(), plain.remove(&prefix)),
            };
            prop_assert_eq!(was, expected);
        }
        prop_assert_eq!(table.len(), plain.len());
        prop_assert_eq!(table.iter().collect::<Vec<_>>(), plain.iter().map(|(p, v)| (*p, *v)).collect::<Vec<_>>());
        let (worker, routes) = (domain.register(), table.reader());
        for key in keys.iter().map(|key| key & 0xc3ff_00ff).chain(changes.iter().map(|(addr, ..)| *addr)) {
            let expected = scan(&plain, key);
            prop_assert_eq!(table.lookup(key), expected);
            prop_assert_eq!(routes.lookup(&worker.online(), key), expected.map_or(NO_ROUTE, |(_, value)| value));
        }
    }
}
