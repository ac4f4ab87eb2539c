//! Byte offsets to line numbers.

/// Where lines begin: offsets in a text, and the numbers of the lines.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<(usize, u32)>);

impl Lines {
    /// The lines of a text, of which the first has the number `first`.
    pub(super) fn of(text: &str, first: u32) -> Lines {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
        Lines(starts.zip(first..).collect())
    }

    /// Adds a line behind those that are there.
    pub(super) fn push(&mut self, start: usize, number: u32) {
        self.0.push((start, number));
    }

    /// The number of the line that holds a byte offset.
    pub(super) fn line(&self, offset: usize) -> u32 {
        let next = self.0.partition_point(|&(start, _)| start <= offset);
        next.checked_sub(1).map_or(1, |line| self.0[line].1)
    }
}
