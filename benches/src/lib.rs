//! Measurements of the whole: packets generated, routed and counted in network namespaces.
//!
//! [`lab`] builds `generator → router → sink` out of namespaces and veth pairs, [`generator`] offers packets, [`sink`] counts
//! what was routed, and [`router`] starts who routes: margayd, the kernel, or DPDK's testpmd. The binaries put them together.

use std::fmt;

pub mod acl_large_sets;
pub mod acl_peer;
pub mod acl_reload;
pub mod acl_sets;
pub mod acl_table;
pub mod acl_worst;
pub mod command;
pub mod figures;
pub mod generator;
pub mod lab;
pub mod lpm;
pub mod memory;
pub mod report;
pub mod router;
pub mod sink;
pub mod sys;
pub mod throughput;

/// What went wrong, as one line for whoever runs a measurement.
#[derive(Debug)]
pub struct Error(String);

/// Result of a step of a measurement.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that says `what`.
    pub fn new(what: impl Into<String>) -> Self {
        Error(what.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Names what was tried when a step fails.
pub trait Context<T> {
    /// Puts `what: ` before the error.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error(format!("{what}: {error}")))
    }
}
