//! What must work on every kernel with every driver: forwarding, the node's own traffic, answers, access lists, the end.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::common::{Router, expected, ports, router_with};

/// Pings through, to and from the router, a route trace, a list that denies, 2,000 datagrams each way, and the end.
fn lab(kind: &str) {
    let lists = [(
        "edge",
        "[[acl]]\nname = \"edge\"\ndefault = \"allow\"\n[[acl.rule]]\naction = \"deny\"\nproto = \"tcp\"\ndport = [81]\n",
    )];
    let config = format!(
        "{}acl = {{ ingress = \"edge\" }}\non_exit = \"kernel\"\n",
        ports("auto")
    );
    let Some(router) = router_with(&format!("core-{kind}"), kind, &config, &lists) else {
        return;
    };
    assert_eq!(router.mode(), expected(kind), "what mode = \"auto\" obtains");
    local(&router);
    answers(&router);
    denied(&router);
    router.conserves(4_000, 1_400);
    router.finish();
}

/// The node's own traffic is the kernel's, in both directions.
fn local(router: &Router) {
    let (r, u) = (&router.net.r, &router.net.u);
    for address in ["10.0.0.1", "fd00::1", "10.1.0.1"] {
        u.reaches(address);
    }
    for address in ["10.0.0.2", "fd01::2"] {
        r.reaches(address);
    }
    let server = r.spawn("iperf3-node", "iperf3 -s -1");
    tests::wait_for("iperf3 listens", tests::LIMIT, || {
        r.sh("ss -Hltn").contains(":5201 ")
    });
    u.sh("iperf3 -c 10.0.0.1 -n 200K");
    tests::wait_for("the iperf3 server ends", tests::LIMIT, || server.exited());
}

/// The router answers what it cannot forward.
fn answers(router: &Router) {
    let u = &router.net.u;
    for (family, target, first) in [("-4", "10.1.0.2", "10.0.0.1"), ("-6", "fd01::2", "fd00::1")] {
        let out = u.sh(&format!("traceroute {family} -n -w 5 -q 2 -N 1 -m 4 {target}"));
        let hops: Vec<&str> = out.lines().skip(1).collect();
        assert!(
            hops.len() == 2 && hops[0].contains(first) && hops[1].contains(target),
            "the router and the target: {out}"
        );
    }
    let out = u.try_sh("ping -n -c 1 -W 5 203.0.113.9").out;
    assert!(
        out.contains("Net Unreachable") || out.contains("Host Unreachable"),
        "{out}"
    );
}

/// The ingress list denies one port and nothing else.
fn denied(router: &Router) {
    let (u, v) = (&router.net.u, &router.net.v);
    let listening = [80, 81].map(|port| {
        let listener = v.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        listener.expect("the port is free")
    });
    let connects = |port, limit| {
        let to = SocketAddr::from((Ipv4Addr::new(10, 1, 0, 2), port));
        u.enter(|| TcpStream::connect_timeout(&to, limit)).is_ok()
    };
    assert!(connects(80, tests::LIMIT), "port 80 is allowed");
    assert!(!connects(81, Duration::from_secs(2)), "port 81 is denied");
    drop(listening);
    assert!(
        router.margay.drops("acl_ingress") > 0,
        "{}",
        router.margay.json("drops")
    );
}

#[test]
fn virtio_net() {
    lab("virtio_net");
}

#[test]
fn igb() {
    lab("igb");
}

#[test]
fn e1000e() {
    lab("e1000e");
}

#[test]
fn virtio_net_copy() {
    lab("virtio_net_copy");
}
