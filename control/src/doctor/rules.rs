//! Packet filters as nftables lists them: chains with a hook, and the rules that a packet meets there.

use serde_json::Value;

/// A chain with a hook and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    /// `inet`, `ip`, `ip6`, …
    pub(super) family: String,
    pub(super) table: String,
    pub(super) name: String,
    /// `filter`, `nat`, `route`.
    pub(super) kind: String,
    pub(super) hook: String,
    /// Whether it drops what no rule decides.
    pub(super) drops: bool,
    pub(super) rules: Vec<Rule>,
}

/// What a rule is, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// Incoming interfaces that it speaks of, patterns with a `*` at their end; empty for all.
    pub(super) interfaces: Vec<String>,
    /// Whether it can refuse a packet: by itself, or in a chain that it leads to.
    pub(super) refuses: bool,
}

/// All chains with a hook of `nft -j list ruleset`.
pub(super) fn chains(ruleset: &Value) -> Vec<Chain> {
    let items = ruleset["nftables"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut chains: Vec<Chain> = items
        .clone()
        .map(|item| &item["chain"])
        .filter(|chain| chain["hook"].is_string())
        .map(|chain| Chain {
            family: text(&chain["family"]),
            table: text(&chain["table"]),
            name: text(&chain["name"]),
            kind: text(&chain["type"]),
            hook: text(&chain["hook"]),
            drops: chain["policy"] == "drop",
            rules: Vec::new(),
        })
        .collect();
    for item in items.map(|item| &item["rule"]).filter(|rule| rule.is_object()) {
        let owner = chains.iter_mut().find(|chain| {
            item["family"] == chain.family.as_str()
                && item["table"] == chain.table.as_str()
                && item["chain"] == chain.name.as_str()
        });
        if let Some(chain) = owner {
            chain.rules.push(rule(item));
        }
    }
    chains
}

fn rule(item: &Value) -> Rule {
    let expressions = item["expr"].as_array().into_iter().flatten();
    let mut rule = Rule {
        interfaces: Vec::new(),
        refuses: false,
    };
    for expression in expressions {
        let by_interface = ["iifname", "iif"]
            .iter()
            .any(|key| expression["match"]["left"]["meta"]["key"] == *key);
        if by_interface {
            names(&expression["match"]["right"], &mut rule.interfaces);
        }
        rule.refuses |= ["drop", "reject", "jump", "goto"]
            .iter()
            .any(|verdict| expression.get(*verdict).is_some());
    }
    rule
}

/// A name, or the names of a set.
fn names(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(name) => into.push(name.clone()),
        Value::Array(items) => items.iter().for_each(|item| names(item, into)),
        Value::Object(members) => members.values().for_each(|member| names(member, into)),
        _ => {}
    }
}

/// Whether a pattern of nftables means a device.
pub(super) fn means(pattern: &str, device: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => device.starts_with(begin),
        None => pattern == device,
    }
}
