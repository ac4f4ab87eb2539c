//! The properties of what reads text from outside, as bodies that the unit tests and the fuzz targets share.

pub mod filter;
#[allow(dead_code)]
pub mod netlink;
#[allow(dead_code)]
pub mod samples;

use std::fs;
use std::path::{Path, PathBuf};

use control::acl::{self, Severity};
use control::config;
use control::metrics;
use control::socket::{ErrorBody, MAX_REQUEST, parse_request};
use samples::LISTS;

/// A line on the control socket: understood, or answered by one line of JSON that is not much longer than the request.
pub fn request(line: &[u8]) {
    match parse_request(line) {
        Ok(request) => {
            assert!(line.len() <= MAX_REQUEST);
            assert_eq!(
                parse_request(line).as_ref(),
                Ok(&request),
                "the same line means the same"
            );
        }
        Err(error) => {
            let answer = error.line();
            let ends = answer.iter().filter(|&&byte| byte == b'\n').count();
            assert!(ends == 1 && answer.ends_with(b"\n"), "one line: {answer:?}");
            let back: ErrorBody = serde_json::from_slice(&answer).expect("an error answer is JSON");
            assert_eq!(back, error);
            assert!(!error.message.is_empty());
            // JSON writes a control character as six bytes.
            assert!(
                answer.len() < 8 * line.len() + 1024,
                "{} bytes of answer",
                answer.len()
            );
        }
    }
}

/// A configuration file: used, or refused with at least one problem, each with a line of the file and words.
pub fn configuration(text: &str) {
    let lines = text.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let base = Path::new("/etc/margay");
    let problems = match config::parse(text, base) {
        Ok((config, warnings)) => {
            // What was accepted can be used: every port finds its own lists and says what happens at the end.
            for port in &config.ports {
                let names = port.acl.expand("eth0");
                let _ = (
                    port.on_exit(&names),
                    port.selector.matches("eth0"),
                    port.selector.can_be_guarded(),
                );
            }
            let _ = config.port_for("eth0");
            warnings
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            problems
        }
    };
    for problem in problems {
        assert!(
            (1..=lines).contains(&problem.line),
            "line {} of {lines}: {problem:?}",
            problem.line
        );
        assert!(!problem.message.is_empty() && !problem.code.is_empty());
    }
}

/// A file of access lists, read through `scratch` and others of that name, files of the caller's own: diagnostics name the file and one of its lines.
pub fn access_lists(text: &[u8], scratch: &Path) {
    let lines = text.iter().filter(|&&byte| byte == b'\n').count() as u32 + 1;
    fs::write(scratch, text).expect("the scratch file can be written");
    let report = acl::check_files(&[PathBuf::from(scratch)]);
    let errors = report.errors.iter().map(|found| (found, Severity::Error));
    for (found, severity) in errors.chain(report.warnings.iter().map(|found| (found, Severity::Warning))) {
        assert_eq!((found.severity, found.file.as_path()), (severity, scratch));
        assert!(found.line <= lines, "line {} of {lines}: {found:?}", found.line);
        assert!(!found.message.is_empty() && !found.code.is_empty());
    }
    read_again(
        &[[LISTS.as_bytes()], [text], [LISTS.as_bytes()], [text]],
        &scratch.with_extension("again"),
    );
    if report.errors.is_empty() {
        let rules: usize = report.lists.values().map(|list| list.rules.len()).sum();
        assert!(rules <= text.len(), "{rules} rules in {} bytes", text.len());
    }
}

/// Versions of files that follow one another, read in turn by one reader: each means what it means to a reader without memory.
/// The files are `scratch` with numbers behind it.
pub fn read_again<const N: usize>(versions: &[[impl AsRef<[u8]>; N]], scratch: &Path) {
    let paths: Vec<PathBuf> = (0..N)
        .map(|number| PathBuf::from(format!("{}{number}", scratch.display())))
        .collect();
    let mut reader = acl::Reader::default();
    for version in versions {
        for (path, text) in paths.iter().zip(version) {
            fs::write(path, text).expect("the scratch file can be written");
        }
        assert_eq!(reader.read(&paths), acl::read(&paths));
        // Once more, as it is.
        assert_eq!(reader.read(&paths), acl::read(&paths));
    }
}

/// The head of a request to the metrics server: each piece of it means the same as long as more is missing, and what was once
/// decided is not changed by what follows.
pub fn scrape(bytes: &[u8]) {
    let whole = metrics::request(bytes);
    let mut decided = None;
    for length in 0..=bytes.len().min(metrics::MAX_HEAD) {
        let now = metrics::request(&bytes[..length]);
        if let Some(before) = decided {
            assert_eq!(now, Some(before), "after {length} bytes");
        }
        decided = now;
    }
    if bytes.len() <= metrics::MAX_HEAD {
        assert_eq!(whole, decided);
    } else {
        assert!(whole.is_some(), "no head is longer than the limit");
    }
}
