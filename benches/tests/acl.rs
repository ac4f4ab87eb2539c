//! Access lists over real and grown rule sets: every look-up way against expected first matches.

use std::path::Path;

use benches::acl_sets::{self, classbench};
use classifier::acl::{Image, Limits, List, Match, Way};
use control::bench::acl::{Key, parse_keys, parse_rules};

fn check(name: &str, list: &List, keys: &[Key], limits: &Limits) {
    let mut image = Image::compile(list, limits).expect("fits");
    assert!(image.bytes() >= image.image_bytes() && image.image_bytes() > 0);
    let headers: Vec<_> = keys.iter().map(|k| k.headers).collect();
    let mut out = vec![Match::default(); keys.len()];
    for way in Way::available() {
        image = image.with_way(way).expect("available");
        image.classify_burst(&headers, &mut out);
        let wrong = keys.iter().zip(&out).position(|(k, m)| k.expected != m.rule);
        assert_eq!(wrong.map(|i| (keys[i], out[i])), None, "{name} by {way:?}");
    }
}

/// The list and its keys through the text formats.
fn through_text(
    rules: &[acl_sets::Rule],
    keys: &[acl_sets::Key],
    expected: &[i32],
    v6: bool,
) -> (List, Vec<Key>) {
    let path = Path::new("grown");
    let list = parse_rules(&acl_sets::print_rules(rules, v6), path).expect("own format");
    let keys = parse_keys(&acl_sets::print_keys(keys, expected, v6), path).expect("own format");
    (list, keys)
}

#[test]
fn classbench_sets_give_their_expected_first_matches() {
    // Every base set ends with a rule for everything: without it there are misses.
    let mut misses = 0;
    for set in ["acl1_1k", "fw1_1k", "ipc1_1k", "acl1_10k", "fw1_10k", "ipc1_10k"] {
        let (Some(rules), Some(keys)) = (
            classbench(&format!("{set}.rules")),
            classbench(&format!("{set}.keys")),
        ) else {
            return;
        };
        let list = parse_rules(&rules, Path::new(set)).expect("ClassBench rules");
        let keys = parse_keys(&keys, Path::new(set)).expect("keys");
        assert!(list.rules.len() > 800 && keys.len() > 8000);
        check(set, &list, &keys, &Limits::default());
        // The same set for IPv6, with keys of our own, misses among them.
        let mut rules = acl_sets::parse(&rules).expect("ClassBench rules");
        rules.pop();
        let keys = acl_sets::keys(&rules, 4000, 1);
        let expected = acl_sets::expected(&rules, &keys);
        misses += expected.iter().filter(|&&e| e < 0).count();
        let (list, keys) = through_text(&rules, &keys, &expected, true);
        check(&format!("{set} for IPv6"), &list, &keys, &Limits::default());
    }
    assert!(misses > 0);
}

#[test]
fn grown_sets_give_what_a_scan_gives() {
    // Compiling without optimization takes some thirty times as long.
    let (large, checked) = if cfg!(debug_assertions) {
        (30_000, 1000)
    } else {
        (1_000_000, 3000)
    };
    for (base, count) in [
        ("acl1_10k", large),
        ("fw1_10k", large / 10),
        ("ipc1_10k", large / 10),
    ] {
        let Some(text) = classbench(&format!("{base}.rules")) else {
            return;
        };
        let rules = acl_sets::grow(&acl_sets::parse(&text).expect("ClassBench rules"), count, 1);
        assert!(rules.len() > count * 8 / 10);
        let keys = acl_sets::keys(&rules, checked, 2);
        let expected = acl_sets::expected(&rules, &keys);
        for v6 in [false, true] {
            let (list, keys) = through_text(&rules, &keys, &expected, v6);
            check(
                &format!("{base} grown to {count}"),
                &list,
                &keys,
                &Limits { memory: 4 << 30 },
            );
        }
    }
}
