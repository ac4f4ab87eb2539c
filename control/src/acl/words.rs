//! The words of ACL files for a single packet: what `explain` is told on the command line.

use super::names;

/// The number of a protocol, given by name or number, in packets of one family.
pub fn protocol_number(word: &str, is_v4: bool) -> Option<u8> {
    if let Ok(number) = word.parse() {
        return Some(number);
    }
    let protocols = names::protocol(word)?;
    let set = if is_v4 { protocols.v4 } else { protocols.v6 };
    (0..=u8::MAX).find(|number| set.contains(*number))
}

/// The name of a protocol, or its number where it has none.
pub fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        _ => names::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned),
    }
}

/// ICMP type and code, given as a name, `type` or `type/code`; code 0 when none is given.
pub fn icmp_number(word: &str, is_v4: bool) -> Option<(u8, u8)> {
    if let Some(found) = names::icmp(word) {
        let kind = if is_v4 { found.v4 } else { found.v6 }?;
        return Some((kind.kind, kind.code.unwrap_or(0)));
    }
    let (kind, code) = word.split_once('/').unwrap_or((word, "0"));
    Some((kind.parse().ok()?, code.parse().ok()?))
}

/// The TCP flags byte of names with commas between them; an empty text is no flag.
pub fn tcp_flags(text: &str) -> Option<u8> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.into_iter().try_fold(0, |flags, word| {
        let (_, bit) = names::FLAGS.iter().find(|(name, _)| *name == word)?;
        Some(flags | bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_they_mean_in_rules() {
        assert_eq!(protocol_number("tcp", true), Some(6));
        assert_eq!(protocol_number("icmp", true), Some(1));
        assert_eq!(protocol_number("icmp", false), Some(58));
        assert_eq!(protocol_number("99", true), Some(99));
        assert_eq!(protocol_number("nosuch", true), None);
        assert_eq!([1, 6, 58, 99].map(protocol_name), ["icmp", "tcp", "icmpv6", "99"]);
        assert_eq!(icmp_number("echo-request", true), Some((8, 0)));
        assert_eq!(icmp_number("echo-request", false), Some((128, 0)));
        assert_eq!(icmp_number("3/4", true), Some((3, 4)));
        assert_eq!(icmp_number("3/x", true), None);
        assert_eq!(tcp_flags("syn,ack"), Some(0x12));
        assert_eq!(tcp_flags(""), Some(0));
        assert_eq!(tcp_flags("sin"), None);
    }
}
