//! The kernel as oracle: thousands of packets go through a forwarding kernel and through Margay, in two networks that are alike to the
//! last address, and what comes out is compared byte for byte. Where the two differ by intent, the difference is one of at most 20 in
//! [`differences`], with its source and the exact bytes that it means.
//!
//! ```text
//!   s ── in0 ┐           ┌ out0 ── d          (twice: r forwards in the kernel, r runs margayd)
//!            ├─ router r ┤
//!   10.10/16 ┘           └ low0 ── e          (MTU 1400; see `tests::twin`)
//! ```

pub mod differences;
pub mod packets;

use std::collections::BTreeMap;

use tests::margay::list;
use tests::twin::{Out, Twin};
use tests::{LIMIT, lab, wait_for};

use differences::{DIFFERENCES, Way, restore};
pub use differences::{is_error4, seal};
use packets::Packet;

/// The packet that the kernel is shown in the place of this one, and the differences that this is for.
fn instead(packet: &Packet) -> Option<(Packet, Vec<usize>)> {
    let mut shown = packet.clone();
    let mut why = Vec::new();
    for (number, difference) in DIFFERENCES.iter().enumerate() {
        if let Way::Instead(make) = difference.way
            && let Some(other) = make(&shown)
        {
            shown.1 = other;
            why.push(number);
        }
    }
    (!why.is_empty()).then_some((shown, why))
}

/// What Margay must have sent, given what the kernel has, and which differences were met.
fn changed(packet: &Packet, mut expected: Vec<Out>, margay: &[Out], met: &mut [u32]) -> Vec<Out> {
    for (number, difference) in DIFFERENCES.iter().enumerate() {
        if let Way::Change(change) = difference.way {
            let before = expected.clone();
            change(packet, &mut expected, margay);
            met[number] += u32::from(before != expected);
        }
    }
    expected
}

/// What frames are, in a few words: where they come out, ICMP type and code of errors, and lengths.
fn kinds(outs: &[Out]) -> String {
    let kind = |out: &Out| {
        let frame = &out.frame;
        let icmp = match (frame.get(12), frame.get(20), frame.get(23)) {
            (Some(8), _, Some(1)) => frame.get(34..36),
            (Some(0x86), Some(58), _) => frame.get(54..56),
            _ => None,
        };
        format!("{:?} {icmp:?}", out.at)
    };
    format!("{:?}", outs.iter().map(kind).collect::<Vec<_>>())
}

#[test]
fn the_kernel_is_the_oracle() {
    assert!(
        DIFFERENCES.len() <= 20,
        "{} intended differences",
        DIFFERENCES.len()
    );
    let Some(mut twin) = Twin::new("oracle", "", &[]) else {
        return;
    };
    let mut packets = packets::random(4000, 5);
    packets.extend(packets::fuzzed(1000, 5));
    packets.extend(packets::captured().unwrap_or_default());
    let kernel = twin.kernel.send(&packets);
    let margay = twin.margay.send(&packets);
    let others: BTreeMap<usize, _> = packets
        .iter()
        .enumerate()
        .filter_map(|(number, packet)| Some((number, instead(packet)?)))
        .collect();
    let shown: Vec<Packet> = others.values().map(|(packet, _)| packet.clone()).collect();
    let mut answers = twin.kernel.send(&shown).into_iter();
    let mut met = [0; DIFFERENCES.len()];
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (number, ((packet, kernel), margay)) in packets.iter().zip(&kernel).zip(&margay).enumerate() {
        let mut expected = kernel.clone();
        if let Some((other, why)) = others.get(&number) {
            expected = answers.next().expect("an answer for each");
            restore(&packet.1, &other.1, &mut expected);
            if expected != *kernel {
                why.iter().for_each(|number| met[*number] += 1);
            }
        }
        let expected = changed(packet, expected, margay, &mut met);
        if *margay != expected {
            let hex: String = packet
                .1
                .iter()
                .take(120)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            wrong.entry(format!("expected {}, got {}", kinds(&expected), kinds(margay))).or_default().push(format!(
                "packet of {} bytes {hex}\n  kernel {kernel:?}\n  expected {expected:?}\n  margay {margay:?}",
                packet.1.len()
            ));
        }
    }
    for (kinds, cases) in &wrong {
        eprintln!("{} times {kinds}:", cases.len());
        cases.iter().take(3).for_each(|case| eprintln!("{case}"));
    }
    for (difference, met) in DIFFERENCES.iter().zip(met) {
        lab::announce(&format!("{met:5} {} ({})", difference.name, difference.source));
    }
    let wrong: usize = wrong.values().map(Vec::len).sum();
    assert_eq!(wrong, 0, "of {} packets", packets.len());
    let idle: Vec<&str> = DIFFERENCES
        .iter()
        .zip(met)
        .filter(|(_, met)| *met == 0)
        .map(|(difference, _)| difference.name)
        .collect();
    assert!(idle.is_empty(), "differences that no packet shows: {idle:?}");
    counted(&twin, &packets, &margay);
}

/// What the counters say is what went in and came out.
#[track_caller]
fn counted(twin: &Twin, packets: &[Packet], outs: &[Vec<Out>]) {
    let daemon = &twin.daemon;
    daemon.check_sums();
    let silent = outs.iter().filter(|outs| outs.is_empty()).count() as u64;
    wait_for("all that went in is counted", LIMIT, || {
        let of = |counter| daemon.port("in0", counter);
        let by_reason: BTreeMap<String, u64> = list(&daemon.json("drops"), "drops")
            .iter()
            .filter_map(|drop| Some((drop["reason"].as_str()?.to_owned(), drop["packets"].as_u64()?)))
            .collect();
        let (rx, dropped, punted) = (of("rx_packets"), of("dropped"), of("punted"));
        let answered = of("forwarded") + of("replied");
        let reasons: u64 = by_reason.values().sum();
        let sent = twin.margay.sent();
        if rx == sent && dropped == reasons && dropped + punted == silent && answered == sent - silent {
            Ok(())
        } else {
            Err(format!(
                "{sent} sent, {rx} received, {silent} of {} without an answer, {dropped} dropped, {punted} punted, {answered} went on: {by_reason:?}",
                packets.len()
            ))
        }
    });
}
