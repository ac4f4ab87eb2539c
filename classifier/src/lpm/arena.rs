//! The memory that look-ups read: one zeroed stretch of words, never moved, and the blocks handed out from it.
// Why unsafe is needed: readers on other threads follow word numbers into this memory while the writer fills other
// parts of it, so it cannot be a borrowed slice.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use super::LpmError;
use crate::qsbr::Domain;

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;
/// Words (4 bytes) of a cache line.
pub(super) const LINE_WORDS: u32 = 16;
/// Granule of allocation in words: 8 bytes.
const GRANULE: u32 = 2;
/// Granules of a cache line.
pub(super) const LINE_GRANULES: u32 = 8;
/// The greatest block in granules: a table of 1,024 words.
const MAX_GRANULES: usize = 512;
/// The only greater block in granules: a table of 65,536 words.
pub(super) const DIRECT_GRANULES: u32 = 1 << 15;
/// Bytes of a huge page on x86-64.
const HUGE: usize = 1 << 21;

/// Zeroed memory, line-aligned, addressed in words. The kernel gives a page when it is first written, so room that
/// is not used costs nothing.
pub(super) struct Arena {
    memory: NonNull<u8>,
    layout: Layout,
    /// Line-aligned start in `memory`.
    base: NonNull<u32>,
    words: usize,
}

// SAFETY: needed because of the pointers. The memory is owned, and shared access goes through atomics (`word`) or
// through the readers' protocol described in `compressed`.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Room for `words` words (rounded up to a line).
    pub(super) fn new(words: usize) -> Result<Self, LpmError> {
        let bytes = words
            .checked_mul(4)
            .and_then(|b| b.checked_next_multiple_of(LINE))
            .ok_or(LpmError::Memory)?;
        // Look-ups go all over the memory: with pages of 4 KiB every other one would also miss the TLB.
        let align = if bytes >= HUGE { HUGE } else { LINE };
        // A greater alignment than malloc's would make std clear the memory by writing it, page after page: take
        // more instead.
        let layout = Layout::from_size_align(bytes + align, 16).map_err(|_| LpmError::Memory)?;
        // SAFETY: needed to allocate; the size is not zero.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(LpmError::Memory)?;
        let skip = memory.as_ptr().align_offset(align);
        debug_assert!(skip < align);
        // SAFETY: needed to align; `skip` < align, and the allocation has that many bytes more than are addressed.
        let base = unsafe { memory.add(skip) }.cast::<u32>();
        if align == HUGE {
            ask_for_huge_pages(base, bytes);
        }
        Ok(Self {
            memory,
            layout,
            base,
            words: bytes / 4,
        })
    }

    /// Start of the memory, for the look-ups.
    #[inline]
    pub(super) fn base(&self) -> *const u32 {
        self.base.as_ptr()
    }

    pub(super) fn words(&self) -> usize {
        self.words
    }

    /// The word at `index`.
    ///
    /// # Panics
    /// When there is no such word.
    #[inline]
    pub(super) fn word(&self, index: u32) -> &AtomicU32 {
        assert!(
            (index as usize) < self.words,
            "word {index} is outside of the arena"
        );
        // SAFETY: needed to reach the word. It is inside the allocation, aligned and initialised (zeroed), and
        // lives as long as self. Plain reads elsewhere touch a word only while nobody stores to it.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(index as usize)) }
    }
}

/// Asks the kernel to back whole huge pages of this memory with such. It may refuse: pages stay small then.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(base: NonNull<u32>, bytes: usize) {
    /// `MADV_HUGEPAGE` of include/uapi/asm-generic/mman-common.h.
    const HUGEPAGE: std::ffi::c_int = 14;
    // From the C library that std is linked to.
    unsafe extern "C" {
        fn madvise(addr: *mut std::ffi::c_void, length: usize, advice: std::ffi::c_int) -> std::ffi::c_int;
    }
    // SAFETY: needed to call C. The range is inside an allocation, begins with a page and is cut to whole pages; the
    // advice does not change what the memory holds.
    unsafe {
        madvise(base.as_ptr().cast(), bytes & !(HUGE - 1), HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: NonNull<u32>, _: usize) {}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: needed to free what `new` allocated with the same layout; nobody borrows it any more.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

/// What is free in an arena. Sizes and places are in granules of 8 bytes.
///
/// A block of up to a line never crosses a line, and a greater one starts with a line: a look-up then reads one
/// line for nearly every leaf.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Free blocks by size.
    free: Vec<Vec<u32>>,
    /// Free blocks of [`DIRECT_GRANULES`].
    direct: Vec<u32>,
    /// Everything from here on is untouched.
    next: u32,
    end: u32,
}

impl Blocks {
    /// Blocks from word `first` on.
    pub(super) fn new(first: u32, words: usize) -> Self {
        let end = u32::try_from(words / GRANULE as usize).unwrap_or(u32::MAX);
        Self {
            free: vec![Vec::new(); MAX_GRANULES + 1],
            direct: Vec::new(),
            next: (first / GRANULE).next_multiple_of(LINE_GRANULES),
            end,
        }
    }

    /// Granules that hold `words` words.
    pub(super) fn granules(words: u32) -> u32 {
        words.div_ceil(GRANULE)
    }

    /// A block of `granules`; its first word.
    pub(super) fn take(&mut self, granules: u32) -> Result<u32, LpmError> {
        if let Some(start) = self.list(granules).pop() {
            return Ok(start * GRANULE);
        }
        // Blocks of up to a line are cut from lines, greater ones from slightly greater ones.
        let near = if granules <= LINE_GRANULES {
            LINE_GRANULES
        } else {
            4 * LINE_GRANULES
        };
        if let Some(start) = self.cut(granules, near as usize) {
            return Ok(start * GRANULE);
        }
        let room = LINE_GRANULES - self.next % LINE_GRANULES;
        let skip = if room < granules && room < LINE_GRANULES {
            room
        } else {
            0
        };
        if self.end - self.next < skip + granules {
            return self
                .cut(granules, MAX_GRANULES)
                .or_else(|| self.cut_direct(granules))
                .map(|start| start * GRANULE)
                .ok_or(LpmError::Memory);
        }
        let start = self.next + skip;
        self.give_range(self.next, skip);
        self.next = start + granules;
        Ok(start * GRANULE)
    }

    /// A block cut from a greater free one of at most `most` granules.
    fn cut(&mut self, granules: u32, most: usize) -> Option<u32> {
        for size in granules as usize + 1..=most {
            if let Some(start) = self.free[size].pop() {
                self.give_range(start + granules, size as u32 - granules);
                return Some(start);
            }
        }
        None
    }

    /// A block cut from a free one of the greatest size.
    fn cut_direct(&mut self, granules: u32) -> Option<u32> {
        if granules as usize > MAX_GRANULES {
            return None;
        }
        let start = self.direct.pop()?;
        for piece in (0..DIRECT_GRANULES).step_by(MAX_GRANULES).skip(1) {
            self.free[MAX_GRANULES].push(start + piece);
        }
        self.give_range(start + granules, MAX_GRANULES as u32 - granules);
        Some(start)
    }

    /// The free blocks of a size.
    fn list(&mut self, granules: u32) -> &mut Vec<u32> {
        if granules == DIRECT_GRANULES {
            &mut self.direct
        } else {
            &mut self.free[granules as usize]
        }
    }

    /// Takes a block back. Nobody may read it any more.
    pub(super) fn give(&mut self, word: u32, granules: u32) {
        self.list(granules).push(word / GRANULE);
    }

    /// Takes any stretch back, cut so that the rules of the type hold.
    fn give_range(&mut self, mut start: u32, mut granules: u32) {
        while granules > 0 {
            let room = LINE_GRANULES - start % LINE_GRANULES;
            let whole = room == LINE_GRANULES && granules > LINE_GRANULES;
            let size = if whole { granules } else { room.min(granules) };
            self.free[size as usize].push(start);
            start += size;
            granules -= size;
        }
    }

    /// Words up to the highest that was ever used.
    pub(super) fn used_words(&self) -> u32 {
        self.next * GRANULE
    }

    /// Words below [`used_words`](Self::used_words) that are free.
    pub(super) fn free_words(&self) -> usize {
        self.free
            .iter()
            .enumerate()
            .map(|(size, list)| size * list.len())
            .sum::<usize>()
            .saturating_add(self.direct.len() * DIRECT_GRANULES as usize)
            * GRANULE as usize
    }

    /// Bytes of the lists.
    pub(super) fn bytes(&self) -> usize {
        self.free
            .iter()
            .chain([&self.direct])
            .map(|list| size_of_val(list) + list.capacity() * 4)
            .sum()
    }
}

/// Blocks that readers may still look at, oldest first, with the generation that frees them.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    queue: VecDeque<(u64, u32, u32)>,
}

impl Limbo {
    /// Begins the wait for blocks (first word, granules) that have just become unreachable.
    pub(super) fn put(&mut self, domain: &Domain, blocks: impl IntoIterator<Item = (u32, u32)>) {
        let due = domain.advance();
        self.queue
            .extend(blocks.into_iter().map(|(word, granules)| (due, word, granules)));
    }

    /// Gives back what every reader has passed.
    pub(super) fn reclaim(&mut self, domain: &Domain, blocks: &mut Blocks) {
        if self.queue.is_empty() {
            return;
        }
        let passed = domain.passed();
        while let Some((due, word, granules)) = self.queue.front().copied()
            && due <= passed
        {
            blocks.give(word, granules);
            self.queue.pop_front();
        }
    }

    pub(super) fn words(&self) -> usize {
        self.queue
            .iter()
            .map(|(_, _, granules)| (granules * GRANULE) as usize)
            .sum()
    }

    pub(super) fn bytes(&self) -> usize {
        self.queue.capacity() * size_of::<(u64, u32, u32)>()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

/// Every interleaving of a writer that replaces, waits and reuses blocks with a reader that follows references:
/// `RUSTFLAGS="--cfg loom" cargo test -p classifier --lib loom_`.
#[cfg(all(test, loom))]
mod model {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU32, Ordering::*};

    use super::*;

    /// Two blocks of a line each: every second update needs one that a reader may still look at.
    struct Memory {
        root: AtomicU32,
        blocks: [UnsafeCell<u32>; 2],
    }

    // SAFETY: the protocol under test orders the accesses, and loom fails the test when it does not.
    unsafe impl Sync for Memory {}

    #[test]
    fn loom_blocks_are_reused_only_after_readers_passed() {
        loom::model(|| {
            let domain = Domain::new();
            let memory = Arc::new(Memory {
                root: AtomicU32::new(0),
                blocks: [UnsafeCell::new(0), UnsafeCell::new(0)],
            });
            let mut blocks = Blocks::new(0, 2 * LINE_WORDS as usize);
            let mut limbo = Limbo::default();
            let mut current = blocks.take(LINE_GRANULES).unwrap();
            let (mut reader, theirs) = (domain.register(), memory.clone());
            let worker = loom::thread::spawn(move || {
                let mut last = 0;
                for _ in 0..2 {
                    {
                        let _online = reader.online();
                        let place = theirs.root.load(Acquire);
                        // SAFETY: under test; loom reports a read beside a write.
                        let seen = theirs.blocks[place as usize].with(|value| unsafe { *value });
                        assert!(seen >= last, "an older answer after a newer one");
                        last = seen;
                    }
                    reader.quiescent();
                }
            });
            let mut reused = 0;
            for update in 1..=3u32 {
                limbo.reclaim(&domain, &mut blocks);
                let Ok(next) = blocks.take(LINE_GRANULES) else {
                    continue;
                };
                reused += u32::from(update > 1);
                let place = next / LINE_WORDS;
                // SAFETY: under test; loom reports a write beside a read.
                memory.blocks[place as usize].with_mut(|value| unsafe { *value = update });
                memory.root.store(place, Release);
                limbo.put(&domain, [(current, LINE_GRANULES)]);
                current = next;
            }
            worker.join().unwrap();
            assert!(reused <= 2);
        });
    }
}
