//! What workers read of the FIB.

use std::sync::atomic::{AtomicU64, Ordering};

use classifier::lpm::NO_ROUTE;
use classifier::packet::{Family, Headers};
use classifier::qsbr::{Domain, Online, Published};

use super::adjacency::{AdjId, Adjacencies, Adjacency};
use super::group::{GroupId, Image, Target};
use super::slots::Slots;
use super::vrf::{self, VrfId, Vrfs};
use crate::settings::MultipathHash;

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
    vrfs: Vrfs,
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
            vrfs: Vrfs::new(),
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

    pub(super) fn set_vrf(&self, id: VrfId, image: vrf::Image) {
        self.vrfs.set(id, image, &self.domain);
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

    /// Looks up to [`BURST`](classifier::lpm::BURST) addresses of either family up in the tables of a VRF; `out[i]` becomes
    /// the group for `keys[i]`, or [`NO_ROUTE`].
    pub(crate) fn lookup_burst(
        &self,
        online: &Online<'_>,
        vrf: VrfId,
        keys: &[(Family, u128)],
        out: &mut [u32],
    ) {
        let throws =
            |group| matches!(self.group(online, GroupId(group)), Some(image) if image.target.throws());
        self.vrfs.lookup_burst(online, vrf, keys, out, throws);
    }

    /// The group of one address.
    pub(crate) fn lookup(
        &self,
        online: &Online<'_>,
        vrf: VrfId,
        family: Family,
        address: u128,
    ) -> Option<GroupId> {
        let mut out = [NO_ROUTE];
        self.lookup_burst(online, vrf, &[(family, address)], &mut out);
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
