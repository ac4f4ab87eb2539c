//! The image against the slow twin, over random rules and packets near their boundaries.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::lpm::{IpPrefix, Prefix};
use crate::packet::{Family, Fragment, Headers};

mod large;

/// A small generator of our own (splitmix64), so that one number names a whole list and its packets.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Addresses lie close together, so that prefixes nest and meet.
fn address(r: &mut Rng, family: Family) -> u128 {
    let bytes = r.next() & r.next();
    match family {
        Family::V4 => {
            u128::from(r.pick(&[0x0a00_0000u32, 0x0a01_0000, 0xc0a8_0000, 0]) | bytes as u32 & 0x0101_070f)
        }
        Family::V6 => {
            let top = r.pick(&[0x2001_0db8_0000_0000u64, 0xfd00_0000_0000_0000, 0, u64::MAX]);
            let high = top ^ bytes & 0x0000_0000_0003_0007;
            u128::from(high) << 64
                | u128::from(if r.one_in(2) {
                    r.next() & 0x8000_0000_0000_000f
                } else {
                    0
                })
        }
    }
}

fn prefix(r: &mut Rng, family: Family) -> IpPrefix {
    let addr = address(r, family);
    match family {
        Family::V4 => IpPrefix::V4(Prefix::covering(
            addr as u32,
            r.pick(&[0, 1, 7, 8, 15, 16, 17, 23, 24, 29, 31, 32]),
        )),
        Family::V6 => IpPrefix::V6(Prefix::covering(
            addr,
            r.pick(&[0, 1, 3, 8, 32, 48, 62, 63, 64, 65, 126, 127, 128]),
        )),
    }
}

fn ports(r: &mut Rng) -> Vec<PortRange> {
    let port = |r: &mut Rng| r.pick(&[0u16, 1, 53, 79, 80, 81, 443, 1023, 1024, 8080, 65534, 65535]);
    (0..r.pick(&[0, 0, 0, 1, 1, 3]))
        .map(|_| {
            let (a, b) = (port(r), port(r));
            PortRange {
                lo: a.min(b),
                hi: a.max(b),
            }
        })
        .collect()
}

fn addresses(r: &mut Rng, family: Family, sets: &[Arc<Set>]) -> Addresses {
    let mut a = Addresses::any();
    match r.below(6) {
        0 | 1 => {}
        2 => a.sets.push(sets[r.below(sets.len() as u64) as usize].clone()),
        3 => {
            a.sets.push(sets[r.below(sets.len() as u64) as usize].clone());
            a.prefixes.push(prefix(r, family));
        }
        _ => a
            .prefixes
            .extend((0..r.pick(&[1, 1, 1, 4])).map(|_| prefix(r, family))),
    }
    a
}

fn origin() -> Origin {
    Origin {
        file: "test".into(),
        line: 1,
    }
}

fn rule(r: &mut Rng, sets: &[Arc<Set>], fancy: bool) -> Rule {
    let family = r.pick(&[Family::V4, Family::V4, Family::V6]);
    let mut rule = Rule::any(r.pick(&[Action::Allow, Action::Deny, Action::Reject]), origin());
    rule.src = addresses(r, family, sets);
    rule.dst = addresses(r, family, sets);
    rule.protocols = match r.below(5) {
        0 | 1 => Protocols::ANY,
        2 => Protocols::number(6),
        3 => Protocols::number(17),
        _ => Protocols::icmp(),
    };
    rule.sport = ports(r);
    rule.dport = ports(r);
    if fancy {
        if r.one_in(6) {
            rule.tcp = Some(if r.one_in(2) {
                TcpMatch::Established
            } else {
                TcpMatch::Flags {
                    set: r.next() as u8 & 0x12,
                    mask: 0x12,
                }
            });
        }
        if r.one_in(8) {
            let t = |r: &mut Rng| {
                r.one_in(4).then_some(0).or(Some(8)).map(|kind| IcmpType {
                    kind,
                    code: r.one_in(2).then_some(1),
                })
            };
            rule.icmp = vec![IcmpMatch { v4: t(r), v6: t(r) }];
        }
        rule.fragment = r.pick(&[
            FragmentMatch::Unsaid,
            FragmentMatch::Unsaid,
            FragmentMatch::Any,
            FragmentMatch::First,
            FragmentMatch::Later,
            FragmentMatch::None,
        ]);
        if r.one_in(6) {
            rule.dscp = 1 << 46 | 1;
        }
    }
    rule
}

fn list(r: &mut Rng, rules: usize, fancy: bool) -> List {
    let sets: Vec<Arc<Set>> = (0..3)
        .map(|i| {
            let n = r.pick(&[1, 5, 40]);
            let members = (0..n)
                .map(|_| {
                    let family = r.pick(&[Family::V4, Family::V6]);
                    prefix(r, family)
                })
                .collect();
            Arc::new(Set {
                name: format!("s{i}").into(),
                members,
            })
        })
        .collect();
    List {
        name: "random".into(),
        default: r.pick(&[Action::Allow, Action::Deny]),
        rules: (0..rules).map(|_| rule(r, &sets, fancy)).collect(),
        origin: origin(),
    }
}

/// A corner of a prefix, or the address just outside it.
fn near(r: &mut Rng, p: &IpPrefix) -> u128 {
    let (first, last, max) = match p {
        IpPrefix::V4(p) => (u128::from(p.addr()), u128::from(p.last()), u128::from(u32::MAX)),
        IpPrefix::V6(p) => (p.addr(), p.last(), u128::MAX),
    };
    match r.below(4) {
        0 => first,
        1 => last,
        2 => first.wrapping_sub(1) & max,
        _ => last.wrapping_add(1) & max,
    }
}

fn near_address(r: &mut Rng, a: &Addresses, family: Family) -> u128 {
    let of_family: Vec<&IpPrefix> = a
        .all()
        .filter(|p| matches!(p, IpPrefix::V4(_)) == (family == Family::V4))
        .collect();
    if of_family.is_empty() || r.one_in(5) {
        return address(r, family);
    }
    let p = of_family[r.below(of_family.len() as u64) as usize];
    near(r, p)
}

fn near_port(r: &mut Rng, ranges: &[PortRange]) -> u16 {
    if ranges.is_empty() {
        return r.pick(&[0, 80, 443, 65535]);
    }
    let range = r.pick(ranges);
    r.pick(&[
        range.lo,
        range.hi,
        range.lo.wrapping_sub(1),
        range.hi.wrapping_add(1),
    ])
}

/// Draws packets near the boundaries of a list's rules.
struct Near<'a> {
    rng: Rng,
    list: &'a List,
}

impl Near<'_> {
    fn packet(&mut self) -> Headers {
        let r = &mut self.rng;
        let family = r.pick(&[Family::V4, Family::V4, Family::V6]);
        let rule = &self.list.rules[r.below(self.list.rules.len() as u64) as usize];
        let fragment = r.pick(&[Fragment::Whole, Fragment::Whole, Fragment::First, Fragment::Later]);
        let proto = match r.below(4) {
            0 => r.pick(&[0, 1, 6, 17, 58, 255]),
            _ => {
                let set = rule.protocols_of(family);
                let numbers: Vec<u8> = (0..=255).filter(|&n| set.contains(n)).collect();
                if numbers.is_empty() { 6 } else { r.pick(&numbers) }
            }
        };
        let later = fragment == Fragment::Later;
        let is_icmp = proto == if family == Family::V4 { 1 } else { 58 };
        Headers {
            family,
            src: near_address(r, &rule.src, family),
            dst: near_address(r, &rule.dst, family),
            proto,
            sport: if later { 0 } else { near_port(r, &rule.sport) },
            dport: if later { 0 } else { near_port(r, &rule.dport) },
            tcp_flags: if proto == 6 && !later {
                r.next() as u8 & 0x17
            } else {
                0
            },
            icmp: (is_icmp && !later).then(|| (r.pick(&[0, 8]), r.pick(&[0, 1]))),
            fragment,
            dscp: r.pick(&[0, 46, 10]),
            ttl: 64,
            dont_fragment: false,
            source_route: false,
            l3: 14,
            l4: 34,
            len: 60,
            flow_label: 0,
            flaw: None,
        }
    }
}

fn packets(seed: u64, list: &List, n: usize) -> Vec<Headers> {
    let mut r = Near { rng: Rng(seed), list };
    (0..n).map(|_| r.packet()).collect()
}

/// Every way gives what the twin gives, in bursts of any length.
fn agrees(list: &List, packets: &[Headers]) {
    let expected: Vec<Match> = packets.iter().map(|p| linear::classify(list, p)).collect();
    let mut image = Image::compile(list, &Limits::default()).expect("fits");
    for way in Way::available() {
        image = image.with_way(way).expect("available");
        let mut out = vec![Match::default(); packets.len()];
        image.classify_burst(packets, &mut out);
        for ((p, e), m) in packets.iter().zip(&expected).zip(&out) {
            assert_eq!(
                m,
                e,
                "{way:?} differs from the twin for {p:#?}\nrules {:#?}",
                list.rules.get(e.rule.max(0) as usize)
            );
        }
        for n in [1, 2, 15, 63] {
            let n = n.min(packets.len());
            image.classify_burst(&packets[..n], &mut out);
            assert_eq!(out[..n], expected[..n]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn image_equals_twin(seed: u64, rules in 1usize..60, fancy: bool) {
        let list = list(&mut Rng(seed), rules, fancy);
        agrees(&list, &packets(!seed, &list, 150));
    }
}

#[test]
fn image_equals_twin_on_long_lists() {
    for seed in 0..2 {
        let list = list(&mut Rng(seed), 600, seed == 1);
        agrees(&list, &packets(!seed, &list, 1500));
    }
}

#[test]
fn a_list_without_rules_answers_its_default() {
    let mut empty = list(&mut Rng(1), 1, false);
    let packets = packets(7, &empty, 3);
    empty.rules.clear();
    empty.default = Action::Allow;
    agrees(&empty, &packets);
}

#[test]
fn the_memory_limit_names_the_list() {
    let list = list(&mut Rng(3), 200, false);
    let error = Image::compile(&list, &Limits { memory: 100 << 10 }).expect_err("too small");
    assert!(error.to_string().contains("\"random\""), "{error}");
}

/// Lists whose conditions cannot be numbered or combined are refused, soon and by name.
#[test]
fn too_many_port_conditions_are_refused() {
    let list = |rules: u16, step: u16| {
        let rule = |i: u16| {
            let mut rule = Rule::any(Action::Allow, origin());
            rule.protocols = Protocols::number(6);
            rule.sport = vec![PortRange { lo: i, hi: u16::MAX }];
            rule.dport = vec![PortRange {
                lo: 0,
                hi: i.wrapping_mul(step),
            }];
            rule
        };
        List {
            name: "ports".into(),
            default: Action::Deny,
            rules: (0..rules).map(rule).collect(),
            origin: origin(),
        }
    };
    let limits = Limits { memory: 16 << 20 };
    match Image::compile(&list(5000, 7919), &limits) {
        Err(CompileError::Memory {
            list, rules, limit, ..
        }) => {
            assert_eq!((&*list, rules, limit), ("ports", 5000, limits.memory))
        }
        other => panic!("{:?}", other.map(|image| image.image_bytes())),
    }
    match Image::compile(&list(u16::MAX, 1), &limits) {
        Err(CompileError::Conditions { list, distinct, .. }) => {
            assert_eq!((&*list, distinct), ("ports", usize::from(u16::MAX)))
        }
        other => panic!("{:?}", other.map(|image| image.image_bytes())),
    }
}

#[test]
fn changed_members_keep_the_tables() {
    let mut list = list(&mut Rng(11), 200, false);
    let set = |n: u32| {
        let member = |i: u32| IpPrefix::V4(Prefix::covering(0x1400_0000 + i * 512, 24));
        Arc::new(Set {
            name: "changing".into(),
            members: (0..n).map(member).collect(),
        })
    };
    let mut rule = Rule::any(Action::Allow, origin());
    rule.src.sets = vec![set(50)];
    list.rules.insert(0, rule);
    let image = Image::compile(&list, &Limits::default()).expect("fits");

    list.rules[0].src.sets = vec![set(60)];
    let changed = image
        .recompile(Arc::new(list.clone()), &Limits::default())
        .expect("fits");
    assert!(changed.has_tables_of(&image), "nothing but members has changed");
    let inside = |i: u32| Headers {
        family: Family::V4,
        src: u128::from(0x1400_0000 + i * 512),
        ..packets(1, &list, 1)[0]
    };
    assert_eq!(
        (
            image.classify(&inside(55)).rule == 0,
            changed.classify(&inside(55)).rule
        ),
        (false, 0)
    );
    for p in packets(5, &list, 500) {
        assert_eq!(changed.classify(&p), linear::classify(&list, &p));
    }

    // Another rule is another list; so is a set that now meets conditions it did not meet before.
    let mut other = list.clone();
    other.rules[3].action = if other.rules[3].action == Action::Deny {
        Action::Allow
    } else {
        Action::Deny
    };
    let compiled = changed
        .recompile(Arc::new(other.clone()), &Limits::default())
        .expect("fits");
    assert!(!compiled.has_tables_of(&image));
    for p in packets(6, &other, 500) {
        assert_eq!(compiled.classify(&p), linear::classify(&other, &p));
    }
}
