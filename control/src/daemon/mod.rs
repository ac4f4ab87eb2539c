//! The daemon: one control thread that joins the kernel mirror, the data plane, the access lists, the guard and the
//! control socket.
//!
//! The order of the start is what keeps closed ports closed: configuration and lists are read and compiled, the
//! nftables guard is loaded, the mirror becomes complete, and only then are ports opened, each with its lists.

mod answers;
mod drops;
mod explain;
mod lists;
mod ports;
mod reload;
mod sample;
mod stacked;
mod state;
mod translate;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use forwarder::Dataplane;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::acl::Diagnostic;
use crate::config::{self, AclNames, Config};
use crate::guard;
use crate::metrics;
use crate::mirror::{Event, Mirror, MirrorConfig, MirrorError};
use crate::socket::{BindError, Code, ErrorBody, Incoming, MonitorKind, Server};
use drops::Drops;
use lists::Lists;
use ports::Ports;
use reload::Reloads;
use state::State;
use watch::Watchers;

/// How often the data plane's requests are taken to the kernel and memory is reclaimed.
const TICK: Duration = Duration::from_millis(2);
/// How often slower things are looked at: attributes of ports, counters for `monitor`.
const SLOW_TICK: Duration = Duration::from_millis(500);
/// Scrapes of the metrics that wait for the control thread.
const SCRAPES: usize = 1;
/// Events that a slow reader of `monitor` may be behind.
const EVENTS: usize = 8192;

/// The running daemon's state. Everything in it belongs to the control thread.
struct Daemon {
    /// The configuration file.
    file: PathBuf,
    /// What holds now: what a reload cannot change is as it was at the start.
    config: Config,
    state: State,
    lists: Lists,
    /// Guards that `release` took away; they stay away until the next start.
    released: BTreeSet<String>,
    /// What an earlier configuration closed: kept closed until this one is in force.
    kept: Vec<guard::Entry>,
    /// Devices upon closed ports, and ports with tables of their own, that the guard holds.
    stacked: BTreeSet<String>,
    /// The VRFs as they were when the guard was looked at last.
    vrfs_seen: u64,
    dataplane: Dataplane,
    mirror: Mirror,
    ports: Ports,
    drops: Drops,
    watchers: Watchers,
    reloads: Reloads,
    events: broadcast::Sender<Arc<(MonitorKind, String)>>,
    dumps: answers::Dumps,
    /// Where metrics are served, if the configuration says so.
    metrics: Option<metrics::Server>,
    started: Instant,
    started_at: SystemTime,
    /// Tables mirrored, lists compiled, and every port that was there has been opened.
    ready: bool,
}

/// What begins a daemon and may fail before anything in the kernel is touched.
struct Prepared {
    file: PathBuf,
    config: Config,
    state: State,
    lists: Lists,
    cores: Vec<usize>,
}

/// Runs the daemon until SIGTERM or SIGINT. An error has been logged by nobody yet.
pub fn run(file: &Path) -> Result<(), ErrorBody> {
    let prepared = prepare(file)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ErrorBody::new(Code::Failed, format!("the runtime cannot start: {error}")))?;
    runtime.block_on(serve(prepared))
}

fn prepare(file: &Path) -> Result<Prepared, ErrorBody> {
    let loaded = config::load(file).map_err(|bad| ErrorBody::new(Code::BadConfiguration, bad.to_string()))?;
    for warning in &loaded.warnings {
        tracing::warn!("{}", config::line_text(&loaded.file, warning));
    }
    let config = loaded.config;
    let state = State::load(&config.state).map_err(|error| {
        ErrorBody::new(
            Code::BadConfiguration,
            format!("{} cannot be read: {error}", config.state.display()),
        )
        .hint("it holds what `margay port set` was told; remove it to begin anew")
    })?;
    let cores = translate::cores(&config)?;
    let mut lists = Lists::new(cores.len());
    let read = lists::read(&config.acl_dir, &lists.reader(), &lists.images())
        .map_err(|diagnostics| bad_acl(&diagnostics))?;
    let names_lists = config.ports.iter().any(|port| port.acl.any());
    for warning in &read.warnings {
        if names_lists || warning.code != "no_directory" {
            tracing::warn!("{warning}");
        }
    }
    lists.replace(read.images);
    Ok(Prepared {
        file: loaded.file,
        config,
        state,
        lists,
        cores,
    })
}

/// All findings of a bad ACL directory as one error.
fn bad_acl(diagnostics: &[Diagnostic]) -> ErrorBody {
    let lines: Vec<String> = diagnostics.iter().map(Diagnostic::to_string).collect();
    ErrorBody::new(Code::BadAcl, lines.join("\n")).hint("the lists in use stay as they are")
}

async fn serve(prepared: Prepared) -> Result<(), ErrorBody> {
    let Prepared {
        file,
        config,
        state,
        lists,
        cores,
    } = prepared;
    let files = crate::sys::raise_open_files();
    tracing::debug!("up to {files} open files");
    // The socket first: a second daemon must notice before it touches anything.
    let (_server, requests) =
        Server::bind(&config.socket).map_err(|error| bind_error("[control] socket", &error))?;
    let (scrapes, samples) = mpsc::channel(SCRAPES);
    let metrics = match &config.metrics {
        Some(listen) => Some(
            metrics::Server::bind(listen, scrapes.clone())
                .map_err(|error| bind_error("[metrics] listen", &error))?,
        ),
        None => None,
    };
    let signals = Signals::new()?;
    // What an earlier configuration closed stays closed until this one is in force: a start that fails opens nothing.
    let mut entries = guard_entries(&config, &state, &BTreeSet::new());
    let before = guard::loaded().unwrap_or_default();
    let kept = before
        .into_iter()
        .filter(|name| entries.iter().all(|entry| entry.name != *name))
        .map(guard::Entry::of)
        .collect::<Vec<_>>();
    entries.extend(kept.iter().cloned());
    load_guard(&entries)?;
    let mirror_error = |error: MirrorError| translate::mirror_error(&error);
    let mut mirror = Mirror::new(MirrorConfig {
        tables: config.tables.clone(),
        ..MirrorConfig::default()
    })
    .map_err(mirror_error)?;
    let stale = mirror.cleanup_stale().map_err(mirror_error)?;
    if stale > 0 {
        tracing::info!("cleaned up {stale} neighbour entries of a daemon that was killed");
    }
    let dataplane = Dataplane::start(translate::settings(&config, cores))
        .map_err(|error| translate::dataplane_error(&error))?;
    for warning in dataplane.warnings() {
        tracing::warn!("{warning}");
    }
    let mut daemon = Daemon {
        file,
        config,
        state,
        lists,
        released: BTreeSet::new(),
        kept,
        stacked: BTreeSet::new(),
        vrfs_seen: 0,
        dataplane,
        mirror,
        ports: Ports::default(),
        drops: Drops::default(),
        watchers: Watchers::default(),
        reloads: Reloads::default(),
        events: broadcast::channel(EVENTS).0,
        dumps: answers::Dumps::default(),
        metrics,
        started: Instant::now(),
        started_at: SystemTime::now(),
        ready: false,
    };
    // The sender is kept here, so that the receiver goes on waiting when nothing is served.
    let result = daemon.run(requests, samples, signals).await;
    drop(scrapes);
    notify(&[sd_notify::NotifyState::Stopping]);
    let ended = daemon.end();
    result.and(ended)
}

/// A socket that cannot be opened, with the key that names it.
fn bind_error(key: &str, error: &BindError) -> ErrorBody {
    let code = match error {
        BindError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Code::NotPermitted
        }
        _ => Code::Failed,
    };
    ErrorBody::new(code, format!("{key}: {error}"))
}

/// Loads the guard; without nftables that is an error only where the kernel would forward.
fn load_guard(entries: &[guard::Entry]) -> Result<(), ErrorBody> {
    match guard::load(entries) {
        Ok(()) => Ok(()),
        Err(guard::Error::Missing) if !guard::kernel_forwards() => {
            tracing::warn!(
                "nftables is not installed: ports with on_exit = \"drop\" are closed only as long as the kernel's forwarding is off"
            );
            Ok(())
        }
        Err(error) => Err(crate::cli::guard_error(&error)),
    }
}

/// What the guard holds with this configuration and what `port set` has changed.
fn guard_entries(config: &Config, state: &State, released: &BTreeSet<String>) -> Vec<guard::Entry> {
    let set: BTreeMap<String, AclNames> = state
        .ports
        .iter()
        .filter_map(|(name, state)| Some((name.clone(), state.over(&config.port_for(name)?.acl))))
        .collect();
    let mut entries = guard::entries(config, &set);
    entries.retain(|entry| {
        let name = entry.name.strip_suffix(".*").unwrap_or(&entry.name);
        !released.contains(name) && !released.contains(&entry.name)
    });
    entries
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("systemd cannot be told: {error}");
    }
}

/// The signals that steer the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, ErrorBody> {
        let open = |kind| {
            signal(kind)
                .map_err(|error| ErrorBody::new(Code::Failed, format!("signals cannot be received: {error}")))
        };
        Ok(Self {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
            hang_up: open(SignalKind::hangup())?,
        })
    }
}

impl Daemon {
    async fn run(
        &mut self,
        mut requests: mpsc::Receiver<Incoming>,
        mut samples: mpsc::Receiver<oneshot::Sender<metrics::Sample>>,
        mut signals: Signals,
    ) -> Result<(), ErrorBody> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut slow = tokio::time::interval(SLOW_TICK);
        slow.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.hang_up.recv() => self.reload(reload::What::Configuration, None),
                result = self.mirror.next(&mut self.dataplane) => self.mirrored(result).await?,
                _ = tick.tick() => self.tick()?,
                _ = slow.tick() => self.slow_tick()?,
                Some(incoming) = requests.recv() => self.answer(incoming).await,
                // A client that has left needs no sample.
                Some(reply) = samples.recv() => { let _ = reply.send(self.sample()); }
                done = self.reloads.finished() => self.reloaded(done),
                () = std::future::ready(()), if self.ports.has_queued() => self.open_next()?,
            }
        }
    }

    /// Takes in what the mirror has applied.
    async fn mirrored(&mut self, result: Result<Vec<Event>, MirrorError>) -> Result<(), ErrorBody> {
        let events = match result {
            Ok(events) => events,
            Err(error) => {
                tracing::error!("{error}");
                // An error that comes again at once must not take the whole core.
                tokio::time::sleep(Duration::from_millis(20)).await;
                return Ok(());
            }
        };
        let links_changed = events.iter().any(|event| matches!(event, Event::Link { .. }));
        for event in &events {
            self.publish_event(event);
        }
        let vrfs = self.mirror.vrf_generation();
        let vrfs_changed = std::mem::replace(&mut self.vrfs_seen, vrfs) != vrfs;
        if self.mirror.complete() && (links_changed || vrfs_changed || !self.ports.begun()) {
            self.guard_stacked();
            if vrfs_changed && self.ports.begun() {
                self.apply_to_ports();
            }
            self.sync_ports();
            self.check_ready();
        }
        Ok(())
    }

    fn publish_event(&self, event: &Event) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let kind = match event {
            Event::Link { .. } => MonitorKind::Link,
            Event::Neighbour { .. } => MonitorKind::Neigh,
            Event::Route { .. } | Event::Resync { .. } => MonitorKind::Route,
        };
        if let Ok(value) = serde_json::to_value(event) {
            self.publish(kind, value);
        }
    }

    /// Hands an event to every `monitor` that wants its kind.
    fn publish(&self, kind: MonitorKind, mut event: serde_json::Value) {
        if self.events.receiver_count() > 0 {
            event["schema"] = json!("margay.monitor/1");
            let _ = self.events.send(Arc::new((kind, event.to_string())));
        }
    }

    fn tick(&mut self) -> Result<(), ErrorBody> {
        if let Err(error) = self.mirror.tick(&mut self.dataplane) {
            tracing::warn!("{error}");
        }
        self.dataplane.maintain();
        self.serve_watchers();
        Ok(())
    }

    fn slow_tick(&mut self) -> Result<(), ErrorBody> {
        let watched = self.events.receiver_count() > 0;
        self.mirror.watch(watched);
        if self.mirror.complete() {
            self.sync_ports();
            self.check_ready();
        }
        self.sample_drops();
        if watched {
            for event in self.drops.grown(&self.dataplane.counters()) {
                self.publish(MonitorKind::Drop, event);
            }
        } else {
            self.drops.unwatched();
        }
        Ok(())
    }

    /// Tells systemd and the log once, when everything that was there at the start is open.
    fn check_ready(&mut self) {
        if self.ready || !self.mirror.complete() || !self.ports.begun() || self.ports.has_queued() {
            return;
        }
        self.ready = true;
        self.kept.clear();
        let entries = guard_entries(&self.config, &self.state, &self.released);
        if let Err(error) = self.guard(&entries) {
            tracing::error!("{error}");
        }
        let stats = self.mirror.stats();
        tracing::info!(
            "ready after {} ms: {} ports, {} routes, {} neighbours",
            self.started.elapsed().as_millis(),
            self.ports.open_count(),
            stats.routes,
            stats.neighbours
        );
        notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Undoes what was done to the kernel; only the guard of closed ports stays.
    fn end(self) -> Result<(), ErrorBody> {
        let Daemon {
            mut mirror,
            dataplane,
            ..
        } = self;
        let undone = mirror.shutdown().map_err(|error| translate::mirror_error(&error));
        let stopped = dataplane
            .shutdown()
            .map_err(|error| translate::dataplane_error(&error));
        tracing::info!("ended");
        undone.and(stopped)
    }
}
