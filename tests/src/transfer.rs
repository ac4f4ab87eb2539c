//! Many datagrams both ways, each with a number, a flow and a payload that the receiver checks byte by byte.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::host::Host;

/// Datagrams on the way at a time: fewer than any ring has entries and than the receiver's socket has room for, so
/// that not one needs to be lost.
const WINDOW: u64 = 32;

/// How long nothing may arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes before the part of a payload that only fills it: number, flow, length.
const HEAD: usize = 16;

/// What arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Datagrams whose payload was what was sent.
    pub intact: u64,
    /// Datagrams with another payload.
    pub corrupt: u64,
    /// Datagrams that came after a later one of their flow, or twice.
    pub reordered: u64,
}

/// Sends `count` datagrams over `flows` flows from one host to an address of another, as fast as they arrive, and
/// answers what did.
///
/// Sizes go from the smallest to `largest` bytes of payload. Sending waits for the receiver, so whatever is missing was
/// lost on the way; after 20 s without a datagram the rest counts as lost.
///
/// # Panics
/// When a socket cannot be opened.
pub fn transfer(
    from: &Host,
    to: &Host,
    address: IpAddr,
    count: u64,
    flows: usize,
    largest: usize,
) -> Arrived {
    let any = SocketAddr::new(
        if address.is_ipv4() { "0.0.0.0" } else { "::" }
            .parse()
            .expect("an address"),
        0,
    );
    let receiver = to
        .enter(|| UdpSocket::bind(SocketAddr::new(address, 0)))
        .expect("a UDP port is free");
    // As many of the largest ones as may be on the way: the usual buffer holds a dozen of 9,000 bytes.
    crate::sys::receive_buffer(&receiver, 8 << 20).expect("root may have any buffer");
    receiver
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a time limit can be set");
    let target = receiver.local_addr().expect("a bound socket has an address");
    let senders: Vec<UdpSocket> = (0..flows)
        .map(|_| from.enter(|| UdpSocket::bind(any)).expect("a UDP port is free"))
        .collect();
    let received = AtomicU64::new(0);
    let over = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut payload = vec![0; largest.max(HEAD)];
            for number in 0..count {
                while number >= received.load(Ordering::Acquire) + WINDOW {
                    if over.load(Ordering::Relaxed) != 0 {
                        return;
                    }
                    std::thread::yield_now();
                }
                let flow = number as usize % flows;
                let length = write(&mut payload, number, largest);
                // A host that has not yet resolved its gateway says so; the datagram was not sent.
                while senders[flow].send_to(&payload[..length], target).is_err() {
                    if over.load(Ordering::Relaxed) != 0 {
                        return;
                    }
                    std::thread::yield_now();
                }
            }
        });
        let mut arrived = Arrived::default();
        let mut next = vec![0; flows];
        let mut buffer = vec![0; 65_536];
        let mut expected = vec![0; largest.max(HEAD)];
        let mut last = Instant::now();
        let mut total = 0;
        while total < count && last.elapsed() < PATIENCE {
            let length = match receiver.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => panic!("receiving: {error}"),
            };
            last = Instant::now();
            total += 1;
            received.store(total, Ordering::Release);
            let Some(number) = buffer[..length]
                .first_chunk()
                .map(|bytes| u64::from_be_bytes(*bytes))
            else {
                arrived.corrupt += 1;
                continue;
            };
            if number >= count
                || length != write(&mut expected, number, largest)
                || buffer[..length] != expected[..length]
            {
                arrived.corrupt += 1;
                continue;
            }
            arrived.intact += 1;
            let next = &mut next[number as usize % flows];
            arrived.reordered += u64::from(number < *next);
            *next = number + 1;
        }
        over.store(1, Ordering::Relaxed);
        arrived
    })
}

/// Writes the payload of one datagram and answers its length: from the smallest to `largest`, and bytes that depend on
/// the number, so that neither a byte nor a piece of another datagram in it goes unnoticed.
fn write(payload: &mut [u8], number: u64, largest: usize) -> usize {
    let spread = largest.saturating_sub(HEAD) as u64 + 1;
    // Steps that have no divisor in common with usual sizes go through all lengths.
    let length = HEAD + (number.wrapping_mul(7919) % spread) as usize;
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload[8..HEAD].copy_from_slice(&(length as u64).to_be_bytes());
    // xorshift64 (Marsaglia, 2003), seeded with the number.
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for piece in payload[HEAD..length].chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        piece.copy_from_slice(&state.to_be_bytes()[..piece.len()]);
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_differ_and_have_all_lengths() {
        let (mut a, mut b) = (vec![0; 200], vec![0; 200]);
        let lengths: std::collections::BTreeSet<usize> =
            (0..185).map(|number| write(&mut a, number, 200)).collect();
        assert_eq!(lengths.len(), 185);
        let (first, second) = (write(&mut a, 3, 200), write(&mut b, 4, 200));
        assert_ne!(a[HEAD..first.min(second)], b[HEAD..first.min(second)]);
        assert_eq!(write(&mut a, 9, 0), HEAD);
    }
}
