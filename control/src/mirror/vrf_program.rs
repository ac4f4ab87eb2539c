//! VRFs in the data plane: their tables, the ports that are in them, and in which of them a prefix is the node's own.

use std::collections::BTreeSet;
use std::net::IpAddr;

use classifier::lpm::IpPrefix;
use forwarder::fib::{Fib, VrfId};
use tracing::error;

use super::program::{Outcome, Program};
use super::rib::{Place, covering};
use super::state::{Changes, LOCAL_TABLE, State};
use super::vrf::{Scopes, Vrf};

impl Program {
    /// The VRF of a device.
    pub fn vrf(&self, state: &State, index: u32) -> VrfId {
        let vrf = state.vrfs.get(&index).and_then(|vrf| self.vrfs.get(vrf));
        vrf.copied().unwrap_or(VrfId::DEFAULT)
    }

    /// The prefix of the node's own in a VRF that covers an address: what the steering program finds.
    pub fn own(&self, vrf: VrfId, address: IpAddr) -> Option<IpPrefix> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let mut prefixes = (0..=longest).rev().map(|len| covering(address, len));
        prefixes.find(|prefix| self.local.contains(&(*prefix, vrf)))
    }

    /// Adds the VRFs that devices are in now, and finds out anew what is the node's own in each. Answers the VRFs that no
    /// device is in any more.
    pub(super) fn update_vrfs(
        &mut self,
        fib: &mut Fib,
        state: &State,
        changes: &Changes,
        outcome: &mut Outcome,
    ) -> Vec<Vrf> {
        if !changes.vrfs && self.scopes.is_some() {
            return Vec::new();
        }
        let wanted: BTreeSet<&Vrf> = state.vrfs.values().collect();
        for &vrf in &wanted {
            if self.vrfs.contains_key(vrf) {
                continue;
            }
            // Without memory for its tables a VRF is one without routes: its ports forward nothing.
            let made = fib
                .add_vrf(vrf.lookups())
                .or_else(|error| {
                    error!("tables {:?} cannot be followed: {error}", vrf.tables);
                    fib.add_vrf(forwarder::fib::VrfTables::default())
                })
                .ok();
            self.vrfs.extend(made.map(|id| (vrf.clone(), id)));
        }
        let gone: Vec<Vrf> = (self.vrfs.keys())
            .filter(|vrf| !wanted.contains(vrf))
            .cloned()
            .collect();
        let there = self.vrfs.iter().filter(|(vrf, _)| wanted.contains(vrf));
        self.scopes = Some(Scopes::new(&state.tables, there.map(|(vrf, id)| (vrf, *id))));
        let tables = state.followed.iter().copied().chain([LOCAL_TABLE]);
        let mut prefixes: BTreeSet<IpPrefix> = tables
            .flat_map(|table| {
                let all = state.rib.prefixes(table);
                all.filter(move |prefix| state.has_local(table, *prefix))
            })
            .collect();
        prefixes.extend(self.local.iter().map(|(prefix, _)| *prefix));
        for prefix in prefixes {
            self.update_local(state, prefix, outcome);
        }
        gone
    }

    /// Takes VRFs away that nothing is in, and the tables that nothing follows, now that they are empty.
    pub(super) fn remove_vrfs(&mut self, fib: &mut Fib, state: &State, gone: Vec<Vrf>, places: &[Place]) {
        for vrf in gone {
            if let Some(id) = self.vrfs.remove(&vrf) {
                fib.remove_vrf(id);
            }
            for table in vrf.tables.v4.into_iter().chain(vrf.tables.v6) {
                if !state.followed.contains(&table) {
                    fib.remove_table(table);
                }
            }
        }
        // A table whose last routes go only now was left above.
        let mut before = None;
        for (table, _) in places {
            if before.replace(*table) != Some(*table) && !state.followed.contains(table) {
                fib.remove_table(*table);
            }
        }
    }

    /// Whose own a prefix is may have changed.
    pub(super) fn update_local(&mut self, state: &State, prefix: IpPrefix, outcome: &mut Outcome) {
        let first = (prefix, VrfId::DEFAULT);
        let known = self.local.range(first..=(prefix, VrfId(u32::MAX)));
        let known: BTreeSet<VrfId> = known.map(|(_, vrf)| *vrf).collect();
        let has_local = |table: &u32| state.has_local(*table, prefix);
        let own = has_local(&LOCAL_TABLE) || state.followed.iter().any(has_local);
        if known.is_empty() && !own {
            return;
        }
        let Some(scopes) = &self.scopes else { return };
        let wanted = scopes.owners(state, prefix);
        for vrf in wanted.difference(&known) {
            self.local.insert((prefix, *vrf));
            outcome.local_added.push((*vrf, prefix));
        }
        for vrf in known.difference(&wanted) {
            self.local.remove(&(prefix, *vrf));
            outcome.local_removed.push((*vrf, prefix));
        }
    }

    /// In which VRFs prefixes are to be the node's own, for comparison.
    pub fn expected_local(&self, state: &State) -> BTreeSet<(IpPrefix, VrfId)> {
        let there = self
            .vrfs
            .iter()
            .filter(|(vrf, _)| state.vrfs.values().any(|v| v == *vrf));
        let scopes = Scopes::new(&state.tables, there.map(|(vrf, id)| (vrf, *id)));
        let tables = state.followed.iter().copied().chain([LOCAL_TABLE]);
        let mut expected = BTreeSet::new();
        for table in tables {
            for prefix in state.rib.prefixes(table) {
                if state.has_local(table, prefix) {
                    expected.extend(scopes.owners(state, prefix).into_iter().map(|vrf| (prefix, vrf)));
                }
            }
        }
        expected
    }
}
