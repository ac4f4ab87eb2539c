//! Route tables and traffic for the look-up benchmarks.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use classifier::lpm::{Addr, Prefix, Table, Value};
use classifier::qsbr::Domain;

pub mod updates;

/// Keys of a traffic model.
pub const KEYS: usize = 2_000_000;

/// A small generator (xorshift64*): the same traffic in every run.
pub struct Random(u64);

impl Random {
    /// A generator; `seed` is not 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.bits()) * limit as u128) >> 64) as usize
    }

    /// A number from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A family as the benchmarks see it.
pub trait Ip: Addr {
    /// The leading bits of `wide` as an address.
    fn cut(wide: u128) -> Self;
    /// The space that "uniform" means: all of IPv4; 2000::/3, where all routes of IPv6 are.
    fn anywhere(random: &mut Random) -> Self;
}

impl Ip for u32 {
    fn cut(wide: u128) -> Self {
        (wide >> 96) as u32
    }
    fn anywhere(random: &mut Random) -> Self {
        random.bits() as u32
    }
}

impl Ip for u128 {
    fn cut(wide: u128) -> Self {
        wide
    }
    fn anywhere(random: &mut Random) -> Self {
        1 << 125 | wide(random) >> 3
    }
}

fn wide(random: &mut Random) -> u128 {
    u128::from(random.bits()) << 64 | u128::from(random.bits())
}

/// The four ways in which destinations come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// An address inside a random route.
    Route,
    /// Any address of the space.
    Uniform,
    /// 65,536 destinations inside random routes, by Zipf's law with exponent 1.
    Zipf,
    /// 2,000,000 destinations inside random routes, one after the other.
    Sweep,
}

impl Model {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Route, Self::Uniform, Self::Zipf, Self::Sweep];

    /// The name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Sweep => "sweep",
        }
    }

    /// `count` keys.
    pub fn keys<A: Ip>(self, routes: &[(Prefix<A>, Value)], count: usize) -> Vec<A> {
        let mut random = Random::new(0x6d61_7267_6179 + self as u64);
        let inside = |random: &mut Random| {
            let prefix = routes[random.below(routes.len())].0;
            A::cut(to_wide(prefix.addr()) | wide(random).checked_shr(prefix.len().into()).unwrap_or(0))
        };
        match self {
            Self::Route | Self::Sweep => (0..count).map(|_| inside(&mut random)).collect(),
            Self::Uniform => (0..count).map(|_| A::anywhere(&mut random)).collect(),
            Self::Zipf => {
                let destinations: Vec<A> = (0..65_536).map(|_| inside(&mut random)).collect();
                let mut sum = 0.0;
                let shares: Vec<f64> = (1..=destinations.len())
                    .map(|rank| {
                        sum += 1.0 / rank as f64;
                        sum
                    })
                    .collect();
                let pick = |random: &mut Random| {
                    let at = random.unit() * sum;
                    destinations[shares
                        .partition_point(|share| *share < at)
                        .min(destinations.len() - 1)]
                };
                (0..count).map(|_| pick(&mut random)).collect()
            }
        }
    }
}

fn to_wide<A: Addr>(addr: A) -> u128 {
    match addr.ip() {
        std::net::IpAddr::V4(addr) => u128::from(u32::from(addr)) << 96,
        std::net::IpAddr::V6(addr) => addr.into(),
    }
}

/// How many prefixes of each length the Internet's tables had in 2024 (in thousands for IPv4, rounded, from the
/// yearly reports of bgp.potaroo.net): what the synthetic table follows.
const LENGTHS_V4: [(u8, u32); 16] = [
    (8, 16),
    (10, 40),
    (11, 100),
    (12, 300),
    (13, 580),
    (14, 1_200),
    (15, 2_100),
    (16, 13_500),
    (17, 8_200),
    (18, 13_800),
    (19, 25_000),
    (20, 43_000),
    (21, 51_000),
    (22, 109_000),
    (23, 97_000),
    (24, 538_000),
];
const LENGTHS_V6: [(u8, u32); 10] = [
    (28, 200),
    (29, 4_400),
    (32, 23_000),
    (33, 2_900),
    (34, 2_600),
    (36, 6_000),
    (40, 13_400),
    (44, 14_400),
    (46, 6_000),
    (48, 76_000),
];

/// A route table, one text line a prefix.
pub struct Source {
    /// The lines.
    pub text: String,
    /// Where they are from, for the reader of the figures.
    pub origin: String,
}

/// The table of the project's data folder (`MARGAY_DATA`, else `../shared/data`), or a synthetic one.
pub fn source() -> Source {
    let folder =
        std::env::var_os("MARGAY_DATA").map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from);
    let folder = if folder.is_absolute() {
        folder
    } else {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)
    };
    let path = folder.join("prefixes.txt.gz");
    let read = || {
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(&path)?).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    match read() {
        Ok(text) => Source {
            text,
            origin: "prefixes.txt.gz".into(),
        },
        Err(error) => {
            eprintln!(
                "lpm: {} cannot be read ({error}): a SYNTHETIC table takes its place",
                path.display()
            );
            Source {
                text: synthetic(),
                origin: "a synthetic table by published prefix-length counts".into(),
            }
        }
    }
}

/// A table whose lengths are distributed as the Internet's. Prefixes cluster: each is near an earlier one with
/// probability 0.8, as allocations are.
fn synthetic() -> String {
    let mut random = Random::new(2024);
    let mut lines = std::collections::BTreeSet::new();
    fn fill<A: Ip>(
        lengths: &[(u8, u32)],
        random: &mut Random,
        lines: &mut std::collections::BTreeSet<String>,
        first: impl Fn(&mut Random) -> A,
    ) {
        let mut seen: Vec<Prefix<A>> = Vec::new();
        for (len, count) in lengths {
            // A prefix that is there already is made anew: the counts are of different ones.
            let mut left = *count;
            while left > 0 {
                let near = !seen.is_empty() && random.below(10) < 8;
                let addr = if near {
                    let parent = seen[random.below(seen.len())];
                    A::cut(
                        to_wide(parent.addr()) | wide(random).checked_shr(parent.len().into()).unwrap_or(0),
                    )
                } else {
                    first(random)
                };
                let prefix = Prefix::covering(addr, *len);
                if lines.insert(prefix.to_string()) {
                    seen.push(prefix);
                    left -= 1;
                }
            }
        }
    }
    // Unicast IPv4: 1.0.0.0 to 223.255.255.255.
    fill::<u32>(&LENGTHS_V4, &mut random, &mut lines, |random| {
        ((1 + random.below(223)) << 24) as u32 | random.bits() as u32 >> 8
    });
    fill::<u128>(&LENGTHS_V6, &mut random, &mut lines, |random| {
        // The registries' blocks: 2001::/16, 2400::/12, 2600::/12, 2800::/12, 2a00::/12, 2c00::/12.
        let block =
            [0x2001, 0x2400, 0x2600, 0x2800, 0x2a00, 0x2c00][random.below(6)] + random.below(8) as u128;
        block << 112 | wide(random) >> 16
    });
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Writes an address a line.
///
/// # Errors
/// What the file system says.
pub fn write_keys<A: Addr>(path: &Path, keys: &[A]) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    for key in keys {
        writeln!(out, "{}", key.ip())?;
    }
    out.flush()
}

/// Bytes of a loaded table.
pub struct Memory {
    /// What look-ups read when each prefix has a value of its own.
    pub image: usize,
    /// What look-ups read when prefixes have 256 values, drawn at random.
    pub image_of_256: usize,
    /// All that the table holds (values of their own), the control side's copy included.
    pub bytes: usize,
}

/// Loads the routes into the default engine.
///
/// # Panics
/// When the table refuses them.
pub fn memory<A: Ip>(routes: &[(Prefix<A>, Value)]) -> Memory {
    let load = |routes: &mut dyn Iterator<Item = (Prefix<A>, Value)>| {
        let mut table = Table::new(&Domain::new());
        table.load(routes).expect("the routes load");
        (table.image_bytes(), table.bytes())
    };
    let (image, bytes) = load(&mut routes.iter().copied());
    let mut random = Random::new(256);
    let few = routes
        .iter()
        .map(|(prefix, _)| (*prefix, random.below(256) as Value));
    let (image_of_256, _) = load(&mut few.into_iter());
    Memory {
        image,
        image_of_256,
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_the_engine() {
        let routes: Vec<_> = (0..1000u32)
            .map(|at| (Prefix::covering(at << 14, 24), at))
            .collect();
        let memory = memory(&routes);
        assert!(memory.image > 1 << 20 && memory.image_of_256 <= memory.image && memory.bytes > memory.image);
    }

    #[test]
    fn the_synthetic_table_loads_and_models_hit_it() {
        let text = synthetic();
        let routes = control::bench::lpm::parse_prefixes(&text, Path::new("synthetic")).unwrap();
        assert!(
            routes.v4.len() > 700_000 && routes.v6.len() > 100_000,
            "{} {}",
            routes.v4.len(),
            routes.v6.len()
        );
        let mut table = Table::new(&Domain::new());
        table.load(routes.v6.iter().copied()).unwrap();
        for model in [Model::Route, Model::Zipf, Model::Sweep] {
            let keys = model.keys(&routes.v6, 1_000);
            assert!(
                keys.iter().all(|key| table.lookup(*key).is_some()),
                "{}",
                model.name()
            );
        }
    }
}
