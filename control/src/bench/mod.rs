//! `margay bench`: look-up rates of the engines on files that anybody can bring.
//!
//! Each command prints its own answer (a table, or one JSON object when `json` is set) and returns an [`Error`]
//! that names the file and line it could not use.

use std::path::{Path, PathBuf};

pub mod acl;
pub mod forward;
pub mod lpm;

/// Why a benchmark could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of a file is not in the format.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// Anything else, already worded for the reader.
    #[error("{0}")]
    Failed(String),
}

/// Reads a whole text file.
pub fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })
}
