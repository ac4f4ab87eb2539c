//! The contract of `margay` and of the control socket: schemas and fields of every answer, exit codes, errors, permissions, streams.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── u 203.0.113.1
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use serde_json::{Value, json};
use tests::margay::{list, program};
use tests::{Host, LIMIT, Margay, schema, wait_for};

use crate::common::{Node, node};

const PORTS: &str = r#"
[[port]]
name = "up0"
role = "uplink"
[[port]]
match = "cali*"
role = "workload"
acl = { ingress = "all" }
"#;

const ALL: &str = "[[acl]]\nname = \"all\"\ndefault = \"allow\"\n[[acl.rule]]\naction = \"deny\"\nproto = \"udp\"\ndport = [9]\n";

fn build(name: &str) -> Option<(Node, Host, Arc<Margay>)> {
    let net = node(name)?;
    let a = net.container("a", 2);
    let margay = Margay::start_with(&net.lab, &net.r, PORTS, &[("all", ALL)]);
    margay.has_port("up0");
    margay.has_port("cali-a");
    a.reaches("203.0.113.1");
    a.sh("busybox nc -u -w 1 203.0.113.1 9 </dev/null || :; echo x >/dev/udp/203.0.113.1/9 2>/dev/null || :");
    Some((net, a, margay))
}

#[track_caller]
fn has(value: &Value, fields: &str) {
    for field in fields.split_whitespace() {
        assert!(!value[field].is_null(), "no {field} in {value}");
    }
}

#[track_caller]
fn each<'a>(answer: &'a Value, key: &str, fields: &str) -> &'a [Value] {
    let rows = list(answer, key);
    assert!(!rows.is_empty(), "no {key} in {answer}");
    rows.iter().for_each(|row| has(row, fields));
    rows
}

#[test]
fn answers() {
    let Some((net, a, margay)) = build("answers") else {
        return;
    };
    // One packet for `drops` to show.
    let socket = a
        .enter(|| std::net::UdpSocket::bind("0.0.0.0:0"))
        .expect("a UDP port is free");
    socket.send_to(b"x", "203.0.113.1:9").expect("a datagram is sent");
    wait_for("a drop is counted", LIMIT, || margay.drops("acl_ingress") > 0);

    let status = margay.json("status");
    has(
        &status,
        "schema ready generation workers ports routes neighbours frames resyncs",
    );
    each(&status, "workers", "core busy bursts queues");
    has(&status["frames"], "total free kernel_bytes");
    assert_eq!(status["schema"], "margay.status/1");
    assert_eq!(status["ready"], true);

    let ports = margay.json("port show");
    let fields = "name index role queues mode mtu mac rx_packets rx_bytes tx_packets tx_bytes punted forwarded replied held \
                  dropped originated";
    for port in each(&ports, "ports", fields) {
        let mode = port["mode"].as_str().unwrap_or_default();
        assert!(
            ["copy", "generic", "zerocopy"].contains(&mode),
            "the mode that was obtained: {port}"
        );
    }
    let routes = margay.json("route show");
    each(&routes, "routes", "prefix table protocol type nexthops");
    assert!(
        list(&margay.json("-4 route show"), "routes")
            .iter()
            .all(|route| !route["prefix"].to_string().contains("::"))
    );
    assert!(
        list(&margay.json("-6 route show"), "routes")
            .iter()
            .all(|route| route["prefix"].to_string().contains(':'))
    );
    assert!(list(&margay.json("route show --diff-kernel"), "differences").is_empty());
    let route = margay.json("route get 203.0.113.1");
    has(&route, "route nexthop");
    has(&route["route"], "prefix table protocol type nexthops");
    each(&route["route"], "nexthops", "via dev weight neighbour");
    each(&margay.json("neigh show"), "neighbours", "address dev mac state");
    each(&margay.json("nexthop show"), "nexthops", "id members routes");
    each(
        &margay.json("drops"),
        "drops",
        "reason packets bytes last_seen hint help",
    );
    let lists = margay.json("acl show");
    for acl in each(&lists, "lists", "name default rules") {
        each(acl, "rules", "index action");
    }
    each(&margay.json("doctor"), "checks", "name result message");
    margay.json("config show");
    let file = net.lab.directory().join("r-margay/acl.d/all.toml");
    let checked = margay.json(&format!("acl check {}", file.display()));
    assert!(list(&checked, "errors").is_empty());
    margay.json(&format!("config check {}", margay.config().display()));
    every_other_schema(&net, &margay);
    // Everything also prints as a table, without failing.
    for words in [
        "status",
        "port show",
        "route show",
        "route get 203.0.113.1",
        "neigh show",
        "nexthop show",
        "drops",
        "acl show",
        "-s acl show all",
        "doctor",
        "config show",
    ] {
        let done = margay.run(words);
        assert!(done.code == 0 && !done.out.trim().is_empty(), "{words}: {done:?}");
    }
    assert_eq!(margay.run("drops --reset").code, 0);
    assert_eq!(margay.drops("acl_ingress"), 0, "the counters begin anew");
    margay.check_sums();
}

/// The commands that [`answers`] has not asked yet, so that each answer is held against its schema by at least one lab.
fn every_other_schema(net: &Node, margay: &Margay) {
    margay.json("port show up0");
    margay.json("port set cali-a --acl-egress all");
    margay.json("port set cali-a --default");
    margay.json("acl reload");
    margay.json(&format!("config diff {}", margay.config().display()));
    let from = "--from 10.65.0.2 --to 203.0.113.1 --in cali-a";
    margay.json(&format!("explain {from} --proto udp --dport 9 --expect deny"));
    margay.json(&format!("explain {from} --dport 443 --expect allow"));
    let file = |name: &str, text: &str| {
        let path = net.lab.directory().join(name);
        fs::write(&path, text).expect("the lab's directory can be written");
        path.display().to_string()
    };
    let cases = file(
        "cases",
        &format!("{from} --dport 443 --expect allow\n{from} --dport 80 --expect deny\n"),
    );
    let done = margay.run(&format!("-j explain --cases {cases}"));
    assert_eq!(done.code, 7, "{done:?}");
    let prefixes = file("prefixes", "10.0.0.0/8\n192.0.2.0/24\n");
    let keys = file("keys", "10.0.0.1\n192.0.2.1\n");
    let rules = file(
        "rules",
        "@0.0.0.0/0\t10.0.0.0/8\t0 : 65535\t0 : 65535\t0x06/0xFF\t0/0\n",
    );
    let rule_keys = file("rule-keys", "1 167772161 1 1 6 0\n");
    margay.json(&format!("bench lpm --prefixes {prefixes} --keys {keys}"));
    margay.json(&format!("bench acl --rules {rules} --keys {rule_keys}"));
    margay.json(&format!(
        "bench forward --prefixes {prefixes} --rules {rules} --keys {keys}"
    ));
    margay.json("release --all");
}

#[test]
fn exit_codes() {
    let Some((net, _a, margay)) = build("codes") else {
        return;
    };
    let code = |words: &str, expected: i32| {
        let done = margay.run(words);
        assert_eq!(done.code, expected, "margay {words}: {done:?}");
        done
    };
    code("status", 0);
    code("no-such-command", 2);
    code("route get not-an-address", 2);
    code("acl show nosuch", 3);
    code("port set nosuch --acl-ingress all", 3);
    net.r.sh("ip route del default");
    margay.mirrors_kernel();
    code("route get 198.51.100.1", 3);
    // Errors are JSON with a stable code when JSON is asked for, and on the error stream.
    let done = code("-j acl show nosuch", 3);
    assert!(done.out.is_empty(), "{done:?}");
    let error = schema::check_lines("acl show nosuch", &done.err).remove(0);
    assert_eq!(error["code"], "not_found", "{error}");
    // Each exit status with its error, checked by the harness: usage, not found, a file that is bad, an expectation that is not met.
    code("-j no-such-command", 2);
    code("-j route get not-an-address", 2);
    code("-j route get 198.51.100.1", 3);
    code("-j port show nosuch", 3);
    code("-j route show --table 77", 3);
    code("-j port set up0", 2);
    code("-j config diff /nonexistent", 6);
    // Nobody listens.
    let mut nobody = net.r.command(program("margay"));
    let done = tests::host::finish(nobody.args(["--socket", "/nonexistent/margay.sock", "status"]));
    assert_eq!(done.code, 4, "{done:?}");
    // Another user may not ask. The program and the socket are put where that user can get at them.
    let open = net.lab.directory().join("open");
    fs::create_dir_all(&open).expect("the lab's directory can be written");
    fs::copy(program("margay"), open.join("margay")).expect("the program can be copied");
    let mode = fs::metadata(margay.socket())
        .expect("the socket is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let done = net.r.try_sh(&format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups {}/margay --socket {} status",
        open.display(),
        margay.socket().display()
    ));
    assert_eq!(done.code, 5, "{done:?}");
    // Bad configuration and lists: named, with line, and code 6.
    let bad = net.lab.directory().join("bad.toml");
    fs::write(&bad, "version = 1\n[runtime]\nprofil = \"poll\"\n")
        .expect("the lab's directory can be written");
    let done = code(&format!("config check {}", bad.display()), 6);
    assert!(
        done.err.contains("profil") && done.err.contains("profile") && done.err.contains('3'),
        "{done:?}"
    );
    let mut check = net.r.command(program("margayd"));
    let done = tests::host::finish(check.arg("--check").arg("--config").arg(&bad));
    assert_eq!(done.code, 6, "{done:?}");
    let mut check = net.r.command(program("margayd"));
    let done = tests::host::finish(check.arg("--check").arg("--config").arg(margay.config()));
    assert_eq!(done.code, 0, "{done:?}");
    fs::write(&bad, "version = 1\n[[acl]]\nname = \"x\"\ndefault = \"allow\"\n[[acl.rule]]\naction = \"deny\"\nproto = \"nosuch\"\n")
        .expect("the lab's directory can be written");
    let done = code(&format!("acl check {}", bad.display()), 6);
    assert!(
        done.err.contains("bad.toml") || done.out.contains("bad.toml"),
        "{done:?}"
    );
    margay.check_sums();
}

#[test]
fn the_wire() {
    let Some((net, _a, margay)) = build("wire") else {
        return;
    };
    let stream = UnixStream::connect(margay.socket()).expect("the socket accepts");
    stream
        .set_read_timeout(Some(LIMIT))
        .expect("a time limit can be set");
    let mut lines = BufReader::new(stream.try_clone().expect("a descriptor can be copied")).lines();
    let mut ask = |request: &str| {
        (&stream)
            .write_all(format!("{request}\n").as_bytes())
            .expect("the daemon reads");
        let line = lines.next().expect("the daemon answers").expect("a line");
        schema::check_lines(request, &line).remove(0)
    };
    // Several requests on one connection; nonsense is answered and does not end it.
    assert_eq!(
        ask(r#"{"command": "status", "args": {}}"#)["schema"],
        "margay.status/1"
    );
    let routes = ask(r#"{"command": "route show", "args": {"table": 254}}"#);
    assert!(!list(&routes, "routes").is_empty());
    for nonsense in [
        "not json",
        "{}",
        "[]",
        r#"{"command": 7}"#,
        r#"{"command": "fly"}"#,
        r#"{"command": "route get", "args": {"address": "x"}}"#,
    ] {
        let answer = ask(nonsense);
        assert_eq!(answer["schema"], "margay.error/1", "{nonsense}: {answer}");
    }
    assert_eq!(ask(r#"{"command": "status"}"#)["ready"], json!(true));
    // A stream: every line an object, until we go.
    let monitor = UnixStream::connect(margay.socket()).expect("the socket accepts");
    monitor
        .set_read_timeout(Some(LIMIT))
        .expect("a time limit can be set");
    (&monitor)
        .write_all(b"{\"command\": \"monitor\", \"args\": {}}\n")
        .expect("the daemon reads");
    let mut events = BufReader::new(monitor).lines();
    let next = std::cell::Cell::new(0);
    let adder = || {
        // Until the subscription is in force an event may be missed: another route, another event.
        next.set(next.get() + 1);
        net.r
            .sh(&format!("ip route add 198.51.100.{} via 10.0.0.2", next.get()));
    };
    adder();
    loop {
        let line = events.next().expect("the stream goes on").expect("a line");
        let event = schema::check_lines("monitor", &line).remove(0);
        assert_eq!(event["schema"], "margay.monitor/1");
        if line.contains("198.51.100.") {
            break;
        }
        adder();
    }
    margay.check_sums();
}

#[test]
fn reload_of_the_configuration() {
    let Some((net, a, margay)) = build("reload") else {
        return;
    };
    // A bad file changes nothing.
    margay.write_config("[[port]]\nnam = \"up0\"\n");
    margay.process().signal(libc::SIGHUP);
    wait_for("the error is in the log", LIMIT, || {
        margay.process().log().contains("nam")
    });
    a.reaches("203.0.113.1");
    // A good one is taken: one more port.
    net.r
        .sh("ip link add more0 type veth peer name more1; ip link set more0 up; ip link set more1 up");
    margay.write_config(&format!("{PORTS}[[port]]\nname = \"more0\"\nrole = \"uplink\"\n"));
    margay.process().signal(libc::SIGHUP);
    margay.has_port("more0");
    margay.write_config(PORTS);
    margay.process().signal(libc::SIGHUP);
    wait_for("the port is let go", LIMIT, || {
        margay.find_port("more0").is_none()
    });
    a.reaches("203.0.113.1");
    margay.check_sums();
}

/// The client of the documentation prints the routes that `margay` prints, and an error with its code.
#[test]
fn client_in_python() {
    let Some((net, _a, margay)) = build("client") else {
        return;
    };
    let client = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/client.py");
    let ask = |table: &str| {
        let socket = margay.socket();
        net.r.try_sh(&format!(
            "python3 {} {} {table}",
            client.display(),
            socket.display()
        ))
    };
    let done = ask("254");
    assert_eq!(done.code, 0, "{done:?}");
    let shown = margay.json("route show --table 254");
    let prefixes: Vec<_> = list(&shown, "routes")
        .iter()
        .filter_map(|route| route["prefix"].as_str())
        .collect();
    let printed: Vec<_> = done
        .out
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(printed, prefixes);
    assert!(done.out.contains("0.0.0.0/0 unicast 10.0.0.2\n"), "{done:?}");
    let done = ask("77");
    assert!(done.code == 1 && done.err.starts_with("not_found: "), "{done:?}");
}

/// sd_notify(3): READY=1 once traffic is taken, and not before; STOPPING=1 at the end.
#[test]
fn systemd_is_told() {
    let Some(net) = node("notify") else { return };
    let margay = Margay::prepare(&net.lab, &net.r, PORTS, &[("all", ALL)]);
    let path = net.lab.directory().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("the lab's directory can be written");
    socket
        .set_read_timeout(Some(LIMIT))
        .expect("a time limit can be set");
    let told = |word: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = socket
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("waited for {word}: {error}"));
            if String::from_utf8_lossy(&buffer[..length])
                .lines()
                .any(|line| line == word)
            {
                return;
            }
        }
    };
    margay.launch_with(&[("NOTIFY_SOCKET", &path.display().to_string())]);
    told("READY=1");
    assert_eq!(margay.run("status --ready").code, 0);
    assert!(margay.find_port("up0").is_some());
    margay.process().signal(libc::SIGTERM);
    told("STOPPING=1");
    wait_for("margayd ends", LIMIT, || margay.process().exited() == Some(0));
}
