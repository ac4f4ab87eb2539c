//! Why a packet did not arrive: every reason that a worker drops for is caused, then explained, traced, captured and found
//! among the last drops. The capture is read back by tshark, which is no program of ours.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a ┐
//!                         ├─ r (margayd, up0 with list edge, cali-a with list to-a) up0 ── r0 u 10.0.0.2
//!   b 10.65.0.3 ── cali-b ┘                                                             (u sends)
//! ```

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::host::finish;
use tests::margay::{list, program};
use tests::raw::{Wire, ethernet, icmp, ipv4, ipv6, udp};
use tests::schema;
use tests::{Host, LIMIT, Margay, wait_for};

use crate::common::{Node, node};

const PORTS: &str = r#"
[[port]]
name = "up0"
role = "uplink"
fix_checksums = "auto"
acl = { ingress = "edge" }
[[port]]
name = "cali-a"
role = "workload"
acl = { egress = "to-a" }
[[port]]
name = "cali-b"
role = "workload"
"#;

const EDGE: &str = r#"
[[acl]]
name = "edge"
default = "allow"
[[acl.rule]]
action = "deny"
proto = "udp"
dport = [7]
[[acl.rule]]
action = "reject"
proto = "icmp"
icmp = ["3/13"]
"#;

const TO_A: &str = r#"
[[acl]]
name = "to-a"
default = "allow"
[[acl.rule]]
action = "allow"
proto = "udp"
src = ["10.0.0.0/24"]
dport = [2000]
[[acl.rule]]
action = "deny"
proto = "udp"
dport = ["1000-2000"]
[[acl.rule]]
action = "reject"
proto = "icmp"
icmp = ["3/10"]
"#;

pub const U4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const A4: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const U6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, 0, 2);

fn build(name: &str, more: &str) -> Option<(Node, Host, Host, Arc<Margay>)> {
    let net = node(name)?;
    let (a, b) = (net.container("a", 2), net.container("b", 3));
    net.r
        .sh("ip route del default; ip route add 203.0.113.0/24 via 10.0.0.2
          ip route add blackhole 198.51.100.0/28; ip route add unreachable 198.51.100.16/28
          ip route add prohibit 198.51.100.32/28
          ip link add nop0 type veth peer name nop1; ip link set nop0 up; ip link set nop1 up
          ip route add 198.51.100.48/28 dev nop0");
    let ports = format!("{PORTS}{more}");
    let margay = Margay::start_with(&net.lab, &net.r, &ports, &[("edge", EDGE), ("a", TO_A)]);
    for port in ["up0", "cali-a", "cali-b"] {
        margay.has_port(port);
    }
    for address in ["10.65.0.2", "10.65.0.3", "fd65::2"] {
        net.u.reaches(address);
    }
    Some((net, a, b, margay))
}

/// A packet that is dropped: why, its bytes, the stage that stops it, and the words that explain asks about it with.
struct Case {
    reason: &'static str,
    ethertype: u16,
    packet: Vec<u8>,
    stage: &'static str,
    explained: Option<String>,
}

/// A good packet with some bytes changed, its header checksum set right.
fn with(mut packet: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for &(at, byte) in changes {
        packet[at] = byte;
    }
    packet[10..12].fill(0);
    let length = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
    let check = tests::raw::checksum(&[&packet[..length]]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet
}

fn cases() -> Vec<Case> {
    let v4 = || ipv4(U4, A4, 64, 17, &udp(None, 9, 4242, b"watched"));
    let from = |source: [u8; 4]| ipv4(source.into(), A4, 64, 17, &udp(None, 9, 4242, b""));
    // An ICMP error: nothing is answered about it (RFC 1122 3.2.2), so that it is dropped where another packet would be answered.
    let error_to =
        |to: [u8; 4], ttl, code, size: usize| ipv4(U4, to.into(), ttl, 1, &icmp(3, code, &vec![0; size]));
    let chain: Vec<u8> = (0..12).flat_map(|_| [60, 0, 1, 4, 0, 0, 0, 0]).collect();
    let options = |bytes: &[u8]| {
        let mut packet = v4();
        packet.splice(20..20, bytes.iter().copied());
        let length = packet.len() as u8;
        with(packet, &[(0, 0x40 | (5 + bytes.len() / 4) as u8), (3, length)])
    };
    let mut cases = Vec::new();
    let mut add = |reason, ethertype, packet, stage, explained: Option<&str>| {
        let explained = explained.map(|words| format!("explain --in up0 --from 10.0.0.2 {words}"));
        cases.push(Case {
            reason,
            ethertype,
            packet,
            stage,
            explained,
        });
    };
    let mut bad_sum = v4();
    bad_sum[10] ^= 0x55;
    add("bad_checksum", 0x0800, bad_sum, "receive", None);
    add("bad_version", 0x0800, with(v4(), &[(0, 0x55)]), "receive", None);
    add(
        "bad_header_length",
        0x0800,
        with(v4(), &[(0, 0x44)]),
        "receive",
        None,
    );
    add(
        "bad_total_length",
        0x0800,
        with(v4(), &[(2, 0), (3, 19)]),
        "receive",
        None,
    );
    add(
        "truncated",
        0x0800,
        with(v4(), &[(2, 4), (3, 0)]),
        "receive",
        None,
    );
    // A later fragment: else its sender would be answered.
    let bad_options = with(options(&[7, 40, 4, 0]), &[(7, 9)]);
    add("bad_options", 0x0800, bad_options, "ttl", None);
    let chained = ipv6(U6, A6, 64, 60, &[&chain[..], &udp(None, 1, 2, b"")].concat());
    add("extension_chain", 0x86dd, chained, "ingress_acl", None);
    add(
        "transport_truncated",
        0x0800,
        ipv4(U4, A4, 64, 17, &[0, 1, 0, 2]),
        "ingress_acl",
        None,
    );
    let tiny = with(ipv4(U4, A4, 64, 6, &[0; 24]), &[(7, 1)]);
    add("tiny_fragment", 0x0800, tiny, "ingress_acl", None);
    add(
        "source_route",
        0x0800,
        options(&[131, 7, 4, 10, 0, 0, 9, 0]),
        "addresses",
        None,
    );
    add("martian_source", 0x0800, from([224, 0, 0, 1]), "addresses", None);
    let nowhere = ipv4(U4, Ipv4Addr::new(240, 0, 0, 1), 64, 17, &udp(None, 9, 4242, b""));
    add(
        "martian_destination",
        0x0800,
        nowhere,
        "addresses",
        Some("--to 240.0.0.1 --proto udp --sport 9 --dport 4242"),
    );
    add("link_local", 0x0800, from([169, 254, 7, 7]), "addresses", None);
    let to_port = |port| ipv4(U4, A4, 64, 17, &udp(None, 9, port, b""));
    add(
        "acl_ingress",
        0x0800,
        to_port(7),
        "ingress_acl",
        Some("--to 10.65.0.2 --proto udp --sport 9 --dport 7"),
    );
    add(
        "acl_reject_ingress",
        0x0800,
        error_to(A4.octets(), 64, 13, 20),
        "ingress_acl",
        Some("--to 10.65.0.2 --icmp 3/13"),
    );
    add(
        "ttl_exceeded",
        0x0800,
        error_to(A4.octets(), 1, 1, 20),
        "ttl",
        Some("--to 10.65.0.2 --icmp 3/1 --ttl 1"),
    );
    add(
        "no_route",
        0x0800,
        error_to([192, 0, 2, 1], 64, 1, 20),
        "route",
        Some("--to 192.0.2.1 --icmp 3/1"),
    );
    add(
        "blackhole",
        0x0800,
        error_to([198, 51, 100, 1], 64, 1, 20),
        "route",
        Some("--to 198.51.100.1 --icmp 3/1"),
    );
    add(
        "unreachable",
        0x0800,
        error_to([198, 51, 100, 17], 64, 1, 20),
        "route",
        Some("--to 198.51.100.17 --icmp 3/1"),
    );
    add(
        "prohibit",
        0x0800,
        error_to([198, 51, 100, 33], 64, 1, 20),
        "route",
        Some("--to 198.51.100.33 --icmp 3/1"),
    );
    let off = error_to([198, 51, 100, 49], 64, 1, 20);
    add(
        "egress_not_a_port",
        0x0800,
        off,
        "next_hop",
        Some("--to 198.51.100.49 --icmp 3/1"),
    );
    let down = error_to([10, 65, 0, 3], 64, 1, 20);
    add(
        "egress_down",
        0x0800,
        down,
        "next_hop",
        Some("--to 10.65.0.3 --icmp 3/1"),
    );
    let large = with(error_to(A4.octets(), 64, 1, 1300), &[(6, 0x40)]);
    add(
        "mtu_exceeded",
        0x0800,
        large,
        "mtu",
        Some("--to 10.65.0.2 --icmp 3/1 --length 1324"),
    );
    add(
        "acl_egress",
        0x0800,
        to_port(1000),
        "egress_acl",
        Some("--to 10.65.0.2 --proto udp --sport 9 --dport 1000"),
    );
    add(
        "acl_reject_egress",
        0x0800,
        error_to(A4.octets(), 64, 10, 20),
        "egress_acl",
        Some("--to 10.65.0.2 --icmp 3/10"),
    );
    cases
}

/// What tshark reads in a file: interface, comment and length of each packet. That it says nothing else is checked.
pub fn tshark(file: &Path) -> Vec<(String, String, usize)> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file);
    for field in ["frame.interface_name", "frame.comment", "frame.len"] {
        command.args(["-e", field]);
    }
    let done = finish(command.args(["-T", "fields", "-E", "separator=|"]));
    let complaints: Vec<&str> = done
        .err
        .lines()
        .filter(|line| !line.contains("Running as user"))
        .collect();
    assert!(
        done.code == 0 && complaints.is_empty(),
        "tshark reads it cleanly: {done:?}"
    );
    let row = |line: &str| {
        let fields: Vec<&str> = line.split('|').collect();
        let length = fields[2].parse().expect("a length");
        (fields[0].to_owned(), fields[1].to_owned(), length)
    };
    done.out.lines().map(row).collect()
}

/// A program of the lab that runs `margay` with these words until it is told to end.
pub fn background(margay: &Margay, name: &str, words: &str) -> Arc<tests::host::Program> {
    let line = format!(
        "{} --socket {} {words}",
        program("margay").display(),
        margay.socket().display()
    );
    margay.host().spawn(name, &line)
}

#[test]
fn every_drop_is_explained_traced_captured_and_kept() {
    let Some((net, a, b, margay)) = build("watch", "") else {
        return;
    };
    net.r.sh("ip link set cali-a mtu 1280");
    // Without carrier the route stays, and leads nowhere.
    b.sh("ip link set eth0 down");
    wait_for("b is out of reach", LIMIT, || !net.u.pings("10.65.0.3"));
    let file = margay.host().directory().join("drops.pcapng");
    let words = format!("capture --port up0 --at rx,drop -w {}", file.display());
    let capture = background(&margay, "capture", &words);
    let trace = background(&margay, "trace", "-j trace -n 0");
    wait_for("both watch", LIMIT, || {
        file.exists() && trace.log().contains("\"begin\"")
    });
    let wire = Wire::open(&net.u, "r0");
    let (router, host) = (net.r.mac("up0"), net.u.mac("r0"));
    let cases = cases();
    for case in &cases {
        let before = margay.drops(case.reason);
        wire.send(&ethernet(router, host, case.ethertype, &case.packet));
        wait_for(&format!("a packet is dropped as {}", case.reason), LIMIT, || {
            let now = margay.drops(case.reason);
            if now == before + 1 {
                Ok(())
            } else {
                Err(format!("{before}, {now}: {}", margay.json("drops")))
            }
        });
        let last = margay.json("drops last 1");
        assert_eq!(list(&last, "packets")[0]["reason"], case.reason, "{last}");
        assert_eq!(list(&last, "packets")[0]["port"], "up0");
        if let Some(words) = &case.explained {
            let said = margay.json(words);
            assert_eq!(
                (&said["verdict"], &said["reason"]),
                (&"drop".into(), &case.reason.into()),
                "{words}: {said}"
            );
            let rule = if case.stage == "egress_acl" {
                &said["egress_rule"]
            } else {
                &said["ingress_rule"]
            };
            if case.reason.starts_with("acl_") {
                assert_eq!(&list(&last, "packets")[0]["rule"], rule, "the same rule");
                assert_eq!(rule["line"].as_u64().is_some(), rule["index"] != -1, "{rule}");
            }
        }
    }
    wait_for("all of them are traced", LIMIT, || {
        let lines = trace.log().lines().count();
        if lines > cases.len() {
            Ok(())
        } else {
            Err(format!("{lines} lines"))
        }
    });
    let lines = schema::check_lines("trace", &trace.log());
    trace.end();
    for (line, case) in lines[1..].iter().zip(&cases) {
        assert_eq!(
            (&line["verdict"], &line["reason"], &line["port"]),
            (&"drop".into(), &case.reason.into(), &"up0".into()),
            "{line}"
        );
        let stages = list(line, "stages");
        let last = stages.last().expect("a stage");
        assert_eq!(
            (&last["stage"], &last["result"]),
            (&case.stage.into(), &"stop".into()),
            "{line}"
        );
        assert!(
            stages[..stages.len() - 1]
                .iter()
                .all(|stage| stage["result"] == "pass")
        );
    }
    capture.signal(libc::SIGINT);
    wait_for("the capture ends", LIMIT, || capture.exited());
    let log = capture.log();
    assert!(
        log.contains(&format!("{} packets captured, 0 lost", 2 * cases.len())),
        "{log}"
    );
    let seen = tshark(&file);
    assert_eq!(seen.len(), 2 * cases.len(), "{seen:#?}");
    for (pair, case) in seen.chunks(2).zip(&cases) {
        for ((interface, comment, length), at) in pair.iter().zip(["rx", "drop"]) {
            assert_eq!(interface, "up0");
            let begin = format!("at={at} verdict=drop reason={}", case.reason);
            assert!(comment.starts_with(&begin), "{comment:?} and not {begin:?}");
            assert_eq!(
                comment.contains("_rule="),
                case.reason.starts_with("acl_") || (at == "rx" && comment.contains("edge default allow")),
                "{comment}"
            );
            assert_eq!(*length, case.packet.len() + 14);
        }
    }
    let rules: BTreeMap<&str, &str> = seen
        .iter()
        .filter(|(_, comment, _)| comment.contains("at=drop"))
        .filter_map(|(_, comment, _)| comment.split_once("reason=")?.1.split_once(' '))
        .collect();
    assert!(
        rules["acl_ingress"].starts_with("ingress_rule=edge rule 0 deny ("),
        "{rules:?}"
    );
    assert!(
        rules["acl_egress"].contains("egress_rule=to-a rule 1 deny ("),
        "{rules:?}"
    );
    // The source that is not the workload's comes from the other side.
    let spoofed = ipv4(Ipv4Addr::new(10, 65, 0, 9), U4, 64, 17, &udp(None, 1, 2, b""));
    Wire::open(&a, "eth0").send(&ethernet(net.r.mac("cali-a"), a.mac("eth0"), 0x0800, &spoofed));
    wait_for("it is dropped as spoofed", LIMIT, || {
        margay.drops("spoofed_source") == 1
    });
    let said = margay.json("explain --in cali-a --from 10.65.0.9 --to 10.0.0.2 --proto udp");
    assert_eq!(
        (&said["reason"], &said["anti_spoofing"]["passes"]),
        (&"spoofed_source".into(), &false.into())
    );
    let kept = margay.json("drops last 5 src host 10.65.0.9");
    assert_eq!(list(&kept, "packets").len(), 1);
    margay.check_sums();
}

#[test]
fn waiting_and_limits_are_seen_as_well() {
    let Some((net, _a, _b, margay)) = build("watchwait", "[icmp]\nrate = 1\nburst = 1\n") else {
        return;
    };
    let wire = Wire::open(&net.u, "r0");
    let (router, host) = (net.r.mac("up0"), net.u.mac("r0"));
    let trace = background(
        &margay,
        "trace",
        "-j trace -n 0 dst host 10.0.0.77 or dst host 10.0.0.78 or dst host 10.65.0.2",
    );
    wait_for("it watches", LIMIT, || trace.log().contains("\"begin\""));
    let send = |to: Ipv4Addr, ttl, protocol, bytes: &[u8]| {
        wire.send(&ethernet(
            router,
            host,
            0x0800,
            &ipv4(U4, to, ttl, protocol, bytes),
        ));
    };
    let lost = Ipv4Addr::new(10, 0, 0, 77);
    send(lost, 64, 1, &icmp(3, 1, &[0; 20]));
    let said = margay.json("explain --in up0 --from 10.0.0.2 --to 10.0.0.77 --icmp 3/1");
    assert_eq!(
        (
            &said["verdict"],
            &said["neighbour"]["address"],
            &said["neighbour"]["dev"]
        ),
        (&"forward".into(), &"10.0.0.77".into(), &"up0".into())
    );
    wait_for("its neighbour does not turn up", LIMIT, || {
        margay.drops("neighbour_unresolved") == 1
    });
    for _ in 0..20 {
        send(Ipv4Addr::new(10, 0, 0, 78), 64, 1, &icmp(3, 1, &[0; 20]));
    }
    wait_for("too many wait", LIMIT, || margay.drops("hold_full") == 12);
    for _ in 0..5 {
        send(A4, 1, 17, &udp(None, 1, 2, b""));
    }
    wait_for("answers are limited", LIMIT, || {
        margay.drops("icmp_rate_limited") >= 1
    });
    let ends = || {
        let lines = schema::check_lines("trace", &trace.log());
        let of = |line: &Value| {
            let word = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
            (word("event"), word("verdict"), word("reason"))
        };
        lines.iter().map(of).collect::<Vec<_>>()
    };
    for (event, verdict, reason) in [
        ("packet", "hold", "-"),
        ("released", "drop", "neighbour_unresolved"),
        ("packet", "drop", "hold_full"),
        ("packet", "reply", "ttl_exceeded"),
        ("packet", "drop", "icmp_rate_limited"),
    ] {
        let wanted = (event.to_owned(), verdict.to_owned(), reason.to_owned());
        wait_for(&format!("{wanted:?} is traced"), LIMIT, || {
            let ends = ends();
            if ends.contains(&wanted) {
                Ok(())
            } else {
                Err(format!("{ends:?}"))
            }
        });
    }
    trace.end();
    let kept = margay.json("drops last 100 dst host 10.0.0.78");
    assert!(
        list(&kept, "packets")
            .iter()
            .filter(|row| row["reason"] == "hold_full")
            .count()
            == 12,
        "{kept}"
    );
    margay.check_sums();
}

/// `--expect` and `--cases` for scripts, and what explain tells besides the verdict.
#[test]
fn explain_is_for_scripts_too() {
    let Some((net, _a, _b, margay)) = build("watchcases", "") else {
        return;
    };
    let flow = "explain --in up0 --from 10.0.0.2 --to 10.65.0.2 --proto udp --dport";
    for (port, expect, code) in [
        (53, "allow", 0),
        (53, "deny", 7),
        (7, "deny", 0),
        (7, "allow", 7),
        (1000, "deny", 0),
    ] {
        let done = margay.run(&format!("{flow} {port} --expect {expect}"));
        assert_eq!(done.code, code, "{port} {expect}: {done:?}");
    }
    let said = margay.json(&format!("{flow} 53"));
    assert_eq!(said["neighbour"]["address"], "10.65.0.2", "{said}");
    assert_eq!(said["neighbour"]["dev"], "cali-a");
    assert!(
        ["reachable", "stale", "delay", "probe", "permanent"]
            .contains(&said["neighbour"]["state"].as_str().unwrap_or("")),
        "{said}"
    );
    assert_eq!(
        (&said["mtu"], &said["anti_spoofing"]["mode"], &said["member"]),
        (&1500.into(), &"off".into(), &Value::Null)
    );
    // The rule that would have let it through differs in one field.
    let near = &margay.json(&format!("{flow} 1000"))["nearest_allow"];
    assert_eq!(
        (&near["acl"], &near["differs"]),
        (&"to-a".into(), &serde_json::json!(["dport"])),
        "{near}"
    );
    let text = margay.run(&format!("{flow} 1000")).out;
    for word in [
        "drop: acl_egress",
        "to-a rule 1 deny (",
        "but for dport",
        "neighbour     10.65.0.2 dev cali-a",
        "MTU           1500",
    ] {
        assert!(text.contains(word), "{word:?} in {text}");
    }
    // Two ways to one prefix: each flow keeps to its member, and both members are used.
    net.r
        .sh("ip route add 198.51.100.128/25 nexthop via 10.0.0.2 nexthop via 10.65.0.3 dev cali-b onlink");
    margay.mirrors_kernel();
    let member = |port: u16| {
        let said = margay.json(&format!(
            "explain --in up0 --from 10.0.0.2 --to 198.51.100.129 --proto udp --sport {port}"
        ));
        assert_eq!(said["member"]["of"], 2, "{said}");
        (
            said["member"]["number"].as_u64(),
            said["egress_port"].as_str().map(str::to_owned),
        )
    };
    let seen: std::collections::BTreeSet<_> = (1..40).map(member).collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(member(7), member(7));

    let file = margay.host().directory().join("policy.cases");
    let good = "# what the policy is\n--from 10.0.0.2 --to 10.65.0.2 --in up0 --proto udp --dport 53 --expect allow\n\
                --from 10.0.0.2 --to 10.65.0.2 --in up0 --proto udp --dport 7 --expect deny\n";
    std::fs::write(&file, good).expect("the lab's directory can be written");
    let words = format!("explain --cases {}", file.display());
    let answer = margay.json(&words);
    assert_eq!((&answer["missed"], list(&answer, "cases").len()), (&0.into(), 2));
    std::fs::write(&file, format!("{good}{}", good.replace("deny", "allow"))).expect("written");
    let done = margay.run(&words);
    assert_eq!(done.code, 7, "{done:?}");
    assert!(
        done.out
            .contains("policy.cases:6: not as expected: drop: acl_ingress")
            && done.out.contains("4 cases, 1 not as expected"),
        "{done:?}"
    );
    std::fs::write(&file, "--from 10.0.0.2 --expect deny\n").expect("written");
    let done = margay.run(&words);
    assert!(done.code == 2 && done.err.contains("policy.cases:1:"), "{done:?}");
}

/// The filter of both commands, limits, the snap length, an answer at tx, and a pipe to tshark.
#[test]
fn captures_are_limited_filtered_and_piped() {
    let Some((net, _a, _b, margay)) = build("capture", "") else {
        return;
    };
    for command in ["trace", "capture --at rx -w /dev/null", "drops last 3"] {
        let done = margay.run(&format!("{command} host 10.0.0.2 and prot 80"));
        assert_eq!(done.code, 2, "{done:?}");
        assert!(
            done.err
                .contains("host 10.0.0.2 and prot 80\n                    ^^^^")
                && done.err.contains("`proto`"),
            "{}",
            done.err
        );
        let done = margay.run(&format!("-j {command} host 10.0.0.2 and prot 80"));
        assert!(
            done.code == 2 && done.err.contains("character 19"),
            "{}",
            done.err
        );
    }
    assert_eq!(margay.run("capture --at rx --port nosuch -w /dev/null").code, 3);
    assert_eq!(margay.run("capture --at nowhere -w /dev/null").code, 2);

    let wire = Wire::open(&net.u, "r0");
    let (router, host) = (net.r.mac("up0"), net.u.mac("r0"));
    let send = |ttl, port| {
        let packet = ipv4(U4, A4, ttl, 17, &udp(None, 9, port, &[7; 400]));
        wire.send(&ethernet(router, host, 0x0800, &packet));
    };
    // The limit ends it; what the filter does not match does not count.
    let file = margay.host().directory().join("limited.pcapng");
    let capture = background(
        &margay,
        "limited",
        &format!(
            "capture --port cali-a --at tx -c 3 -S 100 -w {} udp and dst port 53",
            file.display()
        ),
    );
    wait_for("it captures", LIMIT, || {
        send(64, 54);
        send(64, 53);
        capture.exited()
    });
    assert_eq!(capture.exited(), Some(0), "{}", capture.log());
    let seen = tshark(&file);
    assert_eq!(seen.len(), 3, "{seen:?}");
    for (interface, comment, length) in &seen {
        assert_eq!(
            (interface.as_str(), *length),
            ("cali-a", 442),
            "the whole length is told"
        );
        assert_eq!(
            comment,
            "at=tx verdict=forward ingress_rule=edge default allow egress_rule=to-a default allow"
        );
    }
    let bytes = std::fs::metadata(&file).expect("the file is there").len();
    assert!(
        bytes < 3 * 300 + 500,
        "100 bytes of each packet are kept: {bytes}"
    );

    // An answer leaves by the port that its cause came in by; tshark reads it from a pipe.
    let out = margay.host().directory().join("piped");
    let line = format!(
        "sh -c '{} --socket {} capture --port up0 --at rx,tx -c 2 -w - icmp or udp | tshark -r - -T fields -e frame.interface_name -e frame.comment -e ip.src >{}'",
        program("margay").display(),
        margay.socket().display(),
        out.display()
    );
    let piped = margay.host().spawn("piped", &line);
    wait_for("tshark has read two packets", LIMIT, || {
        send(1, 53);
        std::thread::sleep(Duration::from_millis(300));
        piped.exited()
    });
    let read = std::fs::read_to_string(&out).expect("what tshark printed");
    let rows: Vec<&str> = read.lines().collect();
    assert!(
        rows.len() == 2
            && rows[0].starts_with("up0\tat=rx verdict=reply reason=ttl_exceeded")
            && rows[0].ends_with("10.0.0.2"),
        "{read}"
    );
    assert!(
        rows[1].starts_with("up0\tat=tx verdict=reply reason=ttl_exceeded")
            && rows[1].contains("originated\t10.0.0.1"),
        "{read}"
    );

    // What is forwarded, stage by stage.
    let trace = background(&margay, "trace", "trace -n 1 udp and dst port 2000");
    wait_for("one packet is traced", LIMIT, || {
        send(64, 2000);
        trace.exited()
    });
    let log = trace.log();
    for word in [
        "udp 10.0.0.2:9 > 10.65.0.2:2000",
        "ingress_acl  edge default allow",
        "ttl          64, leaves as 63",
        "route        10.65.0.2/32 table 254",
        "next_hop     via 10.65.0.2 at ",
        "egress_acl   to-a rule 0 allow (",
        "send         to the TX ring of cali-a",
        "= forward",
    ] {
        assert!(log.contains(word), "{word:?} in {log}");
    }
    // Seconds in which something was dropped.
    let watch = background(&margay, "watch", "-j drops watch");
    wait_for("drops are told", LIMIT, || {
        send(64, 7);
        std::thread::sleep(Duration::from_millis(100));
        watch.log().contains("acl_ingress")
    });
    watch.end();
    let lines = schema::check_lines("drops watch", &watch.log());
    let row = list(&lines[0], "drops")
        .iter()
        .find(|row| row["reason"] == "acl_ingress")
        .expect("it is there");
    assert!(
        row["rate"].as_f64() > Some(0.0)
            && row["top_source"]["address"] == "10.0.0.2"
            && row["last"]["rule"]["acl"] == "edge",
        "{row}"
    );
    let drops = margay.json("drops");
    let row = list(&drops, "drops")
        .iter()
        .find(|row| row["reason"] == "acl_ingress")
        .expect("it is there");
    assert_eq!(row["top_source"]["address"], "10.0.0.2", "{row}");
    let text = margay.run("drops last 1 -x").out;
    assert!(
        text.contains("up0 acl_ingress by edge rule 0 deny (") && text.contains("\n  0x0000:  "),
        "{text}"
    );
    margay.check_sums();
}

/// Datagrams with sequence numbers, sent as evenly as a busy machine lets them, for as long as `time`; how many.
pub fn flood(from: &Host, to: Ipv4Addr, rate: u64, time: Duration) -> u64 {
    let socket = from
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("a UDP port is free");
    let begun = Instant::now();
    let mut sent = 0_u64;
    while begun.elapsed() < time {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        while sent < due {
            socket
                .send_to(&sent.to_be_bytes(), (to, 5353))
                .expect("the link is up");
            sent += 1;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    sent
}

/// 20,000 packets a second, captured for a client that does not read for seconds: its ring overflows, and the losses are counted to
/// the packet; the data path loses none, and every sequence number arrives.
#[test]
fn a_capture_loses_its_own_packets_only() {
    let Some((net, a, _b, margay)) = build("capflood", "") else {
        return;
    };
    let receiver = a
        .enter(|| UdpSocket::bind("0.0.0.0:5353"))
        .expect("a UDP port is free");
    receiver
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a time limit can be set");
    let file = margay.host().directory().join("flood.pcapng");
    let line = format!(
        "sh -c '{} --socket {} capture --port up0 --at rx -w - udp and dst port 5353 | (sleep 6; cat >{})'",
        program("margay").display(),
        margay.socket().display(),
        file.display()
    );
    let capture = margay.host().spawn("capture", &line);
    wait_for("it has begun", LIMIT, || capture.log().contains("capturing"));
    let before = margay.port("cali-a", "tx_packets");
    let (sent, received) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            let mut buffer = [0; 8];
            while receiver.recv(&mut buffer).is_ok() {
                assert!(seen.insert(u64::from_be_bytes(buffer)), "no packet comes twice");
            }
            seen.len() as u64
        });
        let sent = flood(&net.u, A4, 20_000, Duration::from_secs(4));
        (sent, reading.join().expect("the receiver does not panic"))
    });
    assert!(sent > 40_000, "only {sent} packets were sent");
    let missed = margay.drops("rx_no_frame") + margay.drops("rx_ring_full");
    let forwarded = margay.port("cali-a", "tx_packets") - before;
    assert!(
        forwarded + missed >= sent,
        "{forwarded} of {sent} forwarded, {missed} never received"
    );
    // What the receiver's own socket had no room for, the kernel counts there.
    let full: u64 = {
        let snmp = a.sh("grep ^Udp: /proc/net/snmp | tail -1");
        snmp.split_whitespace()
            .nth(5)
            .and_then(|count| count.parse().ok())
            .expect("RcvbufErrors")
    };
    assert!(
        received + full + missed >= sent,
        "{received} of {sent} arrived, {full} met a full socket, {missed} were never received"
    );
    // Losses are told at most once a second: when no more are told, all that was kept has been read.
    let mut last = (String::new(), Instant::now());
    wait_for("its client catches up", LIMIT, || {
        let log = capture.log();
        if log != last.0 {
            last = (log, Instant::now());
        }
        file.exists() && last.0.contains("lost so far") && last.1.elapsed() > Duration::from_secs(3)
    });
    let client = program("margay").canonicalize().expect("it runs");
    margay.host().sh(&format!(
        "for p in $(ip netns pids {}); do [ \"$(readlink /proc/$p/exe)\" != {} ] || kill -INT $p; done",
        margay.host().netns(),
        client.display()
    ));
    wait_for("the capture ends", LIMIT, || capture.exited());
    let log = capture.log();
    let summary = log
        .lines()
        .find(|line| line.contains("packets captured"))
        .unwrap_or_else(|| panic!("{log}"));
    let numbers: Vec<u64> = summary
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect();
    let seen = tshark(&file).len() as u64;
    assert_eq!(numbers[0], seen, "{summary}");
    assert!(numbers[1] > 0, "its ring was full: {summary}");
    assert_eq!(
        numbers[0] + numbers[1] + missed,
        sent,
        "every packet is captured or counted as lost: {summary}, {missed} never received"
    );
    margay.check_sums();
}
