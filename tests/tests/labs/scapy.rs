//! Malformed, optioned and fragmented packets that scapy makes, each with the answer that the RFCs ask for, which scapy makes as well:
//! what Margay sends is that, byte for byte, and what it drops has that reason. Where the kernel is to do the same, it is seen to.
//!
//! ```text
//!   s ── in0 ┐           ┌ out0 ── d          (twice: r forwards in the kernel, r runs margayd; see `tests::twin`)
//!            ├─ router r ┤
//!   10.10/16 ┘           └ low0 ── e
//! ```

use serde_json::Value;
use tests::host::finish;
use tests::twin::{At, Out, Twin};
use tests::{LIMIT, wait_for};

use crate::oracle::packets::{Packet, parse};
use crate::oracle::{is_error4, seal};

/// A case of `tests/scapy/cases.py`.
struct Case {
    name: String,
    packet: Packet,
    outs: Vec<(At, Vec<u8>)>,
    reason: Option<String>,
    same: bool,
}

fn cases() -> Vec<Case> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scapy/cases.py");
    let done = finish(std::process::Command::new("/usr/bin/python3").arg(script));
    assert_eq!(
        done.code, 0,
        "scapy (package python3-scapy) makes the cases: {}",
        done.err
    );
    let case = |line: &str| {
        let case: Value = serde_json::from_str(line).expect("a JSON object");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let out = |out: &Value| {
            let at = match out[0].as_str() {
                Some("S") => At::S,
                Some("D") => At::D,
                _ => At::E,
            };
            (at, parse(&format!("4 {}", text(&out[1]))).1)
        };
        Case {
            name: text(&case["name"]),
            packet: parse(&text(&case["packet"])),
            outs: case["outs"].as_array().expect("a list").iter().map(out).collect(),
            reason: case["reason"].as_str().map(str::to_owned),
            same: case["same"] == true,
        }
    };
    done.out.lines().map(case).collect()
}

/// IP packets as they come out, the identification of errors set to zero (RFC 6864 4.1).
fn packets(outs: &[Out]) -> Vec<(At, Vec<u8>)> {
    let packet = |out: &Out| {
        let mut frame = out.frame.clone();
        if is_error4(&frame) {
            frame[18..20].fill(0);
            seal(&mut frame);
        }
        (out.at, frame[14..].to_vec())
    };
    outs.iter().map(packet).collect()
}

#[test]
fn answers_are_those_of_the_rfcs() {
    let Some(mut twin) = Twin::new("scapy", "", &[]) else {
        return;
    };
    let cases = cases();
    assert!(cases.len() > 60, "{} cases", cases.len());
    let sent: Vec<Packet> = cases.iter().map(|case| case.packet.clone()).collect();
    let kernel = twin.kernel.send(&sent);
    for (case, kernel) in cases.iter().zip(&kernel) {
        let before = case.reason.as_ref().map(|reason| twin.daemon.drops(reason));
        let outs = twin.margay.send(std::slice::from_ref(&case.packet)).remove(0);
        assert_eq!(packets(&outs), case.outs, "{}", case.name);
        assert_eq!(
            packets(kernel) == case.outs,
            case.same,
            "{}: the kernel sends {kernel:?}",
            case.name
        );
        assert_eq!(case.reason.is_none(), !case.outs.is_empty(), "{}", case.name);
        if let (Some(reason), Some(before)) = (&case.reason, before) {
            wait_for(&format!("{} is dropped as {reason}", case.name), LIMIT, || {
                twin.daemon.drops(reason) == before + 1
            });
        }
    }
    twin.daemon.check_sums();
    // What is answered, forwarded or dropped is what went in; each fragment but one of a packet is the egress port's own.
    let all: usize = cases.iter().map(|case| case.outs.len()).sum();
    let whole = cases.iter().filter(|case| !case.outs.is_empty()).count();
    let made: u64 = ["in0", "out0", "low0"]
        .map(|port| twin.daemon.port(port, "originated"))
        .iter()
        .sum();
    assert_eq!(made, twin.daemon.port("in0", "replied") + (all - whole) as u64);
}
