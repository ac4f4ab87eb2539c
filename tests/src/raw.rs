//! Frames made by hand, for what no ordinary program would send.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::sys::PacketSocket;

/// A MAC address.
pub type Mac = [u8; 6];

/// A device of a host, opened for whole frames.
pub struct Wire(PacketSocket);

impl Wire {
    /// Opens `device` of `host`.
    ///
    /// # Panics
    /// When it cannot be opened.
    #[track_caller]
    pub fn open(host: &Host, device: &str) -> Self {
        let socket = host.enter(|| PacketSocket::open(device));
        Self(socket.unwrap_or_else(|error| panic!("{device} of {}: {error}", host.name())))
    }

    /// Sends one frame.
    ///
    /// # Panics
    /// When the kernel does not take it.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        self.0.send(frame).expect("the kernel takes the frame");
    }

    /// The first frame within `limit` that `wanted` says yes to.
    ///
    /// # Panics
    /// When the device goes away.
    pub fn find(&self, limit: Duration, mut wanted: impl FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + limit;
        loop {
            let left = end.checked_duration_since(Instant::now())?;
            let frame = self.0.receive(left).expect("the device stays up")?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// How many frames that `wanted` says yes to have come in and can be read without waiting.
    ///
    /// # Panics
    /// When the device goes away.
    pub fn count(&self, mut wanted: impl FnMut(&[u8]) -> bool) -> usize {
        let mut seen = 0;
        while let Some(frame) = self.0.receive(Duration::ZERO).expect("the device stays up") {
            seen += usize::from(wanted(&frame));
        }
        seen
    }
}

/// An Ethernet II frame.
pub fn ethernet(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet without options (RFC 791 3.1), its header checksum right.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, ttl, protocol, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let check = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet (RFC 8200 3) whose payload begins with a header of type `next`.
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, hop_limit: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram; without a checksum over IPv4 (RFC 768 allows that), with one over IPv6.
pub fn udp(
    addresses: Option<(Ipv6Addr, Ipv6Addr)>,
    source: u16,
    destination: u16,
    payload: &[u8],
) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut datagram: Vec<u8> = [source, destination, length, 0]
        .into_iter()
        .flat_map(u16::to_be_bytes)
        .collect();
    datagram.extend(payload);
    if let Some((from, to)) = addresses {
        let check = pseudo_checksum(from, to, 17, &datagram);
        datagram[6..8].copy_from_slice(&check.to_be_bytes());
    }
    datagram
}

/// An ICMPv6 message (RFC 4443 2.1); `rest` is what follows the checksum.
pub fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    let check = pseudo_checksum(source, destination, 58, &message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    message
}

/// An ICMP message (RFC 792); `rest` is what follows the checksum.
pub fn icmp(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    let check = checksum(&[&message]);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    message
}

/// The source and destination of an IP packet in an Ethernet frame begin here: whether the frame is IPv4 from `source` to `destination`.
pub fn is_ipv4(frame: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> bool {
    frame.len() >= 34
        && frame[12..14] == [0x08, 0x00]
        && frame[26..30] == source.octets()
        && frame[30..34] == destination.octets()
}

/// The checksum of an ICMPv6 message whose checksum field is zero (RFC 4443 2.3); the addresses are 16 bytes each.
pub fn icmpv6_checksum(source: &[u8], destination: &[u8], message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    checksum(&[source, destination, &length, &[0, 0, 0, 58], message])
}

fn pseudo_checksum(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> u16 {
    let length = (payload.len() as u32).to_be_bytes();
    match checksum(&[
        &source.octets(),
        &destination.octets(),
        &length,
        &[0, 0, 0, next],
        payload,
    ]) {
        0 if next == 17 => 0xffff, // RFC 8200 8.1: a UDP checksum that comes out as zero is sent as all ones.
        check => check,
    }
}

/// The Internet checksum (RFC 1071) of byte strings of which all but the last have an even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071 section 3: the words 0001 f203 f4f5 f6f7 add up to ddf2.
    #[test]
    fn checksum_of_the_rfc() {
        assert_eq!(
            checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]),
            !0xddf2
        );
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        let packet = ipv4(
            Ipv4Addr::new(192, 0, 2, 1),
            Ipv4Addr::new(198, 51, 100, 2),
            64,
            17,
            &[1, 2, 3],
        );
        assert_eq!(checksum(&[&packet[..20]]), 0);
        assert_eq!(packet.len(), 23);
    }
}
