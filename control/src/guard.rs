//! The guard of closed ports: an nftables table that stops the kernel from forwarding between them and anything
//! else, whether margayd runs or not.
//!
//! The table `inet margay` has one base chain on `hook forward` that drops by `iifname` and by `oifname`. Names may be
//! patterns and need not exist yet, so the guard is loaded before the first port is opened. Frames that pass through
//! AF_XDP never reach that hook, and what is addressed to the node itself does not either. The table stays behind
//! when the daemon ends; `margay release` takes it away.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::config::{AclNames, Config, OnExit, Selector};
use crate::mirror::LinkView;

/// One closed port or pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A name, or a beginning followed by `*`, as nftables writes it.
    pub name: String,
    /// Open ports that the pattern would match as well: another `[[port]]` table speaks of them.
    pub except: Vec<String>,
}

impl Entry {
    /// An entry without exceptions.
    pub fn of(name: String) -> Entry {
        Entry {
            name,
            except: Vec::new(),
        }
    }

    /// The entries of one port: its own, and that of VLAN sub-interfaces by the usual names.
    pub fn with_vlans(name: &str) -> [Entry; 2] {
        [Entry::of(name.to_owned()), Entry::of(format!("{name}.*"))]
    }
}

impl Entry {
    /// Whether the guard of this entry matches a device of that name.
    fn covers(&self, name: &str) -> bool {
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        matches(&self.name) && !self.except.iter().any(|except| matches(except))
    }
}

/// Names of the devices that are stacked, directly or over others, upon a device that `entries` cover, and that the entries do not
/// cover themselves.
pub fn stacked(entries: &[Entry], links: &[LinkView]) -> BTreeSet<String> {
    let covered = |link: &LinkView| entries.iter().any(|entry| entry.covers(&link.name));
    let below = |link: &LinkView| links.iter().find(|other| other.index == link.parent);
    let upon = |link: &LinkView| {
        // No chain is longer than there are devices, whatever the numbers say.
        std::iter::successors(below(link), |link| below(link))
            .take(links.len())
            .any(covered)
    };
    let found = links
        .iter()
        .filter(|link| link.parent != 0 && !covered(link) && upon(link));
    found.map(|link| link.name.clone()).collect()
}

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

/// What has to be guarded: the closed ports of the configuration, with the lists that `port set` gave to some.
pub fn entries(config: &Config, set: &BTreeMap<String, AclNames>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    // Ports whose lists were set at run time are spoken of by name, whatever selects them in the file.
    let mut open: Vec<String> = Vec::new();
    for (name, acl) in set {
        let Some(port) = config.port_for(name) else {
            continue;
        };
        if port.on_exit(acl) == OnExit::Drop {
            push(&mut entries, name, &[]);
        } else {
            open.push(name.clone());
        }
    }
    for exact in config.ports.iter() {
        let Selector::Name(name) = &exact.selector else {
            continue;
        };
        if set.contains_key(name) {
            continue;
        }
        if exact.on_exit(&exact.acl) == OnExit::Drop {
            push(&mut entries, name, &[]);
        } else {
            open.push(name.clone());
        }
    }
    // A pattern leaves out what an exact name or an earlier pattern has opened, as far as nftables can say it.
    for pattern in config.ports.iter() {
        let Selector::Match(text) = &pattern.selector else {
            continue;
        };
        if pattern.on_exit(&pattern.acl) == OnExit::Drop {
            let start = text.trim_end_matches('*');
            let except: Vec<String> = open
                .iter()
                .filter(|name| {
                    let other = name.trim_end_matches('*');
                    other.starts_with(start) || name.ends_with('*') && start.starts_with(other)
                })
                .cloned()
                .collect();
            push(&mut entries, text, &except);
        } else if pattern.selector.can_be_guarded() {
            open.push(text.clone());
        }
    }
    entries
}

fn push(entries: &mut Vec<Entry>, name: &str, except: &[String]) {
    if !name.ends_with('*') {
        // VLAN sub-interfaces: the kernel still gets tagged frames.
        return entries.extend(Entry::with_vlans(name));
    }
    entries.push(Entry {
        name: name.to_owned(),
        except: except.to_vec(),
    });
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
            let _ = write!(text, "\t\t{key} \"{}\" ", entry.name);
            for name in &entry.except {
                let _ = write!(text, "{key} != \"{name}\" ");
            }
            text.push_str("counter drop\n");
        }
    }
    text.push_str("\t}\n}\n");
    text
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

/// Whether the kernel forwards packets of either family on any interface.
pub fn kernel_forwards() -> bool {
    ["ipv4", "ipv6"].iter().any(|family| {
        let Ok(interfaces) = std::fs::read_dir(format!("/proc/sys/net/{family}/conf")) else {
            return false;
        };
        interfaces.flatten().any(|interface| {
            std::fs::read_to_string(interface.path().join("forwarding")).is_ok_and(|text| text.trim() != "0")
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        crate::config::parse(&format!("version = 1\n{text}"), Path::new("/"))
            .expect("valid")
            .0
    }

    fn entry(name: &str, except: &[&str]) -> Entry {
        Entry {
            name: name.into(),
            except: except.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn closed_ports_and_their_sub_interfaces_are_guarded() {
        let config = config(
            "[[port]]\nname = \"eth1\"\n[[port]]\nname = \"eth2\"\nacl = { ingress = \"x\" }\n[[port]]\nmatch = \"cali*\"\nrole = \"workload\"\n",
        );
        assert_eq!(
            entries(&config, &BTreeMap::new()),
            [entry("eth2", &[]), entry("eth2.*", &[]), entry("cali*", &[])]
        );
        // A list set at run time closes an uplink.
        let acl = AclNames {
            ingress: None,
            egress: Some("x".into()),
        };
        let set = BTreeMap::from([("eth1".to_owned(), acl)]);
        let names: Vec<_> = entries(&config, &set)
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        assert_eq!(names, ["eth1", "eth1.*", "eth2", "eth2.*", "cali*"]);
    }

    #[test]
    fn a_pattern_leaves_open_ports_open() {
        let config = config(
            "[[port]]\nmatch = \"cali*\"\nrole = \"workload\"\n[[port]]\nname = \"cali7\"\n[[port]]\nname = \"eth0\"\n",
        );
        assert_eq!(entries(&config, &BTreeMap::new()), [entry("cali*", &["cali7"])]);
        assert!(
            transaction(&entries(&config, &BTreeMap::new()))
                .contains("iifname \"cali*\" iifname != \"cali7\" counter drop\n")
        );
    }

    #[test]
    fn devices_upon_closed_ports_are_found_whatever_they_are_called() {
        let link = |index, name: &str, parent| LinkView {
            name: name.into(),
            index,
            master: 0,
            parent,
            kind: String::new(),
            mac: String::new(),
            mtu: 1500,
            admin_up: true,
            up: true,
        };
        let entries = [
            entry("eth1", &[]),
            entry("eth1.*", &[]),
            entry("cali*", &["cali7"]),
        ];
        let links = [
            link(1, "eth1", 0),
            link(2, "eth1.5", 1),
            link(3, "storage", 1),
            link(4, "deeper", 3),
            link(5, "cali7", 0),
            link(6, "open", 5),
            link(7, "cali8", 0),
            link(8, "closed", 7),
            link(9, "eth0", 0),
            link(10, "eth0.7", 9),
            link(11, "loop", 12),
            link(12, "pool", 11),
        ];
        let names: Vec<_> = stacked(&entries, &links).into_iter().collect();
        assert_eq!(names, ["closed", "deeper", "storage"]);
    }

    #[test]
    fn the_transaction_drops_by_both_directions_and_replaces_the_table() {
        let text = transaction(&[entry("eth1", &[]), entry("cali*", &[])]);
        assert_eq!(
            text,
            "table inet margay\ndelete table inet margay\ntable inet margay {\n\tchain forward {\n\
             \t\ttype filter hook forward priority filter; policy accept;\n\
             \t\tiifname \"eth1\" counter drop\n\t\tiifname \"cali*\" counter drop\n\
             \t\toifname \"eth1\" counter drop\n\t\toifname \"cali*\" counter drop\n\t}\n}\n"
        );
        assert_eq!(transaction(&[]), "table inet margay\ndelete table inet margay\n");
    }

    #[test]
    fn names_are_read_back_from_a_listing() {
        let listing = r#"{"nftables": [{"metainfo": {"json_schema_version": 1}},
            {"rule": {"family": "inet", "table": "margay", "chain": "forward", "handle": 3, "expr": [
                {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "cali*"}},
                {"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "cali7"}}, {"drop": null}]}},
            {"rule": {"family": "inet", "table": "other", "chain": "x", "handle": 4, "expr": [
                {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth9"}}]}}]}"#;
        assert_eq!(names_in(listing), [(3, "cali*".to_owned())]);
        assert_eq!(names_in("nonsense"), []);
    }
}
