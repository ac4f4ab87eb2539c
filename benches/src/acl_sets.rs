//! Rule sets and keys for the access-list benchmarks: seeded, so that everybody gets the same ones.
//!
//! **Growing a set.** A set of N rules is made of copies of a ClassBench base set. Each copy has its addresses moved by
//! a permutation of its own that keeps prefixes (every bit is flipped or not, as a hash of the seed, the copy and the
//! bits before it says; the same for sources and destinations). So the pairs of prefix lengths, ports, protocols, and
//! which prefix nests in which are those of the base set, whatever N. Copies are interleaved: rule `r` of copy `c`
//! stands at `r * copies + c`, which keeps the order of narrow and wide rules. Rules that exist already (the wide ones,
//! which have few addresses to move to) are left out, so that a set may end a little short of N.
//!
//! **Keys.** A rule is drawn, then each field: its first value, its last, or one between. One key in eight has
//! addresses drawn from the whole space instead: these mostly miss. The expected rule is found by a scan.
//!
//! **IPv6.** The IPv4 address a.b.c.d becomes `2001:db8:aabb:ccdd:` with a hash of the address as interface
//! identifier. /0 stays /0, /1 to /31 become /33 to /63, /32 becomes /128. Every key matches the same rules as before.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// A file of the ClassBench folder in the shared data (`MARGAY_DATA`, else `../shared/data`), unpacked; `None`, said loudly,
/// where it is missing.
///
/// # Panics
/// When the file is there and is not in gzip format.
pub fn classbench(name: &str) -> Option<String> {
    shared(&format!("classbench/{name}"))
}

/// As [`classbench`], for any packed text of the shared data.
///
/// # Panics
/// As [`classbench`].
pub fn shared(name: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let data = std::env::var_os("MARGAY_DATA").unwrap_or_else(|| "../shared/data".into());
    let path = root.join(data).join(format!("{name}.gz"));
    let Ok(file) = std::fs::File::open(&path) else {
        eprintln!("SKIPPED: {} is not there (set MARGAY_DATA)", path.display());
        return None;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .expect("a gzip file");
    Some(text)
}

/// A rule in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Source: first address and length.
    pub src: (u32, u8),
    /// Destination: first address and length.
    pub dst: (u32, u8),
    /// Source ports, both ends included.
    pub sport: (u16, u16),
    /// Destination ports, both ends included.
    pub dport: (u16, u16),
    /// Protocol and mask.
    pub proto: (u8, u8),
}

/// A header in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Protocol.
    pub proto: u8,
}

/// splitmix64: one number names all that is drawn.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

/// Mixes the bits of a number.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(n)) >> 64) as u64
    }
}

/// Bits that a prefix length leaves to the host.
fn host(len: u8) -> u32 {
    u32::MAX.checked_shr(u32::from(len)).unwrap_or(0)
}

/// Reads a set in ClassBench format, IPv4.
///
/// # Errors
/// The first line that is not in the format.
pub fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let mut rules = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        rules.push(parse_line(line).ok_or_else(|| format!("line {}: not a ClassBench rule: {line}", i + 1))?);
    }
    Ok(rules)
}

fn parse_line(line: &str) -> Option<Rule> {
    let words: Vec<&str> = line.trim().strip_prefix('@')?.split_ascii_whitespace().collect();
    let prefix = |text: &str| {
        let (addr, len) = text.split_once('/')?;
        let (addr, len): (Ipv4Addr, u8) = (addr.parse().ok()?, len.parse().ok()?);
        (len <= 32).then(|| (u32::from(addr) & !host(len), len))
    };
    let byte = |text: &str| u8::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let port = |i: usize| words.get(i)?.parse::<u16>().ok();
    let (proto, mask) = words.get(8)?.split_once('/')?;
    Some(Rule {
        src: prefix(words.first()?)?,
        dst: prefix(words.get(1)?)?,
        sport: (port(2)?, port(4)?),
        dport: (port(5)?, port(7)?),
        proto: (byte(proto)?, byte(mask)?),
    })
}

/// Grows a base set to about `count` rules; see the head of this file.
pub fn grow(base: &[Rule], count: usize, seed: u64) -> Vec<Rule> {
    let copies = count.div_ceil(base.len().max(1));
    let mut seen = HashSet::with_capacity(count);
    let mut out = Vec::with_capacity(count);
    for rule in base {
        for copy in 0..copies as u64 {
            let moved = |(addr, len): (u32, u8)| (permute(addr, seed, copy) & !host(len), len);
            let rule = Rule {
                src: moved(rule.src),
                dst: moved(rule.dst),
                ..*rule
            };
            if seen.insert(rule) {
                out.push(rule);
            }
        }
    }
    out.truncate(count);
    out
}

/// Moves an address; two addresses with n leading bits in common keep exactly these in common.
fn permute(addr: u32, seed: u64, copy: u64) -> u32 {
    let key = mix(seed ^ mix(copy.wrapping_add(0x5851_f42d_4c95_7f2d)));
    (0..32u32).fold(0, |out, bit| {
        let before = if bit == 0 { 0 } else { addr >> (32 - bit) };
        let flip = mix(key ^ u64::from(before) << 8 ^ u64::from(bit)) & 1;
        out | (addr >> (31 - bit) & 1 ^ flip as u32) << (31 - bit)
    })
}

/// Draws keys for a set; see the head of this file.
pub fn keys(rules: &[Rule], count: usize, seed: u64) -> Vec<Key> {
    let mut rng = Rng(seed);
    (0..count)
        .map(|_| {
            let rule = &rules[rng.below(rules.len() as u64) as usize];
            let miss = rng.below(8) == 0;
            let mut between = |lo: u32, hi: u32| match rng.below(3) {
                0 => lo,
                1 => hi,
                _ => lo + rng.below(u64::from(hi - lo) + 1) as u32,
            };
            let mut addr = |(addr, len): (u32, u8)| {
                if miss {
                    between(0, u32::MAX)
                } else {
                    between(addr, addr | host(len))
                }
            };
            let (src, dst) = (addr(rule.src), addr(rule.dst));
            let sport = between(rule.sport.0.into(), rule.sport.1.into()) as u16;
            let dport = between(rule.dport.0.into(), rule.dport.1.into()) as u16;
            let any = between(0, 255) as u8;
            Key {
                src,
                dst,
                sport,
                dport,
                proto: rule.proto.0 & rule.proto.1 | any & !rule.proto.1,
            }
        })
        .collect()
}

/// The number of the first matching rule, or -1, for each key: a scan over all rules.
pub fn expected(rules: &[Rule], keys: &[Key]) -> Vec<i32> {
    // Blocks of a few hundred rules, field by field, so that the scan of 100,000 rules for 100,000 keys takes seconds.
    const BLOCK: usize = 256;
    let bit = |on: bool| u8::from(on);
    keys.iter()
        .map(|k| {
            let mut hit = [0u8; BLOCK];
            for (b, block) in rules.chunks(BLOCK).enumerate() {
                for (h, r) in hit.iter_mut().zip(block) {
                    *h = bit((k.src ^ r.src.0) & !host(r.src.1) == 0)
                        & bit((k.dst ^ r.dst.0) & !host(r.dst.1) == 0)
                        & bit(r.sport.0 <= k.sport)
                        & bit(k.sport <= r.sport.1)
                        & bit(r.dport.0 <= k.dport)
                        & bit(k.dport <= r.dport.1)
                        & bit((k.proto ^ r.proto.0) & r.proto.1 == 0);
                }
                if let Some(i) = hit[..block.len()].iter().position(|&h| h == 1) {
                    return (b * BLOCK + i) as i32;
                }
            }
            -1
        })
        .collect()
}

/// The IPv6 address that stands for an IPv4 address.
pub fn v6(addr: u32) -> Ipv6Addr {
    let high = 0x2001_0db8_0000_0000 | u64::from(addr);
    Ipv6Addr::from(u128::from(high) << 64 | u128::from(mix(u64::from(addr) | 1 << 40)))
}

/// Writes a set in ClassBench format, for IPv6 by the mapping at the head of this file.
pub fn print_rules(rules: &[Rule], ipv6: bool) -> String {
    let mut out = String::new();
    let prefix = |(addr, len): (u32, u8)| match (ipv6, len) {
        (false, _) => format!("{}/{len}", Ipv4Addr::from(addr)),
        (true, 0) => "::/0".to_owned(),
        (true, 32) => format!("{}/128", v6(addr)),
        (true, _) => format!(
            "{}/{}",
            Ipv6Addr::from(u128::from(v6(addr)) & (u128::MAX << 64)),
            len + 32
        ),
    };
    for r in rules {
        let (src, dst) = (prefix(r.src), prefix(r.dst));
        let _ = writeln!(
            out,
            "@{src}\t{dst}\t{} : {}\t{} : {}\t0x{:02x}/0x{:02X}\t0x0000/0x0000",
            r.sport.0, r.sport.1, r.dport.0, r.dport.1, r.proto.0, r.proto.1
        );
    }
    out
}

/// Writes a set as an access list of IPv4, named and default deny; every rule allows.
pub fn print_list(name: &str, rules: &[Rule]) -> String {
    let mut out = format!("version = 1\n[[acl]]\nname = \"{name}\"\ndefault = \"deny\"\n");
    for rule in rules {
        out += "[[acl.rule]]\naction = \"allow\"\n";
        for (key, (addr, len)) in [("src", rule.src), ("dst", rule.dst)] {
            if len > 0 {
                let _ = writeln!(out, "{key} = [\"{}/{len}\"]", Ipv4Addr::from(addr));
            }
        }
        if rule.proto.1 != 0 {
            let _ = writeln!(out, "proto = {}", rule.proto.0);
        }
        // ClassBench sets name ports for protocols that have none, too, which a list may not.
        if rule.proto.1 == 0 || [6, 17].contains(&rule.proto.0) {
            for (key, (low, high)) in [("sport", rule.sport), ("dport", rule.dport)] {
                if (low, high) != (0, u16::MAX) {
                    let _ = writeln!(out, "{key} = [\"{low}-{high}\"]");
                }
            }
        }
    }
    out
}

/// Writes keys with the rules expected.
pub fn print_keys(keys: &[Key], expected: &[i32], ipv6: bool) -> String {
    let mut out = String::new();
    for (k, e) in keys.iter().zip(expected) {
        let _ = if ipv6 {
            writeln!(
                out,
                "{} {} {} {} {} {e}",
                v6(k.src),
                v6(k.dst),
                k.sport,
                k.dport,
                k.proto
            )
        } else {
            writeln!(out, "{} {} {} {} {} {e}", k.src, k.dst, k.sport, k.dport, k.proto)
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "@10.0.0.0/8\t10.1.2.3/32\t0 : 65535\t80 : 80\t0x06/0xFF\t0x0/0x0\n\
                        @10.1.0.0/16\t0.0.0.0/0\t0 : 65535\t1 : 2\t0x00/0x00\t0x0/0x0\n";

    #[test]
    fn growing_keeps_lengths_ports_and_nesting() {
        let base = parse(BASE).expect("two rules");
        let grown = grow(&base, 100, 7);
        assert_eq!(grown, grow(&base, 100, 7));
        assert!(grown.len() > 90, "{}", grown.len());
        for pair in grown.chunks(2).take(10) {
            assert!(
                pair.iter()
                    .all(|r| base.iter().any(|b| b.src.1 == r.src.1 && b.dport == r.dport))
            );
        }
        let (outer, inner) = (permute(0x0a00_0000, 7, 3), permute(0x0a01_0000, 7, 3));
        assert_eq!(
            (outer ^ inner).leading_zeros(),
            15,
            "exactly the bits in common stay in common"
        );
    }

    #[test]
    fn keys_find_their_rules_in_both_families() {
        let rules = grow(&parse(BASE).expect("two rules"), 50, 1);
        let keys = keys(&rules, 500, 2);
        let expected = expected(&rules, &keys);
        assert!(expected.iter().any(|&e| e >= 0) && expected.contains(&-1));
        for (k, e) in keys.iter().zip(expected) {
            let naive = rules.iter().position(|r| {
                let (src, dst) = (u128::from(v6(k.src)), u128::from(v6(k.dst)));
                let inside = |addr: u128, (first, len): (u32, u8)| match len {
                    0 => true,
                    32 => addr == u128::from(v6(first)),
                    _ => addr >> (96 - len) == u128::from(v6(first)) >> (96 - len),
                };
                inside(src, r.src)
                    && inside(dst, r.dst)
                    && (r.sport.0..=r.sport.1).contains(&k.sport)
                    && (r.dport.0..=r.dport.1).contains(&k.dport)
                    && k.proto & r.proto.1 == r.proto.0 & r.proto.1
            });
            assert_eq!(naive.map_or(-1, |n| n as i32), e);
        }
    }
}
