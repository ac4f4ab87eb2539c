use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use classifier::acl::{Action, Match};
use classifier::filter::Filter;
use proptest::prelude::*;

use super::*;
use crate::fib::{AdjId, GroupId};
use crate::reason::Reason;
use crate::settings::PortId;

fn rule(number: i32) -> Decided {
    Decided {
        list: 7,
        found: Match {
            action: Action::Deny,
            rule: number,
        },
    }
}

#[test]
fn the_last_dropped_packets_are_kept_and_older_ones_go() {
    let recent = Recent::new();
    let mut out = Vec::new();
    assert_eq!((recent.last(10, &mut out), out.len()), (0, 0));
    for number in 0..KEPT as u64 + 100 {
        let bytes = [number as u8; 200];
        recent.keep(number, PortId(3), Reason::NoRoute, rule(-1), 200, &bytes);
    }
    assert_eq!(recent.last(usize::MAX, &mut out), 0);
    assert_eq!((out.len(), out[0].time), (KEPT, 100));
    let last = out.last().unwrap();
    assert_eq!(
        (last.time, last.port, last.reason),
        (KEPT as u64 + 99, PortId(3), Reason::NoRoute)
    );
    assert_eq!(
        (last.rule, last.len, last.data.len()),
        (Some(rule(-1)), 200, KEPT_BYTES)
    );
    out.clear();
    recent.keep(1, PortId(1023), Reason::Oversize, Decided::NONE, 5, b"abcde");
    recent.last(1, &mut out);
    assert_eq!(
        (&out[0].data[..], out[0].rule, out[0].port),
        (&b"abcde"[..], None, PortId(1023))
    );
}

/// A reader that looks all the time meets only whole packets, however fast they are overwritten.
#[test]
fn torn_entries_are_left_out() {
    let recent = Arc::new(Recent::new());
    let over = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (recent, over) = (recent.clone(), over.clone());
        move || {
            let mut number = 0_u64;
            while !over.load(Ordering::Relaxed) {
                let bytes = number.to_le_bytes().repeat(KEPT_BYTES / 8);
                let len = 1 + (number % KEPT_BYTES as u64) as u32;
                recent.keep(
                    number,
                    PortId((number % 1024) as u16),
                    Reason::NoRoute,
                    rule((number % 1000) as i32),
                    len,
                    &bytes[..len as usize],
                );
                number += 1;
            }
        }
    });
    let (mut whole, mut torn, mut rounds) = (0, 0, 0);
    let enough = if cfg!(miri) { 20 } else { 100_000 };
    while whole < enough || rounds < 20 {
        let mut out = Vec::new();
        torn += recent.last(KEPT, &mut out);
        for packet in &out {
            let number = packet.time;
            let bytes = number.to_le_bytes().repeat(KEPT_BYTES / 8);
            assert_eq!(
                packet.len,
                1 + (number % KEPT_BYTES as u64) as u32,
                "all of one packet"
            );
            assert_eq!(packet.data, bytes[..packet.len as usize]);
            assert_eq!(
                (packet.port, packet.rule),
                (PortId((number % 1024) as u16), Some(rule((number % 1000) as i32)))
            );
        }
        assert!(out.windows(2).all(|pair| pair[0].time < pair[1].time), "in order");
        whole += out.len();
        rounds += 1;
    }
    over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    println!("{whole} whole, {torn} torn");
}

fn end() -> impl Strategy<Value = End> {
    let reason = (0..Reason::COUNT).prop_map(|at| Reason::ALL[at]);
    prop_oneof![
        Just(End::Forwarded),
        Just(End::Held),
        reason.clone().prop_map(End::Replied),
        reason.prop_map(End::Dropped)
    ]
}

fn decided() -> impl Strategy<Value = Option<Decided>> {
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Reject)];
    proptest::option::of(
        (1_u32.., -1_i32..1 << 24, action).prop_map(|(list, rule, action)| Decided {
            list,
            found: Match { action, rule },
        }),
    )
}

fn way() -> impl Strategy<Value = Option<Way>> {
    let link = prop_oneof![
        (any::<[u8; 6]>(), any::<[u8; 6]>()).prop_map(|(dst, src)| LinkState::Ready { dst, src }),
        Just(LinkState::Waiting),
        Just(LinkState::Never)
    ];
    let port = proptest::option::of((0_u16..1024).prop_map(PortId));
    let adj = proptest::option::of(any::<u32>().prop_map(AdjId));
    proptest::option::of(
        (
            any::<u32>(),
            adj,
            any::<(u32, u32, u32)>(),
            port,
            any::<IpAddr>(),
            link,
        )
            .prop_map(
                |(group, adj, (hash, ifindex, mtu), egress, neighbour, link)| Way {
                    group: GroupId(group),
                    adj,
                    hash,
                    egress,
                    ifindex,
                    neighbour,
                    mtu,
                    link,
                },
            ),
    )
}

fn record() -> impl Strategy<Value = Record> {
    let point = prop_oneof![
        Just(Point::Rx),
        Just(Point::Tx),
        Just(Point::Drop),
        Just(Point::Trace),
        Just(Point::Released)
    ];
    (
        any::<(u64, bool, u32)>(),
        point,
        0_u16..1024,
        end(),
        decided(),
        decided(),
        way(),
    )
        .prop_map(
            |((time, originated, len), point, ingress, end, ingress_rule, egress_rule, way)| Record {
                time,
                point,
                ingress: PortId(ingress),
                end,
                originated,
                len,
                ingress_rule,
                egress_rule,
                way,
            },
        )
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(record in record()) {
        let words: Vec<AtomicU64> = (0..Record::WORDS).map(|_| AtomicU64::new(u64::MAX)).collect();
        record.write(&words);
        prop_assert_eq!(Record::read(&words), Some(record));
    }

    #[test]
    fn words_that_nobody_wrote_do_no_harm(row in any::<[u64; Record::WORDS]>()) {
        let words: Vec<AtomicU64> = row.into_iter().map(AtomicU64::new).collect();
        let _ = Record::read(&words);
    }
}

#[test]
fn there_are_so_many_taps_and_no_more() {
    let domain = Domain::new();
    let watch = Watch::new(2);
    let spec = TapSpec {
        filter: Filter::all(),
        points: Points::default(),
        ports: PortSet::ALL,
        snap: 64,
        slots: 64,
    };
    let taps: Vec<_> = (0..MAX_TAPS)
        .map(|_| watch.set(spec.clone(), &domain).unwrap())
        .collect();
    assert!(watch.set(spec.clone(), &domain).is_none());
    watch.unset(&taps[3], &domain);
    assert!(watch.set(spec, &domain).is_some());
}
