//! The same small network twice, once with a forwarding kernel and once with `margayd` in the middle, so that what comes out of the
//! two can be compared byte for byte: all addresses, Ethernet addresses included, are the same on both sides.
//!
//! ```text
//!   s 10.0.0.2 fd00::2 ── in0 ┐           ┌ out0 (MTU 1500) ── d 10.1.0.2 fd01::2
//!   (10.10.0.0/16, fd10::/32) ├─ router r ┤
//!                             │           └ low0 (MTU 1400) ── e 10.2.0.2 fd02::2
//! ```
//!
//! | Routes of `r` | lead to |
//! |---|---|
//! | 10.10.0.0/16, fd10::/32 | s |
//! | 0.0.0.0/1, 128.0.0.0/2, 2000::/3 | d; nothing leads to 192.0.0.0/2 and to most of IPv6 |
//! | 10.20.0.0/16, fd20::/32 | e, whose link has an MTU of 1,400 |
//! | 10.21.0.0/16, fd21::/32 | d with `mtu 600`, `mtu 1300` |
//! | 10.22.0.0/16 | d with `mtu 68` |
//! | 10.30, 10.31, 10.32.0.0/16; fd30, fd31, fd32::/32 | unreachable, prohibit, blackhole |

use std::sync::Arc;

use crate::host::Host;
use crate::lab::Lab;
use crate::margay::Margay;
use crate::raw::{Mac, Wire, ethernet, ipv4, udp};
use crate::sys;
use crate::wait::LIMIT;

/// Where something comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// Back at the sender.
    S,
    /// Beyond the link with the usual MTU.
    D,
    /// Beyond the link with the small one.
    E,
}

/// A frame that the router sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Out {
    /// To whom.
    pub at: At,
    /// All of it, Ethernet header included.
    pub frame: Vec<u8>,
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {} bytes ", self.at, self.frame.len())?;
        self.frame
            .iter()
            .take(160)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Ethernet addresses of the three hosts and of the router's ports towards them.
const HOSTS: [Mac; 3] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2], [2, 0, 0, 0, 1, 3]];
const ROUTER: [Mac; 3] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]];
const PORTS: [(&str, &str, At); 3] = [("s", "in0", At::S), ("d", "out0", At::D), ("e", "low0", At::E)];
/// Destinations behind the three hosts that the marks of [`Side::send`] go to.
const MARKS: [[u8; 4]; 3] = [[10, 10, 255, 254], [10, 1, 0, 2], [10, 20, 255, 254]];
const MARK: &[u8] = b"everything before this has come out";
/// Packets that are on their way at a time, with their marks far fewer than any ring is deep.
const WINDOW: usize = 24;

/// One of the two networks.
pub struct Side {
    wires: [Wire; 3],
    /// The router.
    pub router: Host,
    sent: u32,
}

/// Both networks.
pub struct Twin {
    /// With a forwarding kernel.
    pub kernel: Side,
    /// With Margay.
    pub margay: Side,
    /// Its daemon.
    pub daemon: Arc<Margay>,
    _lab: Arc<Lab>,
}

fn side(lab: &Arc<Lab>, tag: &str) -> Side {
    let router = lab.host(&format!("{tag}r"));
    let wires = std::array::from_fn(|index| {
        let (host, port, _) = PORTS[index];
        let host = lab.host(&format!("{tag}{host}"));
        lab.veth(&router, port, &host, "eth0");
        // The hosts only look on: they answer nothing by themselves.
        host.sh(&format!(
            "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1; ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up",
            text(HOSTS[index])
        ));
        let mtu = if port == "low0" { 1400 } else { 1500 };
        // Captured advertisements and redirects change no routes: a node that does not forward would take them.
        router.sh(&format!(
            "sysctl -qw net.ipv6.conf.{port}.accept_ra=0 net.ipv6.conf.{port}.accept_redirects=0 net.ipv4.conf.{port}.accept_redirects=0"
        ));
        let neighbour = text(HOSTS[index]);
        router.sh(&format!(
            "ip link set {port} down; ip link set {port} address {} mtu {mtu}; ip link set {port} up
             ip addr add 10.{index}.0.1/24 dev {port}; ip -6 addr add fd0{index}::1/64 dev {port} nodad
             ip neigh replace 10.{index}.0.2 lladdr {neighbour} dev {port} nud permanent
             ip -6 neigh replace fd0{index}::2 lladdr {neighbour} dev {port} nud permanent",
            text(ROUTER[index])
        ));
        Wire::open(&host, "eth0")
    });
    router.sh("
        for prefix in 0.0.0.0/1 128.0.0.0/2; do ip route add $prefix via 10.1.0.2; done
        ip route add 10.10.0.0/16 via 10.0.0.2; ip route add 10.20.0.0/16 via 10.2.0.2
        ip route add 10.21.0.0/16 via 10.1.0.2 mtu 600; ip route add 10.22.0.0/16 via 10.1.0.2 mtu 68
        ip -6 route add 2000::/3 via fd01::2; ip -6 route add fd10::/32 via fd00::2
        ip -6 route add fd20::/32 via fd02::2; ip -6 route add fd21::/32 via fd01::2 mtu 1300
        n=30; for kind in unreachable prohibit blackhole; do
          ip route add $kind 10.$n.0.0/16; ip -6 route add $kind fd$n::/32; n=$((n + 1)); done");
    Side {
        wires,
        router,
        sent: 0,
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Twin {
    /// Builds both networks; `more` is added to the configuration of `margayd`, `lists` are its access lists.
    pub fn new(name: &str, more: &str, lists: &[(&str, &str)]) -> Option<Self> {
        let lab = Lab::new(name)?;
        let (kernel, margay) = (side(&lab, "k"), side(&lab, "m"));
        // As Margay does by design: errors come from the port that the packet came in by, no redirects, no flow label made up for an
        // error. Nothing is limited by time.
        kernel.router.sh("
            for set in all default in0 out0 low0; do sysctl -qw net.ipv4.conf.$set.send_redirects=0; done
            sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_errors_use_inbound_ifaddr=1 \\
              net.ipv4.icmp_ratemask=0 net.ipv6.icmp.ratelimit=0 net.ipv6.auto_flowlabels=0 net.ipv4.icmp_msgs_per_sec=1000000 \\
              net.ipv4.icmp_msgs_burst=1000000");
        let ports = format!(
            "[icmp]\nrate = 1000000\nburst = 100000\n[[port]]\nname = \"in0\"\nrole = \"uplink\"\n[[port]]\nname = \"out0\"\nrole = \"uplink\"\n\
             [[port]]\nname = \"low0\"\nrole = \"uplink\"\n{more}"
        );
        let daemon = Margay::start_with(&lab, &margay.router, &ports, lists);
        for (_, port, _) in PORTS {
            daemon.has_port(port);
        }
        daemon.mirrors_kernel();
        Some(Self {
            kernel,
            margay,
            daemon,
            _lab: lab,
        })
    }
}

impl Side {
    /// Sends packets in by `in0`, each with an EtherType, and answers what came out because of each, in order.
    ///
    /// Behind each packet go three marks, one to each host, by which the frames that come out are told apart: what comes out at a host
    /// before the mark of a packet, and after that of the packet before, is there because of it. The kernel and one worker of Margay
    /// both keep the order of what leaves by one port, as long as one core sends.
    ///
    /// # Panics
    /// When a mark does not come out.
    #[track_caller]
    pub fn send(&mut self, packets: &[(u16, Vec<u8>)]) -> Vec<Vec<Out>> {
        sys::pin_to_core(0).expect("there is a first core");
        let mut all: Vec<Vec<Out>> = vec![Vec::new(); packets.len()];
        for (window, outs) in packets.chunks(WINDOW).zip(all.chunks_mut(WINDOW)) {
            let first = self.sent;
            for (ethertype, packet) in window {
                self.wires[0].send(&ethernet(ROUTER[0], HOSTS[0], *ethertype, packet));
                for destination in MARKS {
                    let payload = [MARK, &self.sent.to_be_bytes()].concat();
                    let mark = ipv4(
                        [10, 10, 0, 7].into(),
                        destination.into(),
                        64,
                        17,
                        &udp(None, 7, 7, &payload),
                    );
                    self.wires[0].send(&ethernet(ROUTER[0], HOSTS[0], 0x0800, &mark));
                }
                self.sent += 1;
            }
            for (index, (_, _, at)) in PORTS.into_iter().enumerate() {
                let mut now = first;
                while now < self.sent {
                    let from_router = |frame: &[u8]| {
                        frame.len() >= 14 && frame[..6] == HOSTS[index] && frame[6..12] == ROUTER[index]
                    };
                    let frame = self.wires[index].find(LIMIT, from_router);
                    let frame = frame
                        .unwrap_or_else(|| panic!("the mark of packet {now} does not come out at {at:?}"));
                    match frame.get(42..42 + MARK.len()) {
                        Some(bytes) if bytes == MARK => {
                            let number = frame[42 + MARK.len()..]
                                .first_chunk()
                                .copied()
                                .map(u32::from_be_bytes);
                            assert_eq!(number, Some(now), "no mark overtakes another");
                            now += 1;
                        }
                        _ => outs[(now - first) as usize].push(Out { at, frame }),
                    }
                }
            }
        }
        all
    }

    /// Packets sent so far, the marks counted.
    pub fn sent(&self) -> u64 {
        u64::from(self.sent) * 4
    }
}
