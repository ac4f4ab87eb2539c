//! What the mirror answers: views of the kernel's state, and its comparison with a fresh dump.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use classifier::lpm::IpPrefix;
use forwarder::PortAttrs;
use forwarder::fib::VrfId;

use super::plan::Found;
use super::present::{adjacency_state, neighbour_state};
use super::state::{LOCAL_TABLE, State};
use super::view::{Difference, GroupView, LinkView, NeighbourView, RouteView};
use super::{Mirror, MirrorError, MirrorStats, Plane, diff};

impl Mirror {
    /// Counters.
    pub fn stats(&self) -> MirrorStats {
        MirrorStats {
            routes: self.state.rib.count(&self.state.followed) as u64,
            neighbours: self.state.neighbours.len() as u64,
            refused_requests: self.resolver.refused,
            ..self.stats
        }
    }

    /// All devices, by index.
    pub fn links(&self) -> Vec<LinkView> {
        self.state
            .links
            .values()
            .map(|link| self.state.link_view(link))
            .collect()
    }

    /// The device of that name.
    pub fn link(&self, name: &str) -> Option<LinkView> {
        self.state
            .links
            .values()
            .find(|link| link.name == name)
            .map(|link| self.state.link_view(link))
    }

    /// All neighbour entries, by address and device.
    pub fn neighbours(&self) -> Vec<NeighbourView> {
        self.state
            .neighbours
            .values()
            .map(|n| self.state.neighbour_view(&n.msg))
            .collect()
    }

    /// Neighbour entries by their state.
    pub fn neighbour_states(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for neighbour in self.state.neighbours.values() {
            *counts.entry(neighbour_state(neighbour.msg.state)).or_default() += 1;
        }
        counts
    }

    /// Next-hop groups of the data plane, and its adjacencies by their state.
    pub fn adjacency_states(&self, plane: &mut impl Plane) -> (u64, BTreeMap<&'static str, u64>) {
        let fib = plane.fib();
        let mut counts = BTreeMap::new();
        for (_, adjacency) in fib.adjacencies() {
            *counts.entry(adjacency_state(adjacency)).or_default() += 1;
        }
        (fib.groups().count() as u64, counts)
    }

    /// The routes of a table (all mirrored tables for `None`), by prefix, IPv4 first. Views are made one by one, so
    /// that a full table costs no second copy.
    pub fn routes(&self, table: Option<u32>) -> impl Iterator<Item = RouteView> + '_ {
        let tables: Vec<u32> = match table {
            Some(table) => vec![table],
            None => self.state.followed.iter().copied().collect(),
        };
        tables.into_iter().flat_map(move |table| {
            let mut prefixes: Vec<IpPrefix> = self.state.rib.prefixes(table).collect();
            prefixes.sort_unstable();
            prefixes
                .into_iter()
                .flat_map(move |prefix| self.state.route_views(table, prefix))
        })
    }

    /// The route that a packet to `address` takes that comes in by a device, or by one of the default VRF for `None`; what is
    /// the node's own first, as the kernel has it.
    pub fn route_get(&self, iif: Option<u32>, address: IpAddr) -> Option<RouteView> {
        let tables = self.tables_of(iif, address.is_ipv6());
        let vrf = iif.map_or(VrfId::DEFAULT, |index| self.program.vrf(&self.state, index));
        let own = self.program.own(vrf, address).and_then(|prefix| {
            let mut among = tables.iter().copied().chain([LOCAL_TABLE]);
            let table = among.find(|table| self.state.has_local(*table, prefix))?;
            let mut views = self.state.route_views(table, prefix).into_iter();
            views.find(|view| ["local", "broadcast", "anycast"].contains(&view.kind))
        });
        own.or_else(|| {
            let (table, prefix, _) = self.state.rib.lookup(tables, address)?;
            let mut views = self.state.route_views(table, prefix).into_iter();
            views.find(|view| view.active)
        })
    }

    /// The tables that are looked up for packets that come in by a device, or by one of the default VRF for `None`.
    pub fn tables_of(&self, iif: Option<u32>, v6: bool) -> &[u32] {
        iif.map_or(&self.state.tables, |index| self.state.tables_of(index, v6))
    }

    /// Whether a device has tables of its own: it is in a VRF, or a rule names it. The VRF's device with it, if there is one.
    pub fn vrf_of(&self, index: u32) -> Option<Option<String>> {
        let vrf = self.state.vrfs.get(&index)?;
        let master = self.state.links.get(&vrf.master);
        Some(master.map(|link| link.name.clone()))
    }

    /// The VRF's number in the data plane.
    pub fn vrf_id(&self, index: u32) -> VrfId {
        self.program.vrf(&self.state, index)
    }

    /// All tables that are followed.
    pub fn followed(&self) -> &BTreeSet<u32> {
        &self.state.followed
    }

    /// Raised each time that devices come to other VRFs, or VRFs to other tables.
    pub fn vrf_generation(&self) -> u64 {
        self.vrf_generation
    }

    /// The next-hop groups of the data plane.
    pub fn groups(&self, plane: &mut impl Plane) -> Vec<GroupView> {
        let fib = plane.fib();
        let view = |id: forwarder::fib::GroupId, routes: usize| {
            let found = Found::read(fib, id);
            GroupView {
                id: id.0,
                kind: State::found_kind(&found),
                members: self.state.member_views(&found),
                routes,
            }
        };
        let mut groups: Vec<GroupView> = self
            .program
            .groups()
            .map(|(id, _, routes)| view(id, routes))
            .collect();
        groups.sort_by_key(|group| group.id);
        groups
    }

    /// Dumps the kernel's routes of a table (all mirrored ones, the local one and the VRFs for `None`) anew and compares them
    /// with the mirror and with the data plane. The mirror stays live meanwhile; events are kept for the next
    /// [`process`](Self::process).
    pub async fn diff_kernel(
        &mut self,
        plane: &mut impl Plane,
        table: Option<u32>,
    ) -> Result<Vec<Difference>, MirrorError> {
        self.diff_wanted = true;
        self.diff_result = None;
        let mut kept = Vec::new();
        loop {
            self.ready_for_diff().await;
            kept.append(&mut self.process(plane)?);
            self.tick(plane)?;
            plane.maintain();
            if let Some((fresh, gaps)) = self.diff_result.take() {
                kept.append(&mut self.events);
                self.events = kept;
                self.pending_events = !self.events.is_empty();
                return Ok(diff::compare(
                    &fresh,
                    gaps,
                    &self.state,
                    &self.program,
                    plane.fib(),
                    table,
                ));
            }
        }
    }

    async fn ready_for_diff(&mut self) {
        if self.diff_wanted {
            tokio::task::yield_now().await;
        } else {
            self.ready().await;
        }
    }

    /// What a port on this device is to be opened with; `None` when there is no such device, or none with an Ethernet
    /// address.
    pub fn port_attrs(&self, ifindex: u32) -> Option<PortAttrs> {
        let link = self.state.links.get(&ifindex)?;
        let (icmp4_source, icmp6_sources) = self.state.icmp_sources(ifindex);
        Some(PortAttrs {
            mac: link.mac?,
            mtu: link.mtu,
            up: link.up(),
            vrf: self.program.vrf(&self.state, ifindex),
            icmp4_source,
            icmp6_sources,
        })
    }
}
