//! `margay doctor`: looks for what is wrong or slow on this node. It only reads.
//!
//! What the daemon knows are [`Facts`]; what the kernel and other programs have set up is taken by [`Reading::take`]. The
//! checks are functions of these two, by topic: `port` and `node`, and `bypass` for what the kernel does with packets that
//! Margay takes away from it.

mod bypass;
mod node;
mod port;
mod reading;
mod rules;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::Serialize;

use crate::config::{FixChecksums, Mode, Profile, Role};

pub use reading::Reading;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// It works, with a disadvantage that the message names.
    Warn,
    /// Packets are lost or closed ports are open.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name.
    pub name: &'static str,
    /// The port or device that it is about.
    pub port: Option<String>,
    /// How it went.
    pub result: Outcome,
    /// What was found.
    pub message: String,
    /// The command or key that mends it.
    pub fix: Option<String>,
}

/// What the daemon knows of an open port.
#[derive(Debug, Clone)]
pub struct Port {
    /// The device's name.
    pub name: String,
    /// The mode that the configuration asks for.
    pub mode_wanted: Mode,
    /// The mode that was obtained.
    pub mode_obtained: String,
    /// Queues with a socket.
    pub queues: u32,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// The largest MTU that it can be given.
    pub largest_mtu: u32,
    /// What limits it.
    pub mtu_limit: String,
    /// What the port is for.
    pub role: Role,
    /// Whether it has a carrier.
    pub up: bool,
    /// Whether partial checksums are completed.
    pub fix_checksums: FixChecksums,
    /// Whether it is given by a pattern, which is named.
    pub pattern: Option<String>,
    /// Whether the guard has to hold it.
    pub closed: bool,
    /// Lists that it names and no file has.
    pub acl_missing: Vec<String>,
}

/// Why a device that should be a port is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It is not there.
    Absent,
    /// Its MTU is larger than it may be.
    TooLarge {
        /// Its MTU.
        mtu: u32,
        /// The largest one that it may have.
        largest: u32,
    },
    /// Another XDP program is on it.
    OtherProgram,
    /// The UMEM has too few frames for one more; so many would do.
    Frames(u32),
    /// Anything else, which the message tells.
    Other,
}

/// A device that should be a port and is none.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The device's name.
    pub name: String,
    /// Why it is none.
    pub cause: Cause,
    /// The same in words, with what mends it.
    pub message: String,
}

/// What the daemon knows.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Open ports.
    pub ports: Vec<Port>,
    /// Devices that should be ports and are not.
    pub waiting: Vec<Waiting>,
    /// Devices that routes lead to and that are no ports, with the number of routes.
    pub not_ports: Vec<(String, usize)>,
    /// Bytes of a UMEM frame.
    pub frame_size: u32,
    /// The core of each worker.
    pub cores: Vec<usize>,
    /// How they wait.
    pub profile: Profile,
    /// UMEM frames.
    pub frames: u32,
    /// The configuration file.
    pub file: PathBuf,
    /// Neighbour entries.
    pub neighbours: usize,
    /// Names that the guard should hold.
    pub guarded: Vec<String>,
    /// Whether the node is looked at, or only the named port.
    pub node: bool,
}

/// Checks under construction.
#[derive(Debug, Default)]
struct Found(Vec<Check>);

impl Found {
    fn push(
        &mut self,
        name: &'static str,
        port: Option<&str>,
        result: Outcome,
        message: String,
        fix: Option<String>,
    ) {
        self.0.push(Check {
            name,
            port: port.map(str::to_owned),
            result,
            message,
            fix,
        });
    }

    fn pass(&mut self, name: &'static str, port: Option<&str>, message: impl Into<String>) {
        self.push(name, port, Outcome::Pass, message.into(), None);
    }

    fn warn(
        &mut self,
        name: &'static str,
        port: Option<&str>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(name, port, Outcome::Warn, message.into(), Some(fix.into()));
    }

    fn fail(
        &mut self,
        name: &'static str,
        port: Option<&str>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(name, port, Outcome::Fail, message.into(), Some(fix.into()));
    }
}

/// Makes all checks. May take a while, as other programs are asked: not for a thread that others wait for.
pub fn checks(facts: &Facts) -> Vec<Check> {
    judge(facts, &Reading::take(facts))
}

/// Judges what was read.
fn judge(facts: &Facts, reading: &Reading) -> Vec<Check> {
    let mut found = Found::default();
    for one in &facts.ports {
        port::check(one, facts, reading, &mut found);
    }
    port::waiting(facts, reading, &mut found);
    if facts.node {
        node::check(facts, reading, &mut found);
        bypass::check(reading, &mut found);
        bypass::input_rules(facts, reading, &mut found);
    }
    node::guarded(facts, &mut found);
    found.0
}
