//! What the data plane tells about itself: the steering program's counts, the workers' and the kernel's, put together.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use super::Dataplane;
use crate::port::Port;
use crate::reason::Reason;
use crate::settings::PortId;
use crate::snapshot::{Census, DropCount, FrameStats, PortStats, Snapshot, WorkerStats};

/// The kernel allocates about so much for each frame and bound queue (`struct xdp_buff_xsk`).
const KERNEL_BYTES: u64 = 128;

/// What the last snapshot saw, to tell what has changed since.
#[derive(Debug)]
pub(super) struct Marks {
    at: Instant,
    /// Nanoseconds that each worker had been busy, and the share that the last snapshot told.
    busy: Vec<(u64, f64)>,
    /// Drops that the kernel counts, which tells no time.
    kernel_drops: HashMap<(PortId, Reason), (u64, SystemTime)>,
}

impl Marks {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            at: Instant::now(),
            busy: vec![(0, 0.0); workers],
            kernel_drops: HashMap::new(),
        }
    }

    /// A closed port's number will be another port's.
    pub(super) fn forget(&mut self, port: PortId) {
        self.kernel_drops.retain(|(of, _), _| *of != port);
    }

    /// When a count was last seen to grow.
    fn last_seen(&mut self, port: PortId, reason: Reason, packets: u64) -> SystemTime {
        let seen = self
            .kernel_drops
            .entry((port, reason))
            .or_insert((0, SystemTime::now()));
        if packets != seen.0 {
            *seen = (packets, SystemTime::now());
        }
        seen.1
    }
}

impl Dataplane {
    /// Counters and state, read while the workers run.
    pub fn counters(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for port in self.ports.values() {
            self.count_port(port, &mut snapshot);
        }
        snapshot.workers = self.count_workers();
        snapshot.frames = self.count_frames();
        snapshot
    }

    fn count_port(&self, port: &Port, snapshot: &mut Snapshot) {
        let id = port.id;
        // The later a packet is counted, the earlier its count is read: no sum is larger than what came in.
        let totals = self.shared.counters().port(id);
        let (mut ring_full, mut no_frame, mut oversize) = (0, 0, 0);
        for queue in port.statistics() {
            ring_full += queue.rx_ring_full;
            no_frame += queue.rx_no_frame;
            oversize += queue.rx_oversize;
            snapshot.queues.push(queue);
        }
        let steered = self.steer.tallies(id).unwrap_or_default();

        for (at, row) in totals
            .reasons
            .iter()
            .enumerate()
            .filter(|(_, row)| row.packets > 0)
        {
            let reason = Reason::ALL[at];
            snapshot.drops.push(DropCount {
                port: id,
                reason,
                packets: row.packets,
                bytes: row.bytes,
                last_seen: row.last_seen,
            });
        }
        let drops = [
            (
                Reason::HostProtection,
                steered.protected.packets,
                steered.protected.bytes,
            ),
            (Reason::PortClosed, steered.closed.packets, steered.closed.bytes),
            (Reason::RxRingFull, ring_full, 0),
            (Reason::RxNoFrame, no_frame, 0),
            (Reason::Oversize, oversize, 0),
        ];
        let mut marks = self.marks.borrow_mut();
        let mut dropped = totals.dropped();
        for (reason, packets, bytes) in drops.into_iter().filter(|(_, packets, _)| *packets > 0) {
            dropped += packets;
            let last_seen = Some(marks.last_seen(id, reason, packets));
            match snapshot
                .drops
                .iter_mut()
                .find(|drop| drop.port == id && drop.reason == reason)
            {
                Some(drop) => {
                    drop.packets += packets;
                    drop.bytes += bytes;
                    drop.last_seen = drop.last_seen.max(last_seen);
                }
                None => snapshot.drops.push(DropCount {
                    port: id,
                    reason,
                    packets,
                    bytes,
                    last_seen,
                }),
            }
        }
        let sum = |of: fn(&crate::steer::Tally) -> u64| {
            of(&steered.punted) + of(&steered.redirected) + of(&steered.protected) + of(&steered.closed)
        };
        snapshot.ports.push(PortStats {
            id,
            name: port.spec.name.clone(),
            rx_packets: sum(|tally| tally.packets),
            rx_bytes: sum(|tally| tally.bytes),
            tx_packets: totals.tx_packets,
            tx_bytes: totals.tx_bytes,
            punted: steered.punted.packets,
            forwarded: totals.forwarded,
            replied: totals.replied,
            held: totals.held,
            dropped,
            originated: totals.originated,
            mode_obtained: port.obtained,
            largest_mtu: port.possible_mtu.0,
            mtu_limit: port.possible_mtu.1.clone(),
            queues: port.sockets.len() as u32,
        });
    }

    fn count_workers(&self) -> Vec<WorkerStats> {
        let mut marks = self.marks.borrow_mut();
        let elapsed = marks.at.elapsed().as_nanos() as f64;
        // Two snapshots at once would divide by next to nothing: the second one tells what the first one did.
        let fresh = elapsed > 1e6;
        if fresh {
            marks.at = Instant::now();
        }
        let mut workers = Vec::new();
        for (number, worker) in self.workers.iter().enumerate() {
            let gauges = &self.fabric.mailbox(number).gauges;
            let busy = gauges.busy.load(Relaxed);
            let mark = &mut marks.busy[number];
            if fresh {
                *mark = (busy, (busy.saturating_sub(mark.0) as f64 / elapsed).min(1.0));
            }
            let busy_time = Duration::from_nanos(busy);
            let sizes = self.shared.counters().worker(number).bursts();
            workers.push(WorkerStats {
                core: worker.core,
                busy: mark.1,
                busy_time,
                idle_time: worker.started.elapsed().saturating_sub(busy_time),
                bursts: sizes.bursts(),
                sizes,
                queues: gauges.queues.load(Relaxed) as u32,
            });
        }
        workers
    }

    fn count_frames(&self) -> FrameStats {
        let mut census = Census {
            handover: self.fabric.in_transit(),
            ..Census::default()
        };
        for worker in 0..self.workers.len() {
            let gauges = &self.fabric.mailbox(worker).gauges;
            census.free += gauges.free.load(Relaxed);
            census.rx += gauges.rx.load(Relaxed);
            census.tx += gauges.tx.load(Relaxed);
            census.held += gauges.held.load(Relaxed);
        }
        census.rx += self
            .quarantine
            .iter()
            .map(|(_, _, frames)| frames.len() as u64)
            .sum::<u64>();
        let total = u64::from(self.umem.frames());
        let queues: u64 = self.load.iter().map(|&queues| u64::from(queues)).sum();
        FrameStats {
            total,
            free: census.free,
            kernel_bytes: total * queues * KERNEL_BYTES,
            census,
        }
    }
}
