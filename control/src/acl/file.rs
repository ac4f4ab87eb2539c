//! One file after the other: tables, sets, then lists.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use classifier::acl::{Rule, Set};
use classifier::lpm::IpPrefix;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::lines::Lines;
use super::list::Reading;
use super::pieces::{Cut, Kept, Pieces};
use super::{names, rule};

/// A file being read: turns byte offsets into lines and collects findings.
pub(super) struct Source<'a> {
    path: &'a Path,
    /// The path as origins show it.
    pub(super) name: Arc<str>,
    lines: &'a Lines,
    out: &'a mut Vec<Diagnostic>,
}

impl Source<'_> {
    /// The same file, of which a part is read that has lines of its own.
    pub(super) fn part<'b>(&'b mut self, lines: &'b Lines) -> Source<'b> {
        Source {
            path: self.path,
            name: self.name.clone(),
            lines,
            out: self.out,
        }
    }

    /// How much has been reported.
    pub(super) fn reported(&self) -> usize {
        self.out.len()
    }

    /// The line, from 1, of a byte offset.
    pub(super) fn line(&self, offset: usize) -> u32 {
        self.lines.line(offset)
    }

    /// Reports an error at a byte offset.
    pub(super) fn error(&mut self, at: usize, code: &'static str, message: String, hint: impl Into<String>) {
        let line = self.line(at);
        self.out
            .push(Diagnostic::error(self.path, line, code, message, hint.into()));
    }

    /// Reports a warning at a byte offset.
    pub(super) fn warning(
        &mut self,
        at: usize,
        code: &'static str,
        message: String,
        hint: impl Into<String>,
    ) {
        let line = self.line(at);
        self.out
            .push(Diagnostic::warning(self.path, line, code, message, hint.into()));
    }

    /// Reports every key that is not known, with the nearest one that is.
    pub(super) fn unknown_keys(&mut self, table: &DeTable<'_>, known: &[&str], place: &str) {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let hint = match names::nearest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known keys: {}", known.join(", ")),
                };
                self.error(
                    key.span().start,
                    "unknown_key",
                    format!("unknown key `{name}` in {place}"),
                    hint,
                );
            }
        }
    }

    /// Reports a value of the wrong type.
    pub(super) fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, what: &str, wanted: &str) {
        let given = value.get_ref().type_str();
        self.error(
            value.span().start,
            "wrong_type",
            format!("{what} is a {given}"),
            format!("write {wanted}"),
        );
    }
}

/// Sets of all files: by name, with the place and whether a rule used them.
#[derive(Default)]
pub(super) struct Sets {
    pub(super) known: HashMap<String, Arc<Set>>,
    used: HashSet<String>,
}

impl Sets {
    /// The set of a name, which counts as used from now on.
    pub(super) fn get(&mut self, name: &str) -> Option<Arc<Set>> {
        let set = self.known.get(name)?;
        if !self.used.contains(name) {
            self.used.insert(name.to_owned());
        }
        Some(set.clone())
    }

    /// Whether a rule that was read before holds the sets that its names stand for now. If so they count as used.
    pub(super) fn are_those_of(&mut self, rule: &Rule) -> bool {
        let mut all = rule.src.sets.iter().chain(&rule.dst.sets);
        all.all(|old| self.get(&old.name).is_some_and(|set| Arc::ptr_eq(&set, old)))
    }

    /// The known name nearest to `name`.
    pub(super) fn nearest(&self, name: &str) -> Option<&str> {
        names::nearest(name, self.known.keys().map(String::as_str))
    }
}

/// A file without syntax errors.
pub(super) struct File<'f> {
    path: &'f Path,
    name: Arc<str>,
    pub(super) content: Tables<'f>,
}

/// The tables of a file.
pub(super) enum Tables<'f> {
    Whole(Lines, Spanned<DeTable<'f>>),
    Pieces(Pieces<'f>),
}

impl<'f> File<'f> {
    pub(super) fn tables(&self) -> (&Lines, &DeTable<'f>) {
        match &self.content {
            Tables::Whole(lines, table) => (lines, table.get_ref()),
            Tables::Pieces(pieces) => (pieces.lines(), pieces.table.get_ref()),
        }
    }

    pub(super) fn source<'a>(&'a self, out: &'a mut Vec<Diagnostic>) -> Source<'a> {
        Source {
            path: self.path,
            name: self.name.clone(),
            lines: self.tables().0,
            out,
        }
    }
}

/// Reads files given as path and text. Lists without errors are returned, findings go to `out`. With what is `kept` of the last
/// reading the result is the same, and comes sooner.
pub(super) fn read(files: &[(PathBuf, String)], kept: Option<&Kept>, out: &mut Vec<Diagnostic>) -> Reading {
    let texts = files.iter().map(|(_, text)| text);
    let cuts: Vec<Option<Cut<'_>>> = texts
        .map(|text| Cut::of(text).filter(|_| kept.is_some()))
        .collect();
    let mut parsed = Vec::new();
    for ((path, text), cut) in files.iter().zip(&cuts) {
        let pieces = cut.as_ref().zip(kept).and_then(|(cut, kept)| cut.parse(kept));
        let content = match pieces {
            Some(pieces) => Some(Tables::Pieces(pieces)),
            None => whole(path, text, out),
        };
        let name = path.display().to_string().into();
        parsed.extend(content.map(|content| File { path, name, content }));
    }
    let mut reading = Reading::default();
    let mut places: HashMap<String, (Arc<str>, u32)> = HashMap::new();
    for file in &parsed {
        let mut source = file.source(out);
        let table = file.tables().1;
        head(&mut source, table);
        read_sets(&mut source, table, kept, &mut reading.sets, &mut places);
    }
    for (number, file) in parsed.iter().enumerate() {
        reading.lists(number, file, out);
    }
    let used = &reading.sets.used;
    let mut unused: Vec<_> = places
        .into_iter()
        .filter(|(name, _)| !used.contains(name))
        .collect();
    unused.sort();
    for (name, (file, line)) in unused {
        out.push(Diagnostic::warning(
            Path::new(&*file),
            line,
            "unused_set",
            format!("no rule uses set \"{name}\""),
            format!("write \"@{name}\" in src or dst, or remove the set"),
        ));
    }
    reading
}

/// Parses a file as a whole. Errors go to `out` and give nothing.
fn whole<'f>(path: &Path, text: &'f str, out: &mut Vec<Diagnostic>) -> Option<Tables<'f>> {
    let lines = Lines::of(text, 1);
    let (table, errors) = DeTable::parse_recoverable(text);
    for e in &errors {
        let at = e.span().map_or(0, |s| s.start.min(text.len()));
        let message = format!("not TOML: {}", e.message());
        let hint = "see https://toml.io for the syntax".into();
        out.push(Diagnostic::error(path, lines.line(at), "syntax", message, hint));
    }
    errors.is_empty().then_some(Tables::Whole(lines, table))
}

/// `version` and the keys of the top level.
fn head(source: &mut Source<'_>, table: &DeTable<'_>) {
    source.unknown_keys(table, &["version", "sets", "acl"], "an ACL file");
    match table.get("version") {
        None => source.warning(
            0,
            "no_version",
            "no `version`; 1 is assumed".into(),
            "write `version = 1` first",
        ),
        Some(v) if rule::integer(v.get_ref()) == Some(1) => {}
        Some(v) => source.error(
            v.span().start,
            "bad_version",
            "this version of the format is not known".into(),
            "write `version = 1`",
        ),
    }
}

fn read_sets(
    source: &mut Source<'_>,
    table: &DeTable<'_>,
    kept: Option<&Kept>,
    sets: &mut Sets,
    places: &mut HashMap<String, (Arc<str>, u32)>,
) {
    let Some(value) = table.get("sets") else { return };
    let Some(table) = value.get_ref().as_table() else {
        return source.wrong_type(value, "`sets`", "a table: [sets.NAME]");
    };
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        let at = key.span().start;
        let Some(set) = value.get_ref().as_table() else {
            source.wrong_type(value, "a set", "a table: [sets.NAME] with `prefixes`");
            continue;
        };
        source.unknown_keys(set, &["prefixes"], "a set");
        if let Some((file, line)) = places.get(name) {
            let message = format!("set \"{name}\" stands already at {file}:{line}");
            source.error(at, "duplicate_set", message, "give one of them another name");
            continue;
        }
        places.insert(name.to_owned(), (source.name.clone(), source.line(at)));
        let mut members = Vec::new();
        let before = source.out.len();
        match set.get("prefixes") {
            None => {}
            Some(list) => match list.get_ref().as_array() {
                None => source.wrong_type(list, "`prefixes`", "an array of prefixes"),
                Some(array) => {
                    members.reserve(array.len());
                    for item in array.iter() {
                        members.extend(prefix(source, item));
                    }
                }
            },
        }
        if members.is_empty() && source.out.len() == before {
            // An empty set in a deny rule silently opens what it should close.
            source.error(
                at,
                "empty_set",
                format!("set \"{name}\" has no members"),
                "add prefixes, or remove the set",
            );
        }
        let set = Set {
            name: name.into(),
            members,
        };
        let set = match kept {
            Some(kept) => kept.set(set),
            None => Arc::new(set),
        };
        sets.known.insert(name.to_owned(), set);
    }
}

/// One prefix; an error is reported and gives nothing.
pub(super) fn prefix(source: &mut Source<'_>, item: &Spanned<DeValue<'_>>) -> Option<IpPrefix> {
    use classifier::lpm::LpmError;
    let Some(text) = item.get_ref().as_str() else {
        source.wrong_type(item, "a prefix", "a string, as \"192.0.2.0/24\"");
        return None;
    };
    let at = item.span().start;
    match text.parse() {
        Ok(p) => return Some(p),
        Err(LpmError::HostBits { given, meant }) => source.error(
            at,
            "host_bits",
            format!("prefix {given} has host bits set"),
            format!("did you mean {meant}, or the host alone?"),
        ),
        Err(e) => source.error(at, "bad_prefix", e.to_string(), "for a set write \"@NAME\""),
    }
    None
}
