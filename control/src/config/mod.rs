//! The configuration file: TOML in, a validated [`Config`] or every problem with its line out.
//!
//! Unknown keys are errors, so that a typing error never silently means a default. `docs/configuration.md` describes
//! each key.

mod model;
mod parse;
mod reader;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

pub use model::*;
pub use parse::parse;
pub use reader::{Problem, nearest};

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/margay/margay.sock";
/// Where `port set` is remembered when the daemon listens on [`DEFAULT_SOCKET`].
pub const DEFAULT_STATE: &str = "/var/lib/margay/ports.json";

/// A configuration file that was read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file.
    pub file: PathBuf,
    /// What it says.
    pub config: Config,
    /// What is probably not meant.
    pub warnings: Vec<Problem>,
}

/// A configuration file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// The file.
    pub file: PathBuf,
    /// Why: at least one problem.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", line_text(&self.file, problem))?;
        }
        Ok(())
    }
}

impl std::error::Error for Bad {}

/// A problem as compilers print it: `FILE:LINE: message (hint)`.
pub fn line_text(file: &Path, problem: &Problem) -> String {
    let mut text = format!("{}:{}: {}", file.display(), problem.line, problem.message);
    if let Some(hint) = &problem.hint {
        text.push_str(&format!(" ({hint})"));
    }
    text
}

/// Reads and validates a file.
pub fn load(file: &Path) -> Result<Loaded, Bad> {
    let bad = |problems| Bad {
        file: file.to_owned(),
        problems,
    };
    let text = std::fs::read_to_string(file).map_err(|error| {
        bad(vec![Problem {
            line: 1,
            code: "unreadable",
            message: format!("cannot be read: {error}"),
            hint: None,
        }])
    })?;
    // Paths in the file are relative to it, whatever the working directory of the daemon is.
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let base = absolute.parent().unwrap_or(Path::new("/"));
    match parse(&text, base) {
        Ok((config, warnings)) => Ok(Loaded {
            file: absolute,
            config,
            warnings,
        }),
        Err(problems) => Err(bad(problems)),
    }
}

impl Config {
    /// The configuration as JSON, shaped as the file is, with every default filled in.
    pub fn effective(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| {
                let mut value = json!(port);
                value["on_exit"] = json!(port.on_exit(&port.acl));
                value
            })
            .collect();
        let mut value = json!({
            "version": 1,
            "runtime": self.runtime,
            "port": ports,
            "kernel": { "tables": self.tables },
            "icmp": { "rate": self.icmp_rate, "burst": self.icmp_burst },
            "multipath": { "hash": self.multipath_hash },
            "acl": { "dir": self.acl_dir },
            "control": { "socket": self.socket, "state": self.state },
        });
        if let Some(listen) = &self.metrics {
            value["metrics"] = json!({ "listen": listen });
        }
        value
    }
}

/// One key that two configurations say differently.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The key with its tables, ports by their name: `port.eth1.acl.ingress`.
    pub key: String,
    /// What the running daemon has; `None` when it has nothing.
    pub running: Option<Value>,
    /// What the file says; `None` when it says nothing.
    pub file: Option<Value>,
}

/// Compares two effective configurations key by key.
pub fn differences(running: &Value, file: &Value) -> Vec<Difference> {
    let (mut left, mut right) = (Map::new(), Map::new());
    flatten("", running, &mut left);
    flatten("", file, &mut right);
    let mut keys: Vec<&String> = left.keys().chain(right.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter(|key| left.get(*key) != right.get(*key))
        .map(|key| Difference {
            key: key.clone(),
            running: left.get(key).cloned(),
            file: right.get(key).cloned(),
        })
        .collect()
}

fn flatten(path: &str, value: &Value, into: &mut Map<String, Value>) {
    let below = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| flatten(&below(key), value, into)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, item) in items.iter().enumerate() {
                let name = item["name"].as_str().or(item["match"].as_str());
                let name = name.map_or_else(|| index.to_string(), str::to_owned);
                flatten(&below(&name), item, into);
            }
        }
        Value::Null => {}
        other => {
            into.insert(path.to_owned(), other.clone());
        }
    }
}
