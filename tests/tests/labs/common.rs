//! What several labs share: the usual ports, and the usual node with an uplink.

use std::sync::Arc;

use tests::{Host, Lab};

/// Uplinks `up*` and workloads `cali*`. Beyond these uplinks is no wire but the local stack of another namespace, whose checksums are as
/// partial as a workload's: hence `fix_checksums`, which is off for uplinks otherwise.
pub const PORTS: &str = r#"
[[port]]
match = "up*"
role = "uplink"
fix_checksums = "auto"
[[port]]
match = "cali*"
role = "workload"
"#;

/// The usual node.
///
/// ```text
///   (containers 10.65.0.0/24, fd65::/64) ── cali-* r up0 ── 10.0.0.1 fd00::1 ── 10.0.0.2 fd00::2 ── r0 u
///                                                                               (u: 203.0.113.1 and 2001:db8:113::1 on lo)
/// ```
pub struct Node {
    /// The lab.
    pub lab: Arc<Lab>,
    /// The node that margayd is to run on; its default routes lead to `u`.
    pub r: Host,
    /// The router beyond its uplink.
    pub u: Host,
}

/// Builds the usual node for the lab called `name`.
pub fn node(name: &str) -> Option<Node> {
    Lab::new(name).map(node_in)
}

/// Builds the usual node in a lab.
pub fn node_in(lab: Arc<Lab>) -> Node {
    let (r, u) = (lab.host("r"), lab.host("u"));
    lab.veth(&r, "up0", &u, "r0");
    address(&r, &u);
    Node { lab, r, u }
}

/// Gives the two ends of the uplink their addresses and routes.
pub fn address(r: &Host, u: &Host) {
    r.sh(
        "ip addr add 10.0.0.1/24 dev up0; ip -6 addr add fd00::1/64 dev up0 nodad
          ip route add default via 10.0.0.2; ip -6 route add default via fd00::2",
    );
    u.sh(
        "ip addr add 10.0.0.2/24 dev r0; ip -6 addr add fd00::2/64 dev r0 nodad
          ip addr add 203.0.113.1/32 dev lo; ip -6 addr add 2001:db8:113::1/128 dev lo nodad
          ip route add 10.65.0.0/24 via 10.0.0.1; ip -6 route add fd65::/64 via fd00::1",
    );
}

/// So many host routes from 100.64.0.0 on, as lines for `ip -batch`.
pub fn route_lines(count: u32) -> String {
    (0..count)
        .map(|n| {
            format!(
                "route add 100.{}.{}.{}/32 via 10.0.0.2\n",
                64 + (n >> 16),
                n >> 8 & 255,
                n & 255
            )
        })
        .collect()
}

impl Node {
    /// A container behind the node: `cali-NAME`, 10.65.0.N and fd65::N.
    pub fn container(&self, name: &str, number: u8) -> Host {
        let port = format!("cali-{name}");
        self.lab.container(
            name,
            &self.r,
            &port,
            &format!("10.65.0.{number}"),
            &format!("fd65::{number}"),
        )
    }
}
