//! What the kernel does with packets that it forwards, and that packets between two ports do not meet; and what guards the
//! node itself.

use serde_json::Value;

use super::rules::{Chain, chains, means};
use super::{Facts, Found, Reading};
use crate::config::Role;

/// The checks of what is bypassed.
pub(super) fn check(reading: &Reading, found: &mut Found) {
    let all = reading.nftables.as_ref().map(chains).unwrap_or_default();
    // Margay's own guard is there to keep the kernel from forwarding.
    let others: Vec<&Chain> = all
        .iter()
        .filter(|chain| !(chain.family == "inet" && chain.table == "margay"))
        .collect();
    forward_rules(&others, reading, found);
    translation(&others, reading, found);
    policy_rules(reading, found);
}

fn forward_rules(chains: &[&Chain], reading: &Reading, found: &mut Found) {
    let mut any = false;
    for chain in chains
        .iter()
        .filter(|chain| chain.hook == "forward" && (chain.drops || !chain.rules.is_empty()))
    {
        any = true;
        let Chain {
            family, table, name, ..
        } = chain;
        let policy = if chain.drops {
            format!(" && nft 'chain {family} {table} {name} {{ policy accept; }}'")
        } else {
            String::new()
        };
        found.warn(
            "forward_rules",
            None,
            format!(
                "chain {family} {table} {name}: {} rules{} that packets between ports do not meet; access lists have to say what they say",
                chain.rules.len(),
                if chain.drops { " and the policy drop" } else { "" }
            ),
            format!("nft flush chain {family} {table} {name}{policy}"),
        );
    }
    for (legacy, program) in reading.legacy.iter().zip(["iptables-legacy", "ip6tables-legacy"]) {
        let has = |begin: &str| legacy.lines().any(|line| line.starts_with(begin));
        if has("-A FORWARD ") || has(":FORWARD DROP") {
            any = true;
            found.warn(
                "forward_rules",
                None,
                format!("{program}: FORWARD has rules or drops, which packets between ports do not meet; access lists have to say what they say"),
                format!("{program} -F FORWARD && {program} -P FORWARD ACCEPT"),
            );
        }
    }
    if !any {
        found.pass(
            "forward_rules",
            None,
            "no rules on the kernel's forward path but Margay's guard",
        );
    }
}

fn translation(chains: &[&Chain], reading: &Reading, found: &mut Found) {
    let mut any = false;
    for chain in chains
        .iter()
        .filter(|chain| chain.kind == "nat" && !chain.rules.is_empty())
    {
        any = true;
        let Chain {
            family, table, name, ..
        } = chain;
        found.warn(
            "nat",
            None,
            format!(
                "chain {family} {table} {name}: {} rules; addresses of packets between ports are not translated",
                chain.rules.len()
            ),
            format!("nft flush chain {family} {table} {name}"),
        );
    }
    for (legacy, program) in reading.legacy.iter().zip(["iptables-legacy", "ip6tables-legacy"]) {
        let nat = legacy
            .split("*nat")
            .nth(1)
            .and_then(|table| table.split("COMMIT").next());
        if nat.is_some_and(|table| table.lines().any(|line| line.starts_with("-A "))) {
            any = true;
            found.warn(
                "nat",
                None,
                format!("{program}: the table nat has rules; addresses of packets between ports are not translated"),
                format!("{program} -t nat -F"),
            );
        }
    }
    if !any {
        found.pass("nat", None, "no address translation");
    }
}

/// Whether a rule gives a device a table, or is the one for VRFs: what the mirror follows. Any word that is not known here asks for more.
fn is_followed(rule: &Value) -> bool {
    const KNOWN: [&str; 8] = [
        "priority",
        "src",
        "iif",
        "iif_detached",
        "table",
        "action",
        "l3mdev",
        "protocol",
    ];
    let Some(words) = rule.as_object() else {
        return false;
    };
    let plain = words.keys().all(|word| KNOWN.contains(&word.as_str())) && rule["src"] == "all";
    plain && (words.contains_key("iif") || words.contains_key("l3mdev"))
}

/// `ip rule`: Margay asks the tables of a packet's port in order, and looks at nothing but the destination.
fn policy_rules(reading: &Reading, found: &mut Found) {
    let mut any = false;
    for (family, rules) in &reading.rules {
        for rule in rules.as_array().into_iter().flatten() {
            let priority = rule["priority"].as_u64().unwrap_or_default();
            // Local, main and default table (ip-rule(8)).
            if [0, 32_766, 32_767].contains(&priority) || is_followed(rule) {
                continue;
            }
            any = true;
            let text = |key: &str| rule[key].as_str().unwrap_or("all").to_owned();
            found.warn(
                "ip_rule",
                None,
                format!(
                    "rule {priority} (IPv{family}, from {}, table {}) is not followed for packets between ports",
                    text("src"),
                    rule["table"].as_str().unwrap_or("-")
                ),
                format!("ip -{family} rule del priority {priority}"),
            );
        }
    }
    if !any {
        found.pass(
            "ip_rule",
            None,
            "none but the kernel's own and those that give a device a table",
        );
    }
}

/// Workloads reach the node's own addresses through the kernel: something should stand there.
pub(super) fn input_rules(facts: &Facts, reading: &Reading, found: &mut Found) {
    let all = reading.nftables.as_ref().map(chains).unwrap_or_default();
    let inputs: Vec<&Chain> = all
        .iter()
        .filter(|chain| chain.hook == "input" && chain.kind == "filter")
        .collect();
    let legacy = reading.legacy.iter().flat_map(|text| text.lines());
    let by_legacy = legacy
        .clone()
        .any(|line| line.starts_with("-A INPUT ") || line.starts_with(":INPUT DROP"));
    for port in facts.ports.iter().filter(|port| port.role == Role::Workload) {
        let stands = by_legacy
            || inputs.iter().any(|chain| {
                chain.drops
                    || chain.rules.iter().any(|rule| {
                        rule.refuses
                            && (rule.interfaces.is_empty()
                                || rule.interfaces.iter().any(|name| means(name, &port.name)))
                    })
            });
        if stands {
            found.pass(
                "input_rules",
                Some(&port.name),
                "a rule on the node's INPUT path speaks of it",
            );
        } else {
            let name = port.pattern.as_deref().filter(|pattern| is_prefix(pattern));
            let name = name.unwrap_or(&port.name);
            found.warn(
                "input_rules",
                Some(&port.name),
                "no rule on the node's INPUT path: the workload reaches every service of the node, BGP and SSH among them",
                format!(
                    "nft 'add table inet node; add chain inet node input {{ type filter hook input priority filter; }}; \
                     add rule inet node input iifname \"{name}\" tcp dport {{ 22, 179 }} drop'"
                ),
            );
        }
    }
}

/// Whether nftables understands a pattern: one `*`, at its end.
fn is_prefix(pattern: &str) -> bool {
    pattern
        .strip_suffix('*')
        .is_some_and(|begin| !begin.is_empty() && !begin.contains(['*', '?']))
}
