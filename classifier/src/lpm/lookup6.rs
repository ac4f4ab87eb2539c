//! IPv6 look-ups: a word of the root, one of a direct table, one of a small table, then a list or a last table; the few
//! addresses whose answer is further down go one at a time.
// Why unsafe is needed: look-ups follow word numbers from the image without bounds checks, through instructions that
// only some processors have.
#![allow(unsafe_code)]

use super::arena::Arena;
use super::lookup::{check, load, prefetch};
use super::node::{self, KEY_WORDS, KEYS, Kind, LIST_BITS, Node};
use super::shape::Shape;
use super::way::Way;
use super::{BURST, Value};

/// [`Shape::look_up`] of IPv6.
///
/// # Safety
/// As there.
#[inline]
pub(super) unsafe fn burst(arena: &Arena, way: Way, keys: &[u128], out: &mut [Value]) {
    check(keys, out);
    let base = arena.base();
    // SAFETY: needed to call the kernels, whose conditions are this function's; lengths are checked.
    unsafe {
        match way {
            Way::Scalar => staged(base, keys, out, |base, list, x| greater(base, list, x)),
            #[cfg(target_arch = "x86_64")]
            Way::Avx2 => x86::avx2(base, keys, out),
            #[cfg(target_arch = "x86_64")]
            Way::Avx512 => x86::avx512(base, keys, out),
            #[cfg(not(target_arch = "x86_64"))]
            _ => staged(base, keys, out, |base, list, x| greater(base, list, x)),
        }
    }
}

/// How many of a list's keys are greater than `x`.
///
/// # Safety
/// `list` is one that the image reaches, read under a guard.
#[inline(always)]
unsafe fn greater(base: *const u32, list: usize, x: u16) -> usize {
    // SAFETY: as the caller promises: a list begins with its keys, which do not change while it is reachable.
    let keys = unsafe { &*base.add(list).cast::<[u16; KEYS]>() };
    keys.iter().map(|key| usize::from(*key > x)).sum()
}

/// The answer for one address, from the root on.
///
/// # Safety
/// `base` is an IPv6 image read under a guard.
unsafe fn walk(base: *const u32, key: u128) -> Value {
    // SAFETY: as the caller promises: references in the image lead to pieces of the image, and the indexes are as
    // wide as they say. A list stands where 16 bits are left.
    unsafe {
        let (mut word, mut depth) = (load(base, (key >> 112) as usize), 16);
        while let Some(piece) = node::node(word) {
            match piece {
                Node::Table(base_word, bits) => {
                    word = load(base, (base_word + key.bits_at(depth, bits)) as usize);
                    depth += bits;
                }
                Node::List(list) => {
                    let number = greater(base, list as usize, key.bits_at(depth, LIST_BITS) as u16);
                    word = load(base, (list + KEY_WORDS) as usize + number);
                    depth += LIST_BITS;
                }
            }
        }
        word
    }
}

/// [`walk`] for the lanes of a mask.
///
/// # Safety
/// As [`walk`]; `keys` and `out` have a place for each bit set.
#[cold]
#[inline(never)]
unsafe fn walk_lanes(base: *const u32, keys: &[u128], out: &mut [u32], mut lanes: u64) {
    while lanes != 0 {
        let lane = lanes.trailing_zeros() as usize;
        // SAFETY: as the caller promises.
        out[lane] = unsafe { walk(base, keys[lane]) };
        lanes &= lanes - 1;
    }
}

/// Lanes of a burst that go on. How many is kept beside it, not in it: the compiler keeps a number that stands in one
/// piece with an array in memory, and each step of the count would wait for the one before it to be stored and loaded.
type Lanes = [u8; BURST + 1];

/// The state of a burst: for each lane the word to look at next, and the 32 bits of the address behind the present
/// depth, in the upper bits.
struct Burst {
    next: [u32; BURST],
    rest: [u32; BURST],
}

impl Burst {
    /// Goes on to what a reference leads to. (For a value the outcome means nothing.)
    #[inline(always)]
    fn follow(&mut self, base: *const u32, lane: usize, word: u32) {
        let shift = node::shift(word);
        let rest = self.rest[lane];
        // No index where there is a list: a shift by 32.
        let next = node::place(word).wrapping_add((u64::from(rest) >> shift) as u32);
        prefetch(base, next as usize);
        self.next[lane] = next;
        self.rest[lane] = (u64::from(rest) << (32u32.wrapping_sub(shift) & 63)) as u32;
    }
}

/// All stages, lane by lane. `greater` compares a list's keys.
///
/// # Safety
/// `base` is an IPv6 image read under a guard. `keys` and `out` have one length of at most 64.
#[inline(always)]
unsafe fn staged(
    base: *const u32,
    keys: &[u128],
    out: &mut [u32],
    greater: impl Fn(*const u32, usize, u16) -> usize,
) {
    let mut burst = Burst {
        next: [0; BURST],
        rest: [0; BURST],
    };
    let (mut direct, mut tables, mut last, mut lists): (Lanes, Lanes, Lanes, Lanes) =
        ([0; BURST + 1], [0; BURST + 1], [0; BURST + 1], [0; BURST + 1]);
    let (mut direct_count, mut table_count, mut last_count, mut list_count) = (0, 0, 0, 0);
    // SAFETY: needed to follow references: each stage reads the words that the one before it found, all of the image
    // at `base`, and the indexes are as wide as the references say.
    unsafe {
        for (lane, key) in keys.iter().enumerate() {
            let high = (*key >> 64) as u64;
            let word = load(base, (high >> 48) as usize);
            out[lane] = word;
            let next = node::place(word) + (high >> 32) as u32 % (1 << 16);
            prefetch(base, next as usize);
            (burst.next[lane], burst.rest[lane]) = (next, high as u32);
            direct[direct_count] = lane as u8;
            direct_count += usize::from(node::is(word, Kind::Table));
        }
        for lane in &direct[..direct_count] {
            let lane = usize::from(*lane);
            let word = load(base, burst.next[lane] as usize);
            out[lane] = word;
            burst.follow(base, lane, word);
            tables[table_count] = lane as u8;
            table_count += usize::from(node::is(word, Kind::Table));
            lists[list_count] = lane as u8;
            list_count += usize::from(node::is(word, Kind::List));
        }
        for lane in &tables[..table_count] {
            let lane = usize::from(*lane);
            let word = load(base, burst.next[lane] as usize);
            out[lane] = word;
            burst.follow(base, lane, word);
            last[last_count] = lane as u8;
            last_count += usize::from(node::is(word, Kind::Last));
            lists[list_count] = lane as u8;
            list_count += usize::from(node::is(word, Kind::List));
        }
        for lane in &last[..last_count] {
            let lane = usize::from(*lane);
            out[lane] = load(base, burst.next[lane] as usize);
        }
        for lane in &lists[..list_count] {
            let lane = usize::from(*lane);
            let list = burst.next[lane] as usize;
            let number = greater(base, list, (burst.rest[lane] >> 16) as u16);
            out[lane] = load(base, list + KEY_WORDS as usize + number);
        }
        let far = out.iter().map(|word| node::refers(*word));
        let lanes = far
            .enumerate()
            .fold(0, |lanes, (lane, far)| lanes | u64::from(far) << lane);
        if lanes != 0 {
            walk_lanes(base, keys, out, lanes);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::MaybeUninit;

    use super::*;

    /// [`staged`] with lists compared by one load.
    ///
    /// # Safety
    /// As [`staged`].
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
    pub(super) unsafe fn avx2(base: *const u32, keys: &[u128], out: &mut [u32]) {
        // SAFETY: as the caller promises; for the intrinsics, the features are enabled here. A list is a line: 32 bytes
        // from its first are inside.
        unsafe {
            staged(base, keys, out, |base, list, x| {
                let keys = _mm256_loadu_si256(base.add(list).cast());
                // A key is at most x when subtracting x from it saturates to 0. Two bits of the mask a key.
                let x = _mm256_set1_epi16(x as i16);
                let zero = _mm256_cmpeq_epi16(_mm256_subs_epu16(keys, x), _mm256_setzero_si256());
                let greater = !(_mm256_movemask_epi8(zero) as u32) & ((1 << (2 * KEYS)) - 1);
                greater.count_ones() as usize / 2
            });
        }
    }

    /// Room for the lanes of one kind, one piece of 16 lanes written past the last.
    type Room = [MaybeUninit<u32>; BURST + 16];

    fn room() -> Room {
        [const { MaybeUninit::uninit() }; BURST + 16]
    }

    /// 16 addresses at once: tables by gathers, lists by one comparison each.
    ///
    /// Gathers are unmasked, with word 0 for lanes that take no part: masked ones are slower on AMD's processors.
    ///
    /// # Safety
    /// As [`staged`].
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx2,bmi1,bmi2,popcnt,lzcnt"
    )]
    pub(super) unsafe fn avx512(base: *const u32, keys: &[u128], out: &mut [u32]) {
        if keys.len() == BURST {
            // SAFETY: as the caller promises.
            return unsafe { gathered(base, keys, out) };
        }
        let (mut padded, mut answers) = ([0u128; BURST], [0u32; BURST]);
        padded[..keys.len()].copy_from_slice(keys);
        // SAFETY: as the caller promises; whole bursts now.
        unsafe { gathered(base, &padded, &mut answers) };
        out.copy_from_slice(&answers[..keys.len()]);
    }

    /// [`avx512`] for a whole burst.
    ///
    /// # Safety
    /// As [`staged`]; `keys` and `out` have 64 elements.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx2,bmi1,bmi2,popcnt,lzcnt"
    )]
    unsafe fn gathered(base: *const u32, keys: &[u128], out: &mut [u32]) {
        const GROUPS: usize = BURST / 16;
        let (from, to) = (keys.as_ptr(), out.as_mut_ptr());
        let all = |word: u32| _mm512_set1_epi32(word as i32);
        // Words 3 (the address's first 32 bits) and 2 (the next) of each of eight keys in two registers.
        let (first, second) = (
            _mm512_setr_epi32(3, 7, 11, 15, 19, 23, 27, 31, 0, 0, 0, 0, 0, 0, 0, 0),
            _mm512_setr_epi32(2, 6, 10, 14, 18, 22, 26, 30, 0, 0, 0, 0, 0, 0, 0, 0),
        );
        let place = |words| _mm512_slli_epi32::<4>(_mm512_and_si512(words, all(node::PLACE)));
        let shift = |words| _mm512_and_si512(_mm512_srli_epi32::<22>(words), all(63));
        let of_kind = |words, kind: Kind| {
            _mm512_cmpeq_epi32_mask(_mm512_and_si512(words, all(node::KIND)), all(kind as u32))
        };
        let refer = |words| _mm512_cmplt_epi32_mask(words, _mm512_set1_epi32(-1));
        // SAFETY: needed for the intrinsics, which the caller has made sure of, to follow references as `staged` does,
        // and to leave bounds checks out: there are 64 keys and places for answers, and `room` for all lanes of a kind.
        // A gather reads each lane as one aligned load.
        unsafe {
            // The words at `at` for the lanes of `mask`, `words` for the others.
            let gather = |words, mask, at| {
                let at = _mm512_maskz_mov_epi32(mask, at);
                _mm512_mask_mov_epi32(words, mask, _mm512_i32gather_epi32::<4>(at, base.cast()))
            };
            let mut words = [_mm512_setzero_si512(); GROUPS];
            let mut rest = [_mm512_setzero_si512(); GROUPS];
            let mut next = [_mm512_setzero_si512(); GROUPS];
            let mut further = 0;
            for group in 0..GROUPS {
                let four = |at| _mm512_loadu_si512(from.add(16 * group + at).cast());
                let (a, b, c, d) = (four(0), four(4), four(8), four(12));
                let sixteen = |of| {
                    let low = _mm512_permutex2var_epi32(a, of, b);
                    let high = _mm512_permutex2var_epi32(c, of, d);
                    _mm512_inserti64x4::<1>(low, _mm512_castsi512_si256(high))
                };
                let key = sixteen(first);
                rest[group] = sixteen(second);
                let root = _mm512_i32gather_epi32::<4>(_mm512_srli_epi32::<16>(key), base.cast());
                words[group] = root;
                next[group] = _mm512_add_epi32(place(root), _mm512_and_si512(key, all(0xffff)));
            }
            // In a loop of its own: the misses of all groups overlap.
            for (words, next) in words.iter_mut().zip(next) {
                let direct = of_kind(*words, Kind::Table);
                if direct != 0 {
                    *words = gather(*words, direct, next);
                }
                further |= refer(*words);
            }
            if further == 0 {
                for (group, words) in words.into_iter().enumerate() {
                    _mm512_storeu_si512(to.add(16 * group).cast(), words);
                }
                return;
            }
            for (words, rest) in words.iter_mut().zip(&mut rest) {
                let tables = of_kind(*words, Kind::Table);
                let shift = shift(*words);
                let at = _mm512_add_epi32(place(*words), _mm512_srlv_epi32(*rest, shift));
                *rest = _mm512_mask_sllv_epi32(*rest, tables, *rest, _mm512_sub_epi32(all(32), shift));
                *words = gather(*words, tables, at);
            }
            // Word to look at; bits to look for above the lane, and the lane.
            let (mut lists, mut list_lanes, mut last, mut last_lanes) = (room(), room(), room(), room());
            let (mut list_count, mut last_count) = (0, 0);
            let mut far = 0u64;
            let put = |room: &mut Room, count: usize, mask, values| {
                let room = room.as_mut_ptr().add(count);
                _mm512_storeu_si512(room.cast(), _mm512_maskz_compress_epi32(mask, values));
            };
            let numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            for (group, (words, rest)) in words.into_iter().zip(rest).enumerate() {
                _mm512_storeu_si512(to.add(16 * group).cast(), words);
                let lanes = _mm512_add_epi32(numbers, all(16 * group as u32));
                let (to_list, to_last) = (of_kind(words, Kind::List), of_kind(words, Kind::Last));
                let at = _mm512_add_epi32(place(words), _mm512_srlv_epi32(rest, shift(words)));
                put(&mut lists, list_count, to_list, at);
                let bits = _mm512_and_si512(rest, all(0xffff_0000));
                put(&mut list_lanes, list_count, to_list, _mm512_or_si512(bits, lanes));
                list_count += to_list.count_ones() as usize;
                put(&mut last, last_count, to_last, at);
                put(&mut last_lanes, last_count, to_last, lanes);
                last_count += to_last.count_ones() as usize;
                far |= u64::from(refer(words) & !to_list & !to_last) << (16 * group);
            }
            let get = |room: &Room, at: usize| room.as_ptr().add(at).cast::<u32>().read() as usize;
            for at in 0..list_count {
                prefetch(base, get(&lists, at));
            }
            for at in 0..last_count {
                prefetch(base, get(&last, at));
            }
            // Negative once an answer is a reference.
            let mut references = 0;
            for at in 0..list_count {
                let (list, lane) = (get(&lists, at), get(&list_lanes, at));
                let x = _mm256_set1_epi16((lane >> 16) as i16);
                let keys = _mm256_loadu_si256(base.add(list).cast());
                let greater = _mm256_mask_cmpgt_epu16_mask((1 << KEYS) - 1, keys, x);
                let word = load(base, list + KEY_WORDS as usize + greater.count_ones() as usize);
                to.add(lane & 0xff).write(word);
                references |= word.wrapping_add(1) as i32;
            }
            for at in 0..last_count {
                let word = load(base, get(&last, at));
                to.add(get(&last_lanes, at)).write(word);
                references |= word.wrapping_add(1) as i32;
            }
            if references < 0 {
                far = 0;
                for group in 0..GROUPS {
                    far |= u64::from(refer(_mm512_loadu_si512(to.add(16 * group).cast()))) << (16 * group);
                }
            }
            if far != 0 {
                walk_lanes(base, keys, out, far);
            }
        }
    }
}
