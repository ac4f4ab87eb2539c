//! `status`: whether the daemon is ready, its workers, frames and tables.

use serde_json::{Value, json};

use crate::daemon::Daemon;

impl Daemon {
    pub(super) fn status(&self) -> Value {
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
}
