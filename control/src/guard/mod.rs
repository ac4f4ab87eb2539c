//! The guard of closed ports: an nftables table that stops the kernel from forwarding between them and anything
//! else, whether margayd runs or not.
//!
//! The table `inet margay` has one base chain on `hook forward` that drops by `iifname` and by `oifname`. Names may be
//! patterns and need not exist yet, so the guard is loaded before the first port is opened. Frames that pass through
//! AF_XDP never reach that hook, and what is addressed to the node itself does not either. The table stays behind
//! when the daemon ends; `margay release` takes it away. Multicast groups that a port lists pass its rules; they are
//! forwarded when the other port is open or lists them, too.

mod entries;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use classifier::lpm::IpPrefix;
use serde_json::Value;

pub use entries::{Entry, entries, stacked};

/// Why the guard could not be loaded, read or taken away.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no `nft` program.
    #[error("nftables is not installed, and ports with on_exit = \"drop\" are guarded by it")]
    Missing,
    /// The program may not change the ruleset.
    #[error("nftables may not be changed: {0}")]
    NotPermitted(String),
    /// nftables refused.
    #[error("nftables failed: {0}")]
    Failed(String),
    /// `release` was asked for a port that is not guarded.
    #[error("{0} is not guarded")]
    NotGuarded(String),
}

impl Error {
    /// What the operator can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Missing => {
                "install it (apt install nftables), switch the kernel's forwarding off (sysctl net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0), or say on_exit = \"kernel\" for the port"
            }
            Error::NotPermitted(_) => "run as root or with CAP_NET_ADMIN",
            Error::Failed(_) => "`nft list table inet margay` shows what is loaded",
            Error::NotGuarded(_) => {
                "`nft list table inet margay` shows what is: patterns are released as they are written"
            }
        }
    }
}

/// The transaction that replaces the table by one that guards `entries`, or takes it away when there are none.
///
/// nftables applies a file as a whole or not at all: there is no moment with the old table gone and the new one not
/// there. The first line creates the table so that `delete` cannot fail.
pub fn transaction(entries: &[Entry]) -> String {
    let mut text = String::from("table inet margay\ndelete table inet margay\n");
    if entries.is_empty() {
        return text;
    }
    text.push_str("table inet margay {\n\tchain forward {\n");
    text.push_str("\t\ttype filter hook forward priority filter; policy accept;\n");
    for key in ["iifname", "oifname"] {
        for entry in entries {
            let mut whom = format!("{key} \"{}\"", entry.name);
            for name in &entry.except {
                let _ = write!(whom, " {key} != \"{name}\"");
            }
            if entry.multicast.is_empty() {
                let _ = writeln!(text, "\t\t{whom} counter drop");
                continue;
            }
            for v4 in [true, false] {
                let _ = writeln!(text, "\t\t{whom} {} counter drop", unless(&entry.multicast, v4));
            }
        }
    }
    text.push_str("\t}\n}\n");
    text
}

/// Matches the packets of one family whose destination is in none of the groups.
fn unless(groups: &[IpPrefix], v4: bool) -> String {
    let mut groups: Vec<&IpPrefix> = groups
        .iter()
        .filter(|prefix| matches!(prefix, IpPrefix::V4(_)) == v4)
        .collect();
    // A set of nftables holds no prefix twice, and none that another one covers.
    groups.sort_by_key(|prefix| (prefix.len(), prefix.addr()));
    let mut widest: Vec<&IpPrefix> = Vec::new();
    for prefix in groups {
        if !widest.iter().any(|wide| wide.contains(prefix.addr())) {
            widest.push(prefix);
        }
    }
    let texts: Vec<String> = widest.iter().map(ToString::to_string).collect();
    let (family, protocol) = if v4 { ("ip", "ipv4") } else { ("ip6", "ipv6") };
    if texts.is_empty() {
        format!("meta nfproto {protocol}")
    } else {
        format!("{family} daddr != {{ {} }}", texts.join(", "))
    }
}

/// Loads the guard; nothing is left of an older one.
pub fn load(entries: &[Entry]) -> Result<(), Error> {
    if entries.is_empty() {
        // Nothing to guard: what an earlier configuration guarded is taken away, if there is nftables at all.
        return match loaded() {
            Ok(names) if names.is_empty() => Ok(()),
            Ok(_) => nft(&["-f", "-"], &transaction(entries)).map(drop),
            Err(Error::Missing | Error::NotPermitted(_)) => Ok(()),
            Err(error) => Err(error),
        };
    }
    nft(&["-f", "-"], &transaction(entries)).map(drop)
}

/// Whether the kernel forwards packets of either family on any interface, or multicast ones.
pub fn kernel_forwards() -> bool {
    ["ipv4", "ipv6"].iter().any(|family| {
        let Ok(interfaces) = std::fs::read_dir(format!("/proc/sys/net/{family}/conf")) else {
            return false;
        };
        interfaces.flatten().any(|interface| {
            // The second is the kernel's word for a daemon that holds the multicast routes.
            ["forwarding", "mc_forwarding"].iter().any(|key| {
                std::fs::read_to_string(interface.path().join(key)).is_ok_and(|text| text.trim() != "0")
            })
        })
    })
}

/// The names that are guarded now, sorted; none when there is no table.
pub fn loaded() -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = rules()?.into_iter().map(|(_, name)| name).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Takes away the guard of one port (or pattern, as it is written in the table), or the whole table.
pub fn release(port: Option<&str>) -> Result<Vec<String>, Error> {
    let rules = rules()?;
    let mut before: Vec<String> = rules.iter().map(|(_, name)| name.clone()).collect();
    before.sort();
    before.dedup();
    let Some(port) = port else {
        if !before.is_empty() {
            nft(&["-f", "-"], &transaction(&[]))?;
        }
        return Ok(before);
    };
    let sub_interfaces = format!("{port}.*");
    let is_released = |name: &str| name == port || name == sub_interfaces;
    if !before.iter().any(|name| name == port) {
        return Err(Error::NotGuarded(port.to_owned()));
    }
    if before.iter().all(|name| is_released(name)) {
        nft(&["-f", "-"], &transaction(&[]))?;
    } else {
        let mut text = String::new();
        for (handle, _) in rules.iter().filter(|(_, name)| is_released(name)) {
            let _ = writeln!(text, "delete rule inet margay forward handle {handle}");
        }
        nft(&["-f", "-"], &text)?;
    }
    before.retain(|name| is_released(name));
    Ok(before)
}

/// The rules of the table: handle and the name that each drops.
fn rules() -> Result<Vec<(u64, String)>, Error> {
    match nft(&["-j", "list", "table", "inet", "margay"], "") {
        Ok(listing) => Ok(names_in(&listing)),
        Err(Error::Failed(said)) if said.contains("No such file or directory") => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn names_in(listing: &str) -> Vec<(u64, String)> {
    let value: Value = serde_json::from_str(listing).unwrap_or_default();
    let objects = value["nftables"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    objects
        .iter()
        .map(|object| &object["rule"])
        .filter(|rule| rule["family"] == "inet" && rule["table"] == "margay")
        .filter_map(|rule| {
            let handle = rule["handle"].as_u64()?;
            let first = rule["expr"].get(0)?;
            let name = first["match"]["right"].as_str()?;
            Some((handle, name.to_owned()))
        })
        .collect()
}

/// Runs `nft` with a script on its standard input.
fn nft(arguments: &[&str], script: &str) -> Result<String, Error> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::Missing,
            _ => Error::Failed(format!("nft cannot be started: {error}")),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // An nft that fails early closes the pipe; its exit status tells more than the broken pipe does.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| Error::Failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("not permitted") || said.contains("Permission denied") {
        Err(Error::NotPermitted(said))
    } else {
        Err(Error::Failed(said))
    }
}
