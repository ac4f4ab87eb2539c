//! Frames of the UMEM as tokens that cannot be copied, and the memory behind them.
//!
//! A frame is in exactly one place at any time: a free list, a fill ring, an RX burst, a hold queue, a hand-over
//! ring, a TX ring or a completion ring. Holding the [`Frame`] is holding the right to touch its bytes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The right to one UMEM frame. Neither `Clone` nor `Copy`: whoever has it is the only one who has it.
///
/// Dropping a token without giving it back to a free list would lose the frame for good, so debug builds count them:
/// see [`lost`].
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost to the UMEM"]
pub struct Frame {
    /// Where the packet starts, in bytes from the start of the UMEM.
    addr: u64,
    /// The packet's length in bytes.
    len: u32,
}

impl Frame {
    /// Makes the token of a frame. Only who knows that there is no other token of it may call this: the free list at
    /// the start, and a ring that takes the frame back from the kernel.
    pub(crate) fn claim(addr: u64, len: u32) -> Self {
        Self { addr, len }
    }

    /// Ends the token: the frame is the kernel's, or its UMEM goes away.
    pub(crate) fn surrender(self) -> (u64, u32) {
        let place = (self.addr, self.len);
        std::mem::forget(self);
        place
    }

    /// Where the packet starts, in bytes from the start of the UMEM.
    pub(crate) fn addr(&self) -> u64 {
        self.addr
    }

    /// Bytes of the packet in it.
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn set_len(&mut self, len: u32) {
        self.len = len;
    }
}

static LOST: AtomicU64 = AtomicU64::new(0);

#[cfg(debug_assertions)]
impl Drop for Frame {
    fn drop(&mut self) {
        LOST.fetch_add(1, Relaxed);
    }
}

/// Tokens that were dropped instead of being given back, since the process started. Always 0 in release builds, which
/// do not count.
pub fn lost() -> u64 {
    LOST.load(Relaxed)
}

/// The bytes behind frames. The UMEM implements it for workers, a vector of buffers for tests and benchmarks.
pub trait Memory {
    /// The packet in the frame.
    fn data<'a>(&'a self, frame: &'a Frame) -> &'a [u8];
    /// The packet in the frame, to be changed in place.
    fn data_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8];
    /// All room from the start of the packet to the end of the chunk; the length stays as it is.
    fn room_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8];
    /// Sets the packet's length, at most the room.
    fn set_len(&mut self, frame: &mut Frame, len: usize);
}

/// Frames in ordinary memory, for tests and benchmarks: no kernel is asked.
#[derive(Debug)]
pub struct Buffers {
    bytes: Vec<u8>,
    room: usize,
}

impl Buffers {
    /// So many frames of `room` bytes each, and their tokens.
    pub fn new(frames: usize, room: usize) -> (Self, Vec<Frame>) {
        let tokens = (0..frames).map(|i| Frame::claim((i * room) as u64, 0)).collect();
        (
            Self {
                bytes: vec![0; frames * room],
                room,
            },
            tokens,
        )
    }

    fn start(frame: &Frame) -> usize {
        frame.addr as usize
    }
}

impl Memory for Buffers {
    fn data<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        &self.bytes[Self::start(frame)..][..frame.len()]
    }

    fn data_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        &mut self.bytes[Self::start(frame)..][..frame.len()]
    }

    fn room_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        &mut self.bytes[Self::start(frame)..][..self.room]
    }

    fn set_len(&mut self, frame: &mut Frame, len: usize) {
        frame.len = len.min(self.room) as u32;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Ends the token of a frame whose memory goes away.
    pub(crate) fn end(frame: Frame) {
        let _ = frame.surrender();
    }

    #[test]
    fn a_frame_keeps_its_bytes_and_length() {
        let (mut memory, mut frames) = Buffers::new(2, 2048);
        let (mut second, mut first) = (frames.pop().unwrap(), frames.pop().unwrap());
        memory.set_len(&mut first, 3);
        memory.data_mut(&mut first).copy_from_slice(b"abc");
        memory.room_mut(&mut second)[2047] = 7;
        memory.set_len(&mut second, 1 << 20);
        assert_eq!(memory.data(&first), b"abc");
        assert_eq!(memory.data(&second).len(), 2048, "never longer than the room");
        assert_eq!(memory.data(&second)[2047], 7);
        let _ = (first.surrender(), second.surrender());
    }
}
