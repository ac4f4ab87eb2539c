//! Frames of the UMEM as tokens that cannot be copied, and the memory behind them.
//!
//! A frame is in exactly one place at any time: a free list, a fill ring, an RX burst, a hold queue, a hand-over
//! ring, a TX ring or a completion ring. Holding the [`Frame`] is holding the right to touch its bytes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Most UMEM frames of one packet: the longest packet that there is in the smallest frames are 37.
pub const MAX_PARTS: usize = 64;

/// The right to the UMEM frames of one packet. Neither `Clone` nor `Copy`: whoever has it is the only one who has it.
///
/// Nearly all packets lie in one frame. One that is longer lies in several: the token is that of the first, and brings the
/// others along; which these are stands in [`Links`].
///
/// Dropping a token without giving it back to a free list would lose the frame for good, so debug builds count them:
/// see [`lost`].
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost to the UMEM"]
pub struct Frame {
    /// Where the packet starts, in bytes from the start of the UMEM.
    addr: u64,
    /// Bytes of the packet in this frame.
    len: u32,
    next: Next,
}

/// What follows a frame of a packet: how many frames more, and the number of the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Next(u32);

impl Next {
    const NONE: Next = Next(0);
    /// More than a UMEM has frames.
    const CHUNKS: u32 = 1 << 26;

    fn new(more: u32, chunk: u32) -> Self {
        assert!((more as usize) < MAX_PARTS && chunk < Self::CHUNKS);
        Self(more << 26 | chunk)
    }

    #[inline]
    fn more(self) -> u32 {
        self.0 >> 26
    }

    fn chunk(self) -> u32 {
        self.0 & (Self::CHUNKS - 1)
    }
}

impl Frame {
    /// Makes the token of a frame. Only who knows that there is no other token of it may call this: the free list at
    /// the start, and a ring that takes the frame back from the kernel.
    pub(crate) fn claim(addr: u64, len: u32) -> Self {
        Self {
            addr,
            len,
            next: Next::NONE,
        }
    }

    /// Ends the token: the frame is the kernel's, or its UMEM goes away. Not for packets of several frames.
    pub(crate) fn surrender(self) -> (u64, u32) {
        debug_assert!(!self.is_chained());
        let place = (self.addr, self.len);
        std::mem::forget(self);
        place
    }

    /// Where the packet starts, in bytes from the start of the UMEM.
    pub(crate) fn addr(&self) -> u64 {
        self.addr
    }

    /// Bytes of the packet in its first frame.
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn set_len(&mut self, len: u32) {
        self.len = len;
    }

    /// Whether the packet goes on in other frames.
    #[inline]
    pub fn is_chained(&self) -> bool {
        self.next != Next::NONE
    }

    /// Frames of the packet.
    #[inline]
    pub(crate) fn parts(&self) -> u32 {
        1 + self.next.more()
    }
}

/// How the frames of packets that need several hang together: a word for each frame of the UMEM, which says where the
/// packet's bytes are in it and which frame is next. Only that of a frame behind another one means anything.
///
/// Whoever has the token of a packet is the only one to look at the words of its frames; tokens pass from thread to thread
/// through rings that order memory.
#[derive(Debug)]
pub(crate) struct Links {
    words: Box<[AtomicU64]>,
    /// Bytes of a frame: a power of two.
    frame_size: u32,
}

impl Links {
    pub(crate) fn new(frames: u32, frame_size: u32) -> Self {
        assert!(frames <= Next::CHUNKS && frame_size.is_power_of_two() && frame_size <= 1 << 16);
        Self {
            words: (0..frames).map(|_| AtomicU64::new(0)).collect(),
            frame_size,
        }
    }

    /// Makes one packet of frames that nobody else has, each with its place in the UMEM and its bytes.
    ///
    /// # Panics
    /// When there are none or more than [`MAX_PARTS`], or one is outside of the UMEM.
    pub(crate) fn chain(&self, parts: &[(u64, u32)]) -> Frame {
        assert!((1..=MAX_PARTS).contains(&parts.len()));
        let mut next = Next::NONE;
        for (more, &(addr, len)) in parts.iter().rev().enumerate() {
            let chunk = addr / u64::from(self.frame_size);
            if more + 1 == parts.len() {
                break;
            }
            let offset = addr % u64::from(self.frame_size);
            let word = u64::from(next.0) << 32 | offset << 16 | u64::from(len & 0xffff);
            self.words[chunk as usize].store(word, Relaxed);
            next = Next::new(more as u32 + 1, chunk as u32);
        }
        Frame {
            addr: parts[0].0,
            len: parts[0].1,
            next,
        }
    }

    /// Where part number `index` of a packet is, 0 being its first frame, and how many bytes.
    pub(crate) fn part(&self, frame: &Frame, index: usize) -> Option<(u64, u32)> {
        self.walk(frame).nth(index)
    }

    /// All parts of a packet in their order.
    pub(crate) fn walk(&self, frame: &Frame) -> impl Iterator<Item = (u64, u32)> + use<'_> {
        let mut at = Some((frame.addr, frame.len, frame.next));
        std::iter::from_fn(move || {
            let (addr, len, next) = at?;
            at = (next != Next::NONE).then(|| {
                let word = self.words[next.chunk() as usize].load(Relaxed);
                let start = u64::from(next.chunk()) * u64::from(self.frame_size);
                let (offset, len) = (word >> 16 & 0xffff, word & 0xffff);
                (start + offset, len as u32, Next((word >> 32) as u32))
            });
            Some((addr, len))
        })
    }

    /// Cuts a packet behind its first frame; tokens of the others go to `free`.
    pub(crate) fn cut(&self, frame: &mut Frame, free: &mut Vec<Frame>) {
        free.extend(
            self.walk(frame)
                .skip(1)
                .map(|(addr, len)| Frame::claim(addr, len)),
        );
        frame.next = Next::NONE;
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
    /// The packet in its first frame, which for nearly all of them is all of it.
    fn data<'a>(&'a self, frame: &'a Frame) -> &'a [u8];
    /// The packet in its first frame, to be changed in place.
    fn data_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8];
    /// All room of the first frame from the start of the packet; the length stays as it is.
    fn room_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8];
    /// Sets the length of the packet in its first frame, at most the room.
    fn set_len(&mut self, frame: &mut Frame, len: usize);
    /// The packet's bytes in its frame number `index`, 0 being the first; `None` when it has not so many.
    fn part<'a>(&'a self, frame: &'a Frame, index: usize) -> Option<&'a [u8]>;
    /// Cuts the packet behind its first frame; the others go to `free`.
    fn cut(&self, frame: &mut Frame, free: &mut Vec<Frame>);

    /// Bytes that both this frame, from the start of its packet, and any free frame have room for.
    fn room(&self, frame: &Frame) -> usize;

    /// Gives the frames of a packet back.
    #[inline]
    fn release(&self, mut frame: Frame, free: &mut Vec<Frame>) {
        if frame.is_chained() {
            self.cut(&mut frame, free);
        }
        free.push(frame);
    }

    /// The packet's bytes, frame by frame.
    fn parts<'a>(&'a self, frame: &'a Frame) -> impl Iterator<Item = &'a [u8]> {
        (0..).map_while(|index| self.part(frame, index))
    }

    /// Bytes of the packet.
    #[inline]
    fn total(&self, frame: &Frame) -> usize {
        if frame.is_chained() {
            self.parts(frame).map(<[u8]>::len).sum()
        } else {
            self.data(frame).len()
        }
    }
}

/// Frames in ordinary memory, for tests and benchmarks: no kernel is asked.
#[derive(Debug)]
pub struct Buffers {
    bytes: Vec<u8>,
    room: usize,
    links: Links,
}

impl Buffers {
    /// So many frames of `room` bytes each, and their tokens.
    pub fn new(frames: usize, room: usize) -> (Self, Vec<Frame>) {
        let room = room.next_power_of_two();
        let tokens = (0..frames).map(|i| Frame::claim((i * room) as u64, 0)).collect();
        (
            Self {
                bytes: vec![0; frames * room],
                room,
                links: Links::new(frames as u32, room as u32),
            },
            tokens,
        )
    }

    /// Makes one packet of frames: `bytes` is spread over them, `each` bytes in one, as a driver does.
    ///
    /// # Panics
    /// When the frames do not hold it, or are more than [`MAX_PARTS`].
    pub fn spread(&mut self, frames: Vec<Frame>, bytes: &[u8], each: usize) -> Frame {
        let mut parts = Vec::new();
        for (mut frame, piece) in frames.into_iter().zip(bytes.chunks(each)) {
            self.set_len(&mut frame, piece.len());
            self.data_mut(&mut frame).copy_from_slice(piece);
            parts.push(frame.surrender());
        }
        assert_eq!(
            parts.iter().map(|part| part.1 as usize).sum::<usize>(),
            bytes.len()
        );
        self.links.chain(&parts)
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

    fn room(&self, frame: &Frame) -> usize {
        self.room - Self::start(frame) % self.room
    }

    fn part<'a>(&'a self, frame: &'a Frame, index: usize) -> Option<&'a [u8]> {
        let (addr, len) = self.links.part(frame, index)?;
        Some(&self.bytes[addr as usize..][..len as usize])
    }

    fn cut(&self, frame: &mut Frame, free: &mut Vec<Frame>) {
        self.links.cut(frame, free);
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

    #[test]
    fn a_long_packet_lies_in_several_frames_and_comes_apart_again() {
        let (mut memory, mut frames) = Buffers::new(MAX_PARTS, 64);
        // In no order: frames of a packet come from anywhere.
        frames.swap(1, 7);
        let bytes: Vec<u8> = (0..MAX_PARTS * 50 - 3).map(|i| i as u8).collect();
        let mut packet = memory.spread(frames, &bytes, 50);
        assert!(packet.is_chained());
        assert_eq!(
            (packet.parts(), memory.total(&packet)),
            (MAX_PARTS as u32, bytes.len())
        );
        assert_eq!(memory.parts(&packet).collect::<Vec<_>>().concat(), bytes);
        assert_eq!(memory.data(&packet), &bytes[..50]);
        assert_eq!(memory.part(&packet, MAX_PARTS), None);
        let mut free = Vec::new();
        memory.cut(&mut packet, &mut free);
        assert_eq!(
            (packet.parts(), free.len(), memory.total(&packet)),
            (1, MAX_PARTS - 1, 50)
        );
        let mut chunks: Vec<u64> = free.iter().map(|frame| frame.addr() / 64).collect();
        chunks.push(packet.addr() / 64);
        chunks.sort_unstable();
        assert_eq!(
            chunks,
            (0..MAX_PARTS as u64).collect::<Vec<_>>(),
            "each frame once"
        );
        free.into_iter().chain([packet]).for_each(end);
    }
}
