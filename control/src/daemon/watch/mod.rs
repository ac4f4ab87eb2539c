//! Watching packets: who asked for them, and what is sent to whom.
//!
//! A watcher has a tap in the data plane and a channel to its client. On each tick what the workers have shown since is
//! turned into lines, as many as the channel takes. A client that reads too slowly leaves its packets in the workers'
//! rings, where the next ones find no room and are counted as lost.

mod capture;
mod drops;
mod packet;
mod trace;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::filter::Filter;
use forwarder::PortId;
use forwarder::watch::{MAX_TAPS, Record, Tap, TapSpec};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Daemon;
use crate::socket::{Answer, Code, ErrorBody};

/// Lines that may wait for one client.
const LINES: usize = 1024;
/// Packets that one tick may turn into lines for one client: other work waits meanwhile.
const A_TICK: usize = 512;
/// How often a client is told of losses.
const TELL: Duration = Duration::from_secs(1);

/// What the lines of a watcher are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Trace,
    Capture,
}

impl Kind {
    fn schema(self) -> &'static str {
        match self {
            Kind::Trace => "margay.trace/1",
            Kind::Capture => "margay.capture/1",
        }
    }
}

/// A client that watches packets.
#[derive(Debug)]
struct Watcher {
    kind: Kind,
    tap: Arc<Tap>,
    lines: mpsc::Sender<String>,
    /// Packets after which it ends.
    most: u64,
    sent: u64,
    told_lost: u64,
    told: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    packets: Vec<Watcher>,
    drops: Vec<mpsc::Sender<String>>,
    /// Names of ports, those that are closed included: packets may be older than that.
    names: BTreeMap<PortId, String>,
}

/// Reads a filter of a request.
fn filter(text: &str) -> Result<Filter, ErrorBody> {
    crate::filter::parse(text).map_err(|error| {
        let body = ErrorBody::new(Code::BadArgument, error.to_string());
        match error.hint {
            Some(hint) => body.hint(hint),
            None => body,
        }
    })
}

impl Daemon {
    /// Sets a tap and begins to send what it shows.
    fn watch(&mut self, kind: Kind, spec: TapSpec, most: u64) -> Result<mpsc::Receiver<String>, ErrorBody> {
        let Some(tap) = self.dataplane.set_tap(spec) else {
            return Err(ErrorBody::new(
                Code::Busy,
                format!("{MAX_TAPS} traces and captures are running already"),
            )
            .hint("end one of them"));
        };
        let (sender, receiver) = mpsc::channel(LINES);
        let begin = json!({
            "schema": kind.schema(),
            "event": "begin",
            "snap": tap.spec().snap,
            "slots": tap.spec().slots,
        });
        // The channel is new and empty.
        let _ = sender.try_send(format!("{begin}\n"));
        self.watchers.packets.push(Watcher {
            kind,
            tap,
            lines: sender,
            most: if most == 0 { u64::MAX } else { most },
            sent: 0,
            told_lost: 0,
            told: Instant::now(),
        });
        Ok(receiver)
    }

    /// Sends on what workers have shown since the last tick, and ends the watchers whose clients have left or have
    /// what they asked for.
    pub(super) fn serve_watchers(&mut self) {
        if self.watchers.packets.is_empty() {
            return;
        }
        self.learn_names();
        let mut watchers = std::mem::take(&mut self.watchers.packets);
        watchers.retain_mut(|watcher| {
            let goes_on = self.serve(watcher);
            if !goes_on {
                self.dataplane.unset_tap(&watcher.tap);
            }
            goes_on
        });
        // Answering cannot add one: both happen on this thread.
        self.watchers.packets = watchers;
    }

    /// Serves one watcher; false when it is over.
    fn serve(&mut self, watcher: &mut Watcher) -> bool {
        if watcher.lines.is_closed() {
            return false;
        }
        let tap = Arc::clone(&watcher.tap);
        for _ in 0..A_TICK {
            // Packets of different workers go out in the order of their time.
            let Some(worker) = (0..tap.workers())
                .filter_map(|worker| Some((tap.oldest(worker)?, worker)))
                .min()
                .map(|(_, worker)| worker)
            else {
                break;
            };
            let Ok(place) = watcher.lines.try_reserve() else {
                break;
            };
            let mut taken = false;
            let mut line = String::new();
            tap.read(worker, |record, bytes| {
                if taken {
                    return false;
                }
                taken = true;
                line = match watcher.kind {
                    Kind::Trace => self.trace_line(watcher.sent, record, bytes),
                    Kind::Capture => self.capture_line(record, bytes),
                };
                true
            });
            if taken {
                place.send(line);
                watcher.sent += 1;
            }
            if watcher.sent >= watcher.most {
                break;
            }
        }
        let over = watcher.sent >= watcher.most;
        let lost = tap.lost();
        let tell = over || (lost > watcher.told_lost && watcher.told.elapsed() >= TELL);
        if tell {
            let event = if over { "end" } else { "lost" };
            let line = json!({
                "schema": watcher.kind.schema(),
                "event": event,
                "packets": watcher.sent,
                "lost": lost,
            });
            if watcher.lines.try_send(format!("{line}\n")).is_err() {
                // No room: the next tick tries again.
                return !watcher.lines.is_closed();
            }
            (watcher.told_lost, watcher.told) = (lost, Instant::now());
        }
        !over
    }

    /// Notes the names of the ports that are open.
    fn learn_names(&mut self) {
        for (name, open) in &self.ports.open {
            let known = self.watchers.names.get(&open.id);
            if known.is_none_or(|known| known != name) {
                self.watchers.names.insert(open.id, name.clone());
            }
        }
    }

    /// The name of a port, or its number when it was closed before anybody asked.
    fn name_of(&self, port: PortId) -> String {
        let name = self.watchers.names.get(&port);
        name.cloned().unwrap_or_else(|| format!("port {port}"))
    }

    /// What every line about a packet says: verdict, reason and rules.
    fn verdict(&self, record: &Record) -> [(&'static str, Value); 4] {
        let reason = record.end.reason();
        [
            ("verdict", json!(record.end.name())),
            ("reason", json!(reason.map(|reason| reason.name()))),
            ("ingress_rule", json!(self.lists.decided(record.ingress_rule))),
            ("egress_rule", json!(self.lists.decided(record.egress_rule))),
        ]
    }
}

impl From<Result<mpsc::Receiver<String>, ErrorBody>> for Answer {
    fn from(result: Result<mpsc::Receiver<String>, ErrorBody>) -> Self {
        match result {
            Ok(lines) => Answer::Lines(lines),
            Err(error) => Answer::Error(error),
        }
    }
}
