//! What the mirror answers: views of the kernel's state, and its comparison with a fresh dump.

use std::collections::BTreeMap;
use std::net::IpAddr;

use classifier::lpm::IpPrefix;
use forwarder::PortAttrs;

use super::plan::Found;
use super::present::{adjacency_state, neighbour_state};
use super::state::{LOCAL_TABLE, State};
use super::view::{Difference, GroupView, LinkView, NeighbourView, RouteView};
use super::{Mirror, MirrorError, MirrorStats, Plane, diff};

impl Mirror {
    /// Counters.
    pub fn stats(&self) -> MirrorStats {
        MirrorStats {
            routes: self.state.rib.count(&self.config.tables) as u64,
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
            None => self.config.tables.clone(),
        };
        tables.into_iter().flat_map(move |table| {
            let mut prefixes: Vec<IpPrefix> = self.state.rib.prefixes(table).collect();
            prefixes.sort_unstable();
            prefixes
                .into_iter()
                .flat_map(move |prefix| self.state.route_views(table, prefix))
        })
    }

    /// The route that a packet to `address` takes; the local table's first, as the kernel has it.
    pub fn route_get(&self, address: IpAddr) -> Option<RouteView> {
        let local = self.state.rib.lookup(&[LOCAL_TABLE], address);
        let local = local.filter(|(_, prefix, _)| self.state.is_local(*prefix));
        let (table, prefix, _) = local.or_else(|| self.state.rib.lookup(&self.config.tables, address))?;
        self.state
            .route_views(table, prefix)
            .into_iter()
            .find(|view| view.active)
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

    /// Dumps the kernel's routes of a table (all mirrored ones and the local one for `None`) anew and compares them
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
            icmp4_source,
            icmp6_sources,
        })
    }
}
