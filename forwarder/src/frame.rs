//! Frames of the UMEM as tokens that cannot be copied, and the memory behind them.
//!
//! A frame is in exactly one place at any time: a free list, a fill ring, an RX burst, a hold queue, a hand-over
//! ring, a TX ring or a completion ring. Holding the [`Frame`] is holding the right to touch its bytes.

use xsk_rs::umem::frame::FrameDesc;

/// The right to one UMEM frame. Neither `Clone` nor `Copy`: whoever has it is the only one who has it.
///
/// Dropping a token without giving it back to a free list would lose the frame for good, so debug builds count them.
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost to the UMEM"]
pub struct Frame {
    pub(crate) desc: FrameDesc,
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
