//! Two samples make rates.

use super::sample::{Sample, Tables};

/// What is shown: everything a second, largest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// Whether the daemon is ready.
    pub ready: bool,
    /// Generation of the tables.
    pub generation: u64,
    /// Seconds since the daemon's start.
    pub uptime: u64,
    /// How full the tables are.
    pub tables: Tables,
    /// Ports, by name.
    pub ports: Vec<PortRate>,
    /// Reasons, by rate, then by all packets.
    pub drops: Vec<DropRate>,
    /// Workers, in order.
    pub workers: Vec<WorkerRate>,
    /// Rules, by rate, then by all packets.
    pub rules: Vec<RuleRate>,
}

/// A port.
#[derive(Debug, Clone, PartialEq)]
pub struct PortRate {
    /// Its name.
    pub name: String,
    /// Whether it has a carrier.
    pub up: bool,
    /// Packets and bits a second that come in.
    pub rx: (f64, f64),
    /// Packets and bits a second that go out.
    pub tx: (f64, f64),
    /// Dropped packets a second.
    pub dropped: f64,
}

/// A reason for drops.
#[derive(Debug, Clone, PartialEq)]
pub struct DropRate {
    /// Its name.
    pub reason: String,
    /// Packets a second.
    pub rate: f64,
    /// Packets since the start.
    pub packets: u64,
}

/// A worker.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerRate {
    /// Its core.
    pub core: u64,
    /// Share of its time spent on packets, 0 to 1.
    pub busy: f64,
    /// Bursts a second.
    pub bursts: f64,
    /// Packets of a burst, on average; 0 without bursts.
    pub mean: f64,
    /// Share of the bursts by size: 1, 2, 3 to 4, 5 to 8, … packets.
    pub sizes: Vec<f64>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleRate {
    /// List and rule: `edge-in 4`.
    pub name: String,
    /// What it does.
    pub action: String,
    /// File and line.
    pub place: String,
    /// Packets a second.
    pub rate: f64,
    /// Packets since the list was last changed.
    pub packets: u64,
}

impl Rates {
    /// The rates between two samples. What was not there before, or has begun anew, counts from zero.
    pub fn between(before: &Sample, now: &Sample) -> Self {
        let seconds = now.uptime_ns.saturating_sub(before.uptime_ns).max(1) as f64 / 1e9;
        let grown = |before: u64, now: u64| now.checked_sub(before).unwrap_or(now);
        let rate = |before: u64, now: u64| grown(before, now) as f64 / seconds;
        let ports = now.ports.iter().map(|port| {
            let old = before.ports.iter().find(|old| old.name == port.name);
            let old = old.cloned().unwrap_or_default();
            PortRate {
                name: port.name.clone(),
                up: port.up,
                rx: (
                    rate(old.rx_packets, port.rx_packets),
                    8.0 * rate(old.rx_bytes, port.rx_bytes),
                ),
                tx: (
                    rate(old.tx_packets, port.tx_packets),
                    8.0 * rate(old.tx_bytes, port.tx_bytes),
                ),
                dropped: rate(old.dropped, port.dropped),
            }
        });
        let mut drops: Vec<DropRate> = now
            .drops
            .iter()
            .map(|drop| {
                let old = before.drops.iter().find(|old| old.reason == drop.reason);
                DropRate {
                    reason: drop.reason.clone(),
                    rate: rate(old.map_or(0, |old| old.packets), drop.packets),
                    packets: drop.packets,
                }
            })
            .collect();
        drops.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.packets.cmp(&a.packets)));
        let workers = now.workers.iter().enumerate().map(|(at, worker)| {
            let old = before.workers.get(at).cloned().unwrap_or_default();
            let busy = grown(old.busy_ns, worker.busy_ns) as f64;
            let all = busy + grown(old.idle_ns, worker.idle_ns) as f64;
            let sizes: Vec<u64> = worker
                .bursts
                .iter()
                .enumerate()
                .map(|(class, count)| grown(old.bursts.get(class).copied().unwrap_or(0), *count))
                .collect();
            let bursts = sizes.iter().sum::<u64>();
            let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
            WorkerRate {
                core: worker.core,
                busy: share(busy, all),
                bursts: bursts as f64 / seconds,
                mean: share(grown(old.packets, worker.packets) as f64, bursts as f64),
                sizes: sizes
                    .iter()
                    .map(|size| share(*size as f64, bursts as f64))
                    .collect(),
            }
        });
        let mut rules: Vec<RuleRate> = now
            .rules
            .iter()
            .map(|rule| {
                let same = before
                    .rules
                    .iter()
                    .find(|old| old.acl == rule.acl && old.index == rule.index);
                let name = if rule.index < 0 {
                    format!("{} default", rule.acl)
                } else {
                    format!("{} {}", rule.acl, rule.index)
                };
                RuleRate {
                    name,
                    action: rule.action.clone(),
                    place: rule.place.clone(),
                    // A rule that was not among the first before has an unknown past: it begins with the next sample.
                    rate: same.map_or(0.0, |old| rate(old.packets, rule.packets)),
                    packets: rule.packets,
                }
            })
            .collect();
        rules.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.packets.cmp(&a.packets)));
        Self {
            ready: now.ready,
            generation: now.generation,
            uptime: now.uptime_ns / 1_000_000_000,
            tables: now.tables,
            ports: ports.collect(),
            drops,
            workers: workers.collect(),
            rules,
        }
    }
}
