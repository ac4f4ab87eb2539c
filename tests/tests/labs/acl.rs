//! Access lists: a deny in each direction, counted as a drop and by its rule; reject answers; a bad file changes nothing; a missing list
//! denies; a list that is exchanged under traffic judges every packet whole; a source that is not the workload's is dropped
//! before any list.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a (ingress from-a) ┐
//!                                          ├─ r (margayd) up0 ── u 203.0.113.1
//!   b 10.65.0.3 ── cali-b (egress to-b)    ┘
//! ```

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tests::margay::list;
use tests::raw::{Wire, ethernet, ipv4, ipv6, udp};
use tests::{Host, LIMIT, Margay, wait_for};

use crate::common::{Node, node};

const PORTS: &str = r#"
[[port]]
name = "up0"
role = "uplink"
[[port]]
name = "cali-a"
role = "workload"
acl = { ingress = "from-a" }
[[port]]
name = "cali-b"
role = "workload"
acl = { egress = "to-{port}" }
"#;

const FROM_A: &str = r#"
[sets.far]
prefixes = ["203.0.113.0/24", "2001:db8:113::/48"]
[[acl]]
name = "from-a"
default = "allow"
[[acl.rule]]
action = "deny"
proto = "udp"
dst = ["@far"]
dport = [7]
[[acl.rule]]
action = "reject"
proto = "udp"
dst = ["@far"]
dport = ["8-9"]
"#;

const TO_B: &str = r#"
[sets.a]
prefixes = ["10.65.0.2", "fd65::2"]
[[acl]]
name = "to-cali-b"
default = "deny"
[[acl.rule]]
action = "allow"
proto = "icmp"
[[acl.rule]]
action = "allow"
proto = "icmpv6"
[[acl.rule]]
action = "deny"
proto = "udp"
dport = [1000]
[[acl.rule]]
action = "allow"
proto = "udp"
src = ["@a"]
"#;

const A4: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, 0, 2);

fn build(name: &str) -> Option<(Node, Host, Host, Arc<Margay>)> {
    let net = node(name)?;
    let (a, b) = (net.container("a", 2), net.container("b", 3));
    let margay = Margay::start_with(&net.lab, &net.r, PORTS, &[("a", FROM_A), ("b", TO_B)]);
    for port in ["up0", "cali-a", "cali-b"] {
        margay.has_port(port);
    }
    for address in ["203.0.113.1", "2001:db8:113::1", "10.65.0.3", "fd65::3"] {
        a.reaches(address);
    }
    Some((net, a, b, margay))
}

/// Sends `count` datagrams of each family from container a to a port of `to4` and `to6`.
fn send(net: &Node, a: &Host, to4: &str, to6: &str, port: u16, count: usize) {
    let wire = Wire::open(a, "eth0");
    let (router, host) = (net.r.mac("cali-a"), a.mac("eth0"));
    let (to4, to6) = (to4.parse().expect("an address"), to6.parse().expect("an address"));
    for _ in 0..count {
        wire.send(&ethernet(
            router,
            host,
            0x0800,
            &ipv4(A4, to4, 64, 17, &udp(None, 5000, port, b"acl")),
        ));
        let datagram = udp(Some((A6, to6)), 5000, port, b"acl");
        wire.send(&ethernet(router, host, 0x86dd, &ipv6(A6, to6, 64, 17, &datagram)));
    }
}

/// Packets that a rule of a list has matched; the last index is the default's.
fn hits(margay: &Margay, name: &str, index: i64) -> u64 {
    let shown = margay.json(&format!("-s acl show {name}"));
    let lists = list(&shown, "lists");
    let rules = list(
        lists
            .iter()
            .find(|list| list["name"] == name)
            .expect("the list is shown"),
        "rules",
    );
    let rule = rules
        .iter()
        .find(|rule| rule["index"] == index)
        .unwrap_or_else(|| panic!("no rule {index}: {shown}"));
    rule["packets"].as_u64().expect("a count")
}

#[track_caller]
fn counted(margay: &Margay, reason: &str, acl: &str, rule: i64, packets: u64, act: impl FnOnce()) {
    let before = (margay.drops(reason), hits(margay, acl, rule));
    act();
    wait_for(
        &format!("{packets} packets count as {reason}, by rule {rule} of {acl}"),
        LIMIT,
        || {
            let now = (margay.drops(reason), hits(margay, acl, rule));
            let more = (now.0 - before.0, now.1 - before.1);
            if more == (packets, packets) {
                Ok(())
            } else {
                Err(format!("{more:?}"))
            }
        },
    );
}

#[test]
fn denies_are_counted() {
    let Some((net, a, _b, margay)) = build("acl") else {
        return;
    };
    counted(&margay, "acl_ingress", "from-a", 0, 40, || {
        send(&net, &a, "203.0.113.1", "2001:db8:113::1", 7, 20)
    });
    counted(&margay, "acl_egress", "to-cali-b", 2, 30, || {
        send(&net, &a, "10.65.0.3", "fd65::3", 1000, 15)
    });
    // What a rule allows gets through, next to what the default denies.
    let tx = margay.port("cali-b", "tx_packets");
    send(&net, &a, "10.65.0.3", "fd65::3", 1001, 10);
    wait_for("what is allowed gets through", LIMIT, || {
        margay.port("cali-b", "tx_packets") >= tx + 20
    });
    counted(&margay, "acl_egress", "to-cali-b", -1, 5, || {
        let wire = Wire::open(&net.u, "r0");
        let packet = ipv4(
            Ipv4Addr::new(10, 0, 0, 2),
            Ipv4Addr::new(10, 65, 0, 3),
            64,
            17,
            &udp(None, 1, 1001, b""),
        );
        for _ in 0..5 {
            wire.send(&ethernet(net.r.mac("up0"), net.u.mac("r0"), 0x0800, &packet));
        }
    });
    margay.check_sums();
}

#[test]
fn reject_answers() {
    let Some((net, a, _b, margay)) = build("reject") else {
        return;
    };
    let replied = margay.port("cali-a", "replied");
    let wire = Wire::open(&a, "eth0");
    send(&net, &a, "203.0.113.1", "2001:db8:113::1", 9, 3);
    // ICMP type 3 code 13 (RFC 1812 5.2.7.1) and ICMPv6 type 1 code 1 (RFC 4443 3.1): communication administratively prohibited.
    let (mut four, mut six) = (0, 0);
    wire.find(LIMIT, |frame| {
        four += usize::from(frame[12..14] == [8, 0] && frame[23] == 1 && frame[34..36] == [3, 13]);
        six += usize::from(frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54..56] == [1, 1]);
        four >= 3 && six >= 3
    })
    .unwrap_or_else(|| panic!("{four} and {six} answers of 3 each"));
    assert!(margay.port("cali-a", "replied") >= replied + 6);
    assert_eq!(margay.drops("acl_ingress"), 0);
    margay.check_sums();
}

#[test]
fn a_bad_file_changes_nothing() {
    let Some((net, a, _b, margay)) = build("badacl") else {
        return;
    };
    counted(&margay, "acl_ingress", "from-a", 0, 4, || {
        send(&net, &a, "203.0.113.1", "2001:db8:113::1", 7, 2)
    });
    for bad in [
        "this is not TOML",
        "[[acl]]\nname = \"from-a\"\ndefault = \"perhaps\"\n",
        "[[acl]]\nname = \"from-a\"\ndefault = \"allow\"\n[[acl.rule]]\naction = \"deny\"\nsrc = [\"10.0.0.1/8\"]\n",
    ] {
        margay.write_acl("a", bad);
        let done = margay.run("-j acl reload");
        assert_eq!(done.code, 6, "{done:?}");
        assert!(
            done.err.contains("a.toml") || done.out.contains("a.toml"),
            "the file is named: {done:?}"
        );
        // SIGHUP reads the same files.
        margay.process().signal(libc::SIGHUP);
        counted(&margay, "acl_ingress", "from-a", 0, 4, || {
            send(&net, &a, "203.0.113.1", "2001:db8:113::1", 7, 2)
        });
        a.reaches("203.0.113.1");
    }
    // A good one is taken, first by the command, then by the signal.
    margay.write_acl("a", &FROM_A.replace("dport = [7]", "dport = [77]"));
    assert_eq!(margay.run("acl reload").code, 0);
    counted(&margay, "acl_ingress", "from-a", 0, 4, || {
        send(&net, &a, "203.0.113.1", "2001:db8:113::1", 77, 2)
    });
    margay.write_acl("a", &FROM_A.replace("dport = [7]", "dport = [78]"));
    margay.process().signal(libc::SIGHUP);
    wait_for("the signal reloads the lists", LIMIT, || {
        let before = margay.drops("acl_ingress");
        send(&net, &a, "203.0.113.1", "2001:db8:113::1", 78, 1);
        wait_for("the packets have come in", LIMIT, || a.pings("203.0.113.1"));
        margay.drops("acl_ingress") > before
    });
    // A list that is gone denies, and says so.
    margay.write_acl("a", "");
    let done = margay.run("acl reload");
    assert_eq!(done.code, 0, "{done:?}");
    wait_for("a missing list denies", LIMIT, || !a.pings("203.0.113.1"));
    margay.write_acl("a", FROM_A);
    assert_eq!(margay.run("acl reload").code, 0);
    a.reaches("203.0.113.1");
    margay.check_sums();
}

/// The line of each kind of mistake is named, with exit code 6; the lists in use stay.
#[test]
fn mistakes_are_named_by_line() {
    let Some((net, a, _b, margay)) = build("badline") else {
        return;
    };
    let rule = |words: &str| {
        format!("[[acl]]\nname = \"from-a\"\ndefault = \"allow\"\n[[acl.rule]]\naction = \"deny\"\n{words}\n")
    };
    let set = |words: &str| format!("[sets.s]\n{words}\n[[acl]]\nname = \"from-a\"\ndefault = \"allow\"\n");
    // As many different pairs of port ranges as the memory limit cannot hold.
    let many: String = (0..6000)
        .map(|n| {
            format!(
                "[[acl.rule]]\naction = \"deny\"\nproto = \"tcp\"\nsport = [\"{n}-65535\"]\ndport = [\"0-{}\"]\n",
                n * 7 % 65536
            )
        })
        .collect();
    let cases = [
        ("unknown_set", 7, rule("src = [\"@nosuch\"]")),
        ("empty_set", 2, set("prefixes = []")),
        ("host_bits", 3, set("prefixes = [\"10.0.0.1/8\"]")),
        ("range_upside_down", 7, rule("dport = [\"90-80\"]")),
        ("host_bits", 7, rule("src = [\"10.0.0.1/8\"]")),
        (
            "mixed_families",
            5,
            rule("src = [\"10.0.0.0/8\"]\ndst = [\"2001:db8::/32\"]"),
        ),
        ("memory_limit", 2, rule("") + &many),
    ];
    for (code, line, text) in cases {
        margay.write_acl("a", &text);
        let done = margay.run("acl reload");
        assert_eq!(done.code, 6, "{code}: {done:?}");
        let place = format!("a.toml:{line}:");
        assert!(
            done.err.contains(&place) && done.err.contains(code),
            "{code}: {done:?}"
        );
        // `acl check` says the same without a daemon's help.
        let file = margay.config().with_file_name("acl.d").join("a.toml");
        let done = margay.run(&format!("acl check {}", file.display()));
        assert_eq!(done.code, 6, "{code}: {done:?}");
        let said = done.out.clone() + &done.err;
        assert!(said.contains(&place) && said.contains(code), "{code}: {done:?}");
        counted(&margay, "acl_ingress", "from-a", 0, 2, || {
            send(&net, &a, "203.0.113.1", "2001:db8:113::1", 7, 1)
        });
    }
    margay.write_acl("a", FROM_A);
    assert_eq!(margay.run("acl reload").code, 0);
    // A list bound to a device that is not there harms nothing, because the device may come: a warning. To a port that no
    // file has, it cannot be bound.
    margay.write_config(&format!(
        "{PORTS}[[port]]\nname = \"absent0\"\nrole = \"uplink\"\nacl = {{ ingress = \"from-a\" }}\n"
    ));
    let text = std::fs::read_to_string(margay.config()).expect("the configuration");
    let line = text.lines().position(|line| line.contains("absent0"));
    let line = line.expect("the port is in the file");
    margay.process().signal(libc::SIGHUP);
    wait_for(
        "a warning names file and line of a port without a device",
        LIMIT,
        || {
            let log = margay.process().log();
            log.lines().any(|said| {
                said.contains(&format!("margay.toml:{line}: port absent0 is not open"))
                    && said.contains("access lists")
            })
        },
    );
    assert_eq!(margay.run("port set nosuch --acl-ingress from-a").code, 3);
    margay.check_sums();
}

/// A list that lets one of the two ports through, denies the other, and rejects what neither rule knows. So many rules more
/// lie before them that nothing of one list's tables fits another's.
fn one_of(ports: [u16; 2], more: usize) -> String {
    let before: String = (0..more)
        .map(|n| {
            let (high, low) = (n / 250, n % 250);
            format!("[[acl.rule]]\naction = \"reject\"\ndst = [\"198.51.{high}.{low}\"]\nproto = \"udp\"\ndport = [{n}]\n")
        })
        .collect();
    let rule = |action: &str, port: u16| {
        format!(
            "[[acl.rule]]\naction = \"{action}\"\nproto = \"udp\"\ndst = [\"203.0.113.0/24\"]\ndport = [{port}]\n"
        )
    };
    format!(
        "[[acl]]\nname = \"from-a\"\ndefault = \"allow\"\n{before}{}{}\
         [[acl.rule]]\naction = \"reject\"\nproto = \"udp\"\n",
        rule("allow", ports[0]),
        rule("deny", ports[1])
    )
}

/// Numbered datagrams go in pairs to two ports; one list allows the first and denies the second, the other list the other way
/// round, so that each packet tells by arriving or not which list has judged it. A packet that a mixture judged would
/// arrive where the packets before and after it do not, or be rejected by the last rule.
#[test]
fn every_packet_is_judged_by_one_list() {
    const PORTS: [u16; 2] = [2000, 2001];
    const EXCHANGES: usize = 30;
    let Some((net, a, _b, margay)) = build("swap") else {
        return;
    };
    let (forth, back) = (PORTS, [PORTS[1], PORTS[0]]);
    margay.write_acl("a", &one_of(forth, 0));
    assert_eq!(margay.run("acl reload").code, 0);
    a.reaches("203.0.113.1");
    let (denied, replied) = (margay.drops("acl_ingress"), margay.port("cali-a", "replied"));
    let stop = Arc::new(AtomicBool::new(false));
    let receivers = PORTS.map(|port| {
        let socket = net.u.enter(|| UdpSocket::bind(("203.0.113.1", port)));
        let socket = socket.expect("a UDP port is free");
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .expect("a time limit can be set");
        let stop = stop.clone();
        std::thread::spawn(move || {
            let (mut seen, mut buffer) = (HashSet::new(), [0; 8]);
            loop {
                match socket.recv(&mut buffer) {
                    Ok(8) => {
                        seen.insert(u64::from_be_bytes(buffer));
                    }
                    Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
                    Err(_) if stop.load(Ordering::Relaxed) => return seen,
                    _ => {}
                }
            }
        })
    });
    let sent = Arc::new(AtomicU64::new(0));
    let sender = {
        let (stop, sent) = (stop.clone(), sent.clone());
        let socket = a
            .enter(|| UdpSocket::bind("0.0.0.0:0"))
            .expect("a UDP port is free");
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let number = sent.load(Ordering::Relaxed);
                for port in PORTS {
                    let to = ("203.0.113.1", port);
                    socket
                        .send_to(&number.to_be_bytes(), to)
                        .expect("the datagram leaves");
                }
                sent.store(number + 1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        })
    };
    for exchange in 1..=EXCHANGES {
        let ports = if exchange % 2 == 0 { forth } else { back };
        margay.write_acl("a", &one_of(ports, exchange % 3 * 400));
        assert_eq!(margay.run("acl reload").code, 0);
        let then = sent.load(Ordering::Relaxed);
        wait_for("the stream goes on", LIMIT, || {
            sent.load(Ordering::Relaxed) > then + 50
        });
    }
    stop.store(true, Ordering::Relaxed);
    sender.join().expect("the sender does not panic");
    let seen = receivers.map(|receiver| receiver.join().expect("a receiver does not panic"));
    let sent = sent.load(Ordering::Relaxed);
    let arrived = seen.iter().map(|seen| seen.len() as u64).sum::<u64>();
    let denied = margay.drops("acl_ingress") - denied;
    // What a busy machine lost before or behind the lists may look like a denial.
    let lost = (2 * sent).saturating_sub(arrived + denied);
    assert!(lost * 100 <= sent, "{lost} of {} datagrams lost", 2 * sent);
    let judges: Vec<bool> = (0..sent)
        .flat_map(|number| [seen[0].contains(&number), !seen[1].contains(&number)])
        .collect();
    let changes = judges.windows(2).filter(|two| two[0] != two[1]).count();
    println!(
        "{sent} pairs, {arrived} arrived, {denied} denied, {changes} changes of {EXCHANGES} exchanges, {lost} lost"
    );
    assert!(
        changes >= EXCHANGES.saturating_sub(2 * lost as usize) && changes <= EXCHANGES + 2 * lost as usize,
        "{changes} changes of the judging list in {EXCHANGES} exchanges"
    );
    assert_eq!(margay.drops("acl_reject_ingress"), 0);
    assert_eq!(
        margay.port("cali-a", "replied"),
        replied,
        "nothing came to the last rule"
    );
    margay.check_sums();
}

#[test]
fn port_set_is_kept() {
    let Some((_net, a, _b, margay)) = build("portset") else {
        return;
    };
    margay.write_acl("more", "[[acl]]\nname = \"nothing\"\ndefault = \"deny\"\n");
    assert_eq!(margay.run("acl reload").code, 0);
    let done = margay.run("port set up0 --acl-egress nothing");
    assert_eq!(done.code, 0, "{done:?}");
    wait_for("the list is in force", LIMIT, || !a.pings("203.0.113.1"));
    assert!(margay.drops("acl_egress") > 0);
    assert_eq!(margay.terminate(), 0);
    margay.launch();
    margay.ready();
    margay.has_port("cali-a");
    a.reaches("10.65.0.3");
    assert!(!a.pings("203.0.113.1"), "it is in force after a restart");
    assert_eq!(margay.run("port set nosuch --acl-ingress nothing").code, 3);
    margay.check_sums();
}

#[test]
fn spoofed_sources_are_dropped() {
    let Some((net, a, _b, margay)) = build("spoof") else {
        return;
    };
    let wire = Wire::open(&a, "eth0");
    let (router, host) = (net.r.mac("cali-a"), a.mac("eth0"));
    let before = margay.drops("spoofed_source");
    let other = Ipv4Addr::new(10, 65, 0, 3);
    for _ in 0..5 {
        let packet = ipv4(
            other,
            Ipv4Addr::new(203, 0, 113, 1),
            64,
            17,
            &udp(None, 1, 2, b"not mine"),
        );
        wire.send(&ethernet(router, host, 0x0800, &packet));
        let (from, to) = (
            "fd65::3".parse().expect("an address"),
            "2001:db8:113::1".parse().expect("an address"),
        );
        wire.send(&ethernet(
            router,
            host,
            0x86dd,
            &ipv6(from, to, 64, 17, &udp(Some((from, to)), 1, 2, b"not mine")),
        ));
    }
    wait_for("ten packets are dropped as spoofed", LIMIT, || {
        margay.drops("spoofed_source") == before + 10
    });
    margay.check_sums();
}
