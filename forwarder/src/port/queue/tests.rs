//! A queue over rings in plain memory: the test is the kernel.

use super::*;
use crate::frame::Memory;
use crate::ring::plain;

/// The kernel's ends of a queue's rings.
pub(crate) struct Kernel {
    pub(crate) fill: Consumer<u64>,
    pub(crate) completion: Producer<u64>,
    pub(crate) rx: Producer<Desc>,
    pub(crate) tx: Consumer<Desc>,
}

impl Kernel {
    /// Receives a packet of `len` bytes, if it has a frame for it.
    pub(crate) fn deliver(&mut self, len: u32) -> bool {
        let Some(addr) = self.fill.pop() else { return false };
        self.fill.release();
        let pushed = self.rx.push(Desc {
            addr,
            len,
            options: 0,
        });
        self.rx.publish();
        pushed
    }

    /// Sends all packets of the TX ring; returns how many.
    pub(crate) fn transmit(&mut self) -> u32 {
        let mut sent = 0;
        while let Some(desc) = self.tx.pop() {
            assert!(self.completion.push(desc.addr));
            sent += 1;
        }
        self.tx.release();
        self.completion.publish();
        sent
    }
}

/// A queue in copy mode that takes packets in up to four frames, and the kernel's side of it.
pub(crate) fn queue(port: u16, umem: &Umem) -> (Queue, Kernel) {
    let (fill, kernel_fill, _) = plain::ring(RING, 0);
    let (kernel_completion, completion, _) = plain::ring(RING, 0);
    let (kernel_rx, rx, _) = plain::ring(RING, 0);
    let (tx, kernel_tx, _) = plain::ring(RING, 0);
    let rings = Rings {
        fill,
        completion,
        rx,
        tx,
    };
    let kernel = Kernel {
        fill: kernel_fill,
        completion: kernel_completion,
        rx: kernel_rx,
        tx: kernel_tx,
    };
    (
        Queue::new(
            PortId(port),
            0,
            (Socket::fake(), rings),
            Traits {
                zerocopy: false,
                sends: true,
                most_parts: 4,
            },
            umem,
        ),
        kernel,
    )
}

#[test]
fn a_packet_goes_through_and_its_frame_comes_back() {
    let (mut umem, mut free) = Umem::new(64, 2048).unwrap();
    let (mut a, mut kernel_a) = queue(0, &umem);
    let (mut b, mut kernel_b) = queue(1, &umem);
    a.refill(&mut free);
    b.refill(&mut free);
    assert_eq!((a.receiving(), b.receiving(), free.len()), (32, 32, 0));

    assert!(kernel_a.deliver(60));
    let mut burst = Vec::new();
    a.receive(64, &mut burst);
    let mut frame = burst.pop().unwrap();
    assert_eq!(frame.len(), 60);
    umem.set_len(&mut frame, 70);
    assert!(b.accepts(&frame));
    b.send(frame);
    assert_eq!((b.unkicked(), b.unsent()), (1, 1));
    b.kick();
    assert_eq!((a.receiving(), b.sending()), (31, 1));
    assert_eq!(kernel_b.transmit(), 1);
    assert_eq!((b.unkicked(), b.unsent()), (0, 0));
    assert_eq!(b.complete(&mut free), 1);
    assert_eq!((b.sending(), free.len()), (0, 1));
    assert_eq!(a.close().len() + b.close().len() + free.len(), 64);
    free.into_iter().for_each(crate::frame::tests::end);
}

#[test]
fn nonsense_from_the_kernel_makes_no_second_token() {
    let (umem, mut free) = Umem::new(64, 2048).unwrap();
    let (mut q, mut kernel) = queue(0, &umem);
    q.refill(&mut free);
    let addr = kernel.fill.pop().unwrap();
    for desc in [
        Desc {
            addr,
            len: 60,
            options: 0,
        },
        Desc {
            addr,
            len: 60,
            options: 0,
        },
        Desc {
            addr: 64 * 2048,
            len: 1,
            options: 0,
        },
        Desc {
            addr: u64::MAX,
            len: 1,
            options: 0,
        },
        Desc {
            addr: addr + 1024,
            len: 4096,
            options: 0,
        },
    ] {
        assert!(kernel.rx.push(desc));
    }
    kernel.rx.publish();
    let mut burst = Vec::new();
    q.receive(64, &mut burst);
    assert_eq!((burst.len(), q.nonsense()), (1, 4));
    burst
        .into_iter()
        .chain(free)
        .chain(q.close())
        .for_each(crate::frame::tests::end);
}

#[test]
fn a_full_ring_and_an_empty_packet_are_refused() {
    let (umem, mut free) = Umem::new(RING + 64, 2048).unwrap();
    let (mut q, _kernel) = queue(0, &umem);
    assert!(!q.accepts(&free[0]), "an empty packet");
    let mut sent = 0;
    while let Some(mut frame) = free.pop() {
        frame.set_len(60);
        if !q.accepts(&frame) {
            free.push(frame);
            break;
        }
        q.send(frame);
        sent += 1;
    }
    assert_eq!(sent, RING);
    assert_eq!(free.len(), 64);
    free.into_iter()
        .chain(q.close())
        .for_each(crate::frame::tests::end);
}

#[test]
fn the_level_follows_the_traffic() {
    let (umem, mut free) = Umem::new(1024, 2048).unwrap();
    let (mut q, mut kernel) = queue(0, &umem);
    q.refill(&mut free);
    for _ in 0..20 {
        assert!(kernel.deliver(60));
    }
    let mut burst = Vec::new();
    q.receive(64, &mut burst);
    assert!(q.is_pressed(), "12 of 32 left");
    assert_eq!(q.grow(1000), 32);
    free.append(&mut burst);
    q.refill(&mut free);
    assert_eq!(q.receiving(), 64);
    assert_eq!(q.grow(3), 3, "no more than the budget");
    q.refill(&mut free);
    assert_eq!(q.relax(), 33, "quiet: half of it goes, the base stays");
    assert_eq!(q.relax(), 2);
    assert_eq!(q.relax(), 0);
    assert_eq!(q.level(), BASE_FILL);
    free.into_iter()
        .chain(q.close())
        .for_each(crate::frame::tests::end);
}

/// Gives the queue's frames to an RX ring entry each, with what the entries say.
fn deliver_parts(kernel: &mut Kernel, entries: &[(u32, bool)]) -> Vec<u64> {
    let mut addrs = Vec::new();
    for &(len, goes_on) in entries {
        let addr = kernel.fill.pop().unwrap();
        addrs.push(addr);
        let options = if goes_on { libc::XDP_PKT_CONTD } else { 0 };
        assert!(kernel.rx.push(Desc { addr, len, options }));
    }
    kernel.fill.release();
    kernel.rx.publish();
    addrs
}

#[test]
fn a_packet_in_several_frames_is_put_together() {
    let (umem, mut free) = Umem::new(64, 2048).unwrap();
    let (mut a, mut kernel_a) = queue(0, &umem);
    let (mut b, mut kernel_b) = queue(1, &umem);
    a.refill(&mut free);
    let addrs = deliver_parts(
        &mut kernel_a,
        &[(1792, true), (1792, true), (5, false), (60, false)],
    );
    let mut burst = Vec::new();
    // The second look finds the rest of the packet.
    assert_eq!(a.receive(2, &mut burst), 2);
    assert_eq!((burst.len(), a.receiving()), (0, 32));
    assert_eq!(a.receive(64, &mut burst), 2);
    assert_eq!((burst.len(), a.receiving(), a.nonsense()), (2, 28, 0));
    let single = burst.pop().unwrap();
    let packet = burst.pop().unwrap();
    assert_eq!((packet.parts(), umem.total(&packet)), (3, 1792 * 2 + 5));
    assert_eq!((single.parts(), single.len()), (1, 60));
    assert!(b.accepts(&packet));
    b.send(packet);
    assert_eq!((b.unkicked(), b.unsent(), b.sending()), (3, 3, 3));
    b.kick();
    let sent: Vec<Desc> = std::iter::from_fn(|| kernel_b.tx.pop()).collect();
    assert_eq!(sent.iter().map(|desc| desc.addr).collect::<Vec<_>>(), addrs[..3]);
    assert_eq!(
        sent.iter().map(Desc::goes_on).collect::<Vec<_>>(),
        [true, true, false]
    );
    for desc in sent {
        assert!(kernel_b.completion.push(desc.addr));
    }
    kernel_b.completion.publish();
    assert_eq!(b.complete(&mut free), 3);
    free.push(single);
    assert_eq!(a.close().len() + b.close().len() + free.len(), 64);
    free.into_iter().for_each(crate::frame::tests::end);
}

#[test]
fn a_ring_without_room_for_all_frames_of_a_packet_takes_none() {
    let (umem, mut free) = Umem::new(RING + 64, 2048).unwrap();
    let (mut q, _kernel) = queue(0, &umem);
    for _ in 0..RING - 1 {
        let mut frame = free.pop().unwrap();
        frame.set_len(60);
        assert!(q.accepts(&frame));
        q.send(frame);
    }
    let parts: Vec<(u64, u32)> = (0..2)
        .map(|_| (free.pop().unwrap().surrender().0, 1000))
        .collect();
    let packet = umem.links().chain(&parts);
    assert!(!q.accepts(&packet), "room for one of two");
    umem.release(packet, &mut free);
    assert_eq!(q.close().len() + free.len(), (RING + 64) as usize);
    free.into_iter().for_each(crate::frame::tests::end);
}

/// A packet one of whose frames the kernel made up comes out empty, with the frames that are real; a chain without end
/// stops growing.
#[test]
fn nonsense_within_a_packet_makes_no_second_token() {
    let (umem, mut free) = Umem::new(256, 2048).unwrap();
    let (mut q, mut kernel) = queue(0, &umem);
    q.raise(128, 128);
    q.refill(&mut free);
    let addr = kernel.fill.pop().unwrap();
    for (addr, len, goes_on) in [
        (addr, 60, true),
        (addr, 60, true),
        (u64::MAX, 60, true),
        (addr + 1024, 2048, false),
    ] {
        let options = if goes_on { libc::XDP_PKT_CONTD } else { 0 };
        assert!(kernel.rx.push(Desc { addr, len, options }));
    }
    kernel.rx.publish();
    let mut burst = Vec::new();
    q.receive(64, &mut burst);
    assert_eq!((burst.len(), q.nonsense()), (1, 3));
    assert_eq!((burst[0].parts(), burst[0].len()), (1, 0));
    deliver_parts(&mut kernel, &[(10, true); 70]);
    deliver_parts(&mut kernel, &[(10, false)]);
    q.receive(128, &mut burst);
    assert_eq!((burst.len(), burst[1].parts(), burst[1].len()), (2, 64, 0));
    assert_eq!(q.nonsense(), 3 + 7);
    for packet in burst {
        umem.release(packet, &mut free);
    }
    assert_eq!(q.close().len() + free.len(), 256);
    free.into_iter().for_each(crate::frame::tests::end);
}
