//! Multicast is the kernel's, beside margayd: one sender, three receivers behind three ports, and a multicast route.
//!
//! ```text
//!   s 10.1.0.2 ── p0 r p1 ── 10.2.1.2 x1
//!   (sender)        (margayd, and the  p2 ── 10.2.2.2 x2   receivers that joined 239.1.2.3
//!                    multicast route)  p3 ── 10.2.3.2 x3
//! ```

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tests::{Host, LIMIT, Lab, Margay, wait_for};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const PORT: u16 = 5000;

/// Keeps a multicast route from p0 to p1, p2 and p3 for as long as it runs (`struct vifctl`, `struct mfcctl` of linux/mroute.h).
const MROUTE: &str = r#"
import socket, struct, sys, time
igmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, 2)
igmp.setsockopt(0, 200, struct.pack("i", 1))                      # MRT_INIT
for vif, name in enumerate(["p0", "p1", "p2", "p3"]):
    index = socket.if_nametoindex(name)                          # VIFF_USE_IFINDEX
    igmp.setsockopt(0, 202, struct.pack("HBBIi4s", vif, 8, 1, 0, index, b""))
ttls = bytes([0, 1, 1, 1] + [0] * 28)
route = struct.pack("4s4sH32s2xIIIi", socket.inet_aton("10.1.0.2"), socket.inet_aton("239.1.2.3"), 0, ttls, 0, 0, 0, 0)
igmp.setsockopt(0, 204, route)                                   # MRT_ADD_MFC
print("ready", flush=True)
time.sleep(3600)
"#;

struct Net {
    lab: Arc<Lab>,
    s: Host,
    r: Host,
    receivers: Vec<UdpSocket>,
}

fn build(name: &str) -> Option<Net> {
    let lab = Lab::new(name)?;
    let (r, s) = (lab.host("r"), lab.host("s"));
    lab.veth(&r, "p0", &s, "eth0");
    r.sh("ip addr add 10.1.0.1/24 dev p0");
    s.sh("ip addr add 10.1.0.2/24 dev eth0; ip route add default via 10.1.0.1");
    let mut receivers = Vec::new();
    for number in 1..=3_u8 {
        let x = lab.host(&format!("x{number}"));
        lab.veth(&r, &format!("p{number}"), &x, "eth0");
        r.sh(&format!("ip addr add 10.2.{number}.1/24 dev p{number}"));
        x.sh(&format!(
            "ip addr add 10.2.{number}.2/24 dev eth0; ip route add default via 10.2.{number}.1"
        ));
        let socket = x.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            socket.join_multicast_v4(&GROUP, &Ipv4Addr::new(10, 2, number, 2))?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            Ok::<_, std::io::Error>(socket)
        });
        receivers.push(socket.expect("a receiver that has joined the group"));
    }
    let script = lab.directory().join("mroute.py");
    std::fs::write(&script, MROUTE).expect("the lab's directory can be written");
    let program = r.spawn("mroute", &format!("python3 {}", script.display()));
    wait_for("the multicast route is there", LIMIT, || {
        program
            .log()
            .contains("ready")
            .then_some(())
            .ok_or_else(|| program.log())
    });
    Some(Net { lab, s, r, receivers })
}

impl Net {
    /// How many of the receivers get a datagram that is sent to the group now.
    fn arrive(&self) -> usize {
        let sender = self
            .s
            .enter(|| UdpSocket::bind("10.1.0.2:0"))
            .expect("a UDP port is free");
        sender.set_multicast_ttl_v4(8).expect("a socket option");
        sender
            .send_to(b"to all", SocketAddr::from((GROUP, PORT)))
            .expect("a datagram is sent");
        let got = |socket: &UdpSocket| {
            let mut buffer = [0; 16];
            socket
                .recv(&mut buffer)
                .is_ok_and(|length| &buffer[..length] == b"to all")
        };
        self.receivers.iter().filter(|socket| got(socket)).count()
    }

    #[track_caller]
    fn all_receive(&self) {
        wait_for("all three receive", LIMIT, || {
            let arrived = self.arrive();
            if arrived == 3 {
                Ok(())
            } else {
                Err(format!("{arrived} of 3"))
            }
        });
    }
}

fn ports(on_exit: &str) -> String {
    format!(
        "[[port]]\nmatch = \"p*\"\nrole = \"uplink\"\nfix_checksums = \"auto\"\non_exit = \"{on_exit}\"\n"
    )
}

#[test]
fn the_kernel_forwards_it() {
    let Some(net) = build("mcast") else { return };
    assert_eq!(net.r.get_sysctl("net.ipv4.ip_forward"), "0");
    net.all_receive();
    let margay = Margay::start(&net.lab, &net.r, &ports("kernel"));
    for port in ["p0", "p1", "p2", "p3"] {
        margay.has_port(port);
    }
    // As before, now through the steering program, which leaves it to the kernel.
    let punted = margay.port("p0", "punted");
    net.all_receive();
    assert!(margay.port("p0", "punted") > punted);
    assert_eq!(margay.drops("martian_destination"), 0);
    net.s.reaches("10.2.2.2");
    margay.check_sums();
}

/// A closed port is closed for multicast, too: no access list judges what the kernel forwards.
#[test]
fn closed_ports_stop_it() {
    let Some(net) = build("mclosed") else { return };
    net.all_receive();
    let margay = Margay::start(&net.lab, &net.r, &ports("drop"));
    for port in ["p0", "p1", "p2", "p3"] {
        margay.has_port(port);
    }
    net.s.reaches("10.2.2.2");
    for _ in 0..3 {
        assert_eq!(net.arrive(), 0, "the guard drops it");
    }
    // Where all its ports are open it passes; one closed port stops what would come in by it or go out to it.
    let some = format!(
        "[[port]]\nname = \"p3\"\nrole = \"uplink\"\nfix_checksums = \"auto\"\non_exit = \"drop\"\n{}",
        ports("kernel")
    );
    margay.write_config(&some);
    margay.process().signal(libc::SIGHUP);
    wait_for("two of three receive", LIMIT, || {
        let arrived = net.arrive();
        if arrived == 2 {
            Ok(())
        } else {
            Err(format!("{arrived} of 3"))
        }
    });
    margay.check_sums();
}
