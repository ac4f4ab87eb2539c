//! A node over plain memory, and packets for it: what a packet costs without rings and kernel.

use std::net::IpAddr;
use std::sync::Arc;

use forwarder::acl::Instance;
use forwarder::fib::{AdjState, Adjacency, Group, Member};
use forwarder::path::BURST;
use forwarder::path::offline::Offline;
use forwarder::{PortAttrs, PortId, Settings};

use crate::generator::Traffic;

/// 64 packets of 64 bytes to different hosts, as a burst brings them.
///
/// # Panics
/// When the generator's traffic cannot be built, which only a mistake here brings about.
pub fn burst(v6: bool) -> Vec<Vec<u8>> {
    (0..BURST as u16)
        .map(|host| {
            let (src, dst): (IpAddr, IpAddr) = if v6 {
                (
                    [0x2001, 2, 0, 1, 0, 0, 0, 2].into(),
                    [0x2001, 2, 0, 0x8000, 0, 0, 0, host].into(),
                )
            } else {
                ([198, 18, 0, 2].into(), [198, 19, 128, host as u8].into())
            };
            let traffic = Traffic {
                dst_mac: [2; 6],
                src_mac: [4; 6],
                src,
                dst,
                flows: 1,
                size: 64,
            };
            traffic.frame().expect("a frame")
        })
        .collect()
}

/// A node of two ports with one route for these packets, and an ingress list on the first port if there is one.
///
/// # Panics
/// When the routes do not fit, which two always do.
pub fn node(ingress: Option<Arc<Instance>>) -> Offline {
    let mut node = Offline::new(&Settings::default(), 4096, 2048);
    let port = PortAttrs {
        mtu: 1500,
        up: true,
        ..PortAttrs::default()
    };
    node.open_port(PortId(0), port.clone(), ingress, None);
    node.open_port(PortId(1), port, None, None);
    let adj = node.fib().add_adjacency(Adjacency {
        port: Some(PortId(1)),
        ifindex: 2,
        neighbour: IpAddr::from([198, 19, 0, 2]),
        mtu: 0,
        state: AdjState::Resolved {
            dst: [6; 6],
            src: [8; 6],
        },
    });
    let members = vec![Member { adj, weight: 1 }];
    let next_hop = node.fib().add_group(Group::Forward {
        members,
        prefsrc: None,
    });
    for prefix in ["198.19.128.0/17", "2001:2:0:8000::/49"] {
        node.fib()
            .insert(254, prefix.parse().expect("a prefix"), next_hop)
            .expect("it fits");
    }
    node
}
