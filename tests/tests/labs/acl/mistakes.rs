//! Files with mistakes change nothing, and the answer names the line.

use tests::{LIMIT, wait_for};

use super::{FROM_A, PORTS, build, counted, send};

#[test]
fn a_bad_file_changes_nothing() {
    let Some((net, a, _b, margay)) = build("badacl") else {
        return;
    };
    counted(&margay, "acl_ingress", "from-a", 0, 4, || {
        send(&net, &a, "203.0.113.1", "2001:db8:113::1", 7, 2)
    });
    for bad in [
        "this is not TOML",
        "[[acl]]\nname = \"from-a\"\ndefault = \"perhaps\"\n",
        "[[acl]]\nname = \"from-a\"\ndefault = \"allow\"\n[[acl.rule]]\naction = \"deny\"\nsrc = [\"10.0.0.1/8\"]\n",
    ] {
        margay.write_acl("a", bad);
        let done = margay.run("-j acl reload");
        assert_eq!(done.code, 6, "{done:?}");
        assert!(
            done.err.contains("a.toml") || done.out.contains("a.toml"),
            "the file is named: {done:?}"
        );
        // SIGHUP reads the same files.
        margay.process().signal(libc::SIGHUP);
        counted(&margay, "acl_ingress", "from-a", 0, 4, || {
            send(&net, &a, "203.0.113.1", "2001:db8:113::1", 7, 2)
        });
        a.reaches("203.0.113.1");
    }
    // A good one is taken, first by the command, then by the signal.
    margay.write_acl("a", &FROM_A.replace("dport = [7]", "dport = [77]"));
    assert_eq!(margay.run("acl reload").code, 0);
    counted(&margay, "acl_ingress", "from-a", 0, 4, || {
        send(&net, &a, "203.0.113.1", "2001:db8:113::1", 77, 2)
    });
    margay.write_acl("a", &FROM_A.replace("dport = [7]", "dport = [78]"));
    margay.process().signal(libc::SIGHUP);
    wait_for("the signal reloads the lists", LIMIT, || {
        let before = margay.drops("acl_ingress");
        send(&net, &a, "203.0.113.1", "2001:db8:113::1", 78, 1);
        wait_for("the packets have come in", LIMIT, || a.pings("203.0.113.1"));
        margay.drops("acl_ingress") > before
    });
    // A list that is gone denies, and says so.
    margay.write_acl("a", "");
    let done = margay.run("acl reload");
    assert_eq!(done.code, 0, "{done:?}");
    wait_for("a missing list denies", LIMIT, || !a.pings("203.0.113.1"));
    margay.write_acl("a", FROM_A);
    assert_eq!(margay.run("acl reload").code, 0);
    a.reaches("203.0.113.1");
    margay.check_sums();
}

/// The line of each kind of mistake is named, with exit code 6; the lists in use stay.
#[test]
fn mistakes_are_named_by_line() {
    let Some((net, a, _b, margay)) = build("badline") else {
        return;
    };
    let rule = |words: &str| {
        format!("[[acl]]\nname = \"from-a\"\ndefault = \"allow\"\n[[acl.rule]]\naction = \"deny\"\n{words}\n")
    };
    let set = |words: &str| format!("[sets.s]\n{words}\n[[acl]]\nname = \"from-a\"\ndefault = \"allow\"\n");
    // As many different pairs of port ranges as the memory limit cannot hold.
    let many: String = (0..6000)
        .map(|n| {
            format!(
                "[[acl.rule]]\naction = \"deny\"\nproto = \"tcp\"\nsport = [\"{n}-65535\"]\ndport = [\"0-{}\"]\n",
                n * 7 % 65536
            )
        })
        .collect();
    let cases = [
        ("unknown_set", 7, rule("src = [\"@nosuch\"]")),
        ("empty_set", 2, set("prefixes = []")),
        ("host_bits", 3, set("prefixes = [\"10.0.0.1/8\"]")),
        ("range_upside_down", 7, rule("dport = [\"90-80\"]")),
        ("host_bits", 7, rule("src = [\"10.0.0.1/8\"]")),
        (
            "mixed_families",
            5,
            rule("src = [\"10.0.0.0/8\"]\ndst = [\"2001:db8::/32\"]"),
        ),
        ("memory_limit", 2, rule("") + &many),
    ];
    for (code, line, text) in cases {
        margay.write_acl("a", &text);
        let done = margay.run("acl reload");
        assert_eq!(done.code, 6, "{code}: {done:?}");
        let place = format!("a.toml:{line}:");
        assert!(
            done.err.contains(&place) && done.err.contains(code),
            "{code}: {done:?}"
        );
        // `acl check` says the same without a daemon's help.
        let file = margay.config().with_file_name("acl.d").join("a.toml");
        let done = margay.run(&format!("acl check {}", file.display()));
        assert_eq!(done.code, 6, "{code}: {done:?}");
        let said = done.out.clone() + &done.err;
        assert!(said.contains(&place) && said.contains(code), "{code}: {done:?}");
        counted(&margay, "acl_ingress", "from-a", 0, 2, || {
            send(&net, &a, "203.0.113.1", "2001:db8:113::1", 7, 1)
        });
    }
    margay.write_acl("a", FROM_A);
    assert_eq!(margay.run("acl reload").code, 0);
    // A list bound to a device that is not there harms nothing, because the device may come: a warning. To a port that no
    // file has, it cannot be bound.
    margay.write_config(&format!(
        "{PORTS}[[port]]\nname = \"absent0\"\nrole = \"uplink\"\nacl = {{ ingress = \"from-a\" }}\n"
    ));
    let text = std::fs::read_to_string(margay.config()).expect("the configuration");
    let line = text.lines().position(|line| line.contains("absent0"));
    let line = line.expect("the port is in the file");
    margay.process().signal(libc::SIGHUP);
    wait_for(
        "a warning names file and line of a port without a device",
        LIMIT,
        || {
            let log = margay.process().log();
            log.lines().any(|said| {
                said.contains(&format!("margay.toml:{line}: port absent0 is not open"))
                    && said.contains("access lists")
            })
        },
    );
    assert_eq!(margay.run("port set nosuch --acl-ingress from-a").code, 3);
    margay.check_sums();
}
