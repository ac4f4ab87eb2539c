//! Reloading: files are read and compiled beside the running loop, and put in place only when all of them are good.

use std::collections::VecDeque;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::lists::{self, Images, Read};
use super::{Daemon, bad_acl, guard_entries};
use crate::config::{self, Config, Loaded};
use crate::socket::{Answer, Code, ErrorBody};

/// What is read anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The configuration file and the lists (SIGHUP).
    Configuration,
    /// The lists (`acl reload`).
    Lists,
}

/// Files that were read and are good.
#[derive(Debug)]
pub(super) struct Fresh {
    loaded: Option<Loaded>,
    read: Read,
}

type Reply = Option<oneshot::Sender<Answer>>;
type Done = Result<Fresh, ErrorBody>;

/// Reloads under way and asked for. One at a time, in order.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    running: Option<(JoinHandle<Done>, Reply)>,
    queued: VecDeque<(What, Reply)>,
}

impl Reloads {
    /// Waits for the running reload; for ever when there is none. Safe to cancel.
    pub(super) async fn finished(&mut self) -> (Done, Reply) {
        let Some((task, _)) = &mut self.running else {
            return std::future::pending().await;
        };
        let done = task
            .await
            .unwrap_or_else(|error| Err(ErrorBody::new(Code::Failed, format!("reading failed: {error}"))));
        let reply = self.running.take().and_then(|(_, reply)| reply);
        (done, reply)
    }
}

impl Daemon {
    /// Asks for a reload. The reply is sent when it is done.
    pub(super) fn reload(&mut self, what: What, reply: Reply) {
        self.reloads.queued.push_back((what, reply));
        self.start_reload();
    }

    fn start_reload(&mut self) {
        if self.reloads.running.is_some() {
            return;
        }
        let Some((what, reply)) = self.reloads.queued.pop_front() else {
            return;
        };
        let (file, dir) = (self.file.clone(), self.config.acl_dir.clone());
        let (reader, old) = (self.lists.reader(), self.lists.images());
        // Compiling a large list takes seconds; the loop goes on meanwhile.
        let task = tokio::task::spawn_blocking(move || {
            let loaded = match what {
                What::Lists => None,
                What::Configuration => Some(
                    config::load(&file)
                        .map_err(|bad| ErrorBody::new(Code::BadConfiguration, bad.to_string()))?,
                ),
            };
            let dir = loaded.as_ref().map_or(&dir, |loaded| &loaded.config.acl_dir);
            let read = lists::read(dir, &reader, &old).map_err(|diagnostics| bad_acl(&diagnostics))?;
            Ok(Fresh { loaded, read })
        });
        self.reloads.running = Some((task, reply));
    }

    /// Puts what was read in place, or nothing of it.
    pub(super) fn reloaded(&mut self, (done, reply): (Done, Reply)) {
        let result = done.and_then(|fresh| self.put_in_place(fresh));
        match &result {
            Ok(answer) => tracing::info!(
                "reloaded: {} lists, {} changed: {} compiled, {} with other members of sets in the same tables",
                answer["lists"],
                answer["changed"],
                answer["compiled"],
                answer["mapped"],
            ),
            Err(error) => tracing::error!("nothing was changed: {error}"),
        }
        if let Some(reply) = reply {
            let _ = reply.send(result.into());
        }
        self.start_reload();
    }

    fn put_in_place(&mut self, fresh: Fresh) -> Result<Value, ErrorBody> {
        let mut warnings: Vec<Value> = Vec::new();
        let mut later = Vec::new();
        let config = match &fresh.loaded {
            None => self.config.clone(),
            Some(loaded) => {
                for warning in &loaded.warnings {
                    tracing::warn!("{}", config::line_text(&loaded.file, warning));
                }
                let (config, keys) = with_fixed(&self.config, &loaded.config);
                later = keys;
                config
            }
        };
        if !later.is_empty() {
            tracing::warn!("takes effect at the next start: {}", later.join(", "));
        }
        for warning in &fresh.read.warnings {
            tracing::warn!("{warning}");
            warnings.push(json!(warning));
        }
        // What is closed from now on is guarded before anything is opened; what is not closed any more is let go
        // after everything is in place.
        let before = guard_entries(&self.config, &self.state, &self.released);
        let after = guard_entries(&config, &self.state, &self.released);
        if before != after {
            let mut both = before;
            both.extend(
                after
                    .iter()
                    .filter(|entry| !both.contains(entry))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
            self.guard(&both)?;
        }
        let changed = changed(&self.lists.images(), &fresh.read.images);
        let count = fresh.read.images.len();
        self.lists.replace(fresh.read.images);
        self.config = config;
        self.apply_to_ports();
        self.guard(&after)?;
        Ok(json!({
            "schema": "margay.acl-reload/1",
            "lists": count,
            "changed": changed,
            "compiled": fresh.read.compiled,
            "mapped": fresh.read.mapped,
            "warnings": warnings,
        }))
    }
}

/// How many lists are new, other or gone.
fn changed(old: &Images, new: &Images) -> usize {
    let other = new
        .iter()
        .filter(|(name, compiled)| old.get(*name).is_none_or(|old| old.list != compiled.list))
        .count();
    other + old.keys().filter(|name| !new.contains_key(*name)).count()
}

/// A new configuration with what cannot change while the daemon runs as it is, and the keys that differ there.
fn with_fixed(running: &Config, new: &Config) -> (Config, Vec<String>) {
    let config = Config {
        ports: new.ports.clone(),
        acl_dir: new.acl_dir.clone(),
        ..running.clone()
    };
    let keys = config::differences(&config.effective(), &new.effective())
        .into_iter()
        .map(|difference| difference.key)
        .collect();
    (config, keys)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_needs_a_start_stays_and_is_named() {
        let parse = |text: &str| config::parse(text, Path::new("/")).expect("valid").0;
        let running = parse("version = 1\n[[port]]\nname = \"eth1\"\n");
        let new = parse(
            "version = 1\n[[port]]\nname = \"eth2\"\n[runtime]\nframes = 4096\n[kernel]\ntables = [7]\n",
        );
        let (config, later) = with_fixed(&running, &new);
        assert_eq!(config.ports, new.ports);
        assert_eq!((config.runtime.frames, config.tables), (16384, vec![254]));
        assert_eq!(later, ["kernel.tables", "runtime.frames"]);
    }
}
