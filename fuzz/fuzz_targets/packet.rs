//! The packet parser on any bytes, with the property body of `classifier/tests/packet.rs`, and then a whole node, whose answers and
//! fragments are looked at, with that of `forwarder/tests/path.rs`.
//!
//! The first byte of an input chooses what is made of the rest: the frame as it is, or a frame with a fitting EtherType and,
//! for IPv4, a good header checksum, so that the fuzzer need not find those first.
#![no_main]

use classifier::{checksum, packet};
use libfuzzer_sys::fuzz_target;

#[path = "../../classifier/tests/property/mod.rs"]
mod property;
#[path = "../../forwarder/tests/property/mod.rs"]
mod node;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, frame)) = input.split_first() else {
        return;
    };
    let mut frame = frame.to_vec();
    if choice & 3 != 0 && frame.len() > 14 {
        let v6 = choice & 2 != 0;
        let ethertype = if v6 {
            packet::ETHERTYPE_IPV6
        } else {
            packet::ETHERTYPE_IPV4
        };
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame[14] = frame[14] & 15 | if v6 { 0x60 } else { 0x40 };
        let len = (frame[14] & 15) as usize * 4;
        if !v6 && len >= 20 && frame.len() >= 14 + len {
            frame[24..26].fill(0);
            let check = !checksum::fold(checksum::sum(&frame[14..14 + len], 0));
            frame[24..26].copy_from_slice(&check.to_be_bytes());
        }
    }
    property::check(&frame);
    node::check(&frame);
});
