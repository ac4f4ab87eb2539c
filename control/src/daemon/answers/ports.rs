//! `port show` and `port set`.

use forwarder::{MacAddr, PortStats};
use serde_json::{Value, json};

use super::no_port;
use crate::config::OnExit;
use crate::daemon::state::PortState;
use crate::daemon::{Daemon, guard_entries};
use crate::socket::{Code, ErrorBody, PortSetArgs};

impl Daemon {
    pub(super) fn port_show(&self, wanted: Option<&str>) -> Result<Value, ErrorBody> {
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
            "largest_mtu": stats.largest_mtu,
            "mtu_limit": &*stats.mtu_limit,
            "mac": mac(attrs.mac),
            "up": attrs.up,
            "acl": open.acl,
            "on_exit": open.on_exit,
            "vrf": self.vrf_row(open.ifindex),
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

    /// The VRF of a port: `{name, tables: {ipv4, ipv6}}`, `name` null where rules make it; `null` in the default one.
    fn vrf_row(&self, index: u32) -> Option<Value> {
        let name = self.mirror.vrf_of(index)?;
        let tables = |v6| self.mirror.tables_of(Some(index), v6);
        Some(json!({"name": name, "tables": {"ipv4": tables(false), "ipv6": tables(true)}}))
    }

    pub(super) fn port_set(&mut self, args: &PortSetArgs) -> Result<Value, ErrorBody> {
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
        let closes = self.on_exit_of(&args.name, &port, &self.acl_of(&args.name, &port)) == OnExit::Drop;
        if closes
            && before != after
            && let Err(error) = self.guard(&after)
        {
            let _ = self.state.store(old);
            return Err(error);
        }
        self.apply_to_ports();
        if !closes && before != after {
            self.guard(&after)?;
        }
        let acl = self.acl_of(&args.name, &port);
        tracing::info!("port {}: lists set to {acl:?}", args.name);
        Ok(json!({"schema": "margay.port-set/1", "name": args.name, "acl": acl}))
    }
}

/// An Ethernet address as text.
fn mac(address: MacAddr) -> String {
    let bytes: Vec<String> = address.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}
