//! Lines on the control socket, with the property body of `control/tests/inputs.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../control/tests/property/mod.rs"]
#[allow(dead_code)]
mod property;

fuzz_target!(|line: &[u8]| property::request(line));
