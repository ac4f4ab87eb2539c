//! What `port set` is remembered in: a small JSON file that is replaced as a whole.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::AclNames;

/// What was set for one port. `None` leaves it to the configuration; an empty name means no list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortState {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) acl_ingress: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) acl_egress: Option<String>,
}

impl PortState {
    /// The lists that hold: what was set, else what the configuration says.
    pub(super) fn over(&self, configured: &AclNames) -> AclNames {
        let choose = |set: &Option<String>, configured: &Option<String>| match set {
            Some(name) if name.is_empty() => None,
            Some(name) => Some(name.clone()),
            None => configured.clone(),
        };
        AclNames {
            ingress: choose(&self.acl_ingress, &configured.ingress),
            egress: choose(&self.acl_egress, &configured.egress),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    ports: BTreeMap<String, PortState>,
}

/// The file and what is in it.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    pub(super) ports: BTreeMap<String, PortState>,
}

impl State {
    /// Reads the file. None is an empty one; one that cannot be read is an error, because a list that was set would
    /// be forgotten otherwise.
    pub(super) fn load(path: &Path) -> io::Result<State> {
        let ports = match std::fs::read(path) {
            Ok(bytes) => {
                let file: File = serde_json::from_slice(&bytes)?;
                if file.version != 1 {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("version {} is not known", file.version),
                    ));
                }
                file.ports
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(State {
            path: path.to_owned(),
            ports,
        })
    }

    /// Writes `ports` and holds them from then on; on an error both the file and this are as before.
    pub(super) fn store(&mut self, ports: BTreeMap<String, PortState>) -> io::Result<()> {
        let file = File { version: 1, ports };
        if let Some(parent) = self.path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let new = self.path.with_extension("new");
        let mut out = std::fs::File::create(&new)?;
        out.write_all(&serde_json::to_vec_pretty(&file)?)?;
        out.write_all(b"\n")?;
        out.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        self.ports = file.ports;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_kept_and_beats_the_configuration() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("sub/ports.json");
        let mut state = State::load(&path).expect("no file is an empty one");
        assert!(state.ports.is_empty());
        let eth1 = PortState {
            acl_ingress: Some("edge".into()),
            acl_egress: Some(String::new()),
        };
        state
            .store(BTreeMap::from([("eth1".into(), eth1.clone())]))
            .expect("stored");
        let state = State::load(&path).expect("readable");
        assert_eq!(state.ports["eth1"], eth1);
        let configured = AclNames {
            ingress: None,
            egress: Some("out".into()),
        };
        let lists = eth1.over(&configured);
        assert_eq!((lists.ingress.as_deref(), lists.egress), (Some("edge"), None));
        assert_eq!(PortState::default().over(&configured), configured);
        std::fs::write(&path, "{").expect("write");
        assert!(State::load(&path).is_err());
    }
}
