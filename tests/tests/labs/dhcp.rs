//! DHCP through ports: a server on the node serves a workload, a client on the node gets its own address by its uplink.
//!
//! ```text
//!   c (DHCP client) ── cali-c r (margayd; DHCP server on cali-c, DHCP client on up0) up0 ── r0 u (DHCP server)
//! ```

use std::fs;

use tests::{Host, LIMIT, Lab, Margay, wait_for};

use crate::common::PORTS;

/// Starts BusyBox's server on a device.
fn serve(host: &Host, device: &str, first: &str, last: &str, router: &str) {
    let base = host.directory().join(format!("{}-udhcpd", host.name()));
    let leases = base.with_extension("leases");
    fs::write(&leases, "").expect("the lab's directory can be written");
    let config = format!(
        "start {first}\nend {last}\ninterface {device}\nlease_file {}\npidfile {}\nopt subnet 255.255.255.0\nopt router {router}\nopt lease 3600\n",
        leases.display(),
        base.with_extension("pid").display()
    );
    let file = base.with_extension("conf");
    fs::write(&file, config).expect("the lab's directory can be written");
    host.spawn("udhcpd", &format!("busybox udhcpd -f {}", file.display()));
}

/// Runs BusyBox's client until it has a lease, which a script of ours applies.
fn lease(host: &Host, device: &str) {
    let script = host.directory().join(format!("{}-udhcpc.sh", host.name()));
    let text = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr replace $ip/24 dev $interface\nip route replace default via $router\n";
    fs::write(&script, text).expect("the lab's directory can be written");
    host.sh(&format!("chmod 755 {}", script.display()));
    wait_for(&format!("{} gets a lease", host.name()), LIMIT, || {
        let done = host.try_sh(&format!(
            "busybox udhcpc -f -q -n -t 5 -T 1 -i {device} -s {}",
            script.display()
        ));
        if done.code == 0 {
            Ok(())
        } else {
            Err(format!("{}{}", done.out, done.err))
        }
    });
}

#[test]
fn leases() {
    let Some(lab) = Lab::new("dhcp") else { return };
    let [c, r, u] = ["c", "r", "u"].map(|name| lab.host(name));
    lab.veth(&r, "up0", &u, "r0");
    lab.veth(&r, "cali-c", &c, "eth0");
    u.sh("ip addr add 10.0.0.2/24 dev r0; ip addr add 203.0.113.1/32 dev lo; ip route add 10.70.0.0/24 via 10.0.0.50");
    let margay = Margay::start(&lab, &r, PORTS);
    margay.has_port("up0");
    margay.has_port("cali-c");
    // The node as a client: it has no address yet, and the answers come for the one that it is about to get.
    serve(&u, "r0", "10.0.0.50", "10.0.0.50", "10.0.0.2");
    let punted = margay.port("up0", "punted");
    lease(&r, "up0");
    assert!(
        margay.port("up0", "punted") > punted,
        "the server's answers are the kernel's"
    );
    margay.mirrors_kernel();
    assert_eq!(
        margay.route_get("203.0.113.1").expect("a default route")["nexthop"]["via"],
        "10.0.0.2"
    );
    // The node as a server of a workload.
    r.sh("ip addr add 10.70.0.1/24 dev cali-c");
    serve(&r, "cali-c", "10.70.0.20", "10.70.0.20", "10.70.0.1");
    lease(&c, "eth0");
    margay.mirrors_kernel();
    c.reaches("10.70.0.1");
    let forwarded = margay.port("cali-c", "forwarded");
    c.reaches("203.0.113.1");
    assert!(
        margay.port("cali-c", "forwarded") > forwarded,
        "what is not for the node goes through margayd"
    );
    margay.check_sums();
}
