//! Sets so large that their addresses have maps of other forms.

use super::*;

/// Members of all lengths, hosts among them that cut their /24.
fn sets(r: &mut Rng) -> Vec<Arc<Set>> {
    let member = |r: &mut Rng, i: u32| {
        if i.is_multiple_of(2) {
            let len = r.pick(&[14, 20, 24, 24, 24, 25, 30, 32]);
            IpPrefix::V4(Prefix::covering(r.next() as u32, len))
        } else {
            let addr = 0x2001_u128 << 112 | u128::from(r.next()) << 48 | u128::from(r.next() >> 16);
            IpPrefix::V6(Prefix::covering(addr, r.pick(&[30, 32, 48, 48, 48, 56, 64, 128])))
        }
    };
    let set = |i: usize, r: &mut Rng| {
        Arc::new(Set {
            name: format!("s{i}").into(),
            members: (0..40_000).map(|n| member(r, n)).collect(),
        })
    };
    (0..4).map(|i| set(i, r)).collect()
}

/// Rules over two of the sets each; with prefixes of their own they make more classes than four bits tell apart.
fn over(r: &mut Rng, sets: &[Arc<Set>], fancy: bool, literals: bool) -> List {
    let rules = (0..8).map(|i| {
        let mut rule = rule(r, sets, fancy);
        for (side, set) in [(&mut rule.src, i % 2), (&mut rule.dst, 2 + i / 2 % 2)] {
            *side = Addresses::any();
            side.sets.push(sets[set].clone());
            if literals {
                side.prefixes
                    .push(IpPrefix::V4(Prefix::covering(r.next() as u32, 4)));
            }
        }
        rule
    });
    List {
        name: "large".into(),
        default: Action::Deny,
        rules: rules.collect(),
        origin: origin(),
    }
}

#[test]
fn image_equals_twin_over_large_sets() {
    let mut r = Rng(21);
    let sets = sets(&mut r);
    for (fancy, literals) in [(false, false), (true, false), (true, true)] {
        let list = over(&mut r, &sets, fancy, literals);
        let image = Image::compile(&list, &Limits::default()).expect("fits");
        assert_eq!(
            image.image_bytes() > 16 << 20,
            !literals,
            "a table of 8 MiB for each side, but with many classes"
        );
        agrees(&list, &packets(r.next(), &list, 200));
    }
}
