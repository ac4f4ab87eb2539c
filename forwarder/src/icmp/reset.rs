//! TCP resets for connections that an access list rejects: the sender learns at once that nobody listens.

use classifier::checksum;
use classifier::packet::{Family, Headers};

use super::{v4, v6};

/// Bytes of a TCP header without options.
pub(super) const TCP: usize = 20;
/// TCP flags (RFC 9293 3.1).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Writes a reset about the TCP segment at the start of `room` over it, as the receiver would if it did not know the
/// connection (RFC 9293 3.10.7.1). Returns where its TCP header begins and where it ends, in bytes from the start of
/// the frame.
pub(super) fn reset(room: &mut [u8], about: &Headers, to: &Headers, id: u16) -> Option<(usize, usize)> {
    let segment = room.get(about.l4 as usize..about.l3 as usize + about.len as usize)?;
    let fixed = segment.first_chunk::<TCP>()?;
    let word = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let (seq, ack) = (word(4), word(8));
    let flags = fixed[13];
    let data = segment.len().saturating_sub(usize::from(fixed[12] >> 4) * 4) as u32;
    let (seq, ack, flags) = if flags & ACK != 0 {
        (ack, 0, RST)
    } else {
        let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        (0, seq.wrapping_add(data).wrapping_add(controls), RST | ACK)
    };

    let l3 = about.l3 as usize;
    let l4 = l3
        + if about.family == Family::V4 {
            v4::IP
        } else {
            v6::IP
        };
    let end = l4 + TCP;
    let tcp = room.get_mut(l4..end)?;
    tcp[0..2].copy_from_slice(&to.sport.to_be_bytes());
    tcp[2..4].copy_from_slice(&to.dport.to_be_bytes());
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[12] = (TCP as u8 / 4) << 4;
    tcp[13] = flags;
    tcp[14..20].fill(0);
    let check = checksum::transport(to, tcp);
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    match about.family {
        Family::V4 => v4::header(&mut room[l3..l4], to, 0, (v4::IP + TCP) as u16, id),
        Family::V6 => v6::header(&mut room[l3..l4], to, TCP as u16),
    }
    Some((l4, end))
}
