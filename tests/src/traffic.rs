//! Numbered datagrams from one host to another, and what was lost of them.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::Host;
use crate::wait::{LIMIT, wait_for};

/// A stream of UDP datagrams that flows until it is stopped.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    reordered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
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
        let any = SocketAddr::new(
            if address.is_ipv4() { "0.0.0.0" } else { "::" }
                .parse()
                .expect("an address"),
            0,
        );
        let receiver = to.enter(|| UdpSocket::bind(any)).expect("a UDP port is free");
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
        let stop = Arc::<AtomicBool>::default();
        let [sent, received, reordered] = std::array::from_fn(|_| Arc::<AtomicU64>::default());
        let send = {
            let (stop, sent) = (stop.clone(), sent.clone());
            std::thread::spawn(move || {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let socket = &senders[number as usize % senders.len()];
                    // A sender whose link is down is told so; that datagram was never on the way.
                    if socket.send_to(&number.to_be_bytes(), target).is_ok() {
                        number += 1;
                        sent.store(number, Ordering::Relaxed);
                    }
                    std::thread::sleep(pause);
                }
            })
        };
        let receive = {
            let (stop, received, reordered) = (stop.clone(), received.clone(), reordered.clone());
            std::thread::spawn(move || {
                let mut seen = std::collections::HashSet::new();
                let mut last = vec![0; flows];
                let mut buffer = [0; 8];
                loop {
                    match receiver.recv(&mut buffer) {
                        Ok(8) => {
                            let number = u64::from_be_bytes(buffer);
                            let last = &mut last[number as usize % flows];
                            reordered.fetch_add(u64::from(number < *last), Ordering::Relaxed);
                            *last = number;
                            seen.insert(number);
                            received.store(seen.len() as u64, Ordering::Relaxed);
                        }
                        Err(error)
                            if error.kind() == ErrorKind::WouldBlock && stop.load(Ordering::Relaxed) =>
                        {
                            break;
                        }
                        _ => {}
                    }
                }
            })
        };
        Self {
            stop,
            sent,
            received,
            reordered,
            threads: vec![send, receive],
        }
    }

    /// What has been sent and received so far; some of it may be on the way.
    pub fn so_far(&self) -> Tally {
        // Received is read first: what arrives in between must not make it look larger than sent.
        let received = self.received.load(Ordering::Relaxed);
        Tally {
            sent: self.sent.load(Ordering::Relaxed).max(received),
            received,
            reordered: self.reordered.load(Ordering::Relaxed),
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
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the stream's threads do not panic");
        }
        self.so_far()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
