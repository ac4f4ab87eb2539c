//! ACL files: TOML to the classifier's model, with diagnostics that name file and line.
//!
//! All files of a directory are one name space: a set written in one file may be used in another. A file with an error
//! changes nothing; every error found is reported, not only the first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use classifier::acl::{self, CompileError, Image, Limits, List, Origin};

mod diagnostic;
mod file;
mod lines;
mod list;
mod names;
mod pieces;
mod rule;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use names::nearest;

pub use diagnostic::{Diagnostic, Severity};
pub use words::{icmp_number, protocol_name, protocol_number, tcp_flags};

/// The lists of one directory.
#[derive(Debug, Default, Clone)]
pub struct AclSet {
    /// Lists by name.
    pub lists: BTreeMap<String, Arc<List>>,
    /// What is odd but harmless.
    pub warnings: Vec<Diagnostic>,
}

/// What `margay acl check` answers.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Report {
    /// What keeps the files from being used.
    pub errors: Vec<Diagnostic>,
    /// What is odd but harmless.
    pub warnings: Vec<Diagnostic>,
    /// The lists that were read, also when another one has errors.
    pub lists: BTreeMap<String, Arc<List>>,
}

/// Reads files again and again, and of a file that has changed only the rules that are new or other. What it returns is what a
/// reading without memory returns. It keeps the text of the files, and where in them the rules stand (40 to 80 bytes a rule).
#[derive(Debug, Default)]
pub struct Reader {
    kept: pieces::Kept,
}

impl Reader {
    /// As [`load_dir`].
    ///
    /// # Errors
    /// As [`load_dir`].
    pub fn load_dir(&mut self, dir: &Path) -> Result<AclSet, Vec<Diagnostic>> {
        load(dir, |paths| self.read(paths))
    }

    /// Reads files as one name space.
    pub fn read(&mut self, paths: &[PathBuf]) -> Report {
        read_files(paths, Some(&mut self.kept))
    }
}

/// Reads files as one name space, without what a check adds.
pub fn read(paths: &[PathBuf]) -> Report {
    read_files(paths, None)
}

/// Reads every `*.toml` of a directory, in the order of their names.
///
/// A directory that does not exist holds no lists; that is a warning, because a port that names a list then denies.
///
/// # Errors
/// All diagnostics, the warnings included, when one of them is an error.
pub fn load_dir(dir: &Path) -> Result<AclSet, Vec<Diagnostic>> {
    load(dir, read)
}

fn load(dir: &Path, read: impl FnOnce(&[PathBuf]) -> Report) -> Result<AclSet, Vec<Diagnostic>> {
    let mut paths = Vec::new();
    let mut warnings = Vec::new();
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(|e| vec![Diagnostic::io(dir, &e)])?.path();
                let hidden = path
                    .file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with('.'));
                if path.extension().is_some_and(|e| e == "toml") && !hidden {
                    paths.push(path);
                }
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => warnings.push(Diagnostic::warning(
            dir,
            0,
            "no_directory",
            "the directory of access lists does not exist".into(),
            "create it, or set `dir` under [acl]; a port that names a list denies until then".into(),
        )),
        Err(e) => return Err(vec![Diagnostic::io(dir, &e)]),
    }
    paths.sort();
    let mut report = read(&paths);
    warnings.append(&mut report.warnings);
    if report.errors.is_empty() {
        Ok(AclSet {
            lists: report.lists,
            warnings,
        })
    } else {
        report.errors.append(&mut warnings);
        Err(report.errors)
    }
}

/// Checks files as one name space: what [`load_dir`] reports, rules that can never match because an earlier one
/// covers them, and lists that do not fit the memory limit.
pub fn check_files(paths: &[PathBuf]) -> Report {
    let mut report = read(paths);
    for list in report.lists.values() {
        for covered in acl::covered(list) {
            let (rule, by) = (&list.rules[covered.rule], &list.rules[covered.by]);
            let (same_file, by_line) = (rule.origin.file == by.origin.file, by.origin.line);
            let place = if same_file {
                format!("line {by_line}")
            } else {
                format!("{}:{by_line}", by.origin.file)
            };
            report.warnings.push(Diagnostic::warning(
                Path::new(&*rule.origin.file),
                rule.origin.line,
                "covered_rule",
                format!(
                    "rule {} of list \"{}\" can never match: rule {} ({place}) covers it",
                    covered.rule, list.name, covered.by
                ),
                format!(
                    "remove rule {}, or move it before rule {}",
                    covered.rule, covered.by
                ),
            ));
        }
        if let Err(e) = Image::compile(list, &Limits::default()) {
            report.errors.push(compile_error(list, &e));
        }
    }
    report
}

/// The diagnostic for a list that cannot be compiled, at the line where the list begins.
pub fn compile_error(list: &List, error: &CompileError) -> Diagnostic {
    Diagnostic::error(
        Path::new(&*list.origin.file),
        list.origin.line,
        "memory_limit",
        error.to_string(),
        "the tables in use stay as they are".into(),
    )
}

fn read_files(paths: &[PathBuf], kept: Option<&mut pieces::Kept>) -> Report {
    let mut report = Report::default();
    let mut files = Vec::new();
    let mut out = Vec::new();
    for path in paths {
        match std::fs::read_to_string(path) {
            Ok(text) => files.push((path.clone(), text)),
            Err(e) => out.push(Diagnostic::io(path, &e)),
        }
    }
    let mut reading = file::read(&files, kept.as_deref(), &mut out);
    report.lists = std::mem::take(&mut reading.lists);
    (report.errors, report.warnings) = out.into_iter().partition(|d| d.severity == Severity::Error);
    if let Some(kept) = kept.filter(|_| report.errors.is_empty()) {
        reading.keep(files, kept);
    }
    report
}

/// An origin from a path and a line.
fn origin(file: &Arc<str>, line: u32) -> Origin {
    Origin {
        file: file.clone(),
        line,
    }
}
