//! Why a packet did not arrive: every reason that a worker drops for is caused, then explained, traced, captured and found
//! among the last drops. The capture is read back by tshark, which is no program of ours.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a ┐
//!                         ├─ r (margayd, up0 with list edge, cali-a with list to-a) up0 ── r0 u 10.0.0.2
//!   b 10.65.0.3 ── cali-b ┘                                                             (u sends)
//! ```

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

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
[icmp]
rate = 1
burst = 1
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

const U4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const A4: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const U6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, 0, 2);

fn build(name: &str) -> Option<(Node, Host, Host, Arc<Margay>)> {
    let net = node(name)?;
    let (a, b) = (net.container("a", 2), net.container("b", 3));
    net.r
        .sh("ip route del default; ip route add 203.0.113.0/24 via 10.0.0.2
          ip route add blackhole 198.51.100.0/28; ip route add unreachable 198.51.100.16/28
          ip route add prohibit 198.51.100.32/28
          ip link add nop0 type veth peer name nop1; ip link set nop0 up; ip link set nop1 up
          ip route add 198.51.100.48/28 dev nop0");
    let margay = Margay::start_with(&net.lab, &net.r, PORTS, &[("edge", EDGE), ("a", TO_A)]);
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
    add("bad_options", 0x0800, options(&[7, 40, 4, 0]), "receive", None);
    let chained = ipv6(U6, A6, 64, 60, &[&chain[..], &udp(None, 1, 2, b"")].concat());
    add("extension_chain", 0x86dd, chained, "receive", None);
    add(
        "transport_truncated",
        0x0800,
        ipv4(U4, A4, 64, 17, &[0, 1, 0, 2]),
        "receive",
        None,
    );
    let tiny = with(ipv4(U4, A4, 64, 6, &[0; 24]), &[(7, 1)]);
    add("tiny_fragment", 0x0800, tiny, "receive", None);
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
fn tshark(file: &Path) -> Vec<(String, String, usize)> {
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
fn background(margay: &Margay, name: &str, words: &str) -> Arc<tests::host::Program> {
    let line = format!(
        "{} --socket {} {words}",
        program("margay").display(),
        margay.socket().display()
    );
    margay.host().spawn(name, &line)
}

#[test]
fn every_drop_is_explained_traced_captured_and_kept() {
    let Some((net, a, b, margay)) = build("watch") else {
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
                case.stage.ends_with("_acl") || (at == "rx" && comment.contains("edge default allow")),
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
    let Some((net, _a, _b, margay)) = build("watchwait") else {
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
