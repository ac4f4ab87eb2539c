//! What the labs on real drivers share.

use std::sync::Arc;
use std::time::Instant;

use tests::guest::{self, Wired};
use tests::lab::announce;
use tests::transfer::{Arrived, transfer};
use tests::{Margay, wait_for};

/// One worker, and frames enough for the queues of both ports.
pub const RUNTIME: &str =
    "[runtime]\nprofile = \"adaptive\"\nworkers = [0]\nframes = 16384\nstall_after = \"5s\"\n";

/// The router's ports.
pub fn ports(mode: &str) -> String {
    format!("{RUNTIME}[[port]]\nmatch = \"up*\"\nrole = \"uplink\"\nmode = \"{mode}\"\n")
}

/// `up0` alone, by its name: where it cannot be opened at the start, margayd ends.
pub fn named(mode: &str) -> String {
    ports(mode).replace("match = \"up*\"", "name = \"up0\"")
}

/// What `mode = "auto"` obtains for a kind of NIC on the running kernel.
pub fn expected(kind: &str) -> &'static str {
    // virtio_net and igb send by zero-copy since 6.14.
    match (kind, guest::kernel() >= (6, 14)) {
        ("virtio_net" | "igb", true) => "zerocopy",
        // Its driver has no XDP.
        ("e1000e", _) => "generic",
        _ => "copy",
    }
}

/// A router with margayd on it, both of whose ports have come to forward.
pub struct Router {
    pub net: Wired,
    pub margay: Arc<Margay>,
}

/// Starts margayd with one mode on NICs of one kind.
pub fn router(name: &str, kind: &str, mode: &str) -> Option<Router> {
    router_with(name, kind, &ports(mode), &[])
}

/// The same with a configuration and access lists.
pub fn router_with(name: &str, kind: &str, ports: &str, lists: &[(&str, &str)]) -> Option<Router> {
    let net = guest::wired(name, kind)?;
    let margay = Margay::prepare(&net.lab, &net.r, ports, lists);
    let router = Router { net, margay };
    router.launch();
    Some(router)
}

impl Router {
    /// Starts margayd and waits until traffic goes through it both ways.
    #[track_caller]
    pub fn launch(&self) {
        self.margay.launch();
        self.margay.ready();
        self.forwards();
    }

    /// Waits until margayd forwards both families both ways.
    #[track_caller]
    pub fn forwards(&self) {
        for port in ["up0", "up1"] {
            self.margay.has_port(port);
        }
        let before = self.margay.port("up0", "forwarded");
        for address in ["10.1.0.2", "fd01::2"] {
            self.net.u.reaches(address);
        }
        wait_for("margayd counts what it forwards", tests::LIMIT, || {
            self.margay.port("up0", "forwarded") >= before + 2
        });
    }

    /// The mode that both ports obtained.
    #[track_caller]
    pub fn mode(&self) -> String {
        let mode = |name| {
            let port = self
                .margay
                .find_port(name)
                .unwrap_or_else(|| panic!("no port {name}"));
            port["mode"].as_str().map(str::to_owned).unwrap_or_default()
        };
        assert_eq!(mode("up0"), mode("up1"));
        mode("up0")
    }

    /// Sends datagrams of up to `largest` bytes from `u` to `v` (IPv4) and back (IPv6), half of them each way, and
    /// checks that all arrive as they were sent, in order within their flows.
    #[track_caller]
    pub fn conserves(&self, count: u64, largest: usize) {
        let (u, v) = (&self.net.u, &self.net.v);
        for (from, to, address) in [(u, v, "10.1.0.2"), (v, u, "fd00::2")] {
            let address = address.parse().expect("an address");
            let begun = Instant::now();
            let arrived = transfer(from, to, address, count / 2, 8, largest);
            let seconds = begun.elapsed().as_secs_f64();
            announce(&format!("{} datagrams checked in {seconds:.1} s", arrived.intact));
            let all = Arrived {
                intact: count / 2,
                ..Arrived::default()
            };
            if arrived != all {
                for host in [u, v, &self.net.r] {
                    announce(
                        &host
                            .try_sh("ip -s link; grep -E '^Udp6?' /proc/net/snmp /proc/net/snmp6")
                            .out,
                    );
                }
                panic!("of {} to {address}: {arrived:?}", count / 2);
            }
        }
    }

    /// What must hold at a lab's end.
    #[track_caller]
    pub fn finish(&self) {
        self.margay.mirrors_kernel();
        self.margay.check_sums();
        assert_eq!(self.margay.terminate(), 0);
        let links = self.net.r.sh("ip link");
        assert!(!links.contains("xdp"), "an XDP program is left: {links}");
    }
}
