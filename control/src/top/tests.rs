//! Rates of two samples, and what is drawn of them at 80 by 24.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::view::short;
use super::*;

fn sample(seconds: u64, packets: u64) -> Sample {
    let port = |name: &str, factor: u64| Port {
        name: name.to_owned(),
        up: name != "down0",
        rx_packets: packets * factor,
        rx_bytes: packets * factor * 100,
        tx_packets: packets,
        tx_bytes: packets * 100,
        dropped: packets / 10,
    };
    Sample {
        schema: "margay.top/1".to_owned(),
        ready: true,
        generation: 7,
        uptime_ns: seconds * 1_000_000_000,
        tables: Tables {
            routes: 1_062_046,
            neighbours: 12,
            groups: 3,
            adjacencies: 4,
            fib_bytes: 34_000_000,
            frames: 16_384,
            frames_free: 8_000,
        },
        ports: vec![port("eth1", 2), port("cali0123456789a", 1), port("down0", 0)],
        drops: ["acl_ingress", "neighbour_unresolved"]
            .map(|reason| Drop {
                reason: reason.to_owned(),
                packets: packets / 20,
            })
            .to_vec(),
        workers: vec![Worker {
            core: 3,
            busy_ns: seconds * 250_000_000,
            idle_ns: seconds * 750_000_000,
            packets,
            bursts: vec![0, 0, packets / 16, 0, 0, 0, packets / 80],
        }],
        rules: (-1..30)
            .map(|index| Rule {
                acl: "from-workloads".to_owned(),
                index,
                action: "allow".to_owned(),
                place: format!("workloads.toml:{}", index + 10),
                packets: packets / (index + 2) as u64,
                bytes: packets,
            })
            .collect(),
    }
}

fn screen(width: u16, height: u16, rates: Option<&Rates>, header: Header) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
    terminal
        .draw(|frame| draw(frame, rates, header))
        .expect("it can be drawn");
    terminal.backend().to_string()
}

#[test]
fn rates_are_differences_over_time() {
    let rates = Rates::between(&sample(10, 1000), &sample(12, 5000));
    let eth1 = &rates.ports[0];
    assert_eq!((eth1.rx, eth1.tx), ((4000.0, 3_200_000.0), (2000.0, 1_600_000.0)));
    assert_eq!((eth1.dropped, rates.drops[0].rate), (200.0, 100.0));
    let worker = &rates.workers[0];
    assert_eq!((worker.busy, worker.mean), (0.25, 4000.0 / 300.0));
    assert_eq!(worker.sizes[2] + worker.sizes[6], 1.0);
    assert_eq!(
        (rates.rules[0].name.as_str(), rates.rules[0].rate),
        ("from-workloads default", 2000.0)
    );
    // A daemon that began anew: counters are smaller than before, and count from zero.
    let anew = Rates::between(&sample(100, 9000), &sample(1, 50));
    assert!(anew.ports.iter().all(|port| port.rx.0 >= 0.0));
    // A port and a worker that were not there before.
    let mut empty = sample(1, 0);
    empty.ports.clear();
    empty.workers.clear();
    let fresh = Rates::between(&empty, &sample(2, 100));
    assert_eq!(fresh.ports[1].rx.0, 100.0);
}

#[test]
fn numbers_are_short() {
    for (number, text) in [
        (0.0, "0"),
        (7.0, "7"),
        (0.25, "0.25"),
        (999.0, "999"),
        (999.6, "1.00k"),
        (12_345.0, "12.3k"),
        (123_456.0, "123k"),
        (1_062_046.0, "1.06M"),
        (9.99e9, "9.99G"),
        (5e15, "5000T"),
    ] {
        assert_eq!(short(number), text);
    }
}

/// Every block and its numbers are readable at 80 by 24, and nothing panics at any size.
#[test]
fn it_fits_80_by_24() {
    let rates = Rates::between(&sample(10, 1000), &sample(12, 5000));
    let text = screen(80, 24, Some(&rates), Header::default());
    for word in [
        "margay ready",
        "up 0d 00:00:12",
        "generation 7",
        "q quits",
        "routes 1062046",
        "fib 34.0MB",
        "frames 8000/16384 free",
        "rx bit/s",
        "eth1",
        "3.20M",
        "cali0123456789a",
        "down0 (down)",
        "####............  25.0%",
        "13.3",
        "acl_ingress",
        "neighbour_unresolved",
        "from-workloads default",
        "allow",
        "top rules (",
        "83   0   0   0  17",
    ] {
        assert!(text.contains(word), "{word:?} is not in\n{text}");
    }
    let late = screen(80, 24, Some(&rates), Header { silent: Some(9) });
    assert!(late.contains("no answer for 9 s"), "{late}");
    assert!(screen(80, 24, None, Header::default()).contains("q quits"));
    for (width, height) in [(1, 1), (20, 5), (79, 10), (80, 16), (200, 60)] {
        screen(width, height, Some(&rates), Header::default());
    }
}

#[test]
fn the_keys_that_end_it() {
    let key = |code, modifiers| KeyEvent::new(code, modifiers);
    assert!(ends(key(KeyCode::Char('q'), KeyModifiers::NONE)));
    assert!(ends(key(KeyCode::Esc, KeyModifiers::NONE)));
    assert!(ends(key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    assert!(!ends(key(KeyCode::Char('c'), KeyModifiers::NONE)));
}
