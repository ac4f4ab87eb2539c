//! The slow twin: rules tried one after the other.

use super::model::{List, Match};
use crate::packet::Headers;

/// Judges one packet by a scan over the rules.
pub fn classify(list: &List, headers: &Headers) -> Match {
    match list.rules.iter().position(|r| r.matches(headers)) {
        Some(i) => Match {
            action: list.rules[i].action,
            rule: i as i32,
        },
        None => Match {
            action: list.default,
            rule: -1,
        },
    }
}

/// Judges a burst by [`classify`]; `out` is as long as `packets`.
pub fn classify_burst(list: &List, packets: &[Headers], out: &mut [Match]) {
    for (h, m) in packets.iter().zip(out) {
        *m = classify(list, h);
    }
}
