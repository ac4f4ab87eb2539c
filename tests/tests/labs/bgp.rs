//! Routes that real BGP daemons bring: BIRD in one lab, FRR in the other, each also over link-local addresses alone (unnumbered). The sessions themselves run through margayd's uplink, as
//! traffic of the node's own.
//!
//! ```text
//!   a 10.65.0.2 fd65::2 ── cali-a r up0 ── 10.0.0.1 fd00::1 ── 10.0.0.2 fd00::2 ── r0 u 203.0.113.1, 2001:db8:113::1
//!                         (margayd, BGP, AS 64512)                                    (BGP, AS 64513)
//! ```
//! u announces 203.0.113.0/24 and 2001:db8:113::/48, r announces its containers' prefixes. The kernel of r forwards nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tests::host::Program;
use tests::{Host, LIMIT, Lab, Margay, wait_for};

use crate::common::{Node, PORTS};

fn build(name: &str) -> Option<(Node, Host, Arc<Margay>)> {
    let lab = Lab::new(name)?;
    let (r, u) = (lab.host("r"), lab.host("u"));
    lab.veth(&r, "up0", &u, "r0");
    r.sh("ip addr add 10.0.0.1/24 dev up0; ip -6 addr add fd00::1/64 dev up0 nodad");
    u.sh(
        "ip addr add 10.0.0.2/24 dev r0; ip -6 addr add fd00::2/64 dev r0 nodad
          ip addr add 203.0.113.1/32 dev lo; ip -6 addr add 2001:db8:113::1/128 dev lo nodad",
    );
    Some(started(Node { lab, r, u }))
}

/// The node with a workload, and margayd with both its ports open.
fn started(net: Node) -> (Node, Host, Arc<Margay>) {
    let a = net.container("a", 2);
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    margay.has_port("up0");
    margay.has_port("cali-a");
    (net, a, margay)
}

/// What both daemons have to bring about: routes arrive, are withdrawn, arrive again.
fn follow(net: &Node, a: &Host, margay: &Margay, set: impl Fn(bool)) {
    for round in 0..3 {
        for (address, prefix) in [
            ("203.0.113.1", "203.0.113.0/24"),
            ("2001:db8:113::1", "2001:db8:113::/48"),
        ] {
            a.reaches(address);
            let route = margay.route_get(address).expect("a is reached by it");
            assert_eq!(route["route"]["prefix"], prefix, "{route}");
            assert!(route["route"]["nexthops"][0]["dev"] == "up0", "{route}");
            let before = margay.port("cali-a", "forwarded");
            // ping waits two round trips for the last answer, which is not enough on a busy machine: what counts is what went.
            a.try_sh(&format!("ping -n -c 5 -i 0.02 -W 5 {address}"));
            wait_for("five pings are forwarded", LIMIT, || {
                let forwarded = margay.port("cali-a", "forwarded");
                if forwarded >= before + 5 {
                    Ok(())
                } else {
                    Err(forwarded.to_string())
                }
            });
        }
        margay.mirrors_kernel();
        if round == 2 {
            break;
        }
        set(false);
        for address in ["203.0.113.1", "2001:db8:113::1"] {
            wait_for("the withdrawal is followed", LIMIT, || {
                margay.route_get(address).is_none()
            });
            assert!(!a.pings(address), "there is no route any more");
        }
        margay.mirrors_kernel();
        set(true);
    }
    assert_eq!(net.r.get_sysctl("net.ipv4.ip_forward"), "0");
    assert!(
        margay.port("up0", "punted") > 0,
        "the BGP sessions are the kernel's"
    );
    margay.check_sums();
}

#[test]
fn bird() {
    let Some((net, a, margay)) = build("bird") else {
        return;
    };
    let start = |host: &Host, us: u8, own: &str| {
        let (peer, asn, peer_asn) = (3 - us, 64_511 + u32::from(us), 64_514 - u32::from(us));
        let config = format!(
            "log stderr all; router id 10.0.0.{us};
             protocol device {{ scan time 1; }}
             protocol kernel k4 {{ learn; ipv4 {{ import all; export where source = RTS_BGP; }}; }}
             protocol kernel k6 {{ learn; ipv6 {{ import all; export where source = RTS_BGP; }}; }}
             {own}
             template bgp peer {{ local as {asn}; connect delay time 1; connect retry time 1; error wait time 1, 2; }}
             protocol bgp four from peer {{ neighbor 10.0.0.{peer} as {peer_asn}; ipv4 {{ import all; export all; }}; }}
             protocol bgp six from peer {{ neighbor fd00::{peer} as {peer_asn}; ipv6 {{ import all; export all; }}; }}"
        );
        start_bird(host, &config)
    };
    start(&net.r, 1, &statics("10.65.0.0/24", "fd65::/64"));
    let control = start(&net.u, 2, &statics("203.0.113.0/24", "2001:db8:113::/48"));
    follow(&net, &a, &margay, |on| enable(&net.u, &control, on));
}

/// Starts BIRD with a configuration; answers its control socket.
fn start_bird(host: &Host, config: &str) -> PathBuf {
    spawn_bird(host, config).0
}

/// The same; answers the process, too.
pub fn spawn_bird(host: &Host, config: &str) -> (PathBuf, Arc<Program>) {
    let base = host.directory().join(format!("{}-bird", host.name()));
    let (file, control) = (base.with_extension("conf"), base.with_extension("ctl"));
    fs::write(&file, config).expect("the lab's directory can be written");
    let program = host.spawn(
        "bird",
        &format!("bird -f -c {} -s {}", file.display(), control.display()),
    );
    (control, program)
}

/// What a BIRD announces.
pub fn statics(v4: &str, v6: &str) -> String {
    format!(
        "protocol static s4 {{ ipv4; route {v4} unreachable; }} protocol static s6 {{ ipv6; route {v6} unreachable; }}"
    )
}

/// Has BIRD announce its prefixes, or withdraw them.
fn enable(host: &Host, control: &Path, on: bool) {
    let word = if on { "enable" } else { "disable" };
    for name in ["s4", "s6"] {
        host.sh(&format!("birdc -s {} {word} {name}", control.display()));
    }
}

#[test]
fn frr() {
    let Some((net, a, margay)) = build("frr") else {
        return;
    };
    let config = |us: u8, v4: &str, v6: &str| {
        let (peer, asn, peer_asn) = (3 - us, 64_511 + u32::from(us), 64_514 - u32::from(us));
        format!(
            "router bgp {asn}
              bgp router-id 10.0.0.{us}
              no bgp ebgp-requires-policy
              no bgp network import-check
              timers bgp 1 9
              neighbor 10.0.0.{peer} remote-as {peer_asn}
              neighbor 10.0.0.{peer} timers connect 1
              neighbor fd00::{peer} remote-as {peer_asn}
              neighbor fd00::{peer} timers connect 1
              address-family ipv4 unicast
               network {v4}
               no neighbor fd00::{peer} activate
              exit-address-family
              address-family ipv6 unicast
               network {v6}
               neighbor fd00::{peer} activate
              exit-address-family\n"
        )
    };
    start_frr(&net.r, &config(1, "10.65.0.0/24", "fd65::/64"));
    let vtysh = start_frr(&net.u, &config(2, "203.0.113.0/24", "2001:db8:113::/48"));
    follow(&net, &a, &margay, |on| set_networks(&net.u, &vtysh, on));
}

/// Has FRR on u announce its prefixes, or withdraw them.
fn set_networks(u: &Host, vtysh: &str, on: bool) {
    let no = if on { "" } else { "no " };
    u.sh(&format!(
        "{vtysh} -c 'router bgp 64513' -c 'address-family ipv4 unicast' -c '{no}network 203.0.113.0/24' -c exit \
         -c 'address-family ipv6 unicast' -c '{no}network 2001:db8:113::/48'"
    ));
}

/// Starts zebra and bgpd with a configuration; answers the beginning of a command line that configures them.
fn start_frr(host: &Host, config: &str) -> String {
    // Private instances: configuration, sockets and pid files of their own, nothing shared with an FRR of the machine.
    let directory = host.directory().join(format!("{}-frr", host.name()));
    fs::create_dir_all(&directory).expect("the lab's directory can be written");
    fs::write(directory.join("bgpd.conf"), config).expect("the lab's directory can be written");
    fs::write(directory.join("zebra.conf"), "").expect("the lab's directory can be written");
    let path = directory.display();
    // FRR's daemons give up root's rights for those of the user that Debian's package makes.
    host.sh(&format!("chown -R frr:frr {path}"));
    for (daemon, more) in [("zebra", ""), ("bgpd", "-p 179")] {
        host.spawn(
            daemon,
            &format!(
                "/usr/lib/frr/{daemon} -f {path}/{daemon}.conf -z {path}/zserv.api -i {path}/{daemon}.pid \
                     --vty_socket {path} -A 127.0.0.1 -P 0 --log stdout {more}"
            ),
        );
        wait_for(&format!("{daemon} is there"), LIMIT, || {
            directory.join(format!("{daemon}.vty")).exists()
        });
    }
    format!("vtysh --vty_socket {path} -c 'configure terminal'")
}

/// The network without any address but link-local ones on the uplink.
fn unnumbered(name: &str) -> Option<(Node, Host, Arc<Margay>)> {
    let lab = Lab::new(name)?;
    let (r, u) = (lab.host("r"), lab.host("u"));
    lab.veth(&r, "up0", &u, "r0");
    u.sh("ip addr add 203.0.113.1/32 dev lo; ip -6 addr add 2001:db8:113::1/128 dev lo nodad");
    // FRR finds its peer by router advertisements, which are for it alone: a node that forwards nothing would install a default route.
    r.sysctl("net.ipv6.conf.up0.accept_ra", "0");
    u.sysctl("net.ipv6.conf.r0.accept_ra", "0");
    Some(started(Node { lab, r, u }))
}

/// A device's link-local address.
fn link_local(host: &Host, dev: &str) -> String {
    wait_for("a link-local address", LIMIT, || {
        let shown = host.sh(&format!("ip -6 -o addr show dev {dev} scope link -tentative"));
        let address = shown.split_whitespace().nth(3)?;
        address.split('/').next().map(str::to_owned)
    })
}

/// Both families' routes lead to u's link-local address.
fn by_link_local(margay: &Margay, u: &Host) {
    let own = link_local(u, "r0");
    for address in ["203.0.113.1", "2001:db8:113::1"] {
        let route = margay.route_get(address).expect("there is a route");
        assert_eq!(route["nexthop"]["via"], own, "{route}");
        assert_eq!(route["nexthop"]["dev"], "up0", "{route}");
    }
}

#[test]
fn bird_unnumbered() {
    let Some((net, a, margay)) = unnumbered("birdll") else {
        return;
    };
    let (at_r, at_u) = (link_local(&net.r, "up0"), link_local(&net.u, "r0"));
    let start = |host: &Host, us: u8, dev: &str, peer: &str, own: &str| {
        let (asn, peer_asn) = (64_511 + u32::from(us), 64_514 - u32::from(us));
        // The next hops of both families are IPv6 ones (RFC 8950); only link-local ones exist.
        let config = format!(
            "log stderr all; router id 10.0.0.{us};
             protocol device {{ scan time 1; }}
             protocol kernel k4 {{ ipv4 {{ export where source = RTS_BGP; }}; }}
             protocol kernel k6 {{ ipv6 {{ export where source = RTS_BGP; }}; }}
             {own}
             protocol bgp peer {{ local as {asn}; neighbor {peer}%{dev} as {peer_asn};
               connect delay time 1; connect retry time 1; error wait time 1, 2;
               ipv4 {{ import all; export all; extended next hop; next hop self; }};
               ipv6 {{ import all; export all; next hop self; }}; }}"
        );
        start_bird(host, &config)
    };
    start(&net.r, 1, "up0", &at_u, &statics("10.65.0.0/24", "fd65::/64"));
    let control = start(
        &net.u,
        2,
        "r0",
        &at_r,
        &statics("203.0.113.0/24", "2001:db8:113::/48"),
    );
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    by_link_local(&margay, &net.u);
    follow(&net, &a, &margay, |on| enable(&net.u, &control, on));
}

#[test]
fn frr_unnumbered() {
    let Some((net, a, margay)) = unnumbered("frrll") else {
        return;
    };
    let config = |us: u8, dev: &str, v4: &str, v6: &str| {
        let asn = 64_511 + u32::from(us);
        format!(
            "router bgp {asn}
              bgp router-id 10.0.0.{us}
              no bgp ebgp-requires-policy
              no bgp network import-check
              timers bgp 1 9
              neighbor {dev} interface remote-as external
              neighbor {dev} timers connect 1
              address-family ipv4 unicast
               network {v4}
              exit-address-family
              address-family ipv6 unicast
               network {v6}
               neighbor {dev} activate
              exit-address-family\n"
        )
    };
    start_frr(&net.r, &config(1, "up0", "10.65.0.0/24", "fd65::/64"));
    let vtysh = start_frr(&net.u, &config(2, "r0", "203.0.113.0/24", "2001:db8:113::/48"));
    a.reaches("203.0.113.1");
    a.reaches("2001:db8:113::1");
    by_link_local(&margay, &net.u);
    follow(&net, &a, &margay, |on| set_networks(&net.u, &vtysh, on));
}
