//! DIR-24-8 (Gupta, Lin, McKeown, "Routing lookups in hardware at memory access speeds", INFOCOM 1998): one word for
//! each /24, 64 MiB in all, and 256 words for each /24 with longer prefixes inside.
//!
//! The baseline that the default engine is measured against, and a choice for who has memory to spare: one access
//! answers nearly every address, as long as it comes from a cache.
// Why unsafe is needed: look-ups read the arena without bounds checks.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use super::arena::{Arena, Blocks, Limbo};
use super::lookup::Lookup;
use super::rib::{Rib, Run};
use super::table::Backend;
use super::way::Way;
use super::{BURST, LpmError, NO_ROUTE, Prefix, Value};
use crate::qsbr::{Domain, Online, Published};

/// A word that refers to 256 words: its other bits are their place.
const LONG: u32 = 1 << 31;
/// Words of the direct table.
const DIRECT: u32 = 1 << 24;
/// Words of an image: 64 MiB and room for 131,072 /24s with longer prefixes. Taken as it is used.
const WORDS: usize = (DIRECT as usize) * 3;
/// Granules of 256 words.
const LONG_GRANULES: u32 = 128;

/// A word is the value + 1, so that untouched memory says "no route".
fn word(value: Value) -> u32 {
    value.wrapping_add(1)
}

struct Image {
    arena: Arc<Arena>,
    blocks: Blocks,
}

/// The engine's writer.
pub(super) struct Dir24 {
    domain: Domain,
    shared: Arc<Published<Arc<Arena>>>,
    image: Image,
    limbo: Limbo,
    runs: Vec<Run<u32>>,
}

impl Image {
    fn new() -> Result<Self, LpmError> {
        let arena = Arc::new(Arena::new(WORDS)?);
        let blocks = Blocks::new(DIRECT, arena.words());
        Ok(Self { arena, blocks })
    }

    /// The words of the /24s from `first` to `last` for these runs: (index, word).
    fn words(&mut self, first: u32, last: u32, runs: &[Run<u32>]) -> Result<Vec<(u32, u32)>, LpmError> {
        let mut out = Vec::with_capacity((last - first) as usize + 1);
        let mut at = 0;
        for index in first..=last {
            let (low, high) = (index << 8, index << 8 | 255);
            while at + 1 < runs.len() && runs[at + 1].0 <= low {
                at += 1;
            }
            let inside = runs[at + 1..]
                .iter()
                .take_while(|(start, _)| *start <= high)
                .count();
            out.push((
                index,
                if inside == 0 {
                    word(runs[at].1)
                } else {
                    self.long(low, &runs[at..=at + inside])?
                },
            ));
        }
        Ok(out)
    }

    fn long(&mut self, low: u32, runs: &[Run<u32>]) -> Result<u32, LpmError> {
        let place = self.blocks.take(LONG_GRANULES)?;
        let mut at = 0;
        for host in 0..256 {
            while at + 1 < runs.len() && runs[at + 1].0 <= low | host {
                at += 1;
            }
            self.arena.word(place + host).store(word(runs[at].1), Relaxed);
        }
        Ok(LONG | place)
    }

    fn store(&self, words: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let swap = |(index, new): &(u32, u32)| {
            // One writer: reading and then storing loses nothing. Release: the 256 words come first.
            let old = self.arena.word(*index).load(Relaxed);
            if old != *new {
                self.arena.word(*index).store(*new, Release);
            }
            (old & LONG != 0).then_some((old & !LONG, LONG_GRANULES))
        };
        words.iter().filter_map(swap).collect()
    }
}

impl Dir24 {
    pub(super) fn new(domain: &Domain) -> Result<Self, LpmError> {
        let image = Image::new()?;
        Ok(Self {
            domain: domain.clone(),
            shared: Arc::new(Published::new(image.arena.clone())),
            image,
            limbo: Limbo::default(),
            runs: Vec::new(),
        })
    }
}

impl Backend<u32> for Dir24 {
    fn refresh(&mut self, rib: &Rib<u32>, prefix: &Prefix<u32>) -> Result<(), LpmError> {
        self.limbo.reclaim(&self.domain, &mut self.image.blocks);
        let region = Prefix::covering(prefix.addr(), prefix.len().min(24));
        rib.runs(&region, &mut self.runs);
        let words = self
            .image
            .words(region.addr() >> 8, region.last() >> 8, &self.runs)?;
        let dropped = self.image.store(&words);
        if !dropped.is_empty() {
            self.limbo.put(&self.domain, dropped);
        }
        Ok(())
    }

    fn rebuild(&mut self, rib: &Rib<u32>) -> Result<(), LpmError> {
        let mut image = Image::new()?;
        rib.runs(&Prefix::covering(0, 0), &mut self.runs);
        let runs = std::mem::take(&mut self.runs);
        for (at, (start, value)) in runs.iter().enumerate() {
            let next = runs.get(at + 1).map_or(1 << 32, |(start, _)| u64::from(*start));
            // The whole /24s of the run, and the /24 that it begins inside of.
            if start & 255 != 0 && image.arena.word(start >> 8).load(Relaxed) & LONG == 0 {
                let low = start & !255;
                let inside = runs[at..]
                    .iter()
                    .take_while(|(start, _)| *start <= low | 255)
                    .count();
                let long = image.long(low, &runs[at - 1..at + inside])?;
                image.arena.word(start >> 8).store(long, Relaxed);
            }
            if *value != NO_ROUTE {
                for index in u64::from(*start).div_ceil(256)..next / 256 {
                    image.arena.word(index as u32).store(word(*value), Relaxed);
                }
            }
        }
        self.shared.replace(image.arena.clone(), &self.domain);
        self.domain.reclaim();
        self.image = image;
        self.limbo = Limbo::default();
        Ok(())
    }

    fn image_bytes(&self) -> usize {
        self.image.blocks.used_words() as usize * 4
    }

    fn bytes(&self) -> usize {
        self.image_bytes()
            + self.image.blocks.bytes()
            + self.limbo.bytes()
            + self.runs.capacity() * size_of::<Run<u32>>()
    }

    fn reader(&self) -> Arc<dyn Lookup<u32>> {
        Arc::new(Reader(self.shared.clone()))
    }
}

struct Reader(Arc<Published<Arc<Arena>>>);

/// # Safety
/// `base` is an image of this engine, read under a guard.
#[inline(always)]
unsafe fn burst(base: *const u32, keys: &[u32], out: &mut [u32]) {
    // SAFETY: needed to leave bounds checks out: an index of 24 bits is inside the direct table, and a place that
    // the table refers to has 256 words. Acquire: see `Image::store`.
    let load = |index: u32| unsafe { (*base.add(index as usize).cast::<AtomicU32>()).load(Acquire) };
    let mut any = 0;
    for (key, out) in keys.iter().zip(out.iter_mut()) {
        *out = load(key >> 8);
        any |= *out;
    }
    let long = any & LONG != 0;
    for (key, out) in keys.iter().zip(out.iter_mut()) {
        if long && *out & LONG != 0 {
            *out = load((*out & !LONG) + (key & 255));
        }
        *out = out.wrapping_sub(1);
    }
}

impl Lookup<u32> for Reader {
    fn burst(&self, online: &Online<'_>, _: Way, keys: &[u32], out: &mut [Value]) {
        assert!(keys.len() <= BURST && keys.len() == out.len());
        // SAFETY: the guard keeps the image, which is of this engine.
        unsafe { burst(self.0.load(online).base(), keys, out) }
    }

    fn best(&self) -> Way {
        // One load an address: there is nothing that wider instructions would do better (measured: a gather of
        // 16 words takes longer than 16 loads).
        Way::Scalar
    }
}
