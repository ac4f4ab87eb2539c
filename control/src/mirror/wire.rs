//! The framing of netlink: headers and attributes, read from bytes that are not trusted and written for requests.
//!
//! Everything is read by hand: a full table is a million messages, and going through owned values for each attribute
//! would cost more than all the rest. Layouts are those of `linux/netlink.h` and `linux/rtnetlink.h`; numbers are in
//! the machine's byte order, addresses in that of the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The kernel aligns messages and attributes to four bytes.
const ALIGN: usize = 4;
/// Length of `struct nlmsghdr`.
pub const HEADER: usize = 16;

/// The end of a dump.
pub const NLMSG_DONE: u16 = 3;
/// An error, or an acknowledgement when its code is 0.
pub const NLMSG_ERROR: u16 = 2;
/// The kernel lost something that was meant for this socket.
pub const NLMSG_OVERRUN: u16 = 4;

/// This is a request.
pub const NLM_F_REQUEST: u16 = 0x01;
/// What the dump walked over has changed meanwhile: the dump is not consistent.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
/// Request: dump everything.
pub const NLM_F_DUMP: u16 = 0x300;
/// Notification: what is there was replaced.
pub const NLM_F_REPLACE: u16 = 0x100;
/// Request: create what is not there.
pub const NLM_F_CREATE: u16 = 0x400;
/// Notification: it was added behind its equals.
pub const NLM_F_APPEND: u16 = 0x800;

/// Bytes that are no sensible netlink message: what was being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message: {0}")]
pub struct Malformed(pub &'static str);

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// `RTM_…` or `NLMSG_…`.
    pub kind: u16,
    /// `NLM_F_…`.
    pub flags: u16,
    /// Sequence number of the request that it answers.
    pub seq: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The messages of a datagram.
#[derive(Debug)]
pub struct Packets<'a>(pub &'a [u8]);

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = self.0;
        // Whatever is wrong, nothing behind it can be found any more.
        self.0 = &[];
        let Some(len) = u32_at(bytes, 0).map(|len| len as usize) else {
            return Some(Err(Malformed("header cut short")));
        };
        if len < HEADER || len > bytes.len() {
            return Some(Err(Malformed("message length")));
        }
        self.0 = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        Some(Ok(Packet {
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            seq: u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            payload: &bytes[HEADER..len],
        }))
    }
}

/// The attributes of a message: type without its flag bits, and value.
#[derive(Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.0;
        // Padding behind the last attribute is not one.
        if bytes.len() < 4 {
            self.0 = &[];
            return None;
        }
        let len = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff;
        if len < 4 || len > bytes.len() {
            self.0 = &[];
            return Some(Err(Malformed("attribute length")));
        }
        self.0 = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        Some(Ok((kind, &bytes[4..len])))
    }
}

/// The byte at an offset.
pub fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// The number at an offset, in the machine's order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The number at an offset, in the machine's order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An attribute that is a number of four bytes.
pub fn number(value: &[u8]) -> Result<u32, Malformed> {
    u32_at(value, 0).ok_or(Malformed("number cut short"))
}

/// An attribute that is an address; its length says of which family.
pub fn address(value: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(four) = <[u8; 4]>::try_from(value) {
        Ok(IpAddr::V4(Ipv4Addr::from(four)))
    } else if let Ok(sixteen) = <[u8; 16]>::try_from(value) {
        Ok(IpAddr::V6(Ipv6Addr::from(sixteen)))
    } else {
        Err(Malformed("address length"))
    }
}

/// Appends an attribute to a request.
pub fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = (value.len() + 4) as u16;
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

/// A request: header, family-specific header, attributes.
pub fn request(kind: u16, flags: u16, seq: u32, body: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    for (kind, value) in attributes {
        put(&mut out, *kind, value);
    }
    let len = out.len() as u32;
    out[0..4].copy_from_slice(&len.to_ne_bytes());
    out[4..6].copy_from_slice(&kind.to_ne_bytes());
    out[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    out[8..12].copy_from_slice(&seq.to_ne_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back() {
        let bytes = request(
            26,
            NLM_F_DUMP,
            7,
            &[2, 0, 0],
            &[(15, &254u32.to_ne_bytes()), (1, &[1, 2, 3])],
        );
        let packets: Vec<_> = Packets(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(packets.len(), 1);
        assert_eq!((packets[0].kind, packets[0].seq), (26, 7));
        assert_eq!(packets[0].flags, NLM_F_DUMP | NLM_F_REQUEST);
        let attributes: Vec<_> = Attributes(&packets[0].payload[4..])
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(attributes, [(15, &254u32.to_ne_bytes()[..]), (1, &[1, 2, 3][..])]);
    }

    #[test]
    fn bad_lengths_end_the_datagram() {
        for len in [0u32, 15, 17] {
            let mut bytes = request(26, 0, 1, &[], &[]);
            bytes[0..4].copy_from_slice(&len.to_ne_bytes());
            let read: Vec<_> = Packets(&bytes).collect();
            assert_eq!(read, [Err(Malformed("message length"))], "length {len}");
        }
        assert_eq!(
            Packets(&[1, 2, 3]).next(),
            Some(Err(Malformed("header cut short")))
        );
        assert_eq!(
            Attributes(&[3, 0, 1, 0]).next(),
            Some(Err(Malformed("attribute length")))
        );
        assert_eq!(
            Attributes(&[9, 0, 1, 0, 0, 0, 0, 0]).next(),
            Some(Err(Malformed("attribute length")))
        );
    }
}
