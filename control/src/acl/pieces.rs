//! Files in pieces: rules whose text is as it was are taken from the last reading, so that one rule added to a long list costs
//! little.
//!
//! A file is cut at lines that begin with `[`. A piece is one that begins with `[[acl.rule]]`: one rule. All else, with a
//! `[[acl.rule]]` alone in place of each run of pieces, is the frame. Why both together mean what the file means: a parser that
//! finds the header of a run at its place in the frame, without an error until there, finds it in the file too; a piece that is
//! good as a file of its own leaves the parser between two expressions, where the next piece and the rest of the frame begin;
//! and the tables of the pieces are those of the array that the header in the frame names. Where any of this does not hold
//! (errors, strings or arrays over lines that look like headers, tables below a rule), the file is read as a whole.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use classifier::acl::{List, Rule, Set};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::lines::Lines;

/// What the line of a piece begins with.
const HEADER: &str = "[[acl.rule]]";

/// A file cut into frame and pieces.
pub(super) struct Cut<'t> {
    frame: String,
    /// Where the frame's lines stand in the file.
    lines: Lines,
    /// Offsets of headers in the frame, and the pieces that each stands for.
    runs: Vec<(usize, Range<usize>)>,
    pieces: Vec<Piece<'t>>,
}

/// The text of one rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'t> {
    pub(super) text: &'t str,
    /// Where the text begins in the file: offset and line.
    start: u32,
    pub(super) line: u32,
}

impl<'t> Cut<'t> {
    /// Cuts a file; `None` when it is too long.
    pub(super) fn of(text: &'t str) -> Option<Cut<'t>> {
        u32::try_from(text.len()).ok()?;
        let mut cut = Cut {
            frame: String::new(),
            lines: Lines::default(),
            runs: Vec::new(),
            pieces: Vec::new(),
        };
        let mut begun = None;
        let (mut at, mut number) = (0, 1);
        for line in text.split_inclusive('\n') {
            if line.starts_with('[') {
                let in_run = begun.is_some();
                cut.end(text, begun.take(), at);
                if line.starts_with(HEADER) {
                    if !in_run {
                        let next = cut.pieces.len();
                        cut.runs.push((cut.frame.len(), next..next));
                        cut.lines.push(cut.frame.len(), number);
                        cut.frame.extend([HEADER, "\n"]);
                    }
                    begun = Some((at, number));
                }
            }
            if begun.is_none() {
                cut.lines.push(cut.frame.len(), number);
                cut.frame.push_str(line);
            }
            at += line.len();
            number += 1;
        }
        cut.end(text, begun, at);
        Some(cut)
    }

    /// Ends the piece that began at an offset and line.
    fn end(&mut self, text: &'t str, begun: Option<(usize, u32)>, end: usize) {
        if let (Some((start, line)), Some((_, run))) = (begun, self.runs.last_mut()) {
            self.pieces.push(Piece {
                text: &text[start..end],
                start: start as u32,
                line,
            });
            run.end = self.pieces.len();
        }
    }

    /// Parses the frame, and the pieces that are not known; `None` when they do not make up the file.
    pub(super) fn parse<'p>(&'p self, kept: &'p Kept) -> Option<Pieces<'p>> {
        let (table, errors) = DeTable::parse_recoverable(&self.frame);
        if !errors.is_empty() {
            return None;
        }
        let pieces = Pieces {
            cut: self,
            table,
            contents: self.contents(kept)?,
        };
        let lists = pieces.table.get_ref().get("acl");
        let lists = lists.and_then(|lists| lists.get_ref().as_array());
        let runs = lists
            .into_iter()
            .flat_map(|lists| lists.iter())
            .filter_map(|list| list.get_ref().as_table()?.get("rule")?.get_ref().as_array())
            .flat_map(|rules| rules.iter())
            .filter(|rule| rule.get_ref().as_table().is_some_and(DeTable::is_empty))
            .filter(|rule| pieces.run(rule).is_some());
        (runs.count() == self.runs.len()).then_some(pieces)
    }

    fn contents<'p>(&'p self, kept: &'p Kept) -> Option<Vec<Content<'p>>> {
        let content = |piece: &'p Piece<'t>| {
            let hash = kept.hasher.hash_one(piece.text);
            if let Some(rule) = kept.rule(hash, piece.text) {
                return Some(Content {
                    hash,
                    rule: Parsed::Known(rule),
                });
            }
            let (table, errors) = DeTable::parse_recoverable(piece.text);
            let good = errors.is_empty() && item(table.get_ref()).is_some();
            good.then_some(Content {
                hash,
                rule: Parsed::New(table),
            })
        };
        self.pieces.iter().map(content).collect()
    }
}

/// The rule in a piece that holds nothing else.
pub(super) fn item<'p, 't>(piece: &'p DeTable<'t>) -> Option<&'p Spanned<DeValue<'t>>> {
    let only = |table: &'p DeTable<'t>, key| table.get(key).filter(|_| table.len() == 1);
    let rules = only(only(piece, "acl")?.get_ref().as_table()?, "rule")?;
    let rules = rules.get_ref().as_array()?;
    let rule = rules.first().filter(|_| rules.len() == 1)?;
    rule.get_ref().is_table().then_some(rule)
}

/// A parsed file.
pub(super) struct Pieces<'p> {
    cut: &'p Cut<'p>,
    /// The frame's tables.
    pub(super) table: Spanned<DeTable<'p>>,
    contents: Vec<Content<'p>>,
}

struct Content<'p> {
    hash: u64,
    rule: Parsed<'p>,
}

/// The rule of a piece.
pub(super) enum Parsed<'p> {
    /// As it was read before; its line and its sets may be others now.
    Known(&'p Rule),
    /// To be read.
    New(Spanned<DeTable<'p>>),
}

impl<'p> Pieces<'p> {
    /// Where the frame's lines stand in the file.
    pub(super) fn lines(&self) -> &Lines {
        &self.cut.lines
    }

    /// The numbers of the pieces that a rule of the frame stands for; `None` when it is a rule like others.
    pub(super) fn run(&self, rule: &Spanned<DeValue<'_>>) -> Option<Range<usize>> {
        let runs = &self.cut.runs;
        let run = runs.binary_search_by_key(&rule.span().start, |(at, _)| *at);
        Some(runs[run.ok()?].1.clone())
    }

    /// A piece and its rule.
    pub(super) fn piece(&self, number: usize) -> (&Piece<'p>, &Parsed<'p>) {
        (&self.cut.pieces[number], &self.contents[number].rule)
    }

    /// Where a piece stands, for the next reading: it became rule `rule` of the list with number `list`.
    pub(super) fn place(&self, number: usize, file: usize, list: usize, rule: usize) -> (u64, Place) {
        let piece = &self.cut.pieces[number];
        let place = Place {
            file: file as u32,
            start: piece.start,
            len: piece.text.len() as u32,
            list: list as u32,
            rule: rule as u32,
        };
        (self.contents[number].hash, place)
    }
}

/// Where the text of a rule stands, and the rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    file: u32,
    start: u32,
    len: u32,
    list: u32,
    rule: u32,
}

/// What is kept of a reading: the texts of the files, 40 to 80 bytes a rule for where each stands, and the lists, which
/// whoever uses them holds anyway.
#[derive(Debug, Default)]
pub(super) struct Kept {
    hasher: RandomState,
    texts: Vec<String>,
    sets: HashMap<String, Arc<Set>>,
    lists: Vec<Arc<List>>,
    places: HashMap<u64, Place>,
}

impl Kept {
    /// The rule of a text, as it was read before.
    fn rule(&self, hash: u64, text: &str) -> Option<&Rule> {
        let place = self.places.get(&hash)?;
        let before = &self.texts[place.file as usize][place.start as usize..][..place.len as usize];
        (before == text).then(|| &self.lists[place.list as usize].rules[place.rule as usize])
    }

    /// The set as it was read before, when it is the same: rules that hold it need not be read anew.
    pub(super) fn set(&self, set: Set) -> Arc<Set> {
        match self.sets.get(&*set.name) {
            Some(same) if **same == set => Arc::clone(same),
            _ => Arc::new(set),
        }
    }

    /// Keeps a reading without errors in place of the last one.
    pub(super) fn keep(
        &mut self,
        files: Vec<(PathBuf, String)>,
        sets: HashMap<String, Arc<Set>>,
        lists: Vec<Arc<List>>,
        places: Vec<(u64, Place)>,
    ) {
        self.texts = files.into_iter().map(|(_, text)| text).collect();
        (self.sets, self.lists) = (sets, lists);
        self.places = places.into_iter().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;

    /// Rules that are taken from what was kept, and rules that are read.
    fn known_and_new(reader: &Reader, text: &str) -> Option<(usize, usize)> {
        let cut = Cut::of(text)?;
        let pieces = cut.parse(&reader.kept)?;
        let known = pieces
            .contents
            .iter()
            .filter(|content| matches!(content.rule, Parsed::Known(_)));
        let known = known.count();
        Some((known, pieces.contents.len() - known))
    }

    #[test]
    fn only_what_is_new_is_read() {
        let rule = |port: u32| format!("[[acl.rule]]\naction = \"deny\"\nsrc = [\"@s\"]\ndport = [{port}]\n");
        let rules = |ports: Range<u32>| ports.map(rule).collect::<String>();
        let head = "[sets.s]\nprefixes = [\"10.0.0.0/8\"]\n[[acl]]\nname = \"l\"\n";
        let tail = "[[acl]]\nname = \"m\"\n[[acl.rule]]\naction = \"allow\"\n";
        let text = format!("{head}{}{tail}", rules(0..50));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("l.toml");
        let mut reader = Reader::default();
        assert_eq!(known_and_new(&reader, &text), Some((0, 51)));
        std::fs::write(&path, &text).expect("the file can be written");
        assert_eq!(reader.read(std::slice::from_ref(&path)).errors, []);
        assert_eq!(known_and_new(&reader, &text), Some((51, 0)));
        let more = format!("{tail}\n{head}{}{}{}", rules(20..50), rule(99), rules(0..20));
        assert_eq!(
            known_and_new(&reader, &more),
            Some((50, 2)),
            "a blank line makes another rule"
        );
        // What is no file of pieces is read as a whole.
        for unusual in [
            format!("{text}[acl.rule.x]\n"),
            format!("{text}x = [\n[[acl.rule]]\n[1]]\n"),
            format!("x = \"\"\"\n{text}\"\"\"\n"),
            format!("{text}  {}", rule(1)),
            format!("{text}action = 1\n"),
        ] {
            assert_eq!(known_and_new(&reader, &unusual), None, "{unusual}");
        }
        // A file with an error leaves what was kept.
        std::fs::write(&path, more + "[[acl]]\n").expect("the file can be written");
        assert_eq!(reader.read(&[path]).errors.len(), 1);
        assert_eq!(known_and_new(&reader, &text), Some((51, 0)));
    }
}
