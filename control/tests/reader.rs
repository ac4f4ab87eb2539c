//! Access lists read again after changes mean what they mean to a reader that has read nothing before.

#[allow(dead_code)]
mod property;

use proptest::prelude::*;

/// Parts of good files.
const BLOCKS: &[&str] = &[
    "[[acl.rule]]\naction = \"allow\"\n",
    "[[acl.rule]]\naction = \"deny\"\nproto = \"tcp\"\nsrc = [\"@a\"]\ndport = [80, \"90-99\"]\n",
    "[[acl.rule]] # with a note\naction = \"deny\"\nsrc = [\"10.0.0.0/8\", \"@b\"]\n\n",
    "[[acl.rule]]\r\naction = \"reject\"\r\ndst = [\r\n  \"192.0.2.1\",\r\n]\r\n",
    "[[acl.rule]]\naction = \"allow\"\nsrc = [\n\"2001:db8::/32\",\n# [[acl.rule]]\n]\nicmp = [\"echo-request\"]\n",
    "[[acl.rule]]\naction = \"deny\"\nfragment = \"later\"\ndport = [1]\n",
    "  [[acl.rule]]\n  action = \"deny\"\n",
    "[[ acl . rule ]]\naction = \"deny\"\ndscp = [46]\n",
    "[[acl]]\nname = \"l\"\ndefault = \"deny\"\n",
    "[[acl]]\nname = \"m\"\ndefault = \"allow\"\n",
    "[[acl]]\nname = \"n\"\n",
    "[[acl]]\nname = \"o\"\ndefault = \"deny\"\nrule = [{action = \"allow\"}, {action = \"deny\", src = [\"@a\"]}]\n",
    "[sets.a]\nprefixes = [\"10.1.0.0/16\"]\n",
    "[sets.a]\nprefixes = [\"10.1.0.0/16\", \"10.2.0.0/16\"]\n",
    "[sets.a]\nprefixes = [\"2001:db8::/32\"]\n",
    "[sets.b]\nprefixes = [\"10.3.0.0/16\", \"2001:db8:3::/48\"]\n",
    "# nothing\n\n",
];

/// Lines that break files, or make them mean something else.
const LINES: &[&str] = &[
    "[[acl.rule]]",
    "[[acl.rule]]]",
    "[[acl.rule]] x = 1",
    "[acl.rule]",
    "[acl.rule.src]",
    "[[acl.rule.src]]",
    "[acl]",
    "[[acl]]",
    "[sets]",
    "action = \"allow\"",
    "action = \"alow\"",
    "src = [",
    "src = [\"10.0.0.1/8\"]",
    "src = [\"@nosuch\"]",
    "src.a = 1",
    "dport = [\"90-80\"]",
    "[1],",
    "]",
    "x = {",
    "}",
    "x = \"\"\"",
    "\"\"\"",
    "x = '''",
    "'''",
    "x = \"",
    "# \"\"\"",
    "acl = []",
    "rule = []",
    "version = 1",
    "version = 2",
    "\u{feff}",
    "\r",
    "\0",
];

/// A file: blocks behind a head that makes most of them fit, then lines put in, or in place of others.
fn file() -> impl Strategy<Value = String> {
    let blocks = prop::collection::vec(0..BLOCKS.len(), 0..8);
    let rules = prop::collection::vec(0..6usize, 0..4);
    let line = (any::<prop::sample::Index>(), 0..LINES.len(), any::<bool>());
    let lines = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(line, 1..3)];
    (any::<bool>(), rules, blocks, lines).prop_map(|(head, rules, blocks, lines)| {
        let mut text = String::new();
        if head {
            text.push_str(
                "version = 1\n[sets.a]\nprefixes = [\"10.9.0.0/16\"]\n[sets.b]\nprefixes = [\"::/0\"]\n",
            );
            text.push_str("[[acl]]\nname = \"first\"\ndefault = \"deny\"\n");
        }
        text.extend(rules.into_iter().chain(blocks).map(|block| BLOCKS[block]));
        for (at, line, replaces) in lines {
            let mut all: Vec<&str> = text.split('\n').collect();
            let at = at.index(all.len());
            all.splice(at..at + usize::from(replaces), [LINES[line]]);
            text = all.join("\n");
        }
        text
    })
}

/// A few files that follow one another: each like the one before with a line or a block put in, or another file altogether.
fn versions() -> impl Strategy<Value = Vec<[String; 2]>> {
    let change = (
        any::<prop::sample::Index>(),
        0..BLOCKS.len() + LINES.len(),
        any::<bool>(),
    );
    let changes = prop::collection::vec(change, 1..5);
    (file(), file(), changes).prop_map(|(first, second, changes)| {
        let mut versions = vec![[first, String::new()]];
        for (at, what, is_other) in changes {
            let mut next = versions[versions.len() - 1].clone();
            match BLOCKS.get(what) {
                Some(block) => {
                    // In front of a header, so that the file stays good.
                    let headers: Vec<usize> = next[0].match_indices("\n[").map(|(at, _)| at + 1).collect();
                    let at = headers.get(at.index(headers.len() + 1)).copied();
                    next[0].insert_str(at.unwrap_or(next[0].len()), block);
                }
                None if is_other => {
                    next[1] = if next[1].is_empty() {
                        second.clone()
                    } else {
                        String::new()
                    }
                }
                None => {
                    let mut lines: Vec<&str> = next[0].split('\n').collect();
                    lines.insert(at.index(lines.len()), LINES[what - BLOCKS.len()]);
                    next[0] = lines.join("\n");
                }
            }
            versions.push(next);
        }
        versions
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn what_is_read_again_is_what_is_there(versions in versions()) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        property::read_again(&versions, dir.path());
    }
}
