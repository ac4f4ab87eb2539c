//! `doctor`: what the daemon knows, handed to the checks.

use serde_json::json;
use tokio::sync::oneshot;

use super::no_port;
use crate::config::{OnExit, Selector};
use crate::daemon::{Daemon, guard_entries};
use crate::doctor;
use crate::socket::{Answer, ErrorBody};

impl Daemon {
    /// Gathers what the daemon knows, and has the checks made on another thread: other programs are asked, and packets'
    /// routes do not wait for them.
    pub(super) fn doctor(&mut self, wanted: Option<&str>, reply: oneshot::Sender<Answer>) {
        let facts = match self.facts(wanted) {
            Ok(facts) => facts,
            // A client that has left needs no answer.
            Err(error) => return drop(reply.send(Answer::Error(error))),
        };
        tokio::task::spawn_blocking(move || {
            let checks = doctor::checks(&facts);
            let _ = reply.send(Answer::Value(
                json!({"schema": "margay.doctor/1", "checks": checks}),
            ));
        });
    }

    fn facts(&mut self, wanted: Option<&str>) -> Result<doctor::Facts, ErrorBody> {
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
                    largest_mtu: stats.largest_mtu,
                    mtu_limit: stats.mtu_limit.to_string(),
                    role: open.port.role,
                    up: attrs.up,
                    fix_checksums: open.port.fix_checksums,
                    pattern: match &open.port.selector {
                        Selector::Match(pattern) => Some(pattern.clone()),
                        Selector::Name(_) => None,
                    },
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
            .map(|(name, waiting)| doctor::Waiting {
                name: name.clone(),
                cause: waiting.cause,
                message: waiting.message.clone(),
            })
            .collect();
        let mut not_ports: Vec<(String, usize)> = Vec::new();
        if wanted.is_none() {
            not_ports = self.devices_that_are_no_ports();
        }
        Ok(doctor::Facts {
            ports,
            waiting,
            not_ports,
            frame_size: self.config.runtime.frame_size,
            cores: snapshot.workers.iter().map(|worker| worker.core).collect(),
            profile: self.config.runtime.profile,
            frames: self.config.runtime.frames,
            file: self.file.clone(),
            neighbours: self.mirror.neighbours().len(),
            guarded: guard_entries(&self.config, &self.state, &self.released)
                .into_iter()
                .map(|entry| entry.name)
                .chain(self.with_tables())
                .collect(),
            node: wanted.is_none(),
        })
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
}
