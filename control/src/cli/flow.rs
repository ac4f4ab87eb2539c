//! The packet that `explain` is asked about, from words to numbers; and files of cases.

use std::net::IpAddr;
use std::path::Path;

use clap::Parser;
use serde_json::Value;

use super::args::{Expect, Flow};
use crate::acl::{icmp_number, protocol_number, tcp_flags};
use crate::socket::{Code, ErrorBody, ExplainArgs};

/// TCP and ICMP by number (IANA "Protocol Numbers").
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The request's arguments.
pub(super) fn arguments(flow: &Flow) -> Result<ExplainArgs, ErrorBody> {
    let missing = |what: &str| ErrorBody::new(Code::BadArgument, format!("{what} is missing"));
    let from = flow.from.ok_or_else(|| missing("--from"))?;
    let to = flow.to.ok_or_else(|| missing("--to"))?;
    let port = flow.port.clone().ok_or_else(|| missing("--in"))?;
    let is_v4 = matches!(from, IpAddr::V4(_));
    let unknown = |what: &str, word: &str| {
        ErrorBody::new(Code::BadArgument, format!("{what} {word:?} is not known"))
            .hint("names are those of ACL files; numbers are possible as well")
    };
    let proto = match (&flow.proto, &flow.icmp) {
        (Some(word), _) => protocol_number(word, is_v4).ok_or_else(|| unknown("protocol", word))?,
        (None, Some(_)) if is_v4 => ICMP,
        (None, Some(_)) => ICMPV6,
        (None, None) => TCP,
    };
    let flags = match &flow.tcp_flags {
        Some(text) => tcp_flags(text).ok_or_else(|| unknown("TCP flag in", text))?,
        // The first packet of a connection is what rules are mostly about.
        None if proto == TCP => tcp_flags("syn").unwrap_or_default(),
        None => 0,
    };
    let icmp = match &flow.icmp {
        Some(word) => Some(icmp_number(word, is_v4).ok_or_else(|| unknown("ICMP type", word))?),
        None => None,
    };
    Ok(ExplainArgs {
        from,
        to,
        port,
        proto,
        sport: flow.sport,
        dport: flow.dport,
        tcp_flags: flags,
        icmp,
        ttl: flow.ttl,
        length: flow.length,
    })
}

/// Whether an answer is what was expected: a packet that no access list has refused, and that is dropped for another
/// reason, is neither allowed nor denied.
pub(super) fn is_met(expect: Expect, answer: &Value) -> bool {
    let verdict = answer["verdict"].as_str().unwrap_or_default();
    let by_list = answer["reason"]
        .as_str()
        .is_some_and(|reason| reason.starts_with("acl_"));
    match expect {
        Expect::Allow => verdict == "forward",
        Expect::Deny => (verdict == "drop" || verdict == "reply") && by_list,
    }
}

/// One line of a file of cases.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Case {
    #[command(flatten)]
    flow: Flow,
    /// Stands in for the option of the same name, which the packet's options ask for.
    #[arg(long, hide = true)]
    cases: Option<String>,
}

/// Reads a file of cases: line, packet, expectation.
pub(super) fn read_cases(file: &Path) -> Result<Vec<(usize, Flow, Expect)>, ErrorBody> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| ErrorBody::new(Code::Failed, format!("{}: {error}", file.display())))?;
    let mut cases = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = line.split('#').next().unwrap_or_default();
        if words.trim().is_empty() {
            continue;
        }
        let bad = |message: &str| {
            ErrorBody::new(
                Code::BadArgument,
                format!("{}:{}: {message}", file.display(), index + 1),
            )
        };
        let case = Case::try_parse_from(words.split_whitespace()).map_err(|error| {
            let text = error.render().to_string();
            bad(text.lines().next().unwrap_or_default())
        })?;
        let expect = case.flow.expect.ok_or_else(|| bad("--expect is missing"))?;
        // Words that are not known are named with their line, too.
        arguments(&case.flow).map_err(|error| bad(&error.message))?;
        cases.push((index + 1, case.flow, expect));
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cases_are_read_with_their_lines() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("cases");
        std::fs::write(
            &file,
            "# web\n--from 10.0.0.1 --to 10.0.0.2 --in eth1 --dport 443 --expect allow\n\n\
             --from fd00::1 --to fd00::2 --in eth1 --icmp echo-request --expect deny # ping\n",
        )
        .expect("written");
        let cases = read_cases(&file).expect("good");
        assert_eq!(cases.iter().map(|case| case.0).collect::<Vec<_>>(), [2, 4]);
        let web = arguments(&cases[0].1).expect("good");
        assert_eq!((web.proto, web.dport, web.tcp_flags), (6, 443, 2));
        let ping = arguments(&cases[1].1).expect("good");
        assert_eq!((ping.proto, ping.icmp), (58, Some((128, 0))));
        for bad in [
            "--from 10.0.0.1 --to 10.0.0.2 --in eth1\n",
            "--from 10.0.0.1 --to x --in eth1 --expect deny\n",
            "--from 10.0.0.1 --to 10.0.0.2 --in eth1 --proto nosuch --expect deny\n",
        ] {
            std::fs::write(&file, bad).expect("written");
            let error = read_cases(&file).expect_err("bad");
            assert!(error.message.contains("cases:1:"), "{}", error.message);
        }
    }

    #[test]
    fn deny_is_met_by_access_lists_only() {
        let drop = |reason: &str| json!({"verdict": "drop", "reason": reason});
        assert!(is_met(Expect::Deny, &drop("acl_egress")));
        assert!(!is_met(Expect::Deny, &drop("no_route")));
        assert!(!is_met(Expect::Allow, &drop("no_route")));
        assert!(is_met(
            Expect::Deny,
            &json!({"verdict": "reply", "reason": "acl_reject_ingress"})
        ));
        assert!(is_met(
            Expect::Allow,
            &json!({"verdict": "forward", "reason": null})
        ));
        assert!(!is_met(
            Expect::Allow,
            &json!({"verdict": "local", "reason": "local"})
        ));
    }
}
