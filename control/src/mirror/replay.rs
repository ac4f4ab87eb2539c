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

/// A mirror with a FIB that no worker reads.
#[derive(Debug)]
pub struct Replay {
    pub(super) state: State,
    pub(super) program: Program,
    pub(super) fib: Fib,
    changes: Changes,
}

impl Replay {
    /// Follows `tables`; the devices with these indexes are open as ports.
    pub fn new(tables: &[u32], ports: &[u32]) -> Self {
        let mut fib = Fib::new(Arc::new(Routes::new(&Domain::new(), MultipathHash::L4, 1)));
        fib.set_tables(tables);
        let mut replay = Self {
            state: State::new(tables),
            program: Program::default(),
            fib,
            changes: Changes {
                watch: true,
                ..Changes::default()
            },
        };
        for (port, index) in (1..).zip(ports) {
            replay
                .program
                .set_port(&mut replay.fib, &replay.state, *index, Some(PortId(port)));
        }
        replay
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

    /// Takes over the state of another one, as after a dump; what differs becomes dirty.
    pub fn adopt(&mut self, fresh: Self) -> usize {
        self.state.adopt(fresh.state, Gaps::default(), &mut self.changes)
    }

    /// Programs what changed. Answers what the data plane refused.
    pub fn settle(&mut self) -> Vec<String> {
        let mut changes = std::mem::take(&mut self.changes);
        self.changes.watch = true;
        let outcome = self.program.apply(&mut self.fib, &self.state, &mut changes);
        self.state.rib.targets.recycle();
        let refused = outcome.refused.iter();
        refused
            .map(|((table, prefix), why)| format!("{prefix} of table {table}: {why}"))
            .collect()
    }

    /// In what the kernel, were it as `kernel` says, the mirror and the data plane do not agree.
    pub fn differences(&self, kernel: &Self) -> Vec<Difference> {
        let no_gaps = Gaps::default();
        diff::compare(
            &kernel.state,
            no_gaps,
            &self.state,
            &self.program,
            &self.fib,
            None,
        )
    }

    /// Groups and adjacencies that the data plane holds though no prefix leads to them.
    pub fn leftovers(&self) -> (usize, usize) {
        let tables = self.state.tables.iter();
        let used: HashSet<_> = tables
            .flat_map(|table| self.fib.iter(*table))
            .map(|(_, id)| id)
            .collect();
        (
            self.fib.groups().count() - used.len(),
            self.fib.adjacencies().count() - self.program.adjacencies().count(),
        )
    }
}
