//! `top`: counters for a view that makes rates of them.

use classifier::acl::Origin;

use crate::daemon::Daemon;
use crate::top::{Drop, Port, Rule, Sample, TOP_RULES, Tables, Worker};

impl Daemon {
    pub(super) fn top(&mut self) -> Sample {
        let snapshot = self.dataplane.counters();
        let (groups, adjacencies) = self.mirror.adjacency_states(&mut self.dataplane);
        let stats = self.mirror.stats();
        let mut ports: Vec<Port> = snapshot
            .ports
            .iter()
            .filter_map(|stats| {
                let open = self.ports.open.get(&stats.name)?;
                Some(Port {
                    name: stats.name.clone(),
                    up: self.mirror.port_attrs(open.ifindex).is_some_and(|attrs| attrs.up),
                    rx_packets: stats.rx_packets,
                    rx_bytes: stats.rx_bytes,
                    tx_packets: stats.tx_packets,
                    tx_bytes: stats.tx_bytes,
                    dropped: stats.dropped,
                })
            })
            .collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        let drops = self.drops.totals(&snapshot).into_iter();
        let drops = drops.filter(|(_, packets, _)| *packets > 0);
        let workers = snapshot.workers.iter().map(|worker| Worker {
            core: worker.core as u64,
            busy_ns: worker.busy_time.as_nanos() as u64,
            idle_ns: worker.idle_time.as_nanos() as u64,
            packets: worker.sizes.packets,
            bursts: worker.sizes.classes.to_vec(),
        });
        Sample {
            schema: "margay.top/1".to_owned(),
            ready: self.ready,
            generation: stats.generation,
            uptime_ns: self.started.elapsed().as_nanos() as u64,
            tables: Tables {
                routes: stats.routes,
                neighbours: stats.neighbours,
                groups,
                adjacencies: adjacencies.values().sum(),
                fib_bytes: self.dataplane.fib().bytes().1 as u64,
                frames: snapshot.frames.total,
                frames_free: snapshot.frames.free,
            },
            ports,
            drops: drops
                .map(|(reason, packets, _)| Drop {
                    reason: reason.name().to_owned(),
                    packets,
                })
                .collect(),
            workers: workers.collect(),
            rules: self.top_rules(),
        }
    }

    /// The rules of all lists that have decided the most packets.
    fn top_rules(&self) -> Vec<Rule> {
        let mut most = Vec::new();
        for (name, instance, _) in self.lists.iter() {
            let counters = instance.counters().into_iter().enumerate();
            most.extend(
                counters
                    .filter(|(_, count)| count.packets > 0)
                    .map(|(row, count)| (count, name, instance, row)),
            );
            // However many rules there are, no more than those of one list are held at a time.
            most.sort_by_key(|(count, ..)| std::cmp::Reverse(count.packets));
            most.truncate(TOP_RULES);
        }
        let place = |origin: &Origin| {
            let file = origin.file.rsplit('/').next().unwrap_or_default();
            format!("{file}:{}", origin.line)
        };
        let rows = most.into_iter().map(|(count, name, instance, row)| {
            let image = instance.image();
            Rule {
                acl: name.to_owned(),
                index: if row < image.rules() { row as i64 } else { -1 },
                action: image
                    .action(row)
                    .unwrap_or(image.default_action())
                    .name()
                    .to_owned(),
                place: image.origin(row).map(place).unwrap_or_default(),
                packets: count.packets,
                bytes: count.bytes,
            }
        });
        rows.collect()
    }
}
