//! The data plane: XDP steering, AF_XDP ports over one UMEM, pinned workers, and the packet's way between them.
//!
//! [`Dataplane`] is the whole interface for the control plane: it opens and closes ports while workers run, publishes
//! routes and access lists to them, and reads their counters without stopping them.

pub mod acl;
pub mod counters;
mod dataplane;
mod error;
pub mod fib;
pub mod frame;
mod hold;
mod icmp;
pub mod path;
mod port;
pub mod reason;
mod ring;
pub mod settings;
pub mod snapshot;
mod steer;
pub mod tables;
mod umem;
pub mod watch;
mod worker;

pub use dataplane::Dataplane;
pub use error::Error;
pub use port::device;
pub use settings::{
    AntiSpoof, Direction, MacAddr, Mode, MultipathHash, PortAttrs, PortId, PortSpec, Profile, Role, Settings,
};
pub use snapshot::{Census, DropCount, FrameStats, Obtained, PortStats, QueueStats, Snapshot, WorkerStats};
