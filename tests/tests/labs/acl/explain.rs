//! What explain says of the lists is what the workers do: the rule that it names, in that file and line, counts the packets.

use tests::Margay;

use super::{FROM_A, TO_B, build, hits, send};

/// A flow from container a: where to (both families), and what decides about it.
struct Flow {
    to: [&'static str; 2],
    port: u16,
    /// Of the list of container a, then of the one to container b: number of the rule, -1 for the default.
    rules: [Option<i64>; 2],
    verdict: &'static str,
}

/// The line of a rule's header in a file that [`Margay::write_acl`] writes, which puts a line in front.
fn line(text: &str, rule: i64) -> Option<usize> {
    let headers = text
        .lines()
        .enumerate()
        .filter(|(_, line)| *line == "[[acl.rule]]");
    let mut lines = headers.map(|(number, _)| number + 2);
    lines.nth(usize::try_from(rule).ok()?)
}

/// Checks each flow: what explain says of either family, and that the rules it names count what is then sent.
fn check(margay: &Margay, flows: &[Flow], send: impl Fn([&str; 2], u16), texts: [&str; 2]) {
    for flow in flows {
        for (from, to) in ["10.65.0.2", "fd65::2"].into_iter().zip(flow.to) {
            let said = margay.json(&format!(
                "explain --in cali-a --from {from} --to {to} --proto udp --sport 5000 --dport {}",
                flow.port
            ));
            assert_eq!(said["verdict"], flow.verdict, "{said}");
            for (number, field) in ["ingress_rule", "egress_rule"].into_iter().enumerate() {
                let (found, text) = (&said[field], texts[number]);
                let Some(rule) = flow.rules[number] else {
                    assert!(found.is_null(), "{said}");
                    continue;
                };
                assert_eq!(found["acl"], ["from-a", "to-cali-b"][number], "{said}");
                assert_eq!(found["index"], rule, "{said}");
                assert_eq!(
                    found["line"].as_u64(),
                    line(text, rule).map(|line| line as u64),
                    "{said}"
                );
                let file = found["file"].as_str();
                let named = file.is_some_and(|file| file.ends_with(["acl.d/a.toml", "acl.d/b.toml"][number]));
                assert!(named || rule < 0 && file.is_none(), "{said}");
            }
        }
        let named = || {
            let lists = ["from-a", "to-cali-b"].into_iter().zip(flow.rules);
            let rules = lists.filter_map(|(list, rule)| Some((list, rule?)));
            rules
                .map(|(list, rule)| hits(margay, list, rule))
                .collect::<Vec<_>>()
        };
        let before = named();
        send(flow.to, flow.port);
        tests::wait_for(
            &format!(
                "the rules that were named count port {} to {}",
                flow.port, flow.to[0]
            ),
            tests::LIMIT,
            || {
                let now = named();
                let more: Vec<u64> = now
                    .iter()
                    .zip(&before)
                    .map(|(now, before)| now - before)
                    .collect();
                more.iter()
                    .all(|more| *more == 6)
                    .then_some(())
                    .ok_or(format!("{more:?}"))
            },
        );
    }
}

#[test]
fn the_rule_that_decides_is_named_and_counts() {
    let Some((net, a, _b, margay)) = build("explainacl") else {
        return;
    };
    let far = ["203.0.113.1", "2001:db8:113::1"];
    let near = ["10.65.0.3", "fd65::3"];
    // With a rule more in front, every other one has a number and a line more, in the answers and in the workers.
    let extra = "[[acl.rule]]\naction = \"allow\"\nproto = \"udp\"\ndport = [2000]\n[[acl.rule]]\n";
    let longer = FROM_A.replacen("[[acl.rule]]\n", extra, 1);
    for (text, more) in [(FROM_A, 0), (&longer, 1), (FROM_A, 0)] {
        margay.write_acl("a", text);
        assert_eq!(margay.run("acl reload").code, 0);
        let flow = |to, port, rules, verdict| Flow {
            to,
            port,
            rules,
            verdict,
        };
        let mut flows = vec![
            flow(far, 7, [Some(more), None], "drop"),
            flow(far, 8, [Some(1 + more), None], "reply"),
            flow(far, 10, [Some(-1), None], "forward"),
            flow(near, 7, [Some(-1), Some(3)], "forward"),
            flow(near, 1000, [Some(-1), Some(2)], "drop"),
        ];
        if more > 0 {
            flows.push(flow(near, 2000, [Some(0), Some(3)], "forward"));
        }
        let sender = |to: [&str; 2], port| send(&net, &a, to[0], to[1], port, 3);
        check(&margay, &flows, sender, [text, TO_B]);
    }
    margay.check_sums();
}
