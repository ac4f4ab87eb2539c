use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::config::{AclNames, Config};
use crate::mirror::LinkView;

fn config(text: &str) -> Config {
    crate::config::parse(&format!("version = 1\n{text}"), Path::new("/"))
        .expect("valid")
        .0
}

fn entry(name: &str, except: &[&str]) -> Entry {
    Entry {
        name: name.into(),
        except: except.iter().map(|name| (*name).to_owned()).collect(),
        multicast: Vec::new(),
    }
}

#[test]
fn closed_ports_and_their_sub_interfaces_are_guarded() {
    let config = config(
        "[[port]]\nname = \"eth1\"\n[[port]]\nname = \"eth2\"\nacl = { ingress = \"x\" }\n[[port]]\nmatch = \"cali*\"\nrole = \"workload\"\n",
    );
    assert_eq!(
        entries(&config, &BTreeMap::new()),
        [entry("eth2", &[]), entry("eth2.*", &[]), entry("cali*", &[])]
    );
    // A list set at run time closes an uplink.
    let acl = AclNames {
        ingress: None,
        egress: Some("x".into()),
    };
    let set = BTreeMap::from([("eth1".to_owned(), acl)]);
    let names: Vec<_> = entries(&config, &set)
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert_eq!(names, ["eth1", "eth1.*", "eth2", "eth2.*", "cali*"]);
}

#[test]
fn a_pattern_leaves_open_ports_open() {
    let config = config(
        "[[port]]\nmatch = \"cali*\"\nrole = \"workload\"\n[[port]]\nname = \"cali7\"\n[[port]]\nname = \"eth0\"\n",
    );
    assert_eq!(entries(&config, &BTreeMap::new()), [entry("cali*", &["cali7"])]);
    assert!(
        transaction(&entries(&config, &BTreeMap::new()))
            .contains("iifname \"cali*\" iifname != \"cali7\" counter drop\n")
    );
}

#[test]
fn devices_upon_closed_ports_are_found_whatever_they_are_called() {
    let link = |index, name: &str, parent| LinkView {
        name: name.into(),
        index,
        master: 0,
        parent,
        kind: String::new(),
        mac: String::new(),
        mtu: 1500,
        admin_up: true,
        up: true,
    };
    let entries = [
        entry("eth1", &[]),
        entry("eth1.*", &[]),
        entry("cali*", &["cali7"]),
    ];
    let links = [
        link(1, "eth1", 0),
        link(2, "eth1.5", 1),
        link(3, "storage", 1),
        link(4, "deeper", 3),
        link(5, "cali7", 0),
        link(6, "open", 5),
        link(7, "cali8", 0),
        link(8, "closed", 7),
        link(9, "eth0", 0),
        link(10, "eth0.7", 9),
        link(11, "loop", 12),
        link(12, "pool", 11),
    ];
    let names: Vec<_> = stacked(&entries, &links).into_iter().collect();
    assert_eq!(names, ["closed", "deeper", "storage"]);
}

#[test]
fn the_transaction_drops_by_both_directions_and_replaces_the_table() {
    let text = transaction(&[entry("eth1", &[]), entry("cali*", &[])]);
    assert_eq!(
        text,
        "table inet margay\ndelete table inet margay\ntable inet margay {\n\tchain forward {\n\
         \t\ttype filter hook forward priority filter; policy accept;\n\
         \t\tiifname \"eth1\" counter drop\n\t\tiifname \"cali*\" counter drop\n\
         \t\toifname \"eth1\" counter drop\n\t\toifname \"cali*\" counter drop\n\t}\n}\n"
    );
    assert_eq!(transaction(&[]), "table inet margay\ndelete table inet margay\n");
}

#[test]
fn names_are_read_back_from_a_listing() {
    let listing = r#"{"nftables": [{"metainfo": {"json_schema_version": 1}},
        {"rule": {"family": "inet", "table": "margay", "chain": "forward", "handle": 3, "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "cali*"}},
            {"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "cali7"}}, {"drop": null}]}},
        {"rule": {"family": "inet", "table": "other", "chain": "x", "handle": 4, "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth9"}}]}}]}"#;
    assert_eq!(names_in(listing), [(3, "cali*".to_owned())]);
    assert_eq!(names_in("nonsense"), []);
}

#[test]
fn listed_groups_are_let_through_on_both_sides() {
    let config = config(
        "[[port]]\nname = \"eth1\"\non_exit = \"drop\"\nmulticast = [\"239.1.2.0/24\", \"ff1e::/16\", \"239.1.0.0/16\", \"239.1.0.0/16\"]\n\
         [[port]]\nname = \"eth2\"\non_exit = \"drop\"\nmulticast = [\"239.2.0.1\"]\n",
    );
    let text = transaction(&entries(&config, &BTreeMap::new()));
    let rules: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| line.contains("ifname"))
        .collect();
    let expected = |key: &str| {
        [
            "\"eth1\" ip daddr != { 239.1.0.0/16 } counter drop",
            "\"eth1\" ip6 daddr != { ff1e::/16 } counter drop",
            "\"eth1.*\" counter drop",
            "\"eth2\" ip daddr != { 239.2.0.1/32 } counter drop",
            "\"eth2\" meta nfproto ipv6 counter drop",
            "\"eth2.*\" counter drop",
        ]
        .map(|rule| format!("{key} {rule}"))
    };
    assert_eq!(rules, [expected("iifname"), expected("oifname")].concat());
}

#[test]
fn each_port_has_the_groups_of_its_own_table() {
    let config = config(
        "[[port]]\nmatch = \"p2.*\"\non_exit = \"drop\"\nmulticast = [\"239.3.0.0/16\"]\n\
         [[port]]\nmatch = \"p*\"\non_exit = \"drop\"\nmulticast = [\"239.1.0.0/16\"]\n\
         [[port]]\nname = \"p1\"\non_exit = \"drop\"\n\
         [[port]]\nname = \"p2\"\non_exit = \"drop\"\nmulticast = [\"239.1.0.0/16\"]\n\
         [[port]]\nname = \"p1.5\"\non_exit = \"drop\"\nmulticast = [\"239.2.0.0/16\"]\n",
    );
    let found = entries(&config, &BTreeMap::new());
    let said = |name: &str| {
        let entry = found.iter().find(|entry| entry.name == name);
        let entry = entry.unwrap_or_else(|| panic!("{name} in {found:?}"));
        let groups: Vec<String> = entry.multicast.iter().map(ToString::to_string).collect();
        (entry.except.join(" "), groups.join(" "))
    };
    let pair = |except: &str, groups: &str| (except.to_owned(), groups.to_owned());
    assert_eq!(said("p1"), pair("", ""));
    // What is stacked upon a port has not its groups, but its own.
    assert_eq!(said("p1.*"), pair("p1.5", ""));
    assert_eq!(said("p1.5"), pair("", "239.2.0.0/16"));
    assert_eq!(said("p2.*"), pair("", "239.3.0.0/16"));
    assert_eq!(said("p*"), pair("p1 p1.5 p2.*", "239.1.0.0/16"));
    assert_eq!(found.iter().filter(|entry| entry.name == "p2.*").count(), 1);
}
