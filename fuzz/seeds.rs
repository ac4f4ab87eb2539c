//! Fills `corpus/` with inputs to start from: the shared capture for the packet parser, the tests' good inputs for the others.
//!
//! `cargo run --manifest-path fuzz/Cargo.toml --bin seeds`

use std::fs;
use std::io::Result;
use std::path::Path;

#[path = "../classifier/tests/support/capture.rs"]
mod capture;
#[path = "../control/tests/property/netlink.rs"]
#[allow(dead_code)]
mod netlink;
#[path = "../control/tests/property/samples.rs"]
mod samples;

fn write(target: &str, number: usize, bytes: &[u8]) -> Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&corpus)?;
    fs::write(corpus.join(format!("seed-{number}")), bytes)
}

fn main() -> Result<()> {
    for (number, frame) in capture::frames().unwrap_or_default().iter().enumerate() {
        // The first byte 0 means: the frame as it is.
        write("packet", number, &[&[0], &frame[..]].concat())?;
    }
    for (number, request) in samples::REQUESTS.iter().enumerate() {
        write("request", number, request.as_bytes())?;
    }
    for (number, request) in samples::SCRAPES.iter().enumerate() {
        write("scrape", number, request.as_bytes())?;
    }
    for (number, filter) in samples::FILTERS.iter().enumerate() {
        write("filter", number, filter.as_bytes())?;
    }
    for (number, messages) in netlink::samples().iter().enumerate() {
        write("netlink", number, messages)?;
    }
    write("configuration", 0, samples::CONFIGURATION.as_bytes())?;
    write("access_lists", 0, samples::LISTS.as_bytes())
}
