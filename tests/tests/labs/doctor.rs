//! `margay doctor` against faults made on purpose: each is found, the named cure makes its line pass, and nothing is changed by
//! looking.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── u 203.0.113.1
//! ```

use std::sync::Arc;

use serde_json::Value;
use tests::lab::announce;
use tests::margay::list;
use tests::{Host, LIMIT, Margay, wait_for};

use crate::common::{Node, node};

const PORTS: &str = r#"
[runtime]
profile = "adaptive"
workers = [0]
frames = 4096
frame_size = 2048
stall_after = "5s"
[[port]]
name = "up7"
mode = "generic"
[[port]]
match = "up*"
fix_checksums = "auto"
[[port]]
match = "cali*"
role = "workload"
acl = { ingress = "all" }
"#;

const ALL: &str = "[[acl]]\nname = \"all\"\ndefault = \"allow\"\n";

/// A fault made by a shell script on the node.
struct Fault {
    check: &'static str,
    port: Option<&'static str>,
    result: &'static str,
    make: &'static str,
}

const fn fault(
    check: &'static str,
    port: Option<&'static str>,
    result: &'static str,
    make: &'static str,
) -> Fault {
    Fault {
        check,
        port,
        result,
        make,
    }
}

/// Faults whose cure is a command, from the least to the most disturbing.
const FAULTS: &[Fault] = &[
    fault("vlan_strip", Some("up0"), "warn", "ethtool -K up0 rxvlan on"),
    fault("ip_forward", None, "warn", "sysctl -qw net.ipv4.ip_forward=0"),
    fault("input_rules", Some("cali-a"), "warn", ":"),
    fault("rp_filter", Some("up0"), "warn", "sysctl -qw net/ipv4/conf/up0/rp_filter=1"),
    fault("nexthop_compat_mode", None, "fail", "sysctl -qw net.ipv4.nexthop_compat_mode=0"),
    fault(
        "tc_filter",
        Some("up0"),
        "warn",
        "tc qdisc add dev up0 clsact; tc filter add dev up0 ingress protocol ip prio 1 u32 match u32 0 0 flowid 1:1",
    ),
    fault("ip_rule", None, "warn", "ip rule add priority 100 from 10.65.0.0/24 table 254"),
    fault("ip_rule", None, "warn", "ip -6 rule add priority 100 from fd65::/64 table 254"),
    fault(
        "forward_rules",
        None,
        "warn",
        "nft 'add table ip fw; add chain ip fw through { type filter hook forward priority 0; policy drop; }; add rule ip fw through accept'",
    ),
    fault("forward_rules", None, "warn", "iptables -A FORWARD -s 192.0.2.1 -j DROP"),
    fault(
        "nat",
        None,
        "warn",
        "nft 'add table ip tr; add chain ip tr post { type nat hook postrouting priority 100; }; add rule ip tr post masquerade'",
    ),
    fault("guard", None, "fail", "nft delete table inet margay"),
    fault("mtu", Some("up0"), "fail", "ip link set dev up0 mtu 40000"),
    fault(
        "route_device",
        Some("spare0"),
        "warn",
        "ip link add spare0 type veth peer name spare1; sysctl -qw net.ipv6.conf.spare1.disable_ipv6=1; ip link set spare0 up; ip link set spare1 up
         ip route add 198.51.100.0/24 dev spare0",
    ),
    fault(
        "xdp_program",
        Some("up9"),
        "fail",
        "ip link add spare9 type veth peer name spare8; ip link set dev spare9 xdp obj pass.o sec xdp; ip link set spare9 name up9
         ip link set up9 up; ip link set spare8 up",
    ),
    fault(
        "gro",
        Some("up7"),
        "warn",
        "ip link add up7 type veth peer name spare7; ethtool -K up7 gro on; ip link set up7 up; ip link set spare7 up",
    ),
    fault(
        "queues",
        Some("up6"),
        "fail",
        "ip link add spare6 numrxqueues 2 numtxqueues 2 type veth peer name spare5 numrxqueues 2 numtxqueues 1
         ethtool -L spare6 rx 1 tx 1; ip link set spare6 name up6; ip link set up6 up; ip link set spare5 up
         for try in $(seq 100); do ip -d link show up6 | grep -q prog/xdp && break; sleep 0.1; done
         ethtool -L up6 rx 2",
    ),
    fault("link", Some("up0"), "warn", "ip link set dev up0 down"),
];

/// The worst line of a check.
fn line(margay: &Margay, check: &str, port: Option<&str>) -> Result<Value, String> {
    // A failed check is exit status 1, which is no error.
    let done = margay.run("-j doctor");
    assert!(done.code <= 1 && done.err.is_empty(), "{done:?}");
    let answer: Value = serde_json::from_str(&done.out).map_err(|error| error.to_string())?;
    let failed = list(&answer, "checks")
        .iter()
        .any(|check| check["result"] == "fail");
    assert_eq!(
        done.code == 1,
        failed,
        "the exit status says whether one fails: {answer}"
    );
    let rank = |value: &Value| {
        ["pass", "warn", "fail"]
            .iter()
            .position(|name| value["result"] == *name)
    };
    let lines = list(&answer, "checks")
        .iter()
        .filter(|line| line["name"] == check && line["port"].as_str() == port);
    lines
        .max_by_key(|line| rank(line))
        .cloned()
        .ok_or_else(|| format!("no line {check} of {port:?} in {answer}"))
}

#[track_caller]
fn becomes(margay: &Margay, check: &str, port: Option<&str>, result: &str) -> Value {
    wait_for(&format!("{check} of {port:?} is {result}"), LIMIT, || {
        let line = line(margay, check, port)?;
        if line["result"] == result {
            Ok(line)
        } else {
            Err(line.to_string())
        }
    })
}

/// Waits until the line does not say any more what it said.
#[track_caller]
fn mended(margay: &Margay, check: &str, port: Option<&str>) {
    wait_for(&format!("{check} of {port:?} passes"), LIMIT, || {
        match line(margay, check, port) {
            Ok(line) if line["result"] == "pass" => Ok(()),
            Ok(line) => Err(line.to_string()),
            // A device that was no port is one now: the line of the node passes.
            Err(_) if check == "route_device" => line(margay, check, None).map(|_| ()),
            Err(missing) => Err(missing),
        }
    });
}

fn build(name: &str) -> Option<(Node, Arc<Margay>)> {
    let net = node(name)?;
    let a = net.container("a", 2);
    let margay = Margay::start_with(&net.lab, &net.r, PORTS, &[("all", ALL)]);
    margay.has_port("up0");
    margay.has_port("cali-a");
    a.reaches("203.0.113.1");
    Some((net, margay))
}

/// What an operator's commands show of the node, without what changes by itself.
fn state(r: &Host) -> String {
    r.sh("nft list ruleset; ip -d link | grep -v 'link-netns'; ip addr | sed 's/valid_lft.*//'; ip route show table all; ip -6 route show table all | sed 's/expires.*//'
          ip rule; ip -6 rule; tc qdisc; for dev in up0 cali-a; do ethtool -k $dev; ethtool -l $dev; tc filter show dev $dev ingress; done
          grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv4/neigh /proc/sys/net/ipv6/conf 2>/dev/null | grep -v stable_secret
          cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/nexthop_compat_mode; cat /proc/net/ip_tables_names 2>/dev/null || :")
}

#[test]
fn faults_and_their_cures() {
    let Some((net, margay)) = build("doctor") else {
        return;
    };
    let r = &net.r;
    let directory = net.lab.directory().display().to_string();
    // A program of somebody else: it lets everything pass.
    r.sh(&format!(
        "cd {directory}; printf 'int pass(void *c) __attribute__((section(\"xdp\"))); int pass(void *c) {{ return 2; }}\\nchar l[] __attribute__((section(\"license\"))) = \"GPL\";\\n' >pass.c
         clang -O2 -target bpf -c pass.c -o pass.o"
    ));
    for Fault {
        check,
        port,
        result,
        make,
    } in FAULTS
    {
        let made = r.try_sh(&format!("cd {directory}; {make}"));
        if made.code != 0 {
            // A kernel without NAT, or without the old tables behind iptables.
            assert!(
                make.contains("masquerade") || make.contains("iptables"),
                "{make}: {made:?}"
            );
            announce(&format!(
                "doctor: this kernel cannot do: {make}: {}",
                made.err.trim()
            ));
            continue;
        }
        let line = becomes(&margay, check, *port, result);
        // The text names the same.
        let text = margay.run("doctor").out;
        let (message, fix) = (&line["message"], line["fix"].as_str().expect("a cure"));
        assert!(
            text.contains(message.as_str().unwrap_or("?")) && text.contains(fix),
            "{line}\n{text}"
        );
        r.sh(fix);
        mended(&margay, check, *port);
    }
    margay.check_sums();
}

/// Cures that are words for a file, and then a command.
#[test]
fn faults_of_the_configuration() {
    let Some((net, margay)) = build("doctorconf") else {
        return;
    };
    let after = |line: &Value| {
        let fix = line["fix"].as_str().expect("a cure").to_owned();
        fix.rsplit("then: ").next().unwrap_or_default().to_owned()
    };
    let reload = || net.r.sh(&format!("kill -HUP {}", margay.process().pid()));
    margay.write_config(&PORTS.replace(
        "role = \"workload\"",
        "role = \"workload\"\nfix_checksums = \"off\"",
    ));
    reload();
    let line = becomes(&margay, "checksums", Some("cali-a"), "warn");
    assert!(
        line["fix"]
            .as_str()
            .is_some_and(|fix| fix.contains("fix_checksums = \"auto\"") && fix.contains("match = \"cali*\"")),
        "{line}"
    );
    margay.write_config(&PORTS.replace(
        "role = \"workload\"",
        "role = \"workload\"\nfix_checksums = \"auto\"",
    ));
    net.r.sh(&after(&line));
    mended(&margay, "checksums", Some("cali-a"));
    // A list that no file has.
    margay.write_config(&PORTS.replace("\"all\"", "\"edge\""));
    reload();
    let line = becomes(&margay, "acl", Some("cali-a"), "fail");
    assert_eq!(line["fix"], "margay acl reload");
    margay.write_acl("edge", "[[acl]]\nname = \"edge\"\ndefault = \"allow\"\n");
    assert_eq!(margay.run("acl reload").code, 0);
    wait_for("the list is not missed any more", LIMIT, || {
        !margay.run("doctor").out.contains("there is no list")
    });
    // A port that is not there.
    margay.write_config(&format!("{PORTS}[[port]]\nname = \"late0\"\n"));
    reload();
    let line = becomes(&margay, "port", Some("late0"), "warn");
    margay.write_config(PORTS);
    net.r.sh(&after(&line));
    wait_for("nobody waits for the port", LIMIT, || {
        !margay.run("doctor").out.contains("late0")
    });
    // One port only: nothing of the node, nothing of the others.
    let one = margay.run("-j doctor up0");
    let answer: Value = serde_json::from_str(&one.out).expect("JSON");
    assert!(
        list(&answer, "checks")
            .iter()
            .all(|check| check["port"] == "up0" || check["name"] == "guard")
    );
    assert_eq!(margay.run("-j doctor nosuch").code, 3);
}

/// The node is afterwards what it was before.
#[test]
fn it_only_reads() {
    let Some((net, margay)) = build("doctorread") else {
        return;
    };
    let before = state(&net.r);
    for _ in 0..3 {
        assert!(margay.run("doctor").code <= 1);
        assert!(margay.run("-j doctor up0").code <= 1);
    }
    let after = state(&net.r);
    assert_eq!(before, after);
    margay.check_sums();
}
