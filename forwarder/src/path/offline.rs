//! A whole data plane without a kernel: one path over plain memory, for benchmarks and experiments.
//!
//! ```
//! use forwarder::fib::{AdjState, Adjacency, Group, Member};
//! use forwarder::path::offline::Offline;
//! use forwarder::{PortAttrs, PortId, Settings};
//!
//! let mut node = Offline::new(&Settings::default(), 1024, 2048);
//! let port = PortAttrs { mtu: 1500, up: true, ..PortAttrs::default() };
//! node.open_port(PortId(0), port.clone(), None, None);
//! node.open_port(PortId(1), port, None, None);
//! let adj = node.fib().add_adjacency(Adjacency {
//!     port: Some(PortId(1)),
//!     ifindex: 1,
//!     neighbour: "192.0.2.1".parse()?,
//!     mtu: 0,
//!     state: AdjState::Resolved { dst: [2; 6], src: [4; 6] },
//! });
//! let group = node.fib().add_group(Group::Forward { members: vec![Member { adj, weight: 1 }], prefsrc: None });
//! node.fib().insert(254, "198.51.100.0/24".parse()?, group)?;
//!
//! // Ethernet, IPv4 with TTL 64 from 203.0.113.1 to 198.51.100.9, UDP from port 1 to port 2.
//! let packet = [
//!     4, 4, 4, 4, 4, 4, 6, 6, 6, 6, 6, 6, 8, 0, //
//!     0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x14, 0x93, 203, 0, 113, 1, 198, 51, 100, 9, //
//!     0, 1, 0, 2, 0, 8, 0, 0,
//! ];
//! let done = node.burst(PortId(0), &[&packet[..]; 64]);
//! assert_eq!(done.forwarded, 64);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::qsbr::Reader;

use super::{BURST, Kind, Outcome, Path, PathConfig};
use crate::acl::Instance;
use crate::fib::Fib;
use crate::frame::{Buffers, Frame, Memory};
use crate::settings::{AntiSpoof, Mode, PortAttrs, PortId, PortSpec, Role, Settings};
use crate::tables::Shared;

/// What became of a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Packets sent on.
    pub forwarded: u64,
    /// Packets answered.
    pub replied: u64,
    /// Packets dropped or waiting.
    pub kept: u64,
    /// Time that the path took; writing the packets into memory is not counted.
    pub elapsed: Duration,
}

/// One worker's path, its tables, and memory for its frames.
#[derive(Debug)]
pub struct Offline {
    shared: Arc<Shared>,
    fib: Fib,
    path: Path,
    reader: Reader,
    memory: Buffers,
    rx: Vec<Frame>,
    out: Outcome,
    /// Where the next burst's frames are taken from: all frames go round, as in a fill ring.
    next: usize,
}

impl Offline {
    /// A node with so many frames of `room` bytes each, at least a burst's worth. Ports and routes are still to come.
    pub fn new(settings: &Settings, frames: usize, room: usize) -> Self {
        let shared = Shared::new(settings, 0);
        // Frames that wait for a neighbour are not there for a burst.
        let (memory, free) = Buffers::new(frames.max(BURST) + crate::tables::MAX_HELD, room);
        let mut out = Outcome::new();
        out.free.extend(free);
        Self {
            fib: shared.fib(),
            path: Path::new(PathConfig {
                worker: 0,
                shared: shared.clone(),
            }),
            reader: shared.domain().register(),
            shared,
            memory,
            rx: Vec::with_capacity(BURST),
            out,
            next: 0,
        }
    }

    /// Opens a port, without anti-spoofing and checksum repair.
    pub fn open_port(
        &mut self,
        id: PortId,
        attrs: PortAttrs,
        acl_ingress: Option<Arc<Instance>>,
        acl_egress: Option<Arc<Instance>>,
    ) {
        self.shared.open_port(
            id,
            &PortSpec {
                name: format!("offline{id}"),
                ifindex: u32::from(id.0) + 1,
                role: Role::Uplink,
                mode: Mode::Auto,
                on_exit_drop: true,
                fix_checksums: false,
                anti_spoof: AntiSpoof::Off,
                attrs,
                acl_ingress,
                acl_egress,
            },
        );
    }

    /// The routes.
    pub fn fib(&mut self) -> &mut Fib {
        &mut self.fib
    }

    /// Tables and counters.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Sends up to [`BURST`] packets in through a port; more are left out. Each packet is cut to the frames' room.
    pub fn burst(&mut self, port: PortId, packets: &[&[u8]]) -> Done {
        self.burst_to(port, packets, |_, _, _| ())
    }

    /// The same; `sent` is shown the egress port, the kind and the bytes of each frame that leaves.
    pub fn burst_to(
        &mut self,
        port: PortId,
        packets: &[&[u8]],
        mut sent: impl FnMut(PortId, Kind, &[u8]),
    ) -> Done {
        for packet in packets.iter().take(BURST) {
            self.next = if self.next + 1 < self.out.free.len() {
                self.next + 1
            } else {
                0
            };
            let mut frame = self.out.free.swap_remove(self.next);
            self.memory.set_len(&mut frame, packet.len());
            let data = self.memory.data_mut(&mut frame);
            data.copy_from_slice(&packet[..data.len()]);
            self.rx.push(frame);
        }
        let mut done = Done {
            kept: self.rx.len() as u64,
            ..Done::default()
        };
        let begun = Instant::now();
        {
            let online = self.reader.online();
            self.path
                .burst(&mut self.memory, &online, port, &mut self.rx, &mut self.out);
        }
        for departure in self.out.tx.drain(..) {
            self.path.counters().sent(&departure);
            sent(
                departure.egress,
                departure.kind,
                self.memory.data(&departure.frame),
            );
            match departure.kind {
                Kind::Transit => done.forwarded += 1,
                Kind::Fragment => {}
                Kind::Originated => done.replied += 1,
            }
            self.out.free.push(departure.frame);
        }
        self.reader.quiescent();
        done.elapsed = begun.elapsed();
        done.kept = done.kept.saturating_sub(done.forwarded + done.replied);
        done
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        let online = self.reader.online();
        self.path.purge(&self.memory, &online, None, &mut self.out);
        for frame in self.rx.drain(..).chain(self.out.free.drain(..)) {
            frame.surrender();
        }
    }
}
