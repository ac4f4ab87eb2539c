//! Nothing that the lists forbid gets through, whatever margayd is doing: while it is killed and started, ended and started, started with
//! a broken list, while workloads appear, through devices stacked upon a port, by queues that have no socket, and between a port and an
//! interface that is none. Every list denies everything, the kernel would forward, and forbidden packets come all the time.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a ┐
//!   x* 10.65.0.1*─ cali-x*┼─ r (margayd, ip_forward=1) up0 ══ 4 queues ══ r0 u 203.0.113.1
//!   o 10.2.0.2 ──── none0 ┘   (none0 is no port)
//! ```

use std::sync::Arc;

use tests::traffic::Stream;
use tests::{Host, LIMIT, Lab, Link, Margay, lab, wait_for};

use crate::common::{Node, PORTS, address};

/// Nothing may pass, in either direction, on any port. The heartbeat's patience is a product's, not a lab's.
fn closed(ports: &str) -> String {
    let lists = "acl = { ingress = \"none\", egress = \"none\" }\n";
    let runtime =
        "[runtime]\nprofile = \"adaptive\"\nworkers = [0]\nframes = 4096\nstall_after = \"100ms\"\n";
    format!(
        "{runtime}{}",
        ports.replace("role = ", &format!("{lists}role = "))
    )
}

const NONE: &str = "[[acl]]\nname = \"none\"\ndefault = \"deny\"\n";
const ALL: &str = "[[acl]]\nname = \"none\"\ndefault = \"allow\"\n";

struct Net {
    node: Node,
    a: Host,
    o: Host,
    margay: Arc<Margay>,
    floods: Vec<(&'static str, Stream)>,
}

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().expect("an address")
}

/// The network with margayd ready and every flood running.
fn build(name: &str) -> Option<Net> {
    let lab = Lab::new(name)?;
    let (r, u) = (lab.host("r"), lab.host("u"));
    let link = Link {
        near: (4, 4),
        far: (4, 4),
    };
    lab.veth_with(&r, "up0", &u, "r0", link);
    address(&r, &u);
    r.sysctl("net.ipv4.ip_forward", "1");
    r.sysctl("net.ipv6.conf.all.forwarding", "1");
    let node = Node { lab, r, u };
    let a = node.container("a", 2);
    let o = node.lab.host("o");
    node.lab.veth(&node.r, "none0", &o, "eth0");
    node.r.sh("ip addr add 10.2.0.1/24 dev none0");
    o.sh("ip addr add 10.2.0.2/24 dev eth0; ip route add default via 10.2.0.1");
    node.u.sh("ip route add 10.2.0.0/24 via 10.0.0.1");
    // Without margayd the kernel forwards it all: what is stopped later is stopped by margayd.
    a.reaches("203.0.113.1");
    o.reaches("203.0.113.1");
    o.reaches("10.65.0.2");
    let margay = Margay::start_with(&node.lab, &node.r, &closed(PORTS), &[("none", NONE)]);
    for port in ["up0", "cali-a"] {
        margay.has_port(port);
    }
    let mut net = Net {
        node,
        a,
        o,
        margay,
        floods: Vec::new(),
    };
    net.flood();
    Some(net)
}

impl Net {
    /// 20,000 forbidden packets a second in all.
    fn flood(&mut self) {
        let (u, a, o) = (&self.node.u, &self.a, &self.o);
        let start =
            |from: &Host, to: &Host, address: &str, rate| Stream::at_rate(from, to, ip(address), 16, rate);
        self.floods = vec![
            ("from a workload", start(a, u, "203.0.113.1", 8_000)),
            ("to a workload", start(u, a, "10.65.0.2", 8_000)),
            ("IPv6 from a workload", start(a, u, "2001:db8:113::1", 1_000)),
            ("to a workload from no port", start(o, a, "10.65.0.2", 1_000)),
            ("to no port from a workload", start(a, o, "10.2.0.2", 1_000)),
            (
                "from no port through a closed uplink",
                start(o, u, "203.0.113.1", 1_000),
            ),
        ];
    }

    #[track_caller]
    fn tight(&self, when: &str) {
        for (what, flood) in &self.floods {
            let tally = flood.so_far();
            assert_eq!(tally.received, 0, "{what}, {when}: {tally:?}");
        }
    }

    /// Packets of the floods have been sent since then.
    #[track_caller]
    fn go_on(&self, when: &str) {
        let sent = |net: &Self| -> Vec<u64> {
            let floods = net.floods.iter();
            floods.map(|(_, flood)| flood.so_far().sent).collect()
        };
        let before = sent(self);
        wait_for("the floods go on", LIMIT, || {
            sent(self).iter().zip(&before).all(|(now, then)| *now > then + 20)
        });
        self.tight(when);
    }

    /// With lists that allow everything, what may arrive does: the floods are such that they would have been seen.
    #[track_caller]
    fn opens(self) {
        let sent: u64 = self.floods.iter().map(|(_, flood)| flood.so_far().sent).sum();
        self.tight("at the end");
        self.margay.write_acl("none", ALL);
        assert_eq!(self.margay.run("acl reload").code, 0);
        for (what, flood) in &self.floods {
            if !what.contains("no port") {
                flood.flows_on(20);
            }
        }
        lab::announce(&format!("leaks: 0 of {sent} forbidden packets arrived"));
        for (_, flood) in self.floods {
            assert_eq!(flood.stop().corrupt, 0);
        }
        self.margay.check_sums();
    }
}

/// How often: 200 times is what the project promises, a few show that it still works.
fn times() -> u32 {
    if lab::soak() { 200 } else { 10 }
}

#[test]
fn killed_and_started() {
    let Some(net) = build("leak-kill") else { return };
    for round in 0..times() {
        net.margay.process().signal(libc::SIGKILL);
        wait_for("the process ends", LIMIT, || net.margay.process().exited());
        net.go_on(&format!("killed, round {round}"));
        net.margay.launch();
        net.go_on(&format!("starting after a kill, round {round}"));
        net.margay.ready();
        net.go_on(&format!("started after a kill, round {round}"));
    }
    net.opens();
}

#[test]
fn ended_and_started() {
    let Some(net) = build("leak-term") else { return };
    for round in 0..times() {
        assert_eq!(net.margay.terminate(), 0);
        net.go_on(&format!("ended, round {round}"));
        net.margay.launch();
        net.margay.ready();
        net.go_on(&format!("started, round {round}"));
    }
    net.opens();
}

/// A start that a broken list stops opens nothing, and a reload of one changes nothing.
#[test]
fn broken_lists() {
    let Some(net) = build("leak-broken") else { return };
    for broken in [
        "[[acl]]\nname = \"none\"\ndefault = \"alow\"\n",
        "[[acl]\n",
        "\u{0}",
    ] {
        net.margay.write_acl("none", broken);
        assert_eq!(net.margay.run("acl reload").code, 6, "{broken}");
        net.go_on("a broken list was not taken");
        net.margay.process().signal(libc::SIGKILL);
        wait_for("the process ends", LIMIT, || net.margay.process().exited());
        let process = net.margay.launch();
        let code = wait_for("the start with a broken list fails", LIMIT, || process.exited());
        assert_eq!(code, 6, "{}", process.log_tail(20));
        net.go_on("after a start with a broken list");
        net.margay.write_acl("none", NONE);
        net.margay.launch();
        net.margay.ready();
        net.go_on("the list is mended");
    }
    // A port whose list is gone denies everything.
    let folder = net.margay.config().with_file_name("acl.d");
    std::fs::remove_file(folder.join("none.toml")).expect("the lab's directory can be written");
    assert_eq!(net.margay.run("acl reload").code, 0);
    net.go_on("the list is gone");
    net.opens();
}

/// Workloads that flood from the moment that they exist, while margayd runs and while it does not.
#[test]
fn new_workloads() {
    let Some(mut net) = build("leak-new") else { return };
    for round in 0..if lab::soak() { 20 } else { 3 } {
        for away in [false, true] {
            if away {
                net.margay.process().signal(libc::SIGKILL);
                wait_for("the process ends", LIMIT, || net.margay.process().exited());
            }
            let name = format!("x{round}{}", u8::from(away));
            let x = net.node.container(&name, 10 + 2 * round + u8::from(away));
            let flood = Stream::at_rate(&x, &net.node.u, ip("203.0.113.1"), 4, 2_000);
            net.floods.push(("from a workload that has just appeared", flood));
            net.go_on("a workload appears");
            if away {
                net.margay.launch();
                net.margay.ready();
            }
            net.margay.has_port(&format!("cali-{name}"));
            net.go_on("the new workload is a port");
        }
    }
    net.opens();
}

impl Net {
    /// A device stacked upon the workload's port: a VLAN, or a macvlan where the kernel has none; the guard looks at the name alone.
    /// `None` when the kernel has neither.
    fn stack(&self, name: &str) -> Option<&'static str> {
        let add = |words: &str| {
            let line = format!("ip link add link cali-a name {name} type {words}");
            self.node.r.try_sh(&line).code == 0
        };
        let far = if add("vlan id 7") {
            self.a
                .sh("ip link add link eth0 name eth0.7 type vlan id 7; ip link set eth0.7 up");
            "eth0.7"
        } else if add("macvlan mode bridge") {
            "eth0"
        } else {
            lab::skip(
                &format!("leaks, {name}"),
                "this kernel has neither vlan nor macvlan",
            );
            return None;
        };
        Some(far)
    }

    /// Packets from the workload through the stacked device to a host behind an interface that is no port: nothing but the guard of that
    /// very device is in their way.
    fn flood_through(&mut self, name: &str, far: &str) {
        let (r, a) = (&self.node.r, &self.a);
        r.sh(&format!(
            "ip addr add 10.66.0.1/24 dev {name}; ip link set {name} up"
        ));
        a.sh(&format!(
            "ip addr add 10.66.0.2/24 dev {far}; ip route add 10.2.0.2/32 via 10.66.0.1"
        ));
        // The path is there: the node itself answers on it.
        a.reaches("10.66.0.1");
        let flood = Stream::at_rate(a, &self.o, ip("10.2.0.2"), 4, 2_000);
        self.floods.push(("through a stacked device", flood));
        self.go_on("through a stacked device");
    }

    fn away(&self, killed: bool) {
        if killed {
            self.margay.process().signal(libc::SIGKILL);
            wait_for("the process ends", LIMIT, || self.margay.process().exited());
        } else {
            assert_eq!(self.margay.terminate(), 0);
        }
        self.go_on("through a stacked device, margayd away");
    }

    fn back(&self) {
        self.margay.launch();
        self.go_on("through a stacked device, margayd starting");
        self.margay.ready();
        self.go_on("through a stacked device, margayd back");
    }

    /// Without the guard what was last let loose gets through: it was a real flood.
    #[track_caller]
    fn was_real(mut self) {
        let (_, flood) = self.floods.pop().expect("it was just added");
        assert_eq!(self.margay.terminate(), 0);
        assert_eq!(self.margay.run("release --all").code, 0);
        flood.flows_on(20);
    }
}

/// A device stacked upon a port has a name of its own. What the workload sends to it is the kernel's, and the kernel must not forward it:
/// neither while margayd runs nor afterwards.
#[test]
fn stacked_devices() {
    let Some(mut net) = build("leak-stack") else {
        return;
    };
    let Some(far) = net.stack("sneak0") else { return };
    wait_for("the guard knows the device upon the port", LIMIT, || {
        let table = net.node.r.sh("nft list table inet margay");
        if table.contains("\"sneak0\"") {
            Ok(())
        } else {
            Err(table)
        }
    });
    net.flood_through("sneak0", far);
    for round in 0..if lab::soak() { 20 } else { 2 } {
        net.away(round % 2 == 0);
        net.back();
    }
    net.was_real();
}

/// A sub-interface that appears upon a closed port while margayd is away is guarded by its name, which begins with the port's.
#[test]
fn sub_interfaces_while_away() {
    let Some(mut net) = build("leak-away") else {
        return;
    };
    net.away(true);
    let Some(far) = net.stack("cali-a.7") else { return };
    net.flood_through("cali-a.7", far);
    for round in 0..if lab::soak() { 20 } else { 2 } {
        net.back();
        net.away(round % 2 == 0);
    }
    net.back();
    net.was_real();
}

/// Packets on queues that no socket serves: more queues are turned on behind margayd's back.
#[test]
fn queues_without_a_socket() {
    let Some(net) = build("leak-queue") else { return };
    let before = net.margay.port("up0", "queues");
    assert_eq!(before, 4, "every queue has a socket");
    let ethtool = |count: u32| {
        net.node
            .r
            .try_sh(&format!("ethtool -L up0 rx {count} tx {count}"))
    };
    // Fewer queues while it starts, more afterwards.
    net.margay.process().signal(libc::SIGKILL);
    wait_for("the process ends", LIMIT, || net.margay.process().exited());
    assert_eq!(ethtool(1).code, 0, "{:?}", ethtool(1));
    net.node.u.sh("ethtool -L r0 rx 1 tx 1");
    net.margay.launch();
    net.margay.ready();
    net.margay.has_port("up0");
    assert_eq!(net.margay.port("up0", "queues"), 1);
    net.go_on("one queue");
    assert_eq!(ethtool(4).code, 0, "{:?}", ethtool(4));
    net.node.u.sh("ethtool -L r0 rx 4 tx 4");
    net.go_on("queues that margayd does not know");
    for count in [2, 4, 3, 4] {
        ethtool(count);
        net.go_on("the number of queues changes");
    }
    net.opens();
}
