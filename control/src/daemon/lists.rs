//! Access lists in use: read, compiled, and replaced only as a whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use classifier::acl::{Action, Image, Limits, List, Origin};
use forwarder::acl::Instance;
use forwarder::watch::Decided;
use serde_json::{Value, json};

use crate::acl::{self, Diagnostic, Reader};

/// A list and what it compiled to.
#[derive(Debug, Clone)]
pub(super) struct Compiled {
    pub(super) list: Arc<List>,
    pub(super) image: Arc<Image>,
}

/// All lists of the directory, compiled.
pub(super) type Images = BTreeMap<String, Compiled>;

/// What a reading of the directory brought.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) images: Images,
    pub(super) warnings: Vec<Diagnostic>,
    /// Lists that were compiled, and lists of which only the maps from address to class were, because nothing but the members
    /// of sets has changed.
    pub(super) compiled: usize,
    /// See `compiled`.
    pub(super) mapped: usize,
}

/// Reads and compiles the directory. Lists that are as they were in `old` are not compiled again. May take seconds.
pub(super) fn read(dir: &Path, reader: &Mutex<Reader>, old: &Images) -> Result<Read, Vec<Diagnostic>> {
    // A reader that a panic left behind holds the last good reading.
    let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
    let set = reader.load_dir(dir)?;
    let (mut images, mut all, mut mapped) = (Images::new(), 0, 0);
    let mut errors = Vec::new();
    for (name, list) in set.lists {
        if let Some(same) = old.get(&name).filter(|compiled| compiled.list == list) {
            images.insert(name, same.clone());
            continue;
        }
        // Where only the members of sets have changed, most tables of the old image serve on.
        let before = old.get(&name);
        let compiled = match before {
            Some(old) => old.image.recompile(Arc::clone(&list), &Limits::default()),
            None => Image::of(Arc::clone(&list), &Limits::default()),
        };
        match compiled {
            Ok(image) => {
                match before.is_some_and(|old| image.has_tables_of(&old.image)) {
                    true => mapped += 1,
                    false => all += 1,
                }
                let image = Arc::new(image);
                images.insert(name, Compiled { list, image });
            }
            Err(error) => errors.push(acl::compile_error(&list, &error)),
        }
    }
    if errors.is_empty() {
        Ok(Read {
            images,
            warnings: set.warnings,
            compiled: all,
            mapped,
        })
    } else {
        errors.extend(set.warnings);
        Err(errors)
    }
}

/// The lists that workers use, each with one set of counters however many ports name it.
#[derive(Debug)]
pub(super) struct Lists {
    workers: usize,
    reader: Arc<Mutex<Reader>>,
    images: Arc<Images>,
    instances: BTreeMap<String, Arc<Instance>>,
    /// Lists that a port names and no file has: they deny.
    missing: BTreeMap<String, Arc<Instance>>,
    /// Where the rules of each instance stand, also of some that are no longer in use: packets that they decided about
    /// are still being told of.
    origins: BTreeMap<u32, Origins>,
}

/// Instances whose rules are remembered.
const REMEMBERED: usize = 256;

/// The name of a list and where its rules stand.
#[derive(Debug)]
struct Origins {
    name: String,
    rules: Vec<Origin>,
}

impl Lists {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers,
            reader: Arc::default(),
            images: Arc::default(),
            instances: BTreeMap::new(),
            missing: BTreeMap::new(),
            origins: BTreeMap::new(),
        }
    }

    /// What is compiled now, for the next [`read`].
    pub(super) fn images(&self) -> Arc<Images> {
        Arc::clone(&self.images)
    }

    /// What reads the files, for the next [`read`].
    pub(super) fn reader(&self) -> Arc<Mutex<Reader>> {
        Arc::clone(&self.reader)
    }

    /// Puts new images in place of all old ones. Counters of lists that did not change go on.
    pub(super) fn replace(&mut self, images: Images) {
        let instances = images
            .iter()
            .map(|(name, compiled)| {
                let same = self
                    .instances
                    .get(name)
                    .filter(|instance| Arc::ptr_eq(instance.image(), &compiled.image));
                let instance = same
                    .cloned()
                    .unwrap_or_else(|| Arc::new(Instance::new(Arc::clone(&compiled.image), self.workers)));
                (name.clone(), instance)
            })
            .collect();
        self.instances = instances;
        for instance in self.instances.values() {
            let image = instance.image();
            self.origins.entry(instance.serial()).or_insert_with(|| Origins {
                name: image.name().to_owned(),
                rules: (0..image.rules())
                    .filter_map(|rule| image.origin(rule).cloned())
                    .collect(),
            });
        }
        // The oldest have the lowest numbers.
        while self.origins.len() > REMEMBERED.max(self.instances.len()) {
            self.origins.pop_first();
        }
        self.images = Arc::new(images);
        self.missing.clear();
    }

    /// The rules of a list, as they were read.
    pub(super) fn list(&self, name: &str) -> Option<&Arc<List>> {
        self.images.get(name).map(|compiled| &compiled.list)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.instances.contains_key(name)
    }

    /// The instance for a name. A list that no file has denies everything.
    pub(super) fn get(&mut self, name: &str) -> Arc<Instance> {
        if let Some(instance) = self.instances.get(name) {
            return Arc::clone(instance);
        }
        let workers = self.workers;
        let instance = self.missing.entry(name.to_owned()).or_insert_with(|| {
            let list = List {
                name: name.to_owned(),
                default: Action::Deny,
                rules: Vec::new(),
                origin: Origin {
                    file: Arc::from(""),
                    line: 0,
                },
            };
            // A list without rules needs next to no memory, so that compiling it cannot hit the limit.
            let limits = Limits { memory: usize::MAX };
            let image = Image::compile(&list, &limits).unwrap_or_else(|error| {
                unreachable!("a list without rules compiles: {error}");
            });
            Arc::new(Instance::new(Arc::new(image), workers))
        });
        self.origins.entry(instance.serial()).or_insert_with(|| Origins {
            name: name.to_owned(),
            rules: Vec::new(),
        });
        Arc::clone(instance)
    }

    /// The rule that decided about a packet: `{acl, index, action, file, line}`.
    pub(super) fn decided(&self, decided: Option<Decided>) -> Option<Value> {
        let decided = decided?;
        let list = self.origins.get(&decided.list);
        let origin = usize::try_from(decided.found.rule)
            .ok()
            .and_then(|rule| list?.rules.get(rule));
        Some(json!({
            "acl": list.map(|list| &list.name),
            "index": decided.found.rule,
            "action": decided.found.action.name(),
            "file": origin.map(|origin| &*origin.file),
            "line": origin.map(|origin| origin.line),
        }))
    }

    /// Every list of the files, then the missing ones, with whether it is there.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Instance>, bool)> {
        let there = self
            .instances
            .iter()
            .map(|(name, instance)| (name.as_str(), instance, true));
        let missing = self
            .missing
            .iter()
            .map(|(name, instance)| (name.as_str(), instance, false));
        there.chain(missing)
    }
}
