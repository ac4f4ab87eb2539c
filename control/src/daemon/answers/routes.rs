//! `route show`, `route get` and `neigh show`.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use classifier::packet::{Family, Headers};
use forwarder::fib::{AdjId, AdjState, Group, GroupId, VrfId};
use serde_json::{Map, Value, json};

use super::no_port;
use crate::daemon::{Daemon, translate};
use crate::socket::{Answer, Code, Dump, DumpWriter, ErrorBody, FamilyArg, RouteGetArgs, RouteShowArgs};

/// Most bytes of all route dumps that clients are still reading.
const DUMP_BYTES: usize = 1 << 30;
/// How long a dump is shared with clients that ask for the same again.
const DUMP_AGE: Duration = Duration::from_secs(1);

/// Dumps that are being read.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Dumps {
    live: Vec<(RouteShowArgs, u64, Instant, Weak<Dump>)>,
}

impl Dumps {
    fn get(&mut self, args: RouteShowArgs, generation: u64) -> Option<Arc<Dump>> {
        self.live.retain(|(.., dump)| dump.strong_count() > 0);
        self.live
            .iter()
            .find(|(a, g, made, _)| *a == args && *g == generation && made.elapsed() < DUMP_AGE)
            .and_then(|(.., dump)| dump.upgrade())
    }

    fn bytes(&self) -> usize {
        let live = self.live.iter();
        live.filter_map(|(.., dump)| dump.upgrade())
            .map(|dump| dump.len())
            .sum()
    }
}

impl Daemon {
    pub(super) fn route_show(&mut self, args: RouteShowArgs) -> Answer {
        if let Err(error) = self.check_table(args.table) {
            return Answer::Error(error);
        }
        let generation = self.mirror.stats().generation;
        if let Some(dump) = self.dumps.get(args, generation) {
            return Answer::Dump(dump);
        }
        if self.dumps.bytes() > DUMP_BYTES {
            return Answer::Error(
                ErrorBody::new(Code::Busy, "too many clients are reading routes")
                    .hint("wait until they are done"),
            );
        }
        let mut head = Map::new();
        head.insert("schema".to_owned(), json!("margay.route-show/1"));
        head.insert("generation".to_owned(), json!(generation));
        let mut dump = DumpWriter::new(&head, "routes");
        for route in self.mirror.routes(args.table) {
            let is_v4 = !route.prefix.contains(':');
            if args
                .family
                .is_some_and(|family| (family == FamilyArg::V4) != is_v4)
            {
                continue;
            }
            if let Err(error) = dump.row(&route) {
                return Answer::Error(ErrorBody::new(Code::Failed, error.to_string()));
            }
        }
        let dump = Arc::new(dump.finish());
        self.dumps
            .live
            .push((args, generation, Instant::now(), Arc::downgrade(&dump)));
        Answer::Dump(dump)
    }

    pub(super) async fn diff_kernel(&mut self, args: RouteShowArgs) -> Result<Value, ErrorBody> {
        self.check_table(args.table)?;
        let mut differences = self
            .mirror
            .diff_kernel(&mut self.dataplane, args.table)
            .await
            .map_err(|error| translate::mirror_error(&error))?;
        if let Some(family) = args.family {
            differences.retain(|difference| difference.prefix.contains(':') == (family == FamilyArg::V6));
        }
        Ok(json!({"schema": "margay.route-diff/1", "differences": differences}))
    }

    fn check_table(&self, table: Option<u32>) -> Result<(), ErrorBody> {
        match table {
            Some(table) if !self.mirror.followed().contains(&table) => Err(ErrorBody::new(
                Code::NotFound,
                format!("table {table} is not mirrored"),
            )
            .hint(format!(
                "mirrored are {:?}: those of [kernel] tables, of VRFs, and of rules `iif DEVICE lookup TABLE`",
                self.mirror.followed()
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn route_get(&mut self, args: &RouteGetArgs) -> Result<Value, ErrorBody> {
        let address = args.address;
        let index = match &args.port {
            Some(port) => Some(self.ports.open.get(port).ok_or_else(|| no_port(port))?.ifindex),
            None => None,
        };
        let Some(route) = self.mirror.route_get(index, address) else {
            let tables = self.mirror.tables_of(index, address.is_ipv6());
            return Err(ErrorBody::new(
                Code::NotFound,
                format!("no table of {tables:?} has a route to {address}"),
            ));
        };
        Ok(json!({
            "schema": "margay.route-get/1",
            "route": route,
            "tables": self.mirror.tables_of(index, address.is_ipv6()),
            "nexthop": self.member_for(index, address),
        }))
    }

    /// The member that a flow to this address takes, by the function that workers use.
    fn member_for(&mut self, index: Option<u32>, address: IpAddr) -> Option<Value> {
        let vrf = index.map_or(VrfId::DEFAULT, |index| self.mirror.vrf_id(index));
        let fib = self.dataplane.fib();
        let (_, _, group) = fib.lookup(vrf, address)?;
        let member = fib.select_member(group, &flow_to(address))?;
        self.member_row(group, member)
    }

    /// A member of a group as `route get` and `explain` show it.
    pub(in crate::daemon) fn member_row(&mut self, group: GroupId, member: AdjId) -> Option<Value> {
        let fib = self.dataplane.fib();
        let adjacency = *fib.adjacency(member)?;
        let weight = match fib.group(group) {
            Some(Group::Forward { members, .. }) => members
                .iter()
                .find(|candidate| candidate.adj == member)
                .map(|candidate| candidate.weight),
            _ => None,
        };
        let links = self.mirror.links();
        let dev = links.iter().find(|link| link.index == adjacency.ifindex);
        let state = match adjacency.state {
            AdjState::Resolved { .. } => "resolved",
            AdjState::Unresolved => "unresolved",
            AdjState::Failed => "failed",
            AdjState::Down => "down",
        };
        Some(json!({
            "via": adjacency.neighbour,
            "dev": dev.map(|link| &link.name),
            "weight": weight,
            "state": state,
            "port": adjacency.port.is_some(),
        }))
    }

    pub(super) fn neigh_show(&self, family: Option<FamilyArg>) -> Value {
        let mut neighbours = self.mirror.neighbours();
        if let Some(family) = family {
            neighbours.retain(|neighbour| family.has(neighbour.address));
        }
        json!({"schema": "margay.neigh-show/1", "neighbours": neighbours})
    }
}

/// A UDP packet to an address from nowhere in particular: what `route get` asks the hash function with.
fn flow_to(address: IpAddr) -> Headers {
    let (family, dst) = match address {
        IpAddr::V4(address) => (Family::V4, u128::from(address.to_bits())),
        IpAddr::V6(address) => (Family::V6, address.to_bits()),
    };
    Headers {
        family,
        src: 0,
        dst,
        proto: 17,
        sport: 0,
        dport: 0,
        tcp_flags: 0,
        icmp: None,
        fragment: classifier::packet::Fragment::Whole,
        dscp: 0,
        ttl: 64,
        dont_fragment: true,
        l3: 14,
        l4: 34,
        len: 64,
        flow_label: 0,
        flaw: None,
        source_route: false,
    }
}
