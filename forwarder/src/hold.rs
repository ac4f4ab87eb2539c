//! Packets that wait while the kernel resolves their neighbour.
//!
//! Per worker: a neighbour's packets stand in one entry, in order. The limits hold for all workers together, but for
//! the packets of one neighbour, which each worker limits on its own.

use std::sync::atomic::Ordering::Relaxed;

use classifier::packet::Headers;

use crate::frame::Frame;
use crate::path::Kind;
use crate::settings::PortId;
use crate::tables::{MAX_HELD_EACH, MAX_UNRESOLVED, NeighbourRequest, Shared};

/// How long a packet waits at most, in nanoseconds: a little longer than the kernel tries (3 probes, a second apart).
pub(crate) const TIMEOUT: u64 = 3_500_000_000;
/// A neighbour that does not resolve is asked for again after so many nanoseconds.
const ASK_AGAIN: u64 = 1_000_000_000;
/// Slots of the memory of what was asked for without a packet waiting.
const ASKED: usize = 256;

/// A packet that waits. It has passed every stage but the rewrite.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) frame: Frame,
    pub(crate) headers: Headers,
    pub(crate) ingress: PortId,
    /// The port whose access list it has passed.
    pub(crate) egress: PortId,
    pub(crate) kind: Kind,
    /// The flow's hash.
    pub(crate) hash: u32,
    /// Bytes of the frame.
    pub(crate) len: u32,
}

/// One neighbour and the packets that wait for it.
#[derive(Debug)]
struct Entry {
    neighbour: NeighbourRequest,
    /// Nanoseconds of the worker's clock when the first packet came, and when the kernel was asked last.
    since: u64,
    asked: u64,
    packets: Vec<Held>,
}

/// The packets that wait on one worker.
#[derive(Debug)]
pub(crate) struct Hold {
    /// The first `live` entries are in use; all have their room from the start.
    entries: Vec<Entry>,
    live: usize,
    packets: usize,
    /// UMEM frames of these.
    frames: usize,
    /// What was asked for lately, by hash: so that a neighbour that does not answer is not asked for with every packet.
    asked: Box<[(NeighbourRequest, u64)]>,
}

/// What is to be done with one neighbour's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Wait on.
    Wait,
    /// Look at them again: the way has changed.
    Release,
}

impl Hold {
    pub(crate) fn new() -> Self {
        let nobody = NeighbourRequest {
            ifindex: 0,
            address: std::net::Ipv4Addr::UNSPECIFIED.into(),
        };
        let entry = || Entry {
            neighbour: nobody,
            since: 0,
            asked: 0,
            packets: Vec::with_capacity(MAX_HELD_EACH),
        };
        Self {
            entries: (0..MAX_UNRESOLVED).map(|_| entry()).collect(),
            live: 0,
            packets: 0,
            frames: 0,
            asked: vec![(nobody, 0); ASKED].into(),
        }
    }

    /// Packets that wait.
    pub(crate) fn len(&self) -> usize {
        self.packets
    }

    /// UMEM frames of the packets that wait.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// Whether packets wait for a neighbour.
    pub(crate) fn holds(&self, neighbour: &NeighbourRequest) -> bool {
        self.entries[..self.live]
            .iter()
            .any(|entry| entry.neighbour == *neighbour)
    }

    /// Takes a packet in and asks for its neighbour; gives it back when there is no room.
    pub(crate) fn push(
        &mut self,
        shared: &Shared,
        neighbour: NeighbourRequest,
        packet: Held,
        now: u64,
    ) -> Result<(), Held> {
        let at = self.entries[..self.live]
            .iter()
            .position(|entry| entry.neighbour == neighbour);
        if at.is_some_and(|at| self.entries[at].packets.len() >= MAX_HELD_EACH) {
            return Err(packet);
        }
        let frames = packet.frame.parts() as usize;
        if !shared.hold(frames) {
            return Err(packet);
        }
        let at = match at {
            Some(at) => at,
            None if self.live < self.entries.len() && shared.await_one() => {
                let entry = &mut self.entries[self.live];
                (entry.neighbour, entry.since) = (neighbour, now);
                // A request that finds the queue full is made again by the next look at this entry.
                entry.asked = if shared.request(neighbour) { now } else { 0 };
                self.live += 1;
                self.live - 1
            }
            None => {
                shared.held.fetch_sub(frames, Relaxed);
                return Err(packet);
            }
        };
        self.entries[at].packets.push(packet);
        self.packets += 1;
        self.frames += frames;
        Ok(())
    }

    /// Asks for a neighbour that the kernel gave up on, at most once a second.
    pub(crate) fn ask_again(&mut self, shared: &Shared, neighbour: NeighbourRequest, now: u64) {
        let slot = &mut self.asked[slot(&neighbour)];
        if (slot.0 != neighbour || now.saturating_sub(slot.1) >= ASK_AGAIN) && shared.request(neighbour) {
            *slot = (neighbour, now);
        }
    }

    /// Goes over all neighbours. `fate` judges a packet by its way as it is now; packets to be released, and those that
    /// have waited too long, are moved to `out` in their order, the latter marked with `true`.
    pub(crate) fn sweep(
        &mut self,
        shared: &Shared,
        now: u64,
        out: &mut Vec<(Held, bool)>,
        mut fate: impl FnMut(&Held, &NeighbourRequest) -> Fate,
    ) {
        let mut at = 0;
        while at < self.live {
            let entry = &mut self.entries[at];
            let late = now.saturating_sub(entry.since) >= TIMEOUT;
            let (before, mut frames) = (entry.packets.len(), 0);
            let neighbour = entry.neighbour;
            for packet in entry
                .packets
                .extract_if(.., |held| late || fate(held, &neighbour) == Fate::Release)
            {
                frames += packet.frame.parts() as usize;
                out.push((packet, late));
            }
            self.packets -= before - entry.packets.len();
            self.frames -= frames;
            shared.held.fetch_sub(frames, Relaxed);
            if entry.packets.is_empty() {
                self.retire(shared, at);
                continue;
            }
            if now.saturating_sub(entry.asked) >= ASK_AGAIN && shared.request(neighbour) {
                entry.asked = now;
            }
            at += 1;
        }
    }

    /// Takes out every packet that `which` chooses.
    pub(crate) fn take(
        &mut self,
        shared: &Shared,
        mut which: impl FnMut(&Held) -> bool,
        mut out: impl FnMut(Held),
    ) {
        let mut at = 0;
        while at < self.live {
            let entry = &mut self.entries[at];
            let (before, mut frames) = (entry.packets.len(), 0);
            for packet in entry.packets.extract_if(.., |held| which(held)) {
                frames += packet.frame.parts() as usize;
                out(packet);
            }
            self.packets -= before - entry.packets.len();
            self.frames -= frames;
            shared.held.fetch_sub(frames, Relaxed);
            if entry.packets.is_empty() {
                self.retire(shared, at);
            } else {
                at += 1;
            }
        }
    }

    /// Gives an empty entry back.
    fn retire(&mut self, shared: &Shared, at: usize) {
        self.live -= 1;
        self.entries.swap(at, self.live);
        shared.unresolved.fetch_sub(1, Relaxed);
    }
}

/// Where in `asked` a neighbour stands.
fn slot(neighbour: &NeighbourRequest) -> usize {
    let address = match neighbour.address {
        std::net::IpAddr::V4(address) => u128::from(address.to_bits()),
        std::net::IpAddr::V6(address) => address.to_bits(),
    };
    let mixed = (address ^ (address >> 64)) as u64 ^ (u64::from(neighbour.ifindex) << 32);
    // Knuth's multiplicative hashing: the top bits are the best mixed.
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % ASKED
}
