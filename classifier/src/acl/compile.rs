//! Rules to an engine for one family.

use std::sync::Arc;

use hashbrown::HashMap;

use super::image::{AddressMap, Engine, Line, Rest, Tables};
use super::model::{List, Match, Rule};
use super::run;
use crate::lpm::Frozen;
use crate::packet::Family;

mod classes;
pub(super) mod map;
mod pairs;
pub(super) mod short;
pub(super) mod upper;

use classes::{Classes, Specs};
use map::{Few4, Flat4, Map6};
use pairs::{Dense, Leaves, Reduced, Rows};
use upper::{Signature, Upper};

/// Why rules cannot be compiled.
#[derive(Debug)]
pub(super) enum TooLarge {
    /// The tables would take more than the limit: bytes wanted.
    Bytes(usize),
    /// More distinct conditions on ports, protocol, flags, types, fragment and DSCP than a leaf can number: so many.
    Conditions(usize),
}

/// Distinct conditions above the addresses that a leaf can number, one number kept for padding.
pub(super) const CONDITIONS: usize = u16::MAX as usize - 1;

/// Rules of one family, reduced to numbers.
struct Input {
    rules: Vec<Reduced>,
    signatures: Vec<Signature>,
    src: Classes,
    dst: Classes,
}

/// What an engine was compiled from.
#[derive(Debug)]
pub(super) struct Source {
    rules: Vec<Reduced>,
    signatures: Vec<Signature>,
    src: Classes,
    dst: Classes,
}

impl Source {
    pub(super) fn bytes(&self) -> usize {
        self.rules.len() * size_of::<Reduced>()
            + self.signatures.len() * size_of::<Signature>()
            + self.src.bytes()
            + self.dst.bytes()
    }
}

fn pack(rule: usize, action: super::Action) -> u32 {
    (rule as u32) << 2 | action as u32
}

fn reduce(list: &List, family: Family) -> Input {
    let (mut src, mut dst) = (Specs::default(), Specs::default());
    let mut ids: HashMap<Signature, u32> = HashMap::new();
    let mut signatures = Vec::new();
    let mut rules = Vec::with_capacity(list.rules.len());
    for (i, rule) in list.rules.iter().enumerate() {
        if !rule.src.has(family) || !rule.dst.has(family) {
            continue;
        }
        let Some(signature) = Signature::of(rule, family) else {
            continue;
        };
        let (Some(s), Some(d)) = (src.intern(&rule.src, family), dst.intern(&rule.dst, family)) else {
            continue;
        };
        let next = signatures.len() as u32;
        let id = *ids.entry_ref(&signature).or_insert(next);
        if id == next {
            signatures.push(signature);
        }
        rules.push(Reduced {
            packed: pack(i, rule.action),
            src: s,
            dst: d,
            signature: id,
        });
    }
    let bits = if family == Family::V4 { 32 } else { 128 };
    Input {
        rules,
        signatures,
        src: src.classes(bits),
        dst: dst.classes(bits),
    }
}

/// A rule stands in rows when no more classes than this meet its condition on the near side.
const NEAR_CLASSES: u64 = 64;
/// A dense table over all rules is taken up to this many cells: it stays in the second-level cache.
const DENSE_CELLS: u64 = 1 << 18;

/// Compiles the rules of one family; `None` when no rule can match a packet of it.
pub(super) fn compile(list: &List, family: Family, limit: usize) -> Result<Option<Tables>, TooLarge> {
    let default = u32::MAX << 2 | list.default as u32;
    if let Some(short) = short::build(list, family, default) {
        let tables = (short.lanes > 0).then(|| Tables::Short(Box::new(short), default));
        return Ok(tables);
    }
    tables(reduce(list, family), family, default, limit)
}

/// The tables of a list that is not short.
fn tables(input: Input, family: Family, default: u32, limit: usize) -> Result<Option<Tables>, TooLarge> {
    if input.rules.is_empty() {
        return Ok(None);
    }
    if input.signatures.len() > CONDITIONS {
        return Err(TooLarge::Conditions(input.signatures.len()));
    }
    let upper = Upper::build(&input.signatures, family, limit)?;
    let covers = covers(&upper, input.signatures.len());
    let mut leaves = Leaves::new(input.signatures.len() as u32, covers);
    let (mut near_src, mut near_dst, mut wide) = (Vec::new(), Vec::new(), Vec::new());
    if (input.src.len() * input.dst.len()) as u64 <= DENSE_CELLS {
        wide.clone_from(&input.rules);
    } else {
        for &r in &input.rules {
            if input.src.width(r.src) <= NEAR_CLASSES {
                near_src.push(r);
            } else if input.dst.width(r.dst) <= NEAR_CLASSES {
                near_dst.push(r);
            } else {
                wide.push(r);
            }
        }
    }
    let mut nodes = vec![Line::NOTHING];
    let group = |rules: &[Reduced], flip, nodes: &mut Vec<Line>, leaves: &mut Leaves| {
        if rules.is_empty() {
            return Ok(Rows::default());
        }
        let (near, far) = if flip {
            (&input.dst, &input.src)
        } else {
            (&input.src, &input.dst)
        };
        pairs::rows(rules, near, far, flip, nodes, leaves, limit)
    };
    let src_rows = group(&near_src, false, &mut nodes, &mut leaves)?;
    let dst_rows = group(&near_dst, true, &mut nodes, &mut leaves)?;
    let mut dense = if wide.is_empty() {
        Dense::default()
    } else {
        pairs::dense(&wide, &input.src, &input.dst, &mut leaves, limit)?
    };
    let mut decided = decide(&mut dense, &leaves, &upper);
    let mut cube = Vec::new();
    if near_src.is_empty() && near_dst.is_empty() {
        cube = cut_out(&mut dense, &mut decided, upper.classes, default);
    }
    let rest = Rest {
        upper,
        src_rows: src_rows.root,
        dst_rows: dst_rows.root,
        dense_src: dense.src,
        dense_dst: dense.dst,
        cells: dense.cells,
        decided,
        cube,
        nodes,
        leaves: leaves.lines,
        default,
    };
    let engine = Engine {
        src: map(&input.src.intervals, input.src.len(), family)?,
        dst: map(&input.dst.intervals, input.dst.len(), family)?,
        rest: Arc::new(rest),
        source: Arc::new(Source {
            rules: input.rules,
            signatures: input.signatures,
            src: input.src.without_intervals(),
            dst: input.dst.without_intervals(),
        }),
    };
    let bytes = engine.bytes();
    if bytes > limit {
        return Err(TooLarge::Bytes(bytes));
    }
    Ok(Some(Tables::Full(Box::new(engine))))
}

/// Compiles the rules of one family anew, with the tables of `engine` where only the members of sets have changed: when more
/// has, or when addresses now meet conditions together that they did not before, as [`compile`] does.
pub(super) fn recompile(
    engine: &Engine,
    list: &List,
    family: Family,
    limit: usize,
) -> Result<Option<Tables>, TooLarge> {
    let default = u32::MAX << 2 | list.default as u32;
    if short::build(list, family, default).is_some() {
        return compile(list, family, limit);
    }
    let input = reduce(list, family);
    match with_members(engine, &input, family, default) {
        Some(engine) if engine.bytes() <= limit => Ok(Some(Tables::Full(Box::new(engine)))),
        _ => tables(input, family, default, limit),
    }
}

/// The engine with other members of its sets, where it fits the input.
fn with_members(engine: &Engine, input: &Input, family: Family, default: u32) -> Option<Engine> {
    let source = &engine.source;
    if input.rules != source.rules || input.signatures != source.signatures || default != engine.rest.default
    {
        return None;
    }
    let renew = |new: &Classes, old: &Classes| {
        let classes = old.by_conditions();
        let intervals: Option<Vec<(u128, u32)>> = new
            .intervals
            .iter()
            .map(|&(at, c)| Some((at, *classes.get(new.active(c as usize))?)))
            .collect();
        map(&intervals?, old.len(), family).ok()
    };
    Some(Engine {
        src: renew(&input.src, &source.src)?,
        dst: renew(&input.dst, &source.dst)?,
        rest: engine.rest.clone(),
        source: source.clone(),
    })
}

/// Bytes of a [`Flat4`] from which on one load in a larger table is faster than three, where classes are few.
const FLAT_BYTES: usize = 512 << 10;
/// Bytes of a [`Flat4`] from which on the LPM engine's smaller image is as fast.
const FLAT_BYTES_AT_MOST: usize = 2 << 20;
/// Intervals from which on the LPM engine finds an IPv6 class faster than search nodes.
const LARGE_V6: usize = 1 << 16;

/// The fastest map.
fn map(intervals: &[(u128, u32)], classes: usize, family: Family) -> Result<AddressMap, TooLarge> {
    // An image of the engine has room for every set that the files may hold; where not, nothing else has.
    let full = |_| TooLarge::Bytes(usize::MAX);
    if family == Family::V6 {
        return Ok(if intervals.len() < LARGE_V6 {
            AddressMap::V6(Map6::build(intervals))
        } else {
            AddressMap::Large6(Frozen::build(intervals).map_err(full)?)
        });
    }
    let flat = Flat4::cells(intervals) * 4;
    if flat > FLAT_BYTES
        && let Some(few) = Few4::build(intervals, classes)
    {
        return Ok(AddressMap::Few(few));
    }
    if flat <= FLAT_BYTES_AT_MOST {
        return Ok(AddressMap::Flat(Flat4::build(intervals)));
    }
    let runs: Vec<(u32, u32)> = intervals.iter().map(|&(at, class)| (at as u32, class)).collect();
    Ok(AddressMap::Large4(Frozen::build(&runs).map_err(full)?))
}

/// Bytes that the leaves of the dense table may take when they are written out: what a second-level cache spares.
const DECIDED_BYTES: usize = 384 << 10;

/// Writes the leaves of the dense table out, where that is small: the cells become places in what is returned.
fn decide(dense: &mut Dense, leaves: &Leaves, upper: &Upper) -> Vec<u32> {
    let mut used: Vec<u32> = dense.cells.clone();
    used.sort_unstable();
    used.dedup();
    if used.is_empty() || used.len() * upper.classes as usize * 4 > DECIDED_BYTES {
        return Vec::new();
    }
    let lines = upper.words / 16;
    let mut out = Vec::with_capacity(used.len() * upper.classes as usize);
    for &leaf in &used {
        for class in 0..upper.classes as usize {
            let row = &upper.rows[class * lines..(class + 1) * lines];
            out.push(leaves.first(leaf, row));
        }
    }
    for cell in &mut dense.cells {
        let at = used.partition_point(|&u| u < *cell);
        *cell = at as u32 * upper.classes;
    }
    out
}

/// Bytes that the cube may take.
const CUBE_BYTES: usize = 128 << 10;

/// Makes one table of the dense one and its written-out leaves, where that is small: see `Rest::cube`.
fn cut_out(dense: &mut Dense, decided: &mut Vec<u32>, classes: u32, default: u32) -> Vec<Match> {
    let entries = dense.cells.len() * classes as usize;
    if decided.is_empty() || entries * size_of::<Match>() > CUBE_BYTES {
        return Vec::new();
    }
    let rules = |&cell: &u32| decided[cell as usize..][..classes as usize].iter();
    let cube = dense
        .cells
        .iter()
        .flat_map(rules)
        .map(|&rule| run::decode(rule.min(default)));
    let cube = cube.collect();
    for at in dense.src.iter_mut().chain(&mut dense.dst) {
        *at *= classes;
    }
    dense.cells = Vec::new();
    *decided = Vec::new();
    cube
}

/// Which signatures hold only where another does; nothing beyond 1,024 signatures, where it would take too long.
fn covers(upper: &Upper, n: usize) -> Vec<Vec<u64>> {
    if n > 1024 {
        return Vec::new();
    }
    let words = n.div_ceil(64);
    // Column i: the upper classes at which signature i holds. b is covered by a when no class has b without a.
    let mut covers = vec![vec![u64::MAX; words]; n];
    let lines = upper.words / 16;
    for class in 0..upper.classes as usize {
        let row: Vec<u64> = (0..words)
            .map(|w| {
                let word = |k: usize| u64::from(upper.rows[class * lines + k / 16].0[k % 16]);
                word(2 * w) | word(2 * w + 1) << 32
            })
            .collect();
        for (a, covered) in covers.iter_mut().enumerate() {
            if row[a >> 6] >> (a & 63) & 1 == 0 {
                for (c, r) in covered.iter_mut().zip(&row) {
                    *c &= !r;
                }
            }
        }
    }
    covers
}

/// Bytes of the rules as they were written, for the account of what a list holds.
pub(super) fn model_bytes(rules: &[Rule]) -> usize {
    std::mem::size_of_val(rules)
        + rules
            .iter()
            .map(|r| {
                (r.src.prefixes.len() + r.dst.prefixes.len()) * size_of::<crate::lpm::IpPrefix>()
                    + (r.sport.len() + r.dport.len()) * 4
            })
            .sum::<usize>()
}
