//! What workers read of the FIB.

use std::sync::atomic::{AtomicU64, Ordering};

use classifier::lpm::{BURST, NO_ROUTE, TableReader};
use classifier::packet::{Family, Headers};
use classifier::qsbr::{Domain, Online, Published};

use super::adjacency::{AdjId, Adjacencies, Adjacency};
use super::group::{GroupId, Image, Target};
use super::slots::Slots;
use crate::settings::MultipathHash;

/// The readers of one kernel table.
#[derive(Debug)]
pub(crate) struct TableReaders {
    pub(crate) v4: TableReader<u32>,
    pub(crate) v6: TableReader<u128>,
}

/// A group's slot; empty until a group is given its number.
#[derive(Debug)]
struct GroupSlot(Published<Image>);

impl Default for GroupSlot {
    fn default() -> Self {
        Self(Published::new(Image::default()))
    }
}

/// The FIB as workers see it. Written by [`Fib`](super::Fib) only.
#[derive(Debug)]
pub struct Routes {
    domain: Domain,
    tables: Published<Vec<TableReaders>>,
    groups: Slots<GroupSlot>,
    pub(super) adjacencies: Adjacencies,
    /// Counts changes, so that workers look again for packets that wait only when something may have changed.
    generation: AtomicU64,
    policy: MultipathHash,
    /// Makes routers in a row choose independently of each other.
    seed: u32,
}

impl Routes {
    /// Without routes. `seed` goes into the flow hash.
    pub fn new(domain: &Domain, policy: MultipathHash, seed: u32) -> Self {
        Self {
            domain: domain.clone(),
            tables: Published::new(Vec::new()),
            groups: Slots::new(),
            adjacencies: Adjacencies::new(),
            generation: AtomicU64::new(0),
            policy,
            seed,
        }
    }

    pub(super) fn domain(&self) -> &Domain {
        &self.domain
    }

    pub(super) fn set_tables(&self, tables: Vec<TableReaders>) {
        self.tables.replace(tables, &self.domain);
        self.changed();
    }

    pub(super) fn set_group(&self, id: GroupId, image: Image) {
        self.groups.make(id.0).0.replace(image, &self.domain);
    }

    /// Empties the slot of a group that was taken away.
    pub(super) fn clear_group(&self, id: GroupId) {
        self.set_group(id, Image::default());
        self.changed();
    }

    /// Empties the slot of an adjacency that was taken away.
    pub(super) fn clear_adjacency(&self, id: AdjId) {
        self.adjacencies.clear(id, &self.domain);
        self.changed();
    }

    /// Called after every change that could let a waiting packet go.
    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// How many changes there were.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The flow hash that chooses among members, by the configured policy. Its top bits choose the member.
    #[inline]
    pub(crate) fn hash(&self, headers: &Headers) -> u32 {
        match self.policy {
            MultipathHash::L3 => headers.flow_hash_l3(self.seed),
            MultipathHash::L4 | MultipathHash::Inner => headers.flow_hash_l4(self.seed),
        }
    }

    /// Whether tunnels are spread by what they carry.
    #[inline]
    pub(crate) fn looks_inside(&self) -> bool {
        self.policy == MultipathHash::Inner
    }

    /// Looks up to [`BURST`] addresses of either family up; `out[i]` becomes the group for `keys[i]`, or [`NO_ROUTE`].
    pub(crate) fn lookup_burst(&self, online: &Online<'_>, keys: &[(Family, u128)], out: &mut [u32]) {
        out[..keys.len()].fill(NO_ROUTE);
        for table in self.tables.load(online) {
            let (mut v4, mut v6) = ([0u32; BURST], [0u128; BURST]);
            let (mut at4, mut at6) = ([0u8; BURST], [0u8; BURST]);
            let (mut n4, mut n6) = (0, 0);
            for (i, (family, address)) in keys.iter().enumerate() {
                if out[i] != NO_ROUTE {
                    continue;
                }
                match family {
                    Family::V4 => {
                        (v4[n4], at4[n4]) = (*address as u32, i as u8);
                        n4 += 1;
                    }
                    Family::V6 => {
                        (v6[n6], at6[n6]) = (*address, i as u8);
                        n6 += 1;
                    }
                }
            }
            let mut values = [NO_ROUTE; BURST];
            if n4 > 0 {
                table.v4.lookup_burst(online, &v4[..n4], &mut values);
                for (at, value) in at4[..n4].iter().zip(values) {
                    out[*at as usize] = value;
                }
            }
            if n6 > 0 {
                table.v6.lookup_burst(online, &v6[..n6], &mut values);
                for (at, value) in at6[..n6].iter().zip(values) {
                    out[*at as usize] = value;
                }
            }
            if n4 + n6 == 0 {
                break;
            }
        }
    }

    /// The group of one address.
    pub(crate) fn lookup(&self, online: &Online<'_>, family: Family, address: u128) -> Option<GroupId> {
        let mut out = [NO_ROUTE];
        self.lookup_burst(online, &[(family, address)], &mut out);
        (out[0] != NO_ROUTE).then_some(GroupId(out[0]))
    }

    /// What a group number means now.
    #[inline]
    pub(crate) fn group<'g>(&'g self, online: &'g Online<'_>, id: GroupId) -> Option<&'g Image> {
        self.groups.get(id.0).map(|slot| slot.0.load(online))
    }

    /// What an adjacency's number means now.
    #[inline]
    pub(crate) fn adjacency<'g>(&'g self, online: &'g Online<'_>, id: AdjId) -> &'g Adjacency {
        self.adjacencies.get(online, id)
    }

    /// Remembers that packets go by this adjacency.
    #[inline]
    pub(crate) fn mark_used(&self, id: AdjId) {
        self.adjacencies.mark_used(id);
    }

    /// The member of a group that a flow takes.
    pub(crate) fn member(&self, online: &Online<'_>, group: GroupId, hash: u32) -> Option<AdjId> {
        match &self.group(online, group)?.target {
            Target::One(adj) => Some(*adj),
            Target::Many(buckets) => Some(buckets.pick(hash, |adj| self.adjacency(online, adj).lost())),
            _ => None,
        }
    }
}
