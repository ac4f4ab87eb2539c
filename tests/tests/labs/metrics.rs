//! Metrics: they add up with what `margay` shows, bad requests are refused within bounds, and a scrape disturbs nobody.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── u 203.0.113.1
//! ```

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::lab::skip;
use tests::margay::list;
use tests::traffic::Stream;
use tests::{Host, LIMIT, Margay, wait_for};

use crate::common::{PORTS, node};

const LISTEN: &str = "[metrics]\nlisten = \"127.0.0.1:9469\"\n";

/// What the server on `host` answers to these bytes.
fn http(host: &Host, request: &str) -> String {
    let mut stream = host
        .enter(|| TcpStream::connect("127.0.0.1:9469"))
        .expect("metrics are served");
    exchange(&mut stream, request)
}

fn exchange(stream: &mut (impl Read + Write), request: &str) -> String {
    // A server that refuses what is still being sent may close first.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("the answer is text")
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Series and their values.
#[track_caller]
fn scrape(host: &Host) -> BTreeMap<String, f64> {
    series(&http(host, GET))
}

#[track_caller]
fn series(answer: &str) -> BTreeMap<String, f64> {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{head}"
    );
    let values: BTreeMap<String, f64> = body
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            (
                series.to_owned(),
                value.parse().unwrap_or_else(|_| panic!("a number: {line}")),
            )
        })
        .collect();
    assert!(body.ends_with("# EOF\n"));
    values
}

#[track_caller]
fn value(metrics: &BTreeMap<String, f64>, series: &str) -> f64 {
    *metrics
        .get(series)
        .unwrap_or_else(|| panic!("no series {series}"))
}

/// Every counter of `port show`, `drops` and `acl show` is the metric of the same name; answers what differs.
fn same(metrics: &BTreeMap<String, f64>, margay: &Margay) -> Result<(), String> {
    let mut pairs: Vec<(String, u64)> = Vec::new();
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or_else(|| panic!("no {key} in {row}"));
    for port in list(&margay.json("port show"), "ports") {
        let name = port["name"].as_str().expect("a name");
        for (key, family) in [
            ("rx_packets", "rx_packets_total"),
            ("rx_bytes", "rx_bytes_total"),
            ("tx_packets", "tx_packets_total"),
            ("tx_bytes", "tx_bytes_total"),
            ("punted", "punted_packets_total"),
            ("forwarded", "forwarded_packets_total"),
            ("replied", "replied_packets_total"),
            ("dropped", "dropped_packets_total"),
            ("originated", "originated_packets_total"),
            ("held", "held_packets"),
            ("queues", "queues"),
        ] {
            pairs.push((
                format!("margay_port_{family}{{port=\"{name}\"}}"),
                number(port, key),
            ));
        }
    }
    let drops = margay.json("drops");
    for drop in list(&drops, "drops") {
        let label = format!("{{reason={}}}", drop["reason"]);
        pairs.push((format!("margay_drops_total{label}"), number(drop, "packets")));
        pairs.push((format!("margay_drop_bytes_total{label}"), number(drop, "bytes")));
    }
    for acl in list(&margay.json("acl show"), "lists") {
        for rule in list(acl, "rules") {
            let index = match rule["index"].as_i64() {
                Some(-1) => "default".to_owned(),
                index => index.expect("a number").to_string(),
            };
            let label = format!("{{acl={},rule=\"{index}\"}}", acl["name"]);
            pairs.push((
                format!("margay_rule_packets_total{label}"),
                number(rule, "packets"),
            ));
            pairs.push((format!("margay_rule_bytes_total{label}"), number(rule, "bytes")));
        }
    }
    let status = margay.json("status");
    pairs.push(("margay_routes".to_owned(), number(&status, "routes")));
    pairs.push((
        "margay_ports".to_owned(),
        list(&margay.json("port show"), "ports").len() as u64,
    ));
    let bursts: u64 = list(&status, "workers")
        .iter()
        .map(|worker| number(worker, "bursts"))
        .sum();
    let counted: f64 = metrics
        .iter()
        .filter(|(series, _)| series.starts_with("margay_worker_burst_packets_count"))
        .map(|(_, value)| value)
        .sum();
    if bursts as f64 != counted {
        return Err(format!(
            "{bursts} bursts in status, {counted} in the histogram of their sizes"
        ));
    }
    match pairs
        .iter()
        .find(|(name, count)| value(metrics, name) != *count as f64)
    {
        Some((name, count)) => Err(format!(
            "{name} is {}, margay shows {count}",
            value(metrics, name)
        )),
        None => Ok(()),
    }
}

/// The sum of a family over all label values.
fn sum(metrics: &BTreeMap<String, f64>, family: &str) -> f64 {
    let begin = format!("{family}{{");
    let of_family = metrics.iter().filter(|(series, _)| series.starts_with(&begin));
    of_family.map(|(_, value)| value).sum()
}

#[test]
fn add_up() {
    let Some(net) = node("metrics") else { return };
    let a = net.container("a", 2);
    let list = "[[acl]]\nname = \"in\"\ndefault = \"allow\"\n[[acl.rule]]\naction = \"deny\"\nproto = \"udp\"\ndport = [9]\n";
    let ports = PORTS.replace(
        "role = \"workload\"",
        "role = \"workload\"\nacl = { ingress = \"in\" }",
    );
    let margay = Margay::start_with(&net.lab, &net.r, &format!("{LISTEN}{ports}"), &[("in", list)]);
    margay.has_port("cali-a");
    a.reaches("203.0.113.1");
    let socket = a
        .enter(|| std::net::UdpSocket::bind("0.0.0.0:0"))
        .expect("a UDP port is free");
    let deny = |count| {
        for _ in 0..count {
            socket.send_to(b"x", "203.0.113.1:9").expect("a datagram is sent");
        }
    };
    // Between a scrape and the questions after it a stray packet may come: asked again until nothing moves.
    let settled = || {
        wait_for("metrics are what margay shows", LIMIT, || {
            let metrics = scrape(&net.r);
            same(&metrics, &margay).map(|()| metrics)
        })
    };
    deny(3);
    wait_for("drops are counted", LIMIT, || margay.drops("acl_ingress") == 3);
    let before = settled();
    deny(7);
    a.sh("ping -n -c 20 -i 0.02 -W 2 203.0.113.1");
    wait_for("drops are counted", LIMIT, || margay.drops("acl_ingress") == 10);
    let after = settled();
    let grown = |series: &str| value(&after, series) - value(&before, series);
    assert_eq!(grown("margay_drops_total{reason=\"acl_ingress\"}"), 7.0);
    assert_eq!(grown("margay_rule_packets_total{acl=\"in\",rule=\"0\"}"), 7.0);
    assert_eq!(grown("margay_port_dropped_packets_total{port=\"cali-a\"}"), 7.0);
    assert!(grown("margay_port_forwarded_packets_total{port=\"cali-a\"}") >= 20.0);
    assert_eq!(
        sum(&after, "margay_drops_total"),
        sum(&after, "margay_port_dropped_packets_total"),
        "drops by reason are the drops of all ports"
    );
    assert!(grown("margay_scrapes_total") >= 1.0);
    // A worker is either busy or idle, and both together are its life.
    let life = |metrics| {
        sum(metrics, "margay_worker_busy_seconds_total") + sum(metrics, "margay_worker_idle_seconds_total")
    };
    assert!(life(&after) > life(&before) && sum(&after, "margay_worker_busy_seconds_total") > 0.0);
    // What the kernel says reaches the workers, and how long that took is counted.
    let lag = value(&after, "margay_mirror_lag_seconds_count");
    net.r.sh("ip route add 198.51.100.0/24 via 10.0.0.2");
    margay.mirrors_kernel();
    wait_for("the route is counted in the lag", LIMIT, || {
        value(&scrape(&net.r), "margay_mirror_lag_seconds_count") > lag
    });
    // `drops --reset` begins anew for people, not for Prometheus.
    assert_eq!(margay.run("drops --reset").code, 0);
    assert_eq!(
        value(&scrape(&net.r), "margay_drops_total{reason=\"acl_ingress\"}"),
        10.0
    );
    // What a port that is gone had dropped stays.
    a.sh("ip link del eth0");
    wait_for("the port is let go", LIMIT, || {
        margay.find_port("cali-a").is_none()
    });
    let last = scrape(&net.r);
    assert_eq!(value(&last, "margay_drops_total{reason=\"acl_ingress\"}"), 10.0);
    assert!(!last.contains_key("margay_port_up{port=\"cali-a\"}"));
    margay.check_sums();
}

#[test]
fn bad_requests() {
    let Some(net) = node("scrapes") else { return };
    let margay = Margay::start(&net.lab, &net.r, &format!("{LISTEN}{PORTS}"));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde", "405"),
        ("{\"command\": \"status\"}\n", "400"),
        (
            &format!("GET /metrics HTTP/1.1\r\nX: {}", "y".repeat(100_000)),
            "431",
        ),
    ] {
        let answer = http(&net.r, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.len() < 1000, "{} bytes of answer", answer.len());
    }
    let head = http(&net.r, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    // Clients that say nothing: the ninth at a time is refused, and all are let go in the end.
    let idle: Vec<TcpStream> = (0..8)
        .map(|_| {
            net.r
                .enter(|| TcpStream::connect("127.0.0.1:9469"))
                .expect("accepted")
        })
        .collect();
    wait_for("the ninth is refused", LIMIT, || {
        http(&net.r, GET).starts_with("HTTP/1.1 503 ")
    });
    for mut stream in idle {
        let answer = exchange(&mut stream, "");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    let metrics = scrape(&net.r);
    for reason in ["bad_request", "not_found", "method", "too_large"] {
        assert_eq!(
            value(
                &metrics,
                &format!("margay_scrapes_refused_total{{reason=\"{reason}\"}}")
            ),
            1.0
        );
    }
    assert_eq!(
        value(&metrics, "margay_scrapes_refused_total{reason=\"timeout\"}"),
        8.0
    );
    assert!(value(&metrics, "margay_scrapes_refused_total{reason=\"busy\"}") >= 1.0);
    // Only loopback listens, and an address that is taken is an error that names the key.
    assert!(
        net.u
            .enter(|| TcpStream::connect_timeout(
                &"10.0.0.1:9469".parse().expect("an address"),
                Duration::from_secs(2)
            ))
            .is_err()
    );
    let second = Margay::prepare(&net.lab, &net.u, LISTEN, &[]);
    let taken = net
        .u
        .enter(|| std::net::TcpListener::bind("127.0.0.1:9469"))
        .expect("it is free");
    let process = second.launch();
    let code = wait_for("the second daemon gives up", LIMIT, || process.exited());
    assert!(
        code == 1 && process.log().contains("[metrics] listen"),
        "{code}: {}",
        process.log()
    );
    drop(taken);
    // A Unix socket serves as well, to root and the group.
    let path = net.lab.directory().join("metrics.sock");
    second.write_config(&format!("[metrics]\nlisten = \"{}\"\n", path.display()));
    second.launch();
    second.ready();
    let mode = std::fs::metadata(&path)
        .expect("the socket is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut stream = UnixStream::connect(&path).expect("it accepts");
    assert_eq!(value(&series(&exchange(&mut stream, GET)), "margay_ready"), 1.0);
    assert_eq!(second.terminate(), 0);
    assert!(!path.exists(), "the socket is removed");
    margay.check_sums();
}

/// The routes of a full table go by, and meanwhile somebody scrapes without a pause: no packet is lost, no netlink message is lost,
/// the tables are the kernel's.
#[test]
fn a_scrape_disturbs_nobody() {
    let folder = std::env::var_os("MARGAY_DATA").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"));
    let table = folder.join("prefixes.txt.gz");
    if !table.exists() {
        return skip(
            "metrics::a_scrape_disturbs_nobody",
            &format!("{} is missing", table.display()),
        );
    }
    let Some(net) = node("scrape") else { return };
    let a = net.container("a", 2);
    let margay = Margay::start(&net.lab, &net.r, &format!("{LISTEN}{PORTS}"));
    margay.has_port("cali-a");
    a.reaches("203.0.113.1");
    let stream = Stream::start(
        &a,
        &net.u,
        "203.0.113.1".parse().expect("an address"),
        4,
        Duration::from_millis(5),
    );
    stream.flows_on(100);
    let load = net.r.spawn(
        "load",
        &format!(
            "sh -c \"zcat '{}' | grep -v : | sed 's/.*/route add & via 10.0.0.2/' | ip -force -batch - 2>/dev/null\"",
            table.display()
        ),
    );
    let (mut scrapes, mut longest, mut bytes) = (0, Duration::ZERO, 0);
    while load.exited().is_none() {
        let begin = Instant::now();
        let answer = http(&net.r, GET);
        longest = longest.max(begin.elapsed());
        bytes = answer.len();
        assert!(value(&series(&answer), "margay_routes") > 0.0);
        scrapes += 1;
    }
    assert!(scrapes > 10, "{scrapes} scrapes while the table was loaded");
    margay.mirrors_kernel();
    let metrics = scrape(&net.r);
    assert!(
        value(&metrics, "margay_routes") > 500_000.0,
        "the table is loaded"
    );
    assert_eq!(value(&metrics, "margay_mirror_overruns_total"), 0.0);
    tests::lab::announce(&format!(
        "{scrapes} scrapes of {bytes} bytes during the load, the longest {} ms",
        longest.as_millis()
    ));
    stream.flows_on(100);
    margay.lost_nothing(&[stream.stop()]);
    margay.check_sums();
}

/// The alert rules are rules, and each is raised by its numbers and not without them.
#[test]
fn alert_rules() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus");
    for words in [
        ["check", "rules", "margay.rules.yml"],
        ["test", "rules", "margay.test.yml"],
    ] {
        match Command::new("promtool").args(words).current_dir(&folder).output() {
            Ok(done) => {
                let said = String::from_utf8_lossy(&done.stdout).into_owned()
                    + &String::from_utf8_lossy(&done.stderr);
                assert!(done.status.success(), "promtool {words:?}: {said}");
                assert!(words[0] == "test" || said.contains("10 rules found"), "{said}");
            }
            Err(error) => skip(
                "metrics::alert_rules",
                &format!("promtool (package prometheus): {error}"),
            ),
        }
    }
}

/// A list of more rules than may have series: the first thousand of all have them, the rest are counted.
#[test]
fn rules_have_bounded_series() {
    let Some(net) = node("metricsrules") else {
        return;
    };
    let _a = net.container("a", 2);
    let rule = |port: u32| format!("[[acl.rule]]\naction = \"deny\"\nproto = \"udp\"\ndport = [{port}]\n");
    let rules: String = (1..=1_200).map(rule).collect();
    let long = format!("[[acl]]\nname = \"long\"\ndefault = \"allow\"\n{rules}");
    let ports = PORTS.replace(
        "role = \"workload\"",
        "role = \"workload\"\nacl = { ingress = \"long\" }",
    );
    let margay = Margay::start_with(&net.lab, &net.r, &format!("{LISTEN}{ports}"), &[("long", &long)]);
    margay.has_port("cali-a");
    let metrics = scrape(&net.r);
    let told = metrics
        .keys()
        .filter(|series| series.starts_with("margay_rule_packets_total{"))
        .count();
    let left_out = value(&metrics, "margay_rules_without_series") as usize;
    assert_eq!(told, 1_000);
    assert_eq!(told + left_out, 1_200 + 1, "every rule and the default");
    assert!(metrics.contains_key("margay_rule_packets_total{acl=\"long\",rule=\"default\"}"));
}
