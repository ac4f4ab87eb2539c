//! The mirror without a kernel: netlink messages in, the data plane's tables out.
//!
//! No socket is opened and no clock is read, so that tests and the fuzz target can drive the state machine and what it
//! programs with any bytes, in any order.

use std::collections::HashSet;
use std::sync::Arc;

use classifier::qsbr::Domain;
use forwarder::fib::{Fib, Routes};
use forwarder::{MultipathHash, PortId};

use super::diff;
use super::dump::Gaps;
use super::message::{self, Message};
use super::program::Program;
use super::state::{Changes, State};
use super::view::Difference;
use super::wire::{Malformed, Packets};

/// What messages have made of the kernel's state.
#[derive(Debug)]
pub struct Heard {
    pub(super) state: State,
    changes: Changes,
}

impl Heard {
    /// Nothing yet; the routes of `tables` are followed.
    pub fn new(tables: &[u32]) -> Self {
        Self {
            state: State::new(tables),
            changes: Changes {
                watch: true,
                ..Changes::default()
            },
        }
    }

    /// Reads the messages of a datagram and notes what they change. Answers how many said something; the rest of a
    /// datagram with a message that cannot be read is left out, as in the daemon, which then dumps anew.
    pub fn datagram(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut taken = 0;
        for packet in Packets(bytes) {
            if let Some(message) = message::read(&packet?)? {
                self.take(message);
                taken += 1;
            }
        }
        Ok(taken)
    }

    pub(super) fn take(&mut self, message: Message) {
        self.state.apply(message, &mut self.changes);
    }
}

/// A mirror with a FIB that no worker reads.
#[derive(Debug)]
pub struct Replay {
    /// What the mirror has heard.
    pub heard: Heard,
    pub(super) program: Program,
    pub(super) fib: Fib,
    domain: Domain,
}

impl Replay {
    /// Follows `tables`; the devices with these indexes are open as ports.
    pub fn new(tables: &[u32], ports: &[u32]) -> Self {
        let domain = Domain::new();
        let mut fib = Fib::new(Arc::new(Routes::new(&domain, MultipathHash::L4, 1)));
        // Two small tables: whoever has no room for them cannot run a test either.
        fib.set_tables(tables).expect("address space for the tables");
        let (heard, mut program) = (Heard::new(tables), Program::default());
        for (port, index) in (1..).zip(ports) {
            program.set_port(&mut fib, &heard.state, *index, Some(PortId(port)));
        }
        Self {
            heard,
            program,
            fib,
            domain,
        }
    }

    /// Takes over what a dump has found; what differs becomes dirty. Answers how much that was.
    pub fn adopt(&mut self, fresh: Heard) -> usize {
        let Heard { state, changes } = &mut self.heard;
        state.adopt(fresh.state, Gaps::default(), changes)
    }

    /// Programs what changed. Answers what the data plane refused.
    pub fn settle(&mut self) -> Vec<String> {
        let Heard { state, changes } = &mut self.heard;
        state.settle_vrfs(changes);
        let mut changed = std::mem::take(changes);
        changes.watch = true;
        let outcome = self.program.apply(&mut self.fib, state, &mut changed);
        state.rib.targets.recycle();
        self.domain.reclaim();
        let refused = outcome.refused.iter();
        refused
            .map(|((table, prefix), why)| format!("{prefix} of table {table}: {why}"))
            .collect()
    }

    /// In what the kernel, were it as `kernel` says, the mirror and the data plane do not agree.
    pub fn differences(&self, kernel: &Heard) -> Vec<Difference> {
        let (state, no_gaps) = (&self.heard.state, Gaps::default());
        diff::compare(&kernel.state, no_gaps, state, &self.program, &self.fib, None)
    }

    /// How many prefixes the data plane has, and how many groups and adjacencies that no prefix leads to.
    pub fn holds(&self) -> (usize, usize, usize) {
        let tables = self.heard.state.followed.iter();
        let prefixes: Vec<_> = tables.flat_map(|table| self.fib.iter(*table)).collect();
        let used: HashSet<_> = prefixes.iter().map(|(_, id)| id).collect();
        (
            prefixes.len(),
            self.fib.groups().count() - used.len(),
            self.fib.adjacencies().count() - self.program.adjacencies().count(),
        )
    }
}
