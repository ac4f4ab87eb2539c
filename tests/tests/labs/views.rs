//! Every view as text and as JSON: both name the same numbers.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── u 203.0.113.1
//! ```

use std::time::Duration;

use serde_json::Value;
use tests::margay::list;
use tests::{LIMIT, Margay, wait_for};

use crate::common::{PORTS, node};
use crate::watch::{U4, flood};

const LIST: &str = "[[acl]]\nname = \"in\"\ndefault = \"allow\"\n[[acl.rule]]\naction = \"deny\"\nproto = \"udp\"\ndport = [5353]\n";

/// A view: the command, the list in its answer, the key that begins a line of the text, and the keys whose values the line shows.
const VIEWS: &[(&str, &str, &str, &[&str])] = &[
    (
        "-s port show",
        "ports",
        "name",
        &[
            "role",
            "mode",
            "queues",
            "mtu",
            "largest_mtu",
            "mac",
            "rx_packets",
            "rx_bytes",
            "tx_packets",
            "tx_bytes",
            "punted",
            "forwarded",
            "replied",
            "held",
            "dropped",
            "originated",
        ],
    ),
    (
        "route show",
        "routes",
        "prefix",
        &["table", "protocol", "type", "metric"],
    ),
    ("neigh show", "neighbours", "address", &["dev", "mac", "state"]),
    ("nexthop show", "nexthops", "id", &["routes"]),
    ("drops", "drops", "reason", &["packets", "bytes"]),
];

/// A value as the text writes it.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether lines of `text` that begin with `first` hold all of `words`, a word each.
fn holds(text: &str, first: &str, words: &[String]) -> bool {
    let shown: Vec<&str> = text
        .lines()
        .filter(|line| line.split_whitespace().next() == Some(first))
        .flat_map(str::split_whitespace)
        .collect();
    words.iter().all(|word| shown.contains(&word.as_str()))
}

/// Compares, unless what is shown changed while it was asked for.
fn same(margay: &Margay, command: &str, compare: impl Fn(&Value, &str) -> Result<(), String>) {
    wait_for(&format!("{command}: text and JSON agree"), LIMIT, || {
        let before = margay.json(command);
        let done = margay.run(command);
        assert_eq!(done.code, 0, "{done:?}");
        compare(&before, &done.out)
    });
}

#[test]
fn text_and_json_name_the_same_numbers() {
    let Some(net) = node("views") else {
        return;
    };
    let a = net.container("a", 2);
    let ports = PORTS.replace(
        "role = \"workload\"",
        "role = \"workload\"\nacl = { ingress = \"in\" }",
    );
    let margay = Margay::start_with(&net.lab, &net.r, &ports, &[("in", LIST)]);
    margay.has_port("up0");
    margay.has_port("cali-a");
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    let sent = flood(&a, U4, 200, Duration::from_millis(500));
    wait_for("the rule has decided", LIMIT, || {
        margay.drops("acl_ingress") == sent
    });
    for (command, rows, name, keys) in VIEWS {
        same(&margay, command, |answer, text| {
            let rows = list(answer, rows);
            assert!(!rows.is_empty(), "{answer}");
            for row in rows {
                // Reasons that have not counted are no lines of the text.
                if *command == "drops" && row["packets"] == 0 {
                    continue;
                }
                let words: Vec<String> = keys.iter().map(|key| word(&row[*key])).collect();
                if !holds(text, &word(&row[*name]), &words) {
                    return Err(format!("{row} is not in\n{text}"));
                }
            }
            Ok(())
        });
    }
    same(&margay, "-s acl show", |answer, text| {
        for rule in list(answer, "lists").iter().flat_map(|acl| list(acl, "rules")) {
            let index = word(&rule["index"]).replace("-1", "default");
            let words = [
                word(&rule["action"]),
                word(&rule["packets"]),
                word(&rule["bytes"]),
            ];
            if !holds(text, &index, &words) {
                return Err(format!("{rule} is not in\n{text}"));
            }
        }
        Ok(())
    });
    same(&margay, "status", |answer, text| {
        for key in ["routes", "neighbours", "generation", "resyncs"] {
            if !holds(text, key, &[word(&answer[key])]) {
                return Err(format!("{key} of {answer} is not in\n{text}"));
            }
        }
        let frames = [word(&answer["frames"]["total"]), word(&answer["frames"]["free"])];
        if holds(text, "frames", &frames) {
            Ok(())
        } else {
            Err(format!("frames of {answer} are not in\n{text}"))
        }
    });
    let question = "explain --in cali-a --from 10.65.0.2 --to 10.0.0.2 --proto udp --sport 9 --dport 5353";
    same(&margay, question, |answer, text| {
        let rule = &answer["ingress_rule"];
        let place = format!("{}:{}", word(&rule["file"]), word(&rule["line"]));
        let words = [word(&answer["verdict"]), word(&answer["reason"]), place];
        match words.iter().find(|word| !text.contains(word.as_str())) {
            None => Ok(()),
            Some(word) => Err(format!("{word} is not in\n{text}")),
        }
    });
    margay.check_sums();
}
