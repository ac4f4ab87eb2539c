//! Both places of access lists.

use classifier::acl::{Action, PortRange, Rule};

use super::rig::*;
use crate::acl::RuleCount;
use crate::path::Kind;
use crate::reason::Reason;
use crate::settings::Direction::{Egress, Ingress};
use crate::settings::PortSpec;

/// A rule about packets to port 53.
fn port_53(action: Action) -> Rule {
    Rule {
        dport: vec![PortRange { lo: 53, hi: 53 }],
        ..Rule::any(action, nowhere())
    }
}

#[test]
fn a_denied_packet_is_silent_and_counted() {
    let mut rig = Rig::new();
    let ingress = rig.acl(UPLINK, Ingress, vec![port_53(Action::Deny)], Action::Allow);
    let packet = udp4(0, 1, 64, 10);
    let bytes = packet.len() as u64;
    assert_eq!(rig.send_one(UPLINK, packet), None);
    assert!(
        rig.send_one(UPLINK, tcp4(0, 1, "S", 0)).is_some(),
        "the default allows"
    );
    assert_eq!(rig.drops(UPLINK), [(Reason::AclIngress, 1)]);
    assert_eq!(
        ingress.counters(),
        [
            RuleCount { packets: 1, bytes },
            RuleCount {
                packets: 1,
                bytes: tcp4(0, 1, "S", 0).len() as u64
            },
        ]
    );
    rig.shared.set_acl(UPLINK, Ingress, None);
    assert!(rig.send_one(UPLINK, udp4(0, 1, 64, 10)).is_some());
}

#[test]
fn a_port_opens_with_its_lists() {
    let mut rig = Rig::new();
    let acl_ingress = Some(rig.acl(OTHER, Ingress, vec![], Action::Deny));
    rig.shared.open_port(
        UPLINK,
        &PortSpec {
            acl_ingress,
            ..spec(UPLINK)
        },
    );
    assert_eq!(rig.send_one(UPLINK, udp4(0, 1, 64, 10)), None);
    assert_eq!(rig.drops(UPLINK), [(Reason::AclIngress, 1)]);
}

#[test]
fn each_egress_port_asks_its_own_list() {
    let mut rig = Rig::new();
    let workload = rig.acl(WORKLOAD, Egress, vec![port_53(Action::Deny)], Action::Allow);
    let other = rig.acl(OTHER, Egress, vec![port_53(Action::Allow)], Action::Deny);
    let mix = (0..64).map(|i| {
        if i % 4 < 2 {
            udp4(0, 1 + i % 2, 64, 10)
        } else {
            tcp4(0, 1 + i % 2, "S", 0)
        }
    });
    let packets: Vec<_> = mix.collect();
    let sent = rig.send(UPLINK, &packets);
    // UDP to port 53 passes to port 2 only, TCP to port 1 only.
    assert_eq!(sent.len(), 32);
    assert!(
        sent.iter()
            .all(|s| (s.egress == OTHER) == (s.headers().dport == 53))
    );
    assert_eq!(rig.drops(UPLINK), [(Reason::AclEgress, 32)]);
    for list in [workload, other] {
        let packets: Vec<_> = list.counters().iter().map(|count| count.packets).collect();
        assert_eq!(packets, [16, 16]);
    }
}

#[test]
fn a_reject_is_answered() {
    let mut rig = Rig::new();
    rig.acl(UPLINK, Ingress, vec![port_53(Action::Reject)], Action::Allow);
    rig.acl(WORKLOAD, Egress, vec![], Action::Reject);
    let sent = rig.send_one(UPLINK, udp4(0, 2, 64, 10)).expect("answered");
    assert_eq!(
        (sent.kind, sent.egress, sent.headers().icmp),
        (Kind::Originated, UPLINK, Some((3, 13)))
    );
    let sent = rig.send_one(UPLINK, udp6(0, 2, 64, 10)).expect("answered");
    assert_eq!(sent.headers().icmp, Some((1, 1)));

    // A connection is reset by whoever it was for.
    let sent = rig.send_one(UPLINK, tcp4(0, 1, "S", 0)).expect("answered");
    verify(&sent.bytes);
    let headers = sent.headers();
    assert_eq!((headers.src, headers.dst), (0x0a01_0009, 0x0a00_0009));
    assert_eq!(
        (headers.sport, headers.dport, headers.tcp_flags),
        (80, 4000, 0x14)
    );
    assert_eq!(
        sent.bytes[42..46],
        1_000_001u32.to_be_bytes(),
        "acknowledges the SYN"
    );
    let sent = rig.send_one(UPLINK, tcp4(0, 1, "A", 9)).expect("answered");
    assert_eq!(
        (sent.headers().tcp_flags, &sent.bytes[38..42]),
        (0x04, &77u32.to_be_bytes()[..])
    );
    let sent = rig.send_one(UPLINK, tcp4(0, 1, "F", 9)).expect("answered");
    assert_eq!(
        sent.bytes[42..46],
        1_000_010u32.to_be_bytes(),
        "nine bytes and the FIN"
    );
    assert_eq!(
        rig.send_one(UPLINK, tcp4(0, 1, "RA", 0)),
        None,
        "a reset is never answered"
    );

    let totals = rig.totals(UPLINK);
    assert_eq!(totals.reason(Reason::AclRejectIngress).answered, 2);
    assert_eq!(totals.reason(Reason::AclRejectEgress).answered, 3);
    assert_eq!(rig.drops(UPLINK), [(Reason::AclRejectEgress, 1)]);
}

#[test]
fn answers_pass_no_list() {
    let mut rig = Rig::new();
    rig.acl(UPLINK, Egress, vec![], Action::Deny);
    let sent = rig.send_one(UPLINK, udp4(0, 1, 1, 10)).expect("answered");
    assert_eq!(sent.headers().icmp, Some((11, 0)));
}

#[test]
fn spoofed_packets_do_not_reach_the_rules() {
    let mut rig = Rig::new();
    let list = rig.acl(WORKLOAD, Ingress, vec![], Action::Allow);
    assert_eq!(rig.send_one(WORKLOAD, udp4(2, 0, 64, 10)), None);
    assert_eq!(list.counters(), [RuleCount::default()]);
}
