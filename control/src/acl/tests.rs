use std::path::PathBuf;

use classifier::acl::{Action, FragmentMatch, Image, Limits, List, linear};
use classifier::packet::{Family, Fragment, Headers};

use super::{Severity, check_files, load_dir};
use crate::bench::acl::headers;

#[allow(dead_code)]
#[path = "../../tests/property/samples.rs"]
mod samples;

fn dir_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).expect("a file written");
    }
    dir
}

fn packet(src: &str, dst: &str, proto: u8, sport: u16, dport: u16) -> Headers {
    let number = |t: &str| match t.parse().expect("an address") {
        std::net::IpAddr::V4(a) => (Family::V4, u128::from(u32::from(a))),
        std::net::IpAddr::V6(a) => (Family::V6, u128::from(a)),
    };
    let ((family, src), (_, dst)) = (number(src), number(dst));
    headers(family, src, dst, sport, dport, proto)
}

/// The rule that decides, by the image; the twin must agree.
fn rule(list: &List, h: &Headers) -> i32 {
    let image = Image::compile(list, &Limits::default()).expect("compiles");
    let found = image.classify(h);
    assert_eq!(
        found,
        linear::classify(list, h),
        "image and twin differ for {h:?}"
    );
    found.rule
}

#[test]
fn the_contract_is_read() {
    let dir = dir_with(&[("a.toml", samples::LISTS)]);
    let set = load_dir(dir.path()).expect("no error");
    assert!(set.warnings.is_empty(), "{:?}", set.warnings);
    let list = &set.lists["edge-in"];
    assert_eq!(list.default, Action::Deny);
    assert_eq!(list.rules.len(), 2);
    assert_eq!((list.rules[0].origin.line, list.rules[1].origin.line), (7, 16));
    assert_eq!(list.rules[1].fragment, FragmentMatch::Any);

    let mut p = packet("192.0.2.7", "10.2.3.4", 6, 2000, 8444);
    p.tcp_flags = 0x02;
    p.dscp = 46;
    assert_eq!(rule(list, &p), 0);
    for change in [
        |p: &mut Headers| p.sport = 1023,
        |p: &mut Headers| p.dport = 8451,
        |p: &mut Headers| p.tcp_flags = 0x12,
        |p: &mut Headers| p.dscp = 0,
        |p: &mut Headers| p.proto = 17,
        |p: &mut Headers| p.src ^= 1,
        |p: &mut Headers| p.fragment = Fragment::Later,
    ] {
        let mut q = p;
        change(&mut q);
        assert_eq!(rule(list, &q), -1, "{q:?}");
    }

    // Names mean the type of the packet's family; numbers are the same in both.
    let mut p = packet("2001:db8:1::9", "2001:db8:2::9", 58, 0, 0);
    p.icmp = Some((128, 0));
    assert_eq!(rule(list, &p), 1);
    p.icmp = Some((8, 0));
    assert_eq!(rule(list, &p), -1);
    let mut p = packet("10.1.0.9", "10.9.0.9", 1, 0, 0);
    p.icmp = Some((8, 7));
    assert_eq!(rule(list, &p), 1);
    p.icmp = Some((3, 3));
    assert_eq!(rule(list, &p), -1);
    p.icmp = None;
    p.fragment = Fragment::Later;
    assert_eq!(
        rule(list, &p),
        1,
        "fragment = any: types are not looked at in later fragments"
    );
}

#[test]
fn findings_name_the_line_and_a_cure() {
    let bad = |body: &str| {
        let text = format!(
            "version = 1\n[[acl]]\nname = \"l\"\ndefault = \"deny\"\n[[acl.rule]]\naction = \"allow\"\n{body}\n"
        );
        let dir = dir_with(&[("x.toml", &text)]);
        let found = load_dir(dir.path()).expect_err(body);
        let errors: Vec<_> = found
            .into_iter()
            .filter(|d| d.severity == Severity::Error)
            .collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].file.ends_with("x.toml"));
        assert!(!errors[0].hint.is_empty(), "{errors:?}");
        (errors[0].code, errors[0].line, errors[0].hint.clone())
    };
    assert_eq!(
        bad("srd = [\"10.0.0.0/8\"]"),
        ("unknown_key", 7, "did you mean `src`?".into())
    );
    assert_eq!(bad("src = [\"@nope\"]").0, "unknown_set");
    assert_eq!(
        bad("\nsrc = [\n\"10.0.0.1/8\"]"),
        (
            "host_bits",
            9,
            "did you mean 10.0.0.0/8, or the host alone?".into()
        )
    );
    assert_eq!(bad("dport = [\"90-80\"]").0, "range_upside_down");
    assert_eq!(bad("dport = [65536]").0, "bad_value");
    assert_eq!(
        bad("src = [\"10.0.0.0/8\"]\ndst = [\"2001:db8::/32\"]").0,
        "mixed_families"
    );
    assert_eq!(
        bad("src = [\"10.0.0.0/8\"]\nicmp = [\"neighbour-solicitation\"]").0,
        "mixed_families"
    );
    assert_eq!(bad("proto = \"tpc\"").2, "did you mean \"tcp\"?");
    assert_eq!(
        bad("proto = \"udp\"\ntcp_flags = \"established\"").0,
        "protocol_mismatch"
    );
    assert_eq!(bad("proto = \"gre\"\ndport = [1]").0, "protocol_mismatch");
    assert_eq!(bad("tcp_flags = \"syn/ack\"").0, "bad_value");
    assert_eq!(bad("icmp = [\"echo\"]").0, "bad_value");
    assert_eq!(bad("fragment = \"all\"").0, "bad_value");
    assert_eq!(bad("dscp = [64]").0, "bad_value");
    assert_eq!(bad("src = []").0, "bad_value");
    assert_eq!(bad("src = [\"10.0.0.0/8\"").0, "syntax");
    assert_eq!(bad("action = \"deny\"").0, "syntax");
}

#[test]
fn sets_are_shared_by_the_files_of_a_directory() {
    let dir = dir_with(&[
        (
            "sets.toml",
            "version = 1\n[sets.a]\nprefixes = [\"10.0.0.0/8\"]\n[sets.unused]\nprefixes = [\"::/0\"]\n",
        ),
        (
            "list.toml",
            "version = 1\n[[acl]]\nname = \"l\"\ndefault = \"allow\"\n[[acl.rule]]\naction = \"deny\"\nsrc = \"@a\"\n",
        ),
        (".hidden.toml", "not toml"),
        ("readme.txt", "not toml"),
    ]);
    let set = load_dir(dir.path()).expect("no error");
    assert_eq!(set.lists["l"].rules[0].src.sets[0].members.len(), 1);
    assert_eq!(
        set.warnings.iter().map(|w| (w.code, w.line)).collect::<Vec<_>>(),
        [("unused_set", 4)]
    );
    let empty = dir_with(&[("sets.toml", "version = 1\n[sets.a]\nprefixes = []\n")]);
    let found = load_dir(empty.path()).expect_err("an empty set");
    assert_eq!((found[0].code, found[0].line), ("empty_set", 2));
    assert!(
        load_dir(&empty.path().join("gone"))
            .expect("only a warning")
            .warnings
            .len()
            == 1
    );
}

#[test]
fn covered_rules_are_reported_with_both_numbers() {
    let rules = [
        "src = [\"10.0.0.0/8\"]\nproto = \"tcp\"\ndport = [\"1-100\", \"101-200\"]",
        "src = [\"10.0.0.0/9\"]\nproto = \"tcp\"\ndport = [\"50-150\"]\ntcp_flags = \"syn\"",
        "src = [\"10.0.0.0/9\"]\nproto = \"tcp\"\ndport = [\"50-201\"]",
        "src = [\"10.0.0.0/9\"]\nproto = \"tcp\"\ndport = [\"50-150\"]\nfragment = \"any\"",
        "",
        "dst = [\"2001:db8::/32\"]",
    ];
    let mut text = "version = 1\n[[acl]]\nname = \"l\"\ndefault = \"deny\"\n".to_owned();
    for r in rules {
        text += &format!("[[acl.rule]]\naction = \"allow\"\n{r}\n");
    }
    let dir = dir_with(&[("x.toml", &text)]);
    let report = check_files(&[dir.path().join("x.toml")]);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    let found: Vec<&str> = report.warnings.iter().map(|w| w.message.as_str()).collect();
    assert_eq!(
        found,
        [
            "rule 1 of list \"l\" can never match: rule 0 (line 5) covers it",
            "rule 5 of list \"l\" can never match: rule 4 (line 27) covers it"
        ]
    );
    assert_eq!(report.warnings[0].line, 10);
    let report = check_files(&[PathBuf::from("/nonexistent/x.toml")]);
    assert_eq!(report.errors[0].code, "unreadable");
}
