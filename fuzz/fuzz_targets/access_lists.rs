//! Files of access lists, with the property body of `control/tests/inputs.rs`.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../control/tests/property/mod.rs"]
#[allow(dead_code)]
mod property;

/// In memory: the file is written for every input.
static SCRATCH: LazyLock<PathBuf> =
    LazyLock::new(|| PathBuf::from(format!("/dev/shm/margay-fuzz-{}.toml", std::process::id())));

fuzz_target!(|text: &[u8]| property::access_lists(text, &SCRATCH));
