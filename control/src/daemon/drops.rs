//! Drops as the operator sees them: by reason over all ports, counted from the last reset, ports that are gone
//! included.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forwarder::reason::Reason;
use forwarder::{DropCount, PortId, Snapshot};
use serde_json::{Value, json};

/// Packets and bytes, and when there was one last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    packets: u64,
    bytes: u64,
    last_seen: Option<SystemTime>,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.last_seen = self.last_seen.max(other.last_seen);
    }
}

/// What is remembered besides the data plane's own counters.
#[derive(Debug, Default)]
pub(super) struct Drops {
    /// What closed ports had dropped.
    departed: BTreeMap<Reason, Sum>,
    /// The sums at the last reset.
    base: BTreeMap<Reason, Sum>,
    /// What `monitor` was told last; `None` while nobody listens.
    told: Option<BTreeMap<(PortId, Reason), (u64, u64)>>,
    /// The sums when they were looked at last, and the rates since the time before.
    sampled: Option<(Instant, BTreeMap<Reason, Sum>)>,
    rates: BTreeMap<Reason, f64>,
}

/// How often rates are worked out.
const SAMPLE: Duration = Duration::from_secs(1);

impl Drops {
    /// Keeps the counters of a port that is about to be closed.
    pub(super) fn port_closes(&mut self, snapshot: &Snapshot, port: PortId) {
        for drop in snapshot.drops.iter().filter(|drop| drop.port == port) {
            self.departed.entry(drop.reason).or_default().add(Sum {
                packets: drop.packets,
                bytes: drop.bytes,
                last_seen: drop.last_seen,
            });
        }
        // The number is used again, and its counters begin at zero then.
        if let Some(told) = &mut self.told {
            told.retain(|(id, _), _| *id != port);
        }
    }

    fn sums(&self, snapshot: &Snapshot) -> BTreeMap<Reason, Sum> {
        let mut sums = self.departed.clone();
        for drop in &snapshot.drops {
            sums.entry(drop.reason).or_default().add(Sum {
                packets: drop.packets,
                bytes: drop.bytes,
                last_seen: drop.last_seen,
            });
        }
        sums
    }

    /// Packets and bytes by reason since the daemon's start, whatever was reset since; every reason is there.
    pub(super) fn totals(&self, snapshot: &Snapshot) -> Vec<(Reason, u64, u64)> {
        let sums = self.sums(snapshot);
        let of = |reason: &Reason| sums.get(reason).copied().unwrap_or_default();
        let reasons = Reason::ALL.iter();
        reasons
            .map(|reason| (*reason, of(reason).packets, of(reason).bytes))
            .collect()
    }

    /// Whether it is time for [`sample`](Self::sample).
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.sampled
            .as_ref()
            .is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE)
    }

    /// Works out rates. Returns the seconds since the last time, and a row for each reason that has grown; `None` the
    /// first time.
    pub(super) fn sample(&mut self, snapshot: &Snapshot, now: Instant) -> Option<(f64, Vec<Value>)> {
        let sums = self.sums(snapshot);
        let before = self.sampled.replace((now, sums.clone()));
        self.rates.clear();
        let (at, before) = before?;
        let interval = now.duration_since(at).as_secs_f64();
        let mut rows = Vec::new();
        for (reason, sum) in sums {
            let then = before.get(&reason).copied().unwrap_or_default();
            let packets = sum.packets.saturating_sub(then.packets);
            if packets > 0 {
                let rate = rounded(packets as f64 / interval);
                self.rates.insert(reason, rate);
                rows.push(json!({
                    "reason": reason.name(),
                    "packets": packets,
                    "bytes": sum.bytes.saturating_sub(then.bytes),
                    "rate": rate,
                    "last_seen": sum.last_seen.map(rfc3339),
                    "hint": reason.hint(),
                }));
            }
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row["packets"].as_u64()));
        Some((rounded(interval), rows))
    }

    /// The answer of `drops`: most frequent first.
    pub(super) fn answer(&mut self, snapshot: &Snapshot, reset: bool) -> Value {
        let names: BTreeMap<PortId, &str> = snapshot
            .ports
            .iter()
            .map(|port| (port.id, port.name.as_str()))
            .collect();
        let sums = self.sums(snapshot);
        let mut rows: Vec<(u64, Value)> = sums
            .iter()
            .filter_map(|(reason, sum)| {
                let base = self.base.get(reason).copied().unwrap_or_default();
                let packets = sum.packets.saturating_sub(base.packets);
                if packets == 0 {
                    return None;
                }
                let ports: Vec<Value> = snapshot
                    .drops
                    .iter()
                    .filter(|drop| drop.reason == *reason && drop.packets > 0)
                    .map(|drop| json!({"port": names.get(&drop.port), "packets": drop.packets, "bytes": drop.bytes}))
                    .collect();
                Some((
                    packets,
                    json!({
                        "reason": reason.name(),
                        "packets": packets,
                        "bytes": sum.bytes.saturating_sub(base.bytes),
                        "rate": self.rates.get(reason).copied().unwrap_or(0.0),
                        "last_seen": sum.last_seen.map(rfc3339),
                        "hint": reason.hint(),
                        "help": reason.help(),
                        "ports_since_open": ports,
                    }),
                ))
            })
            .collect();
        rows.sort_by_key(|(packets, _)| std::cmp::Reverse(*packets));
        if reset {
            self.base = sums;
        }
        let rows: Vec<Value> = rows.into_iter().map(|(_, row)| row).collect();
        json!({"schema": "margay.drops/1", "drops": rows})
    }

    /// Events for `monitor`: what has grown since the call before. The first call tells nothing.
    pub(super) fn grown(&mut self, snapshot: &Snapshot) -> Vec<Value> {
        let counts = |drop: &DropCount| ((drop.port, drop.reason), (drop.packets, drop.bytes));
        let now: BTreeMap<_, _> = snapshot.drops.iter().map(counts).collect();
        let Some(told) = self.told.replace(now) else {
            return Vec::new();
        };
        let mut events = Vec::new();
        for drop in &snapshot.drops {
            let (packets, bytes) = told.get(&(drop.port, drop.reason)).copied().unwrap_or_default();
            let more = drop.packets.saturating_sub(packets);
            if more > 0 {
                let port = snapshot.ports.iter().find(|port| port.id == drop.port);
                events.push(json!({
                    "event": "drop",
                    "port": port.map(|port| &port.name),
                    "reason": drop.reason.name(),
                    "packets": more,
                    "bytes": drop.bytes.saturating_sub(bytes),
                }));
            }
        }
        events
    }

    /// Nobody listens to `monitor` any more.
    pub(super) fn unwatched(&mut self) {
        self.told = None;
    }
}

/// With one digit behind the point: nobody reads more.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Time as RFC 3339 writes it, in UTC with milliseconds.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Days since 1970-01-01 as year, month and day of the Gregorian calendar, counted in eras of 400 years that begin on
/// the first of March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn snapshot(port: u16, packets: u64) -> Snapshot {
        Snapshot {
            drops: vec![DropCount {
                port: PortId(port),
                reason: Reason::AclIngress,
                packets,
                bytes: packets * 64,
                last_seen: None,
            }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn times_are_written_as_rfc_3339_says() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_795_185_296, "2026-11-20T14:34:56.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn drops_count_from_the_reset_and_survive_their_port() {
        let mut drops = Drops::default();
        assert_eq!(drops.answer(&snapshot(1, 5), true)["drops"][0]["packets"], 5);
        assert_eq!(drops.answer(&snapshot(1, 5), false)["drops"], json!([]));
        assert_eq!(drops.answer(&snapshot(1, 7), false)["drops"][0]["packets"], 2);
        drops.port_closes(&snapshot(1, 7), PortId(1));
        let answer = drops.answer(&snapshot(1, 1), false);
        assert_eq!(answer["drops"][0]["packets"], 3);
        for key in ["reason", "packets", "bytes", "hint", "help"] {
            assert!(!answer["drops"][0][key].is_null(), "{key}");
        }
        assert!(
            answer["drops"][0]
                .as_object()
                .is_some_and(|row| row.contains_key("last_seen"))
        );
    }

    #[test]
    fn rates_are_of_the_time_since_the_last_sample() {
        let mut drops = Drops::default();
        let start = Instant::now();
        assert!(drops.is_due(start));
        assert!(drops.sample(&snapshot(1, 5), start).is_none());
        assert!(!drops.is_due(start + Duration::from_millis(900)));
        let later = start + Duration::from_secs(2);
        let (interval, rows) = drops.sample(&snapshot(1, 25), later).expect("a second time");
        assert_eq!(
            (interval, &rows[0]["packets"], &rows[0]["rate"]),
            (2.0, &json!(20), &json!(10.0))
        );
        assert_eq!(drops.answer(&snapshot(1, 25), false)["drops"][0]["rate"], 10.0);
        let (_, rows) = drops
            .sample(&snapshot(1, 25), later + SAMPLE)
            .expect("a third time");
        assert!(rows.is_empty());
        assert_eq!(drops.answer(&snapshot(1, 25), false)["drops"][0]["rate"], 0.0);
    }

    #[test]
    fn monitor_is_told_what_has_grown() {
        let mut drops = Drops::default();
        assert_eq!(drops.grown(&snapshot(1, 5)), Vec::<Value>::new());
        assert_eq!(drops.grown(&snapshot(1, 8))[0]["packets"], 3);
        assert_eq!(drops.grown(&snapshot(1, 8)), Vec::<Value>::new());
        assert_eq!(drops.grown(&snapshot(2, 2))[0]["bytes"], 128);
        drops.unwatched();
        assert_eq!(drops.grown(&snapshot(1, 9)), Vec::<Value>::new());
    }
}
