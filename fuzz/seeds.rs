//! Fills `corpus/` with inputs to start from: the shared capture for the packet parser.
//!
//! `cargo run --manifest-path fuzz/Cargo.toml --bin seeds`

use std::fs;
use std::path::Path;

#[path = "../classifier/tests/support/capture.rs"]
mod capture;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/packet");
    fs::create_dir_all(&corpus)?;
    for (number, frame) in capture::frames().unwrap_or_default().iter().enumerate() {
        // The first byte 0 means: the frame as it is.
        fs::write(
            corpus.join(format!("capture-{number}")),
            [&[0], &frame[..]].concat(),
        )?;
    }
    println!("seeds in {}", corpus.display());
    Ok(())
}
