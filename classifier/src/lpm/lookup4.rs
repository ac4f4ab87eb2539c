//! IPv4 look-ups: a word of the root, then a leaf; what is longer than /24 goes two steps further.
// Why unsafe is needed: look-ups follow word numbers from the image without bounds checks, through instructions that
// only some processors have.
#![allow(unsafe_code)]

use super::arena::Arena;
use super::image4::{LEAF_BITS, ROOT_BITS, TABLE_BITS};
use super::leaf::{Child, Entry};
use super::lookup::{check, load, prefetch};
use super::shape::Shape;
use super::way::Way;
use super::{BURST, Value};

/// [`Shape::look_up`] of IPv4.
///
/// # Safety
/// As there.
#[inline]
pub(super) unsafe fn burst(arena: &Arena, way: Way, keys: &[u32], out: &mut [Value]) {
    check(keys, out);
    let (base, count) = (arena.base(), keys.len());
    let (keys, out) = (keys.as_ptr(), out.as_mut_ptr());
    // SAFETY: needed to call the kernels, whose conditions are this function's; lengths are checked.
    unsafe {
        match way {
            Way::Scalar => scalar(base, keys, out, count),
            #[cfg(target_arch = "x86_64")]
            Way::Avx2 => x86::avx2(base, keys, out, count),
            #[cfg(target_arch = "x86_64")]
            Way::Avx512 => x86::avx512(base, keys, out, count),
            #[cfg(not(target_arch = "x86_64"))]
            _ => scalar(base, keys, out, count),
        }
    }
}

/// The four bytes of which the upper three are a leaf's entry for a slot; bits of `slot` above the sixth are ignored.
///
/// # Safety
/// `place` is a leaf that the image reaches, read under a guard.
#[inline(always)]
unsafe fn leaf_bytes(base: *const u32, place: usize, slot: u32) -> *const i32 {
    // SAFETY: as the caller promises: a leaf has two words of map and three bytes for each bit set in it. Its bytes
    // do not change while it is reachable. The four bytes begin with the one before the entry, which belongs to the
    // leaf as well.
    unsafe {
        let leaf = base.add(place).cast::<u8>();
        let map = leaf.cast::<u64>().read_unaligned();
        let number = (map >> (slot & 63)).count_ones() as usize;
        leaf.add(4 + 3 * number).cast()
    }
}

/// The entry of a leaf for a slot; bits of `slot` above the sixth are ignored.
///
/// # Safety
/// `place` is a leaf that the image reaches, read under a guard.
#[inline(always)]
unsafe fn leaf_entry(base: *const u32, place: usize, slot: u32) -> i32 {
    // SAFETY: as the caller promises; see `leaf_bytes`. The shift drops the byte before the entry.
    unsafe { i32::from_le(leaf_bytes(base, place, slot).read_unaligned()) >> 8 }
}

/// Leaves by scalar loads.
///
/// # Safety
/// `base` is an IPv4 image read under a guard. `keys` and `out` hold `count` <= 64 elements.
unsafe fn scalar(base: *const u32, keys: *const u32, out: *mut u32, count: usize) {
    let mut places = [0u32; BURST];
    let places = &mut places[..count];
    let mut children = 0;
    // SAFETY: needed to leave bounds checks out, as the caller promises. A root word is a leaf's place.
    unsafe {
        for (at, place) in places.iter_mut().enumerate() {
            *place = load(base, (*keys.add(at) >> (32 - ROOT_BITS)) as usize);
            prefetch(base, *place as usize);
        }
        for (at, place) in places.iter().enumerate() {
            let entry = leaf_entry(base, *place as usize, *keys.add(at) >> 8);
            out.add(at).write(entry as u32);
            // Negative only below -1: for children.
            children |= entry.wrapping_add(1);
        }
        if children < 0 {
            for at in 0..count {
                finish(base, keys, out, at);
            }
        }
    }
}

/// The second step of an address whose entry may be a reference.
///
/// # Safety
/// As [`scalar`], after its stages; `at` is below `count`.
#[inline]
unsafe fn finish(base: *const u32, keys: *const u32, out: *mut u32, at: usize) {
    // SAFETY: as the caller promises: references in the image lead to pieces of the image.
    unsafe {
        let mut entry = Entry(*out.add(at) as i32);
        let (key, mut depth) = (*keys.add(at), ROOT_BITS + LEAF_BITS);
        while let Some(child) = entry.child() {
            entry = match child {
                Child::Wide(word) => return out.add(at).write(load(base, word as usize)),
                Child::Table(table) => {
                    let place = load(base, (table + key.bits_at(depth, TABLE_BITS)) as usize);
                    let slot = key.bits_at(depth + TABLE_BITS, LEAF_BITS);
                    Entry(leaf_entry(base, place as usize, slot))
                }
            };
            depth += TABLE_BITS + LEAF_BITS;
        }
        out.add(at).write(entry.0 as u32);
    }
}

/// [`finish`] for the lanes of a mask.
///
/// # Safety
/// As [`finish`], for each bit set.
#[cfg(target_arch = "x86_64")]
#[cold]
#[inline(never)]
unsafe fn finish_lanes(base: *const u32, keys: *const u32, out: *mut u32, mut lanes: u64) {
    while lanes != 0 {
        // SAFETY: as the caller promises.
        unsafe { finish(base, keys, out, lanes.trailing_zeros() as usize) };
        lanes &= lanes - 1;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::MaybeUninit;

    use super::*;

    /// Leaves by scalar loads, with `shrx` and `popcnt`; what follows of an entry by eights.
    ///
    /// # Safety
    /// As [`scalar`].
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    pub(super) unsafe fn avx2(base: *const u32, keys: *const u32, out: *mut u32, count: usize) {
        let mut places = [const { MaybeUninit::<u32>::uninit() }; BURST];
        let places = places.as_mut_ptr().cast::<u32>();
        let mut children = _mm256_setzero_si256();
        // SAFETY: needed for the intrinsics, which the caller has made sure of, and to leave bounds checks out of the
        // innermost loops: `count` <= 64, and `places` is written for all of `count` before it is read. A root word is
        // a leaf's place.
        unsafe {
            let root = |at: usize| {
                let place = load(base, (*keys.add(at) >> (32 - ROOT_BITS)) as usize);
                prefetch(base, place as usize);
                places.add(at).write(place);
            };
            // The slot's bits are 8 to 13: byte 1 alone saves a shift.
            let slot = |at: usize| keys.add(at).cast::<u8>().add(1).read().into();
            let bytes =
                |at: usize| leaf_bytes(base, places.add(at).read() as usize, slot(at)).read_unaligned();
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
                let four = |at| {
                    let entry = _mm_cvtsi32_si128(bytes(at));
                    let entry = _mm_insert_epi32::<1>(entry, bytes(at + 1));
                    let entry = _mm_insert_epi32::<2>(entry, bytes(at + 2));
                    _mm_insert_epi32::<3>(entry, bytes(at + 3))
                };
                let entries = _mm256_set_m128i(four(at + 4), four(at));
                let entries = _mm256_srai_epi32::<8>(entries);
                _mm256_storeu_si256(out.add(at).cast(), entries);
                children = _mm256_or_si256(children, _mm256_sub_epi32(entries, _mm256_set1_epi32(-1)));
            }
            let mut lanes = 0;
            for at in eights..count {
                let entry = bytes(at) >> 8;
                out.add(at).write(entry as u32);
                lanes |= u64::from(entry < -1) << at;
            }
            // Negative only below -1: for children.
            if _mm256_movemask_ps(_mm256_castsi256_ps(children)) != 0 {
                for at in (0..eights).step_by(8) {
                    let entries = _mm256_loadu_si256(out.add(at).cast());
                    let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(-1), entries);
                    lanes |= (_mm256_movemask_ps(_mm256_castsi256_ps(below)) as u64) << at;
                }
            }
            if lanes != 0 {
                finish_lanes(base, keys, out, lanes);
            }
        }
    }

    /// Leaves by gathers: 16 addresses at once.
    ///
    /// # Safety
    /// As [`scalar`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx2,bmi1,bmi2,popcnt")]
    pub(super) unsafe fn avx512(base: *const u32, keys: *const u32, out: *mut u32, count: usize) {
        let mut children = 0u64;
        let bytes = base.cast::<u8>();
        // SAFETY: needed for the intrinsics, which the caller has made sure of, and to follow references: lanes
        // behind `count` are masked off, and the others' are as in `avx2`. A gather reads each lane as one aligned
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
                children |= u64::from(_mm512_cmplt_epi32_mask(entry, _mm512_set1_epi32(-1))) << at;
                _mm512_mask_storeu_epi32(out.add(at).cast(), live, entry);
            }
            if children != 0 {
                finish_lanes(base, keys, out, children);
            }
        }
    }
}
