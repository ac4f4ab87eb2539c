//! A tap port with a virtual machine behind it. The lab is the machine's end of the tap, and hands frames over as QEMU does for a
//! virtio-net: with a `virtio_net_hdr` that says what is left to be done (virtio 1.2, 5.1.6).
//!
//! ```text
//!   (machine) 10.2.0.2 ── tap0 10.2.0.1  r  10.1.0.1 up1 ══ r0 10.1.0.2 v
//! ```

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use tests::raw::{self, ethernet, ipv4};
use tests::sys::Tap;
use tests::{LIMIT, Margay, guest, wait_for};

use crate::common::RUNTIME;

const MACHINE: ([u8; 6], Ipv4Addr) = ([2, 0, 0, 0, 0, 2], Ipv4Addr::new(10, 2, 0, 2));
const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum from byte 34 on is to be completed and put 6 (UDP) or 16 (TCP) bytes further.
fn header(checksum_at: u8, segment: Option<u16>) -> [u8; 10] {
    let mut header = [1, 0, 0, 0, 0, 0, 34, 0, checksum_at, 0];
    if let Some(size) = segment {
        header[1] = 1; // VIRTIO_NET_HDR_GSO_TCPV4
        header[2..4].copy_from_slice(&54u16.to_le_bytes());
        header[4..6].copy_from_slice(&size.to_le_bytes());
    }
    header
}

/// The sum of the pseudo-header (RFC 768), not inverted: what a partial checksum is.
fn partial(protocol: u8, length: u16) -> [u8; 2] {
    let [source, destination] = [MACHINE.1.octets(), HOST.octets()];
    let sum = raw::checksum(&[&source, &destination, &[0, protocol], &length.to_be_bytes()]);
    (!sum).to_be_bytes()
}

fn datagram(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = raw::udp(None, source, destination, payload);
    let sum = partial(17, datagram.len() as u16);
    datagram[6..8].copy_from_slice(&sum);
    datagram
}

/// A TCP segment (RFC 9293 3.1) with a partial checksum.
fn segment(destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = [40_000u16.to_be_bytes(), destination.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff]);
    segment.extend(partial(6, (20 + payload.len()) as u16));
    segment.extend([0, 0]);
    segment.extend(payload);
    segment
}

#[test]
fn machine() {
    let Some(net) = guest::wired("tap", "virtio_net") else {
        return;
    };
    let r = &net.r;
    let tap = r.enter(|| Tap::open("tap0")).expect("the kernel has tun");
    r.sh("ip addr add 10.2.0.1/24 dev tap0; ip link set tap0 up
          ip neigh add 10.2.0.2 lladdr 02:00:00:00:00:02 dev tap0 nud permanent");
    let config = format!(
        "{RUNTIME}[[port]]\nname = \"tap0\"\nrole = \"workload\"\nanti_spoof = \"strict\"\n[[port]]\nname = \"up1\"\nrole = \"uplink\"\n"
    );
    let margay = Margay::start(&net.lab, r, &config);
    for port in ["tap0", "up1"] {
        margay.has_port(port);
    }
    let port = margay.find_port("tap0").expect("just seen");
    tests::lab::announce(&format!("a tap is opened in mode {}", port["mode"]));
    let doctor = margay.run("-j doctor tap0").out;
    assert!(doctor.contains("host_tso4=off"), "{doctor}");
    let gateway = r.mac("tap0");
    net.v.reaches("10.1.0.1");

    // A partial checksum is completed: the host's kernel takes the datagram, and it comes back.
    let socket = net
        .v
        .enter(|| UdpSocket::bind((HOST, 7)))
        .expect("the port is free");
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a time limit can be set");
    let packet = ipv4(MACHINE.1, HOST, 64, 17, &datagram(4_000, 7, b"from a machine"));
    let frame = ethernet(gateway, MACHINE.0, 0x0800, &packet);
    wait_for("the datagram arrives", LIMIT, || {
        tap.send(header(6, None), &frame).expect("the tap takes it");
        let mut buffer = [0; 64];
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if buffer[..length] == *b"from a machine" => Ok(from),
            other => Err(format!("{other:?}")),
        }
    });
    socket
        .send_to(b"to a machine", (MACHINE.1, 4_000))
        .expect("there is a route");
    wait_for("the answer comes through the tap", LIMIT, || {
        let frame = tap.receive(Duration::from_secs(1)).expect("the tap stays up");
        frame.is_some_and(|frame| frame.ends_with(b"to a machine"))
    });

    // A large segment is larger than any MTU beyond: it does not get through, and the machine is told the MTU.
    let mut packet = ipv4(MACHINE.1, HOST, 64, 6, &segment(80, &[7; 3_000]));
    packet[6] = 0x40; // DF, as TCP sets it (RFC 1191).
    packet[10..12].copy_from_slice(&[0, 0]);
    let check = raw::checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    let frame = ethernet(gateway, MACHINE.0, 0x0800, &packet);
    let told = wait_for("the machine is told the MTU", LIMIT, || {
        tap.send(header(16, Some(1_000)), &frame)
            .expect("the tap takes it");
        // Fragmentation needed (RFC 792): type 3, code 4.
        tap.receive(Duration::from_secs(1))
            .expect("the tap stays up")
            .filter(|frame| frame.len() > 42 && frame[23] == 1 && frame[34..36] == [3, 4])
    });
    assert_eq!(told[40..42], 1_500u16.to_be_bytes(), "{told:?}");

    // One that does not even fit a frame is counted.
    let packet = ipv4(MACHINE.1, HOST, 64, 6, &segment(80, &[7; 30_000]));
    let frame = ethernet(gateway, MACHINE.0, 0x0800, &packet);
    wait_for("what does not fit a frame is counted", LIMIT, || {
        tap.send(header(16, Some(1_000)), &frame)
            .expect("the tap takes it");
        let dropped = margay.port("tap0", "dropped");
        if dropped > 0 {
            Ok(())
        } else {
            Err(margay.json("drops").to_string())
        }
    });
    margay.check_sums();
    assert_eq!(margay.terminate(), 0);
}
