//! Checks of the node: kernel settings, memory, cores, the guard.

use std::collections::BTreeSet;

use super::{Facts, Found, Reading};
use crate::config::Profile;
use crate::guard;

/// All checks of the node but the guard's.
pub(super) fn check(facts: &Facts, reading: &Reading, found: &mut Found) {
    routes(facts, found);
    forwarding(facts, reading, found);
    neighbour_table(facts, reading, found);
    nexthop_objects(reading, found);
    cores(facts, reading, found);
    memory(facts, reading, found);
}

/// Routes whose device is not a port.
fn routes(facts: &Facts, found: &mut Found) {
    for (name, routes) in &facts.not_ports {
        found.warn(
            "route_device",
            Some(name),
            format!(
                "{routes} routes lead there and it is no port: packets to them are answered as unreachable"
            ),
            format!(
                "printf '[[port]]\\nname = \"{name}\"\\n' >>{} && kill -HUP {}",
                facts.file.display(),
                std::process::id()
            ),
        );
    }
    if facts.not_ports.is_empty() {
        found.pass("route_device", None, "the devices of all routes are ports");
    }
}

fn forwarding(facts: &Facts, reading: &Reading, found: &mut Found) {
    let settings = [
        ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        ("net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ];
    let off: Vec<&str> = settings
        .into_iter()
        .filter(|(path, _)| reading.number(path) == Some(0))
        .map(|(_, name)| name)
        .collect();
    let open: Vec<&str> = facts
        .ports
        .iter()
        .filter(|port| !port.closed)
        .map(|port| port.name.as_str())
        .collect();
    if open.is_empty() {
        found.pass(
            "ip_forward",
            None,
            "every port is guarded: the kernel forwards between none of them",
        );
    } else if off.is_empty() {
        found.pass(
            "ip_forward",
            None,
            format!("the kernel carries on for {} when margayd ends", open.join(", ")),
        );
    } else {
        let commands: Vec<String> = off.iter().map(|name| format!("sysctl -w {name}=1")).collect();
        found.warn(
            "ip_forward",
            None,
            format!(
                "{} {} off: nobody forwards for {} while margayd is away, whatever on_exit says",
                off.join(" and "),
                if off.len() > 1 { "are" } else { "is" },
                open.join(", ")
            ),
            commands.join(" && "),
        );
    }
}

fn neighbour_table(facts: &Facts, reading: &Reading, found: &mut Found) {
    for family in ["ipv4", "ipv6"] {
        let Some(limit) = reading.number(&format!("net/{family}/neigh/default/gc_thresh3")) else {
            found.pass(
                "gc_thresh3",
                None,
                format!("{family}: the limit is seen and set in the first network namespace only"),
            );
            continue;
        };
        if facts.neighbours as u64 * 2 > limit {
            found.warn(
                "gc_thresh3",
                None,
                format!(
                    "{} neighbours, and {family} has room for {limit}",
                    facts.neighbours
                ),
                format!(
                    "sysctl -w net.{family}.neigh.default.gc_thresh3={}",
                    facts.neighbours * 4
                ),
            );
        } else {
            found.pass(
                "gc_thresh3",
                None,
                format!(
                    "{} neighbours, and {family} has room for {limit}",
                    facts.neighbours
                ),
            );
        }
    }
}

/// Routes that use nexthop objects carry their gateways only in compatibility mode.
fn nexthop_objects(reading: &Reading, found: &mut Found) {
    match reading.number("net/ipv4/nexthop_compat_mode") {
        Some(0) => found.fail(
            "nexthop_compat_mode",
            None,
            "is off: changes of nexthop objects are not announced with the routes that use them",
            "sysctl -w net.ipv4.nexthop_compat_mode=1",
        ),
        Some(_) => found.pass("nexthop_compat_mode", None, "is on"),
        None => found.pass("nexthop_compat_mode", None, "this kernel has no nexthop objects"),
    }
}

/// A worker that never sleeps shares its core badly.
fn cores(facts: &Facts, reading: &Reading, found: &mut Found) {
    let shared: Vec<String> = facts
        .cores
        .iter()
        .filter(|core| !reading.isolated.contains(core))
        .map(usize::to_string)
        .collect();
    if shared.is_empty() {
        found.pass("cores", None, "the workers' cores are isolated");
    } else if facts.profile == Profile::Poll {
        found.warn(
            "cores",
            None,
            format!(
                "workers poll without pause on cores that others use as well ({}): both lose time, and packets are lost in bursts",
                shared.join(", ")
            ),
            format!("boot with isolcpus={0}, or set profile = \"adaptive\" under [runtime] and restart", shared.join(",")),
        );
    } else {
        found.pass(
            "cores",
            None,
            format!("cores {} are shared; workers sleep when idle", shared.join(", ")),
        );
    }
}

fn memory(facts: &Facts, reading: &Reading, found: &mut Found) {
    let bytes = u64::from(facts.frames) * u64::from(facts.frame_size);
    let mebibytes = bytes >> 20;
    match &reading.huge_pages {
        Some(mode) if mode.contains("[never]") => found.warn(
            "huge_pages",
            None,
            format!("the kernel gives out none: {mebibytes} MiB of frames cost more look-ups of page tables"),
            "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled",
        ),
        Some(_) => found.pass(
            "huge_pages",
            None,
            format!(
                "{} MiB of margayd are in huge pages; its frames take {mebibytes} MiB",
                reading.huge_kilobytes.unwrap_or_default() >> 10
            ),
        ),
        None => found.pass("huge_pages", None, "this kernel has no transparent huge pages"),
    }
    match reading.memory_lock {
        Some(limit) if limit < bytes && !reading.may_lock => found.fail(
            "memory_lock",
            None,
            format!(
                "{} KiB may be locked and the frames need {}: ports cannot be opened",
                limit >> 10,
                bytes >> 10
            ),
            format!("prlimit --pid {} --memlock=unlimited", std::process::id()),
        ),
        Some(limit) if limit < bytes => found.pass(
            "memory_lock",
            None,
            format!(
                "the limit is {} KiB and does not hold for margayd (CAP_IPC_LOCK)",
                limit >> 10
            ),
        ),
        _ => found.pass("memory_lock", None, "the frames may be locked"),
    }
}

/// Whether the guard holds what it should.
pub(super) fn guarded(facts: &Facts, found: &mut Found) {
    if facts.guarded.is_empty() {
        return;
    }
    match guard::loaded() {
        Ok(loaded) => {
            let loaded: BTreeSet<String> = loaded.into_iter().collect();
            let names = facts.guarded.iter();
            let missing: Vec<&str> = names
                .filter(|name| !loaded.contains(*name))
                .map(String::as_str)
                .collect();
            if missing.is_empty() {
                found.pass(
                    "guard",
                    None,
                    format!(
                        "the nftables table inet margay holds {}",
                        facts.guarded.join(", ")
                    ),
                );
            } else {
                found.fail(
                    "guard",
                    None,
                    format!(
                        "the nftables table inet margay does not hold {}",
                        missing.join(", ")
                    ),
                    format!("kill -HUP {}", std::process::id()),
                );
            }
        }
        Err(error) if !guard::kernel_forwards() => found.warn(
            "guard",
            None,
            format!("{error}; the kernel does not forward, so closed ports are closed as long as that stays"),
            error.hint(),
        ),
        Err(error) => found.fail("guard", None, error.to_string(), error.hint()),
    }
}
