//! Checks that need no daemon: a configuration with the access lists it names, or ACL files alone.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::acl::{self, Diagnostic, Report, Severity};
use crate::config::{self, Loaded, Problem};

/// What a check found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What keeps a file from being used.
    pub errors: Vec<Diagnostic>,
    /// What is odd.
    pub warnings: Vec<Diagnostic>,
}

impl Findings {
    /// The answer as JSON.
    pub fn json(&self, schema: &str) -> Value {
        json!({"schema": schema, "errors": self.errors, "warnings": self.warnings})
    }

    /// The findings as a compiler prints them, a line or two each.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.errors
            .iter()
            .chain(&self.warnings)
            .map(Diagnostic::to_string)
    }
}

impl From<Report> for Findings {
    fn from(report: Report) -> Self {
        Findings {
            errors: report.errors,
            warnings: report.warnings,
        }
    }
}

fn diagnostic(file: &Path, problem: &Problem, severity: Severity) -> Diagnostic {
    let line = u32::try_from(problem.line).unwrap_or(u32::MAX);
    let hint = problem.hint.clone().unwrap_or_default();
    let build = match severity {
        Severity::Error => Diagnostic::error,
        Severity::Warning => Diagnostic::warning,
    };
    build(file, line, problem.code, problem.message.clone(), hint)
}

/// Checks ACL files; a directory stands for the `*.toml` in it.
pub fn acl_files(paths: &[PathBuf]) -> Findings {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            let mut inside: Vec<PathBuf> = entries
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
                .collect();
            inside.sort();
            files.extend(inside);
        } else {
            files.push(path.clone());
        }
    }
    acl::check_files(&files).into()
}

/// Checks a configuration, its ACL directory, and that the lists which ports name are there.
pub fn configuration(file: &Path) -> Findings {
    let mut findings = Findings::default();
    let loaded = match config::load(file) {
        Ok(loaded) => loaded,
        Err(bad) => {
            let errors = bad.problems.iter();
            findings.errors = errors
                .map(|problem| diagnostic(file, problem, Severity::Error))
                .collect();
            return findings;
        }
    };
    let warnings = loaded.warnings.iter();
    findings
        .warnings
        .extend(warnings.map(|problem| diagnostic(file, problem, Severity::Warning)));
    match acl::load_dir(&loaded.config.acl_dir) {
        Err(diagnostics) => {
            let (errors, warnings) = diagnostics
                .into_iter()
                .partition(|diagnostic: &Diagnostic| diagnostic.severity == Severity::Error);
            findings.errors.extend::<Vec<_>>(errors);
            findings.warnings.extend::<Vec<_>>(warnings);
        }
        Ok(set) => {
            // A directory that is not there matters only when a port names a list.
            let names_lists = loaded.config.ports.iter().any(|port| port.acl.any());
            let warnings = set.warnings.into_iter();
            findings
                .warnings
                .extend(warnings.filter(|warning| names_lists || warning.code != "no_directory"));
            missing_lists(&loaded, file, |name| set.lists.contains_key(name), &mut findings);
        }
    }
    findings
}

fn missing_lists(loaded: &Loaded, file: &Path, has: impl Fn(&str) -> bool, findings: &mut Findings) {
    for port in &loaded.config.ports {
        let names = [&port.acl.ingress, &port.acl.egress];
        for name in names.into_iter().flatten() {
            // Which names a placeholder makes is known only when ports appear.
            if !name.contains("{port}") && !has(name) {
                findings.warnings.push(Diagnostic::warning(
                    file,
                    u32::try_from(port.line).unwrap_or(u32::MAX),
                    "missing_list",
                    format!(
                        "port {} names the list {name:?}, which no file has",
                        port.selector.text()
                    ),
                    "it denies everything until there is such a list".to_owned(),
                ));
            }
        }
    }
}
