//! A cursor over one TOML table that remembers which keys were asked for.
//!
//! Reading key by key instead of deriving a deserializer has two uses: every problem of a file is reported at once,
//! each with its line, and the keys asked for are by construction the known ones, so that an unknown key can be
//! answered with the nearest known one.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Something in a configuration file that cannot be used, or that is probably not meant.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// A stable name of the kind of problem.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What would mend it.
    pub hint: Option<String>,
}

/// As many problems of a file as are told at once; the others come to light when these are mended.
const MOST_PROBLEMS: usize = 100;

/// The text of a file and the problems found in it so far.
pub(crate) struct Source<'s> {
    text: &'s str,
    problems: RefCell<Vec<Problem>>,
}

impl<'s> Source<'s> {
    pub(crate) fn new(text: &'s str) -> Self {
        Self {
            text,
            problems: RefCell::default(),
        }
    }

    /// The line of a byte offset, from 1.
    pub(crate) fn line(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        1 + self.text.as_bytes()[..end]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
    }

    /// Whether no more problems are kept: a file that is no configuration at all has one in every line.
    fn is_full(&self) -> bool {
        self.problems.borrow().len() >= MOST_PROBLEMS
    }

    pub(crate) fn problem(
        &self,
        at: &Range<usize>,
        code: &'static str,
        message: String,
        hint: Option<String>,
    ) {
        if self.is_full() {
            return;
        }
        self.problems.borrow_mut().push(Problem {
            line: self.line(at.start),
            code,
            message,
            hint,
        });
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }
}

/// A value with its place in the file.
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// One table of the file.
pub(crate) struct Section<'a, 'i> {
    source: &'a Source<'i>,
    table: &'a DeTable<'i>,
    path: String,
    /// Where the table itself stands, for what is missing in it.
    pub(crate) span: Range<usize>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a, 'i> Section<'a, 'i> {
    pub(crate) fn new(
        source: &'a Source<'i>,
        table: &'a DeTable<'i>,
        path: &str,
        span: Range<usize>,
    ) -> Section<'a, 'i> {
        Section {
            source,
            table,
            path: path.to_owned(),
            span,
            asked: RefCell::default(),
        }
    }

    /// A key's name with the tables around it: `runtime.frames`.
    fn full(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.asked.borrow_mut().push(key);
        self.table.get(key)
    }

    /// Reports a problem with a value of this table.
    pub(crate) fn refuse(&self, at: &Range<usize>, key: &str, message: &str, hint: &str) {
        self.source.problem(
            at,
            "bad_value",
            format!("{}: {message}", self.full(key)),
            Some(hint.to_owned()).filter(|hint| !hint.is_empty()),
        );
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'i>>, wanted: &str) {
        self.source.problem(
            &value.span(),
            "wrong_type",
            format!(
                "{} is {} {}, not {wanted}",
                self.full(key),
                article(value.get_ref().type_str()),
                value.get_ref().type_str()
            ),
            None,
        );
    }

    pub(crate) fn string(&self, key: &'static str) -> Option<At<String>> {
        self.text(key, self.get(key)?)
    }

    fn text(&self, key: &str, value: &Spanned<DeValue<'i>>) -> Option<At<String>> {
        match value.get_ref().as_str() {
            Some(text) => Some(At {
                value: text.to_owned(),
                span: value.span(),
            }),
            None => {
                self.wrong_type(key, value, "a string");
                None
            }
        }
    }

    pub(crate) fn integer(&self, key: &'static str, range: RangeInclusive<i64>) -> Option<At<i64>> {
        let value = self.get(key)?;
        self.number(key, value, range)
    }

    fn number(&self, key: &str, value: &Spanned<DeValue<'i>>, range: RangeInclusive<i64>) -> Option<At<i64>> {
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "an integer");
            return None;
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(At {
                value: number,
                span: value.span(),
            }),
            _ => {
                let limits = format!("a value from {} to {} is possible", range.start(), range.end());
                self.refuse(
                    &value.span(),
                    key,
                    &format!("{} is out of range", integer.as_str()),
                    &limits,
                );
                None
            }
        }
    }

    /// A list of integers; items that cannot be used are reported and left out.
    pub(crate) fn integers(&self, key: &'static str, range: RangeInclusive<i64>) -> Option<At<Vec<At<i64>>>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of integers");
            return None;
        };
        let items = array
            .iter()
            .filter_map(|item| self.number(key, item, range.clone()))
            .collect();
        Some(At {
            value: items,
            span: value.span(),
        })
    }

    /// A list of strings; items that are none are reported and left out.
    pub(crate) fn strings(&self, key: &'static str) -> Option<Vec<At<String>>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of strings");
            return None;
        };
        let items = array.iter().filter_map(|item| self.text(key, item));
        Some(items.collect())
    }

    /// Whether the key is there and is a string: for keys of more than one type.
    pub(crate) fn is_string(&self, key: &'static str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_str())
    }

    /// One of a set of words.
    pub(crate) fn word<T: Copy>(&self, key: &'static str, words: &[(&'static str, T)]) -> Option<At<T>> {
        let text = self.string(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(At {
                value: *value,
                span: text.span,
            });
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let mut hint = format!("it is one of {}", known.join(", "));
        if let Some(near) = nearest(&text.value, &known) {
            hint = format!("did you mean {near:?}? {hint}");
        }
        self.refuse(&text.span, key, &format!("{:?} is not known", text.value), &hint);
        None
    }

    /// A table of this table.
    pub(crate) fn section(&self, key: &'static str) -> Option<Section<'a, 'i>> {
        let value = self.get(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Section::new(self.source, table, &self.full(key), value.span())),
            None => {
                self.wrong_type(key, value, &format!("a table: write [{}]", self.full(key)));
                None
            }
        }
    }

    /// The tables of a list of tables.
    pub(crate) fn sections(&self, key: &'static str) -> Vec<Section<'a, 'i>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(
                key,
                value,
                &format!("a list of tables: write [[{}]]", self.full(key)),
            );
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in array {
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section::new(self.source, table, &self.full(key), item.span())),
                None => self.wrong_type(key, item, "a table"),
            }
        }
        sections
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn finish(self) {
        let known = self.asked.borrow();
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            if self.source.is_full() {
                return;
            }
            let hint = match nearest(name, &known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => {
                    let mut sorted: Vec<&str> = known.clone();
                    sorted.sort_unstable();
                    sorted.dedup();
                    format!("known keys are {}", sorted.join(", "))
                }
            };
            self.source.problem(
                &key.span(),
                "unknown_key",
                format!("unknown key {}", self.full(name)),
                Some(hint),
            );
        }
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

/// The known word nearest to `word` by edits, if one is near enough to be meant.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // A third of the letters may differ, but at least two: short keys have typing errors as well.
    let letters = word.chars().count();
    let limit = (letters / 3).max(2);
    known
        .iter()
        // As many edits as the lengths differ by are needed at least.
        .filter(|candidate| candidate.chars().count().abs_diff(letters) <= limit)
        .map(|candidate| (edits(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= limit && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance with transpositions (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    // The last row and the two before it are all that is looked at.
    let (mut older, mut old) = (vec![0; b.len() + 1], (0..=b.len()).collect::<Vec<usize>>());
    let mut new = vec![0; b.len() + 1];
    for i in 1..=a.len() {
        new[0] = i;
        for j in 1..=b.len() {
            let substitution = old[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitution.min(old[j] + 1).min(new[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(older[j - 2] + 1);
            }
            new[j] = best;
        }
        std::mem::swap(&mut older, &mut old);
        std::mem::swap(&mut old, &mut new);
    }
    old[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_one_that_can_be_meant() {
        assert_eq!(nearest("frmaes", &["frames", "frame_size"]), Some("frames"));
        assert_eq!(
            nearest("stall-after", &["stall_after", "workers"]),
            Some("stall_after")
        );
        assert_eq!(nearest("colour", &["frames", "workers"]), None);
        assert_eq!(edits("ab", "ba"), 1);
        assert_eq!(edits("", "abc"), 3);
    }
}
