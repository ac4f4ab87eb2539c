//! What the guard has to hold besides what the configuration says: devices stacked upon closed ports, and ports with tables
//! of their own.
//!
//! VLAN sub-interfaces, macvlans and their like have names of their own, which the guard of the port does not match. Ports in a
//! VRF, or with a rule `iif PORT lookup N`, are closed: the kernel, going on to the main table where theirs has no route, would
//! let packets from one address plan into another. The mirror tells of both.

use std::collections::BTreeSet;

use super::{Daemon, guard_entries, load_guard};
use crate::config::{AclNames, OnExit, Port};
use crate::guard::{self, Entry};
use crate::socket::ErrorBody;

impl Daemon {
    /// What becomes of a port's traffic while no worker serves it.
    pub(super) fn on_exit_of(&self, name: &str, port: &Port, acl: &AclNames) -> OnExit {
        let link = self.mirror.link(name);
        if link.is_some_and(|link| self.mirror.vrf_of(link.index).is_some()) {
            OnExit::Drop
        } else {
            port.on_exit(acl)
        }
    }

    /// The ports with tables of their own that the configuration alone would leave open, but for those that were released.
    pub(super) fn with_tables(&self) -> BTreeSet<String> {
        let links = self.mirror.links();
        let closed = links.into_iter().filter(|link| {
            let port = self.config.port_for(&link.name);
            let open = |port: &Port| port.on_exit(&self.acl_of(&link.name, port)) == OnExit::Kernel;
            port.is_some_and(open)
                && self.mirror.vrf_of(link.index).is_some()
                && !self.released.contains(&link.name)
        });
        closed.map(|link| link.name).collect()
    }

    /// `entries`, and what the state of the node adds.
    fn with_more(&self, mut entries: Vec<Entry>) -> (Vec<Entry>, BTreeSet<String>) {
        let tables = self.with_tables();
        for name in &tables {
            let multicast = self.config.port_for(name).map_or(&[][..], |port| &port.multicast);
            entries.extend(Entry::with_vlans(name, multicast));
        }
        let mut more = guard::stacked(&entries, &self.mirror.links());
        // A device that the configuration speaks of is open or closed as it says there.
        more.retain(|name| self.config.port_for(name).is_none());
        entries.extend(more.iter().cloned().map(Entry::of));
        more.extend(tables);
        (entries, more)
    }

    /// Loads the guard of `entries`, of what is stacked upon the ports that they speak of, and of ports with tables.
    pub(super) fn guard(&mut self, entries: &[Entry]) -> Result<(), ErrorBody> {
        let (entries, more) = self.with_more(entries.to_vec());
        load_guard(&entries)?;
        self.stacked = more;
        Ok(())
    }

    /// Devices or VRFs have changed: guards what has to be guarded now.
    pub(super) fn guard_stacked(&mut self) {
        let mut entries = guard_entries(&self.config, &self.state, &self.released);
        let (_, more) = self.with_more(entries.clone());
        if more == self.stacked {
            return;
        }
        // Until the daemon is ready, what an earlier configuration closed stays closed.
        entries.extend(self.kept.iter().cloned());
        match self.guard(&entries) {
            Ok(()) => {
                tracing::info!(
                    "devices upon closed ports, and ports with tables, that are guarded: {more:?}"
                );
            }
            Err(error) => {
                tracing::error!("devices upon closed ports, or ports with tables, are not guarded: {error}");
            }
        }
    }
}
