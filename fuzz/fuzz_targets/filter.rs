//! Filters of `trace` and `capture`, with the property body of `control/tests/inputs.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../control/tests/property/mod.rs"]
#[allow(dead_code)]
mod property;

fuzz_target!(|text: &str| property::filter::filter(text));
