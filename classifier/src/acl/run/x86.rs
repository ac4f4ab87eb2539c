//! The operations with AVX2 and with AVX-512.

// Why unsafe: instructions that the target's base lacks; callers come here only after `available` found them.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{Few4, Headers, Line, Match, Node64, Ops, Rest, Tables, few, steps};

struct Avx2;

impl Ops for Avx2 {
    #[inline(always)]
    unsafe fn rank32(line: &Line, key: u32) -> usize {
        // SAFETY: the line has 64 bytes, aligned; the CPU has AVX2. Signed compares serve unsigned keys once both
        // sides have their top bit flipped.
        unsafe {
            let flip = _mm256_set1_epi32(i32::MIN);
            let ends = _mm256_xor_si256(_mm256_load_si256(line.0.as_ptr().cast()), flip);
            let key = _mm256_xor_si256(_mm256_set1_epi32(key as i32), flip);
            let less = _mm256_cmpgt_epi32(key, ends);
            (_mm256_movemask_ps(_mm256_castsi256_ps(less)) as u32).count_ones() as usize
        }
    }

    #[inline(always)]
    unsafe fn rank64(node: &Node64, key: u64) -> usize {
        // SAFETY: the node has eight ends, aligned; the CPU has AVX2.
        unsafe {
            let flip = _mm256_set1_epi64x(i64::MIN);
            let key = _mm256_xor_si256(_mm256_set1_epi64x(key as i64), flip);
            let half = |at: usize| {
                let ends = _mm256_xor_si256(_mm256_load_si256(node.ends.as_ptr().add(at).cast()), flip);
                _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(key, ends))) as u32
            };
            (half(0) | half(4) << 4).count_ones() as usize
        }
    }

    #[inline(always)]
    unsafe fn holds(line: &Line, row: &[Line]) -> u32 {
        // SAFETY: the row has a bit for every signature, so that all gathered words lie in it; the CPU has AVX2.
        unsafe {
            let base: *const i32 = row.as_ptr().cast();
            let some = |signatures: __m256i| {
                let words = _mm256_i32gather_epi32::<4>(base, _mm256_srli_epi32::<5>(signatures));
                let shift = _mm256_sub_epi32(
                    _mm256_set1_epi32(31),
                    _mm256_and_si256(signatures, _mm256_set1_epi32(31)),
                );
                _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_sllv_epi32(words, shift))) as u32
            };
            let first = _mm_load_si128(line.0.as_ptr().cast());
            let rest = _mm_cvtsi32_si128(line.0[4] as i32);
            // Of the second half only two lanes are signatures; the others read signature 0 and are cut off.
            some(_mm256_cvtepu16_epi32(first)) | (some(_mm256_cvtepu16_epi32(rest)) & 3) << 8
        }
    }

    #[inline(always)]
    unsafe fn zeros(words: &[u32; 16]) -> u32 {
        // SAFETY: two loads of eight words each; the CPU has AVX2.
        unsafe {
            let half = |from: usize| {
                let words = _mm256_loadu_si256(words.as_ptr().add(from).cast());
                let zero = _mm256_cmpeq_epi32(words, _mm256_setzero_si256());
                _mm256_movemask_ps(_mm256_castsi256_ps(zero)) as u32
            };
            half(0) | half(8) << 8
        }
    }
}

struct Avx512;

impl Ops for Avx512 {
    #[inline(always)]
    unsafe fn rank32(line: &Line, key: u32) -> usize {
        // SAFETY: the line has 64 bytes, aligned; the CPU has AVX-512 F and VL.
        unsafe {
            let ends = _mm256_load_si256(line.0.as_ptr().cast());
            let less = _mm256_cmplt_epu32_mask(ends, _mm256_set1_epi32(key as i32));
            less.count_ones() as usize
        }
    }

    #[inline(always)]
    unsafe fn rank64(node: &Node64, key: u64) -> usize {
        // SAFETY: the node has eight ends, aligned; the CPU has AVX-512 F.
        unsafe {
            let ends = _mm512_load_si512(node.ends.as_ptr().cast());
            _mm512_cmplt_epu64_mask(ends, _mm512_set1_epi64(key as i64)).count_ones() as usize
        }
    }

    #[inline(always)]
    unsafe fn holds(line: &Line, row: &[Line]) -> u32 {
        // SAFETY: the row has a bit for every signature; the CPU has AVX-512 F, BW and VL.
        unsafe {
            let signatures = _mm256_load_si256(line.0.as_ptr().cast());
            let words = _mm256_srli_epi16::<4>(signatures);
            let bit = _mm256_and_si256(signatures, _mm256_set1_epi16(15));
            let table = |k: usize| _mm512_load_si512(row.as_ptr().add(k).cast());
            let found = match row.len() {
                1 => _mm512_permutexvar_epi16(_mm512_castsi256_si512(words), table(0)),
                2 => _mm512_permutex2var_epi16(table(0), _mm512_castsi256_si512(words), table(1)),
                _ => return Avx2::holds(line, row),
            };
            let found = _mm256_srlv_epi16(_mm512_castsi512_si256(found), bit);
            u32::from(_mm256_test_epi16_mask(found, _mm256_set1_epi16(1))) & 0x3ff
        }
    }

    #[inline(always)]
    unsafe fn zeros(words: &[u32; 16]) -> u32 {
        // SAFETY: one load of sixteen words; the CPU has AVX-512 F.
        unsafe {
            let words = _mm512_loadu_si512(words.as_ptr().cast());
            u32::from(_mm512_testn_epi32_mask(words, words))
        }
    }
}

/// # Safety
/// The CPU has AVX2, BMI1, BMI2 and POPCNT; otherwise as for [`steps`].
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) unsafe fn burst_avx2(e: &Tables, packets: &[Headers], order: Option<&[u8]>, out: &mut [Match]) {
    // SAFETY: the caller's promise.
    unsafe { steps::<Avx2>(e, packets, order, out) }
}

/// # Safety
/// The CPU has BMI2, AVX-512 F, BW, VL and DQ; otherwise as for [`steps`].
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn burst_avx512(e: &Tables, packets: &[Headers], order: Option<&[u8]>, out: &mut [Match]) {
    // SAFETY: the caller's promise.
    unsafe { steps::<Avx512>(e, packets, order, out) }
}

/// Nothing of it is wider than a word: one way for both.
///
/// # Safety
/// The CPU has AVX2, BMI1, BMI2 and POPCNT; otherwise as for [`few`].
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) unsafe fn few_avx2(
    maps: (&Few4, &Few4),
    e: &Rest,
    packets: &[Headers],
    out: &mut [Match],
) -> bool {
    // SAFETY: the caller's promise.
    unsafe { few(maps, e, packets, out) }
}
