//! `margay bench acl`: an access list in ClassBench format, measured with keys whose answers are known.

use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::acl::{
    Action, Addresses, BURST, Image, Limits, List, Match, Origin, PortRange, ProtoSet, Protocols, Rule,
};
use classifier::lpm::{IpPrefix, Prefix};
use classifier::packet::{Family, Fragment, Headers};

use super::{Error, answer, cost, lookups, read};

/// A header to look up, and the rule that must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The packet.
    pub headers: Headers,
    /// Number of the first matching rule from 0, or -1.
    pub expected: i32,
}

/// What was measured.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Figures {
    /// Rules in the list.
    pub rules: usize,
    /// Keys in the file.
    pub keys: usize,
    /// Classifications a second, the best of all rounds.
    pub lookups_per_second: f64,
    /// Seconds to compile the list.
    pub load_seconds: f64,
    /// Bytes that look-ups read.
    pub image_bytes: usize,
    /// Bytes that the image holds, its copy of the rules included.
    pub bytes: usize,
    /// Keys for which another rule was found than the file says.
    pub mismatches: usize,
}

/// Rounds of a measurement; the best one counts. Many short ones: a round that the scheduler interrupts is lost.
const ROUNDS: usize = 200;
/// Time that a round takes at least.
const ROUND: Duration = Duration::from_millis(3);

/// Runs `margay bench acl` and prints its answer.
///
/// # Errors
/// A file that cannot be read or a line that is not in the format; a list that does not fit the memory limit.
pub fn run(rules: &Path, keys: &Path, json: bool) -> Result<(), Error> {
    let list = parse_rules(&read(rules)?, rules)?;
    let keys = parse_keys(&read(keys)?, keys)?;
    let figures = measure(&list, &keys)?;
    let rows = lookups(
        ("rules", figures.rules),
        figures.keys,
        figures.lookups_per_second,
        cost(figures.load_seconds, figures.image_bytes, figures.bytes),
        ("mismatches", figures.mismatches.to_string()),
    );
    answer(&figures, "margay.bench-acl/1", json, &rows);
    Ok(())
}

/// Compiles the list, checks every key and measures look-ups in bursts of 64 on the calling core.
///
/// # Errors
/// A list that does not fit the memory limit; no keys.
pub fn measure(list: &List, keys: &[Key]) -> Result<Figures, Error> {
    if keys.is_empty() {
        return Err(Error::Failed("the file of keys holds none".into()));
    }
    let start = Instant::now();
    let image = Image::compile(list, &Limits::default()).map_err(|e| Error::Failed(e.to_string()))?;
    let load_seconds = start.elapsed().as_secs_f64();
    let headers: Vec<Headers> = keys.iter().map(|k| k.headers).collect();
    let mut out = [Match::default(); BURST];
    let mut mismatches = 0;
    for (burst, keys) in headers.chunks(BURST).zip(keys.chunks(BURST)) {
        image.classify_burst(burst, &mut out);
        mismatches += keys
            .iter()
            .zip(&out)
            .filter(|(k, m)| k.expected != m.rule)
            .count();
    }
    let best = rate(&image, &headers, ROUNDS);
    Ok(Figures {
        rules: list.rules.len(),
        keys: keys.len(),
        lookups_per_second: best,
        load_seconds,
        image_bytes: image.image_bytes(),
        bytes: image.bytes(),
        mismatches,
    })
}

/// Classifications a second on the calling core, in bursts of 64: the best of the rounds.
pub fn rate(image: &Image, headers: &[Headers], rounds: usize) -> f64 {
    let mut out = [Match::default(); BURST];
    let mut best: f64 = 0.0;
    for _ in 0..rounds {
        let start = Instant::now();
        let mut done = 0usize;
        while done == 0 || start.elapsed() < ROUND {
            for burst in headers.chunks(BURST) {
                image.classify_burst(burst, &mut out);
                std::hint::black_box(&out);
            }
            done += headers.len();
        }
        best = best.max(done as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// Reads a list in ClassBench format: `@src/len dst/len lo : hi lo : hi proto/mask flags/mask` a line.
///
/// Every rule allows and the default denies. The flags are ignored; ports from 0 to 65535 mean that the rule does not
/// name ports. ClassBench sets write addresses with host bits; these are cleared.
///
/// # Errors
/// The first line that is not in the format.
pub fn parse_rules(text: &str, path: &Path) -> Result<List, Error> {
    let file: Arc<str> = path.display().to_string().into();
    let mut rules = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let origin = Origin {
            file: file.clone(),
            line: i as u32 + 1,
        };
        let rule = parse_rule(line, origin).map_err(|message| Error::Line {
            path: path.to_owned(),
            line: i + 1,
            message,
        })?;
        rules.push(rule);
    }
    let name = path
        .file_stem()
        .map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    Ok(List {
        name,
        default: Action::Deny,
        rules,
        origin: Origin { file, line: 1 },
    })
}

fn parse_rule(line: &str, origin: Origin) -> Result<Rule, String> {
    let format = "expected `@src/len dst/len lo : hi lo : hi proto/mask`";
    let line = line.trim().strip_prefix('@').ok_or(format)?;
    let mut words = line.split_ascii_whitespace();
    let mut next = || words.next().ok_or(format);
    let (src, dst) = (prefix(next()?)?, prefix(next()?)?);
    if matches!(src, IpPrefix::V4(_)) != matches!(dst, IpPrefix::V4(_)) {
        return Err("source and destination are of different families".into());
    }
    let mut range = || -> Result<Vec<PortRange>, String> {
        let lo = number::<u16>(next()?)?;
        if next()? != ":" {
            return Err(format.into());
        }
        let hi = number::<u16>(next()?)?;
        if lo > hi {
            return Err(format!("port range {lo} : {hi} is upside down"));
        }
        Ok(if (lo, hi) == (0, u16::MAX) {
            Vec::new()
        } else {
            vec![PortRange { lo, hi }]
        })
    };
    let (sport, dport) = (range()?, range()?);
    let (value, mask) = next()?.split_once('/').ok_or(format)?;
    let (value, mask) = (number::<u8>(value)?, number::<u8>(mask)?);
    let numbers: Vec<u8> = (0..=255).filter(|n| n & mask == value & mask).collect();
    let mut rule = Rule::any(Action::Allow, origin);
    rule.src = addresses(src);
    rule.dst = addresses(dst);
    (rule.sport, rule.dport) = (sport, dport);
    if mask != 0 {
        rule.protocols = Protocols::both(ProtoSet::of(&numbers));
    }
    Ok(rule)
}

fn addresses(prefix: IpPrefix) -> Addresses {
    Addresses {
        prefixes: vec![prefix],
        sets: Vec::new(),
    }
}

/// A number, decimal or hexadecimal with `0x`.
fn number<T: TryFrom<u32>>(text: &str) -> Result<T, String> {
    let value = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    value
        .and_then(|v| T::try_from(v).ok())
        .ok_or_else(|| format!("`{text}` is not a number in range"))
}

fn prefix(text: &str) -> Result<IpPrefix, String> {
    let (addr, len) = text
        .split_once('/')
        .ok_or_else(|| format!("`{text}` is not ADDRESS/LENGTH"))?;
    let wrong = || format!("`{text}` is not a prefix");
    let len: u8 = len.parse().map_err(|_| wrong())?;
    match addr.parse().map_err(|_| wrong())? {
        std::net::IpAddr::V4(a) if len <= 32 => Ok(IpPrefix::V4(Prefix::covering(a.into(), len))),
        std::net::IpAddr::V6(a) if len <= 128 => Ok(IpPrefix::V6(Prefix::covering(a.into(), len))),
        _ => Err(wrong()),
    }
}

/// Reads keys: `src dst sport dport proto EXPECTED` a line, IPv4 as decimal numbers, IPv6 as text.
///
/// # Errors
/// The first line that is not in the format.
pub fn parse_keys(text: &str, path: &Path) -> Result<Vec<Key>, Error> {
    let mut keys = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        keys.push(parse_key(line).map_err(|message| Error::Line {
            path: path.to_owned(),
            line: i + 1,
            message,
        })?);
    }
    Ok(keys)
}

fn parse_key(line: &str) -> Result<Key, String> {
    let format = "expected `src dst sport dport proto EXPECTED`";
    let mut words = line.split_ascii_whitespace();
    let mut next = || words.next().ok_or(format);
    let address = |text: &str| -> Result<(Family, u128), String> {
        if let Ok(number) = text.parse::<u32>() {
            return Ok((Family::V4, u128::from(number)));
        }
        let address: Ipv6Addr = text
            .parse()
            .map_err(|_| format!("`{text}` is neither a decimal IPv4 nor an IPv6 address"))?;
        Ok((Family::V6, address.into()))
    };
    let ((family, src), (other, dst)) = (address(next()?)?, address(next()?)?);
    if family != other {
        return Err("source and destination are of different families".into());
    }
    let (sport, dport, proto) = (number(next()?)?, number(next()?)?, number(next()?)?);
    let expected = next()?;
    let expected = expected
        .parse()
        .map_err(|_| format!("`{expected}` is not the number of a rule"))?;
    let headers = headers(family, src, dst, sport, dport, proto);
    Ok(Key { headers, expected })
}

/// A packet that is no fragment, from the five fields that ClassBench knows.
pub fn headers(family: Family, src: u128, dst: u128, sport: u16, dport: u16, proto: u8) -> Headers {
    Headers {
        family,
        src,
        dst,
        proto,
        sport,
        dport,
        tcp_flags: 0,
        icmp: None,
        fragment: Fragment::Whole,
        dscp: 0,
        ttl: 64,
        dont_fragment: true,
        source_route: false,
        l3: 14,
        l4: if family == Family::V4 { 34 } else { 54 },
        len: 60,
        flow_label: 0,
        flaw: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_keys_are_read() {
        let path = Path::new("x.rules");
        let text = "@10.1.2.3/8\t0.0.0.0/0\t0 : 65535\t80 : 90\t0x06/0xFF\t0x0000/0x0000\t\n\
                    @2001:db8::/32 ::/0 1 : 2 0 : 65535 0x00/0x00 0x0/0x0\n";
        let list = parse_rules(text, path).expect("two rules");
        assert_eq!(list.rules[0].src.prefixes[0].to_string(), "10.0.0.0/8");
        assert!(list.rules[0].sport.is_empty());
        assert_eq!(list.rules[1].protocols, Protocols::ANY);
        let keys = parse_keys(
            "167772161 5 9 85 6 0\n2001:db8::1 ::2 2 7 99 1\n1 1 1 1 1 -1\n",
            path,
        )
        .expect("keys");
        let figures = measure(&list, &keys).expect("measured");
        assert_eq!((figures.rules, figures.keys, figures.mismatches), (2, 3, 0));
    }

    #[test]
    fn a_bad_line_is_named() {
        let path = Path::new("x");
        for (rules, line) in [("\n10.0.0.0/8", 2), ("@10.0.0.0/8 ::/0 0 : 1 0 : 1 0/0 0/0", 1)] {
            match parse_rules(rules, path) {
                Err(Error::Line { line: found, .. }) => assert_eq!(found, line),
                other => panic!("{other:?}"),
            }
        }
        for keys in ["1 2 3 4 5", "1 ::1 3 4 5 6", "1 2 65536 4 5 6", "1 2 3 4 5 x"] {
            assert!(
                matches!(parse_keys(keys, path), Err(Error::Line { line: 1, .. })),
                "{keys}"
            );
        }
    }
}
