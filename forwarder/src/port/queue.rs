//! One (port, queue) pair as its worker sees it: four rings, and account of the frames that are in them.

mod chained;

use chained::Partial;

use crate::frame::Frame;
use crate::port::chunks::ChunkSet;
use crate::port::socket::{Kick, RING, Rings, Socket};
use crate::ring::{Consumer, Desc, Producer};
use crate::settings::PortId;
use crate::umem::Umem;

/// Frames that every queue is given to receive into, whatever else is going on.
pub(crate) const BASE_FILL: u32 = 32;

/// Rings and frames of one queue. One worker owns it; it goes back to the control thread to be closed.
pub(crate) struct Queue {
    port: PortId,
    number: u32,
    socket: Socket,
    zerocopy: bool,
    sends: bool,
    /// Frames of one packet that the kernel takes to send.
    most_parts: u32,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    rx: Consumer<Desc>,
    tx: Producer<Desc>,
    umem: Umem,
    /// Frames in any of the rings, and in the kernel between them.
    given: ChunkSet,
    /// Of these, given to send.
    sending: u32,
    /// Frames to keep in the kernel to receive into.
    level: u32,
    /// The fewest that were left in the kernel since the level was last looked at.
    low: u32,
    /// Frames on the TX ring that the kernel has not been told of.
    unkicked: u32,
    /// Descriptors from the kernel that made no sense.
    nonsense: u64,
    /// A packet of which not all frames have been read from the RX ring.
    partial: Partial,
}

/// What can be done with a queue, beside receiving.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    /// The device writes into the UMEM itself.
    pub(crate) zerocopy: bool,
    /// Packets can be sent by it: a device may have fewer TX queues than RX queues.
    pub(crate) sends: bool,
    /// Frames of one packet: 1 without multi-buffer mode.
    pub(crate) most_parts: u32,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("port", &self.port)
            .field("number", &self.number)
            .field("receiving", &self.receiving())
            .field("sending", &self.sending)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Queue {
    /// A queue whose rings are still empty.
    pub(crate) fn new(
        port: PortId,
        number: u32,
        (socket, rings): (Socket, Rings),
        traits: Traits,
        umem: &Umem,
    ) -> Self {
        Self {
            port,
            number,
            socket,
            zerocopy: traits.zerocopy,
            sends: traits.sends,
            most_parts: traits.most_parts,
            fill: rings.fill,
            completion: rings.completion,
            rx: rings.rx,
            tx: rings.tx,
            umem: umem.clone(),
            given: ChunkSet::new(umem.frames()),
            sending: 0,
            level: BASE_FILL,
            low: BASE_FILL,
            unkicked: 0,
            nonsense: 0,
            partial: Partial::new(),
        }
    }

    /// The port that the queue is of.
    pub(crate) fn port(&self) -> PortId {
        self.port
    }

    /// The queue's number on its device.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Whether packets can be sent by it: a device may have fewer TX queues than RX queues.
    pub(crate) fn sends(&self) -> bool {
        self.sends
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Frames in the kernel to receive into, received ones that wait in the RX ring included.
    pub(crate) fn receiving(&self) -> u32 {
        self.given.len() - self.sending + self.partial.len()
    }

    /// Frames in the kernel to be sent, and those sent that were not yet taken back.
    pub(crate) fn sending(&self) -> u32 {
        self.sending
    }

    /// Frames to keep in the kernel to receive into.
    pub(crate) fn level(&self) -> u32 {
        self.level
    }

    /// Whether packets wait in the RX ring.
    #[inline]
    pub(crate) fn has_received(&mut self) -> bool {
        self.rx.available(1) > 0
    }

    /// Takes received packets from the RX ring, in order: up to `most` entries of it, of which packets in several frames
    /// need one each. Returns how many were taken.
    #[inline]
    pub(crate) fn receive(&mut self, most: u32, out: &mut Vec<Frame>) -> u32 {
        let waiting = self.rx.available(RING);
        let count = waiting.min(most);
        for _ in 0..count {
            let Some(desc) = self.rx.pop() else { break };
            if desc.goes_on() || self.partial.is_begun() {
                self.receive_part(desc, out);
                continue;
            }
            match self.umem.chunk(desc.addr) {
                Some(chunk) if self.umem.contains(desc.addr, desc.len) && self.given.remove(chunk) => {
                    out.push(Frame::claim(desc.addr, desc.len));
                }
                // A frame that the kernel was not given: taking it would make a second token.
                _ => self.nonsense += 1,
            }
        }
        if count > 0 {
            self.rx.release();
            // What was left for the kernel before this burst made room.
            self.low = self.low.min((self.receiving() + count).saturating_sub(waiting));
        }
        count
    }

    /// Whether [`send`](Self::send) would take the packet: the TX ring has room, and there is something to send (an
    /// empty packet is an invalid descriptor, which the kernel skips and never completes).
    #[inline]
    pub(crate) fn accepts(&mut self, frame: &Frame) -> bool {
        self.tx.room(frame.parts()) >= frame.parts() && frame.len() > 0
    }

    /// Frames of one packet that the kernel takes to send.
    #[inline]
    pub(crate) fn most_parts(&self) -> u32 {
        self.most_parts
    }

    /// Puts a packet on the TX ring, which must [accept](Self::accepts) it. The kernel sends it with the next
    /// [`kick`](Self::kick).
    #[inline]
    pub(crate) fn send(&mut self, frame: Frame) {
        if frame.is_chained() {
            return self.send_parts(frame);
        }
        let (addr, len) = frame.surrender();
        self.put(Desc {
            addr,
            len,
            options: 0,
        });
    }

    #[inline]
    fn put(&mut self, desc: Desc) {
        let chunk = self.umem.chunk(desc.addr).expect("frames are of the one UMEM");
        let pushed = self.tx.push(desc);
        let new = self.given.insert(chunk);
        debug_assert!(pushed && new, "frame {chunk}: room {pushed}, new {new}");
        self.sending += 1;
        self.unkicked += 1;
    }

    /// Frames on the TX ring that the kernel has not been told of.
    #[inline]
    pub(crate) fn unkicked(&self) -> u32 {
        self.unkicked
    }

    /// Frames on the TX ring that the kernel has not taken.
    #[inline]
    pub(crate) fn unsent(&mut self) -> u32 {
        if self.sending == 0 {
            0
        } else {
            self.tx.outstanding()
        }
    }

    /// Has the kernel send what is on the TX ring.
    #[inline]
    pub(crate) fn kick(&mut self) -> Kick {
        self.tx.publish();
        self.unkicked = 0;
        if !self.tx.needs_wakeup() {
            return Kick::Done;
        }
        self.socket.kick_tx()
    }

    /// Takes sent frames back.
    #[inline]
    pub(crate) fn complete(&mut self, free: &mut Vec<Frame>) -> u32 {
        if self.sending == 0 {
            return 0;
        }
        let count = self.completion.available(RING);
        for _ in 0..count {
            let Some(addr) = self.completion.pop() else { break };
            match self.umem.chunk(addr) {
                Some(chunk) if self.given.remove(chunk) => {
                    self.sending = self.sending.saturating_sub(1);
                    free.push(self.umem.claim_chunk(chunk));
                }
                _ => self.nonsense += 1,
            }
        }
        if count > 0 {
            self.completion.release();
        }
        count
    }

    /// Gives frames to the kernel to receive into, up to the queue's level or as many as `free` has.
    #[inline]
    pub(crate) fn refill(&mut self, free: &mut Vec<Frame>) {
        let want = self.level.saturating_sub(self.receiving());
        // A few at a time is not worth touching the shared ring for, unless it runs dry.
        if want == 0 || (want < 16 && want * 2 < self.level) {
            return;
        }
        let mut given = 0;
        while given < want {
            let Some(frame) = free.pop() else { break };
            let Some(chunk) = self.umem.chunk(frame.addr()) else {
                continue;
            };
            if !self.fill.push(frame.addr()) {
                free.push(frame);
                break;
            }
            self.given.insert(chunk);
            let _ = frame.surrender();
            given += 1;
        }
        if given > 0 {
            self.fill.publish();
            if self.zerocopy && self.fill.needs_wakeup() {
                self.socket.kick_rx();
            }
        }
    }

    /// Whether traffic comes near to emptying what the kernel has to receive into.
    #[inline]
    pub(crate) fn is_pressed(&self) -> bool {
        self.low < self.level / 2 && self.level < RING
    }

    /// Doubles the level, but raises it by at most `budget` frames; returns by how many.
    pub(crate) fn grow(&mut self, budget: u32) -> u32 {
        self.raise(self.level * 2, budget)
    }

    /// Raises the level to `to`, but by at most `budget` frames; returns by how many.
    pub(crate) fn raise(&mut self, to: u32, budget: u32) -> u32 {
        let by = to.min(RING).saturating_sub(self.level).min(budget);
        self.level += by;
        self.low = self.level;
        by
    }

    /// Lowers the level if traffic since the last call never took a quarter of it; returns by how much. What the
    /// kernel has already stays there until packets use it up.
    pub(crate) fn relax(&mut self) -> u32 {
        let quiet = self.low >= self.level - self.level / 4;
        self.low = self.receiving();
        if !quiet || self.level <= BASE_FILL {
            return 0;
        }
        let by = (self.level / 2).min(self.level - BASE_FILL);
        self.level -= by;
        by
    }

    /// Descriptors from the kernel that made no sense.
    pub(crate) fn nonsense(&self) -> u64 {
        self.nonsense
    }

    /// Closes the socket and gives back the frames that were in its rings or in the kernel between them.
    ///
    /// Whoever else holds the socket must have dropped it, or the kernel still writes into these frames. In zero-copy
    /// mode the device goes on doing so until the kernel has taken its queue away, some time after the close.
    pub(crate) fn close(self) -> Vec<Frame> {
        let Queue {
            given,
            umem,
            socket,
            fill,
            completion,
            rx,
            tx,
            partial,
            ..
        } = self;
        drop(socket);
        drop((fill, completion, rx, tx));
        let given = given.iter().map(|chunk| umem.claim_chunk(chunk));
        given.chain(partial.frames()).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
