//! Packets in fragments that do not all find room.

use std::collections::BTreeMap;

use super::*;

/// Payload bytes of each packet, which an MTU of 600 makes three fragments of: 576, 576 and the rest.
const PAYLOAD: usize = 1400;
const PARTS: usize = 3;

/// Collects the fragments that left: for each packet their offsets in the order in which they left.
fn collect(lab: &mut Lab, seen: &mut BTreeMap<u16, Vec<usize>>) {
    for packet in lab.leave() {
        let field = u16::from_be_bytes([packet[20], packet[21]]);
        let number = u16::from_be_bytes([packet[18], packet[19]]);
        let offset = usize::from(field & 0x1fff) * 8;
        assert_eq!(
            field & 0x2000 == 0,
            offset == 2 * 576,
            "more follow, but for the last one"
        );
        seen.entry(number).or_default().push(offset);
    }
}

/// Once a fragment is lost, nothing that follows it of its packet is sent, also when there is room again; such a packet is counted
/// once, and the frames of all its fragments come back. A worker takes 64 of another one's a round, and the ring holds 2,048: the kernel makes
/// room after rounds that end at each place among a packet's fragments.
#[test]
fn what_follows_a_lost_fragment_is_lost_with_it() {
    let mut torn = 0;
    for workers in [1, 2] {
        // A few more than are taken in a round, or so many that the hand-over ring overflows.
        for (rounds, packets) in (33..33 + PARTS).flat_map(|rounds| [(rounds, 22), (rounds, 40)]) {
            let mut lab = Lab::new(workers);
            lab.shape = (PAYLOAD, 1792);
            lab.set_mtu(600);
            let mut seen = BTreeMap::new();
            for _ in 0..4 {
                for _ in 0..rounds {
                    for _ in 0..packets {
                        let _ = lab.deliver();
                    }
                    lab.round();
                }
                collect(&mut lab, &mut seen);
            }
            while lab.round() {
                collect(&mut lab, &mut seen);
            }
            collect(&mut lab, &mut seen);
            for (number, offsets) in &seen {
                // From the first one on, without a gap, each once.
                let due: Vec<usize> = (0..offsets.len()).map(|part| part * 576).collect();
                assert_eq!(offsets, &due, "packet {number} of {workers} workers");
            }
            let whole = seen.values().filter(|offsets| offsets.len() == PARTS).count() as u64;
            torn += seen.len() - whole as usize;
            let (forwarded, full) = counted(&lab, Reason::TxRingFull);
            let (_, handover) = counted(&lab, Reason::HandoverFull);
            let (_, none) = counted(&lab, Reason::FragmentNoFrame);
            assert_eq!(forwarded, whole);
            assert_eq!(
                forwarded + full + handover + none,
                u64::from(lab.sequence),
                "every packet has one fate: {full} {handover} {none}"
            );
            assert!(full + handover > 0, "nothing was lost");
            assert_eq!(lab.census(), u64::from(FRAMES));
            lab.end();
        }
    }
    assert!(torn > 0, "no packet was lost in its middle");
}
