//! What the control plane asks of the data plane: settings of the node and descriptions of ports.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::acl::Instance;
use crate::fib::VrfId;

/// An Ethernet address, in the order of the wire.
pub type MacAddr = [u8; 6];

/// Most ports that can be open at a time, and one more than the largest [`PortId`].
pub const MAX_PORTS: usize = 1024;

/// Most RX queues of one port.
pub const MAX_QUEUES: usize = 64;

/// The number of an open port: an index below [`MAX_PORTS`]. It is used again some time after the port is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

impl PortId {
    /// The number as an index into tables with a place for every port.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a worker does when nothing arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Never sleeps: lowest latency, a whole core each.
    Poll,
    /// Sleeps in the kernel when idle, wakes on the first frame.
    #[default]
    Adaptive,
}

/// Which fields of a packet choose the member of a multipath group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MultipathHash {
    /// Addresses only.
    L3,
    /// Addresses, protocol and ports; fragments as `L3`.
    #[default]
    L4,
    /// As `L4` of the inner packet where the packet is a tunnel's, else as `L4`.
    Inner,
}

/// Settings of the node's data plane, fixed while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What workers do when nothing arrives.
    pub profile: Profile,
    /// One worker for each core named here; a core is named once.
    pub cores: Vec<usize>,
    /// UMEM frames of the node, shared evenly by the workers.
    pub frames: u32,
    /// Bytes of a frame: 2048 or 4096. 256 of them are the kernel's headroom.
    pub frame_size: u32,
    /// A worker that is silent for longer counts as gone.
    pub stall_after: Duration,
    /// ICMP errors that a worker may send in a second.
    pub icmp_rate: u32,
    /// ICMP errors that a worker may send at once after a quiet time.
    pub icmp_burst: u32,
    /// How flows are spread over multipath groups.
    pub multipath: MultipathHash,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            profile: Profile::Adaptive,
            cores: vec![0],
            frames: 16384,
            frame_size: 4096,
            stall_after: Duration::from_millis(100),
            icmp_rate: 1000,
            icmp_burst: 100,
            multipath: MultipathHash::L4,
        }
    }
}

/// Which way a port looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Towards the fabric.
    Uplink,
    /// Towards a container or VM, which is not trusted.
    Workload,
}

/// How frames reach user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The best that the driver can do: zero-copy, else copy, else generic.
    #[default]
    Auto,
    /// Native XDP and zero-copy sockets, or an error.
    Zerocopy,
    /// Native XDP and copying sockets, or an error.
    Copy,
    /// Generic XDP behind the allocation of the socket buffer: any device, slowest.
    Generic,
}

/// Which source addresses a port accepts (RFC 3704).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AntiSpoof {
    /// Only those that are routed back through the same port.
    Strict,
    /// Only those that have a route at all.
    Loose,
    /// Any.
    #[default]
    Off,
}

/// Out of Margay's view: `Ingress` is into Margay from a port, `Egress` is out of Margay to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Into Margay from the port.
    Ingress,
    /// Out of Margay to the port.
    Egress,
}

/// A port to open. The device is looked up by `ifindex` in the network namespace of the calling thread.
#[derive(Debug, Clone)]
pub struct PortSpec {
    /// The device's name, as the kernel has it.
    pub name: String,
    /// The device's index.
    pub ifindex: u32,
    /// Which way the port looks.
    pub role: Role,
    /// How frames are to reach user space.
    pub mode: Mode,
    /// Whether frames that no worker can take are dropped (`true`) or given to the kernel to route.
    pub on_exit_drop: bool,
    /// Whether partial TCP and UDP checksums of packets from this port are completed.
    pub fix_checksums: bool,
    /// Which source addresses are accepted.
    pub anti_spoof: AntiSpoof,
    /// What may change while the port is open.
    pub attrs: PortAttrs,
    /// Access list for what comes in. It holds from the first frame on; `Dataplane::set_acl` replaces it later.
    pub acl_ingress: Option<Arc<Instance>>,
    /// Access list for what goes out, from the first frame on.
    pub acl_egress: Option<Arc<Instance>>,
}

/// What may change about a port while it is open; the mirror learns it from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortAttrs {
    /// The device's Ethernet address; frames to another one are the kernel's.
    pub mac: MacAddr,
    /// Largest IP packet in bytes that the device takes.
    pub mtu: u32,
    /// Whether the device is up and has a carrier.
    pub up: bool,
    /// Whose routes and own addresses hold for what comes in here.
    pub vrf: VrfId,
    /// Source of ICMP errors about packets that came in here; `None` when the node has no address to use.
    pub icmp4_source: Option<Ipv4Addr>,
    /// Sources for ICMPv6 errors about packets that came in here, best first.
    pub icmp6_sources: Vec<Ipv6Addr>,
}
