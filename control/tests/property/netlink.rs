//! The kernel's messages, through the mirror's state machine into a FIB that no worker reads.
//!
//! An input is a sequence of records: a byte that says what to do, a byte of length, and so many bytes behind a netlink
//! header that is put in front of them. So every input is made of messages that can be understood, and what is in them is
//! the fuzzer's. An input that begins with [`RAW`] is a datagram as it is.

use std::cell::RefCell;

use control::mirror::replay::{Heard, Replay};

const TABLES: [u32; 2] = [254, 100];
/// Devices that are ports; others are named by routes too.
const PORTS: [u32; 2] = [1, 2];

/// `RTM_NEW…` and `RTM_DEL…` of links, addresses, routes, neighbours, nexthop objects and policy rules, and `RTM_NEWNETCONF`.
pub const KINDS: [u16; 13] = [16, 17, 20, 21, 24, 25, 28, 29, 104, 105, 80, 32, 33];
/// `NLM_F_CREATE`, `NLM_F_REPLACE`, `NLM_F_CREATE | NLM_F_APPEND`, none.
pub const FLAGS: [u16; 4] = [0x400, 0x100, 0xc00, 0];
/// From here on a record ends a batch: what changed is programmed and checked.
pub const SETTLE: u8 = 0xe0;
/// What follows is what a dump finds that is read anew at the end.
pub const DUMP: u8 = 0xff;
/// The whole input is a datagram.
pub const RAW: u8 = 0xfe;

/// A message with its header (`struct nlmsghdr`).
fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(payload);
    bytes
}

/// What must hold once everything that changed is programmed.
fn check(replay: &mut Replay) {
    assert_eq!(replay.settle(), Vec::<String>::new(), "the data plane refuses");
    let differences = replay.differences(&replay.heard);
    assert!(
        differences.is_empty(),
        "mirror and data plane differ: {differences:?}"
    );
    let (_, groups, adjacencies) = replay.holds();
    assert_eq!((groups, adjacencies), (0, 0), "left though nothing leads to them");
}

/// After any messages the data plane does what the mirror wants; after a dump the mirror is what was dumped; and when nothing is left
/// in the kernel nothing is left here.
pub fn run(input: &[u8]) {
    // A FIB is hundreds of megabytes of untouched memory: making one for each input would be most of the work.
    thread_local! {
        static MIRROR: RefCell<Replay> = RefCell::new(Replay::new(&TABLES, &PORTS));
    }
    MIRROR.with_borrow_mut(|mirror| {
        replay(mirror, input);
        mirror.adopt(Heard::new(&TABLES));
        check(mirror);
        assert_eq!(mirror.holds(), (0, 0, 0), "prefixes of an empty kernel");
    });
}

fn replay(mirror: &mut Replay, input: &[u8]) {
    if let Some((&RAW, datagram)) = input.split_first() {
        let _ = mirror.heard.datagram(datagram);
        return check(mirror);
    }
    // The same twice: taking a dump over uses it up.
    let mut dump: Option<[Heard; 2]> = None;
    let mut rest = input;
    while let [what, len, behind @ ..] = rest {
        let (payload, next) = behind.split_at(behind.len().min(usize::from(*len)));
        rest = next;
        if *what == DUMP {
            dump.get_or_insert_with(|| [(); 2].map(|()| Heard::new(&TABLES)));
        } else if *what >= SETTLE {
            rest = behind;
            check(mirror);
        } else {
            let what = usize::from(*what);
            let flags = FLAGS[what / KINDS.len() % FLAGS.len()];
            let bytes = message(KINDS[what % KINDS.len()], flags, payload);
            match &mut dump {
                Some(dump) => dump.iter_mut().for_each(|dump| {
                    let _ = dump.datagram(&bytes);
                }),
                None => {
                    let _ = mirror.heard.datagram(&bytes);
                }
            }
        }
    }
    check(mirror);
    if let Some([dump, again]) = dump {
        mirror.adopt(dump);
        check(mirror);
        let differences = mirror.differences(&again);
        assert!(
            differences.is_empty(),
            "the dump was not taken over: {differences:?}"
        );
        assert_eq!(mirror.adopt(again), 0, "a second dump of the same finds nothing");
    }
}

/// An attribute (`struct rtattr`).
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn record(what: u8, header: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let attributes = attributes
        .iter()
        .flat_map(|(kind, value)| attribute(*kind, value));
    let payload: Vec<u8> = header.iter().copied().chain(attributes).collect();
    [&[what, payload.len() as u8][..], &payload].concat()
}

/// Inputs to start from: what a small node's kernel says, in the order in which it says so.
pub fn samples() -> Vec<Vec<u8>> {
    let index = |n: u8| [n, 0, 0, 0];
    let link = |what: u8, n: u8, up: bool| {
        let flags = if up { [0x43, 0, 1, 0] } else { [2, 0, 0, 0] };
        let header = [&[0, 0, 1, 0][..], &index(n), &flags, &[0; 4]].concat();
        let name = [b'd', b'0' + n, 0];
        let mtu = 1500_u32.to_ne_bytes();
        record(what, &header, &[(1, &[2, 0, 0, 0, 0, n]), (3, &name), (4, &mtu)])
    };
    let address = |what: u8, n: u8| {
        let own = [10, 0, n, 1];
        let header = [&[2, 24, 0, 0][..], &index(n)].concat();
        record(what, &header, &[(1, &own), (2, &own)])
    };
    let neighbour = |what: u8, n: u8, state: u8| {
        let header = [&[2, 0, 0, 0][..], &index(n), &[state, 0, 0, 1]].concat();
        record(what, &header, &[(1, &[10, 0, n, 2]), (2, &[2, 0, 0, 0, 1, n])])
    };
    let route = |what: u8, prefix: [u8; 4], len: u8, attributes: &[(u16, &[u8])]| {
        let header = [2, len, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
        let attributes = [&[(1, &prefix[..])], attributes].concat();
        record(what, &header, &attributes)
    };
    let settle = vec![SETTLE, 0];
    let mut hops = Vec::new();
    for n in [1, 2] {
        let gateway = attribute(5, &[10, 0, n, 2]);
        hops.extend([8 + gateway.len() as u8, 0, 0, n - 1, n, 0, 0, 0]);
        hops.extend(gateway);
    }
    let up = [link(0, 1, true), link(0, 2, true), link(0, 3, true)].concat();
    let routes = [
        route(4, [10, 0, 1, 0], 24, &[(4, &index(1))]),
        route(
            4,
            [10, 9, 0, 0],
            16,
            &[(5, &[10, 0, 1, 2]), (4, &index(1)), (6, &[7, 0, 0, 0])],
        ),
        route(4, [10, 8, 0, 0], 16, &[(9, &hops)]),
        route(
            17,
            [10, 9, 0, 0],
            16,
            &[(5, &[10, 0, 2, 2]), (4, &index(2)), (6, &[7, 0, 0, 0])],
        ),
    ]
    .concat();
    let object = |what: u8, id: u8, attributes: &[(u16, &[u8])]| {
        let number = index(id);
        let attributes = [&[(1, &number[..])], attributes].concat();
        record(what, &[2, 0, 0, 0, 0, 0, 0, 0], &attributes)
    };
    let objects = [
        object(8, 7, &[(5, &index(1)), (6, &[10, 0, 1, 2])]),
        object(8, 8, &[(2, &[7, 0, 0, 0, 3, 0, 0, 0])]),
        route(4, [10, 7, 0, 0], 16, &[(30, &index(8))]),
        route(4, [10, 6, 0, 0], 16, &[(30, &index(7))]),
    ]
    .concat();
    // A rule that gives device 1 table 100, one that asks for a source too, and the one for VRFs.
    let rule = |what: u8, table: u8, more: &[(u16, &[u8])]| {
        let header = [2, 0, 0, 0, table, 0, 0, 1, 0, 0, 0, 0];
        record(what, &header, &[&[(6, &[100, 0, 0, 0][..])], more].concat())
    };
    let rules = [
        rule(11, 100, &[(3, b"d1\0")]),
        rule(11, 100, &[(3, b"d2\0"), (16, &[1, 0, 0, 0])]),
        rule(11, 0, &[(19, &[1])]),
        record(
            4,
            &[2, 24, 0, 0, 100, 4, 0, 1, 0, 0, 0, 0],
            &[(1, &[10, 3, 0, 0]), (4, &index(1))],
        ),
        settle.clone(),
        rule(12, 100, &[(3, b"d1\0")]),
    ]
    .concat();
    let neighbours = [neighbour(6, 1, 2), neighbour(6, 2, 0x20)].concat();
    let whole = [
        &up,
        &address(2, 1),
        &routes,
        &settle,
        &neighbours,
        &objects,
        &settle,
    ];
    let whole = whole.map(Vec::as_slice).concat();
    let down = [
        link(0, 1, false),
        settle.clone(),
        link(0, 1, true),
        link(1, 2, true),
    ]
    .concat();
    let gone = [
        address(3, 1),
        object(9, 7, &[]),
        neighbour(7, 1, 2),
        settle.clone(),
    ]
    .concat();
    vec![
        whole.clone(),
        [whole.clone(), rules].concat(),
        [whole.clone(), down].concat(),
        [whole.clone(), gone].concat(),
        [whole.clone(), vec![DUMP, 0], up, routes, neighbours].concat(),
        [vec![RAW], message(16, 0, &[0; 32])].concat(),
    ]
}
