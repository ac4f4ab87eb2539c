//! Ports at run time: devices that the configuration speaks of are opened when they are there, closed when they go,
//! and opened again when something about them changes that an open port cannot change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use forwarder::{Direction, Error, PortId};
use serde_json::json;

use super::{Daemon, translate};
use crate::config::{AclNames, OnExit, Port, Selector};
use crate::doctor::Cause;
use crate::mirror::LinkView;
use crate::socket::{ErrorBody, MonitorKind};

/// How long opening is not tried again after it has failed: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// An open port.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: PortId,
    pub(super) ifindex: u32,
    /// What the configuration says.
    pub(super) port: Port,
    /// The lists that hold, names expanded.
    pub(super) acl: AclNames,
    pub(super) on_exit: OnExit,
}

/// A device that could not be opened, or is not there.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) cause: Cause,
    pub(super) message: String,
    /// Not before.
    again: Instant,
    delay: Duration,
}

impl Waiting {
    /// Whether the device was refused for its MTU and has another one now.
    fn may_fit(&self, mtu: u32) -> bool {
        matches!(self.cause, Cause::TooLarge { mtu: refused, .. } if refused != mtu)
    }
}

/// All ports.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pub(super) open: BTreeMap<String, Open>,
    pub(super) waiting: BTreeMap<String, Waiting>,
    queue: VecDeque<String>,
    begun: bool,
}

impl Ports {
    /// Whether the devices have been looked at since the mirror was complete.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }

    fn wait(&mut self, name: &str, error: &Error) -> bool {
        let message = error.to_string();
        let known = self.waiting.get(name);
        let is_news = known.is_none_or(|waiting| waiting.message != message);
        let delay = known.map_or(RETRY.0, |waiting| (waiting.delay * 2).min(RETRY.1));
        self.waiting.insert(
            name.to_owned(),
            Waiting {
                cause: cause(error),
                message,
                again: Instant::now() + delay,
                delay,
            },
        );
        is_news
    }
}

/// Why the data plane could not open a port.
fn cause(error: &Error) -> Cause {
    match error {
        Error::NoDevice { .. } => Cause::Absent,
        Error::XdpBusy { .. } => Cause::OtherProgram,
        Error::Frames { needed, .. } => Cause::Frames(*needed),
        Error::Mtu { mtu, largest, .. } => Cause::TooLarge {
            mtu: *mtu,
            largest: *largest,
        },
        _ => Cause::Other,
    }
}

impl Daemon {
    /// The lists of a port: what `port set` said, else the configuration.
    pub(super) fn acl_of(&self, name: &str, port: &Port) -> AclNames {
        match self.state.ports.get(name) {
            Some(set) => set.over(&port.acl),
            None => port.acl.clone(),
        }
        .expand(name)
    }

    /// Compares open ports with the devices that are there: closes what is gone and queues what is new. What changes
    /// about the device of an open port, the mirror passes on itself.
    pub(super) fn sync_ports(&mut self) {
        let links: BTreeMap<String, LinkView> = self
            .mirror
            .links()
            .into_iter()
            .map(|link| (link.name.clone(), link))
            .collect();
        let gone: Vec<(String, &str)> = self
            .ports
            .open
            .iter()
            .filter_map(|(name, open)| match links.get(name) {
                None => Some((name.clone(), "the device is gone")),
                Some(link) if link.index != open.ifindex => Some((name.clone(), "the device is another one")),
                Some(_) => None,
            })
            .collect();
        for (name, why) in gone {
            self.close(&name, why);
        }
        for (name, link) in &links {
            let Some(port) = self.config.port_for(name) else {
                continue;
            };
            // Beyond what one frame holds, packets are spread over several, which an open port cannot begin to do.
            let open = self.ports.open.get(name);
            if open.is_some_and(|open| !self.dataplane.suits_mtu(open.id, link.mtu)) {
                let why = format!("with its MTU of {} it is opened anew", link.mtu);
                self.close(name, &why);
                self.ports.queue.push_back(name.clone());
                continue;
            }
            if self.ports.open.contains_key(name) || self.ports.queue.contains(name) {
                continue;
            }
            // A pattern may match devices that are no Ethernet; only an exact name is worth a word about it.
            if link.mac.is_empty() {
                if matches!(port.selector, Selector::Name(_)) {
                    self.not_open(
                        name,
                        Cause::Other,
                        "the device has no Ethernet address".to_owned(),
                    );
                }
                continue;
            }
            if !link.admin_up {
                self.not_open(
                    name,
                    Cause::Other,
                    format!("the device is down; `ip link set {name} up` takes it up"),
                );
                continue;
            }
            match self.ports.waiting.get(name) {
                Some(waiting) if waiting.again > Instant::now() && !waiting.may_fit(link.mtu) => {}
                _ => self.ports.queue.push_back(name.clone()),
            }
        }
        let exact: Vec<String> = self
            .config
            .ports
            .iter()
            .filter_map(|port| match &port.selector {
                Selector::Name(name) if !links.contains_key(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        for name in &exact {
            self.not_open(name, Cause::Absent, "there is no such device yet; it is taken up when it appears (`ip link` lists those that are there)".to_owned());
        }
        let config = &self.config;
        self.ports.waiting.retain(|name, _| {
            exact.contains(name) || links.contains_key(name) && config.port_for(name).is_some()
        });
        self.ports.begun = true;
    }

    fn not_open(&mut self, name: &str, cause: Cause, message: String) {
        // Nothing was tried, so nothing has to be waited for before the next try.
        let is_news = self
            .ports
            .waiting
            .get(name)
            .is_none_or(|waiting| waiting.message != message);
        // A workload's device is down for a moment when it appears; only a port that is named is missed.
        let named = self.config.port_for(name);
        if is_news && let Some(port) = named.filter(|port| matches!(port.selector, Selector::Name(_))) {
            let (file, line) = (self.file.display(), port.line);
            let lists = if port.acl.any() {
                "; its access lists judge nothing until it is"
            } else {
                ""
            };
            tracing::warn!("{file}:{line}: port {name} is not open: {message}{lists}");
        }
        self.ports.waiting.insert(
            name.to_owned(),
            Waiting {
                cause,
                message,
                again: Instant::now(),
                delay: RETRY.0 / 2,
            },
        );
    }

    /// Opens the next queued port. Before the daemon is ready, a port that the configuration names and that cannot
    /// be opened ends it; later, and for patterns, opening is tried again.
    pub(super) fn open_next(&mut self) -> Result<(), ErrorBody> {
        let Some(name) = self.ports.queue.pop_front() else {
            return Ok(());
        };
        let result = self.open(&name);
        if let Err((is_exact, error)) = result {
            // A device that goes, and one with a large MTU, can come right by itself.
            let passing = matches!(error, Error::NoDevice { .. } | Error::Mtu { .. });
            let fatal = is_exact && !self.ready && !passing;
            if fatal {
                return Err(translate::dataplane_error(&error));
            }
            if self.ports.wait(&name, &error) {
                let message = error.to_string();
                tracing::error!("{message}");
                self.publish(
                    MonitorKind::Link,
                    json!({"event": "port", "action": "failed", "port": name, "message": message}),
                );
            }
        }
        self.check_ready();
        Ok(())
    }

    fn open(&mut self, name: &str) -> Result<(), (bool, Error)> {
        let Some(port) = self.config.port_for(name).cloned() else {
            return Ok(());
        };
        let Some(link) = self.mirror.link(name) else {
            return Ok(());
        };
        let Some(attrs) = self.mirror.port_attrs(link.index) else {
            return Ok(());
        };
        let is_exact = matches!(port.selector, Selector::Name(_));
        let acl = self.acl_of(name, &port);
        for list in [&acl.ingress, &acl.egress].into_iter().flatten() {
            if !self.lists.has(list) {
                tracing::warn!("port {name}: there is no list {list:?}: everything is denied until there is");
            }
        }
        let on_exit = self.on_exit_of(name, &port, &acl);
        if on_exit != port.on_exit(&acl) {
            let file = self.file.display();
            tracing::warn!(
                "{file}:{}: port {name} has tables of its own (a VRF's, or by `ip rule`): it is closed when margayd is not there, whatever on_exit says",
                port.line
            );
        }
        let closed = on_exit == OnExit::Drop;
        let spec = translate::spec(name, link.index, &port, &acl, attrs, closed, &mut self.lists);
        let started = Instant::now();
        let id = self
            .dataplane
            .open_port(spec)
            .map_err(|error| (is_exact, error))?;
        self.ports.waiting.remove(name);
        self.ports.open.insert(
            name.to_owned(),
            Open {
                id,
                ifindex: link.index,
                port,
                acl,
                on_exit,
            },
        );
        if let Err(error) = self.mirror.port_opened(&mut self.dataplane, link.index, id) {
            tracing::error!("port {name}: routes through it cannot be used: {error}");
        }
        tracing::info!("port {name} is open after {} ms", started.elapsed().as_millis());
        self.publish(
            MonitorKind::Link,
            json!({"event": "port", "action": "opened", "port": name}),
        );
        Ok(())
    }

    /// Closes an open port.
    pub(super) fn close(&mut self, name: &str, why: &str) {
        let Some(open) = self.ports.open.remove(name) else {
            return;
        };
        self.drops.port_closes(&self.dataplane.counters(), open.id);
        if let Err(error) = self.mirror.port_closed(&mut self.dataplane, open.ifindex) {
            tracing::error!("port {name}: {error}");
        }
        if let Err(error) = self.dataplane.close_port(open.id) {
            tracing::warn!("port {name}: {error}");
        }
        tracing::info!("port {name} is closed: {why}");
        self.publish(
            MonitorKind::Link,
            json!({"event": "port", "action": "closed", "port": name, "message": why}),
        );
    }

    /// Brings open ports in line with configuration and lists after a change of either. Lists are exchanged while
    /// the port works; anything else needs it closed and opened again.
    pub(super) fn apply_to_ports(&mut self) {
        let names: Vec<String> = self.ports.open.keys().cloned().collect();
        let mut reopen = BTreeSet::new();
        for name in &names {
            let Some(port) = self.config.port_for(name).cloned() else {
                self.close(name, "the configuration does not speak of it any more");
                continue;
            };
            let acl = self.acl_of(name, &port);
            let on_exit = self.on_exit_of(name, &port, &acl);
            let Some(open) = self.ports.open.get_mut(name) else {
                continue;
            };
            let same = (
                open.port.role,
                open.port.mode,
                open.port.anti_spoof,
                open.port.fix_checksums,
            ) == (port.role, port.mode, port.anti_spoof, port.fix_checksums)
                && open.on_exit == on_exit;
            if !same {
                reopen.insert(name.clone());
                continue;
            }
            for list in [&acl.ingress, &acl.egress].into_iter().flatten() {
                if !self.lists.has(list) {
                    tracing::warn!(
                        "port {name}: there is no list {list:?}: everything is denied until there is"
                    );
                }
            }
            let ingress = acl.ingress.as_ref().map(|list| self.lists.get(list));
            let egress = acl.egress.as_ref().map(|list| self.lists.get(list));
            for (direction, list) in [(Direction::Ingress, ingress), (Direction::Egress, egress)] {
                if let Err(error) = self.dataplane.set_acl(open.id, direction, list) {
                    tracing::error!("port {name}: {error}");
                }
            }
            open.acl = acl;
            open.port = port;
        }
        for name in reopen {
            self.close(&name, "its configuration has changed");
        }
        // What failed under the old configuration is tried at once under the new one.
        for waiting in self.ports.waiting.values_mut() {
            waiting.again = Instant::now();
            waiting.delay = RETRY.0 / 2;
        }
        if self.mirror.complete() {
            self.sync_ports();
        }
    }
}
