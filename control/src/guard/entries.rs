//! What has to be guarded, by the configuration and by what is stacked upon closed ports.

use std::collections::{BTreeMap, BTreeSet};

use classifier::lpm::IpPrefix;

use crate::config::{AclNames, Config, OnExit, Selector};
use crate::mirror::LinkView;

/// One closed port or pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A name, or a beginning followed by `*`, as nftables writes it.
    pub name: String,
    /// Names and patterns within this one that are not meant: another `[[port]]` table speaks of them.
    pub except: Vec<String>,
    /// Multicast groups that the kernel may forward all the same.
    pub multicast: Vec<IpPrefix>,
}

impl Entry {
    /// An entry without exceptions.
    pub fn of(name: String) -> Entry {
        Entry {
            name,
            except: Vec::new(),
            multicast: Vec::new(),
        }
    }

    /// The entries of one port: its own, with the groups that it lists, and that of VLAN sub-interfaces by the usual names.
    pub fn with_vlans(name: &str, multicast: &[IpPrefix]) -> [Entry; 2] {
        let own = Entry {
            multicast: multicast.to_vec(),
            ..Entry::of(name.to_owned())
        };
        [own, Entry::of(format!("{name}.*"))]
    }

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

/// What one name or pattern is to the guard.
struct Said<'a> {
    name: &'a str,
    closed: bool,
    multicast: &'a [IpPrefix],
}

/// What has to be guarded: the closed ports of the configuration, with the lists that `port set` gave to some.
pub fn entries(config: &Config, set: &BTreeMap<String, AclNames>) -> Vec<Entry> {
    let said = said(config, set);
    let mut entries = Vec::new();
    for (at, one) in said.iter().enumerate().filter(|(_, one)| one.closed) {
        match one.name.strip_suffix('*') {
            Some(start) => {
                // A pattern leaves out what an exact name or an earlier pattern speaks of, as far as nftables can say it.
                let overlaps = |name: &str| {
                    let other = name.trim_end_matches('*');
                    other.starts_with(start) || name.ends_with('*') && start.starts_with(other)
                };
                let apart = |other: &&Said<'_>| !other.closed || other.multicast != one.multicast;
                let except = said[..at]
                    .iter()
                    .filter(apart)
                    .filter(|other| overlaps(other.name));
                entries.push(Entry {
                    name: one.name.to_owned(),
                    except: except.map(|other| other.name.to_owned()).collect(),
                    multicast: one.multicast.to_vec(),
                });
            }
            None => {
                // VLAN sub-interfaces: the kernel still gets tagged frames. Those with a list of their own have a guard of their own.
                let [own, mut vlans] = Entry::with_vlans(one.name, one.multicast);
                let start = vlans.name.trim_end_matches('*');
                let listed = said.iter().filter(|other| {
                    other.closed && !other.multicast.is_empty() && other.name.starts_with(start)
                });
                let except: Vec<String> = listed.map(|other| other.name.to_owned()).collect();
                entries.push(own);
                if !except.contains(&vlans.name) {
                    vlans.except = except;
                    entries.push(vlans);
                }
            }
        }
    }
    entries
}

/// All names and patterns in the order in which they count: those whose lists were set at run time, which are spoken of by name
/// whatever selects them in the file, exact names, and patterns.
fn said<'a>(config: &'a Config, set: &'a BTreeMap<String, AclNames>) -> Vec<Said<'a>> {
    let mut said = Vec::new();
    for (name, acl) in set {
        let Some(port) = config.port_for(name) else {
            continue;
        };
        said.push(Said {
            name,
            closed: port.on_exit(acl) == OnExit::Drop,
            multicast: &port.multicast,
        });
    }
    let exact = |selector: &Selector| matches!(selector, Selector::Name(_));
    for of_names in [true, false] {
        for port in config
            .ports
            .iter()
            .filter(|port| exact(&port.selector) == of_names)
        {
            let name = port.selector.text();
            let closed = port.on_exit(&port.acl) == OnExit::Drop;
            // A pattern that nftables cannot say is never closed, and cannot be left out either.
            if of_names && set.contains_key(name) || !port.selector.can_be_guarded() {
                continue;
            }
            said.push(Said {
                name,
                closed,
                multicast: &port.multicast,
            });
        }
    }
    said
}
