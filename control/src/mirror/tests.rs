//! The state machine and what it programs, against slow twins.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use classifier::lpm::IpPrefix;
use forwarder::PortId;
use proptest::prelude::*;

use super::diff;
use super::dump::Gaps;
use super::message::{
    self, AddressMsg, BLACKHOLE, DEAD, Hop, LinkMsg, Message, NeighbourMsg, NexthopMsg, RouteMsg, Target,
    UNICAST,
};
use super::plan::{Found, plan, want};
use super::program::Program;
use super::replay::Replay;
use super::state::{Changes, State};
use super::vrf::{RuleAction, RuleMsg};
use super::wire::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, Packet, Packets};

const TABLES: [u32; 2] = [254, 100];
/// With the one that only rules lead to.
const ALL: [u32; 3] = [254, 100, 7];

fn link(index: u32, flags: u32) -> Message {
    let mac = Some([2, 0, 0, 0, 0, index as u8]);
    let link = LinkMsg {
        index,
        name: format!("d{index}"),
        flags,
        mtu: 1500,
        mac,
        ..LinkMsg::default()
    };
    Message::Link {
        gone: flags == u32::MAX,
        link,
    }
}

const UP: u32 = 0x1_0041;

/// Few prefixes, so that routes meet: nested ones, hosts among them.
fn prefix() -> impl Strategy<Value = IpPrefix> {
    prop::sample::select(vec![
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.1.0/24",
        "10.1.1.1/32",
        "10.1.1.2/32",
        "10.2.0.0/16",
        "::/0",
        "2001:db8::/32",
        "2001:db8:1::/48",
        "2001:db8:1::1/128",
    ])
    .prop_map(|text| text.parse().expect("prefix"))
}

fn address(v6: bool, low: u8) -> IpAddr {
    match v6 {
        false => IpAddr::from([10, 1, 1, low]),
        true => IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(low)]),
    }
}

fn hop(v6: bool) -> impl Strategy<Value = Hop> {
    (1..4u32, prop::option::weighted(0.7, 1..4u8), 1..4u16).prop_map(move |(index, via, weight)| Hop {
        index,
        via: via.map(|low| address(v6, low)),
        weight,
        flags: 0,
    })
}

fn route() -> impl Strategy<Value = Message> {
    prefix().prop_flat_map(|prefix| {
        let v6 = prefix.addr().is_ipv6();
        let hops = prop::collection::vec(hop(v6), 1..3);
        let kind = prop::sample::select(vec![UNICAST, UNICAST, UNICAST, BLACKHOLE, message::UNREACHABLE]);
        let flags = prop::sample::select(vec![NLM_F_CREATE, NLM_F_REPLACE, NLM_F_APPEND | NLM_F_CREATE]);
        let table = prop::sample::select(vec![254, 254, 100, 7, 255]);
        let nexthop = prop::sample::select(vec![0, 0, 0, 1, 2]);
        (any::<bool>(), flags, hops, kind, table, 0..3u32, nexthop).prop_map(
            move |(gone, flags, mut hops, kind, table, metric, nexthop)| {
                if kind != UNICAST {
                    hops.clear();
                }
                hops.sort_unstable();
                let target = Target {
                    v6,
                    kind,
                    scope: 0,
                    nexthop,
                    mtu: 0,
                    extras: 0,
                    prefsrc: None,
                    hops,
                };
                let route = RouteMsg {
                    prefix,
                    table,
                    protocol: 4,
                    tos: 0,
                    metric,
                    target,
                };
                Message::Route { gone, flags, route }
            },
        )
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let flags = prop::sample::select(vec![UP, UP, 0x40, 0x1, u32::MAX]);
    let links = (1..4u32, flags).prop_map(|(index, flags)| link(index, flags));
    let states = prop::sample::select(vec![0x01u16, 0x02, 0x04, 0x20]);
    let neighbours =
        (any::<bool>(), any::<bool>(), 1..4u8, 1..4u32, states).prop_map(|(gone, v6, low, index, state)| {
            let mac = (state & 0x06 != 0).then_some([2, 0, 0, 0, 1, low]);
            let address = address(v6, low);
            let neighbour = NeighbourMsg {
                index,
                address,
                mac,
                state,
                managed: false,
                protocol: 0,
            };
            Message::Neighbour { gone, neighbour }
        });
    let addresses = (any::<bool>(), 1..4u32, 1..4u8).prop_map(|(gone, index, low)| {
        let address = AddressMsg {
            index,
            address: address(false, low),
            len: 24,
            scope: 0,
            flags: 0,
        };
        Message::Address { gone, address }
    });
    let nexthops = (any::<bool>(), 1..3u32, hop(false)).prop_map(|(gone, id, hop)| {
        let nexthop = NexthopMsg {
            id,
            blackhole: false,
            hop,
            group: Vec::new(),
        };
        Message::Nexthop { gone, nexthop }
    });
    let settings = (any::<bool>(), prop::option::of(1..4u32), any::<bool>())
        .prop_map(|(v6, ifindex, on)| Message::IgnoreLinkdown { v6, ifindex, on });
    let actions = prop::sample::select(vec![
        RuleAction::Lookup(7),
        RuleAction::Lookup(100),
        RuleAction::Lookup(255),
        RuleAction::End,
    ]);
    let rules = (any::<bool>(), any::<bool>(), 1..4u32, 1..4u32, actions).prop_map(
        |(gone, v6, preference, index, action)| {
            let rule = RuleMsg {
                v6,
                preference,
                iif: Some(format!("d{index}")),
                action,
            };
            Message::Rule { gone, rule }
        },
    );
    let own = (
        any::<bool>(),
        1..4u32,
        1..4u8,
        prop::sample::select(vec![255, 100]),
    )
        .prop_map(|(gone, index, low, table)| {
            let hop = Hop {
                index,
                via: None,
                weight: 1,
                flags: 0,
            };
            let target = Target {
                v6: false,
                kind: message::LOCAL,
                scope: 254,
                nexthop: 0,
                mtu: 0,
                extras: 0,
                prefsrc: None,
                hops: vec![hop],
            };
            let route = RouteMsg {
                prefix: IpPrefix::host(address(false, low)),
                table,
                protocol: 2,
                tos: 0,
                metric: 0,
                target,
            };
            let flags = NLM_F_CREATE;
            Message::Route { gone, flags, route }
        });
    prop_oneof![
        8 => route(), 2 => links, 3 => neighbours, 1 => addresses, 1 => nexthops, 1 => settings, 2 => rules, 1 => own
    ]
}

/// The mirror without a kernel, with ports on the first two devices.
fn replay() -> Replay {
    Replay::new(&TABLES, &[1, 2])
}

fn apply(world: &mut Replay, messages: &[Message]) {
    for message in messages {
        world.heard.take(message.clone());
    }
    assert_eq!(world.settle(), Vec::<String>::new());
}

/// What the data plane does with each prefix, in full.
fn content(world: &Replay) -> BTreeMap<(u32, IpPrefix), String> {
    let mut content = BTreeMap::new();
    for table in ALL {
        for (prefix, id) in world.fib.iter(table) {
            content.insert((table, prefix), format!("{:?}", Found::read(&world.fib, id)));
        }
    }
    content
}

/// The slow twin of what is programmed: every prefix that could matter, looked at anew.
fn twin(state: &State, program: &Program) -> BTreeMap<(u32, IpPrefix), String> {
    let mut content = BTreeMap::new();
    for table in ALL {
        let hosts = state
            .neighbours
            .keys()
            .map(|(address, _)| IpPrefix::host(*address));
        let prefixes: BTreeSet<IpPrefix> = state.rib.prefixes(table).chain(hosts).collect();
        for prefix in prefixes {
            if let Some(key) = want(state, table, prefix) {
                let plan = plan(state, key);
                content.insert((table, prefix), format!("{:?}", program.expected(state, &plan)));
            }
        }
    }
    content
}

/// The slow twin of the IPv4 rules: one flat list of all routes in the kernel's order.
#[derive(Default)]
struct Flat(Vec<RouteMsg>);

impl Flat {
    fn apply(&mut self, message: &Message) {
        let Message::Route { gone, flags, route } = message else {
            return;
        };
        if route.target.v6 || !(TABLES.contains(&route.table) || route.table == 255) {
            return;
        }
        let same_place = |r: &RouteMsg| (r.table, r.prefix) == (route.table, route.prefix);
        let equal = |r: &RouteMsg| same_place(r) && r.metric == route.metric;
        let twin = |r: &RouteMsg| equal(r) && r.target == route.target;
        if *gone {
            let near = |r: &RouteMsg| {
                equal(r)
                    && (r.target.kind, r.target.nexthop) == (route.target.kind, route.target.nexthop)
                    && r.target.nexthop != 0
            };
            let at = self
                .0
                .iter()
                .position(twin)
                .or_else(|| self.0.iter().position(near));
            if let Some(at) = at {
                self.0.remove(at);
            }
            return;
        }
        if *flags & NLM_F_REPLACE != 0 && self.0.iter().any(equal) {
            let object = |r: &RouteMsg| equal(r) && r.target.nexthop == route.target.nexthop;
            let by_object = (route.target.nexthop != 0)
                .then(|| self.0.iter().position(object))
                .flatten();
            let first = by_object
                .or_else(|| self.0.iter().position(equal))
                .expect("one is equal");
            self.0[first] = route.clone();
        } else if !self.0.iter().any(twin) {
            let before = |r: &RouteMsg| {
                same_place(r)
                    && (r.metric > route.metric || r.metric == route.metric && *flags & NLM_F_APPEND == 0)
            };
            let at = self.0.iter().position(before).unwrap_or(self.0.len());
            self.0.insert(at, route.clone());
        }
    }

    fn of(&self, table: u32, prefix: IpPrefix) -> Vec<(u32, Target)> {
        let here = self.0.iter().filter(|r| (r.table, r.prefix) == (table, prefix));
        here.map(|r| (r.metric, r.target.clone())).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn routes_stand_in_the_kernels_order(messages in prop::collection::vec(route(), 1..60)) {
        let (mut state, mut flat, mut changes) = (State::new(&TABLES), Flat::default(), Changes::default());
        for message in &messages {
            state.apply(message.clone(), &mut changes);
            flat.apply(message);
            let Message::Route { route, .. } = message else { continue };
            if !route.target.v6 {
                let own: Vec<(u32, Target)> = (state.rib.get(route.table, route.prefix).iter())
                    .map(|r| (r.metric, state.rib.targets.get(r.target).expect("target").clone()))
                    .collect();
                prop_assert_eq!(own, flat.of(route.table, route.prefix));
            }
        }
    }

    #[test]
    fn what_is_programmed_is_what_the_state_wants(
        batches in prop::collection::vec(prop::collection::vec(any_message(), 1..8), 1..20),
    ) {
        let mut world = replay();
        apply(&mut world, &[link(1, UP), link(2, UP), link(3, UP)]);
        for batch in &batches {
            apply(&mut world, batch);
            prop_assert_eq!(content(&world), twin(&world.heard.state, &world.program), "after {:?}", batch);
            prop_assert_eq!(world.differences(&world.heard), vec![]);
            // Nothing that is no longer in use stays behind.
            let used: BTreeSet<_> = ALL.iter().flat_map(|t| world.fib.iter(*t).map(|(_, id)| id)).collect();
            prop_assert_eq!(world.fib.groups().count(), used.len());
            prop_assert_eq!(world.fib.adjacencies().count(), world.program.adjacencies().count());
        }
        // Ports come and go: no prefix moves.
        let before: Vec<_> = ALL.iter().flat_map(|t| world.fib.iter(*t)).collect();
        for port in [None, Some(PortId(9))] {
            world.program.set_port(&mut world.fib, &world.heard.state, 1, port);
            prop_assert_eq!(content(&world), twin(&world.heard.state, &world.program));
        }
        prop_assert_eq!(before, ALL.iter().flat_map(|t| world.fib.iter(*t)).collect::<Vec<_>>());
    }

    #[test]
    fn a_resync_ends_in_the_fresh_state(
        before in prop::collection::vec(any_message(), 0..40),
        fresh in prop::collection::vec(any_message(), 0..40),
    ) {
        let (mut world, mut other) = (replay(), replay());
        apply(&mut world, &before);
        apply(&mut other, &fresh);
        world.adopt(other.heard);
        prop_assert_eq!(world.settle(), Vec::<String>::new());
        // The same messages once more make the state that was adopted.
        let mut again = replay();
        apply(&mut again, &fresh);
        prop_assert_eq!(content(&world), content(&again));
        let differences =
            diff::compare(&again.heard.state, Gaps::default(), &world.heard.state, &world.program, &world.fib, None);
        prop_assert_eq!(differences, vec![]);
        prop_assert_eq!(world.heard.state.adopt(again.heard.state, Gaps::default(), &mut Changes::default()), 0);
    }

    #[test]
    fn no_bytes_panic(
        kind in prop::sample::select(vec![16u16, 17, 20, 21, 24, 25, 28, 29, 32, 33, 80, 104, 105]),
        family in prop::sample::select(vec![0u8, 2, 7, 10]),
        mut payload in prop::collection::vec(any::<u8>(), 0..160),
        datagram in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        if let Some(first) = payload.first_mut() {
            *first = family;
        }
        let mut world = replay();
        for packet in Packets(&datagram) {
            let _ = packet;
        }
        if let Ok(Some(message)) = message::read(&Packet { kind, flags: 0, seq: 0, payload: &payload }) {
            apply(&mut world, &[message]);
        }
    }

    #[test]
    fn cut_messages_never_panic(cut in 0..200usize, at in 0..200usize, bits in any::<u8>()) {
        let gateway = [10, 0, 0, 1];
        let mut bytes = super::wire::request(
            message::RTM_NEWROUTE, 0, 1, &[2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0],
            &[(1, &[10, 1, 1, 0]), (5, &gateway), (4, &3u32.to_ne_bytes()), (15, &254u32.to_ne_bytes())],
        );
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= bits;
        }
        bytes.truncate(cut.max(1));
        for packet in Packets(&bytes).flatten() {
            let _ = message::read(&packet);
        }
    }
}

#[test]
fn dead_hops_take_no_part() {
    let mut world = replay();
    let hops = [1, 2].map(|index| Hop {
        index,
        via: Some(address(false, index as u8)),
        weight: 1,
        flags: 0,
    });
    let target = Target {
        v6: false,
        kind: UNICAST,
        scope: 0,
        nexthop: 0,
        mtu: 1400,
        extras: 0,
        prefsrc: None,
        hops: hops.to_vec(),
    };
    let prefix: IpPrefix = "10.2.0.0/16".parse().expect("prefix");
    let route = RouteMsg {
        prefix,
        table: 254,
        protocol: 4,
        tos: 0,
        metric: 0,
        target,
    };
    apply(
        &mut world,
        &[
            link(1, UP),
            link(2, UP),
            Message::Route {
                gone: false,
                flags: NLM_F_CREATE,
                route,
            },
        ],
    );
    let id = world.fib.get(254, prefix).expect("a group");
    let Found::Forward(members, _) = Found::read(&world.fib, id) else {
        panic!("no members")
    };
    assert_eq!(members.len(), 2);
    assert!(members.iter().all(|(adjacency, _)| adjacency.mtu == 1400));
    apply(&mut world, &[link(1, 0)]);
    let Found::Forward(members, _) = Found::read(&world.fib, id) else {
        panic!("no members")
    };
    assert_eq!(
        (members.len(), members[0].0.ifindex),
        (1, 2),
        "the same group, without the dead hop"
    );
    assert!(
        world
            .heard
            .state
            .rib
            .targets
            .iter()
            .any(|(_, t)| t.hops.iter().any(|hop| hop.flags & DEAD != 0))
    );
    apply(&mut world, &[link(1, UP)]);
    let Found::Forward(members, _) = Found::read(&world.fib, id) else {
        panic!("no members")
    };
    assert_eq!(members.len(), 2);
    apply(&mut world, &[link(1, 0), link(2, 0)]);
    assert_eq!(
        world.fib.get(254, prefix),
        None,
        "the kernel drops the route without saying so"
    );
}
