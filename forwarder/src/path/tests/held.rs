//! Packets that wait for a neighbour.

use std::time::Duration;

use classifier::acl::Action;

use super::rig::*;
use crate::fib::{AdjState, Adjacency, Group, Member};
use crate::path::Kind;
use crate::reason::Reason;
use crate::settings::Direction::Egress;
use crate::settings::PortId;
use crate::tables::{MAX_HELD, MAX_HELD_EACH, MAX_UNRESOLVED, NeighbourRequest};

const MS: Duration = Duration::from_millis(1);
/// Longer than any packet waits.
const TOO_LONG: Duration = Duration::from_secs(4);

fn resolved(port: PortId) -> AdjState {
    AdjState::Resolved {
        dst: neighbour_mac(port),
        src: mac(port),
    }
}

#[test]
fn packets_wait_for_a_gateway_and_leave_in_order() {
    let mut rig = Rig::new();
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    let packets: Vec<_> = (0..5).map(|i| udp4(0, 1, 64, i)).collect();
    assert_eq!(rig.send(UPLINK, &packets), []);
    assert_eq!(
        rig.requests(),
        [NeighbourRequest {
            ifindex: 11,
            address: "10.1.0.1".parse().unwrap()
        }]
    );
    assert_eq!(rig.totals(UPLINK).held, 5);
    assert_eq!(rig.after(MS), []);
    assert!(rig.path.next_deadline().is_some());

    rig.set_state(WORKLOAD, resolved(WORKLOAD));
    // A packet that comes at that moment does not overtake those that wait.
    let sent = rig.send(UPLINK, &[udp4(0, 1, 64, 5)]);
    let lens: Vec<_> = sent.iter().map(|s| s.bytes.len() - 42).collect();
    assert_eq!(lens, [0, 1, 2, 3, 4, 5]);
    assert!(sent.iter().all(|s| s.egress == WORKLOAD && s.headers().ttl == 63));
    let totals = rig.totals(UPLINK);
    assert_eq!((totals.held, totals.forwarded, totals.dropped()), (0, 6, 0));
    assert_eq!(rig.path.next_deadline(), None);
}

/// A long queue is not looked through at every change; what has become sendable meanwhile goes first all the same.
#[test]
fn nothing_overtakes_what_waits_in_a_long_queue() {
    let mut rig = Rig::new();
    let glean = Group::Glean {
        ifindex: 11,
        port: Some(WORKLOAD),
    };
    rig.route("10.77.0.0/16", glean.clone());
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    let packets: Vec<_> = (0..3).map(|i| udp4(0, 1, 64, i)).collect();
    assert_eq!(rig.send(UPLINK, &packets), []);
    let others: Vec<_> = (1..60)
        .map(|host| build4([10, 0, 0, 9], [10, 77, 0, host], 64, 1))
        .collect();
    assert_eq!(rig.send(UPLINK, &others), []);
    rig.route("10.78.0.0/16", glean);
    assert_eq!(rig.after(MS), [], "the queue has just been looked through");
    rig.set_state(WORKLOAD, resolved(WORKLOAD));
    let sent = rig.send(UPLINK, &[udp4(0, 1, 64, 3)]);
    let lens: Vec<_> = sent.iter().map(|s| s.bytes.len() - 42).collect();
    assert_eq!(lens, [0, 1, 2, 3]);
    assert_eq!(rig.path.held(), others.len());
}

#[test]
fn a_host_of_a_connected_prefix_is_asked_for_and_becomes_a_route() {
    let mut rig = Rig::new();
    rig.route(
        "10.1.0.0/16",
        Group::Glean {
            ifindex: 11,
            port: Some(WORKLOAD),
        },
    );
    rig.route(
        "2001:db8:1::/48",
        Group::Glean {
            ifindex: 11,
            port: Some(WORKLOAD),
        },
    );
    assert_eq!(
        rig.send(UPLINK, &[udp4(0, 1, 64, 1), udp6(0, 1, 64, 2), udp4(0, 1, 64, 3)]),
        []
    );
    let addresses: Vec<_> = rig
        .requests()
        .iter()
        .map(|request| request.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.1.0.9", "2001:db8:1::9"]);
    let members = vec![Member {
        adj: rig.adjs[1],
        weight: 1,
    }];
    rig.route(
        "10.1.0.9/32",
        Group::Forward {
            members,
            prefsrc: None,
        },
    );
    let sent = rig.after(MS);
    assert_eq!(sent.len(), 2, "the other host is still waited for");
    assert!(sent.iter().all(|s| s.bytes[..6] == neighbour_mac(WORKLOAD)));
    assert_eq!(rig.totals(UPLINK).held, 1);
}

#[test]
fn a_neighbour_that_fails_is_answered() {
    let mut rig = Rig::new();
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    assert_eq!(rig.send(UPLINK, &[udp4(0, 1, 64, 1), udp6(0, 1, 64, 2)]), []);
    rig.set_state(WORKLOAD, AdjState::Failed);
    let icmp: Vec<_> = rig
        .after(MS)
        .iter()
        .map(|sent| (sent.kind, sent.headers().icmp))
        .collect();
    assert_eq!(
        icmp,
        [(Kind::Originated, Some((3, 1))), (Kind::Originated, Some((1, 3)))]
    );
    // While it stays so each packet is answered at once, and the kernel is asked again, but not for each packet.
    rig.requests();
    assert_eq!(rig.send(UPLINK, &vec![udp4(0, 1, 64, 1); 20]).len(), 20);
    assert!(rig.requests().len() <= 1);
    assert_eq!(rig.totals(UPLINK).replied, 22);
}

#[test]
fn who_waits_too_long_is_answered_or_dropped() {
    let mut rig = Rig::new();
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    let not_due = edit4(udp4(0, 1, 64, 40), |ip| ip[7] = 9);
    rig.send(UPLINK, &[udp4(0, 1, 64, 1), not_due]);
    let sent = rig.after(TOO_LONG);
    assert_eq!(
        sent.iter().map(|s| s.headers().icmp).collect::<Vec<_>>(),
        [Some((3, 1))]
    );
    assert_eq!(rig.drops(UPLINK), [(Reason::NeighbourUnresolved, 1)]);
    assert_eq!(rig.path.held(), 0);
}

#[test]
fn a_neighbour_is_asked_for_again_once_a_second() {
    let mut rig = Rig::new();
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    rig.send(UPLINK, &vec![udp4(0, 1, 64, 1); 3]);
    let mut asked = rig.requests().len();
    for _ in 0..30 {
        rig.after(100 * MS);
        asked += rig.requests().len();
    }
    assert!((3..=4).contains(&asked), "{asked} requests in 3 s");
}

#[test]
fn every_bound_of_the_queue_holds() {
    let mut rig = Rig::new();
    rig.route(
        "10.1.0.0/16",
        Group::Glean {
            ifindex: 11,
            port: Some(WORKLOAD),
        },
    );
    let to = |host: u8| build4([10, 0, 0, 9], [10, 1, 0, host], 64, 1);
    rig.send(UPLINK, &vec![to(1); 20]);
    assert_eq!(rig.totals(UPLINK).held as usize, MAX_HELD_EACH);
    assert_eq!(rig.drops(UPLINK), [(Reason::HoldFull, 20 - MAX_HELD_EACH as u64)]);
    // A scan: one packet for each of 255 more hosts.
    rig.send(
        UPLINK,
        &(0..255).filter(|host| *host != 1).map(to).collect::<Vec<_>>(),
    );
    assert_eq!(rig.path.held(), MAX_HELD_EACH + MAX_UNRESOLVED - 1);
    assert_eq!(rig.requests().len(), MAX_UNRESOLVED);
    // As many packets as may wait in all.
    let flood: Vec<_> = (0..128u8)
        .flat_map(|host| (0..8).map(move |_| to(host)))
        .collect();
    rig.send(UPLINK, &flood);
    assert_eq!(rig.path.held(), MAX_HELD);
    assert_eq!(rig.totals(UPLINK).held as usize, MAX_HELD);
    // All leave when their time is over, and there is room again.
    rig.after(TOO_LONG);
    assert_eq!(rig.path.held(), 0);
    rig.send(UPLINK, &[to(9)]);
    assert_eq!(rig.path.held(), 1);
}

#[test]
fn what_waits_on_one_port_is_dropped_with_it() {
    let mut rig = Rig::new();
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    rig.send(UPLINK, &[udp4(0, 1, 64, 1)]);
    rig.send(OTHER, &[udp4(2, 1, 64, 1)]);
    rig.purge(Some(UPLINK));
    assert_eq!((rig.totals(UPLINK).held, rig.totals(OTHER).held), (0, 1));
    assert_eq!(rig.drops(UPLINK), [(Reason::PortClosed, 1)]);
}

#[test]
fn a_packet_that_waited_passes_the_list_of_the_port_it_leaves_by() {
    let mut rig = Rig::new();
    rig.acl(OTHER, Egress, vec![], Action::Deny);
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    rig.send(UPLINK, &[udp4(0, 1, 64, 1)]);
    // The route moves to another port while the packet waits.
    rig.fib
        .insert(254, "10.1.0.0/16".parse().unwrap(), rig.groups[2])
        .unwrap();
    assert_eq!(rig.after(MS), []);
    assert_eq!(rig.drops(UPLINK), [(Reason::AclEgress, 1)]);
}

#[test]
fn a_denied_packet_asks_for_nobody() {
    let mut rig = Rig::new();
    rig.acl(WORKLOAD, Egress, vec![], Action::Deny);
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    rig.send(UPLINK, &[udp4(0, 1, 64, 1)]);
    assert_eq!((rig.path.held(), rig.requests()), (0, vec![]));
}

#[test]
fn a_packet_waits_on_when_its_gateway_changes() {
    let mut rig = Rig::new();
    rig.set_state(WORKLOAD, AdjState::Unresolved);
    rig.send(UPLINK, &[udp4(0, 1, 64, 1)]);
    let adjacency = *rig.fib.adjacency(rig.adjs[1]).unwrap();
    rig.fib.set_adjacency(
        rig.adjs[1],
        Adjacency {
            neighbour: "10.1.0.2".parse().unwrap(),
            ..adjacency
        },
    );
    assert_eq!(rig.after(MS), []);
    let addresses: Vec<_> = rig
        .requests()
        .iter()
        .map(|request| request.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.1.0.1", "10.1.0.2"]);
    assert_eq!(rig.path.held(), 1);
    rig.set_state(WORKLOAD, resolved(WORKLOAD));
    assert_eq!(rig.after(MS).len(), 1);
}
