//! A list compiled for look-ups.

use std::sync::Arc;

use super::compile::map::{Few4, Flat4, Map6};
use super::compile::short::Short;
use super::compile::upper::Upper;
use super::compile::{self, TooLarge};
use super::limits::{CompileError, Limits};
use super::model::{Action, List, Match, Origin};
use super::run;
use crate::lpm::Frozen;
use crate::packet::{Family, Headers};

/// One cache line of words.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u32; 16]);

impl Line {
    /// A node whose first interval holds every key.
    pub(super) const NOTHING: Line = Line([u32::MAX; 16]);
}

/// A node over keys of 64 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(128))]
pub(super) struct Node64 {
    /// Last key of each interval; the greatest number behind the last one.
    pub(super) ends: [u64; 8],
    pub(super) entries: [u32; 8],
}

impl Node64 {
    /// A node whose first interval holds every key.
    pub(super) const NOTHING: Node64 = Node64 {
        ends: [u64::MAX; 8],
        entries: [0; 8],
    };
}

/// Rules that a leaf's line holds.
pub(super) const LEAF_RULES: usize = 10;

/// Address to class.
#[derive(Debug)]
pub(super) enum AddressMap {
    Flat(Flat4),
    Few(Few4),
    Large4(Frozen<u32>),
    V6(Map6),
    Large6(Frozen<u128>),
}

impl AddressMap {
    pub(super) fn bytes(&self) -> usize {
        match self {
            AddressMap::Flat(map) => map.bytes(),
            AddressMap::Few(map) => map.bytes(),
            AddressMap::Large4(map) => map.bytes(),
            AddressMap::V6(map) => map.bytes(),
            AddressMap::Large6(map) => map.bytes(),
        }
    }
}

/// The tables for packets of one family.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) src: AddressMap,
    pub(super) dst: AddressMap,
    /// What does not change when only the members of sets do.
    pub(super) rest: Arc<Rest>,
    /// What the tables were compiled from; to tell whether they still fit.
    pub(super) source: Arc<compile::Source>,
}

/// The tables behind the address maps. Every index that one table holds is valid in the next: the compiler builds
/// them together and nothing changes them.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) upper: Upper,
    /// By source class: leaf or node over destination classes; empty when no rule stands there.
    pub(super) src_rows: Vec<u32>,
    /// By destination class: leaf or node over source classes; empty when no rule stands there.
    pub(super) dst_rows: Vec<u32>,
    /// By source class: where its row begins in `cells`; empty when no rule stands there.
    pub(super) dense_src: Vec<u32>,
    /// By destination class: its column.
    pub(super) dense_dst: Vec<u32>,
    /// Leaves, or where a leaf begins in `decided`.
    pub(super) cells: Vec<u32>,
    /// Leaves of the dense table written out: the rule for each upper class; empty when that would be too large.
    pub(super) decided: Vec<u32>,
    /// The rule for each combination of address classes and upper class, where that is so small that no other table is
    /// needed: `dense_src` + `dense_dst` + upper class. Otherwise empty.
    pub(super) cube: Vec<Match>,
    pub(super) nodes: Vec<Line>,
    /// Lines of ten rules: words 0 to 4 hold signatures of 16 bits, word 5 the next line or 0, words 6 to 15 the rules.
    pub(super) leaves: Vec<Line>,
    /// What is answered when no rule matches: -1 << 2 | action, which is greater than every rule.
    pub(super) default: u32,
}

impl Engine {
    pub(super) fn bytes(&self) -> usize {
        let rest = &self.rest;
        let rows = rest.src_rows.len() + rest.dst_rows.len() + rest.dense_src.len() + rest.dense_dst.len();
        self.src.bytes()
            + self.dst.bytes()
            + rest.upper.bytes()
            + (rows + rest.cells.len() + rest.decided.len() + 2 * rest.cube.len()) * 4
            + (rest.nodes.len() + rest.leaves.len()) * 64
    }
}

/// The form that the compiler chose for a list and family.
#[derive(Debug)]
pub(super) enum Tables {
    /// Few rules: all are compared. With it, what is answered when none matches.
    Short(Box<Short>, u32),
    /// Classes and tables.
    Full(Box<Engine>),
}

impl Tables {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Tables::Short(short, _) => short.bytes(),
            Tables::Full(engine) => engine.bytes(),
        }
    }
}

/// Instructions that look-ups use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// None beyond the target's base.
    Scalar,
    /// AVX2.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
}

impl Way {
    /// The ways that this CPU has, the widest last.
    pub fn available() -> Vec<Way> {
        run::available()
    }
}

/// A compiled list: immutable, shared by all workers.
#[derive(Debug)]
pub struct Image {
    list: Arc<List>,
    v4: Option<Tables>,
    v6: Option<Tables>,
    way: Way,
}

impl Image {
    /// Compiles a list.
    ///
    /// # Errors
    /// [`CompileError::Memory`] when the tables would pass the limit.
    pub fn compile(list: &List, limits: &Limits) -> Result<Image, CompileError> {
        Image::of(Arc::new(list.clone()), limits)
    }

    /// Compiles a list that the image then holds, without a copy of it.
    ///
    /// # Errors
    /// As [`Image::compile`].
    pub fn of(list: Arc<List>, limits: &Limits) -> Result<Image, CompileError> {
        let way = Way::available().last().copied().unwrap_or(Way::Scalar);
        Image::build(list, limits, way, compile::compile)
    }

    /// Compiles a changed list, with the tables of this image where only the members of its sets have changed: then
    /// just the maps from address to class are built anew.
    ///
    /// # Errors
    /// As [`Image::compile`].
    pub fn recompile(&self, list: Arc<List>, limits: &Limits) -> Result<Image, CompileError> {
        Image::build(list, limits, self.way, |list, family, limit| {
            let old = if family == Family::V4 { &self.v4 } else { &self.v6 };
            match old {
                Some(Tables::Full(engine)) => compile::recompile(engine, list, family, limit),
                // Short lists and families without rules take microseconds.
                _ => compile::compile(list, family, limit),
            }
        })
    }

    /// Both families by `compile`; the second has the memory that the first has left.
    fn build(
        list: Arc<List>,
        limits: &Limits,
        way: Way,
        compile: impl Fn(&List, Family, usize) -> Result<Option<Tables>, TooLarge>,
    ) -> Result<Image, CompileError> {
        let too_large = |e: TooLarge| match e {
            TooLarge::Bytes(needed) => CompileError::Memory {
                list: list.name.clone(),
                rules: list.rules.len(),
                needed,
                limit: limits.memory,
            },
            TooLarge::Conditions(distinct) => CompileError::Conditions {
                list: list.name.clone(),
                distinct,
                limit: compile::CONDITIONS,
            },
        };
        let v4 = compile(&list, Family::V4, limits.memory).map_err(too_large)?;
        let left = limits.memory.saturating_sub(v4.as_ref().map_or(0, Tables::bytes));
        let v6 = compile(&list, Family::V6, left).map_err(too_large)?;
        Ok(Image { list, v4, v6, way })
    }

    /// Whether [`Image::recompile`] made this image of the other one's tables: all but the maps from address to class are shared.
    pub fn has_tables_of(&self, other: &Image) -> bool {
        let kept = |a: &Option<Tables>, b: &Option<Tables>| match (a, b) {
            (Some(Tables::Full(a)), Some(Tables::Full(b))) => Some(Arc::ptr_eq(&a.rest, &b.rest)),
            (Some(Tables::Full(_)), _) | (_, Some(Tables::Full(_))) => Some(false),
            // Few rules have no such maps, and compile in microseconds.
            _ => None,
        };
        let both = [kept(&self.v4, &other.v4), kept(&self.v6, &other.v6)];
        both.contains(&Some(true)) && !both.contains(&Some(false))
    }

    /// The same image with look-ups by another way; `None` when the CPU lacks it.
    pub fn with_way(self, way: Way) -> Option<Image> {
        Way::available().contains(&way).then_some(Image { way, ..self })
    }

    /// Judges a burst of up to [`super::BURST`] packets; `out` is at least as long as `packets`.
    pub fn classify_burst(&self, packets: &[Headers], out: &mut [Match]) {
        for (packets, out) in packets.chunks(super::BURST).zip(out.chunks_mut(super::BURST)) {
            if let Some(tables) = &self.v4
                && run::burst_at_once(tables, self.way, packets, out)
            {
                continue;
            }
            let v4 = packets.iter().filter(|p| p.family == Family::V4).count();
            if v4 == packets.len() {
                self.family(&self.v4, packets, None, out);
            } else if v4 == 0 {
                self.family(&self.v6, packets, None, out);
            } else {
                let (mut order, mut a, mut b) = ([0u8; super::BURST], 0, packets.len());
                for (i, p) in packets.iter().enumerate() {
                    if p.family == Family::V4 {
                        order[a] = i as u8;
                        a += 1;
                    } else {
                        b -= 1;
                        order[b] = i as u8;
                    }
                }
                self.family(&self.v4, packets, Some(&order[..a]), out);
                self.family(&self.v6, packets, Some(&order[a..packets.len()]), out);
            }
        }
    }

    /// Judges the packets that `order` names, or all.
    fn family(&self, engine: &Option<Tables>, packets: &[Headers], order: Option<&[u8]>, out: &mut [Match]) {
        let default = Match {
            action: self.list.default,
            rule: -1,
        };
        match (engine, order) {
            (Some(engine), _) => run::burst(engine, self.way, packets, order, out),
            (None, Some(order)) => order.iter().for_each(|&i| out[usize::from(i)] = default),
            (None, None) => out[..packets.len()].fill(default),
        }
    }

    /// Judges one packet, by the same tables as [`Image::classify_burst`].
    pub fn classify(&self, headers: &Headers) -> Match {
        let mut out = [Match::default()];
        self.classify_burst(std::slice::from_ref(headers), &mut out);
        out[0]
    }

    /// Number of rules.
    pub fn rules(&self) -> usize {
        self.list.rules.len()
    }

    /// Name of the list.
    pub fn name(&self) -> &str {
        &self.list.name
    }

    /// Action for packets that no rule matches.
    pub fn default_action(&self) -> Action {
        self.list.default
    }

    /// Action of a rule, `None` past the last one.
    pub fn action(&self, rule: usize) -> Option<Action> {
        self.list.rules.get(rule).map(|r| r.action)
    }

    /// File and line of a rule, `None` past the last one.
    pub fn origin(&self, rule: usize) -> Option<&Origin> {
        self.list.rules.get(rule).map(|r| &r.origin)
    }

    /// Bytes that look-ups read.
    pub fn image_bytes(&self) -> usize {
        self.v4.as_ref().map_or(0, Tables::bytes) + self.v6.as_ref().map_or(0, Tables::bytes)
    }

    /// All bytes that the image holds, its copy of the rules included.
    pub fn bytes(&self) -> usize {
        let source = |tables: &Option<Tables>| match tables {
            Some(Tables::Full(engine)) => engine.source.bytes(),
            _ => 0,
        };
        self.image_bytes() + compile::model_bytes(&self.list.rules) + source(&self.v4) + source(&self.v6)
    }
}
