//! What taps and the rings of dropped packets show of a packet's way.

use std::sync::Arc;
use std::time::Duration;

use classifier::acl::{Action, Rule};
use classifier::filter::{Expr, Filter, Side, Test};

use super::rig::*;
use crate::fib::AdjState;
use crate::reason::Reason;
use crate::settings::Direction::{Egress, Ingress};
use crate::settings::PortId;
use crate::watch::{End, LinkState, Point, Points, PortSet, Record, Tap, TapSpec};

/// A tap of all packets and ports at these points.
pub(super) fn tap(rig: &Rig, points: &[Point], slots: usize) -> Arc<Tap> {
    let spec = TapSpec {
        filter: Filter::all(),
        points: points
            .iter()
            .fold(Points::default(), |set, point| set.with(*point)),
        ports: PortSet::ALL,
        snap: 128,
        slots,
    };
    rig.shared
        .watch()
        .set(spec, rig.shared.domain())
        .expect("there is room")
}

/// What a tap has told since the last time.
pub(super) fn told(tap: &Tap) -> Vec<(Record, Vec<u8>)> {
    let mut told = Vec::new();
    tap.read(0, |record, bytes| {
        told.push((*record, bytes.to_vec()));
        true
    });
    told
}

/// Point, end and reason of each.
fn ends(told: &[(Record, Vec<u8>)]) -> Vec<(Point, End)> {
    told.iter()
        .map(|(record, _)| (record.point, record.end))
        .collect()
}

const ALL: [Point; 4] = [Point::Rx, Point::Tx, Point::Drop, Point::Released];

#[test]
fn a_packet_is_shown_as_it_came_in_and_as_it_leaves() {
    let mut rig = Rig::new();
    let tap = tap(&rig, &ALL, 256);
    let packet = udp4(0, 1, 64, 400);
    let sent = rig.send_one(UPLINK, packet.clone()).expect("it is sent on");
    let told = told(&tap);
    assert_eq!(
        ends(&told),
        [(Point::Rx, End::Forwarded), (Point::Tx, End::Forwarded)]
    );
    assert_eq!(told[0].1, packet[..128], "as it came in, up to the snap length");
    assert_eq!(told[1].1, sent.bytes[..128], "as it leaves");
    for (record, _) in &told {
        assert_eq!((record.ingress, record.len), (UPLINK, packet.len() as u32));
        let way = record.way.expect("it has a way");
        assert_eq!(
            (way.egress, way.group, way.adj),
            (Some(WORKLOAD), rig.groups[1], Some(rig.adjs[1]))
        );
        assert_eq!(
            way.link,
            LinkState::Ready {
                dst: neighbour_mac(WORKLOAD),
                src: mac(WORKLOAD)
            }
        );
    }
}

#[test]
fn drops_are_shown_with_their_rule_and_kept_without_being_asked_for() {
    let mut rig = Rig::new();
    let list = rig.acl(
        UPLINK,
        Ingress,
        vec![Rule::any(Action::Deny, nowhere())],
        Action::Allow,
    );
    let tap = tap(&rig, &ALL, 256);
    let packet = udp4(0, 1, 64, 400);
    rig.send(UPLINK, std::slice::from_ref(&packet));
    let dropped = End::Dropped(Reason::AclIngress);
    let shown = told(&tap);
    assert_eq!(ends(&shown), [(Point::Rx, dropped), (Point::Drop, dropped)]);
    for (record, bytes) in &shown {
        let rule = record.ingress_rule.expect("a rule decided");
        assert_eq!(
            (rule.list, rule.found.rule, rule.found.action),
            (list.serial(), 0, Action::Deny)
        );
        assert_eq!((record.egress_rule, bytes), (None, &packet[..128].to_vec()));
    }
    // A frame that is no packet is shown at rx and drop as well.
    rig.send(UPLINK, &[packet[..20].to_vec()]);
    let truncated = End::Dropped(Reason::Truncated);
    assert_eq!(
        ends(&told(&tap)),
        [(Point::Rx, truncated), (Point::Drop, truncated)]
    );
    let mut kept = Vec::new();
    assert_eq!(rig.shared.watch().recent(0).last(10, &mut kept), 0);
    assert_eq!(kept.len(), 2);
    assert_eq!(
        (kept[0].reason, kept[0].port, kept[0].len),
        (Reason::AclIngress, UPLINK, 442)
    );
    assert_eq!(kept[0].rule.map(|rule| rule.list), Some(list.serial()));
    assert_eq!(kept[0].data, packet[..128]);
    assert_eq!((kept[1].reason, kept[1].rule), (Reason::Truncated, None));
    assert_eq!(kept[1].data, packet[..20]);
}

#[test]
fn an_answer_is_shown_where_it_leaves() {
    let mut rig = Rig::new();
    let tap = tap(&rig, &ALL, 256);
    rig.send(UPLINK, &[udp4(0, 1, 1, 10)]);
    let replied = End::Replied(Reason::TtlExceeded);
    let shown = told(&tap);
    assert_eq!(ends(&shown), [(Point::Rx, replied), (Point::Tx, replied)]);
    assert!(!shown[0].0.originated && shown[1].0.originated);
    assert_eq!(shown[1].1[23], 1, "it is ICMP");
}

#[test]
fn a_packet_that_waits_is_shown_again_when_it_goes_on() {
    let mut rig = Rig::new();
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    let trace = tap(&rig, &[Point::Trace], 256);
    let tx = tap(&rig, &[Point::Tx], 256);
    rig.send(UPLINK, &[udp4(0, 1, 64, 10)]);
    let shown = told(&trace);
    assert_eq!(ends(&shown), [(Point::Trace, End::Held)]);
    assert_eq!(shown[0].0.way.map(|way| way.link), Some(LinkState::Waiting));
    assert_eq!(told(&tx), []);
    rig.set_state(
        WORKLOAD,
        AdjState::Resolved {
            dst: neighbour_mac(WORKLOAD),
            src: mac(WORKLOAD),
        },
    );
    assert_eq!(rig.after(Duration::from_millis(1)).len(), 1);
    assert_eq!(ends(&told(&trace)), [(Point::Released, End::Forwarded)]);
    assert_eq!(told(&tx).len(), 1);
    // And one whose neighbour does not turn up.
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    rig.send(UPLINK, &[udp4(0, 1, 64, 10)]);
    rig.after(Duration::from_secs(4));
    let unresolved = End::Replied(Reason::NeighbourUnresolved);
    assert_eq!(
        ends(&told(&trace)),
        [(Point::Trace, End::Held), (Point::Released, unresolved)]
    );
}

#[test]
fn only_what_the_filter_and_the_ports_name_is_shown() {
    let mut rig = Rig::new();
    rig.acl(OTHER, Egress, vec![], Action::Deny);
    let expr = Expr::Test(Test::Net {
        side: Side::Dst,
        family: classifier::packet::Family::V4,
        bits: 0x0a01_0000,
        mask: 0xffff_0000,
    });
    let spec = |ports: &[PortId]| TapSpec {
        filter: Filter::compile(&expr).unwrap(),
        points: Points::default()
            .with(Point::Rx)
            .with(Point::Tx)
            .with(Point::Drop),
        ports: PortSet::of(ports),
        snap: 64,
        slots: 256,
    };
    let set = |ports| rig.shared.watch().set(spec(ports), rig.shared.domain()).unwrap();
    let (uplink, workload) = (set(&[UPLINK]), set(&[WORKLOAD]));
    rig.send(
        UPLINK,
        &[
            udp4(0, 1, 64, 10),
            udp4(0, 2, 64, 10),
            udp6(0, 1, 64, 10),
            udp4(0, 1, 1, 10),
        ],
    );
    assert_eq!(
        ends(&told(&uplink)),
        [
            (Point::Rx, End::Forwarded),
            (Point::Rx, End::Replied(Reason::TtlExceeded))
        ],
        "the answer goes to another address"
    );
    assert_eq!(ends(&told(&workload)), [(Point::Tx, End::Forwarded)]);
    rig.shared.watch().unset(&uplink, rig.shared.domain());
    rig.send(UPLINK, &[udp4(0, 1, 64, 10)]);
    assert_eq!((told(&uplink).len(), told(&workload).len()), (0, 1));
}

#[test]
fn a_full_ring_loses_what_it_shows_and_no_packet() {
    let mut rig = Rig::new();
    let tap = tap(&rig, &[Point::Rx, Point::Tx], 64);
    for _ in 0..10 {
        assert_eq!(rig.send(UPLINK, &vec![udp4(0, 1, 64, 10); 64]).len(), 64);
    }
    assert_eq!(told(&tap).len(), 64);
    assert_eq!(tap.lost(), 10 * 64 * 2 - 64);
    rig.send(UPLINK, &[udp4(0, 1, 64, 10)]);
    assert_eq!(told(&tap).len(), 2, "there is room again");
}
