//! Requests to the metrics server, with the property body of `control/tests/metrics.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../control/tests/property/mod.rs"]
#[allow(dead_code)]
mod property;

fuzz_target!(|bytes: &[u8]| property::scrape(bytes));
