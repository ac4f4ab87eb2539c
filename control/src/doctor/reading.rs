//! What the kernel and other programs have set up, as it is found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use forwarder::device::{self, Offloads};
use serde_json::Value;

use super::Facts;

/// All that is read. What cannot be read is absent.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Kernel settings by their path below `/proc/sys`, without blanks around the value.
    pub sysctls: BTreeMap<String, String>,
    /// Devices of open ports, and of those that wait.
    pub devices: BTreeMap<String, Device>,
    /// Programs that this process has loaded, by id.
    pub own_programs: BTreeSet<u64>,
    /// `nft -j list ruleset`; `None` without nftables.
    pub nftables: Option<Value>,
    /// What `iptables-save` of the legacy kind says, for IPv4 and IPv6.
    pub legacy: Vec<String>,
    /// `ip -j rule` by family.
    pub rules: Vec<(char, Value)>,
    /// Cores that the scheduler leaves alone (`isolcpus=`).
    pub isolated: BTreeSet<usize>,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`.
    pub huge_pages: Option<String>,
    /// Kilobytes of this process in huge pages.
    pub huge_kilobytes: Option<u64>,
    /// Bytes that this process may lock; `None` for no limit.
    pub memory_lock: Option<u64>,
    /// Whether the limit does not hold for this process (`CAP_IPC_LOCK`).
    pub may_lock: bool,
}

/// One device.
#[derive(Debug, Clone, Default)]
pub struct Device {
    /// Its driver.
    pub driver: Option<String>,
    /// RX queues in use.
    pub rx_queues: Option<u32>,
    /// What it does to frames.
    pub offloads: Option<Offloads>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// The XDP program on it, by id.
    pub program: Option<u64>,
    /// `tc -j filter show` of both directions.
    pub filters: Vec<(&'static str, Value)>,
    /// `tc -j qdisc show`.
    pub disciplines: Value,
}

/// What a program prints; `None` when it is not there or fails. It is killed by nobody: all of these only list.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    let done = command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let done = done.ok().filter(|done| done.status.success())?;
    Some(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn json(program: &str, arguments: &[&str]) -> Option<Value> {
    let text = said(program, arguments)?;
    // Some of them print nothing instead of an empty list.
    let text = if text.trim().is_empty() { "[]" } else { &text };
    serde_json::from_str(text).ok()
}

/// `0-3,7` as numbers.
pub(super) fn numbers(text: &str) -> BTreeSet<usize> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

impl Device {
    fn take(name: &str) -> Self {
        let link = json("ip", &["-d", "-j", "link", "show", "dev", name]).unwrap_or_default();
        let filters = ["ingress", "egress"].into_iter();
        Self {
            driver: device::driver(name).ok().flatten(),
            rx_queues: device::rx_queues(name).ok().flatten(),
            offloads: device::offloads(name).ok(),
            mtu: link[0]["mtu"].as_u64().and_then(|mtu| mtu.try_into().ok()),
            program: link[0]["xdp"]["prog"]["id"].as_u64(),
            filters: filters
                .filter_map(|hook| Some((hook, json("tc", &["-j", "filter", "show", "dev", name, hook])?)))
                .collect(),
            disciplines: json("tc", &["-j", "qdisc", "show", "dev", name]).unwrap_or_default(),
        }
    }
}

impl Reading {
    /// Reads all that the checks of these facts look at.
    pub fn take(facts: &Facts) -> Self {
        let mut reading = Self::default();
        let waiting = facts.waiting.iter().map(|waiting| &waiting.name);
        for name in facts.ports.iter().map(|port| &port.name).chain(waiting) {
            reading.devices.insert(name.clone(), Device::take(name));
            reading.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"));
        }
        for path in [
            "net/ipv4/conf/all/rp_filter",
            "net/ipv4/ip_forward",
            "net/ipv6/conf/all/forwarding",
            "net/ipv4/nexthop_compat_mode",
            "net/ipv4/neigh/default/gc_thresh3",
            "net/ipv6/neigh/default/gc_thresh3",
        ] {
            reading.sysctl(path);
        }
        let descriptors = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
        reading.own_programs = descriptors
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .flat_map(|text| {
                let ids = text.lines().filter_map(|line| line.strip_prefix("prog_id:"));
                ids.filter_map(|id| id.trim().parse().ok()).collect::<Vec<_>>()
            })
            .collect();
        if !facts.node {
            return reading;
        }
        reading.nftables = json("nft", &["-j", "list", "ruleset"]);
        // Only where tables are there already: asking makes the kernel create them otherwise.
        for (names, program) in [
            ("/proc/net/ip_tables_names", "iptables-legacy-save"),
            ("/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
        ] {
            if fs::read_to_string(names).is_ok_and(|names| !names.is_empty()) {
                reading.legacy.extend(said(program, &[]));
            }
        }
        for family in ['4', '6'] {
            let rules = json("ip", &[&format!("-{family}"), "-j", "rule", "show"]);
            reading.rules.extend(rules.map(|rules| (family, rules)));
        }
        let text = |path: &str| fs::read_to_string(path).ok();
        reading.isolated = numbers(&text("/sys/devices/system/cpu/isolated").unwrap_or_default());
        reading.huge_pages = text("/sys/kernel/mm/transparent_hugepage/enabled");
        let field = |text: Option<String>, name: &str| {
            let text = text?;
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().to_owned())
        };
        reading.huge_kilobytes = field(text("/proc/self/smaps_rollup"), "AnonHugePages:")
            .and_then(|value| value.split_whitespace().next()?.parse().ok());
        reading.memory_lock = field(text("/proc/self/limits"), "Max locked memory")
            .and_then(|value| value.split_whitespace().next()?.parse().ok());
        // CAP_IPC_LOCK is number 14 (capabilities(7), linux/capability.h).
        reading.may_lock = field(text("/proc/self/status"), "CapEff:")
            .and_then(|value| u64::from_str_radix(&value, 16).ok())
            .is_some_and(|set| set & (1 << 14) != 0);
        reading
    }

    fn sysctl(&mut self, path: &str) {
        if let Ok(text) = fs::read_to_string(format!("/proc/sys/{path}")) {
            self.sysctls.insert(path.to_owned(), text.trim().to_owned());
        }
    }

    /// A kernel setting that is a number.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.sysctls.get(path)?.parse().ok()
    }
}
