//! The kernel's messages through the mirror's state machine, with the property body of `control/tests/inputs.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../control/tests/property/netlink.rs"]
#[allow(dead_code)]
mod netlink;

fuzz_target!(|input: &[u8]| netlink::run(input));
