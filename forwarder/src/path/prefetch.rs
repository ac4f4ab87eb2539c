//! Asking the processor for a packet's first line before it is needed.
// Why unsafe is needed: the prefetch instruction is only offered as an unsafe function over a raw pointer.
#![allow(unsafe_code)]

/// Asks for the cache line that holds the start of `bytes`. Does nothing where there is no such instruction.
#[inline(always)]
pub(super) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: needed because there is no safe prefetch. It reads nothing that the program could see and cannot
        // fault whatever the address; this one is a live slice's.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
