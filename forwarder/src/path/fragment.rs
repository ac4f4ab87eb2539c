//! IPv4 fragmentation (RFC 791 3.2): one frame becomes several.
//!
//! It stands at the very end of a packet's way: lists, routes and counters see the packet once and whole.

use classifier::checksum;
use classifier::packet::{Family, Headers};

use super::{Departure, Kind, Outcome};
use crate::frame::{Frame, Memory};
use crate::reason::Reason;

/// Longest frame that is sent in fragments: the longest IP packet behind an Ethernet header.
const LONGEST: usize = 14 + 65_535;
/// The option "end of options" and the one that does nothing; bit 7 of an option's kind says that each fragment has a
/// copy (RFC 791 3.1).
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const COPIED: u8 = 0x80;
/// More fragments follow (RFC 791 3.1), in the word of flags and offset.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The offset in that word, in units of 8 bytes.
const OFFSET: u16 = 0x1fff;

/// In how many fragments a packet goes over a link of that MTU: 1 when it fits. `None` when it cannot be done: no router
/// fragments IPv6 (RFC 8200 5), and there must be room for 8 bytes of data.
pub(crate) fn count(headers: &Headers, mtu: u32) -> Option<usize> {
    if u32::from(headers.len) <= mtu {
        return Some(1);
    }
    if headers.family == Family::V6 {
        return None;
    }
    let room = room(headers, mtu)?;
    // The last one has all the room that there is.
    let last = mtu as usize - usize::from(headers.l4 - headers.l3);
    Some(headers.l4_len().saturating_sub(last).div_ceil(room) + 1)
}

/// Bytes of data in each fragment but the last: a multiple of 8.
fn room(headers: &Headers, mtu: u32) -> Option<usize> {
    let header = usize::from(headers.l4 - headers.l3);
    let room = (mtu as usize).checked_sub(header)? & !7;
    (room > 0).then_some(room)
}

/// What fragmenting needs to remember of a packet while its frame is overwritten.
#[derive(Debug)]
pub(super) struct Scratch(Box<[u8]>);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(vec![0; LONGEST].into())
    }

    /// Sends a packet in as many fragments as [`plan`] has found. `departure` has the rewritten packet that `headers`
    /// describe, Ethernet header included; its frame becomes the first fragment, and free frames the others.
    pub(super) fn send(
        &mut self,
        mem: &mut impl Memory,
        departure: Departure,
        headers: &Headers,
        (count, room): (usize, usize),
        out: &mut Outcome,
    ) {
        let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
        let packet = &mut self.0[..l3 + usize::from(headers.len)];
        let mut at = 0;
        for part in mem.parts(&departure.frame) {
            let part = &part[..part.len().min(packet.len() - at)];
            packet[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        // The packet may be a fragment itself: then its place is where ours begin, and more may follow the last one.
        let place = place(packet, l3);
        let (offset, more) = (place & OFFSET, place & MORE_FRAGMENTS);

        let Departure {
            mut frame,
            ingress,
            egress,
            hash,
            ..
        } = departure;
        mem.cut(&mut frame, &mut out.free);
        let total = headers.l4_len();
        for number in 0..count {
            let begin = number * room;
            let is_last = number + 1 == count;
            let data = if is_last { total - begin } else { room };
            let len = l4 + data;
            let bytes = mem.room_mut(&mut frame);
            bytes[..l4].copy_from_slice(&packet[..l4]);
            bytes[l4..len].copy_from_slice(&packet[l4 + begin..l4 + begin + data]);
            let more = if is_last { more } else { MORE_FRAGMENTS };
            seal(
                &mut bytes[l3..l4],
                (len - l3) as u16,
                more | (offset + (begin / 8) as u16),
            );
            mem.set_len(&mut frame, len);
            out.tx.push(Departure {
                frame,
                ingress,
                egress,
                hash,
                kind: if is_last { Kind::Transit } else { Kind::Fragment },
                len: len as u32,
            });
            if is_last {
                break;
            }
            if number == 0 && offset == 0 {
                strip(&mut packet[l3 + 20..l4]);
            }
            // `plan` has seen that there are enough.
            let Some(next) = out.free.pop() else { break };
            frame = next;
        }
    }
}

/// In how many fragments of how many bytes of data a packet can be sent now, or the reason why it cannot.
pub(super) fn plan(
    mem: &impl Memory,
    frame: &Frame,
    headers: &Headers,
    mtu: u32,
    out: &Outcome,
) -> Result<(usize, usize), Reason> {
    // Each fragment has one frame, whatever the link would take.
    let mtu = mtu.min(mem.room(frame).saturating_sub(usize::from(headers.l3)) as u32);
    let (start, whole) = (mem.data(frame), mem.total(frame));
    let (Some(count), Some(room)) = (count(headers, mtu), room(headers, mtu)) else {
        return Err(Reason::MtuExceeded);
    };
    let (l3, end) = (
        usize::from(headers.l3),
        usize::from(headers.l3) + usize::from(headers.len),
    );
    // Data beyond byte 65,535 of the whole datagram has no place (RFC 791 3.1): nobody could put it together.
    let is_placed = usize::from(place(start, l3) & OFFSET) + headers.l4_len() / 8 <= usize::from(OFFSET);
    if whole < end || !is_placed {
        return Err(Reason::MtuExceeded);
    }
    if out.free.len() < count - 1 || out.tx.capacity() - out.tx.len() < count {
        return Err(Reason::FragmentNoFrame);
    }
    Ok((count, room))
}

/// The word of flags and offset of the IPv4 header at byte `l3`; 0 where there is none.
fn place(frame: &[u8], l3: usize) -> u16 {
    let word = frame.get(l3 + 6..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |word| u16::from_be_bytes(*word))
}

/// Sets length, flags and offset of a fragment's header, and its checksum.
fn seal(header: &mut [u8], len: u16, place: u16) {
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header[6..8].copy_from_slice(&place.to_be_bytes());
    header[10..12].fill(0);
    let check = !checksum::fold(checksum::sum(header, 0));
    header[10..12].copy_from_slice(&check.to_be_bytes());
}

/// Takes the options that are for the first fragment only out of the others. Others take their place, so that all headers
/// are of one length, as the kernel does (ip_options_fragment in net/ipv4/ip_options.c).
fn strip(mut options: &mut [u8]) {
    while let [kind, rest @ ..] = options {
        let len = match *kind {
            END_OF_OPTIONS => return,
            NO_OPERATION => 1,
            _ => rest.first().map_or(0, |len| usize::from(*len)),
        };
        // A header whose options do not fit is never sent on.
        if len == 0 || len > options.len() {
            return;
        }
        let (option, behind) = options.split_at_mut(len);
        if option[0] & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        options = behind;
    }
}
