//! Lists exchanged under traffic, and sets whose members change.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tests::{LIMIT, wait_for};

use super::{build, counted, send};

/// So many rules that no packet of these tests matches.
fn others(count: usize) -> String {
    let rule = |n: usize| {
        let (high, low) = (n / 250, n % 250);
        format!(
            "[[acl.rule]]\naction = \"reject\"\ndst = [\"198.51.{high}.{low}\"]\nproto = \"udp\"\ndport = [{n}]\n"
        )
    };
    (0..count).map(rule).collect()
}

/// A list that lets one of the two ports through, denies the other, and rejects what neither rule knows. So many rules more
/// lie before them that nothing of one list's tables fits another's.
fn one_of(ports: [u16; 2], more: usize) -> String {
    let before = others(more);
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

/// A list keeps its tables when only the members of its sets change, and the new members hold; another rule compiles it anew.
#[test]
fn members_of_sets_keep_the_tables() {
    let Some((net, a, _b, margay)) = build("members") else {
        return;
    };
    let list = |members: &str, more: usize| {
        format!(
            "[sets.far]\nprefixes = [{members}]\n[[acl]]\nname = \"from-a\"\ndefault = \"allow\"\n\
             [[acl.rule]]\naction = \"deny\"\nproto = \"udp\"\ndst = [\"@far\"]\ndport = [7]\n{}",
            others(more)
        )
    };
    let reload = |text: &str| {
        margay.write_acl("a", text);
        let done = margay.json("acl reload");
        ["changed", "compiled", "mapped"].map(|field| done[field].as_u64().expect("a number"))
    };
    let few = r#""192.0.2.0/24", "2001:db8:2::/48""#;
    let more = format!(r#"{few}, "203.0.113.0/24", "2001:db8:113::/48""#);
    let denied = |packets: u64| {
        counted(&margay, "acl_ingress", "from-a", 0, packets, || {
            send(&net, &a, "203.0.113.1", "2001:db8:113::1", 7, 2);
            // What came behind them has been judged, so have they.
            a.reaches("203.0.113.1");
        });
    };
    assert_eq!(reload(&list(few, 300)), [1, 1, 0], "another list");
    denied(0);
    assert_eq!(reload(&list(&more, 300)), [1, 0, 1], "two members more");
    denied(4);
    let log = margay.process().log();
    let said = "2 lists, 1 changed: 0 compiled, 1 with other members of sets in the same tables";
    assert!(log.contains(said), "{log}");
    assert_eq!(reload(&list(few, 300)), [1, 0, 1], "two members fewer");
    denied(0);
    assert_eq!(reload(&list(&more, 301)), [1, 1, 0], "one rule more");
    denied(4);
    assert_eq!(reload(&list(&more, 301)), [0, 0, 0], "nothing else");
    margay.check_sums();
}
