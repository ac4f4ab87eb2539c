//! The properties of a whole node, as one body that the unit tests and the fuzz target share: whatever comes in is sent on, answered or
//! dropped, once; fragments put together are the packet; answers are well formed and quote what came in.

use std::cell::RefCell;

use classifier::checksum;
use classifier::packet::{self, Family, Flaw, parse};
use forwarder::fib::{AdjState, Adjacency, Group, Member};
use forwarder::path::Kind;
use forwarder::path::offline::Offline;
use forwarder::{PortAttrs, PortId, Settings};

/// The link that packets leave by has this MTU.
const MTU: u32 = 300;

thread_local! {
    static NODE: RefCell<Offline> = RefCell::new(node());
}

/// Everything is routed by port 1, whose MTU is small, but the senders' networks, which are behind port 0.
fn node() -> Offline {
    let mut node = Offline::new(
        &Settings {
            icmp_rate: u32::MAX,
            icmp_burst: u32::MAX,
            ..Settings::default()
        },
        512,
        4096,
    );
    for (number, mtu) in [(0, 1500), (1, MTU)] {
        let attrs = PortAttrs {
            mtu,
            up: true,
            icmp4_source: Some([192, 0, 2, number as u8 + 1].into()),
            icmp6_sources: vec!["2001:db8::1".parse().expect("an address")],
            ..PortAttrs::default()
        };
        node.open_port(PortId(number), attrs, None, None);
        let adj = node.fib().add_adjacency(Adjacency {
            port: Some(PortId(number)),
            ifindex: u32::from(number) + 1,
            neighbour: [192, 0, 2, 9].into(),
            mtu: 0,
            state: AdjState::Resolved {
                dst: [2; 6],
                src: [4; 6],
            },
        });
        let members = vec![Member { adj, weight: 1 }];
        let group = node.fib().add_group(Group::Forward {
            members,
            prefsrc: None,
        });
        let prefixes = [["10.0.0.0/8", "fd00::/8"], ["0.0.0.0/0", "::/0"]][usize::from(number)];
        for prefix in prefixes {
            node.fib()
                .insert(254, prefix.parse().expect("a prefix"), group)
                .expect("room");
        }
    }
    node
}

/// Asserts every property of one frame that comes in by port 0. Panics where one does not hold.
pub fn check(frame: &[u8]) {
    let mut sent: Vec<(Kind, Vec<u8>)> = Vec::new();
    let done = NODE.with_borrow_mut(|node| {
        node.burst_to(PortId(0), &[frame], |_, kind, bytes| {
            sent.push((kind, bytes.to_vec()))
        })
    });
    assert_eq!(done.forwarded + done.replied + done.kept, 1, "one fate");
    assert_eq!(done.kept == 1, sent.is_empty());
    let Ok(headers) = parse(frame) else {
        return assert_eq!(done.kept, 1, "malformed, and not dropped");
    };
    if done.replied == 1 {
        assert_eq!(sent.len(), 1);
        return answer(frame, &sent[0].1);
    }
    if done.forwarded == 1 {
        assert!(headers.ttl > 1 && !matches!(headers.flaw, Some(Flaw::BadOption(_))));
        let (last, others) = sent.split_last().expect("something left");
        assert!(last.0 == Kind::Transit && others.iter().all(|(kind, _)| *kind == Kind::Fragment));
        assert!(others.is_empty() || headers.family == Family::V4 && !headers.dont_fragment);
        let mut data: Vec<u8> = Vec::new();
        for (_, bytes) in &sent {
            let part = parse(bytes).expect("what leaves is well formed");
            assert_eq!(
                (part.src, part.dst, part.ttl + 1),
                (headers.src, headers.dst, headers.ttl)
            );
            data.extend(&bytes[usize::from(part.l3) + head(bytes)..usize::from(part.l3 + part.len)]);
        }
        let end = usize::from(headers.l3 + headers.len);
        assert_eq!(
            data,
            frame[usize::from(headers.l3) + head(frame)..end],
            "the data is what came in"
        );
    }
}

/// Bytes of the IP header in a frame, options included, extension headers not.
fn head(frame: &[u8]) -> usize {
    if frame[12] == 8 {
        usize::from(frame[14] & 15) * 4
    } else {
        40
    }
}

/// An answer is an ICMP error about what came in, with good checksums and no longer than it may be.
fn answer(about: &[u8], bytes: &[u8]) {
    let headers = parse(bytes).expect("an answer is well formed");
    assert_eq!(headers.flaw, None);
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let message = &bytes[l4..l3 + usize::from(headers.len)];
    let (pseudo, most) = match headers.family {
        Family::V4 => (0, 576),
        Family::V6 => (checksum::pseudo_header(&headers, message.len() as u32), 1280),
    };
    assert_eq!(
        checksum::fold(checksum::sum(message, pseudo)),
        0xffff,
        "the checksum"
    );
    assert!(headers.len <= most);
    assert_eq!(
        message[8..],
        about[14..][..message.len() - 8],
        "quoted as it came"
    );
    assert!(matches!(
        headers.proto,
        packet::protocol::ICMP | packet::protocol::ICMPV6
    ));
}
