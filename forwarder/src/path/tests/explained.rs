//! `explain` says what a worker does.

use classifier::acl::{Action, Match, Rule};
use classifier::packet;

use super::rig::*;
use crate::fib::Group;
use crate::path::Kind;
use crate::path::explain::{Explanation, Fate, explain};
use crate::reason::Reason;
use crate::settings::Direction::{Egress, Ingress};

fn told(rig: &Rig, packet: &[u8]) -> Explanation {
    explain(&rig.shared, &rig.fib, &packet::parse(packet).unwrap(), UPLINK)
}

#[test]
fn it_names_rules_route_and_next_hop() {
    let mut rig = Rig::new();
    let any = |action| Rule::any(action, nowhere());
    let list = rig.acl(UPLINK, Ingress, vec![any(Action::Allow)], Action::Deny);
    rig.acl(WORKLOAD, Egress, vec![], Action::Allow);
    let forward = told(&rig, &udp4(0, 1, 64, 10));
    assert_eq!((forward.fate, forward.reason), (Fate::Forward, None));
    assert_eq!(
        forward.ingress_rule,
        Some(Match {
            action: Action::Allow,
            rule: 0
        })
    );
    assert_eq!(
        forward.egress_rule,
        Some(Match {
            action: Action::Allow,
            rule: -1
        })
    );
    assert_eq!(
        forward.route,
        Some((254, "10.1.0.0/16".parse().unwrap(), rig.groups[1]))
    );
    assert_eq!(
        forward.member.map(|(id, adj)| (id, adj.neighbour)),
        Some((rig.adjs[1], "10.1.0.1".parse().unwrap()))
    );
    assert_eq!((forward.egress_port, forward.resolved), (Some(WORKLOAD), true));
    assert_eq!(list.counters()[0].packets, 0, "nothing is counted");

    rig.acl(UPLINK, Ingress, vec![any(Action::Reject)], Action::Deny);
    let reject = told(&rig, &udp4(0, 1, 64, 10));
    assert_eq!(
        (reject.fate, reject.reason),
        (Fate::Reply, Some(Reason::AclRejectIngress))
    );
    assert_eq!((reject.egress_rule, reject.egress_port), (None, None));
    assert!(reject.route.is_some(), "the route is told even so");
    let later = edit4(udp4(0, 1, 64, 40), |ip| ip[7] = 9);
    assert_eq!(told(&rig, &later).fate, Fate::Drop, "no answer is due");
    rig.shared.set_acl(UPLINK, Ingress, None);

    rig.route("10.8.0.0/16", Group::Local);
    assert_eq!(told(&rig, &udp4(0, 8, 64, 10)).fate, Fate::Local);
    rig.route(
        "10.8.0.0/16",
        Group::Glean {
            ifindex: 11,
            port: Some(WORKLOAD),
        },
    );
    let waiting = told(&rig, &udp4(0, 8, 64, 10));
    assert_eq!(
        (waiting.fate, waiting.resolved, waiting.egress_port),
        (Fate::Forward, false, Some(WORKLOAD))
    );
    assert_eq!(rig.requests(), [], "nobody is asked for");
}

#[test]
fn it_agrees_with_what_happens() {
    let mut rig = Rig::new();
    rig.route("10.3.0.0/16", Group::Blackhole);
    rig.route("10.4.0.0/16", Group::Prohibit);
    rig.acl(OTHER, Egress, vec![], Action::Deny);
    for packet in [
        udp4(0, 1, 64, 10),
        udp4(0, 1, 1, 10),
        udp4(0, 2, 64, 10),
        udp4(0, 3, 64, 10),
        udp4(0, 4, 64, 10),
        udp4(0, 9, 64, 10),
        udp6(0, 1, 64, 10),
        udp6(0, 9, 64, 10),
        build4([127, 0, 0, 1], [10, 1, 0, 9], 64, 1),
    ] {
        let said = told(&rig, &packet);
        let dropped = rig.totals(UPLINK).dropped();
        let fate = match rig.send_one(UPLINK, packet) {
            Some(sent) if sent.kind == Kind::Transit => Fate::Forward,
            Some(_) => Fate::Reply,
            None => Fate::Drop,
        };
        assert_eq!(said.fate, fate, "{said:?}");
        if let (Fate::Drop, Some(reason)) = (fate, said.reason) {
            assert_eq!(rig.totals(UPLINK).dropped(), dropped + 1);
            assert!(rig.totals(UPLINK).reason(reason).packets > 0, "{reason}");
        }
    }
}
