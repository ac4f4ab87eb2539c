//! Errors of the control side. Each names the thing and, where there is one, the cure.

use std::io;

/// Why the data plane could not start or a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot work.
    #[error("{key} = {value}: {why}")]
    Setting {
        /// The configuration key.
        key: &'static str,
        /// What it was set to.
        value: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// A capability is missing.
    #[error("{what}: not permitted; margayd needs {capability} (run it as root or grant it that capability)")]
    Permission {
        /// What was tried.
        what: String,
        /// The capability that is most likely missing.
        capability: &'static str,
    },
    /// The device is not there, or no longer there.
    #[error("port {port}: no such device in this network namespace")]
    NoDevice {
        /// The device's name.
        port: String,
    },
    /// Another XDP program is attached to the device.
    #[error(
        "port {port}: another XDP program (id {program}) is attached; detach it with `ip link set dev {port} xdp off`, \
         or stop the program that owns it"
    )]
    XdpBusy {
        /// The device's name.
        port: String,
        /// The kernel's id of the other program, 0 when it could not be told.
        program: u32,
    },
    /// The queue is bound to another socket.
    #[error(
        "port {port}, queue {queue}: bound by another AF_XDP socket (tried for {seconds} s); stop the program that \
         holds it (`ss --xdp -p` shows it)"
    )]
    QueueBusy {
        /// The device's name.
        port: String,
        /// The RX queue.
        queue: u32,
        /// How long binding was tried again.
        seconds: u64,
    },
    /// The driver cannot do what the mode asks for.
    #[error(
        "port {port}: mode \"{mode}\" is not supported by its driver ({source}); use mode = \"{instead}\""
    )]
    Unsupported {
        /// The device's name.
        port: String,
        /// The mode asked for.
        mode: &'static str,
        /// A mode that the driver is more likely to support.
        instead: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Packets of the port's MTU would not fit: AF_XDP would drop them, some drivers without counting. The kernel takes them.
    #[error(
        "port {port}: its MTU of {mtu} is more than the {largest} bytes that its packets may have ({why}); \
         `ip link set {port} mtu {largest}`"
    )]
    Mtu {
        /// The device's name.
        port: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The largest that is possible.
        largest: u32,
        /// What limits it.
        why: String,
    },
    /// The UMEM has too few frames for one more port.
    #[error(
        "port {port}: its {queues} queue(s) need frames, but runtime.frames = {frames} serves {limit} queues and {used} \
         are in use; raise runtime.frames to at least {needed}"
    )]
    Frames {
        /// The device's name.
        port: String,
        /// Its RX queues.
        queues: u32,
        /// All frames of the node.
        frames: u32,
        /// Queues that so many frames can serve.
        limit: u32,
        /// Queues served now.
        used: u32,
        /// Frames that would do.
        needed: u32,
    },
    /// The port is already open.
    #[error("port {port}: already open")]
    AlreadyOpen {
        /// The device's name.
        port: String,
    },
    /// No such port is open.
    #[error("no open port has number {0}")]
    NotOpen(u16),
    /// A limit of the data plane.
    #[error("port {port}: {what} is more than the {limit} that the data plane is built for")]
    Limit {
        /// The device's name.
        port: String,
        /// What there is too much of.
        what: String,
        /// The limit.
        limit: usize,
    },
    /// The local table has more prefixes than the steering program's map.
    #[error("the kernel's local table has more than {limit} {family} prefixes")]
    LocalFull {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The map's size.
        limit: u32,
    },
    /// The kernel refused something else.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried, with the names of what it was tried on.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}
