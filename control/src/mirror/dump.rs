//! A dump of the kernel's state, read a slice at a time so that the control thread stays responsive.
//!
//! The dump fills a [`State`] of its own, beside the one that works. What the kernel tells meanwhile is kept and
//! applied to it at the end; then it equals the kernel's state as of the last message.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use netlink_sys::Socket;
use tracing::{debug, warn};

use super::MirrorError;
use super::message::{self, Message};
use super::socket::{self, Read};
use super::state::{Changes, LOCAL_TABLE, State};
use super::wire::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN, Packets, request, u32_at,
};

/// How often a part is read again because it was disturbed.
const RETRIES: u32 = 4;
/// Most bytes of messages that are kept while a dump runs.
const MOST_KEPT: usize = 256 << 20;

/// A part of the kernel's state that is dumped by one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Links,
    Addresses,
    Neighbours,
    Nexthops,
    Rules { v6: bool },
    Settings { v6: bool },
    Routes { v6: bool, table: u32 },
}

impl Part {
    fn request(self, seq: u32) -> Vec<u8> {
        let family = |v6: bool| if v6 { 10u8 } else { 2 };
        match self {
            Part::Links => {
                // RTEXT_FILTER_SKIP_STATS: nobody looks at the statistics.
                let mask = (1u32 << 3).to_ne_bytes();
                request(message::RTM_GETLINK, NLM_F_DUMP, seq, &[0; 16], &[(29, &mask)])
            }
            Part::Addresses => request(message::RTM_GETADDR, NLM_F_DUMP, seq, &[0; 8], &[]),
            Part::Neighbours => request(message::RTM_GETNEIGH, NLM_F_DUMP, seq, &[0; 12], &[]),
            Part::Nexthops => request(message::RTM_GETNEXTHOP, NLM_F_DUMP, seq, &[0; 8], &[]),
            Part::Rules { v6 } => {
                let mut body = [0u8; 12];
                body[0] = family(v6);
                request(message::RTM_GETRULE, NLM_F_DUMP, seq, &body, &[])
            }
            Part::Settings { v6 } => request(message::RTM_GETNETCONF, NLM_F_DUMP, seq, &[family(v6)], &[]),
            Part::Routes { v6, table } => {
                let mut body = [0u8; 12];
                body[0] = family(v6);
                let table = table.to_ne_bytes();
                request(message::RTM_GETROUTE, NLM_F_DUMP, seq, &body, &[(15, &table)])
            }
        }
    }

    /// Whether a message while this part is read may make the kernel's walk skip entries that did not change: the
    /// position of the walk is a count, not a key. IPv4 routes are walked by key.
    fn disturbed_by(self, message: &Message) -> bool {
        match (self, message) {
            (Part::Links, Message::Link { .. }) => true,
            (Part::Addresses, Message::Address { .. }) => true,
            (Part::Neighbours, Message::Neighbour { .. }) => true,
            (Part::Nexthops, Message::Nexthop { .. }) => true,
            (Part::Rules { v6 }, Message::Rule { rule, .. }) => rule.v6 == v6,
            (Part::Routes { v6: true, table }, Message::Route { route, .. }) => {
                route.target.v6 && route.table == table
            }
            _ => false,
        }
    }

    fn clear(self, state: &mut State) {
        match self {
            // What is in which VRF follows when they are read again.
            Part::Links => state.links.clear(),
            Part::Addresses => state.addresses.clear(),
            Part::Neighbours => state.neighbours.clear(),
            Part::Nexthops => state.nexthops.clear(),
            Part::Rules { v6 } => state.rules.retain(|rule| rule.v6 != v6),
            Part::Settings { v6 } => state.ignore_linkdown.retain(|(of, _)| *of != v6),
            Part::Routes { v6, table } => {
                let prefixes: Vec<_> = state
                    .rib
                    .prefixes(table)
                    .filter(|p| p.addr().is_ipv6() == v6)
                    .collect();
                for prefix in prefixes {
                    state.rib.set(table, prefix, &[]);
                }
                state.rib.targets.recycle();
            }
        }
    }
}

/// Why a dump runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The mirror begins.
    Start,
    /// Tables are to be followed that were not.
    Tables,
    /// Messages were lost.
    Overrun,
    /// A message made no sense.
    BadMessage,
    /// Something happened that the kernel follows up without messages.
    Verify,
    /// An operator wants to know whether the mirror equals the kernel.
    Diff,
}

impl Cause {
    /// As events name it.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Start => "start",
            Cause::Tables => "tables",
            Cause::Overrun => "overrun",
            Cause::BadMessage => "bad_message",
            Cause::Verify => "verify",
            Cause::Diff => "diff",
        }
    }
}

/// Which entries the fresh state lacks without that meaning anything: the kernel's walk was disturbed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Neighbours.
    pub neighbours: bool,
    /// IPv6 routes.
    pub routes6: bool,
    /// Links, addresses, policy rules or nexthop objects.
    pub others: bool,
}

impl Gaps {
    /// Whether there are any.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// A dump that runs.
#[derive(Debug)]
pub struct Dump {
    /// Why.
    pub cause: Cause,
    /// When it began.
    pub started: Instant,
    /// Messages were lost meanwhile: what it finds may already be old.
    pub stale: bool,
    /// What may be missing.
    pub gaps: Gaps,
    /// Messages that it read.
    pub messages: u64,
    /// Messages that made no sense.
    pub bad: u64,
    socket: Socket,
    seq: u32,
    parts: Vec<Part>,
    at: usize,
    retries: u32,
    /// The part that is being read was disturbed.
    disturbed: bool,
    asked: bool,
    /// The tables whose routes are read, once links and rules have told which.
    tables: Option<BTreeSet<u32>>,
    state: State,
    unused: Changes,
    kept: Vec<Message>,
    kept_bytes: usize,
    buffer: Vec<u8>,
}

impl Dump {
    /// Prepares a dump of these tables, of the local one, of those that devices' VRFs use, and of all else.
    pub fn new(cause: Cause, tables: &[u32]) -> Result<Self, MirrorError> {
        let parts = vec![
            Part::Settings { v6: false },
            Part::Settings { v6: true },
            Part::Links,
            Part::Rules { v6: false },
            Part::Rules { v6: true },
            Part::Addresses,
            Part::Neighbours,
            Part::Nexthops,
        ];
        Ok(Self {
            cause,
            started: Instant::now(),
            stale: false,
            gaps: Gaps::default(),
            messages: 0,
            bad: 0,
            socket: socket::asking()?,
            seq: 0,
            parts,
            at: 0,
            retries: 0,
            disturbed: false,
            asked: false,
            tables: None,
            state: State::new(tables),
            unused: Changes::default(),
            kept: Vec::new(),
            kept_bytes: 0,
            buffer: Vec::new(),
        })
    }

    /// Keeps a message that came in while the dump runs.
    pub fn keep(&mut self, message: Message, bytes: usize) {
        self.disturbed |= self
            .parts
            .get(self.at)
            .is_some_and(|part| part.disturbed_by(&message));
        self.kept_bytes += bytes;
        if self.kept_bytes > MOST_KEPT {
            self.stale = true;
            self.kept.clear();
        } else {
            self.kept.push(message);
        }
    }

    /// Reads for about that long. True when everything was read.
    pub fn run(&mut self, budget: Duration) -> Result<bool, MirrorError> {
        let start = Instant::now();
        while let Some(part) = self.parts.get(self.at).copied() {
            if !self.asked {
                self.seq += 1;
                self.disturbed = false;
                self.asked = true;
                let bytes = part.request(self.seq);
                self.socket
                    .send(&bytes, 0)
                    .map_err(|source| MirrorError::Refused {
                        what: format!("a dump of {part:?}"),
                        source,
                    })?;
            }
            match socket::read(&self.socket, &mut self.buffer) {
                Ok(Read::Datagram) => {}
                Ok(Read::Nothing) => return Ok(false),
                // The kernel fills the dump only as far as there is room: this cannot happen, and costs a retry.
                Ok(Read::Overrun) => self.disturbed = true,
                Err(source) => {
                    return Err(MirrorError::Socket {
                        what: "reading a dump",
                        source,
                    });
                }
            }
            if self.read_datagram(part)? {
                self.part_read(part);
            }
            if start.elapsed() >= budget {
                break;
            }
        }
        Ok(self.at == self.parts.len())
    }

    /// Takes the buffer's messages in. True when they were the last ones of the part.
    fn read_datagram(&mut self, part: Part) -> Result<bool, MirrorError> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut done = false;
        for packet in Packets(&buffer) {
            let packet = match packet {
                Ok(packet) => packet,
                Err(error) => {
                    self.bad += 1;
                    warn!("netlink: {error} in a dump of {part:?}: reading it again");
                    self.disturbed = true;
                    break;
                }
            };
            if packet.seq != self.seq {
                continue;
            }
            self.disturbed |= packet.flags & NLM_F_DUMP_INTR != 0 || packet.kind == NLMSG_OVERRUN;
            match packet.kind {
                NLMSG_DONE | NLMSG_ERROR => {
                    let code = u32_at(packet.payload, 0).unwrap_or(0) as i32;
                    if code < 0 {
                        Self::refused(part, -code)?;
                    }
                    done = true;
                }
                _ => {
                    self.messages += 1;
                    match message::read(&packet) {
                        Ok(Some(message)) => self.state.apply(message, &mut self.unused),
                        Ok(None) => {}
                        Err(error) => {
                            self.bad += 1;
                            warn!("netlink: {error} in a dump of {part:?}: left out");
                        }
                    }
                }
            }
        }
        self.unused = Changes::default();
        self.buffer = buffer;
        Ok(done)
    }

    /// A part that the kernel does not have is empty.
    fn refused(part: Part, code: i32) -> Result<(), MirrorError> {
        let source = io::Error::from_raw_os_error(code);
        match (part, code) {
            // A table that has never had a route does not exist.
            (Part::Routes { .. }, libc::ENOENT) => Ok(()),
            // A kernel without IPv6, nexthop objects or netconf.
            (_, libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {
                debug!("netlink: the kernel has no {part:?}");
                Ok(())
            }
            _ => Err(MirrorError::Refused {
                what: format!("a dump of {part:?}"),
                source,
            }),
        }
    }

    fn part_read(&mut self, part: Part) {
        self.asked = false;
        if self.disturbed && self.retries < RETRIES {
            self.retries += 1;
            part.clear(&mut self.state);
            return;
        }
        if self.disturbed {
            match part {
                Part::Neighbours => self.gaps.neighbours = true,
                Part::Routes { .. } => self.gaps.routes6 = true,
                _ => self.gaps.others = true,
            }
        }
        self.retries = 0;
        self.at += 1;
        if self.at == self.parts.len() && self.tables.is_none() {
            self.state.settle_vrfs(&mut self.unused);
            let followed = self.state.followed.clone();
            for table in followed.iter().copied().chain([LOCAL_TABLE]) {
                self.parts.push(Part::Routes { v6: false, table });
                self.parts.push(Part::Routes { v6: true, table });
            }
            self.tables = Some(followed);
        }
    }

    /// The kernel's state as of the last message that was kept, and the tables whose routes were read.
    pub fn finish(mut self) -> (State, Gaps, BTreeSet<u32>) {
        for message in std::mem::take(&mut self.kept) {
            self.state.apply(message, &mut self.unused);
        }
        self.state.settle_vrfs(&mut self.unused);
        self.state.rib.targets.recycle();
        (self.state, self.gaps, self.tables.unwrap_or_default())
    }
}
