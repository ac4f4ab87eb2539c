//! The readers' side: bursts of look-ups in an image, one way for each instruction set.
//!
//! A burst goes through the image in stages, one level a stage: first every address's table word is read and its
//! leaf prefetched, then every leaf is read. The misses of a stage overlap, and no address waits for another's
//! (the idea of staged look-ups is as old as DIR-24-8's bulk calls; Gupta, Lin, McKeown, "Routing lookups in
//! hardware at memory access speeds", INFOCOM 1998, for the direct table itself).
//!
//! No stage reads by a wide load what the stage before has just written by narrow stores: such a load waits until
//! the stores have left the store buffer, which cost more than half of the speed when it was measured.
// Why unsafe is needed: look-ups follow word numbers from the image without bounds checks, through instructions that
// only some processors have.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Acquire};

use super::arena::Arena;
use super::leaf::{Child, Entry};
use super::shape::Shape;
use super::way::Way;
use super::{BURST, Value};
use crate::qsbr::{Online, Published};

/// An image that can be looked up in.
pub(super) trait Lookup<A>: Send + Sync {
    /// `out[i]` becomes the answer for `keys[i]`. Lengths are equal and at most [`BURST`]; `way` is available.
    fn burst(&self, online: &Online<'_>, way: Way, keys: &[A], out: &mut [Value]);
    /// The way that is fastest here.
    fn best(&self) -> Way;
}

/// What the writer of a compressed image shares with its readers.
pub(super) struct Shared {
    pub(super) arena: Published<Arc<Arena>>,
}

/// Readers of compressed images.
pub(super) struct Reader(pub(super) Arc<Shared>);

/// A word of an image.
///
/// # Safety
/// `base` is an arena's, and `word` inside it.
#[inline(always)]
unsafe fn load(base: *const u32, word: usize) -> u32 {
    // SAFETY: as the caller promises. Table words change while they are read, hence atomic; Acquire (a plain load on
    // x86) because what the word refers to was written before it.
    unsafe { (*base.add(word).cast::<AtomicU32>()).load(Acquire) }
}

/// Asks for the line at `word`; a wrong address does no harm.
#[inline(always)]
fn prefetch(base: *const u32, word: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: needed because it is an intrinsic; SSE is part of x86-64, and a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(base.wrapping_add(word).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (base, word);
}

/// The entry of a leaf for a slot; bits of `slot` above the sixth are ignored.
///
/// # Safety
/// `place` is a leaf that the image reaches, read under a guard.
#[inline(always)]
unsafe fn leaf_entry(base: *const u32, place: usize, slot: u32) -> i32 {
    // SAFETY: as the caller promises: a leaf has two words of map and three bytes for each bit set in it. Its bytes
    // do not change while it is reachable. The load of four bytes begins with the one before the entry, which
    // belongs to the leaf as well, and the shift drops it.
    unsafe {
        let leaf = base.add(place).cast::<u8>();
        let map = leaf.cast::<u64>().read_unaligned();
        let number = (map >> (slot & 63)).count_ones() as usize;
        i32::from_le(leaf.add(4 + 3 * number).cast::<i32>().read_unaligned()) >> 8
    }
}

/// How many of a search node's 32 keys are greater than `x`.
///
/// # Safety
/// `node` is a search node that the image reaches, read under a guard.
#[inline(always)]
unsafe fn greater_scalar(base: *const u32, node: usize, x: u16) -> usize {
    // SAFETY: as the caller promises: a search node begins with 32 keys, which do not change while it is reachable.
    let keys = unsafe { &*base.add(node).cast::<[u16; 32]>() };
    keys.iter().map(|key| usize::from(u16::from_le(*key) > x)).sum()
}

/// The answer below a child, one address at a time: for what bursts meet seldom.
///
/// # Safety
/// `entry` is from the image at `base`, read under a guard; `depth` is its slot's.
#[inline(never)]
unsafe fn descend<A: Shape>(base: *const u32, key: A, mut entry: Entry, mut depth: u8) -> Value {
    // SAFETY: as the caller promises: references in the image lead to pieces of the image.
    unsafe {
        while let Some(child) = entry.child() {
            let bits = A::TABLE_BITS;
            entry = Entry(match child {
                Child::Table(table) => {
                    let place = load(base, (table + key.bits_at(depth, bits)) as usize);
                    leaf_entry(base, place as usize, key.bits_at(depth + bits, 6))
                }
                // A constant has one run and stands at any depth.
                Child::Search(node) => {
                    let x = if depth + bits + 6 <= A::BITS {
                        key.bits_at(depth, bits + 6) as u16
                    } else {
                        0
                    };
                    load(base, node as usize + 16 + greater_scalar(base, node as usize, x)) as i32
                }
            });
            depth += bits + 6;
        }
    }
    entry.0 as Value
}

/// IPv4, leaves by scalar loads.
///
/// # Safety
/// `base` is an IPv4 image read under a guard. `keys` and `out` hold `count` <= 64 elements.
#[inline(always)]
unsafe fn burst4(base: *const u32, keys: *const u32, out: *mut u32, count: usize) {
    let mut places = [const { std::mem::MaybeUninit::<u32>::uninit() }; BURST];
    let places = places.as_mut_ptr().cast::<u32>();
    let mut children = 0;
    // SAFETY: needed to leave the bounds checks out of the innermost loops: `count` <= 64, as the caller promises. A
    // root word is a leaf's place. `places` is written for all of `count` before it is read.
    unsafe {
        let root = |at: usize| {
            let place = load(base, (*keys.add(at) >> 14) as usize);
            prefetch(base, place as usize);
            places.add(at).write(place);
        };
        let leaf = |at: usize| {
            // The slot's bits are 8 to 13: byte 1 alone saves a shift.
            let slot = if cfg!(target_endian = "little") {
                keys.add(at).cast::<u8>().add(1).read().into()
            } else {
                *keys.add(at) >> 8
            };
            let entry = leaf_entry(base, places.add(at).read() as usize, slot);
            out.add(at).write(entry as u32);
            // Negative only below -1: for children.
            entry.wrapping_add(1)
        };
        let eights = count & !7;
        for at in (0..eights).step_by(8) {
            for one in 0..8 {
                root(at + one);
            }
        }
        for at in eights..count {
            root(at);
        }
        for at in (0..eights).step_by(8) {
            for one in 0..8 {
                children |= leaf(at + one);
            }
        }
        for at in eights..count {
            children |= leaf(at);
        }
        if children < 0 {
            finish4(base, keys, out, count);
        }
    }
}

/// Second step for the addresses whose entry is a child.
///
/// # Safety
/// As `burst4`, after its stages.
#[cold]
#[inline(never)]
unsafe fn finish4(base: *const u32, keys: *const u32, out: *mut u32, count: usize) {
    for at in 0..count {
        // SAFETY: as the caller promises.
        unsafe {
            let entry = Entry(*out.add(at) as i32);
            if entry.is_child() {
                *out.add(at) = descend(base, *keys.add(at), entry, 24);
            }
        }
    }
}

/// Lanes of a burst that go on, of one kind of child. How many is kept beside it, not in it: the compiler keeps a number that
/// stands in one piece with an array in memory, and each step of the count would wait for the one before it to be
/// stored and loaded.
type Lanes = [u32; BURST + 8];

/// Runs `stage` for each of `count` <= 64 lanes, by eights: what is missing to the last eight is the first lane once more,
/// so `stage` may be run twice for it.
#[inline(always)]
fn each(lanes: &mut Lanes, count: usize, mut stage: impl FnMut(usize)) {
    let count = count.min(BURST);
    let first = lanes[0];
    lanes[count..count + 8].fill(first);
    for eight in lanes.chunks_exact(8).take(count.div_ceil(8)) {
        for lane in eight {
            stage(*lane as usize);
        }
    }
}

/// Adds the lane to the kind of child that the entry refers to, or to none, without a branch; returns the new counts.
///
/// # Safety
/// Counts are at most 64.
#[inline(always)]
unsafe fn sort_lane(
    lane: usize,
    entry: i32,
    (tables, table_count): (&mut Lanes, usize),
    (searches, search_count): (&mut Lanes, usize),
) -> (usize, usize) {
    // 1 when negative and not -1.
    let child = (entry.wrapping_add(1) as u32 >> 31) as usize;
    let search = child & entry as usize;
    // SAFETY: needed to leave the bounds checks out; the caller promises the counts.
    unsafe {
        *tables.get_unchecked_mut(table_count) = lane as u32;
        *searches.get_unchecked_mut(search_count) = lane as u32;
    }
    (table_count + child - search, search_count + search)
}

/// IPv6. `greater` compares a search node's keys.
///
/// # Safety
/// `base` is an IPv6 image read under a guard. `keys` and `out` have one length of at most 64.
#[inline(always)]
unsafe fn burst6(
    base: *const u32,
    keys: &[u128],
    out: &mut [u32],
    greater: impl Fn(*const u32, usize, u16) -> usize + Copy,
) {
    let mut places = [0u32; BURST];
    let mut entries = [0i32; BURST];
    // The half of each key that the present stages look at.
    let mut half = [0u64; BURST];
    let (mut tables, mut searches): (Lanes, Lanes) = ([0; BURST + 8], [0; BURST + 8]);
    let (mut table_count, mut search_count) = (0, 0);
    let count = keys.len().min(BURST);
    // SAFETY: needed to follow references and to leave bounds checks out. A root word is a table, a table word a leaf,
    // an entry below -1 a child of the kind that its bit 0 says, all of the image at `base`; index widths are the
    // tables' sizes. Lanes are below `count`. Word numbers fit 32 bits.
    unsafe {
        let node = |entry: i32| (entry as u32 & 0x7f_fffe) << 3;
        for lane in 0..count {
            let key = (*keys.get_unchecked(lane) >> 64) as u64;
            *half.get_unchecked_mut(lane) = key;
            // The root's few words in use are always in the first cache: no stage of their own.
            let table = load(base, (key >> 48) as usize) as usize;
            let leaf = load(base, table + (key >> 38 & 0x3ff) as usize);
            *places.get_unchecked_mut(lane) = leaf;
            prefetch(base, leaf as usize);
        }
        for lane in 0..count {
            let slot = (*half.get_unchecked(lane) >> 32) as u32;
            let entry = leaf_entry(base, *places.get_unchecked(lane) as usize, slot);
            *entries.get_unchecked_mut(lane) = entry;
            *out.get_unchecked_mut(lane) = entry as u32;
            (table_count, search_count) = sort_lane(
                lane,
                entry,
                (&mut tables, table_count),
                (&mut searches, search_count),
            );
        }
        let mut depth = 32u32;
        while table_count + search_count > 0 {
            // The 16 bits behind `depth`. (A constant has one run, whatever they are.)
            let shift = 48 - (depth & 63);
            let bits = |lane: usize| (*half.get_unchecked(lane) >> shift) as u32 & 0xffff;
            each(&mut searches, search_count, |lane| {
                let node = node(*entries.get_unchecked(lane)) as usize;
                prefetch(base, node);
                prefetch(base, node + 16);
            });
            each(&mut tables, table_count, |lane| {
                let table = node(*entries.get_unchecked(lane)) as usize;
                let leaf = load(base, table + (bits(lane) >> 6) as usize);
                *places.get_unchecked_mut(lane) = leaf;
                prefetch(base, leaf as usize);
            });
            let mut children = 0;
            each(&mut searches, search_count, |lane| {
                let node = node(*entries.get_unchecked(lane)) as usize;
                let entry = load(base, node + 16 + greater(base, node, bits(lane) as u16));
                *out.get_unchecked_mut(lane) = entry;
                children |= entry.wrapping_add(1) as i32;
            });
            each(&mut tables, table_count, |lane| {
                let entry = leaf_entry(base, *places.get_unchecked(lane) as usize, bits(lane));
                *out.get_unchecked_mut(lane) = entry as u32;
                children |= entry.wrapping_add(1);
            });
            // Seldom: few routes are longer than /48.
            if children >= 0 {
                return;
            }
            let gone = [tables, searches];
            let lanes = gone[0][..table_count].iter().chain(&gone[1][..search_count]);
            (table_count, search_count) = (0, 0);
            for lane in lanes {
                let lane = *lane as usize;
                let entry = *out.get_unchecked(lane) as i32;
                *entries.get_unchecked_mut(lane) = entry;
                (table_count, search_count) = sort_lane(
                    lane,
                    entry,
                    (&mut tables, table_count),
                    (&mut searches, search_count),
                );
            }
            if depth == 48 {
                for lane in 0..count {
                    *half.get_unchecked_mut(lane) = *keys.get_unchecked(lane) as u64;
                }
            }
            depth += 16;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    /// [`burst4`] compiled for x86-64-v3.
    ///
    /// # Safety
    /// As [`burst4`].
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    pub(super) unsafe fn burst4_avx2(base: *const u32, keys: *const u32, out: *mut u32, count: usize) {
        // SAFETY: as the caller promises.
        unsafe { burst4(base, keys, out, count) }
    }

    /// IPv4, leaves by gathers: 16 addresses at once.
    ///
    /// # Safety
    /// As [`burst4`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx2,bmi1,bmi2,popcnt")]
    pub(super) unsafe fn burst4_avx512(base: *const u32, keys: *const u32, out: *mut u32, count: usize) {
        let mut children = 0;
        let bytes = base.cast::<u8>();
        // SAFETY: needed for the intrinsics, which the caller has made sure of, and to follow references: lanes
        // behind `count` are masked off, and the others' are as in `burst4`. A gather reads each lane as one aligned
        // load (root) or bytes that do not change (leaf). Places are below 2^25 words, so byte offsets fit i32.
        unsafe {
            for at in (0..count).step_by(16) {
                let live = (0xffff_u32 >> (16 - (count - at).min(16))) as u16;
                let key = _mm512_maskz_loadu_epi32(live, keys.add(at).cast());
                let zero = _mm512_setzero_si512();
                let place =
                    _mm512_mask_i32gather_epi32::<4>(zero, live, _mm512_srli_epi32::<14>(key), base.cast());

                let slot = _mm512_and_si512(_mm512_srli_epi32::<8>(key), _mm512_set1_epi32(63));
                let numbers = |half: __m256i, slot: __m256i, live: u8| {
                    let map = _mm512_mask_i32gather_epi64::<4>(zero, live, half, base.cast());
                    let ends = _mm512_srlv_epi64(map, _mm512_cvtepu32_epi64(slot));
                    _mm512_cvtepi64_epi32(_mm512_popcnt_epi64(ends))
                };
                let low = numbers(
                    _mm512_castsi512_si256(place),
                    _mm512_castsi512_si256(slot),
                    live as u8,
                );
                let high = numbers(
                    _mm512_extracti64x4_epi64::<1>(place),
                    _mm512_extracti64x4_epi64::<1>(slot),
                    (live >> 8) as u8,
                );
                let number = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
                let number = _mm512_add_epi32(number, _mm512_slli_epi32::<1>(number));
                let offset = _mm512_add_epi32(_mm512_slli_epi32::<2>(place), number);
                let entry = _mm512_mask_i32gather_epi32::<1>(zero, live, offset, bytes.add(4).cast());
                let entry = _mm512_srai_epi32::<8>(entry);
                children |= _mm512_cmplt_epi32_mask(entry, _mm512_set1_epi32(-1));
                _mm512_mask_storeu_epi32(out.add(at).cast(), live, entry);
            }
            if children != 0 {
                finish4(base, keys, out, count);
            }
        }
    }

    /// [`burst6`] with search nodes compared in two halves.
    ///
    /// # Safety
    /// As [`burst6`].
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    pub(super) unsafe fn burst6_avx2(base: *const u32, keys: &[u128], out: &mut [u32]) {
        // SAFETY: as the caller promises; for the intrinsics, the features are enabled here.
        unsafe {
            burst6(base, keys, out, |base, node, x| {
                let keys = base.add(node).cast::<__m256i>();
                // A key is at most x when subtracting x from it saturates to 0. Two bits of the mask a key.
                let x = _mm256_set1_epi16(x as i16);
                let not_greater = |half: __m256i| {
                    let zero = _mm256_cmpeq_epi16(_mm256_subs_epu16(half, x), _mm256_setzero_si256());
                    (_mm256_movemask_epi8(zero) as u32).count_ones()
                };
                let (one, two) = (_mm256_loadu_si256(keys), _mm256_loadu_si256(keys.add(1)));
                32 - ((not_greater(one) + not_greater(two)) / 2) as usize
            });
        }
    }

    /// [`burst6`] with search nodes compared whole.
    ///
    /// # Safety
    /// As [`burst6`].
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx2,bmi1,bmi2,popcnt,lzcnt"
    )]
    pub(super) unsafe fn burst6_avx512(base: *const u32, keys: &[u128], out: &mut [u32]) {
        // SAFETY: as the caller promises; for the intrinsics, the features are enabled here.
        unsafe {
            burst6(base, keys, out, |base, node, x| {
                let keys = _mm512_loadu_si512(base.add(node).cast());
                _mm512_cmpgt_epu16_mask(keys, _mm512_set1_epi16(x as i16)).count_ones() as usize
            });
        }
    }
}

impl<A: Kernels> Lookup<A> for Reader {
    fn burst(&self, online: &Online<'_>, way: Way, keys: &[A], out: &mut [Value]) {
        // SAFETY: the arena is an image of this family (`Compressed<A>` made it) that the guard keeps; callers only pass
        // ways that are available.
        unsafe { A::look_up(self.0.arena.load(online), way, keys, out) }
    }

    fn best(&self) -> Way {
        A::best()
    }
}

/// The look-up of a family, whoever keeps the image from being freed.
pub(super) trait Kernels: Sized {
    /// `out[i]` becomes the answer for `keys[i]`.
    ///
    /// # Safety
    /// The arena holds an image of this family; what readers reach in it changes only as `load` allows for. `way` is
    /// available.
    ///
    /// # Panics
    /// When there are more keys than [`BURST`] or not as many places in `out`.
    unsafe fn look_up(arena: &Arena, way: Way, keys: &[Self], out: &mut [Value]);
    /// The way that is fastest here.
    fn best() -> Way;
}

impl Kernels for u32 {
    #[inline]
    unsafe fn look_up(arena: &Arena, way: Way, keys: &[u32], out: &mut [Value]) {
        assert!(keys.len() <= BURST && keys.len() == out.len());
        let (keys, out, count) = (keys.as_ptr(), out.as_mut_ptr(), keys.len());
        // SAFETY: needed to call the kernels, as the caller promises; lengths are checked above.
        unsafe {
            match way {
                Way::Scalar => burst4(arena.base(), keys, out, count),
                #[cfg(target_arch = "x86_64")]
                Way::Avx2 => x86::burst4_avx2(arena.base(), keys, out, count),
                #[cfg(target_arch = "x86_64")]
                Way::Avx512 => x86::burst4_avx512(arena.base(), keys, out, count),
                #[cfg(not(target_arch = "x86_64"))]
                _ => burst4(arena.base(), keys, out, count),
            }
        }
    }

    fn best() -> Way {
        Way::best_v4()
    }
}

impl Kernels for u128 {
    #[inline]
    unsafe fn look_up(arena: &Arena, way: Way, keys: &[u128], out: &mut [Value]) {
        assert!(keys.len() <= BURST && keys.len() == out.len());
        // SAFETY: as for IPv4.
        unsafe {
            match way {
                Way::Scalar => burst6(arena.base(), keys, out, |base, node, x| {
                    greater_scalar(base, node, x)
                }),
                #[cfg(target_arch = "x86_64")]
                Way::Avx2 => x86::burst6_avx2(arena.base(), keys, out),
                #[cfg(target_arch = "x86_64")]
                Way::Avx512 => x86::burst6_avx512(arena.base(), keys, out),
                #[cfg(not(target_arch = "x86_64"))]
                _ => burst6(arena.base(), keys, out, |base, node, x| {
                    greater_scalar(base, node, x)
                }),
            }
        }
    }

    fn best() -> Way {
        Way::best_v6()
    }
}
