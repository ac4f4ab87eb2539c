//! Access lists in use: read, compiled, and replaced only as a whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use classifier::acl::{Action, Image, Limits, List, Origin};
use forwarder::acl::Instance;

use crate::acl::{self, Diagnostic};

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
}

/// Reads and compiles the directory. Lists that are as they were in `old` are not compiled again. May take seconds.
pub(super) fn read(dir: &Path, old: &Images) -> Result<Read, Vec<Diagnostic>> {
    let set = acl::load_dir(dir)?;
    let mut images = Images::new();
    let mut errors = Vec::new();
    for (name, list) in set.lists {
        if let Some(same) = old.get(&name).filter(|compiled| compiled.list == list) {
            images.insert(name, same.clone());
            continue;
        }
        // Where only the members of sets have changed, most tables of the old image serve on.
        let compiled = match old.get(&name) {
            Some(old) => old.image.recompile(Arc::clone(&list), &Limits::default()),
            None => Image::of(Arc::clone(&list), &Limits::default()),
        };
        match compiled {
            Ok(image) => {
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
    images: Arc<Images>,
    instances: BTreeMap<String, Arc<Instance>>,
    /// Lists that a port names and no file has: they deny.
    missing: BTreeMap<String, Arc<Instance>>,
}

impl Lists {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers,
            images: Arc::default(),
            instances: BTreeMap::new(),
            missing: BTreeMap::new(),
        }
    }

    /// What is compiled now, for the next [`read`].
    pub(super) fn images(&self) -> Arc<Images> {
        Arc::clone(&self.images)
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
        Arc::clone(instance)
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
