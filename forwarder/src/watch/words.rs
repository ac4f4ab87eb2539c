//! Bytes in rows of atomic words: written by one thread and read by another without a lock and without `unsafe`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Words that hold so many bytes.
pub(super) const fn words_for(bytes: usize) -> usize {
    bytes.div_ceil(8)
}

/// Writes bytes, as many as there is room for. The last word is filled up with zeros.
#[inline]
pub(super) fn write(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut words = words.iter();
    for (chunk, word) in whole.iter().zip(&mut words) {
        word.store(u64::from_le_bytes(*chunk), Relaxed);
    }
    if let (false, Some(word)) = (rest.is_empty(), words.next()) {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_le_bytes(last), Relaxed);
    }
}

/// The same for bytes that lie in several places. Slower, unless it is one.
#[inline]
pub(super) fn write_parts<'a>(words: &[AtomicU64], most: usize, mut parts: impl Iterator<Item = &'a [u8]>) {
    let Some(first) = parts.next() else { return };
    let first = &first[..first.len().min(most)];
    write(words, first);
    let mut at = first.len();
    for part in parts {
        for &byte in part.iter().take(most - at) {
            let Some(word) = words.get(at / 8) else { return };
            let shift = at % 8 * 8;
            // What an older packet has left in the word goes with its first byte.
            let before = if shift == 0 { 0 } else { word.load(Relaxed) };
            word.store(before | u64::from(byte) << shift, Relaxed);
            at += 1;
        }
    }
}

/// Reads bytes into all of `out`, as far as there are words.
pub(super) fn read(words: &[AtomicU64], out: &mut [u8]) {
    for (chunk, word) in out.chunks_mut(8).zip(words) {
        let bytes = word.load(Relaxed).to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}
