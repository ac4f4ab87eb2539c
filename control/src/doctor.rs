//! `margay doctor`: looks for what is wrong or slow on this node. It only reads.

use std::collections::BTreeSet;
use std::fs;

use serde::Serialize;

use crate::config::{FixChecksums, Mode, Role};
use crate::guard;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// It works, with a disadvantage that the message names.
    Warn,
    /// Packets are lost or closed ports are open.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name.
    pub name: &'static str,
    /// The port or device that it is about.
    pub port: Option<String>,
    /// How it went.
    pub result: Outcome,
    /// What was found.
    pub message: String,
    /// The command or key that mends it.
    pub fix: Option<String>,
}

/// What the daemon knows of an open port.
#[derive(Debug, Clone)]
pub struct Port {
    /// The device's name.
    pub name: String,
    /// The mode that the configuration asks for.
    pub mode_wanted: Mode,
    /// The mode that was obtained.
    pub mode_obtained: String,
    /// Queues with a socket.
    pub queues: u32,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// What the port is for.
    pub role: Role,
    /// Whether it has a carrier.
    pub up: bool,
    /// Whether partial checksums are completed.
    pub fix_checksums: FixChecksums,
    /// Whether the guard has to hold it.
    pub closed: bool,
    /// Lists that it names and no file has.
    pub acl_missing: Vec<String>,
}

/// What the daemon knows.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Open ports.
    pub ports: Vec<Port>,
    /// Devices that should be ports and are not, with the reason.
    pub waiting: Vec<(String, String)>,
    /// Devices that routes lead to and that are no ports, with the number of routes.
    pub not_ports: Vec<(String, usize)>,
    /// Bytes of a UMEM frame.
    pub frame_size: u32,
    /// Workers.
    pub workers: usize,
    /// Neighbour entries.
    pub neighbours: usize,
    /// Names that the guard should hold.
    pub guarded: Vec<String>,
    /// Whether the node is looked at, or only the named port.
    pub node: bool,
}

fn check(name: &'static str, port: Option<&str>, result: Outcome, message: String, fix: &str) -> Check {
    Check {
        name,
        port: port.map(str::to_owned),
        result,
        message,
        fix: Some(fix.to_owned()).filter(|fix| !fix.is_empty()),
    }
}

/// A kernel setting, without blanks around it.
fn sysctl(path: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
    Some(text.trim().to_owned())
}

/// Makes all checks.
pub fn checks(facts: &Facts) -> Vec<Check> {
    let mut found = Vec::new();
    for port in &facts.ports {
        mode(port, &mut found);
        queues(port, facts, &mut found);
        mtu(port, facts, &mut found);
        checksums(port, &mut found);
        lists(port, &mut found);
        reverse_path(port, &mut found);
        if !port.up {
            found.push(check(
                "link",
                Some(&port.name),
                Outcome::Warn,
                "has no carrier".into(),
                "look at the cable or at the other end",
            ));
        }
    }
    for (name, message) in &facts.waiting {
        found.push(check(
            "port",
            Some(name),
            Outcome::Warn,
            format!("is not open: {message}"),
            "",
        ));
    }
    if facts.node {
        for (name, routes) in &facts.not_ports {
            found.push(check(
                "route_device",
                Some(name),
                Outcome::Warn,
                format!("{routes} routes lead there and it is no port: packets to them are answered as unreachable"),
                "add a [[port]] for it, or leave it if nothing is to be forwarded there",
            ));
        }
        forwarding(facts, &mut found);
        neighbour_table(facts, &mut found);
        nexthop_objects(&mut found);
    }
    guarded(facts, &mut found);
    found
}

fn mode(port: &Port, found: &mut Vec<Check>) {
    let driver = forwarder::device::driver(&port.name).ok().flatten();
    let device = driver.as_deref().map_or_else(
        || "its driver has no name".to_owned(),
        |driver| format!("driver {driver}"),
    );
    let message = format!("{} ({device})", port.mode_obtained);
    let name = Some(port.name.as_str());
    found.push(
        if port.mode_obtained == "generic" && port.mode_wanted != Mode::Generic {
            let fix = match driver.as_deref() {
                // `veth_xdp_set`.
                Some("veth") => &format!(
                    "give it as many RX queues as its peer has TX queues: ethtool -L {} rx N, then restart margayd",
                    port.name
                ),
                _ => "a smaller MTU where the driver limits it for XDP, or a driver with native XDP",
            };
            check("mode", name, Outcome::Warn, format!("{message}: the slowest one"), fix)
        } else {
            check("mode", name, Outcome::Pass, message, "")
        },
    );
    if driver.as_deref() == Some("tun") {
        found.push(segments(&port.name));
    }
}

/// What a virtual machine hands over through a tap is not told: whether it was offered to send large segments.
fn segments(port: &str) -> Check {
    check(
        "segments",
        Some(port),
        Outcome::Warn,
        "a virtual machine behind a tap that may send large segments (TSO) sends packets larger than any MTU: TCP from it stalls"
            .into(),
        "QEMU's virtio-net with host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off, or in the machine: ethtool -K DEV tso off",
    )
}

fn queues(port: &Port, facts: &Facts, found: &mut Vec<Check>) {
    let receive = forwarder::device::rx_queues(&port.name)
        .ok()
        .flatten()
        .map(|queues| queues as usize);
    let (name, sockets) = (Some(port.name.as_str()), port.queues as usize);
    found.push(match receive {
        // A driver that does not tell: queues were bound until the kernel said that there are no more.
        None => check("queues", name, Outcome::Pass, format!("{sockets} sockets"), ""),
        Some(receive) if receive != sockets => check(
            "queues",
            name,
            Outcome::Fail,
            format!("{receive} RX queues and {sockets} sockets: packets on the others are not forwarded"),
            &format!(
                "ethtool -L {} combined {sockets}, or restart margayd after changing the queues",
                port.name
            ),
        ),
        Some(receive) if receive < facts.workers => check(
            "queues",
            name,
            Outcome::Pass,
            format!(
                "{receive} RX queues, each with a socket; fewer than the {} workers",
                facts.workers
            ),
            "",
        ),
        Some(receive) => check(
            "queues",
            name,
            Outcome::Pass,
            format!("{receive} RX queues, each with a socket"),
            "",
        ),
    });
}

/// The largest packet in bytes that a frame holds beside the kernel's headroom of 256 bytes and an Ethernet header with two
/// VLAN tags. virtio_net loses packets that fill the frame to its last byte.
pub fn room(frame_size: u32) -> u32 {
    frame_size.saturating_sub(256 + 14 + 8)
}

fn mtu(port: &Port, facts: &Facts, found: &mut Vec<Check>) {
    let room = room(facts.frame_size);
    let message = format!("MTU {}, a frame has room for {room}", port.mtu);
    found.push(if port.mtu > room {
        check(
            "mtu",
            Some(&port.name),
            Outcome::Fail,
            format!("{message}: longer packets are lost"),
            &format!(
                "ip link set {} mtu {room}, or frame_size = 4096 under [runtime]",
                port.name
            ),
        )
    } else {
        check("mtu", Some(&port.name), Outcome::Pass, message, "")
    });
}

fn checksums(port: &Port, found: &mut Vec<Check>) {
    if port.role == Role::Workload && port.fix_checksums == FixChecksums::Off {
        found.push(check(
            "checksums",
            Some(&port.name),
            Outcome::Warn,
            "partial checksums of a local stack are not completed: TCP and UDP fail while ping works".into(),
            "fix_checksums = \"auto\", or in the workload: ethtool -K DEV tx off",
        ));
    }
}

fn lists(port: &Port, found: &mut Vec<Check>) {
    for list in &port.acl_missing {
        found.push(check(
            "acl",
            Some(&port.name),
            Outcome::Fail,
            format!("there is no list {list:?}: everything is denied"),
            "write the list and run `margay acl reload`",
        ));
    }
}

/// Margay does not look at rp_filter; the kernel does, for what it gets itself.
fn reverse_path(port: &Port, found: &mut Vec<Check>) {
    let value = |name: &str| {
        sysctl(&format!("net/ipv4/conf/{name}/rp_filter"))?
            .parse::<u8>()
            .ok()
    };
    // The kernel takes the larger of the two (Documentation/networking/ip-sysctl.rst).
    let strict = value("all").max(value(&port.name)) == Some(1);
    if strict && port.role == Role::Uplink {
        found.push(check(
            "rp_filter",
            Some(&port.name),
            Outcome::Warn,
            "rp_filter is strict: with asymmetric routing the node itself does not get its packets".into(),
            &format!("sysctl net.ipv4.conf.{}.rp_filter=2", port.name),
        ));
    }
}

fn forwarding(facts: &Facts, found: &mut Vec<Check>) {
    let open: Vec<&str> = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"]
        .into_iter()
        .filter(|path| sysctl(path).is_some_and(|value| value != "0"))
        .collect();
    let closed = facts.ports.iter().filter(|port| port.closed).count();
    found.push(if open.is_empty() {
        check(
            "ip_forward",
            None,
            Outcome::Pass,
            "the kernel does not forward".into(),
            "",
        )
    } else if closed == facts.ports.len() {
        check(
            "ip_forward",
            None,
            Outcome::Pass,
            "the kernel forwards, and every port is guarded".into(),
            "",
        )
    } else {
        check(
            "ip_forward",
            None,
            Outcome::Pass,
            format!(
                "{} on: the kernel carries on for open ports when margayd ends",
                open.join(" and ")
            ),
            "",
        )
    });
}

fn neighbour_table(facts: &Facts, found: &mut Vec<Check>) {
    for family in ["ipv4", "ipv6"] {
        let limit = sysctl(&format!("net/{family}/neigh/default/gc_thresh3"));
        let Some(limit) = limit.and_then(|text| text.parse::<usize>().ok()) else {
            // Settable and visible in the first network namespace only.
            continue;
        };
        found.push(if facts.neighbours * 2 > limit {
            check(
                "gc_thresh3",
                None,
                Outcome::Warn,
                format!(
                    "{} neighbours, and {family} has room for {limit}",
                    facts.neighbours
                ),
                &format!("sysctl net.{family}.neigh.default.gc_thresh3={}", limit * 4),
            )
        } else {
            check(
                "gc_thresh3",
                None,
                Outcome::Pass,
                format!("{family} has room for {limit} neighbours"),
                "",
            )
        });
    }
}

/// Routes that use nexthop objects carry their gateways only in compatibility mode.
fn nexthop_objects(found: &mut Vec<Check>) {
    match sysctl("net/ipv4/nexthop_compat_mode").as_deref() {
        Some("0") => found.push(check(
            "nexthop_compat_mode",
            None,
            Outcome::Fail,
            "is off: changes of nexthop objects are not announced with the routes that use them".into(),
            "sysctl net.ipv4.nexthop_compat_mode=1",
        )),
        Some(_) => found.push(check(
            "nexthop_compat_mode",
            None,
            Outcome::Pass,
            "is on".into(),
            "",
        )),
        None => {}
    }
}

fn guarded(facts: &Facts, found: &mut Vec<Check>) {
    if facts.guarded.is_empty() {
        return;
    }
    let result = match guard::loaded() {
        Ok(loaded) => {
            let loaded: BTreeSet<String> = loaded.into_iter().collect();
            let missing: Vec<&str> = facts
                .guarded
                .iter()
                .filter(|name| !loaded.contains(*name))
                .map(String::as_str)
                .collect();
            if missing.is_empty() {
                check(
                    "guard",
                    None,
                    Outcome::Pass,
                    format!(
                        "the nftables table inet margay holds {}",
                        facts.guarded.join(", ")
                    ),
                    "",
                )
            } else {
                check(
                    "guard",
                    None,
                    Outcome::Fail,
                    format!(
                        "the nftables table inet margay does not hold {}",
                        missing.join(", ")
                    ),
                    "reload margayd (SIGHUP): it loads the table anew",
                )
            }
        }
        Err(error) if !guard::kernel_forwards() => check(
            "guard",
            None,
            Outcome::Warn,
            format!("{error}; the kernel does not forward, so closed ports are closed as long as that stays"),
            error.hint(),
        ),
        Err(error) => check("guard", None, Outcome::Fail, error.to_string(), error.hint()),
    };
    found.push(result);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(port: Port) -> Facts {
        Facts {
            ports: vec![port],
            waiting: vec![("eth9".into(), "there is no such device yet".into())],
            not_ports: vec![("docker0".into(), 2)],
            frame_size: 2048,
            workers: 1,
            neighbours: 3,
            guarded: Vec::new(),
            node: true,
        }
    }

    fn port() -> Port {
        Port {
            name: "nonexistent0".into(),
            mode_wanted: Mode::Auto,
            mode_obtained: "copy".into(),
            queues: 1,
            mtu: 1500,
            role: Role::Workload,
            up: true,
            fix_checksums: FixChecksums::Auto,
            closed: true,
            acl_missing: Vec::new(),
        }
    }

    fn outcome(checks: &[Check], name: &str) -> Option<Outcome> {
        checks
            .iter()
            .find(|check| check.name == name)
            .map(|check| check.result)
    }

    #[test]
    fn a_sound_port_passes_and_faults_are_found_with_their_cure() {
        let found = checks(&facts(port()));
        assert_eq!(outcome(&found, "mode"), Some(Outcome::Pass));
        assert_eq!(outcome(&found, "mtu"), Some(Outcome::Pass));
        assert_eq!(outcome(&found, "route_device"), Some(Outcome::Warn));
        assert_eq!(outcome(&found, "port"), Some(Outcome::Warn));
        let broken = Port {
            mode_obtained: "generic".into(),
            mtu: 9000,
            fix_checksums: FixChecksums::Off,
            acl_missing: vec!["edge".into()],
            ..port()
        };
        let found = checks(&facts(broken));
        assert_eq!(outcome(&found, "mode"), Some(Outcome::Warn));
        assert_eq!(outcome(&found, "mtu"), Some(Outcome::Fail));
        assert_eq!(outcome(&found, "checksums"), Some(Outcome::Warn));
        assert_eq!(outcome(&found, "acl"), Some(Outcome::Fail));
        for check in found
            .iter()
            .filter(|check| check.result != Outcome::Pass && check.name != "port")
        {
            assert!(check.fix.is_some(), "{check:?}");
        }
    }
}
