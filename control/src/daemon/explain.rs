//! `explain`: what would become of one packet, by the functions and tables that workers use.

use std::net::IpAddr;

use classifier::acl::{Action, IcmpMatch, List, Match, PortRange, Rule};
use classifier::packet::{Family, Fragment, Headers};
use forwarder::AntiSpoof;
use forwarder::fib::Group;
use forwarder::path::explain::{Explanation, Fate};
use serde_json::{Value, json};

use super::Daemon;
use super::answers::no_port;
use crate::socket::{Code, ErrorBody, ExplainArgs};

impl Daemon {
    pub(super) fn explain(&mut self, args: &ExplainArgs) -> Result<Value, ErrorBody> {
        if args.from.is_ipv4() != args.to.is_ipv4() {
            return Err(ErrorBody::new(
                Code::BadArgument,
                format!("{} and {} are of different families", args.from, args.to),
            ));
        }
        let Some(open) = self.ports.open.get(&args.port) else {
            return Err(no_port(&args.port));
        };
        let (id, index, acl) = (open.id, open.ifindex, open.acl.clone());
        let headers = packet(args);
        let route = self.mirror.route_get(Some(index), args.to);
        let is_own = route
            .as_ref()
            .is_some_and(|route| ["local", "broadcast", "anycast"].contains(&route.kind));
        let tables = self.mirror.tables_of(Some(index), args.to.is_ipv6()).to_vec();
        if is_own || stays_on_the_link(args.to) {
            return Ok(json!({
                "schema": "margay.explain/1",
                "verdict": Fate::Local.name(),
                "reason": "local",
                "ingress_rule": null,
                "egress_rule": null,
                "nearest_allow": null,
                "route": route,
                "tables": tables,
                "nexthop": null,
                "egress_port": null,
                "anti_spoofing": null,
                "member": null,
                "neighbour": null,
                "mtu": null,
            }));
        }
        let told = self.dataplane.explain(&headers, id);
        let egress = told.egress_port.and_then(|id| {
            let port = self.ports.open.iter().find(|(_, open)| open.id == id);
            port.map(|(name, open)| (name.clone(), open.acl.egress.clone()))
        });
        let egress_list = egress.as_ref().and_then(|(_, list)| list.clone());
        let denied = [
            (told.ingress_rule, acl.ingress.as_ref()),
            (told.egress_rule, egress_list.as_ref()),
        ]
        .into_iter()
        .find_map(|(found, list)| found.filter(|found| found.action != Action::Allow).and(list));
        let nearest = denied.and_then(|name| {
            let list = self.lists.list(name)?;
            nearest_allow(list, &headers)
        });
        let nexthop = match (told.route, told.member) {
            (Some((_, _, group)), Some((member, _))) => self.member_row(group, member),
            _ => None,
        };
        Ok(json!({
            "schema": "margay.explain/1",
            "verdict": told.fate.name(),
            "reason": told.reason.map(|reason| reason.name()),
            "ingress_rule": self.rule(told.ingress_rule, acl.ingress.as_deref()),
            "egress_rule": self.rule(told.egress_rule, egress_list.as_deref()),
            "nearest_allow": nearest,
            "route": route,
            "tables": tables,
            "nexthop": nexthop,
            "egress_port": egress.map(|(name, _)| name),
            "resolved": told.resolved,
            "anti_spoofing": json!({"mode": spoof_mode(told.anti_spoof), "passes": told.source_belongs}),
            "member": self.member(&told),
            "neighbour": told.neighbour.map(|(address, ifindex)| self.neighbour(address, ifindex)),
            "mtu": told.mtu.filter(|mtu| *mtu < u32::MAX),
        }))
    }

    /// Which member of a multipath route the flow takes: `{number, of, hash}`, from 1; `null` where there is one way.
    fn member(&mut self, told: &Explanation) -> Option<Value> {
        let ((_, _, group), (adj, _)) = (told.route?, told.member?);
        let Some(Group::Forward { members, .. }) = self.dataplane.fib().group(group) else {
            return None;
        };
        let number = members.iter().position(|member| member.adj == adj)? + 1;
        (members.len() > 1)
            .then(|| json!({"number": number, "of": members.len(), "hash": format!("{:#010x}", told.hash)}))
    }

    /// What the kernel knows of a neighbour: `{address, dev, mac, state}`; state `none` when nothing.
    fn neighbour(&self, address: IpAddr, ifindex: u32) -> Value {
        let links = self.mirror.links();
        let dev = links.iter().find(|link| link.index == ifindex);
        let dev = dev.map_or("", |link| link.name.as_str());
        let known = self.mirror.neighbours();
        let known = known
            .iter()
            .find(|neighbour| neighbour.address == address && neighbour.dev == dev);
        json!({
            "address": address,
            "dev": dev,
            "mac": known.map(|neighbour| &neighbour.mac).filter(|mac| !mac.is_empty()),
            "state": known.map_or("none", |neighbour| neighbour.state),
        })
    }

    /// The rule that decided: `{acl, index, action, file, line}`.
    fn rule(&self, found: Option<Match>, list: Option<&str>) -> Option<Value> {
        let (found, name) = (found?, list?);
        let origin = usize::try_from(found.rule)
            .ok()
            .and_then(|index| Some(self.lists.list(name)?.rules.get(index)?.origin.clone()));
        Some(json!({
            "acl": name,
            "index": found.rule,
            "action": found.action.name(),
            "file": origin.as_ref().map(|origin| &*origin.file),
            "line": origin.as_ref().map(|origin| origin.line),
        }))
    }
}

/// The word of the configuration.
fn spoof_mode(mode: AntiSpoof) -> &'static str {
    match mode {
        AntiSpoof::Strict => "strict",
        AntiSpoof::Loose => "loose",
        AntiSpoof::Off => "off",
    }
}

/// Destinations that the steering program leaves to the kernel whatever its tables say: multicast, broadcast and
/// link-local ones.
fn stays_on_the_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast() || address.is_link_local(),
        IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
    }
}

/// The packet that is asked about: no fragment, and not to be fragmented.
fn packet(args: &ExplainArgs) -> Headers {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let is_v4 = args.from.is_ipv4();
    Headers {
        family: if is_v4 { Family::V4 } else { Family::V6 },
        src: number(args.from),
        dst: number(args.to),
        proto: args.proto,
        sport: args.sport,
        dport: args.dport,
        tcp_flags: args.tcp_flags,
        icmp: args.icmp,
        fragment: Fragment::Whole,
        dscp: 0,
        ttl: args.ttl,
        dont_fragment: true,
        source_route: false,
        l3: 14,
        l4: if is_v4 { 34 } else { 54 },
        len: args.length,
        flow_label: 0,
        flaw: None,
    }
}

/// The rule that allows the most similar packet, and the fields in which this one differs. No field differs when
/// only the order of the rules is in the way.
fn nearest_allow(list: &List, headers: &Headers) -> Option<Value> {
    let (index, rule, fields) = list
        .rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.action == Action::Allow)
        .map(|(index, rule)| (index, rule, differing(rule, headers)))
        .min_by_key(|(_, _, fields)| fields.len())?;
    Some(json!({
        "acl": list.name,
        "index": index,
        "file": &*rule.origin.file,
        "line": rule.origin.line,
        "differs": fields,
    }))
}

/// The conditions of a rule that do not hold.
fn differing(rule: &Rule, headers: &Headers) -> Vec<&'static str> {
    let in_ranges =
        |ranges: &[PortRange], port| ranges.is_empty() || ranges.iter().any(|range| range.contains(port));
    let icmp = |wanted: &[IcmpMatch]| {
        wanted.is_empty()
            || headers.icmp.is_some_and(|(kind, code)| {
                wanted
                    .iter()
                    .any(|wanted| wanted.matches(headers.family, kind, code))
            })
    };
    let conditions = [
        ("proto", rule.protocols_of(headers.family).contains(headers.proto)),
        ("src", rule.src.contains(headers.family, headers.src)),
        ("dst", rule.dst.contains(headers.family, headers.dst)),
        ("sport", in_ranges(&rule.sport, headers.sport)),
        ("dport", in_ranges(&rule.dport, headers.dport)),
        (
            "tcp_flags",
            rule.tcp.is_none_or(|wanted| wanted.matches(headers.tcp_flags)),
        ),
        ("icmp", icmp(&rule.icmp)),
        ("fragment", rule.fragment_matches(headers.fragment)),
        ("dscp", rule.dscp >> (headers.dscp & 63) & 1 == 1),
    ];
    conditions
        .into_iter()
        .filter(|(_, holds)| !holds)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use classifier::acl::{Origin, Protocols};

    use super::*;

    fn rule(action: Action, line: u32) -> Rule {
        Rule::any(
            action,
            Origin {
                file: Arc::from("edge.toml"),
                line,
            },
        )
    }

    #[test]
    fn the_nearest_rule_names_the_fields_that_differ() {
        let mut web = rule(Action::Allow, 3);
        web.protocols = Protocols::number(6);
        web.dport = vec![PortRange { lo: 443, hi: 443 }];
        let mut dns = rule(Action::Allow, 9);
        dns.protocols = Protocols::number(17);
        dns.dport = vec![PortRange { lo: 53, hi: 53 }];
        let list = List {
            name: "edge".into(),
            default: Action::Deny,
            rules: vec![web, rule(Action::Deny, 6), dns],
            origin: Origin {
                file: Arc::from("edge.toml"),
                line: 1,
            },
        };
        let args = ExplainArgs {
            from: "10.0.0.1".parse().expect("address"),
            to: "10.0.0.2".parse().expect("address"),
            port: "eth1".into(),
            proto: 17,
            sport: 1,
            dport: 5353,
            tcp_flags: 0,
            icmp: None,
            ttl: 64,
            length: 64,
        };
        let nearest = nearest_allow(&list, &packet(&args)).expect("there is one");
        assert_eq!((&nearest["index"], &nearest["line"]), (&json!(2), &json!(9)));
        assert_eq!(nearest["differs"], json!(["dport"]));
        let shadowed = ExplainArgs { dport: 53, ..args };
        let nearest = nearest_allow(&list, &packet(&shadowed)).expect("there is one");
        assert_eq!(nearest["differs"], json!([]), "only the order is in the way");
    }
}
