//! A list compiled for look-ups.

use std::sync::Arc;

use super::linear;
use super::model::{Action, List, Match, Origin};
use crate::packet::Headers;

/// What a compiled list may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that the image of one list may take.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory: 512 << 20 }
    }
}

/// Why a list could not be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompileError {
    /// The image would take more than the limit.
    Memory {
        /// Name of the list.
        list: String,
        /// Rules in the list.
        rules: usize,
        /// Bytes wanted when compiling was given up.
        needed: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

impl std::fmt::Display for CompileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CompileError::Memory {
                list,
                rules,
                needed,
                limit,
            } => write!(
                f,
                "list \"{list}\" with {rules} rules needs more than {} MiB compiled ({} MiB when given up); \
                 split the list or merge rules into sets",
                limit >> 20,
                needed >> 20
            ),
        }
    }
}

impl std::error::Error for CompileError {}

/// A compiled list: immutable, shared by all workers.
#[derive(Debug)]
pub struct Image {
    list: Arc<List>,
}

impl Image {
    /// Compiles a list.
    pub fn compile(list: &List, limits: &Limits) -> Result<Image, CompileError> {
        let needed = list.rules.len() * size_of::<super::Rule>();
        if needed > limits.memory {
            return Err(CompileError::Memory {
                list: list.name.clone(),
                rules: list.rules.len(),
                needed,
                limit: limits.memory,
            });
        }
        Ok(Image {
            list: Arc::new(list.clone()),
        })
    }

    /// Judges a burst of up to [`super::BURST`] packets; `out` is at least as long as `packets`.
    pub fn classify_burst(&self, packets: &[Headers], out: &mut [Match]) {
        linear::classify_burst(&self.list, packets, out);
    }

    /// Judges one packet, by the same tables as [`Image::classify_burst`].
    pub fn classify(&self, headers: &Headers) -> Match {
        let mut out = [Match::default()];
        self.classify_burst(std::slice::from_ref(headers), &mut out);
        out[0]
    }

    /// Number of rules.
    pub fn rules(&self) -> usize {
        self.list.rules.len()
    }

    /// Name of the list.
    pub fn name(&self) -> &str {
        &self.list.name
    }

    /// Action for packets that no rule matches.
    pub fn default_action(&self) -> Action {
        self.list.default
    }

    /// Action of a rule, `None` past the last one.
    pub fn action(&self, rule: usize) -> Option<Action> {
        self.list.rules.get(rule).map(|r| r.action)
    }

    /// File and line of a rule, `None` past the last one.
    pub fn origin(&self, rule: usize) -> Option<&Origin> {
        self.list.rules.get(rule).map(|r| &r.origin)
    }

    /// Bytes that look-ups read.
    pub fn image_bytes(&self) -> usize {
        self.list.rules.len() * size_of::<super::Rule>()
    }

    /// All bytes that the image holds.
    pub fn bytes(&self) -> usize {
        self.image_bytes()
    }
}
