//! Multicast is the kernel's, beside margayd: one sender, three receivers behind three ports, and multicast routes of both families.
//!
//! ```text
//!   s 10.1.0.2 ── p0 r p1 ── 10.2.1.2 x1
//!   (sender)        (margayd, and the  p2 ── 10.2.2.2 x2   receivers that joined the groups
//!                    multicast routes) p3 ── 10.2.3.2 x3
//! ```

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tests::{Host, LIMIT, Lab, Margay, wait_for};

/// The groups with a route: two of either family.
const GROUPS: [&str; 4] = ["239.1.2.3", "239.2.2.3", "ff1e:1::3", "ff1e:2::3"];
const PORT: u16 = 5000;

/// Keeps multicast routes from p0 to p1, p2 and p3 for as long as it runs (`struct vifctl`, `struct mfcctl` of linux/mroute.h,
/// `struct mif6ctl`, `struct mf6cctl` of linux/mroute6.h).
const MROUTE: &str = r#"
import socket, struct, sys, time
igmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, 2)
icmp6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
igmp.setsockopt(0, 200, struct.pack("i", 1))                      # MRT_INIT
icmp6.setsockopt(41, 200, struct.pack("i", 1))                    # MRT6_INIT
for vif, name in enumerate(["p0", "p1", "p2", "p3"]):
    index = socket.if_nametoindex(name)                          # VIFF_USE_IFINDEX
    igmp.setsockopt(0, 202, struct.pack("HBBIi4s", vif, 8, 1, 0, index, b""))
    icmp6.setsockopt(41, 202, struct.pack("HBBHxxI", vif, 0, 1, index, 0))
ttls = bytes([0, 1, 1, 1] + [0] * 28)
address6 = lambda text: struct.pack("HHI16sI", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, text), 0)
for group in sys.argv[1:]:
    if ":" in group:                                             # MRT6_ADD_MFC
        icmp6.setsockopt(41, 204, address6("fd01::2") + address6(group) + struct.pack("Hxx8I", 0, 0b1110, *[0] * 7))
    else:                                                        # MRT_ADD_MFC
        igmp.setsockopt(0, 204, struct.pack("4s4sH32s2xIIIi", socket.inet_aton("10.1.0.2"), socket.inet_aton(group), 0, ttls, 0, 0, 0, 0))
print("ready", flush=True)
time.sleep(3600)
"#;

/// Sends a datagram with the group's name to it, eight hops far.
const SEND: &str = r#"
import socket, sys
group, port = sys.argv[1], int(sys.argv[2])
if ":" in group:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("fd01::2", 0)); s.setsockopt(41, 18, 8)
else:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("10.1.0.2", 0)); s.setsockopt(0, 33, 8)
s.sendto(group.encode(), (group, port))
"#;

struct Net {
    lab: Arc<Lab>,
    s: Host,
    r: Host,
    /// For each receiver one socket of either family.
    receivers: Vec<[UdpSocket; 2]>,
}

fn build(name: &str) -> Option<Net> {
    let lab = Lab::new(name)?;
    let (r, s) = (lab.host("r"), lab.host("s"));
    lab.veth(&r, "p0", &s, "eth0");
    r.sh("ip addr add 10.1.0.1/24 dev p0; ip -6 addr add fd01::1/64 dev p0 nodad");
    s.sh(
        "ip addr add 10.1.0.2/24 dev eth0; ip route add default via 10.1.0.1
          ip -6 addr add fd01::2/64 dev eth0 nodad; ip -6 route add default via fd01::1",
    );
    let mut receivers = Vec::new();
    for number in 1..=3_u8 {
        let x = lab.host(&format!("x{number}"));
        lab.veth(&r, &format!("p{number}"), &x, "eth0");
        r.sh(&format!(
            "ip addr add 10.2.{number}.1/24 dev p{number}; ip -6 addr add fd02:{number}::1/64 dev p{number} nodad"
        ));
        x.sh(&format!(
            "ip addr add 10.2.{number}.2/24 dev eth0; ip route add default via 10.2.{number}.1
              ip -6 addr add fd02:{number}::2/64 dev eth0 nodad; ip -6 route add default via fd02:{number}::1"
        ));
        let shown = x.sh("ip -o link show dev eth0");
        let index = shown
            .split(':')
            .next()
            .and_then(|index| index.parse::<u32>().ok());
        let index = index.expect("the number of a device");
        let sockets = x.enter(|| {
            let sockets = [
                UdpSocket::bind(("0.0.0.0", PORT))?,
                UdpSocket::bind(("::", PORT + 1))?,
            ];
            for group in GROUPS {
                match group.parse().expect("an address") {
                    IpAddr::V4(group) => sockets[0].join_multicast_v4(&group, &[10, 2, number, 2].into())?,
                    IpAddr::V6(group) => sockets[1].join_multicast_v6(&group, index)?,
                }
            }
            for socket in &sockets {
                socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            }
            Ok::<_, std::io::Error>(sockets)
        });
        receivers.push(sockets.expect("a receiver that has joined the groups"));
    }
    for (file, text) in [("mroute.py", MROUTE), ("send.py", SEND)] {
        std::fs::write(lab.directory().join(file), text).expect("the lab's directory can be written");
    }
    let script = lab.directory().join("mroute.py");
    let program = r.spawn(
        "mroute",
        &format!("python3 {} {}", script.display(), GROUPS.join(" ")),
    );
    wait_for("the multicast routes are there", LIMIT, || {
        program
            .log()
            .contains("ready")
            .then_some(())
            .ok_or_else(|| program.log())
    });
    Some(Net { lab, s, r, receivers })
}

impl Net {
    /// Which of the receivers get a datagram that is sent to the group now.
    fn arrives(&self, group: &str) -> [bool; 3] {
        let v6 = usize::from(group.contains(':'));
        let script = self.lab.directory().join("send.py");
        self.s.sh(&format!(
            "python3 {} {group} {}",
            script.display(),
            PORT + u16::from(v6 == 1)
        ));
        let got = |socket: &UdpSocket| {
            let mut buffer = [0; 64];
            // What was sent to another group, and came late, is not what is asked for.
            while let Ok(length) = socket.recv(&mut buffer) {
                if &buffer[..length] == group.as_bytes() {
                    return true;
                }
            }
            false
        };
        [0, 1, 2].map(|receiver: usize| got(&self.receivers[receiver][v6]))
    }

    /// Waits until exactly these receive what is sent to the group, and sees that it stays so.
    #[track_caller]
    fn receive(&self, group: &str, who: [bool; 3]) {
        wait_for(&format!("{group} to {who:?}"), LIMIT, || {
            let arrived = self.arrives(group);
            if arrived == who {
                Ok(())
            } else {
                Err(format!("{arrived:?}"))
            }
        });
        let again = self.arrives(group);
        let nobody_else = |at: usize| who[at] || !again[at];
        assert!((0..3).all(nobody_else), "{group} to {who:?}: {again:?}");
    }

    #[track_caller]
    fn all_receive(&self) {
        for group in GROUPS {
            self.receive(group, [true; 3]);
        }
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
    for group in GROUPS {
        net.receive(group, [false; 3]);
    }
    // Where all its ports are open it passes; one closed port stops what would come in by it or go out to it.
    let some = format!("{}{}", port("p3", "[]"), ports("kernel"));
    margay.write_config(&some);
    margay.process().signal(libc::SIGHUP);
    for group in GROUPS {
        net.receive(group, [true, true, false]);
    }
    margay.check_sums();
}

/// A closed uplink that lists groups.
fn port(name: &str, multicast: &str) -> String {
    format!(
        "[[port]]\nname = \"{name}\"\nrole = \"uplink\"\nfix_checksums = \"auto\"\non_exit = \"drop\"\nmulticast = {multicast}\n"
    )
}

/// A group passes when the port it comes in by and the one it goes out to list it, or are open; so while margayd is away.
#[test]
fn closed_ports_pass_what_they_list() {
    let Some(net) = build("mlisted") else { return };
    net.all_receive();
    let listed = r#"["239.1.0.0/16", "239.1.2.0/24", "ff1e:1::/32"]"#;
    let config = |ingress: &str| {
        let closed = [port("p0", ingress), port("p1", listed), port("p2", "[]")];
        format!("{}{}", closed.concat(), ports("kernel"))
    };
    let margay = Margay::start(&net.lab, &net.r, &config(listed));
    for port in ["p0", "p1", "p2", "p3"] {
        margay.has_port(port);
    }
    let both_listed = || {
        net.receive("239.1.2.3", [true, false, true]);
        net.receive("ff1e:1::3", [true, false, true]);
        net.receive("239.2.2.3", [false; 3]);
        net.receive("ff1e:2::3", [false; 3]);
    };
    both_listed();
    net.s.reaches("10.2.2.2");
    // The port that it comes in by no longer lists a family; what the others list does not help.
    margay.write_config(&config(r#"["239.1.2.3"]"#));
    margay.process().signal(libc::SIGHUP);
    net.receive("ff1e:1::3", [false; 3]);
    net.receive("239.1.2.3", [true, false, true]);
    margay.write_config(&config(listed));
    margay.process().signal(libc::SIGHUP);
    both_listed();
    margay.check_sums();
    // Nobody is there but the guard. Unicast is closed as it was, with the kernel willing.
    margay.process().signal(libc::SIGKILL);
    margay.process().end();
    net.r.sysctl("net.ipv4.ip_forward", "1");
    net.r.sysctl("net.ipv6.conf.all.forwarding", "1");
    both_listed();
    assert!(!net.s.pings("10.2.1.2") && !net.s.pings("fd02:1::2"));
}
