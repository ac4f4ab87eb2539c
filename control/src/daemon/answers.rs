//! What the daemon answers on its socket.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use classifier::packet::{Family, Headers};
use forwarder::fib::{AdjId, AdjState, Group, GroupId};
use forwarder::{MacAddr, PortStats};
use serde_json::{Map, Value, json};

use super::reload::What;
use super::state::PortState;
use super::{Daemon, guard_entries, load_guard, translate};
use crate::config::OnExit;
use crate::doctor;
use crate::guard;
use crate::socket::{
    Answer, Code, Dump, DumpWriter, ErrorBody, FamilyArg, Incoming, PortSetArgs, Request, RouteShowArgs,
};

/// Most bytes of all route dumps that clients are still reading.
const DUMP_BYTES: usize = 1 << 30;
/// How long a dump is shared with clients that ask for the same again.
const DUMP_AGE: Duration = Duration::from_secs(1);

/// Dumps that are being read.
#[derive(Debug, Default)]
pub(super) struct Dumps {
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
    /// Answers one request. What takes longer is answered later by whoever finishes it.
    pub(super) async fn answer(&mut self, incoming: Incoming) {
        let Incoming { request, reply } = incoming;
        let answer = match request {
            Request::Status => Answer::Value(self.status()),
            Request::PortShow(name) => self.port_show(name.as_deref()).into(),
            Request::PortSet(args) => self.port_set(&args).into(),
            Request::RouteShow(args) if args.diff_kernel => self.diff_kernel(args).await.into(),
            Request::RouteShow(args) => self.route_show(args),
            Request::RouteGet(address) => self.route_get(address).into(),
            Request::NeighShow(family) => Answer::Value(self.neigh_show(family)),
            Request::NexthopShow => Answer::Value(json!({
                "schema": "margay.nexthop-show/1",
                "nexthops": self.mirror.groups(&mut self.dataplane),
            })),
            Request::AclShow(name) => self.acl_show(name.as_deref()).into(),
            Request::AclReload => return self.reload(What::Lists, Some(reply)),
            Request::Drops(args) => Answer::Value(self.drops.answer(&self.dataplane.counters(), args.reset)),
            Request::Explain(args) => self.explain(&args).into(),
            Request::Monitor(kinds) => {
                self.mirror.watch(true);
                Answer::Stream(self.events.subscribe(), kinds)
            }
            Request::ConfigShow => Answer::Value(json!({
                "schema": "margay.config-show/1",
                "file": self.file,
                "config": self.config.effective(),
            })),
            Request::Doctor(port) => self.doctor(port.as_deref()).into(),
            Request::Release(port) => self.release(port.as_deref()).into(),
        };
        // A client that has left needs no answer.
        let _ = reply.send(answer);
    }

    fn status(&self) -> Value {
        let snapshot = self.dataplane.counters();
        let stats = self.mirror.stats();
        let workers: Vec<Value> = snapshot
            .workers
            .iter()
            .map(|worker| {
                json!({
                    "core": worker.core,
                    "busy": (worker.busy * 10_000.0).round() / 10_000.0,
                    "bursts": worker.bursts,
                    "queues": worker.queues,
                })
            })
            .collect();
        let census = snapshot.frames.census;
        let waits_for = if self.ready {
            None
        } else if !self.mirror.complete() {
            Some("the kernel's tables".to_owned())
        } else {
            Some("ports to be opened".to_owned())
        };
        json!({
            "schema": "margay.status/1",
            "ready": self.ready,
            "waits_for": waits_for,
            "generation": stats.generation,
            "workers": workers,
            "ports": self.ports.open_count(),
            "routes": stats.routes,
            "neighbours": stats.neighbours,
            "frames": {
                "total": snapshot.frames.total,
                "free": snapshot.frames.free,
                "kernel_bytes": snapshot.frames.kernel_bytes,
                "census": {
                    "free": census.free,
                    "rx": census.rx,
                    "tx": census.tx,
                    "held": census.held,
                    "handover": census.handover,
                },
            },
            "resyncs": stats.resyncs,
            "mirror": stats,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime": self.started.elapsed().as_secs(),
        })
    }

    fn port_show(&self, wanted: Option<&str>) -> Result<Value, ErrorBody> {
        let snapshot = self.dataplane.counters();
        let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted == name);
        let ports: Vec<Value> = snapshot
            .ports
            .iter()
            .filter(|stats| is_wanted(&stats.name))
            .filter_map(|stats| self.port_row(stats))
            .collect();
        let waiting: Vec<Value> = self
            .ports
            .waiting
            .iter()
            .filter(|(name, _)| is_wanted(name))
            .map(|(name, waiting)| json!({"name": name, "message": waiting.message}))
            .collect();
        if let Some(name) = wanted
            && ports.is_empty()
            && waiting.is_empty()
        {
            return Err(no_port(name));
        }
        Ok(json!({"schema": "margay.port-show/1", "ports": ports, "waiting": waiting}))
    }

    fn port_row(&self, stats: &PortStats) -> Option<Value> {
        let open = self.ports.open.get(&stats.name)?;
        let attrs = self.mirror.port_attrs(open.ifindex).unwrap_or_default();
        Some(json!({
            "name": stats.name,
            "index": open.ifindex,
            "role": open.port.role,
            "queues": stats.queues,
            "mode": stats.mode_obtained.to_string(),
            "mtu": attrs.mtu,
            "mac": mac(attrs.mac),
            "up": attrs.up,
            "acl": open.acl,
            "on_exit": open.on_exit,
            "anti_spoof": open.port.anti_spoof,
            "fix_checksums": open.port.fix_checksums,
            "rx_packets": stats.rx_packets,
            "rx_bytes": stats.rx_bytes,
            "tx_packets": stats.tx_packets,
            "tx_bytes": stats.tx_bytes,
            "punted": stats.punted,
            "forwarded": stats.forwarded,
            "replied": stats.replied,
            "held": stats.held,
            "dropped": stats.dropped,
            "originated": stats.originated,
        }))
    }

    fn port_set(&mut self, args: &PortSetArgs) -> Result<Value, ErrorBody> {
        let Some(port) = self.config.port_for(&args.name).cloned() else {
            return Err(no_port(&args.name));
        };
        let mut ports = self.state.ports.clone();
        let entry = ports.entry(args.name.clone()).or_default();
        if args.default {
            *entry = PortState::default();
        }
        for (set, wanted) in [
            (&mut entry.acl_ingress, &args.acl_ingress),
            (&mut entry.acl_egress, &args.acl_egress),
        ] {
            let Some(list) = wanted else { continue };
            let name = list.replace("{port}", &args.name);
            if !list.is_empty() && !self.lists.has(&name) {
                return Err(
                    ErrorBody::new(Code::NotFound, format!("there is no list {name:?}"))
                        .hint("`margay acl show` names those there are"),
                );
            }
            *set = Some(list.clone());
        }
        if *entry == PortState::default() {
            ports.remove(&args.name);
        }
        let before = guard_entries(&self.config, &self.state, &self.released);
        let old = self.state.ports.clone();
        self.state
            .store(ports)
            .map_err(|error| ErrorBody::new(Code::Failed, format!("what was set cannot be kept: {error}")))?;
        let after = guard_entries(&self.config, &self.state, &self.released);
        // A port that is closed from now on is guarded first; one that is opened is let go last.
        let closes = port.on_exit(&self.acl_of(&args.name, &port)) == OnExit::Drop;
        if closes
            && before != after
            && let Err(error) = load_guard(&after)
        {
            let _ = self.state.store(old);
            return Err(error);
        }
        self.apply_to_ports();
        if !closes && before != after {
            load_guard(&after)?;
        }
        let acl = self.acl_of(&args.name, &port);
        tracing::info!("port {}: lists set to {acl:?}", args.name);
        Ok(json!({"schema": "margay.port-set/1", "name": args.name, "acl": acl}))
    }

    fn route_show(&mut self, args: RouteShowArgs) -> Answer {
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

    async fn diff_kernel(&mut self, args: RouteShowArgs) -> Result<Value, ErrorBody> {
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
            Some(table) if !self.config.tables.contains(&table) => Err(ErrorBody::new(
                Code::NotFound,
                format!("table {table} is not mirrored"),
            )
            .hint(format!("[kernel] tables = {:?}", self.config.tables))),
            _ => Ok(()),
        }
    }

    fn route_get(&mut self, address: IpAddr) -> Result<Value, ErrorBody> {
        let Some(route) = self.mirror.route_get(address) else {
            return Err(ErrorBody::new(
                Code::NotFound,
                format!("no table has a route to {address}"),
            ));
        };
        Ok(json!({
            "schema": "margay.route-get/1",
            "route": route,
            "nexthop": self.member_for(address),
        }))
    }

    /// The member that a flow to this address takes, by the function that workers use.
    fn member_for(&mut self, address: IpAddr) -> Option<Value> {
        let fib = self.dataplane.fib();
        let (_, _, group) = fib.lookup(address)?;
        let member = fib.select_member(group, &flow_to(address))?;
        self.member_row(group, member)
    }

    /// A member of a group as `route get` and `explain` show it.
    pub(super) fn member_row(&mut self, group: GroupId, member: AdjId) -> Option<Value> {
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

    fn neigh_show(&self, family: Option<FamilyArg>) -> Value {
        let mut neighbours = self.mirror.neighbours();
        if let Some(family) = family {
            neighbours.retain(|neighbour| family.has(neighbour.address));
        }
        json!({"schema": "margay.neigh-show/1", "neighbours": neighbours})
    }

    fn acl_show(&self, wanted: Option<&str>) -> Result<Value, ErrorBody> {
        let mut lists = Vec::new();
        for (name, instance, is_there) in self.lists.iter() {
            if wanted.is_some_and(|wanted| wanted != name) {
                continue;
            }
            let image = instance.image();
            let counters = instance.counters();
            let mut rules: Vec<Value> = (0..image.rules())
                .map(|index| {
                    let origin = image.origin(index);
                    let count = counters.get(index).copied().unwrap_or_default();
                    json!({
                        "index": index,
                        "action": image.action(index).map(|action| action.name()),
                        "file": origin.map(|origin| &*origin.file),
                        "line": origin.map(|origin| origin.line),
                        "packets": count.packets,
                        "bytes": count.bytes,
                    })
                })
                .collect();
            // The default stands last, as rule -1.
            let default = counters.last().copied().unwrap_or_default();
            rules.push(json!({
                "index": -1,
                "action": image.default_action().name(),
                "file": null,
                "line": null,
                "packets": default.packets,
                "bytes": default.bytes,
            }));
            let mut ports = Vec::new();
            for (port, open) in &self.ports.open {
                for (direction, list) in [("ingress", &open.acl.ingress), ("egress", &open.acl.egress)] {
                    if list.as_deref() == Some(name) {
                        ports.push(json!({"port": port, "direction": direction}));
                    }
                }
            }
            lists.push(json!({
                "name": name,
                "default": image.default_action().name(),
                "missing": !is_there,
                "rules": rules,
                "ports": ports,
            }));
        }
        match wanted {
            Some(name) if lists.is_empty() => Err(ErrorBody::new(
                Code::NotFound,
                format!("there is no list {name:?}"),
            )),
            _ => Ok(json!({"schema": "margay.acl-show/1", "lists": lists})),
        }
    }

    fn doctor(&mut self, wanted: Option<&str>) -> Result<Value, ErrorBody> {
        if let Some(name) = wanted
            && !self.ports.open.contains_key(name)
            && !self.ports.waiting.contains_key(name)
        {
            return Err(no_port(name));
        }
        let snapshot = self.dataplane.counters();
        let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted == name);
        let ports = snapshot
            .ports
            .iter()
            .filter(|stats| is_wanted(&stats.name))
            .filter_map(|stats| {
                let open = self.ports.open.get(&stats.name)?;
                let attrs = self.mirror.port_attrs(open.ifindex).unwrap_or_default();
                Some(doctor::Port {
                    name: stats.name.clone(),
                    mode_wanted: open.port.mode,
                    mode_obtained: stats.mode_obtained.to_string(),
                    queues: stats.queues,
                    mtu: attrs.mtu,
                    role: open.port.role,
                    up: attrs.up,
                    fix_checksums: open.port.fix_checksums,
                    closed: open.on_exit == OnExit::Drop,
                    acl_missing: [&open.acl.ingress, &open.acl.egress]
                        .into_iter()
                        .flatten()
                        .filter(|list| !self.lists.has(list))
                        .cloned()
                        .collect(),
                })
            })
            .collect();
        let waiting = self
            .ports
            .waiting
            .iter()
            .filter(|(name, _)| is_wanted(name))
            .map(|(name, waiting)| (name.clone(), waiting.message.clone()))
            .collect();
        let mut not_ports: Vec<(String, usize)> = Vec::new();
        if wanted.is_none() {
            not_ports = self.devices_that_are_no_ports();
        }
        let facts = doctor::Facts {
            ports,
            waiting,
            not_ports,
            frame_size: self.config.runtime.frame_size,
            workers: snapshot.workers.len(),
            neighbours: self.mirror.neighbours().len(),
            guarded: guard_entries(&self.config, &self.state, &self.released)
                .into_iter()
                .map(|entry| entry.name)
                .collect(),
            node: wanted.is_none(),
        };
        Ok(json!({"schema": "margay.doctor/1", "checks": doctor::checks(&facts)}))
    }

    /// Devices that routes lead to and that are no ports, with the number of such routes.
    fn devices_that_are_no_ports(&self) -> Vec<(String, usize)> {
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for route in self.mirror.routes(None) {
            for hop in &route.nexthops {
                let is_port = self.ports.open.contains_key(&hop.dev);
                if !hop.dev.is_empty() && hop.dev != "lo" && !is_port {
                    *counts.entry(hop.dev.clone()).or_default() += 1;
                }
            }
        }
        counts.into_iter().collect()
    }

    fn release(&mut self, port: Option<&str>) -> Result<Value, ErrorBody> {
        let released = guard::release(port).map_err(|error| crate::cli::guard_error(&error))?;
        if !released.is_empty() {
            tracing::warn!(
                "released until the next start: {}; the kernel forwards there when no worker does",
                released.join(", ")
            );
        }
        self.released.extend(released.iter().cloned());
        Ok(json!({"schema": "margay.release/1", "released": released}))
    }
}

pub(super) fn no_port(name: &str) -> ErrorBody {
    ErrorBody::new(Code::NotFound, format!("there is no port {name:?}"))
        .hint("`margay port show` names those there are")
}

/// An Ethernet address as text.
fn mac(address: MacAddr) -> String {
    let bytes: Vec<String> = address.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
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
        source_route: false,
    }
}
