//! Packets in several frames (`XDP_USE_SG`): each frame has an entry of its own in the rings, and all but the last one say
//! that the packet goes on. Nearly no packet comes here.

use super::Queue;
use crate::frame::{Frame, MAX_PARTS};
use crate::ring::Desc;

/// What has been read of a packet whose last frame has not.
#[derive(Debug)]
pub(super) struct Partial {
    begun: bool,
    /// A frame of it made no sense, or there are more than a packet may have.
    spoilt: bool,
    len: usize,
    parts: [(u64, u32); MAX_PARTS],
}

impl Partial {
    pub(super) fn new() -> Self {
        Self {
            begun: false,
            spoilt: false,
            len: 0,
            parts: [(0, 0); MAX_PARTS],
        }
    }

    #[inline]
    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    /// Frames that have been read.
    pub(super) fn len(&self) -> u32 {
        self.len as u32
    }

    /// Gives the frames that have been read.
    pub(super) fn frames(&self) -> impl Iterator<Item = Frame> {
        let parts = self.parts[..self.len].iter();
        parts.map(|&(addr, len)| Frame::claim(addr, len))
    }
}

impl Queue {
    /// Takes one frame of a packet that has several. With the last one the packet is put together; one that the kernel has
    /// made nonsense of comes out empty, with the frames that were really there, and is dropped as such.
    #[cold]
    pub(super) fn receive_part(&mut self, desc: Desc, out: &mut Vec<Frame>) {
        let partial = &mut self.partial;
        partial.begun = true;
        let inside = self.umem.contains(desc.addr, desc.len) && partial.len < MAX_PARTS;
        match self.umem.chunk(desc.addr) {
            Some(chunk) if inside && self.given.remove(chunk) => {
                partial.parts[partial.len] = (desc.addr, desc.len);
                partial.len += 1;
            }
            _ => {
                self.nonsense += 1;
                partial.spoilt = true;
            }
        }
        if desc.goes_on() {
            return;
        }
        if partial.len > 0 {
            let mut packet = self.umem.links().chain(&partial.parts[..partial.len]);
            if partial.spoilt {
                packet.set_len(0);
            }
            out.push(packet);
        }
        (partial.begun, partial.spoilt, partial.len) = (false, false, 0);
    }

    /// Puts the frames of a packet on the TX ring, which must have room for all of them.
    #[cold]
    pub(super) fn send_parts(&mut self, frame: Frame) {
        let last = frame.parts() as usize - 1;
        let umem = self.umem.clone();
        for (at, (addr, len)) in umem.links().walk(&frame).enumerate() {
            let options = if at < last { libc::XDP_PKT_CONTD } else { 0 };
            self.put(Desc { addr, len, options });
        }
        // The kernel has all of it.
        std::mem::forget(frame);
    }
}
