//! A whole node over plain memory: any packet has one fate, and what leaves is well formed.

use etherparse::PacketBuilder;
use proptest::prelude::*;

mod property;

/// A packet of either family whose IPv4 header has the options and the word of flags and offset that are wanted.
fn packet(v4: bool, ttl: u8, size: usize, options: &[u8], place: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut bytes = Vec::new();
    if !v4 {
        let (from, to) = ([0xfd; 16], [0x20; 16]);
        builder
            .ipv6(from, to, ttl)
            .udp(1, 2)
            .write(&mut bytes, &vec![7; size])
            .unwrap();
        return bytes;
    }
    builder
        .ipv4([10, 1, 2, 3], [198, 51, 100, 1], ttl)
        .udp(1, 2)
        .write(&mut bytes, &vec![7; size])
        .unwrap();
    let options = &options[..options.len() / 4 * 4];
    bytes.splice(34..34, options.iter().copied());
    bytes[14] += (options.len() / 4) as u8;
    let len = (bytes.len() - 14) as u16;
    bytes[16..18].copy_from_slice(&len.to_be_bytes());
    bytes[20..22].copy_from_slice(&place.to_be_bytes());
    bytes[24..26].fill(0);
    let header = 34 + options.len();
    let check = !classifier::checksum::fold(classifier::checksum::sum(&bytes[14..header], 0));
    bytes[24..26].copy_from_slice(&check.to_be_bytes());
    bytes
}

proptest! {
    #[test]
    fn any_packet_has_one_fate(
        v4 in any::<bool>(),
        ttl in prop_oneof![4 => Just(64u8), 1 => 0u8..3],
        size in 0usize..1450,
        options in prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(any::<u8>(), 0..40), 1 => Just(vec![7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0])],
        place in prop_oneof![3 => Just(0u16), 1 => Just(0x4000), 2 => any::<u16>()],
        trailing in 0usize..30,
    ) {
        let mut bytes = packet(v4, ttl, size, &options, place);
        bytes.resize(bytes.len() + trailing, 0xee);
        property::check(&bytes);
    }
}
