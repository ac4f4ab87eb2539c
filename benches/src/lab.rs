//! The place of measurement: three network namespaces in a row.
//!
//! ```text
//!   PREFIXg                       PREFIXr                        PREFIXs
//!   g0 198.18.0.2/24 ──── r0 198.18.0.1/24   r1 198.19.0.1/24 ──── s0 198.19.0.2/24
//!      2001:2:0:1::2/64      2001:2:0:1::1/64   2001:2:0:2::1/64      2001:2:0:2::2/64
//!                            route 198.19.128.0/17 and 2001:2:0:8000::/49 via s0
//! ```
//! Addresses are those reserved for benchmarks (RFC 2544, RFC 5180). The generator sends from g0 to the routed prefixes.

use std::net::IpAddr;
use std::time::Duration;

use crate::command::{run, run_in, wait_for};
use crate::generator::Traffic;
use crate::sink::Expected;
use crate::{Error, Result};

/// MACs of g0, r0, r1, s0.
const MACS: [[u8; 6]; 4] = [
    [2, 0x18, 0, 0, 0, 2],
    [2, 0x18, 0, 0, 0, 1],
    [2, 0x19, 0, 0, 0, 1],
    [2, 0x19, 0, 0, 0, 2],
];
/// Gateway behind r1, by family.
pub const GATEWAY_V4: &str = "198.19.0.2";
/// Gateway behind r1, IPv6.
pub const GATEWAY_V6: &str = "2001:2:0:2::2";

/// The namespaces. Dropping it removes them.
pub struct Lab {
    prefix: String,
}

/// Text of a MAC address.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Lab {
    /// Builds the namespaces, named after this process so that two runs do not meet. What a killed run left behind is removed.
    pub fn new() -> Result<Self> {
        remove_leftovers()?;
        let lab = Lab {
            prefix: format!("mgb{}", std::process::id()),
        };
        let (g, r, s) = (lab.generator(), lab.router(), lab.sink());
        for netns in [&g, &r, &s] {
            run(&format!("ip netns add {netns}"))?;
            run_in(
                netns,
                "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0",
            )?;
            run_in(netns, "ip link set lo up")?;
        }
        let veth = |a: &str, a_ns: &str, a_mac, b: &str, b_ns: &str, b_mac| {
            let (a_mac, b_mac) = (mac_text(a_mac), mac_text(b_mac));
            run(&format!(
                "ip link add {a} netns {a_ns} address {a_mac} type veth peer name {b} netns {b_ns} address {b_mac}"
            ))
        };
        veth("g0", &g, MACS[0], "r0", &r, MACS[1])?;
        veth("s0", &s, MACS[3], "r1", &r, MACS[2])?;
        let addresses = [
            (&g, "g0", "198.18.0.2/24", "2001:2:0:1::2/64"),
            (&r, "r0", "198.18.0.1/24", "2001:2:0:1::1/64"),
            (&r, "r1", "198.19.0.1/24", "2001:2:0:2::1/64"),
            (&s, "s0", "198.19.0.2/24", "2001:2:0:2::2/64"),
        ];
        for (netns, dev, v4, v6) in addresses {
            run_in(netns, &format!("ip address add {v4} dev {dev}"))?;
            run_in(netns, &format!("ip address add {v6} dev {dev} nodad"))?;
            run_in(netns, &format!("ip link set {dev} up"))?;
        }
        // The way back, so that ICMP errors have one too.
        run_in(&g, "ip route add default via 198.18.0.1")?;
        run_in(&s, "ip route add default via 198.19.0.1")?;
        run_in(&r, &format!("ip route add 198.19.128.0/17 via {GATEWAY_V4}"))?;
        run_in(
            &r,
            &format!("ip -6 route add 2001:2:0:8000::/49 via {GATEWAY_V6}"),
        )?;
        for (netns, dev) in [(&r, "r0"), (&r, "r1"), (&g, "g0"), (&s, "s0")] {
            wait_for(&format!("carrier of {dev}"), Duration::from_secs(5), || {
                Ok(run_in(netns, &format!("ip -o link show dev {dev}"))?.contains("LOWER_UP"))
            })?;
        }
        Ok(lab)
    }

    /// Namespace of the generator.
    pub fn generator(&self) -> String {
        format!("{}g", self.prefix)
    }

    /// Namespace of whoever routes.
    pub fn router(&self) -> String {
        format!("{}r", self.prefix)
    }

    /// Namespace of the receiver.
    pub fn sink(&self) -> String {
        format!("{}s", self.prefix)
    }

    /// Packets from g0 to a host behind the gateway, in 1,024 flows.
    pub fn traffic(&self, v6: bool, size: usize) -> Traffic {
        let (src, dst): (IpAddr, IpAddr) = if v6 {
            (
                [0x2001, 2, 0, 1, 0, 0, 0, 2].into(),
                [0x2001, 2, 0, 0x8000, 0, 0, 0, 1].into(),
            )
        } else {
            ([198, 18, 0, 2].into(), [198, 19, 128, 1].into())
        };
        Traffic {
            dst_mac: MACS[1],
            src_mac: MACS[0],
            src,
            dst,
            flows: 1024,
            size,
        }
    }

    /// What a router makes of that traffic.
    pub fn routed(&self) -> Expected {
        Expected {
            dst_mac: MACS[3],
            src_mac: MACS[2],
            ttl: Some(63),
        }
    }

    /// Lets the kernel resolve the gateways and r0's own neighbour before anybody measures.
    pub fn resolve(&self) -> Result<()> {
        for address in ["198.18.0.2", GATEWAY_V4] {
            run_in(&self.router(), &format!("ping -c1 -W2 {address}"))?;
        }
        for address in ["2001:2:0:1::2", GATEWAY_V6] {
            run_in(&self.router(), &format!("ping -6 -c1 -W2 {address}"))?;
        }
        Ok(())
    }

    /// MAC of s0 as text, for peers that take it as an option.
    pub fn sink_mac(&self) -> String {
        mac_text(MACS[3])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for netns in [self.generator(), self.router(), self.sink()] {
            if let Err(error) = run(&format!("ip netns del {netns}")) {
                eprintln!("clean-up: {error}");
            }
        }
    }
}

/// Removes namespaces of runs whose process is gone.
fn remove_leftovers() -> Result<()> {
    for line in run("ip netns list")?.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let pid = name
            .strip_prefix("mgb")
            .and_then(|rest| rest.strip_suffix(['g', 'r', 's']));
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            run(&format!("ip netns del {name}"))
                .map_err(|error| Error::new(format!("left by a killed run: {error}")))?;
        }
    }
    Ok(())
}
