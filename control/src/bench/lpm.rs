//! `margay bench lpm`: a route table measured with the addresses of a file.
//!
//! The value of a prefix is its line number, so that the digest names every prefix that was found. A prefix that
//! stands twice counts with its last line.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use classifier::lpm::{
    self, Addr, BURST, IpPrefix, LpmError, MAX_VALUE, NO_ROUTE, Prefix, Table, TableReader, Value,
};
use classifier::qsbr::{Domain, Reader};

use super::{Error, answer, cost, lookups, read};

/// Which image answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Engine {
    /// The default: a direct table with compressed leaves, or tables and lists for IPv6.
    #[default]
    Compressed,
    /// DIR-24-8, the baseline; IPv4 only.
    Dir24,
}

/// What was measured.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Figures {
    /// Prefixes of the keys' family.
    pub prefixes: usize,
    /// Keys in the file.
    pub keys: usize,
    /// Look-ups a second, the best of all rounds.
    pub lookups_per_second: f64,
    /// Seconds to load the prefixes into an empty table.
    pub load_seconds: f64,
    /// Bytes that look-ups read.
    pub image_bytes: usize,
    /// Bytes that the table holds, the control side's copy included.
    pub bytes: usize,
    /// Sum over the keys of the line number of the prefix that matched, from 1; 0 for none.
    pub digest: u64,
}

/// A prefix file: routes of each family with their line numbers.
#[derive(Debug, Default)]
pub struct Prefixes {
    /// IPv4 routes.
    pub v4: Vec<(Prefix<u32>, Value)>,
    /// IPv6 routes.
    pub v6: Vec<(Prefix<u128>, Value)>,
}

/// Addresses of one family.
#[derive(Debug)]
pub enum Keys {
    /// IPv4, host order.
    V4(Vec<u32>),
    /// IPv6, host order.
    V6(Vec<u128>),
}

/// Passes over the keys, at least; the best one counts.
const ROUNDS: usize = 5;
/// Time that the passes go on at least: a pass that the scheduler interrupts is lost.
const LEAST: Duration = Duration::from_millis(400);

/// Runs `margay bench lpm` and prints its answer.
///
/// # Errors
/// A file that cannot be read, or a line that is not in the format.
pub fn run(prefixes: &Path, keys: &Path, engine: Engine, json: bool) -> Result<(), Error> {
    let routes = parse_prefixes(&read(prefixes)?, prefixes)?;
    let figures = match parse_keys(&read(keys)?, keys)? {
        Keys::V4(keys) => measure(routes.v4, &keys, engine),
        Keys::V6(keys) => measure(routes.v6, &keys, engine),
    }?;
    let rows = lookups(
        ("prefixes", figures.prefixes),
        figures.keys,
        figures.lookups_per_second,
        cost(figures.load_seconds, figures.image_bytes, figures.bytes),
        ("digest", figures.digest.to_string()),
    );
    answer(&figures, "margay.bench-lpm/1", json, &rows);
    Ok(())
}

/// Loads a table, adds the digest up and measures look-ups in bursts of 64 on the calling core.
///
/// # Errors
/// A table that does not fit; no keys; DIR-24-8 for IPv6.
pub fn measure<A: Addr>(
    routes: Vec<(Prefix<A>, Value)>,
    keys: &[A],
    engine: Engine,
) -> Result<Figures, Error> {
    if keys.is_empty() {
        return Err(Error::Failed("the key file holds no address".into()));
    }
    if engine == Engine::Dir24 && A::BITS != 32 {
        return Err(Error::Failed("dir24 is for IPv4; these keys are IPv6".into()));
    }
    let failed = |error: LpmError| Error::Failed(error.to_string());
    let prefixes = routes.len();
    let domain = Domain::new();
    let engine = match engine {
        Engine::Compressed => lpm::Engine::Compressed,
        Engine::Dir24 => lpm::Engine::Dir24,
    };
    let mut table = Table::with_engine(&domain, engine).map_err(failed)?;
    let start = Instant::now();
    table.load(routes).map_err(failed)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let (mut worker, reader) = (domain.register(), table.reader());
    let digest = digest(&mut worker, &reader, keys);
    let (begun, mut best, mut rounds) = (Instant::now(), Duration::MAX, 0);
    while rounds < ROUNDS || begun.elapsed() < LEAST {
        best = best.min(pass(&mut worker, &reader, keys));
        rounds += 1;
    }
    Ok(Figures {
        prefixes,
        keys: keys.len(),
        lookups_per_second: keys.len() as f64 / best.as_secs_f64(),
        load_seconds,
        image_bytes: table.image_bytes(),
        bytes: table.bytes(),
        digest,
    })
}

/// Sum over the keys of the values found, 0 for none.
pub fn digest<A: Addr>(worker: &mut Reader, reader: &TableReader<A>, keys: &[A]) -> u64 {
    let mut sum = 0;
    for burst in keys.chunks(BURST) {
        let mut out = [0; BURST];
        reader.lookup_burst(&worker.online(), burst, &mut out);
        sum += out[..burst.len()]
            .iter()
            .filter(|value| **value != NO_ROUTE)
            .map(|value| u64::from(*value))
            .sum::<u64>();
        worker.quiescent();
    }
    sum
}

/// The time of one pass over the keys, as a worker makes it: a guard and a quiescent state for each burst.
pub fn pass<A: Addr>(worker: &mut Reader, reader: &TableReader<A>, keys: &[A]) -> Duration {
    let mut out = [0; BURST];
    let start = Instant::now();
    for burst in keys.chunks(BURST) {
        reader.lookup_burst(&worker.online(), burst, &mut out);
        std::hint::black_box(&mut out);
        worker.quiescent();
    }
    start.elapsed()
}

/// Reads a prefix a line, families mixed or not. Empty lines count but hold nothing.
///
/// # Errors
/// The first line that is not a prefix.
pub fn parse_prefixes(text: &str, path: &Path) -> Result<Prefixes, Error> {
    let mut routes = Prefixes::default();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let failed = |message: String| Error::Line {
            path: path.to_owned(),
            line: at + 1,
            message,
        };
        let value = Value::try_from(at + 1).ok().filter(|value| *value <= MAX_VALUE);
        let value = value.ok_or_else(|| failed(format!("more than {MAX_VALUE} lines")))?;
        match line
            .parse::<IpPrefix>()
            .map_err(|error| failed(error.to_string()))?
        {
            IpPrefix::V4(prefix) => routes.v4.push((prefix, value)),
            IpPrefix::V6(prefix) => routes.v6.push((prefix, value)),
        }
    }
    last_of_each(&mut routes.v4);
    last_of_each(&mut routes.v6);
    Ok(routes)
}

/// Keeps the last of the routes with one prefix, and the file's order where nothing stands twice.
fn last_of_each<A: Addr>(routes: &mut Vec<(Prefix<A>, Value)>) {
    let mut order: Vec<_> = routes.clone();
    order.sort_unstable();
    if order.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        order.reverse();
        order.dedup_by_key(|(prefix, _)| *prefix);
        order.reverse();
        *routes = order;
    }
}

/// Reads an address a line, all of one family.
///
/// # Errors
/// The first line that is not an address, or of another family than the first one.
pub fn parse_keys(text: &str, path: &Path) -> Result<Keys, Error> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let failed = |message: String| Error::Line {
            path: path.to_owned(),
            line: at + 1,
            message,
        };
        match line
            .parse::<IpAddr>()
            .map_err(|_| failed(format!("'{line}' is not an address")))?
        {
            IpAddr::V4(addr) => v4.push(addr.into()),
            IpAddr::V6(addr) => v6.push(addr.into()),
        }
        if !v4.is_empty() && !v6.is_empty() {
            return Err(failed("keys are of one family; this one is of the other".into()));
        }
    }
    Ok(if v6.is_empty() { Keys::V4(v4) } else { Keys::V6(v6) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_counts_lines() {
        let path = Path::new("p");
        let routes = parse_prefixes(
            "10.0.0.0/8\n2001:db8::/32\n10.1.0.0/16\n\n0.0.0.0/1\n10.1.0.0/16\n",
            path,
        )
        .unwrap();
        assert_eq!((routes.v4.len(), routes.v6.len()), (3, 1));
        let Keys::V4(keys) = parse_keys("10.0.0.1\n10.1.0.1\n1.1.1.1\n200.1.1.1\n", path).unwrap() else {
            panic!("IPv4 keys")
        };
        for engine in [Engine::Compressed, Engine::Dir24] {
            let figures = measure(routes.v4.clone(), &keys, engine).unwrap();
            assert_eq!(
                (figures.prefixes, figures.keys, figures.digest),
                (3, 4, 1 + 6 + 5)
            );
        }
        let Keys::V6(keys) = parse_keys("2001:db8::1\n::1\n", path).unwrap() else {
            panic!("IPv6 keys")
        };
        assert_eq!(
            measure(routes.v6.clone(), &keys, Engine::Compressed)
                .unwrap()
                .digest,
            2
        );
        let error = measure(routes.v6, &keys, Engine::Dir24).unwrap_err();
        assert_eq!(error.to_string(), "dir24 is for IPv4; these keys are IPv6");
    }

    #[test]
    fn bad_lines_are_named() {
        let path = Path::new("routes.txt");
        let error = |text| parse_prefixes(text, path).unwrap_err().to_string();
        assert!(
            error("10.0.0.0/8\n10.0.0.1/8\n")
                .starts_with("routes.txt:2: prefix 10.0.0.1/8 has host bits set")
        );
        assert!(error("x\n").starts_with("routes.txt:1: 'x' is not a prefix"));
        let error = |text| parse_keys(text, path).unwrap_err().to_string();
        assert_eq!(
            error("1.1.1.1\n::1\n"),
            "routes.txt:2: keys are of one family; this one is of the other"
        );
        assert_eq!(error("1.1.1\n"), "routes.txt:1: '1.1.1' is not an address");
        assert!(measure::<u32>(Vec::new(), &[], Engine::Compressed).is_err());
    }
}
