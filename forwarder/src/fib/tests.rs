//! The FIB as workers and as the control thread see it.

use std::sync::Arc;

use classifier::packet::{Family, Fragment};
use proptest::prelude::*;

use super::*;
use crate::settings::{MultipathHash, PortId};

fn fib() -> (Fib, Domain) {
    let domain = Domain::new();
    (
        Fib::new(Arc::new(Routes::new(&domain, MultipathHash::L4, 1))),
        domain,
    )
}

fn forward(fib: &mut Fib, neighbour: &str) -> GroupId {
    let adj = fib.add_adjacency(Adjacency {
        port: Some(PortId(1)),
        ifindex: 7,
        neighbour: neighbour.parse().unwrap(),
        mtu: 1500,
        state: AdjState::Resolved {
            dst: [2; 6],
            src: [4; 6],
        },
    });
    fib.add_group(Group::Forward {
        members: vec![Member { adj, weight: 1 }],
        prefsrc: None,
    })
}

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

/// A flow between documentation addresses.
fn headers(sport: u16) -> Headers {
    Headers {
        family: Family::V4,
        src: 0xc000_0201,
        dst: 0xc633_6401,
        proto: 17,
        sport,
        dport: 53,
        tcp_flags: 0,
        icmp: None,
        fragment: Fragment::Whole,
        dscp: 0,
        ttl: 64,
        dont_fragment: false,
        source_route: false,
        l3: 14,
        l4: 34,
        len: 100,
        flow_label: 0,
        flaw: None,
    }
}

#[test]
fn tables_answer_in_order() {
    let (mut fib, domain) = fib();
    let (main, other) = (forward(&mut fib, "192.0.2.1"), forward(&mut fib, "192.0.2.2"));
    let v6 = forward(&mut fib, "2001:db8::1");
    fib.insert(254, prefix("0.0.0.0/0"), main).unwrap();
    fib.insert(100, prefix("10.0.0.0/8"), other).unwrap();
    fib.bulk(
        254,
        vec![(prefix("10.1.0.0/16"), main), (prefix("2001:db8::/32"), v6)],
    )
    .unwrap();
    let keys = [
        (Family::V4, 0x0a01_0001),
        (Family::V6, 0x2001_0db8 << 96),
        (Family::V6, 1),
        (Family::V4, 1),
    ];

    let reader = domain.register();
    let mut out = [0; 4];
    fib.routes()
        .lookup_burst(&reader.online(), VrfId::DEFAULT, &keys, &mut out);
    assert_eq!(
        out,
        [main.0, v6.0, lpm::NO_ROUTE, main.0],
        "table 100 is not looked up"
    );

    fib.set_tables(&[100, 254, 100]).unwrap();
    assert_eq!(fib.tables(), [100, 254]);
    fib.routes()
        .lookup_burst(&reader.online(), VrfId::DEFAULT, &keys, &mut out);
    assert_eq!(
        out,
        [other.0, v6.0, lpm::NO_ROUTE, main.0],
        "the first table with a route answers"
    );
    assert_eq!(
        fib.lookup(VrfId::DEFAULT, "10.1.0.1".parse().unwrap()),
        Some((100, prefix("10.0.0.0/8"), other))
    );
    assert_eq!(fib.lookup(VrfId::DEFAULT, "2001:db9::1".parse().unwrap()), None);
    assert_eq!(fib.iter(254).count(), 3);
    assert_eq!(fib.remove(254, prefix("10.1.0.0/16")), Ok(Some(main)));
    assert_eq!((fib.len(254), fib.get(254, prefix("10.1.0.0/16"))), (2, None));
}

#[test]
fn vrfs_do_not_know_each_others_routes() {
    let (mut fib, domain) = fib();
    let (red, blue) = (forward(&mut fib, "192.0.2.1"), forward(&mut fib, "192.0.2.2"));
    let throw = fib.add_group(Group::Throw);
    fib.insert(10, prefix("10.0.0.0/8"), red).unwrap();
    fib.insert(20, prefix("10.0.0.0/8"), blue).unwrap();
    fib.insert(20, prefix("2001:db8::/32"), blue).unwrap();
    let vrf = |v4: &[u32], v6: &[u32]| VrfTables {
        v4: v4.to_vec(),
        v6: v6.to_vec(),
    };
    let one = fib.add_vrf(vrf(&[10], &[10])).unwrap();
    let two = fib.add_vrf(vrf(&[20], &[20])).unwrap();
    let both = fib.add_vrf(vrf(&[10, 20], &[])).unwrap();
    let reader = domain.register();
    let keys = [(Family::V4, 0x0a01_0001), (Family::V6, 0x2001_0db8 << 96)];
    let found = |fib: &Fib, vrf| {
        let mut out = [0; 2];
        fib.routes().lookup_burst(&reader.online(), vrf, &keys, &mut out);
        let told = ["10.1.0.1", "2001:db8::"].map(|text| fib.lookup(vrf, text.parse().unwrap()));
        let told = told.map(|found| found.map_or(lpm::NO_ROUTE, |(_, _, group)| group.0));
        assert_eq!(told, out, "both sides look up alike");
        out
    };
    let none = lpm::NO_ROUTE;
    assert_eq!(found(&fib, VrfId::DEFAULT), [none, none]);
    assert_eq!(found(&fib, one), [red.0, none]);
    assert_eq!(found(&fib, two), [blue.0, blue.0]);
    assert_eq!(found(&fib, both), [red.0, none]);
    // A route that throws leads to the next table; after the last one there is none.
    fib.insert(10, prefix("10.1.0.0/16"), throw).unwrap();
    assert_eq!(found(&fib, both), [blue.0, none]);
    assert_eq!(found(&fib, one), [throw.0, none]);
    assert!(fib.set_vrf(both, vrf(&[20], &[20])).unwrap());
    assert_eq!(found(&fib, both), [blue.0, blue.0]);
    // Tables go when neither a prefix nor a VRF needs them.
    assert!(!fib.remove_table(10), "it has prefixes");
    assert_eq!(fib.remove_vrf(one), Some(vrf(&[10], &[10])));
    fib.remove(10, prefix("10.0.0.0/8")).unwrap();
    fib.remove(10, prefix("10.1.0.0/16")).unwrap();
    assert!(fib.remove_table(10));
    assert_eq!(
        found(&fib, VrfId(99)),
        [none, none],
        "a VRF that is not there has no routes"
    );
}

#[test]
fn numbers_come_back_only_when_readers_have_passed() {
    let (mut fib, domain) = fib();
    let mut reader = domain.register();
    let group = forward(&mut fib, "192.0.2.1");
    let adj = AdjId(0);
    {
        let online = reader.online();
        assert_eq!(fib.routes().member(&online, group, 0), Some(adj));
        fib.remove_group(group);
        fib.remove_adjacency(adj);
        domain.reclaim();
        assert_eq!(
            (fib.group(group), fib.adjacency(adj), fib.adjacencies().count()),
            (None, None, 0)
        );
        let next = fib.add_group(Group::Blackhole);
        assert_ne!(next, group, "a worker may still hold the old number");
        assert_eq!(
            fib.routes().member(&online, group, 0),
            Some(adj),
            "and goes by it to the end"
        );
        assert!(!fib.routes().adjacency(&online, adj).lost());
    }
    reader.quiescent();
    domain.reclaim();
    {
        let online = reader.online();
        assert_eq!(fib.routes().member(&online, group, 0), None);
        assert!(fib.routes().adjacency(&online, adj).lost());
    }
    reader.quiescent();
    domain.reclaim();
    assert_eq!(fib.add_group(Group::Blackhole), group);
    assert_eq!(fib.group(group), Some(&Group::Blackhole));
}

#[test]
fn an_adjacency_changes_for_all_its_prefixes_and_tells_its_use() {
    let (mut fib, domain) = fib();
    let group = forward(&mut fib, "192.0.2.1");
    let (id, before) = fib.adjacencies().map(|(id, adj)| (id, *adj)).next().unwrap();
    let generation = fib.routes().generation();
    assert!(fib.set_adjacency(
        id,
        Adjacency {
            state: AdjState::Failed,
            ..before
        }
    ));
    assert!(fib.routes().generation() > generation);
    let reader = domain.register();
    let online = reader.online();
    let member = fib.routes().member(&online, group, 5).unwrap();
    assert_eq!(fib.routes().adjacency(&online, member).state, AdjState::Failed);
    assert!(!fib.adjacency_used(id));
    fib.routes().mark_used(id);
    assert!(fib.adjacency_used(id) && !fib.adjacency_used(id));
    assert!(!fib.set_adjacency(AdjId(9), before) && !fib.set_group(GroupId(9), Group::Local));
}

#[test]
fn flows_spread_by_weight() {
    let (mut fib, _domain) = fib();
    let members: Vec<Member> = [1u16, 2, 3, 4]
        .iter()
        .enumerate()
        .map(|(i, weight)| {
            let adj = fib.add_adjacency(Adjacency {
                port: Some(PortId(i as u16)),
                ifindex: i as u32,
                neighbour: "192.0.2.9".parse().unwrap(),
                mtu: 0,
                state: AdjState::Unresolved,
            });
            Member { adj, weight: *weight }
        })
        .collect();
    let group = fib.add_group(Group::Forward {
        members,
        prefsrc: None,
    });
    let mut flows = [0i32; 4];
    for i in 0..10_000u32 {
        let mut packet = headers((i % 1000) as u16);
        packet.src += u128::from(i / 1000);
        flows[fib.select_member(group, &packet).unwrap().0 as usize] += 1;
    }
    for (got, due) in flows.iter().zip([1000, 2000, 3000, 4000]) {
        assert!(
            (*got - due).abs() < 200,
            "{flows:?}: shares within 2 percentage points"
        );
    }
}

/// A prefix that is led to a new group takes its flows along, as far as the members are the same.
#[test]
fn a_group_takes_over_the_flows_of_another_one() {
    let (mut fib, _domain) = fib();
    let adjacency = Adjacency {
        port: Some(PortId(0)),
        ifindex: 1,
        neighbour: "192.0.2.9".parse().unwrap(),
        mtu: 0,
        state: AdjState::Unresolved,
    };
    let all: Vec<Member> = (0..3)
        .map(|_| Member {
            adj: fib.add_adjacency(adjacency),
            weight: 1,
        })
        .collect();
    let forward = |members: &[Member]| Group::Forward {
        members: members.to_vec(),
        prefsrc: None,
    };
    let flows = |fib: &Fib, group| -> Vec<AdjId> {
        let of = |sport| fib.select_member(group, &headers(sport)).unwrap();
        (0..1000).map(of).collect()
    };
    let first = fib.add_group(forward(&all));
    let before = flows(&fib, first);
    let rest = [all[0], all[2]];
    let second = fib.add_group_after(forward(&rest), Some(first));
    fib.remove_group(first);
    let without = flows(&fib, second);
    for (was, is) in before.iter().zip(&without) {
        assert!(*was == all[1].adj || was == is);
        assert_ne!(*is, all[1].adj);
    }
    let third = fib.add_group_after(forward(&all), Some(second));
    let again = flows(&fib, third);
    for (was, is) in without.iter().zip(&again) {
        assert!(*is == all[1].adj || was == is);
    }
    assert!(again.contains(&all[1].adj));
}

proptest! {
    /// Whatever is done to groups, a flow always gets one of the group's members.
    #[test]
    fn a_flow_takes_a_member_of_its_group(
        changes in prop::collection::vec(prop::collection::vec((0u32..6, 0u16..300), 0..6), 1..8),
        sport: u16,
    ) {
        let (mut fib, _domain) = fib();
        for i in 0..6 {
            fib.add_adjacency(Adjacency {
                port: Some(PortId(i)),
                ifindex: u32::from(i),
                neighbour: "192.0.2.9".parse().unwrap(),
                mtu: 0,
                state: AdjState::Unresolved,
            });
        }
        let group = fib.add_group(Group::Local);
        for change in changes {
            let members: Vec<Member> =
                change.iter().map(|(adj, weight)| Member { adj: AdjId(*adj), weight: *weight }).collect();
            let known = fib.set_group(group, Group::Forward { members, prefsrc: None });
            prop_assert!(known);
            match fib.select_member(group, &headers(sport)) {
                Some(adj) => prop_assert!(change.iter().any(|(member, _)| *member == adj.0)),
                None => prop_assert!(change.is_empty()),
            }
        }
    }
}
