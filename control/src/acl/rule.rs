//! One rule of a list.

use classifier::acl::{
    Action, Addresses, DscpSet, FragmentMatch, IcmpMatch, IcmpType, PortRange, Protocols, Rule, TcpMatch,
};
use classifier::packet::Family;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{Sets, Source, prefix};
use super::{names, origin};

type Item<'i> = Spanned<DeValue<'i>>;

const KEYS: &[&str] = &[
    "action",
    "proto",
    "src",
    "dst",
    "sport",
    "dport",
    "tcp_flags",
    "icmp",
    "fragment",
    "dscp",
];

/// Reads one `[[acl.rule]]`. Errors are reported and give nothing.
pub(super) fn read(source: &mut Source<'_>, item: &Item<'_>, sets: &mut Sets) -> Option<Rule> {
    let at = item.span().start;
    let Some(table) = item.get_ref().as_table() else {
        source.wrong_type(item, "a rule", "a table: [[acl.rule]]");
        return None;
    };
    source.unknown_keys(table, KEYS, "a rule");
    let action = action(source, table, at);
    let mut rule = Rule::any(action?, origin(&source.name, source.line(at)));
    // Every key is read even after an error, so that one run reports all of them.
    let ok = [
        addresses(source, table, "src", sets)
            .map(|a| rule.src = a)
            .is_some(),
        addresses(source, table, "dst", sets)
            .map(|a| rule.dst = a)
            .is_some(),
        ports(source, table, "sport").map(|p| rule.sport = p).is_some(),
        ports(source, table, "dport").map(|p| rule.dport = p).is_some(),
        tcp_flags(source, table).map(|t| rule.tcp = t).is_some(),
        icmp(source, table).map(|i| rule.icmp = i).is_some(),
        fragment(source, table).map(|f| rule.fragment = f).is_some(),
        dscp(source, table).map(|d| rule.dscp = d).is_some(),
        proto(source, table).map(|p| rule.protocols = p).is_some(),
    ];
    if ok.contains(&false) {
        return None;
    }
    protocol_fits(source, table, at, &mut rule)?;
    families_fit(source, at, &rule)?;
    if rule.fragment == FragmentMatch::Later && rule.names_upper_layer() {
        source.warning(
            at,
            "later_fragment_ports",
            "later fragments carry no ports, flags or types: those conditions are not looked at".into(),
            "leave them out of a rule with fragment = \"later\"",
        );
    }
    Some(rule)
}

/// An integer's value, when it is one and fits.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let i = value.as_integer()?;
    i64::from_str_radix(i.as_str(), i.radix()).ok()
}

/// The items of an array; a single value counts as an array of one.
fn items<'t, 'i>(table: &'t DeTable<'i>, key: &str) -> Option<Vec<&'t Item<'i>>> {
    let value = table.get(key)?;
    Some(match value.get_ref().as_array() {
        Some(array) => array.iter().collect(),
        None => vec![value],
    })
}

fn bad<T>(source: &mut Source<'_>, item: &Item<'_>, message: String, hint: impl Into<String>) -> Option<T> {
    source.error(item.span().start, "bad_value", message, hint);
    None
}

fn action(source: &mut Source<'_>, table: &DeTable<'_>, at: usize) -> Option<Action> {
    let Some(item) = table.get("action") else {
        source.error(
            at,
            "missing_key",
            "a rule without `action`".into(),
            "write action = \"allow\", \"deny\" or \"reject\"",
        );
        return None;
    };
    match item.get_ref().as_str() {
        Some("allow") => Some(Action::Allow),
        Some("deny") => Some(Action::Deny),
        Some("reject") => Some(Action::Reject),
        Some(word) => {
            let near = names::nearest(word, ["allow", "deny", "reject"].into_iter()).unwrap_or("allow");
            bad(
                source,
                item,
                format!("`{word}` is not an action"),
                format!("did you mean \"{near}\"?"),
            )
        }
        None => bad(
            source,
            item,
            "`action` is not a string".into(),
            "write \"allow\", \"deny\" or \"reject\"",
        ),
    }
}

fn addresses(source: &mut Source<'_>, table: &DeTable<'_>, key: &str, sets: &mut Sets) -> Option<Addresses> {
    let mut found = Addresses::any();
    let Some(list) = items(table, key) else {
        return Some(found);
    };
    let mut ok = true;
    if list.is_empty() {
        let at = table.get(key).map_or(0, |v| v.span().start);
        source.error(
            at,
            "bad_value",
            format!("`{key}` is empty"),
            "leave the key out for any address",
        );
        return None;
    }
    for item in list {
        if let Some(name) = item.get_ref().as_str().and_then(|s| s.strip_prefix('@')) {
            match sets.get(name) {
                Some(set) => found.sets.push(set),
                None => {
                    let hint = match sets.nearest(name) {
                        Some(near) => format!("did you mean \"@{near}\"?"),
                        None => format!("write [sets.{name}] with its prefixes"),
                    };
                    source.error(
                        item.span().start,
                        "unknown_set",
                        format!("no set is named \"{name}\""),
                        hint,
                    );
                    ok = false;
                }
            }
        } else {
            match prefix(source, item) {
                Some(p) => found.prefixes.push(p),
                None => ok = false,
            }
        }
    }
    ok.then_some(found)
}

fn port(text: &str) -> Option<u16> {
    let text = text.trim();
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

fn ports(source: &mut Source<'_>, table: &DeTable<'_>, key: &str) -> Option<Vec<PortRange>> {
    let mut found = Vec::new();
    let mut ok = true;
    for item in items(table, key).unwrap_or_default() {
        let hint = "write a number up to 65535, or a range as \"1024-65535\"";
        let range = match item.get_ref() {
            DeValue::Integer(_) => integer(item.get_ref())
                .and_then(|n| u16::try_from(n).ok())
                .map(|p| (p, p)),
            DeValue::String(text) => match text.split_once('-') {
                Some((lo, hi)) => port(lo).zip(port(hi)),
                None => port(text).map(|p| (p, p)),
            },
            _ => None,
        };
        match range {
            Some((lo, hi)) if lo <= hi => found.push(PortRange { lo, hi }),
            Some((lo, hi)) => {
                let message = format!("port range {lo}-{hi} is upside down");
                source.error(
                    item.span().start,
                    "range_upside_down",
                    message,
                    format!("did you mean \"{hi}-{lo}\"?"),
                );
                ok = false;
            }
            None => {
                ok = bad::<()>(
                    source,
                    item,
                    format!("`{key}` holds something that is no port"),
                    hint,
                )
                .is_some()
            }
        }
    }
    ok.then_some(found)
}

fn proto(source: &mut Source<'_>, table: &DeTable<'_>) -> Option<Protocols> {
    let Some(item) = table.get("proto") else {
        return Some(Protocols::ANY);
    };
    let hint = "write a name, as \"tcp\", or a number from 0 to 255";
    match item.get_ref() {
        DeValue::Integer(_) => match integer(item.get_ref()).and_then(|n| u8::try_from(n).ok()) {
            Some(n) => Some(Protocols::number(n)),
            None => bad(source, item, "protocol number above 255".into(), hint),
        },
        DeValue::String(text) => {
            let name = text.to_ascii_lowercase();
            if let Some(found) = names::protocol(&name).or_else(|| name.parse().ok().map(Protocols::number)) {
                return Some(found);
            }
            let hint = match names::nearest(&name, names::protocols()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => hint.to_owned(),
            };
            bad(source, item, format!("`{text}` is not a protocol"), hint)
        }
        _ => bad(
            source,
            item,
            "`proto` is neither a name nor a number".into(),
            hint,
        ),
    }
}

fn tcp_flags(source: &mut Source<'_>, table: &DeTable<'_>) -> Option<Option<TcpMatch>> {
    let Some(item) = table.get("tcp_flags") else {
        return Some(None);
    };
    let hint = "write \"established\", or MUST-BE-SET/LOOKED-AT as \"syn/syn,ack\"";
    let Some(text) = item.get_ref().as_str() else {
        return bad(source, item, "`tcp_flags` is not a string".into(), hint);
    };
    if text == "established" {
        return Some(Some(TcpMatch::Established));
    }
    let mut bits = |list: &str| -> Option<u8> {
        let mut bits = 0;
        for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            let Some(&(_, bit)) = names::FLAGS.iter().find(|(n, _)| n.eq_ignore_ascii_case(word)) else {
                return bad(
                    source,
                    item,
                    format!("`{word}` is not a TCP flag"),
                    "fin, syn, rst, psh, ack, urg, ece, cwr",
                );
            };
            bits |= bit;
        }
        Some(bits)
    };
    let (set, mask) = match text.split_once('/') {
        Some((set, mask)) => (bits(set)?, bits(mask)?),
        None => bits(text).map(|b| (b, b))?,
    };
    if mask == 0 {
        return bad(source, item, "`tcp_flags` looks at no flag".into(), hint);
    }
    if set & !mask != 0 {
        let message = "`tcp_flags` asks for a flag that it does not look at".to_owned();
        return bad(
            source,
            item,
            message,
            "repeat the flags that must be set behind the slash",
        );
    }
    Some(Some(TcpMatch::Flags { set, mask }))
}

fn icmp(source: &mut Source<'_>, table: &DeTable<'_>) -> Option<Vec<IcmpMatch>> {
    let mut found = Vec::new();
    let mut ok = true;
    for item in items(table, "icmp").unwrap_or_default() {
        let same = |kind, code| {
            let t = Some(IcmpType { kind, code });
            IcmpMatch { v4: t, v6: t }
        };
        let meant = match item.get_ref() {
            DeValue::Integer(_) => integer(item.get_ref())
                .and_then(|n| u8::try_from(n).ok())
                .map(|kind| same(kind, None)),
            DeValue::String(text) => names::icmp(text).or_else(|| match text.split_once('/') {
                Some((kind, code)) => Some(same(kind.trim().parse().ok()?, Some(code.trim().parse().ok()?))),
                None => Some(same(text.trim().parse().ok()?, None)),
            }),
            _ => None,
        };
        match meant {
            Some(m) => found.push(m),
            None => {
                let near = item
                    .get_ref()
                    .as_str()
                    .and_then(|t| names::nearest(t, names::icmps()));
                let hint = match near {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "write a name, a type, or \"TYPE/CODE\"".to_owned(),
                };
                ok = bad::<()>(
                    source,
                    item,
                    "`icmp` holds something that is no ICMP type".into(),
                    hint,
                )
                .is_some();
            }
        }
    }
    ok.then_some(found)
}

fn fragment(source: &mut Source<'_>, table: &DeTable<'_>) -> Option<FragmentMatch> {
    let Some(item) = table.get("fragment") else {
        return Some(FragmentMatch::Unsaid);
    };
    match item.get_ref().as_str() {
        Some("any") => Some(FragmentMatch::Any),
        Some("first") => Some(FragmentMatch::First),
        Some("later") => Some(FragmentMatch::Later),
        Some("none") => Some(FragmentMatch::None),
        _ => bad(
            source,
            item,
            "`fragment` is not known".into(),
            "write \"any\", \"first\", \"later\" or \"none\"",
        ),
    }
}

fn dscp(source: &mut Source<'_>, table: &DeTable<'_>) -> Option<DscpSet> {
    let Some(list) = items(table, "dscp") else {
        return Some(u64::MAX);
    };
    let mut set = 0;
    let mut ok = true;
    for item in list {
        let point = match item.get_ref() {
            DeValue::Integer(_) => integer(item.get_ref()).and_then(|n| u8::try_from(n).ok()),
            DeValue::String(text) => names::dscp(&text.to_ascii_lowercase()),
            _ => None,
        };
        match point {
            Some(p @ 0..=63) => set |= 1 << p,
            _ => {
                let hint = "write a code point from 0 to 63, or a name as \"ef\", \"cs5\", \"af11\"";
                ok = bad::<()>(
                    source,
                    item,
                    "`dscp` holds something that is no code point".into(),
                    hint,
                )
                .is_some();
            }
        }
    }
    if set == 0 && ok {
        let at = table.get("dscp").map_or(0, |v| v.span().start);
        source.error(
            at,
            "bad_value",
            "`dscp` is empty".into(),
            "leave the key out for any code point",
        );
        return None;
    }
    ok.then_some(set)
}

/// Ports, flags and types stand only in protocols that have them.
fn protocol_fits(source: &mut Source<'_>, table: &DeTable<'_>, at: usize, rule: &mut Rule) -> Option<()> {
    let named = table.get("proto").is_some();
    let wanted = [
        (
            !rule.sport.is_empty() || !rule.dport.is_empty(),
            Protocols::with_ports(),
            "ports",
            "tcp",
        ),
        (rule.tcp.is_some(), Protocols::number(6), "TCP flags", "tcp"),
        (!rule.icmp.is_empty(), Protocols::icmp(), "ICMP types", "icmp"),
    ];
    for (asked, protocols, what, name) in wanted {
        if !asked {
            continue;
        }
        let both = Protocols {
            v4: rule.protocols.v4.and(protocols.v4),
            v6: rule.protocols.v6.and(protocols.v6),
        };
        if both == Protocols::both(classifier::acl::ProtoSet::NONE) {
            let message = if named {
                format!("the rule names {what}, which its protocol does not carry")
            } else {
                format!("the rule names {what} together with fields of another protocol")
            };
            source.error(
                at,
                "protocol_mismatch",
                message,
                format!("write proto = \"{name}\""),
            );
            return None;
        }
        rule.protocols = both;
    }
    Some(())
}

/// A rule is of one family, or of both where it names no prefix of its own.
fn families_fit(source: &mut Source<'_>, at: usize, rule: &Rule) -> Option<()> {
    let literal = |v4: bool| {
        let mut all = rule.src.prefixes.iter().chain(&rule.dst.prefixes);
        all.any(|p| matches!(p, classifier::lpm::IpPrefix::V4(_)) == v4)
    };
    if literal(true) && literal(false) {
        let hint = "write one rule for each family, or put the prefixes into a set";
        source.error(
            at,
            "mixed_families",
            "the rule mixes IPv4 and IPv6 prefixes".into(),
            hint,
        );
        return None;
    }
    let fits = |f: Family| {
        rule.src.has(f)
            && rule.dst.has(f)
            && rule.protocols_of(f) != classifier::acl::ProtoSet::NONE
            && (rule.icmp.is_empty()
                || rule.icmp.iter().any(|m| {
                    if f == Family::V4 {
                        m.v4.is_some()
                    } else {
                        m.v6.is_some()
                    }
                }))
    };
    if !fits(Family::V4) && !fits(Family::V6) {
        let message = "source, destination and ICMP types have no family in common: the rule can never match";
        source.error(
            at,
            "mixed_families",
            message.into(),
            "use addresses and types of one family",
        );
        return None;
    }
    // ICMPv6 in IPv4 packets has no meaning: it is nearly always the wrong number.
    let v6_icmp = Protocols::number(58).v4;
    if rule.protocols.v4 == v6_icmp && !fits(Family::V6) {
        let hint = "write proto = \"icmp\", which means ICMP of the packet's family";
        source.error(
            at,
            "mixed_families",
            "ICMPv6 together with IPv4 addresses".into(),
            hint,
        );
        return None;
    }
    Some(())
}
