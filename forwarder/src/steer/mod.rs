//! The steering program in the kernel: loading it, attaching it, and the maps through which it is told what to do.

pub(crate) mod beats;
pub(crate) mod link;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use classifier::lpm::IpPrefix;
use libbpf_rs::{ErrorExt, ErrorKind, MapCore, MapFlags, MapHandle, Object, ObjectBuilder};

use crate::error::Error;
use crate::fib::VrfId;
use crate::settings::{MAX_QUEUES, MacAddr, PortId};
use crate::steer::beats::Beats;

/// libelf reads 64-bit fields in place.
#[repr(align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/steer.bpf.o")));

const PORT_CLOSED: u32 = 1;
const PORT_GUARDED: u32 = 2;

/// Prefixes of one family that the local maps take: as `MAX_LOCAL` in the program.
const MAX_LOCAL: u32 = 262_144;

/// Bits of a VRF's number, before the address in the keys of the local maps.
const VRF_BITS: u32 = 32;

/// How the program treats one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steered {
    pub(crate) slot: PortId,
    pub(crate) mac: MacAddr,
    /// Whose own addresses are the kernel's.
    pub(crate) vrf: VrfId,
    /// Drop what no socket takes, rather than leave it to the kernel.
    pub(crate) closed: bool,
    /// Drop router advertisements and redirects to the node.
    pub(crate) guarded: bool,
    pub(crate) queues: u32,
}

/// Packets and bytes of one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Tally {
    fn add(&mut self, words: &[u8]) {
        let word = |at: usize| u64::from_ne_bytes(words[at..at + 8].try_into().expect("8 bytes"));
        self.packets += word(0);
        self.bytes += word(8);
    }
}

/// What the program did with the frames of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tallies {
    /// Left to the kernel.
    pub(crate) punted: Tally,
    /// Given to a socket. Whether the socket took it, its own statistics tell.
    pub(crate) redirected: Tally,
    /// Dropped to protect the node.
    pub(crate) protected: Tally,
    /// Dropped because no socket was there to take it.
    pub(crate) closed: Tally,
}

/// The loaded program. It goes from the kernel when this and all links are dropped.
pub(crate) struct Steer {
    object: Object,
    ports: MapHandle,
    xsks: MapHandle,
    watches: MapHandle,
    beats: Beats,
    counters: MapHandle,
    local4: MapHandle,
    local6: MapHandle,
}

impl std::fmt::Debug for Steer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steer").finish_non_exhaustive()
    }
}

/// libbpf-rs wraps the kernel's error number; this finds it again.
fn io_error(error: &libbpf_rs::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(at) = cause {
        let number = at.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if let Some(number) = number {
            return io::Error::from_raw_os_error(number);
        }
        cause = at.source();
    }
    match error.kind() {
        ErrorKind::PermissionDenied => io::Error::from_raw_os_error(libc::EPERM),
        ErrorKind::NotFound => io::Error::from_raw_os_error(libc::ENOENT),
        _ => io::Error::other(format!("{error:#}")),
    }
}

impl Steer {
    /// Loads the program and creates its maps.
    pub(crate) fn load() -> Result<Self, Error> {
        let failed = |error: libbpf_rs::Error| {
            let source = io_error(&error);
            if source.raw_os_error() == Some(libc::EPERM) {
                let what = "loading the XDP program".to_owned();
                return Error::Permission {
                    what,
                    capability: "CAP_BPF and CAP_NET_ADMIN",
                };
            }
            Error::Kernel {
                what: "loading the XDP program".to_owned(),
                source,
            }
        };
        // libbpf's own lines on stderr say what these errors say better.
        libbpf_rs::set_print(None);
        let object = ObjectBuilder::default()
            .open_memory(&OBJECT.0)
            .and_then(|open| open.load())
            .map_err(failed)?;
        let map = |name: &str| -> Result<MapHandle, libbpf_rs::Error> {
            let map = object.maps().find(|map| map.name() == name);
            MapHandle::try_from(&map.ok_or_else(|| libbpf_rs::Error::from_raw_os_error(libc::ENOENT))?)
                .context(format!("map {name}"))
        };
        let maps = || {
            Ok([
                map("ports")?,
                map("xsks")?,
                map("counters")?,
                map("local4")?,
                map("local6")?,
                map("watches")?,
                map("beats")?,
            ])
        };
        let [ports, xsks, counters, local4, local6, watches, beats] = maps().map_err(failed)?;
        let beats = Beats::map(beats.as_fd()).map_err(|source| Error::Kernel {
            what: "mapping the workers' heartbeats".to_owned(),
            source,
        })?;
        Ok(Self {
            object,
            ports,
            xsks,
            watches,
            beats,
            counters,
            local4,
            local6,
        })
    }

    /// Attaches the program to a device. The port's entry must be set before.
    pub(crate) fn attach(&self, ifindex: u32, place: link::Place) -> io::Result<link::Link> {
        let program = self.object.progs().find(|program| program.name() == "steer");
        let program = program.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        link::attach(program.as_fd(), ifindex, place)
    }

    /// Says how to treat the frames of a device.
    pub(crate) fn set_port(&self, ifindex: u32, port: &Steered) -> io::Result<()> {
        let mut value = Vec::with_capacity(20);
        value.extend(port.slot.0.to_ne_bytes());
        value.extend(port.mac);
        let mut flags = 0;
        if port.closed {
            flags |= PORT_CLOSED;
        }
        if port.guarded {
            flags |= PORT_GUARDED;
        }
        value.extend(u32::to_ne_bytes(flags));
        value.extend(port.queues.to_ne_bytes());
        value.extend(port.vrf.0.to_be_bytes());
        self.ports
            .update(&ifindex.to_ne_bytes(), &value, MapFlags::ANY)
            .map_err(|e| io_error(&e))
    }

    /// Forgets a device: its frames are the kernel's, not counted.
    pub(crate) fn remove_port(&self, ifindex: u32) -> io::Result<()> {
        ignore_missing(self.ports.delete(&ifindex.to_ne_bytes()))
    }

    /// The workers' heartbeats.
    pub(crate) fn beats(&self) -> &Beats {
        &self.beats
    }

    /// Has the program watch the worker of one queue: once that has not moved for longer than `limit` although frames
    /// came, they are treated as if there were no socket.
    pub(crate) fn watch(&self, port: PortId, queue: u32, worker: u16, limit: Duration) -> io::Result<()> {
        let limit = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1);
        let mut value = vec![0; 16];
        value.extend(u32::from(worker).to_ne_bytes());
        value.extend(limit.to_ne_bytes());
        self.watches
            .update(&socket_key(port, queue), &value, MapFlags::ANY)
            .map_err(|e| io_error(&e))
    }

    /// Gives the frames of one queue to a socket.
    pub(crate) fn set_socket(&self, port: PortId, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let fd = socket.as_raw_fd().to_ne_bytes();
        self.xsks
            .update(&socket_key(port, queue), &fd, MapFlags::ANY)
            .map_err(|e| io_error(&e))
    }

    /// Takes the socket of one queue out; sockets that are closed go by themselves.
    pub(crate) fn remove_socket(&self, port: PortId, queue: u32) -> io::Result<()> {
        ignore_missing(self.xsks.delete(&socket_key(port, queue)))
    }

    /// What was done with the frames of a port since [`reset`](Self::reset), added up over the CPUs.
    pub(crate) fn tallies(&self, port: PortId) -> io::Result<Tallies> {
        let mut sum = Tallies::default();
        let key = u32::from(port.0).to_ne_bytes();
        let cpus = self
            .counters
            .lookup_percpu(&key, MapFlags::ANY)
            .map_err(|e| io_error(&e))?;
        for cpu in cpus.into_iter().flatten() {
            sum.punted.add(&cpu[0..16]);
            sum.redirected.add(&cpu[16..32]);
            sum.protected.add(&cpu[32..48]);
            sum.closed.add(&cpu[48..64]);
        }
        Ok(sum)
    }

    /// Starts the counts of a port at zero.
    pub(crate) fn reset(&self, port: PortId) -> io::Result<()> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(|e| io_error(&e))?;
        let zeros = vec![vec![0; 64]; cpus];
        let key = u32::from(port.0).to_ne_bytes();
        self.counters
            .update_percpu(&key, &zeros, MapFlags::ANY)
            .map_err(|e| io_error(&e))
    }

    /// Adds or removes prefixes that are the kernel's own in a VRF. What is added twice or removed before it is there does
    /// no harm.
    pub(crate) fn set_local(
        &self,
        add: &[(VrfId, IpPrefix)],
        remove: &[(VrfId, IpPrefix)],
    ) -> Result<(), Error> {
        for (vrf, prefix) in remove {
            let (map, key, family) = self.local(*vrf, prefix);
            ignore_missing(map.delete(&key)).map_err(|source| local_failed(family, prefix, source))?;
        }
        for (vrf, prefix) in add {
            let (map, key, family) = self.local(*vrf, prefix);
            map.update(&key, &[1], MapFlags::ANY)
                .map_err(|e| local_failed(family, prefix, io_error(&e)))?;
        }
        Ok(())
    }

    /// The map for a prefix, its key there (length in the machine's order, that of the VRF's number included; the number and the
    /// address in the wire's), and the family's name.
    fn local(&self, vrf: VrfId, prefix: &IpPrefix) -> (&MapHandle, Vec<u8>, &'static str) {
        let (address, len) = (prefix.addr(), VRF_BITS + u32::from(prefix.len()));
        let mut key = len.to_ne_bytes().to_vec();
        key.extend(vrf.0.to_be_bytes());
        match address {
            IpAddr::V4(address) => {
                key.extend(address.octets());
                (&self.local4, key, "IPv4")
            }
            IpAddr::V6(address) => {
                key.extend(address.octets());
                (&self.local6, key, "IPv6")
            }
        }
    }
}

fn local_failed(family: &'static str, prefix: &IpPrefix, source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ENOSPC) => Error::LocalFull {
            family,
            limit: MAX_LOCAL,
        },
        _ => Error::Kernel {
            what: format!("local prefix {prefix}"),
            source,
        },
    }
}

fn socket_key(port: PortId, queue: u32) -> [u8; 4] {
    (u32::from(port.0) * MAX_QUEUES as u32 + queue).to_ne_bytes()
}

fn ignore_missing(result: Result<(), libbpf_rs::Error>) -> io::Result<()> {
    match result {
        Err(error) => match io_error(&error) {
            missing if missing.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => Err(other),
        },
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::MAX_PORTS;

    #[test]
    fn the_program_is_built_for_the_same_limits() {
        let source = include_str!("../bpf/steer.bpf.c");
        for (name, value) in [
            ("MAX_PORTS", MAX_PORTS),
            ("MAX_QUEUES", MAX_QUEUES),
            ("MAX_WORKERS", beats::MAX_WORKERS),
            ("MAX_LOCAL", MAX_LOCAL as usize),
        ] {
            assert!(
                source.contains(&format!("#define {name} {value}\n")),
                "{name} is not {value} in the program"
            );
        }
    }

    #[test]
    fn keys_of_ports_do_not_overlap() {
        assert_eq!(socket_key(PortId(0), MAX_QUEUES as u32 - 1), 63u32.to_ne_bytes());
        assert_eq!(socket_key(PortId(1), 0), 64u32.to_ne_bytes());
    }
}
