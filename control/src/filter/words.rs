//! A filter's words and where they stand.

/// A word, a parenthesis or an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'t> {
    pub(super) text: &'t str,
    /// Characters before it.
    pub(super) at: usize,
}

/// Splits a filter at blanks; parentheses and `!` stand for themselves, `&&` and `||` too.
pub(super) fn split(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut begun: Option<(usize, usize)> = None;
    let mut skip_until = 0;
    for (at, (offset, c)) in text.char_indices().enumerate() {
        if offset < skip_until {
            continue;
        }
        let rest = &text[offset..];
        let sign = match c {
            '(' | ')' | '!' => 1,
            _ if rest.starts_with("&&") || rest.starts_with("||") => 2,
            _ => 0,
        };
        if sign == 0 && !c.is_whitespace() {
            begun.get_or_insert((offset, at));
            continue;
        }
        if let Some((from, at)) = begun.take() {
            words.push(Word {
                text: &text[from..offset],
                at,
            });
        }
        if sign > 0 {
            words.push(Word {
                text: &rest[..sign],
                at,
            });
            skip_until = offset + sign;
        }
    }
    if let Some((from, at)) = begun {
        words.push(Word {
            text: &text[from..],
            at,
        });
    }
    words
}
