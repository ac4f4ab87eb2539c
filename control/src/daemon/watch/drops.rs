//! `drops`, with what is known of the packets themselves: the last ones, and who sent most of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use classifier::packet::glance;
use forwarder::reason::Reason;
use forwarder::watch::{DroppedPacket, KEPT};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{LINES, filter, packet};
use crate::daemon::Daemon;
use crate::daemon::drops::rfc3339;
use crate::socket::{Answer, DropsArgs, ErrorBody, LastArgs};

/// For each reason the source that most of its kept packets come from: the address, its packets, all kept packets.
type TopSources = BTreeMap<Reason, (IpAddr, u64, u64)>;

fn top_sources<'p>(packets: impl Iterator<Item = &'p DroppedPacket>) -> TopSources {
    let mut counts = BTreeMap::<Reason, BTreeMap<IpAddr, u64>>::new();
    for packet in packets {
        if let Some(source) = packet::source(&packet.data) {
            *counts
                .entry(packet.reason)
                .or_default()
                .entry(source)
                .or_default() += 1;
        }
    }
    let top = counts.into_iter().filter_map(|(reason, sources)| {
        let all = sources.values().sum();
        let (source, count) = sources.into_iter().max_by_key(|(_, count)| *count)?;
        Some((reason, (source, count, all)))
    });
    top.collect()
}

/// Adds what is known of the packets to the rows of an answer.
fn add_sources(answer: &mut Value, top: &TopSources) {
    for row in answer["drops"].as_array_mut().into_iter().flatten() {
        let reason = row["reason"].as_str().and_then(Reason::from_name);
        let top = reason.and_then(|reason| top.get(&reason));
        row["top_source"] = json!(top.map(|(address, packets, of)| json!({
            "address": address,
            "packets": packets,
            "of": of,
        })));
    }
}

impl Daemon {
    pub(in crate::daemon) fn drops(&mut self, args: DropsArgs) -> Value {
        let mut answer = self.drops.answer(&self.dataplane.counters(), args.reset);
        let (kept, _) = self.dataplane.dropped_packets(usize::MAX);
        add_sources(&mut answer, &top_sources(kept.iter().map(|(_, packet)| packet)));
        answer
    }

    /// The last dropped packets that a filter matches, newest first.
    pub(in crate::daemon) fn drops_last(&mut self, args: &LastArgs) -> Result<Value, ErrorBody> {
        let filter = filter(&args.filter)?;
        self.learn_names();
        let (kept, torn) = self.dataplane.dropped_packets(usize::MAX);
        let rows: Vec<Value> = kept
            .iter()
            .rev()
            .filter(|(_, packet)| filter.is_all() || filter.matches(glance(&packet.data).as_ref()))
            .take(args.count)
            .map(|(worker, packet)| self.dropped_row(*worker, packet))
            .collect();
        Ok(json!({
            "schema": "margay.drops-last/1",
            "packets": rows,
            "kept": kept.len(),
            "kept_at_most": KEPT * self.dataplane.counters().workers.len(),
            "torn": torn,
        }))
    }

    fn dropped_row(&self, worker: usize, dropped: &DroppedPacket) -> Value {
        json!({
            "time": rfc3339(self.dataplane.time_of(dropped.time)),
            "worker": worker,
            "port": self.name_of(dropped.port),
            "reason": dropped.reason.name(),
            "rule": self.lists.decided(dropped.rule),
            "length": dropped.len,
            "packet": packet::headers(&dropped.data),
            "data": packet::hex(&dropped.data),
        })
    }

    /// Rates for `drops`, and a line for each client of `drops watch`, about once a second.
    pub(in crate::daemon) fn sample_drops(&mut self) {
        self.learn_names();
        if !self.drops.is_due(Instant::now()) {
            return;
        }
        let snapshot = self.dataplane.counters();
        let grown = self.drops.sample(&snapshot, Instant::now());
        self.watchers.drops.retain(|client| !client.is_closed());
        let Some((interval, mut rows)) = grown else { return };
        if self.watchers.drops.is_empty() || rows.is_empty() {
            return;
        }
        let (kept, _) = self.dataplane.dropped_packets(usize::MAX);
        for row in &mut rows {
            let reason = row["reason"].as_str().and_then(Reason::from_name);
            let last = kept
                .iter()
                .rev()
                .find(|(_, packet)| Some(packet.reason) == reason);
            row["last"] = json!(last.map(|(worker, packet)| self.dropped_row(*worker, packet)));
        }
        let mut line = json!({
            "schema": "margay.drops-watch/1",
            "time": rfc3339(SystemTime::now()),
            "interval": interval,
            "drops": rows,
        });
        add_sources(&mut line, &top_sources(kept.iter().map(|(_, packet)| packet)));
        let line = format!("{line}\n");
        // A client that has not read the lines before misses this one; the next one counts from here.
        for client in &self.watchers.drops {
            let _ = client.try_send(line.clone());
        }
    }

    pub(in crate::daemon) fn drops_watch(&mut self) -> Answer {
        let (sender, receiver) = mpsc::channel(LINES);
        self.watchers.drops.push(sender);
        Answer::Lines(receiver)
    }
}
