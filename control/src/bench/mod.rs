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

/// Prints what was measured: one JSON object of that schema, or the rows, each a name and a text.
fn answer(figures: &impl serde::Serialize, schema: &str, json: bool, rows: &[(&str, String)]) {
    if json {
        let mut answer = serde_json::json!(figures);
        answer["schema"] = schema.into();
        println!("{answer}");
    } else {
        for (name, text) in rows {
            println!("{name:<20}{text}");
        }
    }
}

/// A size for people: KiB below 10 MiB, else MiB.
fn size(bytes: usize) -> String {
    let kibibytes = bytes as f64 / 1024.0;
    if kibibytes < 10_240.0 {
        format!("{kibibytes:.1} KiB")
    } else {
        format!("{:.2} MiB", kibibytes / 1024.0)
    }
}

/// The rows that all benchmarks end with: what the tables cost.
fn cost(load_seconds: f64, image_bytes: usize, bytes: usize) -> [(&'static str, String); 3] {
    [
        ("load", format!("{load_seconds:.4} s")),
        ("image", size(image_bytes)),
        ("held in all", size(bytes)),
    ]
}

/// The rows of a benchmark of look-ups: what was loaded, the keys, the rate, what the tables cost, and the test of the answers.
fn lookups(
    loaded: (&'static str, usize),
    keys: usize,
    rate: f64,
    [load, image, bytes]: [(&'static str, String); 3],
    answers: (&'static str, String),
) -> [(&'static str, String); 7] {
    [
        (loaded.0, loaded.1.to_string()),
        ("keys", keys.to_string()),
        ("lookups per second", millions(rate)),
        load,
        image,
        bytes,
        answers,
    ]
}

/// A row of millions a second.
fn millions(rate: f64) -> String {
    format!("{:.1} M", rate / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates() {
        assert_eq!([512, 10 << 20].map(size), ["0.5 KiB", "10.00 MiB"]);
        assert_eq!(millions(12_340_000.0), "12.3 M");
        assert_eq!(cost(0.25, 1024, 2048)[2].1, "2.0 KiB");
    }
}
