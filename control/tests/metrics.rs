//! The metrics: what is written, what the reference page says, what the alert rules ask for, and requests that are refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control::metrics::{
    FAMILIES, Kind, MAX_HEAD, Refusal, RuleSample, Sample, Wanted, page, render, request,
};
use forwarder::acl::RuleCount;
use forwarder::counters::BurstSizes;
use forwarder::reason::Reason;
use forwarder::{Obtained, PortId, PortStats, QueueStats, WorkerStats};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A sample in which every family has a series.
fn sample() -> Sample {
    let mut sample = Sample::default();
    sample.snapshot.ports.push(PortStats {
        id: PortId(0),
        name: "up\"0\\".to_owned(),
        rx_packets: 7,
        rx_bytes: 700,
        tx_packets: 0,
        tx_bytes: 0,
        punted: 1,
        forwarded: 2,
        replied: 0,
        held: 1,
        dropped: 3,
        originated: 0,
        mode_obtained: Obtained::Copy,
        queues: 1,
        largest_mtu: 3818,
        mtu_limit: "".into(),
    });
    sample.snapshot.queues.push(QueueStats {
        port: PortId(0),
        queue: 0,
        worker: 0,
        rx_ring_full: 3,
        rx_no_frame: 0,
        rx_oversize: 0,
        invalid: 0,
    });
    sample.snapshot.workers.push(WorkerStats {
        core: 1,
        busy: 0.5,
        busy_time: Duration::from_millis(1500),
        idle_time: Duration::from_secs(2),
        bursts: 5,
        sizes: BurstSizes {
            classes: [2, 0, 0, 0, 0, 0, 3],
            packets: 194,
        },
        queues: 1,
    });
    sample.drops = Reason::ALL.iter().map(|reason| (*reason, 0, 0)).collect();
    sample.drops[Reason::RxRingFull as usize].1 = 3;
    sample.rules.push(RuleSample {
        list: Arc::from("edge"),
        rule: None,
        count: RuleCount {
            packets: 4,
            bytes: 400,
        },
    });
    sample.mirror.lag.messages[1] = 2;
    sample.mirror.lag.sum_ns = 120_000;
    sample.neighbours.insert("reachable", 5);
    sample.adjacencies.insert("resolved", 5);
    sample
}

#[test]
fn every_family_is_written_as_its_table_says() {
    let text = render(sample()).expect("text");
    for family in FAMILIES {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        let head = format!("# TYPE margay_{} {kind}\n", family.name);
        assert_eq!(text.matches(&head).count(), 1, "{head}{text}");
    }
    for line in [
        "margay_port_rx_packets_total{port=\"up\\\"0\\\\\"} 7",
        "margay_queue_rx_ring_full_total{port=\"up\\\"0\\\\\",queue=\"0\"} 3",
        "margay_drops_total{reason=\"rx_ring_full\"} 3",
        "margay_rule_packets_total{acl=\"edge\",rule=\"default\"} 4",
        "margay_worker_busy_seconds_total{worker=\"0\",core=\"1\"} 1.5",
        "margay_worker_burst_packets_bucket{le=\"1.0\",worker=\"0\",core=\"1\"} 2",
        "margay_worker_burst_packets_bucket{le=\"64.0\",worker=\"0\",core=\"1\"} 5",
        "margay_worker_burst_packets_bucket{le=\"+Inf\",worker=\"0\",core=\"1\"} 5",
        "margay_worker_burst_packets_sum{worker=\"0\",core=\"1\"} 194.0",
        "margay_mirror_lag_seconds_bucket{le=\"0.00005\"} 0",
        "margay_mirror_lag_seconds_bucket{le=\"0.0001\"} 2",
        "margay_mirror_lag_seconds_count 2",
        "margay_neighbours{state=\"reachable\"} 5",
        concat!("margay_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        let is_there = text
            .lines()
            .any(|written| written.replace("5e-5", "0.00005") == line);
        assert!(is_there, "{line}\nnot in\n{text}");
    }
    for reason in Reason::ALL {
        let series = format!("margay_drops_total{{reason=\"{}\"}} ", reason.name());
        assert!(text.contains(&series), "{series}");
    }
    assert!(text.ends_with("# EOF\n"));
}

/// `MARGAY_WRITE_DOCS=1 cargo test -p control --test metrics` writes the table anew.
#[test]
fn the_reference_page_is_what_the_code_says() {
    let path = root("docs/metrics.md");
    let text = fs::read_to_string(&path).expect("docs/metrics.md is there");
    let (begin, end) = ("<!-- families: begin -->\n", "<!-- families: end -->\n");
    let (before, rest) = text.split_once(begin).expect("the table begins");
    let (table, after) = rest.split_once(end).expect("the table ends");
    if std::env::var_os("MARGAY_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{before}{begin}{}{end}{after}", page())).expect("the page can be written");
    } else {
        assert_eq!(
            table,
            page(),
            "run MARGAY_WRITE_DOCS=1 cargo test -p control --test metrics"
        );
    }
    // The bound that the text names is the one that holds.
    assert!(text.contains("1,000 rules"));
    assert_eq!(control::metrics::MAX_RULES, 1000);
}

/// Every series that an alert rule asks for is one that is served.
#[test]
fn alert_rules_ask_for_what_is_served() {
    let served = render(sample()).expect("text");
    let served: BTreeSet<&str> = served
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let rules =
        fs::read_to_string(root("packaging/prometheus/margay.rules.yml")).expect("the rules are there");
    let expressions = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    let mut asked = 0;
    for word in expressions
        .flat_map(|expression| expression.split(|letter: char| !letter.is_alphanumeric() && letter != '_'))
        .filter(|word| word.starts_with("margay_"))
    {
        asked += 1;
        assert!(served.contains(word), "{word} is not served");
    }
    assert!(asked >= 9, "{asked} series in the rules");
}

#[test]
fn requests_are_served_or_refused() {
    let lines = |count: usize| "X: y\r\n".repeat(count);
    for (text, expected) in [
        (
            "GET /metrics HTTP/1.1\r\n\r\n".to_owned(),
            Some(Ok(Wanted::Metrics)),
        ),
        (
            "GET /metrics?x=1 HTTP/1.0\r\nHost: a\r\n\r\n".to_owned(),
            Some(Ok(Wanted::Metrics)),
        ),
        (
            "HEAD /metrics HTTP/1.1\r\n\r\n".to_owned(),
            Some(Ok(Wanted::Head)),
        ),
        ("GET /metrics HTTP/1.1\r\n".to_owned(), None),
        ("".to_owned(), None),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), Some(Err(Refusal::NotFound))),
        (
            "GET /metricsx HTTP/1.1\r\n\r\n".to_owned(),
            Some(Err(Refusal::NotFound)),
        ),
        (
            "POST /metrics HTTP/1.1\r\n\r\n".to_owned(),
            Some(Err(Refusal::Method)),
        ),
        (
            "{\"command\": \"status\"}\n".to_owned(),
            Some(Err(Refusal::BadRequest)),
        ),
        (
            "GET /metrics HTTP/9.9\r\n\r\n".to_owned(),
            Some(Err(Refusal::BadRequest)),
        ),
        ("\u{0}\u{1}".to_owned(), Some(Err(Refusal::BadRequest))),
        (
            format!("GET /metrics HTTP/1.1\r\n{}\r\n", lines(65)),
            Some(Err(Refusal::TooLarge)),
        ),
        (
            format!("GET /{} HTTP/1.1", "a".repeat(MAX_HEAD)),
            Some(Err(Refusal::TooLarge)),
        ),
    ] {
        assert_eq!(request(text.as_bytes()), expected, "{text:?}");
    }
}
