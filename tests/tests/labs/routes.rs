//! Every type of route that the kernel knows: each is followed by traffic, and the mirror equals the kernel after each.
//!
//! ```text
//!   a 10.65.0.2 fd65::2 ── cali-a ┐          ┌ up0 10.0.0.1 fd00::1   ──── 10.0.0.2 fd00::2   r0 ┐
//!                                 ├─ r ──────┤                                                   ├─ u (203.0.113.0/24 and
//!   b 10.65.0.3 fd65::3 ── cali-b ┘ margayd  ├ up1 10.0.1.1 fd00:1::1 ──── 10.0.1.2 fd00:1::2 r1 ┤   2001:db8:113::/64 are its own)
//!                                            └ other 10.0.2.1 ──────────── 10.0.2.2           r2 ┘   (other is no port)
//! ```

use std::net::UdpSocket;
use std::sync::Arc;

use tests::{Host, Lab, Margay};

use crate::common::PORTS;

pub struct Net {
    pub a: Host,

    pub r: Host,
    pub u: Host,
    pub margay: Arc<Margay>,
    pub lab: Arc<Lab>,
}

pub fn build(name: &str, tables: &str) -> Option<Net> {
    let lab = Lab::new(name)?;
    let (r, u) = (lab.host("r"), lab.host("u"));
    lab.veth(&r, "up0", &u, "r0");
    lab.veth(&r, "up1", &u, "r1");
    lab.veth(&r, "other", &u, "r2");
    r.sh(
        "ip addr add 10.0.0.1/24 dev up0; ip -6 addr add fd00::1/64 dev up0 nodad
          ip addr add 10.0.1.1/24 dev up1; ip -6 addr add fd00:1::1/64 dev up1 nodad
          ip addr add 10.0.2.1/24 dev other",
    );
    // All of 203.0.113.0/24 and 2001:db8:113::/64 is u itself, so that every address in there answers.
    u.sh(
        "ip addr add 10.0.0.2/24 dev r0; ip -6 addr add fd00::2/64 dev r0 nodad
          ip addr add 10.0.1.2/24 dev r1; ip -6 addr add fd00:1::2/64 dev r1 nodad
          ip addr add 10.0.2.2/24 dev r2
          ip route add local 203.0.113.0/24 dev lo; ip -6 route add local 2001:db8:113::/64 dev lo
          ip route add 10.65.0.0/24 via 10.0.0.1; ip -6 route add fd65::/64 via fd00::1",
    );
    let a = lab.container("a", &r, "cali-a", "10.65.0.2", "fd65::2");
    lab.container("b", &r, "cali-b", "10.65.0.3", "fd65::3");
    let margay = Margay::start(&lab, &r, &format!("{PORTS}{tables}"));
    for port in ["up0", "up1", "cali-a", "cali-b"] {
        margay.has_port(port);
    }
    Some(Net { a, r, u, margay, lab })
}

impl Net {
    /// Changes the kernel's routes and waits until the mirror has followed.
    #[track_caller]
    pub fn change(&self, script: &str) {
        self.r.sh(script);
        self.margay.mirrors_kernel();
    }

    /// `address` is reached from container a, and what goes there leaves by `port` and by no other.
    #[track_caller]
    pub fn goes(&self, address: &str, port: &str) {
        self.goes_among(address, port, &["up0", "up1", "cali-b"]);
    }

    /// The same where other traffic uses other ports than these.
    #[track_caller]
    pub fn goes_among(&self, address: &str, port: &str, ports: &[&str]) {
        self.a.reaches(address);
        let count = |port: &str| self.margay.port(port, "tx_packets");
        let before: Vec<u64> = ports.iter().map(|port| count(port)).collect();
        let out = self.a.sh(&format!("ping -n -c 5 -i 0.02 -W 5 {address}"));
        assert!(out.contains("5 received"), "{out}");
        for (&name, before) in ports.iter().zip(before) {
            let more = count(name) - before;
            assert_eq!(more, if name == port { 5 } else { 0 }, "to {address} by {name}");
        }
    }

    /// Changes the kernel's routes; 203.0.113.HOST and 2001:db8:113::HOST then go by `port`.
    #[track_caller]
    fn leads(&self, script: &str, host: u8, port: &str) {
        self.change(script);
        self.both_go(host, port);
    }

    /// 203.0.113.HOST and 2001:db8:113::HOST go by `port`.
    #[track_caller]
    fn both_go(&self, host: u8, port: &str) {
        self.goes(&format!("203.0.113.{host}"), port);
        self.goes(&format!("2001:db8:113::{host}"), port);
    }

    /// A ping of `address` from container a is answered by an error that contains one of `words`.
    #[track_caller]
    pub fn refused(&self, address: &str, words: &[&str]) {
        tests::wait_for(&format!("a ping of {address} is refused"), tests::LIMIT, || {
            let out = self.a.try_sh(&format!("ping -n -c 1 -W 1 {address}")).out;
            if words.iter().any(|word| out.contains(word)) {
                Ok(())
            } else {
                Err(out)
            }
        });
    }

    /// Sends a datagram each of 400 flows to `address` and answers how many left by up0 and up1.
    #[track_caller]
    pub fn spread(&self, address: &str) -> (u64, u64) {
        self.a.reaches(address.trim_matches(['[', ']']));
        let count = || {
            (
                self.margay.port("up0", "tx_packets"),
                self.margay.port("up1", "tx_packets"),
            )
        };
        let before = count();
        let any = if address.starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        for port in 0..400 {
            let socket = self.a.enter(|| UdpSocket::bind(any)).expect("a UDP port is free");
            // Nobody listens there: the socket may hear of that, but each is used only once.
            socket
                .send_to(b"x", format!("{address}:{}", 20_000 + port))
                .expect("a datagram is sent");
        }
        tests::wait_for("all 400 datagrams are sent on", tests::LIMIT, || {
            let now = count();
            let more = (now.0 - before.0, now.1 - before.1);
            if more.0 + more.1 >= 400 {
                Ok(more)
            } else {
                Err(format!("{more:?}"))
            }
        })
    }

    #[track_caller]
    pub fn finish(&self) {
        self.margay.mirrors_kernel();
        self.margay.check_sums();
    }
}

#[test]
fn unicast() {
    let Some(net) = build("unicast", "") else { return };
    net.margay.mirrors_kernel();
    // Connected, and a device route without gateway to another container.
    net.goes("10.0.0.2", "up0");
    net.goes("fd00:1::2", "up1");
    net.goes("10.65.0.3", "cali-b");
    net.goes("fd65::3", "cali-b");
    // By a gateway.
    net.leads(
        "ip route add 203.0.113.1 via 10.0.1.2; ip -6 route add 2001:db8:113::1 via fd00:1::2",
        1,
        "up1",
    );
    // By a device alone, the destination on the link.
    net.change("ip route add 203.0.113.2 dev up1 scope link");
    net.goes("203.0.113.2", "up1");
    // IPv4 by an IPv6 next hop (RFC 8950), global and link-local.
    net.change("ip route add 203.0.113.3 via inet6 fd00:1::2 dev up1");
    net.goes("203.0.113.3", "up1");
    net.u.sh("ip -6 addr add fe80::22/64 dev r1 nodad");
    net.leads(
        "ip route add 203.0.113.4 via inet6 fe80::22 dev up1; ip -6 route add 2001:db8:113::4 via fe80::22 dev up1",
        4,
        "up1",
    );
    // A gateway that only onlink makes reachable.
    net.u.sh("ip addr add 172.30.9.9/32 dev r1");
    net.change("ip route add 203.0.113.5 via 172.30.9.9 dev up1 onlink");
    net.goes("203.0.113.5", "up1");
    // The default route, and a more specific one that comes and goes.
    net.leads(
        "ip route add default via 10.0.0.2; ip -6 route add default via fd00::2",
        200,
        "up0",
    );
    net.leads(
        "ip route add 203.0.113.192/26 via 10.0.1.2; ip -6 route add 2001:db8:113::200/120 via fd00:1::2",
        200,
        "up1",
    );
    net.leads(
        "ip route del 203.0.113.192/26; ip -6 route del 2001:db8:113::200/120",
        200,
        "up0",
    );
    // Replaced in place.
    net.leads(
        "ip route replace default via 10.0.1.2; ip -6 route replace default via fd00:1::2",
        200,
        "up1",
    );
    let route = net
        .margay
        .route_get("203.0.113.200")
        .expect("there is a default route");
    assert_eq!(route["route"]["prefix"], "0.0.0.0/0", "{route}");
    assert_eq!(route["nexthop"]["via"], "10.0.1.2", "{route}");
    net.finish();
}

#[test]
fn metrics() {
    let Some(net) = build("metrics", "") else { return };
    // The lowest metric wins, whatever the order of arrival; the next best takes over.
    net.leads(
        "ip route add 203.0.113.8 via 10.0.1.2 metric 20; ip route add 203.0.113.8 via 10.0.0.2 metric 10
         ip -6 route add 2001:db8:113::8 via fd00:1::2 metric 20; ip -6 route add 2001:db8:113::8 via fd00::2 metric 10",
        8,
        "up0",
    );
    net.leads(
        "ip route del 203.0.113.8 metric 10; ip -6 route del 2001:db8:113::8 metric 10",
        8,
        "up1",
    );
    net.leads(
        "ip route add 203.0.113.8 via 10.0.0.2 metric 5; ip -6 route add 2001:db8:113::8 via fd00::2 metric 5",
        8,
        "up0",
    );
    net.finish();
}

#[test]
fn multipath() {
    let Some(net) = build("multipath", "") else { return };
    net.change(
        "ip route add 203.0.113.16 nexthop via 10.0.0.2 weight 1 nexthop via 10.0.1.2 weight 3
         ip -6 route add 2001:db8:113::16 nexthop via fd00::2 weight 1 nexthop via fd00:1::2 weight 3",
    );
    for address in ["203.0.113.16", "[2001:db8:113::16]"] {
        let (light, heavy) = net.spread(address);
        // A quarter of 400 flows; a hash may deviate, equal shares or a single path may not pass.
        assert!(
            (50..=150).contains(&light),
            "{light} and {heavy} of 400 for weights 1 and 3 to {address}"
        );
    }
    net.change(
        "ip route replace 203.0.113.16 nexthop via 10.0.0.2 nexthop via 10.0.1.2
         ip -6 route del 2001:db8:113::16; ip -6 route add 2001:db8:113::16 nexthop via fd00::2 nexthop via fd00:1::2",
    );
    for address in ["203.0.113.16", "[2001:db8:113::16]"] {
        let (one, other) = net.spread(address);
        assert!(
            (140..=260).contains(&one),
            "{one} and {other} of 400 for equal weights to {address}"
        );
    }
    // One flow stays on one path.
    let before = (
        net.margay.port("up0", "tx_packets"),
        net.margay.port("up1", "tx_packets"),
    );
    net.a.sh("ping -n -c 20 -i 0.01 -W 5 203.0.113.16");
    let after = (
        net.margay.port("up0", "tx_packets"),
        net.margay.port("up1", "tx_packets"),
    );
    assert!(
        after.0 == before.0 || after.1 == before.1,
        "one flow took both paths: {before:?} {after:?}"
    );
    net.finish();
}

#[test]
fn nexthop_objects() {
    let Some(net) = build("nexthops", "") else { return };
    net.leads(
        "ip nexthop add id 10 via 10.0.0.2 dev up0; ip nexthop add id 11 via 10.0.1.2 dev up1
         ip nexthop add id 60 via fd00::2 dev up0; ip nexthop add id 61 via fd00:1::2 dev up1
         ip route add 203.0.113.20 nhid 10; ip -6 route add 2001:db8:113::20 nhid 60",
        20,
        "up0",
    );
    // The object changes, the routes that use it follow.
    net.leads(
        "ip nexthop replace id 10 via 10.0.1.2 dev up1; ip nexthop replace id 60 via fd00:1::2 dev up1",
        20,
        "up1",
    );
    net.change("ip nexthop replace id 10 via 10.0.0.2 dev up0; ip nexthop replace id 60 via fd00::2 dev up0");
    // Groups with weights.
    net.change(
        "ip nexthop add id 100 group 10,1/11,3; ip nexthop add id 160 group 60,1/61,3
         ip route add 203.0.113.21 nhid 100; ip -6 route add 2001:db8:113::21 nhid 160",
    );
    for address in ["203.0.113.21", "[2001:db8:113::21]"] {
        let (light, heavy) = net.spread(address);
        assert!(
            (50..=150).contains(&light),
            "{light} and {heavy} of 400 for weights 1 and 3 to {address}"
        );
    }
    // A nexthop object that goes takes its routes with it, without a message for each.
    net.change("ip nexthop del id 10; ip nexthop del id 60");
    assert!(
        net.margay.route_get("203.0.113.20").is_none(),
        "its nexthop object is gone"
    );
    net.goes("203.0.113.21", "up1");
    net.finish();
}

#[test]
fn types() {
    let Some(net) = build("types", "") else { return };
    net.change(
        "ip route add default via 10.0.0.2; ip -6 route add default via fd00::2
         ip route add blackhole 203.0.113.30; ip route add unreachable 203.0.113.31; ip route add prohibit 203.0.113.32
         ip -6 route add blackhole 2001:db8:113::30; ip -6 route add unreachable 2001:db8:113::31
         ip -6 route add prohibit 2001:db8:113::32",
    );
    net.goes("203.0.113.33", "up0");
    let before = net.margay.drops("blackhole");
    for address in ["203.0.113.30", "2001:db8:113::30"] {
        let done = net.a.try_sh(&format!("ping -n -c 3 -i 0.05 -W 1 {address}"));
        assert!(
            done.out.contains("0 received") && !done.out.contains("errors"),
            "silence: {}",
            done.out
        );
    }
    tests::wait_for("six packets count as blackholed", tests::LIMIT, || {
        net.margay.drops("blackhole") == before + 6
    });
    let replied = net.margay.port("cali-a", "replied");
    net.refused("203.0.113.31", &["Destination Host Unreachable"]);
    net.refused("203.0.113.32", &["Packet filtered", "Prohibited"]);
    net.refused("2001:db8:113::31", &["Address unreachable", "No route"]);
    net.refused("2001:db8:113::32", &["Administratively prohibited"]);
    assert!(net.margay.port("cali-a", "replied") >= replied + 4);
    // No route at all.
    net.change("ip route del default; ip -6 route del default");
    net.refused("203.0.113.33", &["Destination Net Unreachable"]);
    net.refused("2001:db8:113::33", &["No route"]);
    assert!(net.margay.route_get("203.0.113.33").is_none());
    // By a device that is no port.
    net.change("ip route add 203.0.113.34 via 10.0.2.2");
    net.refused("203.0.113.34", &["Unreachable"]);
    // Throw, which says: go on with the next table, of which there is none.
    net.change("ip route add default via 10.0.0.2; ip route add throw 203.0.113.35");
    net.refused("203.0.113.35", &["Unreachable"]);
    net.finish();
}

#[test]
fn tables() {
    let Some(net) = build("tables", "[kernel]\ntables = [100, 254]\n") else {
        return;
    };
    // Container a's /32 in the main table is looked up after table 100.
    net.change(
        "ip route add 203.0.113.40 via 10.0.0.2; ip route add 203.0.113.40 via 10.0.1.2 table 100
         ip -6 route add 2001:db8:113::40 via fd00::2; ip -6 route add 2001:db8:113::40 via fd00:1::2 table 100
         ip route add 203.0.113.41 via 10.0.0.2; ip route add 203.0.113.41 via 10.0.1.2 table 101",
    );
    net.margay.mirrors_table(100);
    net.both_go(40, "up1");
    net.goes("203.0.113.41", "up0");
    let shown = net.margay.json("route show --table 100");
    let routes = tests::margay::list(&shown, "routes");
    assert_eq!(routes.len(), 2, "{shown}");
    net.r.sh("ip route flush table 100; ip -6 route flush table 100");
    net.margay.mirrors_table(100);
    net.both_go(40, "up0");
    net.finish();
}
