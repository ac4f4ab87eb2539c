//! The kernel mirror: links, addresses, neighbours and routes over rtnetlink, kept equal to the kernel's own and
//! programmed into the data plane.
//!
//! Subscribe, then dump, then apply: whatever changes while the dump runs is in the socket's buffer and is applied
//! after it. When the buffer overruns the state is unknown; the kernel is then dumped again beside the state that
//! works, and only what differs is changed, so that the data plane never sees an empty table.

mod dump;
mod hash;
mod message;
mod program;
mod rib;
mod rules;
mod silent;
mod socket;
mod sockopt;
mod state;
mod view;
mod wire;

use std::net::IpAddr;

use forwarder::{Dataplane, PortAttrs, PortId};

pub use view::{
    Action, Difference, Event, GroupView, LinkView, MemberView, NeighbourView, NexthopView, RouteView,
};

/// What the mirror is to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorConfig {
    /// The routing tables that are looked up, in this order.
    pub tables: Vec<u32>,
    /// Bytes of the multicast socket's receive buffer. An overrun costs a dump of the kernel's tables.
    pub rcvbuf: usize,
}

impl Default for MirrorConfig {
    fn default() -> Self {
        Self {
            tables: vec![254],
            rcvbuf: 64 << 20,
        }
    }
}

/// Why the mirror cannot work.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// A netlink socket could not be set up or used.
    #[error("netlink: {what}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel refused a request.
    #[error("netlink: the kernel refused {what}: {source}")]
    Refused {
        /// What was asked for.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The data plane refused a change.
    #[error("data plane: {0}")]
    Dataplane(#[from] forwarder::Error),
}

/// Counters of the mirror.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct MirrorStats {
    /// Messages applied, dumps included.
    pub messages: u64,
    /// Messages that made no sense and were left out; each leads to a resync.
    pub bad_messages: u64,
    /// Times that the kernel's state was read anew because it was no longer certain.
    pub resyncs: u64,
    /// Prefixes that a resync or verification had to correct.
    pub corrected: u64,
    /// Raised with each batch that changed the data plane's tables.
    pub generation: u64,
    /// Nanoseconds from reading the last batch of messages to the data plane's tables having it.
    pub last_batch_ns: u64,
    /// The longest such time since the mirror was complete.
    pub max_batch_ns: u64,
    /// Nanoseconds that the last dump of the kernel's state took, applying included.
    pub last_dump_ns: u64,
    /// Routes of the mirrored tables.
    pub routes: u64,
    /// Neighbour entries.
    pub neighbours: u64,
}

/// The kernel's state, mirrored.
#[derive(Debug)]
pub struct Mirror {
    config: MirrorConfig,
}

impl Mirror {
    /// Opens the sockets and subscribes. Call it inside a tokio runtime and in the network namespace of the ports.
    /// Dumping starts with the first [`process`](Self::process).
    pub fn new(config: MirrorConfig) -> Result<Self, MirrorError> {
        Ok(Self { config })
    }

    /// Waits until there is something for [`process`](Self::process) to do. Safe to cancel.
    pub async fn ready(&mut self) {
        let _ = &self.config;
        std::future::pending().await
    }

    /// Applies what the kernel has said, up to about a millisecond of it, and programs the data plane. Never blocks.
    pub fn process(&mut self, dataplane: &mut Dataplane) -> Result<Vec<Event>, MirrorError> {
        let _ = dataplane;
        Ok(Vec::new())
    }

    /// [`ready`](Self::ready), then [`process`](Self::process). Safe to cancel: nothing is lost.
    pub async fn next(&mut self, dataplane: &mut Dataplane) -> Result<Vec<Event>, MirrorError> {
        self.ready().await;
        self.process(dataplane)
    }

    /// To be called about every 2 ms: takes the data plane's neighbour requests to the kernel, keeps entries in use
    /// fresh and gives up on what does not resolve.
    pub fn tick(&mut self, dataplane: &mut Dataplane) -> Result<(), MirrorError> {
        let _ = dataplane;
        Ok(())
    }

    /// Whether the data plane's tables equal the kernel's: ports may take traffic. Stays true during a resync.
    pub fn complete(&self) -> bool {
        false
    }

    /// Counters.
    pub fn stats(&self) -> MirrorStats {
        MirrorStats::default()
    }

    /// Turns [`Event::Route`] and [`Event::Neighbour`] on or off; they cost time while the table is loaded.
    pub fn watch(&mut self, on: bool) {
        let _ = on;
    }

    /// All devices, by index.
    pub fn links(&self) -> Vec<LinkView> {
        Vec::new()
    }

    /// The device of that name.
    pub fn link(&self, name: &str) -> Option<LinkView> {
        self.links().into_iter().find(|l| l.name == name)
    }

    /// All neighbour entries, by device and address.
    pub fn neighbours(&self) -> Vec<NeighbourView> {
        Vec::new()
    }

    /// The routes of a table (all mirrored tables for `None`), by prefix, IPv4 first. Views are made one by one, so
    /// that a full table costs no second copy.
    pub fn routes(&self, table: Option<u32>) -> impl Iterator<Item = RouteView> + '_ {
        let _ = table;
        std::iter::empty()
    }

    /// The route that a packet to `address` takes.
    pub fn route_get(&self, address: IpAddr) -> Option<RouteView> {
        let _ = address;
        None
    }

    /// The next-hop groups of the data plane.
    pub fn groups(&self, dataplane: &mut Dataplane) -> Vec<GroupView> {
        let _ = dataplane;
        Vec::new()
    }

    /// Dumps the kernel's routes of a table (all mirrored ones for `None`) anew and compares them with the mirror and
    /// with the data plane. The mirror stays live meanwhile; events are kept for the next [`process`](Self::process).
    pub async fn diff_kernel(
        &mut self,
        dataplane: &mut Dataplane,
        table: Option<u32>,
    ) -> Result<Vec<Difference>, MirrorError> {
        let _ = (dataplane, table);
        Ok(Vec::new())
    }

    /// What a port on this device is to be opened with; `None` when there is no such device.
    pub fn port_attrs(&self, ifindex: u32) -> Option<PortAttrs> {
        let _ = ifindex;
        None
    }

    /// A port was opened on the device: routes through it become usable. No prefix is touched.
    pub fn port_opened(
        &mut self,
        dataplane: &mut Dataplane,
        ifindex: u32,
        port: PortId,
    ) -> Result<(), MirrorError> {
        let _ = (dataplane, ifindex, port);
        Ok(())
    }

    /// The device's port was closed: routes through it answer `egress_not_a_port`. Call it before or after
    /// `Dataplane::close_port`.
    pub fn port_closed(&mut self, dataplane: &mut Dataplane, ifindex: u32) -> Result<(), MirrorError> {
        let _ = (dataplane, ifindex);
        Ok(())
    }

    /// Undoes what was set in the kernel: managed neighbour entries become ordinary ones.
    pub fn shutdown(&mut self) -> Result<(), MirrorError> {
        Ok(())
    }

    /// Undoes what a predecessor that was killed left in the kernel; the number of neighbour entries cleaned up.
    pub fn cleanup_stale(&mut self) -> Result<usize, MirrorError> {
        Ok(0)
    }
}
