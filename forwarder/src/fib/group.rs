//! Next-hop groups: what a prefix leads to, and which member of it a flow takes.

use std::net::IpAddr;

use super::adjacency::AdjId;
use crate::settings::PortId;

/// The number of a group: the value that the LPM tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// One way of a multipath group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// Where it leads.
    pub adj: AdjId,
    /// Its share of the flows relative to the other members; 0 counts as 1.
    pub weight: u16,
}

/// What a prefix leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// To neighbours.
    Forward {
        /// One, or several with weights.
        members: Vec<Member>,
        /// The source address that the kernel prefers for this route.
        prefsrc: Option<IpAddr>,
    },
    /// To hosts on a link, one by one: the packet waits while the kernel resolves its destination.
    Glean {
        /// The link's device.
        ifindex: u32,
        /// The port over that device; `None` when it is not a port.
        port: Option<PortId>,
    },
    /// To nowhere, silently.
    Blackhole,
    /// To nowhere, answered with host unreachable.
    Unreachable,
    /// To nowhere, answered with administratively prohibited.
    Prohibit,
    /// To the next table of the VRF; after the last one there is no route.
    Throw,
    /// To the node itself.
    Local,
    /// To a device that is not a port.
    NotAPort,
}

/// What workers read of a group.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pub(crate) target: Target,
    pub(crate) prefsrc: Option<IpAddr>,
}

/// What a group leads to, ready for look-up.
#[derive(Debug, Default)]
pub(crate) enum Target {
    /// The slot is not in use, or the group has no members.
    #[default]
    Nothing,
    One(AdjId),
    Many(Buckets),
    Glean {
        ifindex: u32,
        port: Option<PortId>,
    },
    Blackhole,
    Unreachable,
    Prohibit,
    Throw,
    Local,
    NotAPort,
}

impl Target {
    /// Whether the next table is to be looked up.
    pub(crate) fn throws(&self) -> bool {
        matches!(self, Target::Throw)
    }
}

impl Image {
    /// The image of a group. `before` is what the group was, so that flows keep their member where they can.
    pub(crate) fn new(group: &Group, before: Option<&Image>) -> Image {
        let (target, prefsrc) = match group {
            Group::Forward { members, prefsrc } => (forward(members, before), *prefsrc),
            Group::Glean { ifindex, port } => (
                Target::Glean {
                    ifindex: *ifindex,
                    port: *port,
                },
                None,
            ),
            Group::Blackhole => (Target::Blackhole, None),
            Group::Unreachable => (Target::Unreachable, None),
            Group::Prohibit => (Target::Prohibit, None),
            Group::Throw => (Target::Throw, None),
            Group::Local => (Target::Local, None),
            Group::NotAPort => (Target::NotAPort, None),
        };
        Image { target, prefsrc }
    }

    /// The adjacencies that the group may send to.
    pub(crate) fn members(&self) -> &[AdjId] {
        match &self.target {
            Target::One(adj) => std::slice::from_ref(adj),
            Target::Many(buckets) => &buckets.members,
            _ => &[],
        }
    }
}

fn forward(members: &[Member], before: Option<&Image>) -> Target {
    match members {
        [] => Target::Nothing,
        [one] => Target::One(one.adj),
        many => {
            let old = match before.map(|image| &image.target) {
                Some(Target::Many(buckets)) => &buckets.buckets[..],
                Some(Target::One(adj)) => std::slice::from_ref(adj),
                _ => &[],
            };
            Target::Many(Buckets::new(many, old))
        }
    }
}

/// Fewest buckets of a group: weights are honoured to 1/256.
const FEWEST: usize = 256;
/// Most buckets of a group.
const MOST: usize = 1 << 16;
/// Buckets for each member at least.
const EACH: usize = 16;
/// How many other buckets a flow tries when its own leads to a lost member, before the members are tried in order.
const TRIES: u32 = 8;

/// A table of buckets, each leading to one member; the top bits of a flow's hash choose the bucket.
///
/// Resilient: a change of the members moves only the buckets that must move (compare RFC 2992 and the kernel's
/// resilient next-hop groups).
#[derive(Debug)]
pub(crate) struct Buckets {
    /// A power of two of them.
    buckets: Box<[AdjId]>,
    /// Each member once.
    members: Box<[AdjId]>,
}

impl Buckets {
    fn new(members: &[Member], old: &[AdjId]) -> Buckets {
        let mut weights: Vec<(AdjId, u64)> = Vec::with_capacity(members.len());
        for member in members {
            let weight = u64::from(member.weight.max(1));
            match weights.iter_mut().find(|(adj, _)| *adj == member.adj) {
                Some((_, sum)) => *sum += weight,
                None => weights.push((member.adj, weight)),
            }
        }
        // Never fewer than before: halving the table would move flows.
        let len = (weights.len() * EACH)
            .next_power_of_two()
            .clamp(FEWEST, MOST)
            .max(old.len());
        let mut wanted = shares(&weights, len);
        let mut buckets: Vec<Option<AdjId>> = vec![None; len];
        // A bucket keeps its member as long as that member is still due one. The top bits choose, so each old bucket
        // covers a run of new ones.
        if !old.is_empty() {
            let run = len / old.len();
            for (i, bucket) in buckets.iter_mut().enumerate() {
                let kept = old[i / run];
                if let Some(at) = weights.iter().position(|(adj, _)| *adj == kept)
                    && wanted[at] > 0
                {
                    wanted[at] -= 1;
                    *bucket = Some(kept);
                }
            }
        }
        // The rest goes round over the members, so that neighbouring buckets differ.
        let mut at = 0;
        for bucket in buckets.iter_mut().filter(|b| b.is_none()) {
            while wanted[at] == 0 {
                at = (at + 1) % wanted.len();
            }
            wanted[at] -= 1;
            *bucket = Some(weights[at].0);
            at = (at + 1) % wanted.len();
        }
        Buckets {
            buckets: buckets.into_iter().flatten().collect(),
            members: weights.into_iter().map(|(adj, _)| adj).collect(),
        }
    }

    /// The bucket of a hash.
    #[inline]
    fn bucket(&self, hash: u32) -> AdjId {
        // The length is a power of two of at least 2, so the shift is below 32.
        let shift = 32 - self.buckets.len().trailing_zeros();
        self.buckets[(hash >> shift) as usize]
    }

    /// The member that a flow takes. A flow whose member is lost takes another one; flows of the other members stay.
    #[inline]
    pub(crate) fn pick(&self, hash: u32, lost: impl Fn(AdjId) -> bool) -> AdjId {
        let first = self.bucket(hash);
        if !lost(first) {
            return first;
        }
        let mut hash = hash;
        for _ in 0..TRIES {
            // Mixed anew, so that the flows of one bucket spread over all others. Odd multipliers keep all bits.
            hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
            hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
            let other = self.bucket(hash);
            if !lost(other) {
                return other;
            }
        }
        self.members
            .iter()
            .copied()
            .find(|adj| !lost(*adj))
            .unwrap_or(first)
    }
}

/// How many of `len` buckets each member gets: at least one, otherwise by weight, largest remainders first.
fn shares(weights: &[(AdjId, u64)], len: usize) -> Vec<usize> {
    let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
    let exact = |weight: u64| weight * len as u64;
    let mut shares: Vec<usize> = weights
        .iter()
        .map(|(_, w)| ((exact(*w) / total) as usize).max(1))
        .collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(exact(weights[*i].1) % total));
    let mut sum: usize = shares.iter().sum();
    for i in order.iter().cycle().take(len) {
        if sum >= len {
            break;
        }
        shares[*i] += 1;
        sum += 1;
    }
    // The minimum of one each may have given out too many: the largest shares give back.
    while sum > len {
        let Some(largest) = shares.iter_mut().max() else {
            break;
        };
        *largest -= 1;
        sum -= 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(weights: &[(u32, u16)]) -> Vec<Member> {
        weights
            .iter()
            .map(|(adj, weight)| Member {
                adj: AdjId(*adj),
                weight: *weight,
            })
            .collect()
    }

    fn count(buckets: &Buckets, adj: u32) -> usize {
        buckets.buckets.iter().filter(|b| b.0 == adj).count()
    }

    #[test]
    fn weights_are_honoured() {
        let buckets = Buckets::new(&members(&[(1, 1), (2, 2), (3, 5)]), &[]);
        assert_eq!(buckets.buckets.len(), 256);
        assert_eq!(
            (count(&buckets, 1), count(&buckets, 2), count(&buckets, 3)),
            (32, 64, 160)
        );
    }

    #[test]
    fn a_lost_member_moves_only_its_own_flows() {
        let buckets = Buckets::new(&members(&[(1, 1), (2, 1), (3, 1), (4, 1)]), &[]);
        let mut moved = [0u32; 5];
        for i in 0..40_000u32 {
            let hash = i.wrapping_mul(0x9e37_79b1) ^ i.rotate_left(20);
            let before = buckets.pick(hash, |_| false);
            let after = buckets.pick(hash, |adj| adj.0 == 2);
            if before.0 == 2 {
                moved[after.0 as usize] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(moved[2], 0);
        for other in [1, 3, 4] {
            assert!((2_000..5_000).contains(&moved[other]), "{moved:?}");
        }
        // With all of them lost the flow keeps its first choice, whose state tells why it cannot go.
        assert_eq!(buckets.pick(0, |_| true), buckets.pick(0, |_| false));
    }

    proptest! {
        #[test]
        fn buckets_are_shared_by_weight(weights in prop::collection::vec(1u16..=256, 2..40)) {
            let all: Vec<(u32, u16)> = weights.iter().enumerate().map(|(i, w)| (i as u32, *w)).collect();
            let buckets = Buckets::new(&members(&all), &[]);
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for (adj, weight) in &all {
                let share = count(&buckets, *adj) as f64 / buckets.buckets.len() as f64;
                let due = f64::from(*weight) / total as f64;
                prop_assert!((share - due).abs() < 0.05 && share > 0.0, "{share} of {due}");
            }
        }

        #[test]
        fn a_change_of_members_keeps_what_it_can(n in 3u32..12, gone in 0u32..12) {
            let gone = gone % n;
            let all: Vec<(u32, u16)> = (0..n).map(|i| (i, 1)).collect();
            let before = Buckets::new(&members(&all), &[]);
            let rest: Vec<(u32, u16)> = all.iter().copied().filter(|(adj, _)| *adj != gone).collect();
            let after = Buckets::new(&members(&rest), &before.buckets);
            for (was, is) in before.buckets.iter().zip(after.buckets.iter()) {
                prop_assert!(was.0 == gone || was == is);
                prop_assert!(is.0 != gone);
            }
        }
    }
}
