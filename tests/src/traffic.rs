//! Numbered datagrams from one host to another, and what was lost of them.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::wait::{LIMIT, wait_for};

/// Bytes of a datagram: its number, bytes that follow from the number, and a checksum over both.
const PAYLOAD: usize = 64;

/// A stream of UDP datagrams that flows until it is stopped.
pub struct Stream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of a stream count.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    reordered: AtomicU64,
    corrupt: AtomicU64,
    /// Nanoseconds of the longest time without an arrival since it was last asked for.
    gap: AtomicU64,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received, each counted once.
    pub received: u64,
    /// Datagrams received after a later one of the same flow.
    pub reordered: u64,
    /// Datagrams received with other bytes than were sent.
    pub corrupt: u64,
}

/// The payload of a datagram.
fn payload(number: u64) -> [u8; PAYLOAD] {
    let mut bytes = [0; PAYLOAD];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    for (at, byte) in bytes[8..PAYLOAD - 2].iter_mut().enumerate() {
        *byte = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (at % 8 * 8)) as u8 ^ at as u8;
    }
    let check = crate::raw::checksum(&[&bytes[..PAYLOAD - 2]]);
    bytes[PAYLOAD - 2..].copy_from_slice(&check.to_be_bytes());
    bytes
}

/// The number of a datagram whose bytes are as they were sent.
fn number(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    (bytes == payload(number)).then_some(number)
}

impl Tally {
    /// Datagrams that never arrived.
    pub fn lost(self) -> u64 {
        self.sent - self.received
    }
}

impl Stream {
    /// Begins to send a datagram from `from` to `address` of `to` every `pause`, spread over `flows` source ports.
    ///
    /// # Panics
    /// When a socket cannot be opened.
    #[track_caller]
    pub fn start(from: &Host, to: &Host, address: IpAddr, flows: usize, pause: Duration) -> Self {
        Self::paced(from, to, address, flows, (1, pause))
    }

    /// The same with so many datagrams a second, sent a few at a time every millisecond; a busy machine sends fewer.
    ///
    /// # Panics
    /// When a socket cannot be opened.
    #[track_caller]
    pub fn at_rate(from: &Host, to: &Host, address: IpAddr, flows: usize, per_second: u64) -> Self {
        let pause = Duration::from_millis(1);
        Self::paced(from, to, address, flows, (per_second.div_ceil(1000), pause))
    }

    #[track_caller]
    fn paced(from: &Host, to: &Host, address: IpAddr, flows: usize, pace: (u64, Duration)) -> Self {
        let any = SocketAddr::new(
            if address.is_ipv4() { "0.0.0.0" } else { "::" }
                .parse()
                .expect("an address"),
            0,
        );
        let receiver = to.enter(|| UdpSocket::bind(any)).expect("a UDP port is free");
        // The receiving thread of a busy machine is not always there.
        crate::sys::receive_buffer(&receiver, 8 << 20).expect("root may have a large buffer");
        receiver
            .set_read_timeout(Some(Duration::from_millis(500)))
            .expect("a time limit can be set");
        let target = SocketAddr::new(
            address,
            receiver.local_addr().expect("the socket is bound").port(),
        );
        let senders: Vec<UdpSocket> = (0..flows)
            .map(|_| from.enter(|| UdpSocket::bind(any)).expect("a UDP port is free"))
            .collect();
        let shared = Arc::<Shared>::default();
        let threads = vec![
            std::thread::spawn({
                let shared = shared.clone();
                move || send(&shared, &senders, target, pace)
            }),
            std::thread::spawn({
                let shared = shared.clone();
                move || receive(&shared, &receiver, flows)
            }),
        ];
        Self { shared, threads }
    }

    /// The longest time without an arrival since this was last asked, or since the first arrival.
    pub fn longest_gap(&self) -> Duration {
        Duration::from_nanos(self.shared.gap.swap(0, Ordering::Relaxed))
    }

    /// What has been sent and received so far; some of it may be on the way.
    pub fn so_far(&self) -> Tally {
        // Received is read first: what arrives in between must not make it look larger than sent.
        let received = self.shared.received.load(Ordering::Relaxed);
        Tally {
            sent: self.shared.sent.load(Ordering::Relaxed).max(received),
            received,
            reordered: self.shared.reordered.load(Ordering::Relaxed),
            corrupt: self.shared.corrupt.load(Ordering::Relaxed),
        }
    }

    /// Waits until `more` datagrams have arrived from now on.
    #[track_caller]
    pub fn flows_on(&self, more: u64) {
        let start = self.so_far().received;
        wait_for("datagrams go on arriving", LIMIT, || {
            let now = self.so_far();
            if now.received >= start + more {
                Ok(())
            } else {
                Err(format!("{start} before, now {now:?}"))
            }
        });
    }

    /// Stops sending, waits until nothing more arrives, and answers what became of it all.
    ///
    /// # Panics
    /// When a thread of the stream did.
    pub fn stop(mut self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the stream's threads do not panic");
        }
        self.so_far()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn send(shared: &Shared, sockets: &[UdpSocket], target: SocketAddr, (burst, pause): (u64, Duration)) {
    let mut next = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        for _ in 0..burst {
            let socket = &sockets[next as usize % sockets.len()];
            // A sender whose link is down is told so; that datagram was never on the way.
            if socket.send_to(&payload(next), target).is_ok() {
                next += 1;
                shared.sent.store(next, Ordering::Relaxed);
            }
        }
        std::thread::sleep(pause);
    }
}

fn receive(shared: &Shared, socket: &UdpSocket, flows: usize) {
    // A bit for each number: streams may go on for minutes.
    let mut seen: Vec<u64> = Vec::new();
    let mut last = vec![0; flows];
    let mut before: Option<Instant> = None;
    let mut buffer = [0; 2 * PAYLOAD];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let now = Instant::now();
                if let Some(before) = before {
                    let gap = now.duration_since(before).as_nanos() as u64;
                    shared.gap.fetch_max(gap, Ordering::Relaxed);
                }
                before = Some(now);
                let Some(number) = number(&buffer[..length]) else {
                    shared.corrupt.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let last = &mut last[number as usize % flows];
                shared
                    .reordered
                    .fetch_add(u64::from(number < *last), Ordering::Relaxed);
                *last = number;
                let (word, bit) = (number as usize / 64, 1 << (number % 64));
                if word >= seen.len() {
                    seen.resize(word + 1, 0);
                }
                if seen[word] & bit == 0 {
                    seen[word] |= bit;
                    shared.received.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && shared.stop.load(Ordering::Relaxed) => {
                break;
            }
            Err(_) => {}
        }
    }
}
