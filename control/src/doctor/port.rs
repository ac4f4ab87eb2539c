//! Checks of one port.

use serde_json::Value;

use super::reading::Device;
use super::{Cause, Facts, Found, Port, Reading, Waiting};
use crate::config::{FixChecksums, Mode, Role};

/// All checks of an open port.
pub(super) fn check(port: &Port, facts: &Facts, reading: &Reading, found: &mut Found) {
    let nothing = Device::default();
    let device = reading.devices.get(&port.name).unwrap_or(&nothing);
    link(port, found);
    mode(port, device, found);
    kind(port, device, found);
    program(port, device, reading, found);
    queues(port, device, facts, found);
    mtu(port, found);
    checksums(port, device, facts, found);
    merging(port, device, found);
    vlan(port, device, found);
    lists(port, found);
    reverse_path(port, reading, found);
    traffic_control(port, device, found);
}

/// Devices that are made of others: what they can be as a port, and what they cannot.
fn kind(port: &Port, device: &Device, found: &mut Found) {
    let name = Some(port.name.as_str());
    match device.driver.as_deref() {
        Some("bonding") => found.warn(
            "kind",
            name,
            "a bond is a port in generic mode only, the slowest; its slaves cannot be ports beside it",
            "the slaves as ports of their own, with an address each and multipath routes over them",
        ),
        Some("bridge") => found.warn(
            "kind",
            name,
            "a bridge is a port in generic mode only; frames that it switches between its members meet neither Margay nor its access lists",
            format!("the members of {} as ports of their own, with an address or a device route each", port.name),
        ),
        Some("macvlan") => found.warn(
            "kind",
            name,
            "a macvlan is a port in generic mode only; frames between it and others upon the same device, in its mode bridge, meet neither Margay nor its access lists",
            "a veth pair, or the device below as the port",
        ),
        Some("802.1Q VLAN Support") => found.pass(
            "kind",
            name,
            "a VLAN sub-interface, in generic mode; frames with a second tag are the kernel's",
        ),
        _ => {}
    }
}

/// What makes the daemon read its configuration anew.
fn reload() -> String {
    format!("kill -HUP {}", std::process::id())
}

/// Devices that should be ports and are not.
pub(super) fn waiting(facts: &Facts, reading: &Reading, found: &mut Found) {
    for Waiting { name, cause, message } in &facts.waiting {
        let port = Some(name.as_str());
        let message = format!("is not open: {message}");
        match cause {
            Cause::TooLarge { largest, .. } => {
                found.fail(
                    "mtu",
                    port,
                    message,
                    format!("ip link set dev {name} mtu {largest}"),
                );
            }
            Cause::OtherProgram => {
                let device = reading.devices.get(name);
                let message = match device.and_then(|device| device.program) {
                    Some(id) => format!("another XDP program (id {id}) is on it, so the port {message}"),
                    None => message,
                };
                found.fail(
                    "xdp_program",
                    port,
                    message,
                    format!("ip link set dev {name} xdp off"),
                );
            }
            Cause::Frames(needed) => found.fail(
                "frames",
                port,
                message,
                format!(
                    "frames = {needed} under [runtime] in {}, then restart margayd",
                    facts.file.display()
                ),
            ),
            Cause::Absent => found.warn(
                "port",
                port,
                message,
                format!(
                    "unless it is to come, take its [[port]] out of {}, then: {}",
                    facts.file.display(),
                    reload()
                ),
            ),
            Cause::Other => {
                found.warn(
                    "port",
                    port,
                    message,
                    "mend that; the port is tried again by itself",
                );
            }
        }
    }
}

fn link(port: &Port, found: &mut Found) {
    if port.up {
        found.pass("link", Some(&port.name), "has a carrier");
    } else {
        found.warn(
            "link",
            Some(&port.name),
            "is down or has no carrier: look at the cable or at the other end as well",
            format!("ip link set dev {} up", port.name),
        );
    }
}

fn mode(port: &Port, device: &Device, found: &mut Found) {
    let driver = device.driver.as_deref().unwrap_or("without a name");
    let message = format!("driver {driver}, mode {}", port.mode_obtained);
    if port.mode_obtained == "generic" && port.mode_wanted != Mode::Generic {
        found.warn(
            "mode",
            Some(&port.name),
            format!("{message}: the slowest one"),
            match driver {
                // `veth_xdp_set` wants as many RX queues as the peer has TX queues.
                "veth" => format!(
                    "ethtool -L {} rx N, N being the TX queues of its peer, then restart margayd",
                    port.name
                ),
                _ => {
                    "a smaller MTU where the driver limits it for XDP, or a driver with native XDP".to_owned()
                }
            },
        );
    } else {
        found.pass("mode", Some(&port.name), message);
    }
    // What a virtual machine hands over through a tap is not told: whether it was offered to send large segments.
    if driver == "tun" {
        found.warn(
            "segments",
            Some(&port.name),
            "a virtual machine behind a tap that may send large segments (TSO) sends packets larger than any MTU, which are lost: TCP from it is slow",
            "QEMU's virtio-net with host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off, or in the machine: ethtool -K DEV tso off",
        );
    }
}

/// The steering program must be on the device, and no other one.
fn program(port: &Port, device: &Device, reading: &Reading, found: &mut Found) {
    match device.program {
        Some(id) if reading.own_programs.contains(&id) => {
            found.pass("xdp_program", Some(&port.name), format!("Margay's own (id {id})"));
        }
        Some(id) => found.fail(
            "xdp_program",
            Some(&port.name),
            format!("another XDP program (id {id}) is on it: nothing reaches Margay"),
            format!("ip link set dev {} xdp off", port.name),
        ),
        None => found.warn(
            "xdp_program",
            Some(&port.name),
            "cannot be told: `ip` (package iproute2) is missing, or the device is gone",
            "apt-get install iproute2",
        ),
    }
}

fn queues(port: &Port, device: &Device, facts: &Facts, found: &mut Found) {
    let (name, sockets) = (Some(port.name.as_str()), port.queues as usize);
    let workers = facts.cores.len();
    match device.rx_queues.map(|queues| queues as usize) {
        // A driver that does not tell: queues were bound until the kernel said that there are no more.
        None => found.pass("queues", name, format!("{sockets} sockets for {workers} workers")),
        Some(receive) if receive != sockets => found.fail(
            "queues",
            name,
            format!("{receive} RX queues and {sockets} sockets: packets on the others are not forwarded"),
            format!(
                "ethtool -L {0} combined {sockets} || ethtool -L {0} rx {sockets}",
                port.name
            ),
        ),
        Some(receive) if receive < workers => found.pass(
            "queues",
            name,
            format!("{receive} RX queues, each with a socket; fewer than the {workers} workers"),
        ),
        Some(receive) => found.pass(
            "queues",
            name,
            format!("{receive} RX queues, each with a socket, for {workers} workers"),
        ),
    }
}

/// A larger MTU than the port can have is there only for as long as the daemon takes to close it.
fn mtu(port: &Port, found: &mut Found) {
    let message = format!(
        "MTU {}, of at most {}: {}",
        port.mtu, port.largest_mtu, port.mtu_limit
    );
    if port.mtu > port.largest_mtu {
        found.fail(
            "mtu",
            Some(&port.name),
            format!("{message}; longer packets are lost"),
            format!("ip link set dev {} mtu {}", port.name, port.largest_mtu),
        );
    } else {
        found.pass("mtu", Some(&port.name), message);
    }
}

/// A local stack leaves checksums partial: behind a workload port always, behind an uplink when it is a veth.
fn checksums(port: &Port, device: &Device, facts: &Facts, found: &mut Found) {
    let local = port.role == Role::Workload || device.driver.as_deref() == Some("veth");
    let checked = match device.offloads {
        Some(offloads) if offloads.rx_checksum => "the device checks them",
        _ => "the device does not check them",
    };
    if local && port.fix_checksums == FixChecksums::Off {
        let key = match &port.pattern {
            Some(pattern) => format!("match = \"{pattern}\""),
            None => format!("name = \"{}\"", port.name),
        };
        found.warn(
            "checksums",
            Some(&port.name),
            "partial checksums of a local stack are not completed: TCP and UDP fail while ping works",
            format!(
                "fix_checksums = \"auto\" under the [[port]] with {key} in {}, then: {}",
                facts.file.display(),
                reload()
            ),
        );
    } else if port.fix_checksums == FixChecksums::Auto {
        found.pass(
            "checksums",
            Some(&port.name),
            format!("partial ones are completed; {checked}"),
        );
    } else {
        found.pass("checksums", Some(&port.name), format!("left alone; {checked}"));
    }
}

/// Merged frames are longer than a UMEM frame. Native XDP runs before GRO and keeps LRO off; generic XDP runs behind both.
fn merging(port: &Port, device: &Device, found: &mut Found) {
    let Some(offloads) = device.offloads else { return };
    let state = match (offloads.gro, offloads.lro) {
        (true, true) => "GRO and LRO are on",
        (true, false) => "GRO is on",
        (false, true) => "LRO is on",
        (false, false) => "GRO and LRO are off",
    };
    if port.mode_obtained == "generic" && (offloads.gro || offloads.lro) {
        found.warn(
            "gro",
            Some(&port.name),
            format!("{state}: in generic mode merged frames arrive that are longer than a frame, and are dropped as oversize"),
            format!("ethtool -K {} gro off lro off", port.name),
        );
    } else {
        found.pass(
            "gro",
            Some(&port.name),
            format!(
                "{state}; mode {} sees frames before they are merged",
                port.mode_obtained
            ),
        );
    }
}

/// A tag that the device has taken out of the frame is hidden from XDP.
fn vlan(port: &Port, device: &Device, found: &mut Found) {
    let Some(offloads) = device.offloads else { return };
    if offloads.rx_vlan && port.role == Role::Uplink {
        found.warn(
            "vlan_strip",
            Some(&port.name),
            "VLAN tags are taken out before XDP sees a frame: tagged traffic would be taken for untagged",
            format!("ethtool -K {} rxvlan off", port.name),
        );
    } else if offloads.rx_vlan {
        found.pass(
            "vlan_strip",
            Some(&port.name),
            "VLAN tags are taken out before XDP sees a frame; a workload has none",
        );
    } else {
        found.pass("vlan_strip", Some(&port.name), "VLAN tags stay in the frame");
    }
}

fn lists(port: &Port, found: &mut Found) {
    for list in &port.acl_missing {
        found.fail(
            "acl",
            Some(&port.name),
            format!("there is no list {list:?}: everything is denied until a file has it"),
            "margay acl reload",
        );
    }
}

/// Margay does not look at rp_filter; the kernel does, for what it gets itself.
fn reverse_path(port: &Port, reading: &Reading, found: &mut Found) {
    let value = |name: &str| reading.number(&format!("net/ipv4/conf/{name}/rp_filter"));
    // The kernel takes the larger of the two (Documentation/networking/ip-sysctl.rst).
    let strict = value("all").max(value(&port.name)) == Some(1);
    if strict && port.role == Role::Uplink {
        found.warn(
            "rp_filter",
            Some(&port.name),
            "rp_filter is strict: with asymmetric routing the node itself does not get its packets",
            format!("sysctl -w net/ipv4/conf/{}/rp_filter=2", port.name),
        );
    } else {
        found.pass(
            "rp_filter",
            Some(&port.name),
            "does not get in the way of the node's own packets",
        );
    }
}

/// Filters and queueing disciplines that a packet between two ports never meets.
fn traffic_control(port: &Port, device: &Device, found: &mut Found) {
    let rows = |list: &Value| list.as_array().map_or(0, Vec::len);
    let mut bypassed = false;
    for (hook, _) in device.filters.iter().filter(|(_, filters)| rows(filters) > 0) {
        bypassed = true;
        found.warn(
            "tc_filter",
            Some(&port.name),
            format!("{hook} has tc filters, which packets between ports do not meet"),
            format!("tc filter del dev {} {hook}", port.name),
        );
    }
    // What the kernel gives a device by itself sends packets on in order; anything else was put there to shape them.
    let usual = [
        "noqueue",
        "mq",
        "fq_codel",
        "pfifo_fast",
        "fq",
        "clsact",
        "ingress",
    ];
    let disciplines = device.disciplines.as_array().into_iter().flatten();
    for kind in disciplines
        .filter(|discipline| discipline["root"] == true)
        .filter_map(|discipline| discipline["kind"].as_str())
        .filter(|kind| !usual.contains(kind))
    {
        bypassed = true;
        found.warn(
            "tc_filter",
            Some(&port.name),
            format!("its queueing discipline {kind} does not see what Margay sends"),
            format!("tc qdisc del dev {} root", port.name),
        );
    }
    if !bypassed {
        found.pass("tc_filter", Some(&port.name), "no tc filters and no shaping");
    }
}
