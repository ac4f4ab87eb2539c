//! Devices stacked upon closed ports: VLAN sub-interfaces, macvlans and their like have names of their own, which the
//! guard of the port does not match. The mirror tells upon which device each one is.

use std::collections::BTreeSet;

use super::{Daemon, guard_entries, load_guard};
use crate::guard::{self, Entry};
use crate::socket::ErrorBody;

impl Daemon {
    /// Loads the guard of `entries` and of what is stacked upon the ports that they speak of.
    pub(super) fn guard(&mut self, entries: &[Entry]) -> Result<(), ErrorBody> {
        let mut stacked = guard::stacked(entries, &self.mirror.links());
        // A device that the configuration speaks of is open or closed as it says there.
        stacked.retain(|name| self.config.port_for(name).is_none());
        let names = stacked.iter().cloned().map(Entry::of);
        load_guard(&entries.iter().cloned().chain(names).collect::<Vec<_>>())?;
        self.stacked = stacked;
        Ok(())
    }

    /// Devices have changed: guards those that are stacked upon a closed port now.
    pub(super) fn guard_stacked(&mut self) {
        let mut entries = guard_entries(&self.config, &self.state, &self.released);
        let mut stacked: BTreeSet<String> = guard::stacked(&entries, &self.mirror.links());
        stacked.retain(|name| self.config.port_for(name).is_none());
        if stacked == self.stacked {
            return;
        }
        // Until the daemon is ready, what an earlier configuration closed stays closed.
        entries.extend(self.kept.iter().cloned());
        match self.guard(&entries) {
            Ok(()) => tracing::info!("devices upon closed ports that are guarded: {stacked:?}"),
            Err(error) => tracing::error!("devices upon closed ports are not guarded: {error}"),
        }
    }
}
