//! The control thread changes everything while a worker forwards: the worker never sees half a change.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::rig::*;
use crate::fib::{AdjState, Adjacency, Group, Member};
use crate::path::Kind;

/// An adjacency whose two Ethernet addresses carry the same mark: a mixture of two versions would show.
fn marked(like: Adjacency, mark: u8) -> Adjacency {
    Adjacency {
        state: AdjState::Resolved {
            dst: [mark & 0xfe; 6],
            src: [mark & 0xfe; 6],
        },
        ..like
    }
}

/// Ends the control thread, also when the worker's side fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_worker_never_sees_half_a_change() {
    let mut rig = Rig::new();
    let mut fib = std::mem::replace(&mut rig.fib, rig.shared.fib());
    // The new writer's tables are empty; workers read the old one's again.
    fib.set_tables(&[254]).expect("memory for a table");
    let (adjs, groups, domain) = (rig.adjs, rig.groups, rig.shared.domain().clone());
    let plain = adjs.map(|adj| *fib.adjacency(adj).unwrap());
    for adj in [1, 2] {
        fib.set_adjacency(adjs[adj], marked(plain[adj], 2));
    }
    let done = AtomicBool::new(false);
    let packets: Vec<_> = (0..64u8)
        .map(|i| build4([10, 0, 0, i], [10, 1, 0, 9], 64, 4))
        .collect();

    std::thread::scope(|scope| {
        let done = &done;
        let control = scope.spawn(move || {
            let mut mark = 2u8;
            while !done.load(Relaxed) {
                mark = mark.wrapping_add(2);
                for adj in [1, 2] {
                    fib.set_adjacency(adjs[adj], marked(plain[adj], mark));
                }
                // A new adjacency in a new group takes the prefix over, and gives it back.
                let other = fib.add_adjacency(marked(plain[2], mark));
                let members = |adjs: &[_]| adjs.iter().map(|adj| Member { adj: *adj, weight: 1 }).collect();
                let spread = Group::Forward {
                    members: members(&[adjs[1], adjs[2], other]),
                    prefsrc: None,
                };
                let group = fib.add_group(spread);
                fib.insert(254, "10.1.0.0/16".parse().unwrap(), group).unwrap();
                let one = Group::Forward {
                    members: members(&[other]),
                    prefsrc: None,
                };
                fib.set_group(group, one);
                fib.insert(254, "10.1.0.0/16".parse().unwrap(), groups[1])
                    .unwrap();
                fib.remove_group(group);
                fib.remove_adjacency(other);
                domain.reclaim();
            }
            fib
        });
        let stop = Stop(done);
        for _ in 0..500 {
            let sent = rig.send(UPLINK, &packets);
            assert_eq!(sent.len(), packets.len(), "no change costs a packet");
            for sent in sent {
                assert_eq!(sent.kind, Kind::Transit);
                assert_eq!(sent.bytes[..6], sent.bytes[6..12], "one version of the adjacency");
                assert!(sent.egress == WORKLOAD || sent.egress == OTHER);
            }
        }
        drop(stop);
        rig.fib = control.join().expect("the control thread ends");
    });
    assert_eq!(rig.totals(UPLINK).forwarded, 500 * 64);
}
