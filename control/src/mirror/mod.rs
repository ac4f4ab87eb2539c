//! The kernel mirror: links, addresses, neighbours and routes over rtnetlink, kept equal to the kernel's own and
//! programmed into the data plane.
//!
//! Subscribe, then dump, then apply: whatever changes while the dump runs is in the socket's buffer and is applied
//! after it. When the buffer overruns the state is unknown; the kernel is then dumped again beside the state that
//! works, and only what differs is changed, so that the data plane never sees an empty table.

mod config;
mod diff;
mod dump;
mod hash;
mod message;
mod numbers;
mod plan;
mod plane;
pub(crate) mod present;
mod program;
mod query;
pub mod replay;
mod resolve;
mod rib;
mod rules;
mod silent;
mod socket;
mod sockopt;
mod state;
#[cfg(test)]
mod tests;
mod view;
mod vrf;
mod vrf_program;
mod wire;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use forwarder::PortId;
use netlink_sys::Socket;
use tokio::io::unix::AsyncFd;
use tracing::{debug, info, warn};

use dump::{Cause, Dump, Gaps};
use program::Program;
use resolve::Resolver;
use socket::Read;
use state::{Changes, State};
use wire::{HEADER, Packets};

pub use config::{Lag, MirrorConfig, MirrorError, MirrorStats};
pub use plane::Plane;
pub use view::{
    Action, Difference, Event, GroupView, LinkView, MemberView, NeighbourView, NexthopView, RouteView,
};

/// How long one call of [`Mirror::process`] reads messages before it programs what they changed.
const BATCH: Duration = Duration::from_millis(1);
/// How long it reads of a dump: longer before the mirror is complete, when nothing else waits for it.
const SLICE: Duration = Duration::from_millis(2);
const SLICE_AT_START: Duration = Duration::from_millis(20);
/// How long it must be quiet before what the kernel does silently is verified.
const VERIFY_AFTER: Duration = Duration::from_millis(50);
/// How long verification is put off at most while it is not quiet.
const VERIFY_AT_LAST: Duration = Duration::from_secs(2);
/// A dump may take this part of the time: a full table is not read again for every container that goes.
const DUMP_SHARE: u32 = 20;

/// The kernel's state, mirrored.
#[derive(Debug)]
pub struct Mirror {
    config: MirrorConfig,
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    state: State,
    changes: Changes,
    program: Program,
    resolver: Resolver,
    dump: Option<Dump>,
    /// A dump that is due, why, and when.
    next_dump: Option<(Cause, Instant)>,
    /// Since when a verification has been put off.
    verify_since: Option<Instant>,
    /// When the last dump was done.
    last_dump: Instant,
    /// Dumps that are wanted for a comparison, and the result of the last one.
    diff_wanted: bool,
    diff_result: Option<(State, Gaps)>,
    complete: bool,
    tables_set: bool,
    /// The tables whose routes were dumped, and are followed by messages since.
    read: BTreeSet<u32>,
    vrf_generation: u64,
    stats: MirrorStats,
    events: Vec<Event>,
    pending_events: bool,
    /// Messages read and not yet programmed, and when the first of them was read.
    unseen: Option<(u64, Instant)>,
}

impl Mirror {
    /// Opens the sockets and subscribes. Call it inside a tokio runtime and in the network namespace of the ports.
    /// Dumping starts with the first [`process`](Self::process).
    pub fn new(config: MirrorConfig) -> Result<Self, MirrorError> {
        let socket = socket::listening(config.rcvbuf)?;
        let socket = sockopt::watch(socket).map_err(|source| MirrorError::Socket {
            what: "watching a socket",
            source,
        })?;
        let now = Instant::now();
        Ok(Self {
            state: State::new(&config.tables),
            dump: Some(Dump::new(Cause::Start, &config.tables)?),
            config,
            socket,
            buffer: Vec::new(),
            changes: Changes::default(),
            program: Program::default(),
            resolver: Resolver::new()?,
            next_dump: None,
            verify_since: None,
            last_dump: now,
            diff_wanted: false,
            diff_result: None,
            complete: false,
            tables_set: false,
            read: BTreeSet::new(),
            vrf_generation: 0,
            stats: MirrorStats::default(),
            events: Vec::new(),
            pending_events: false,
            unseen: None,
        })
    }

    /// Waits until there is something for [`process`](Self::process) to do. Safe to cancel.
    pub async fn ready(&mut self) {
        if self.dump.is_some() || self.pending_events {
            // Lets the others of this thread have their turn between two slices.
            tokio::task::yield_now().await;
            return;
        }
        let due = self.next_dump.map(|(_, at)| at);
        let sleep = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // An error says that the runtime is going down; process finds out by reading.
            _ = self.socket.readable() => {}
            () = sleep => {}
        }
    }

    /// Applies what the kernel has said, up to about a millisecond of it, and programs the data plane. Never blocks.
    pub fn process(&mut self, plane: &mut impl Plane) -> Result<Vec<Event>, MirrorError> {
        let start = Instant::now();
        self.read_messages(start)?;
        self.schedule(Instant::now())?;
        self.run_dump()?;
        self.flush(plane, start)?;
        self.pending_events = false;
        Ok(std::mem::take(&mut self.events))
    }

    /// [`ready`](Self::ready), then [`process`](Self::process). Safe to cancel: nothing is lost.
    pub async fn next(&mut self, plane: &mut impl Plane) -> Result<Vec<Event>, MirrorError> {
        self.ready().await;
        self.process(plane)
    }

    /// Reads the listening socket until it is empty or a batch is full.
    fn read_messages(&mut self, start: Instant) -> Result<(), MirrorError> {
        let failed = |source| MirrorError::Socket {
            what: "reading notifications",
            source,
        };
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            let read = socket::read(self.socket.get_ref(), &mut buffer);
            match read {
                Ok(Read::Datagram) => self.take_datagram(&buffer),
                Ok(Read::Overrun) => self.overrun(),
                Ok(Read::Nothing) => {}
                Err(error) => {
                    self.buffer = buffer;
                    return Err(failed(error));
                }
            }
            self.buffer = buffer;
            if matches!(read, Ok(Read::Nothing)) {
                self.clear_readiness();
                return Ok(());
            }
            if start.elapsed() >= BATCH {
                return Ok(());
            }
        }
    }

    /// Tells the runtime that the socket is empty, unless it has become readable again.
    fn clear_readiness(&mut self) {
        let mut peek = [0u8; 4];
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if let std::task::Poll::Ready(Ok(mut guard)) = self.socket.poll_read_ready(&mut context) {
            let _ = guard.try_io(|socket| {
                socket
                    .get_ref()
                    .recv(&mut &mut peek[..], libc::MSG_PEEK | libc::MSG_DONTWAIT)
            });
        }
    }

    fn take_datagram(&mut self, bytes: &[u8]) {
        for packet in Packets(bytes) {
            let message = packet.and_then(|packet| Ok((packet, message::read(&packet)?)));
            match message {
                Ok((packet, Some(message))) => {
                    self.stats.messages += 1;
                    if let Some(dump) = &mut self.dump {
                        dump.keep(message.clone(), packet.payload.len() + HEADER);
                    }
                    if self.complete {
                        self.unseen.get_or_insert_with(|| (0, Instant::now())).0 += 1;
                        self.state.apply(message, &mut self.changes);
                    }
                }
                Ok((packet, None)) if packet.kind == wire::NLMSG_OVERRUN => self.overrun(),
                Ok((_, None)) => {}
                Err(error) => {
                    self.stats.bad_messages += 1;
                    warn!("{error}: reading the kernel's state anew");
                    self.lost(Cause::BadMessage);
                }
            }
        }
    }

    /// The kernel had no room left for its messages.
    fn overrun(&mut self) {
        self.stats.overruns += 1;
        self.lost(Cause::Overrun);
    }

    /// The state is not certain any more: it is read anew, beside the one that works.
    fn lost(&mut self, cause: Cause) {
        match &mut self.dump {
            // What the dump that runs finds is used all the same, and then another one follows.
            Some(dump) => dump.stale = true,
            None => self.next_dump = Some((cause, Instant::now())),
        }
    }

    /// Tables that came to be followed by a VRF or a rule have to be read; until then they have the routes that messages told.
    fn read_new_tables(&mut self) {
        self.read.retain(|table| self.state.followed.contains(table));
        if !self.state.followed.is_subset(&self.read) {
            self.lost(Cause::Tables);
        }
    }

    /// Starts a dump that is due.
    fn schedule(&mut self, now: Instant) -> Result<(), MirrorError> {
        if std::mem::take(&mut self.changes.verify) && self.complete {
            let since = *self.verify_since.get_or_insert(now);
            let quiet = (now + VERIFY_AFTER).min(since + VERIFY_AT_LAST);
            let spared = self.last_dump + Duration::from_nanos(self.stats.last_dump_ns) * DUMP_SHARE;
            let at = quiet.max(spared);
            match self.next_dump {
                None | Some((Cause::Verify, _)) => self.next_dump = Some((Cause::Verify, at)),
                Some(_) => {}
            }
        }
        if self.dump.is_some() {
            return Ok(());
        }
        let due = self
            .next_dump
            .filter(|(_, at)| *at <= now)
            .map(|(cause, _)| cause);
        let cause = match due {
            Some(cause) => {
                self.next_dump = None;
                cause
            }
            None if self.diff_wanted => Cause::Diff,
            None => return Ok(()),
        };
        match cause {
            Cause::Diff => self.diff_wanted = false,
            Cause::Verify => self.verify_since = None,
            _ => self.stats.resyncs += 1,
        }
        self.dump = Some(Dump::new(cause, &self.config.tables)?);
        Ok(())
    }

    /// Reads a slice of the dump that runs; takes it over when it is complete.
    fn run_dump(&mut self) -> Result<(), MirrorError> {
        let Some(dump) = &mut self.dump else { return Ok(()) };
        if !dump.run(if self.complete { SLICE } else { SLICE_AT_START })? {
            return Ok(());
        }
        // What has come in until now belongs to it: a message that is older than the dump's last entry may be unread.
        self.read_messages(Instant::now())?;
        let Some(dump) = self.dump.take() else {
            return Ok(());
        };
        let (cause, started, stale, bad) = (dump.cause, dump.started, dump.stale, dump.bad);
        self.stats.messages += dump.messages;
        self.stats.bad_messages += bad;
        let (fresh, gaps, tables) = dump.finish();
        match cause {
            Cause::Diff if !stale => self.diff_result = Some((fresh, gaps)),
            Cause::Diff => self.diff_wanted = true,
            _ => {
                self.adopt(cause, fresh, gaps, stale);
                self.read = tables;
            }
        }
        self.stats.last_dump_ns = started.elapsed().as_nanos() as u64;
        self.last_dump = Instant::now();
        if stale {
            self.lost(Cause::Overrun);
        }
        Ok(())
    }

    fn adopt(&mut self, cause: Cause, fresh: State, gaps: Gaps, stale: bool) {
        if !self.complete {
            // Nothing was applied before: all of it is new. It is used only when it is certain.
            if stale {
                return;
            }
            self.state = fresh;
            self.state.note_all(&mut self.changes);
            self.complete = true;
            return;
        }
        let corrected = self.state.adopt(fresh, gaps, &mut self.changes);
        self.stats.corrected += corrected as u64;
        if gaps.any() {
            // Something was added or removed all the time: what is missing may be there all the same.
            self.changes.verify = true;
        }
        if corrected > 0 || cause != Cause::Verify {
            info!(
                "netlink: kernel state read anew ({}), {corrected} entries corrected",
                cause.name()
            );
        } else {
            debug!("netlink: kernel state verified");
        }
        if corrected > 0 || cause != Cause::Verify {
            self.events.push(Event::Resync {
                cause: cause.name(),
                corrected,
            });
        }
    }

    /// Programs what changed.
    fn flush(&mut self, plane: &mut impl Plane, start: Instant) -> Result<(), MirrorError> {
        if !self.complete {
            return Ok(());
        }
        if !self.tables_set {
            let set = plane.fib().set_tables(&self.config.tables);
            set.map_err(|error| MirrorError::Tables(error.to_string()))?;
            self.tables_set = true;
        }
        self.state.settle_vrfs(&mut self.changes);
        let happened = std::mem::take(&mut self.changes.events);
        let unseen = self.unseen.take();
        if !self.changes.is_empty() {
            self.resolver
                .observe(&self.state, &mut self.program, &self.changes.neighbours);
            self.program.gateways_changed |= !self.changes.links.is_empty();
            let outcome = self.program.apply(plane.fib(), &self.state, &mut self.changes);
            for ((table, prefix), error) in &outcome.refused {
                warn!("the data plane refused {prefix} of table {table}: {error}");
            }
            if !outcome.local_added.is_empty() || !outcome.local_removed.is_empty() {
                plane.set_local(&outcome.local_added, &outcome.local_removed)?;
            }
            if self.changes.vrfs {
                self.vrf_generation += 1;
                self.read_new_tables();
            }
            if self.changes.vrfs || self.changes.addresses || !self.changes.links.is_empty() {
                self.update_ports(plane)?;
            }
            let (watch, verify) = (self.changes.watch, self.changes.verify);
            self.changes = Changes {
                watch,
                verify,
                ..Changes::default()
            };
            self.state.rib.targets.recycle();
            self.stats.generation += 1;
            if let Some((messages, since)) = unseen {
                self.stats.lag.record(messages, since.elapsed());
            }
            self.stats.last_batch_ns = start.elapsed().as_nanos() as u64;
            if self.stats.generation > 1 {
                self.stats.max_batch_ns = self.stats.max_batch_ns.max(self.stats.last_batch_ns);
            } else {
                self.stats.last_batch_ns = 0;
            }
        }
        for happened in &happened {
            self.events.push(self.state.event(happened));
        }
        Ok(())
    }

    /// Tells the data plane of each port what its device is like now; it ignores what it knows.
    fn update_ports(&mut self, plane: &mut impl Plane) -> Result<(), MirrorError> {
        let all = self.changes.addresses || self.changes.vrfs;
        for (index, port) in self.program.ports() {
            if (all || self.changes.links.contains(&index))
                && let Some(attrs) = self.port_attrs(index)
                && let Err(error) = plane.update_port(port, attrs)
            {
                // The device may have gone this very moment; the message is on its way.
                warn!("port on device {index}: {error}");
            }
        }
        Ok(())
    }

    /// To be called about every 2 ms: takes the data plane's neighbour requests to the kernel, keeps entries in use
    /// fresh and gives up on what does not resolve.
    pub fn tick(&mut self, plane: &mut impl Plane) -> Result<(), MirrorError> {
        let requests = plane.requests();
        if !self.complete {
            return Ok(());
        }
        self.resolver.take_requests(&self.state, &self.program, &requests);
        self.resolver
            .tick(plane.fib(), &mut self.state, &mut self.program, &mut self.changes);
        if !self.changes.is_empty() {
            self.flush(plane, Instant::now())?;
            self.pending_events = !self.events.is_empty();
        }
        Ok(())
    }

    /// Whether the data plane's tables equal the kernel's: ports may take traffic. Stays true during a resync.
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// Turns [`Event::Route`] and [`Event::Neighbour`] on or off; they cost time while the table is loaded.
    pub fn watch(&mut self, on: bool) {
        self.changes.watch = on;
    }

    /// A port was opened on the device: routes through it become usable. No prefix is touched.
    pub fn port_opened(
        &mut self,
        plane: &mut impl Plane,
        ifindex: u32,
        port: PortId,
    ) -> Result<(), MirrorError> {
        self.program
            .set_port(plane.fib(), &self.state, ifindex, Some(port));
        Ok(())
    }

    /// The device's port was closed: routes through it answer `egress_not_a_port`. Call it before or after
    /// `Dataplane::close_port`.
    pub fn port_closed(&mut self, plane: &mut impl Plane, ifindex: u32) -> Result<(), MirrorError> {
        self.program.set_port(plane.fib(), &self.state, ifindex, None);
        Ok(())
    }

    /// Undoes what was set in the kernel: managed neighbour entries become ordinary ones.
    pub fn shutdown(&mut self) -> Result<(), MirrorError> {
        // The entries' states decide what becomes of them: look at the newest.
        self.read_messages(Instant::now())?;
        self.resolver.shutdown(&self.state);
        Ok(())
    }

    /// Undoes what a predecessor that was killed left in the kernel; the number of neighbour entries cleaned up.
    pub fn cleanup_stale(&mut self) -> Result<usize, MirrorError> {
        self.resolver.cleanup_stale()
    }
}
