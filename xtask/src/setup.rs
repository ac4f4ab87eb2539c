//! Installing what is missing on Debian, and saying so.

use std::path::{Path, PathBuf};

use crate::run::{self, Failure};

/// A Debian package, and what its being there can be told from.
pub struct Need(&'static str, Probe);

enum Probe {
    Program(&'static str),
    File(&'static str),
}

use Probe::{File, Program};

/// What the crates need to build. Without them a build script would stop with a back-trace.
pub const BUILD: &[Need] = &[
    Need("gcc", Program("cc")),
    Need("libc6-dev", File("/usr/include/stdio.h")),
    Need("linux-libc-dev", File("/usr/include/linux/bpf.h")),
    Need("make", Program("make")),
    Need("clang", Program("clang")),
    Need("m4", Program("m4")),
    Need("libelf-dev", File("/usr/include/libelf.h")),
    Need("zlib1g-dev", File("/usr/include/zlib.h")),
    Need("pkg-config", Program("pkg-config")),
    Need("ca-certificates", File("/etc/ssl/certs/ca-certificates.crt")),
];

/// What builds networks, and what margayd itself uses at run time (nftables).
pub const NETWORK: &[Need] = &[
    Need("iproute2", Program("ip")),
    Need("nftables", Program("nft")),
    Need("iputils-ping", Program("ping")),
    Need("util-linux", Program("nsenter")),
];

/// What the demo shows Margay with.
pub const DEMO: &[Need] = &[
    Need("bird2", Program("bird")),
    Need("traceroute", Program("traceroute")),
    Need("iperf3", Program("iperf3")),
];

/// What only the labs use.
pub const LABS: &[Need] = &[
    Need("frr", File("/usr/lib/frr/bgpd")),
    Need("mtr-tiny", Program("mtr")),
    Need("iputils-tracepath", Program("tracepath")),
    Need("busybox", Program("busybox")),
    Need("procps", Program("sysctl")),
    Need("python3", Program("python3")),
    Need(
        "python3-scapy",
        File("/usr/lib/python3/dist-packages/scapy/all.py"),
    ),
    Need("traceroute", Program("traceroute")),
    Need("tmux", Program("tmux")),
    Need("tshark", Program("tshark")),
    Need("iptables", Program("iptables")),
    Need("ethtool", Program("ethtool")),
    // Only promtool, which checks the alert rules, is used.
    Need("prometheus", Program("promtool")),
];

/// What the look-up benchmarks link their peers with.
pub const LOOKUP_PEERS: &[Need] = &[Need("libdpdk-dev", File("/usr/include/dpdk/rte_fib.h"))];

/// What only the benchmarks next to other routers use.
pub const PEERS: &[Need] = &[
    Need("dpdk-dev", Program("dpdk-testpmd")),
    Need("ethtool", Program("ethtool")),
    Need("procps", Program("sysctl")),
];

/// Services that these packages would start: here at once, and at the next boot.
const SERVICES: &[(&str, &str)] = &[
    ("bird2", "bird.service"),
    ("frr", "frr.service"),
    ("iperf3", "iperf3.service"),
    ("dpdk-dev", "dpdk.service"),
    ("prometheus", "prometheus.service"),
];

/// While packages are installed, Debian asks this program whether a service may be started; 101 means no. The script puts it there
/// and takes it away even when it is interrupted; one that was there before comes back.
const APT: &str = r#"
policy=/usr/sbin/policy-rc.d
restore() { rm -f $policy; [ ! -e $policy.margay ] || mv $policy.margay $policy; }
trap 'restore' EXIT
trap 'exit 130' INT TERM HUP
[ ! -e $policy ] || [ -e $policy.margay ] || mv $policy $policy.margay
printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
apt-get update -q && apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@"
"#;

/// Installs what is missing of `groups`.
pub fn install(groups: &[&[Need]]) -> Result<(), Failure> {
    let missing: Vec<&str> = groups
        .iter()
        .flat_map(|group| group.iter())
        .filter(|need| !need.met())
        .map(|need| need.0)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if find("apt-get").is_none() {
        return Err(Failure(format!(
            "please install what these Debian packages hold, and run this again: {list}"
        )));
    }
    run::need_root(&format!("these Debian packages are missing: {list}"))?;
    println!("xtask: installing {list}");
    let (done, log) = run::capture(run::command("sh").args(["-c", APT, "apt"]).args(&missing))?;
    if !done {
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        return Err(Failure(format!("apt-get could not install {list}:\n{tail}")));
    }
    for (package, service) in SERVICES.iter().filter(|(package, _)| missing.contains(package)) {
        // Nobody asked for a routing daemon in this machine's own network, now or after the next boot. Debian's
        // helper works with systemd and without.
        if find("deb-systemd-helper").is_some()
            && run::capture(run::command("deb-systemd-helper").args(["disable", service]))?.0
        {
            println!("xtask: {service} (of {package}) is neither started nor enabled");
        }
    }
    match groups
        .iter()
        .flat_map(|group| group.iter())
        .find(|need| !need.met())
    {
        Some(need) => Err(Failure(format!(
            "{} is installed, and yet {} is not there",
            need.0,
            need.what()
        ))),
        None => Ok(()),
    }
}

impl Need {
    fn met(&self) -> bool {
        match self.1 {
            Program(name) => find(name).is_some(),
            File(path) => Path::new(path).exists(),
        }
    }

    fn what(&self) -> &'static str {
        match self.1 {
            Program(name) => name,
            File(path) => path,
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    run::search_path()
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
