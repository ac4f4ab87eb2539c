//! What is wrong with a file, where, and what cures it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// Odd, but harmless.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file.
    pub file: PathBuf,
    /// Line from 1; 0 when the whole file is meant.
    pub line: u32,
    /// Stable name of the finding.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// Error or warning.
    pub severity: Severity,
}

impl Diagnostic {
    /// An error.
    pub fn error(file: &Path, line: u32, code: &'static str, message: String, hint: String) -> Self {
        Diagnostic {
            file: file.to_owned(),
            line,
            code,
            message,
            hint,
            severity: Severity::Error,
        }
    }

    /// A warning.
    pub fn warning(file: &Path, line: u32, code: &'static str, message: String, hint: String) -> Self {
        Diagnostic {
            severity: Severity::Warning,
            ..Self::error(file, line, code, message, hint)
        }
    }

    /// A file that cannot be read.
    pub(super) fn io(file: &Path, error: &std::io::Error) -> Self {
        Self::error(
            file,
            0,
            "unreadable",
            format!("cannot be read: {error}"),
            "check path and permissions".into(),
        )
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        let kind = if self.severity == Severity::Error {
            "error"
        } else {
            "warning"
        };
        write!(f, " {kind}: {} [{}]", self.message, self.code)?;
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", self.hint)?;
        }
        Ok(())
    }
}
