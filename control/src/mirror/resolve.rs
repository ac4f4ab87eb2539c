//! Neighbours are the kernel's to resolve: this asks it to.
//!
//! Gateways of routes become managed entries (`NTF_EXT_MANAGED`): the kernel resolves them at once and keeps them so.
//! They are marked with a protocol number of Margay's own, so that a start after a crash finds them. Hosts on connected
//! prefixes are asked for one by one (`NTF_USE`), few at a time: the kernel's table is small and shared by all
//! namespaces. What did not answer is taken out of it again. Entries that traffic uses are confirmed when they become
//! stale.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use netlink_sys::Socket;
use tracing::{debug, warn};

use forwarder::fib::Fib;
use forwarder::tables::NeighbourRequest;

use super::MirrorError;
use super::message::{RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH};
use super::program::Program;
use super::socket::{self, Read};
use super::state::{Changes, NUD_FAILED, NUD_INCOMPLETE, NUD_STALE, State};
use super::wire::{NLM_F_CREATE, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, Packets, request, u32_at};

/// `NDA_PROTOCOL` of the entries that Margay manages.
pub const PROTOCOL: u8 = 77;
/// Most hosts that are being resolved, or did not answer, and so have an entry in the kernel's table because of Margay.
/// An IPv6 host has two: neighbour discovery sends to its solicited-node group, which becomes an entry as well.
pub const MOST_UNRESOLVED: usize = 128;
/// Most gateways that are managed: unresolved ones count against the kernel's table for ever.
const MOST_MANAGED: usize = 512;
/// How long a host that did not answer is left alone.
const FORGIVE_AFTER: Duration = Duration::from_secs(1);
/// The kernel gives up after three probes of a second each; beyond this its answer was lost.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
/// Between looks at which entries are in use, and repeated wishes for the same gateway.
const ROUND: Duration = Duration::from_secs(1);

/// `NUD_PERMANENT`.
const NUD_PERMANENT: u16 = 0x80;
/// `NTF_USE`.
const NTF_USE: u8 = 1;
/// `NTF_EXT_MANAGED`.
const NTF_EXT_MANAGED: u32 = 1;

type Key = (IpAddr, u32);

/// What was asked of the kernel.
#[derive(Debug)]
pub struct Resolver {
    socket: Socket,
    buffer: Vec<u8>,
    /// Gateways that the kernel was asked to manage, and when.
    managed: BTreeMap<Key, Instant>,
    /// Hosts that are being resolved, and since when.
    pending: BTreeMap<Key, Instant>,
    /// Hosts whose entry did not exist before: it is taken away when it fails. With the time when that was asked for.
    created: BTreeMap<Key, Option<Instant>>,
    /// Hosts that did not answer, and when that was said.
    failed: BTreeMap<Key, Instant>,
    /// When entries in use were looked at last.
    round: Instant,
    told: Option<Instant>,
    /// Requests of workers that were not taken up because too many hosts were being resolved.
    pub refused: u64,
}

/// `struct ndmsg` with attributes.
fn neighbour(kind: u16, flags: u16, key: Key, ndm_flags: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let (address, index) = key;
    let mut body = [0u8; 12];
    body[0] = if address.is_ipv6() { 10 } else { 2 };
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[10] = ndm_flags;
    let (four, sixteen);
    let destination: &[u8] = match address {
        IpAddr::V4(address) => {
            four = address.octets();
            &four
        }
        IpAddr::V6(address) => {
            sixteen = address.octets();
            &sixteen
        }
    };
    let mut all = vec![(1u16, destination)];
    all.extend_from_slice(attributes);
    request(kind, flags, 0, &body, &all)
}

/// The group that neighbour discovery asks a host through (RFC 4291 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const GROUP: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(GROUP | address.to_bits() & 0xff_ffff)
}

impl Resolver {
    /// Opens the socket for requests.
    pub fn new() -> Result<Self, MirrorError> {
        Ok(Self {
            socket: socket::asking()?,
            buffer: Vec::new(),
            managed: BTreeMap::new(),
            pending: BTreeMap::new(),
            created: BTreeMap::new(),
            failed: BTreeMap::new(),
            round: Instant::now(),
            told: None,
            refused: 0,
        })
    }

    fn send(&mut self, bytes: &[u8]) {
        // The kernel handles the request inside the call; only errors are answered.
        if let Err(error) = self.socket.send(bytes, libc::MSG_DONTWAIT) {
            self.complain(&error);
        }
    }

    /// At most one line a second, whatever goes wrong.
    fn complain(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.told.is_none_or(|told| now - told >= ROUND) {
            self.told = Some(now);
            warn!(
                "netlink: the kernel refused a neighbour request: {error}; check net.ipv4.neigh.default.gc_thresh3"
            );
        }
    }

    /// The kernel's answers are errors: a full table, a device that has just gone.
    fn read_answers(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Ok(Read::Datagram) = socket::read(&self.socket, &mut buffer) {
            for packet in Packets(&buffer).flatten() {
                let code = u32_at(packet.payload, 0).unwrap_or(0) as i32;
                if packet.kind == NLMSG_ERROR && code < 0 {
                    let error = io::Error::from_raw_os_error(-code);
                    match -code {
                        libc::ENODEV | libc::ENETDOWN | libc::ENOENT | libc::EINVAL => {
                            debug!("netlink: neighbour request: {error}");
                        }
                        _ => self.complain(&error),
                    }
                }
            }
        }
        self.buffer = buffer;
    }

    fn ask(&mut self, key: Key) {
        let bytes = neighbour(RTM_NEWNEIGH, NLM_F_CREATE, key, NTF_USE, &[]);
        self.send(&bytes);
    }

    fn manage(&mut self, key: Key) {
        let flags = NTF_EXT_MANAGED.to_ne_bytes();
        let bytes = neighbour(
            RTM_NEWNEIGH,
            NLM_F_CREATE,
            key,
            0,
            &[(12, &[PROTOCOL]), (15, &flags)],
        );
        self.send(&bytes);
    }

    fn delete(&mut self, key: Key) {
        let bytes = neighbour(RTM_DELNEIGH, 0, key, 0, &[]);
        self.send(&bytes);
    }

    /// Takes away the entry of a host that did not answer, and that of the group that it was asked through: the kernel would
    /// keep the latter for a minute, and a scan would fill its table with them.
    fn take_away(&mut self, key: Key, now: Instant) {
        self.created.insert(key, Some(now));
        self.delete(key);
        if let IpAddr::V6(address) = key.0 {
            self.delete((solicited_node(address).into(), key.1));
        }
    }

    /// An ordinary entry again, kept while it is resolved: the kernel may need it at once.
    fn release(&mut self, state: &State, key: Key) {
        match state.neighbours.get(&key) {
            Some(entry) if entry.resolved() => {
                // Without the flag the entry is managed no longer; NTF_USE leaves its state alone.
                let bytes = neighbour(RTM_NEWNEIGH, 0, key, NTF_USE, &[]);
                self.send(&bytes);
            }
            // The kernel does not tell of an entry before it is resolved or has failed.
            _ => self.delete(key),
        }
    }

    /// Takes up what workers ask for.
    pub fn take_requests(&mut self, state: &State, program: &Program, requests: &[NeighbourRequest]) {
        let now = Instant::now();
        for wanted in requests {
            let key = (wanted.address, wanted.ifindex);
            if self.pending.contains_key(&key)
                || self.managed.contains_key(&key)
                || program.port(wanted.ifindex).is_none()
            {
                continue;
            }
            let entry = state.neighbours.get(&key);
            // What is being taken away is asked for again when it has gone.
            if entry.is_some_and(|n| n.resolved() || n.failed()) || self.created.contains_key(&key) {
                continue;
            }
            if self.pending.len() >= MOST_UNRESOLVED || self.created.len() >= MOST_UNRESOLVED {
                self.refused += 1;
                continue;
            }
            if entry.is_none() {
                self.created.insert(key, None);
            }
            self.pending.insert(key, now);
            self.ask(key);
        }
    }

    /// Follows what the kernel says about neighbours.
    pub fn observe(&mut self, state: &State, program: &mut Program, neighbours: &BTreeSet<Key>) {
        let now = Instant::now();
        for key in neighbours {
            match state.neighbours.get(key) {
                Some(entry) if entry.msg.state & NUD_FAILED != 0 => {
                    self.pending.remove(key);
                    if !self.managed.contains_key(key) {
                        self.failed.entry(*key).or_insert(now);
                    }
                }
                Some(entry) if entry.msg.state & NUD_INCOMPLETE != 0 => {}
                Some(_) => {
                    self.pending.remove(key);
                    self.created.remove(key);
                    self.failed.remove(key);
                }
                None => {
                    self.pending.remove(key);
                    self.created.remove(key);
                    self.failed.remove(key);
                    // Managed again at the next tick when a route still wants it.
                    program.gateways_changed |= self.managed.remove(key).is_some();
                }
            }
        }
    }

    /// Periodic work: keeps the set of managed gateways, entries in use fresh, and lets failed hosts try again.
    pub fn tick(&mut self, fib: &Fib, state: &mut State, program: &mut Program, changes: &mut Changes) {
        self.read_answers();
        let now = Instant::now();
        let due: Vec<Key> = self
            .failed
            .iter()
            .filter(|(_, at)| now - **at >= FORGIVE_AFTER)
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            self.failed.remove(&key);
            if self.created.contains_key(&key) {
                self.take_away(key, now);
            }
            if let Some(entry) = state.neighbours.get_mut(&key) {
                entry.forgiven = true;
                changes.neighbours.insert(key);
            }
        }
        let round = now - self.round >= ROUND;
        if round || program.gateways_changed {
            program.gateways_changed = false;
            self.manage_gateways(state, program, now);
        }
        if round {
            self.round = now;
            self.give_up(state, now);
            self.refresh(fib, state, program);
        }
    }

    /// Lets go of hosts of which the kernel has said nothing for too long: its message was lost.
    fn give_up(&mut self, state: &State, now: Instant) {
        let mut late = Vec::new();
        self.pending.retain(|key, since| {
            let over = now - *since >= GIVE_UP_AFTER;
            if over {
                late.push(*key);
            }
            !over
        });
        late.retain(|key| self.created.contains_key(key));
        for key in late {
            self.take_away(key, now);
        }
        let due = self.created.iter();
        let due: Vec<Key> = due
            .filter(|(_, asked)| asked.is_some_and(|at| now - at >= ROUND))
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            if state.neighbours.contains_key(&key) {
                self.take_away(key, now);
            } else {
                self.created.remove(&key);
            }
        }
    }

    fn manage_gateways(&mut self, state: &State, program: &Program, now: Instant) {
        let wanted: BTreeSet<Key> = program
            .gateways()
            .filter(|(index, _)| state.links.get(index).is_some_and(|link| link.up()))
            .map(|(index, address)| (address, index))
            .take(MOST_MANAGED)
            .collect();
        for key in &wanted {
            let entry = state.neighbours.get(key);
            let done = entry.is_some_and(|n| n.msg.managed || n.msg.state & NUD_PERMANENT != 0);
            let asked = self.managed.get(key).is_some_and(|at| now - *at < ROUND);
            if done {
                if entry.is_some_and(|n| n.msg.managed && n.msg.protocol == PROTOCOL) {
                    self.managed.entry(*key).or_insert(now);
                }
            } else if !asked {
                self.managed.insert(*key, now);
                self.pending.remove(key);
                self.failed.remove(key);
                self.manage(*key);
            }
        }
        // Those of a predecessor that was killed are marked, and go the same way.
        let ours = (state.neighbours.iter())
            .filter(|(_, n)| n.msg.managed && n.msg.protocol == PROTOCOL)
            .map(|(key, _)| *key);
        let unwanted: BTreeSet<Key> = ours
            .chain(self.managed.keys().copied())
            .filter(|key| !wanted.contains(key))
            .collect();
        for key in unwanted {
            self.managed.remove(&key);
            self.release(state, key);
        }
    }

    /// Confirms stale entries that packets have used since the last look.
    fn refresh(&mut self, fib: &Fib, state: &State, program: &Program) {
        for (adjacency, id) in program.adjacencies() {
            // The mark is cleared by reading it, whether or not it is of interest now.
            let used = fib.adjacency_used(id);
            let key = (adjacency.address, adjacency.index);
            let stale = state
                .neighbours
                .get(&key)
                .is_some_and(|n| n.msg.state == NUD_STALE && !n.msg.managed);
            if used && stale {
                self.ask(key);
            }
        }
    }

    /// Undoes all that was set.
    pub fn shutdown(&mut self, state: &State) {
        for key in std::mem::take(&mut self.managed).into_keys() {
            self.release(state, key);
        }
        let now = Instant::now();
        for key in std::mem::take(&mut self.created).into_keys() {
            // The kernel says nothing of an entry before it is resolved or has failed.
            if state.neighbours.get(&key).is_none_or(|entry| !entry.resolved()) {
                self.take_away(key, now);
            }
        }
        self.read_answers();
    }

    /// Releases managed entries that a predecessor left; how many there were.
    pub fn cleanup_stale(&mut self) -> Result<usize, MirrorError> {
        let failed = |source| MirrorError::Socket {
            what: "looking for neighbour entries left behind",
            source,
        };
        let socket = socket::asking()?;
        socket
            .send(&request(RTM_GETNEIGH, NLM_F_DUMP, 1, &[0; 12], &[]), 0)
            .map_err(failed)?;
        let mut state = State::new(&[]);
        let mut buffer = Vec::new();
        // The kernel has filled the first datagram when the request returns, and fills the next with each read.
        'dump: while socket::read(&socket, &mut buffer).map_err(failed)? == Read::Datagram {
            for packet in Packets(&buffer).flatten() {
                if matches!(packet.kind, NLMSG_DONE | NLMSG_ERROR) {
                    break 'dump;
                }
                if let Ok(Some(message)) = super::message::read(&packet) {
                    state.apply(message, &mut Changes::default());
                }
            }
        }
        let left: Vec<Key> = (state.neighbours.iter())
            .filter(|(_, n)| n.msg.managed && n.msg.protocol == PROTOCOL)
            .map(|(key, _)| *key)
            .collect();
        for key in &left {
            self.release(&state, *key);
        }
        self.read_answers();
        Ok(left.len())
    }
}
