//! The memory of all frames: one area for the node, registered with the kernel by every port that uses it.

// Why unsafe is needed: the area is mapped memory that the kernel and several workers access at the same time, frame
// by frame; a token says whose turn it is.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::frame::{Frame, Links, MAX_PARTS, Memory};

/// The kernel leaves so many bytes before a packet free (`XDP_PACKET_HEADROOM`).
pub(crate) const HEADROOM: u32 = 256;

/// The mapped area.
#[derive(Debug)]
struct Area {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the area is plain memory; who may touch which part of it is decided by frame tokens.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: mapped by `Umem::new` with this length; every user of it holds the `Arc` that is gone now.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A handle on the memory of all frames. Clones are handles on the same memory.
#[derive(Debug, Clone)]
pub(crate) struct Umem {
    area: Arc<Area>,
    links: Arc<Links>,
    frame_size: u32,
    frames: u32,
}

impl Umem {
    /// Maps memory for so many frames of `frame_size` bytes, a power of two, and gives the token of each.
    pub(crate) fn new(frames: u32, frame_size: u32) -> io::Result<(Self, Vec<Frame>)> {
        assert!(frame_size.is_power_of_two() && frame_size > HEADROOM);
        let len = frames as usize * frame_size as usize;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping was just made. Larger pages spare TLB misses; where there are none nothing is lost, so
        // the answer does not matter.
        unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
        let start = NonNull::new(start.cast::<u8>()).expect("the kernel never maps at address 0 unasked");
        let umem = Self {
            area: Arc::new(Area { start, len }),
            links: Arc::new(Links::new(frames, frame_size)),
            frame_size,
            frames,
        };
        let tokens = (0..frames).map(|chunk| umem.claim_chunk(chunk)).collect();
        Ok((umem, tokens))
    }

    /// Address and length in bytes of the area, to register it.
    pub(crate) fn area(&self) -> (u64, u64) {
        (self.area.start.as_ptr() as u64, self.area.len as u64)
    }

    /// Bytes of a frame.
    pub(crate) fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// All frames.
    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// The number of the frame that an address lies in; `None` when it is outside the area.
    #[inline]
    pub(crate) fn chunk(&self, addr: u64) -> Option<u32> {
        let chunk = addr >> self.frame_size.trailing_zeros();
        (chunk < u64::from(self.frames)).then_some(chunk as u32)
    }

    /// The token of a frame that nobody else has, for a packet that starts behind the headroom.
    pub(crate) fn claim_chunk(&self, chunk: u32) -> Frame {
        assert!(chunk < self.frames);
        Frame::claim(
            u64::from(chunk) * u64::from(self.frame_size) + u64::from(HEADROOM),
            0,
        )
    }

    /// Frame by frame, how packets lie in it.
    #[inline]
    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    /// Bytes of a packet that one frame holds behind the headroom.
    pub(crate) fn capacity(&self) -> u32 {
        self.frame_size - HEADROOM
    }

    /// Moves the bytes of a packet together, so that it lies in as few frames as can be; the others go to `free`. Cold:
    /// for a packet whose driver has spread it over more frames than the device that it leaves by takes.
    #[cold]
    pub(crate) fn compact(&self, frame: &mut Frame, free: &mut Vec<Frame>) {
        let mut to = [(0, 0); MAX_PARTS];
        let parts = frame.parts() as usize;
        for (to, (addr, _)) in to.iter_mut().zip(self.links.walk(frame)) {
            to.0 = addr;
        }
        let mut at = 0;
        for (addr, len) in self.links.walk(frame) {
            let mut moved = 0;
            while moved < len {
                let room = self.room_at(to[at].0) as u32 - to[at].1;
                let step = room.min(len - moved);
                if step == 0 {
                    at += 1;
                    continue;
                }
                // SAFETY: both places lie inside frames of this packet, which is ours alone: `room_at` bounds the one, the
                // driver's length, checked when it was received, the other. They may overlap, and bytes only move forward
                // in the packet, to places that were read before.
                unsafe {
                    let base = self.area.start.as_ptr();
                    let source = base.add((addr + u64::from(moved)) as usize);
                    let target = base.add((to[at].0 + u64::from(to[at].1)) as usize);
                    std::ptr::copy(source, target, step as usize);
                }
                to[at].1 += step;
                moved += step;
            }
        }
        let used = to.iter().filter(|part| part.1 > 0).count().max(1);
        let whole = self.links.chain(&to[..used]);
        free.extend(to[used..parts].iter().map(|&(addr, _)| Frame::claim(addr, 0)));
        std::mem::forget(std::mem::replace(frame, whole));
    }

    /// Whether a packet lies inside one frame.
    #[inline]
    pub(crate) fn contains(&self, addr: u64, len: u32) -> bool {
        let offset = addr & u64::from(self.frame_size - 1);
        self.chunk(addr).is_some() && offset + u64::from(len) <= u64::from(self.frame_size)
    }

    /// Bytes from the start of the packet to the end of its frame.
    #[inline]
    fn space(&self, frame: &Frame) -> usize {
        self.room_at(frame.addr())
    }

    /// Bytes from an address to the end of the frame that it lies in.
    #[inline]
    fn room_at(&self, addr: u64) -> usize {
        (u64::from(self.frame_size) - (addr & u64::from(self.frame_size - 1))) as usize
    }

    /// Where the packet starts, and its length cut to the frame's room.
    #[inline]
    fn place(&self, frame: &Frame) -> (*mut u8, usize) {
        self.place_at(frame.addr(), frame.len())
    }

    /// Where bytes of a packet start, and how many, cut to the room of their frame.
    #[inline]
    fn place_at(&self, addr: u64, len: usize) -> (*mut u8, usize) {
        assert!(self.chunk(addr).is_some(), "a frame of another UMEM");
        // SAFETY: inside the area: the frame's chunk is, as just checked.
        let start = unsafe { self.area.start.as_ptr().add(addr as usize) };
        (start, len.min(self.room_at(addr)))
    }
}

impl Memory for Umem {
    #[inline]
    fn data<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        let (start, len) = self.place(frame);
        // SAFETY: inside one frame (`place`), which is ours alone as long as the token lives: the kernel has it only
        // while it has the token, and there is one token of each frame.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    #[inline]
    fn data_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        let (start, len) = self.place(frame);
        // SAFETY: as `data`; the exclusive borrow of the token makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    #[inline]
    fn room_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        let (start, _) = self.place(frame);
        let room = self.space(frame);
        // SAFETY: as `data_mut`; the room ends with the frame.
        unsafe { std::slice::from_raw_parts_mut(start, room) }
    }

    #[inline]
    fn set_len(&mut self, frame: &mut Frame, len: usize) {
        frame.set_len(len.min(self.space(frame)) as u32);
    }

    fn room(&self, frame: &Frame) -> usize {
        self.room_at(frame.addr()).min(self.capacity() as usize)
    }

    fn part<'a>(&'a self, frame: &'a Frame, index: usize) -> Option<&'a [u8]> {
        let (addr, len) = self.links.part(frame, index)?;
        let (start, len) = self.place_at(addr, len as usize);
        // SAFETY: as `data`: the packet's token stands for all of its frames.
        Some(unsafe { std::slice::from_raw_parts(start, len) })
    }

    fn cut(&self, frame: &mut Frame, free: &mut Vec<Frame>) {
        self.links.cut(frame, free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_do_not_overlap_and_end_where_they_should() {
        let (mut umem, mut frames) = Umem::new(4, 2048).unwrap();
        for (i, frame) in frames.iter_mut().enumerate() {
            assert_eq!(umem.room_mut(frame).len(), 2048 - 256);
            umem.room_mut(frame).fill(i as u8);
            umem.set_len(frame, 1 << 20);
        }
        for (i, frame) in frames.iter().enumerate() {
            assert_eq!(umem.data(frame).len(), 2048 - 256);
            assert!(umem.data(frame).iter().all(|&byte| byte == i as u8));
            assert_eq!(umem.chunk(frame.addr()), Some(i as u32));
        }
        assert!(umem.contains(2048, 2048));
        assert!(!umem.contains(2048, 2049), "past the frame's end");
        assert!(!umem.contains(4 * 2048, 1), "past the area's end");
        assert_eq!(umem.chunk(4 * 2048), None);
        frames.into_iter().for_each(crate::frame::tests::end);
    }

    #[test]
    fn a_packet_is_moved_together() {
        for (pieces, left) in [
            (&[1, 1, 1][..], 1),
            (&[1000, 1000, 1000], 2),
            (&[1792, 1792, 5], 3),
            (&[100, 1792, 1792, 0], 3),
            (&[1792], 1),
        ] {
            let (umem, mut frames) = Umem::new(4, 2048).unwrap();
            let mut umem_mut = umem.clone();
            let mut bytes = Vec::new();
            let mut parts = Vec::new();
            for (i, &len) in pieces.iter().enumerate() {
                let mut frame = frames.pop().unwrap();
                umem_mut.set_len(&mut frame, len);
                for (at, byte) in umem_mut.data_mut(&mut frame).iter_mut().enumerate() {
                    *byte = (at * 7 + i) as u8;
                }
                bytes.extend_from_slice(umem.data(&frame));
                parts.push(frame.surrender());
            }
            let mut packet = umem.links().chain(&parts);
            umem.compact(&mut packet, &mut frames);
            assert_eq!(
                (packet.parts(), frames.len()),
                (left, 4 - left as usize),
                "{pieces:?}"
            );
            assert_eq!(
                umem.parts(&packet).collect::<Vec<_>>().concat(),
                bytes,
                "{pieces:?}"
            );
            umem.release(packet, &mut frames);
            assert_eq!(frames.len(), 4);
            frames.into_iter().for_each(crate::frame::tests::end);
        }
    }
}
