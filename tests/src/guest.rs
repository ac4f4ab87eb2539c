//! The NICs of the virtual machine that `cargo xtask test --vm` boots, and the usual network on them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::host::Host;
use crate::lab::{Lab, skip};
use crate::wait::{LIMIT, wait_for};

/// The kinds of NIC and the numbers in their addresses, as `xtask/src/vm/guest.rs` says: `igb=02 e1000e=03`.
const NICS: &str = "MARGAY_VM_NICS";

/// A router between two hosts, each beyond a NIC and a wire of its own.
///
/// ```text
///   u 10.0.0.2 fd00::2 r0 ══ up0 10.0.0.1 fd00::1  r  10.1.0.1 fd01::1 up1 ══ r0 10.1.0.2 fd01::2 v
/// ```
/// `up0` and `up1` are of the kind that is tested; the hosts have a virtio_net that does nothing to checksums or segments.
pub struct Wired {
    /// The lab.
    pub lab: Arc<Lab>,
    /// The router.
    pub r: Host,
    /// The host beyond `up0`.
    pub u: Host,
    /// The host beyond `up1`.
    pub v: Host,
}

/// Begins a lab of the virtual machine; `None`, and a word about it, anywhere else.
pub fn lab(name: &str) -> Option<Arc<Lab>> {
    if std::env::var_os(NICS).is_none() {
        skip(
            name,
            "made for the virtual machine: cargo xtask test --vm runs it",
        );
        return None;
    }
    Lab::new(name)
}

/// The usual network on NICs of one kind; `None`, and a word about it, where the machine has none.
pub fn wired(name: &str, kind: &str) -> Option<Wired> {
    let lab = lab(name)?;
    if number(kind).is_none() {
        skip(name, &format!("the machine has no {kind}"));
        return None;
    }
    let (r, u, v) = (lab.host("r"), lab.host("u"), lab.host("v"));
    for (wire, (host, port)) in [(1, (&u, "up0")), (2, (&v, "up1"))] {
        take(kind, wire, 1, &r, port);
        take(kind, wire, 2, host, "r0");
    }
    r.sh(
        "ip addr add 10.0.0.1/24 dev up0; ip -6 addr add fd00::1/64 dev up0 nodad
         ip addr add 10.1.0.1/24 dev up1; ip -6 addr add fd01::1/64 dev up1 nodad",
    );
    for (host, net) in [(&u, 0), (&v, 1)] {
        host.sh(&format!(
            "ip addr add 10.{net}.0.2/24 dev r0; ip -6 addr add fd0{net}::2/64 dev r0 nodad
             ip route add default via 10.{net}.0.1; ip -6 route add default via fd0{net}::1"
        ));
    }
    Some(Wired { lab, r, u, v })
}

/// Gives one end of a wire (1: of the kind that is tested, 2: the plain one) to a host, under a new name, and takes it up.
///
/// # Panics
/// When the machine has no such NIC.
#[track_caller]
pub fn take(kind: &str, wire: u8, end: u8, host: &Host, name: &str) {
    let number = number(kind).unwrap_or_else(|| panic!("the machine has no {kind}"));
    let address = format!("52:54:00:{number}:{wire:02x}:{end:02x}");
    // It comes back from the lab before, once the kernel has taken that one's namespace away.
    let device = wait_for(&format!("the {kind} with address {address}"), LIMIT, || {
        device_with(&address)
    });
    let moved = std::process::Command::new("ip")
        .args([
            "link",
            "set",
            &device,
            "down",
            "mtu",
            "1500",
            "netns",
            host.netns(),
            "name",
            name,
        ])
        .output()
        .expect("ip can be run");
    assert!(
        moved.status.success(),
        "{device} to {}: {}",
        host.name(),
        String::from_utf8_lossy(&moved.stderr)
    );
    host.sh(&format!("ip link set {name} up"));
}

/// The number of a kind of NIC in addresses.
fn number(kind: &str) -> Option<String> {
    let kinds = std::env::var(NICS).unwrap_or_default();
    kinds
        .split_whitespace()
        .find_map(|word| word.strip_prefix(kind)?.strip_prefix('='))
        .map(str::to_owned)
}

/// The device of the machine's first namespace with this address.
fn device_with(address: &str) -> Option<String> {
    fs::read_dir(Path::new("/sys/class/net"))
        .ok()?
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .find(|entry| {
            fs::read_to_string(entry.path().join("address")).is_ok_and(|text| text.trim() == address)
        })
        .and_then(|entry| entry.file_name().into_string().ok())
}

/// The running kernel's version, the first two numbers.
///
/// # Panics
/// When the kernel does not tell.
pub fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel tells its release");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => panic!("no version in {release}"),
    }
}
