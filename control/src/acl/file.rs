//! One file after the other: tables, sets, lists.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use classifier::acl::{Action, List, Set};
use classifier::lpm::IpPrefix;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::{names, origin, rule};

/// A file being read: turns byte offsets into lines and collects findings.
pub(super) struct Source<'a> {
    path: &'a Path,
    /// The path as origins show it.
    pub(super) name: Arc<str>,
    /// Offsets at which lines begin.
    lines: Vec<usize>,
    out: &'a mut Vec<Diagnostic>,
}

impl Source<'_> {
    /// The line, from 1, of a byte offset.
    pub(super) fn line(&self, offset: usize) -> u32 {
        self.lines.partition_point(|&start| start <= offset) as u32
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
    known: HashMap<String, Arc<Set>>,
    used: HashSet<String>,
}

impl Sets {
    /// The set of a name, which counts as used from now on.
    pub(super) fn get(&mut self, name: &str) -> Option<Arc<Set>> {
        let set = self.known.get(name)?;
        self.used.insert(name.to_owned());
        Some(set.clone())
    }

    /// The known name nearest to `name`.
    pub(super) fn nearest(&self, name: &str) -> Option<&str> {
        names::nearest(name, self.known.keys().map(String::as_str))
    }
}

/// Reads files given as path and text. Lists without errors are returned, findings go to `out`.
pub(super) fn read(files: &[(PathBuf, String)], out: &mut Vec<Diagnostic>) -> BTreeMap<String, Arc<List>> {
    let mut parsed = Vec::new();
    for (path, text) in files {
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(i, _)| i + 1))
            .collect();
        let mut source = Source {
            path,
            name: path.display().to_string().into(),
            lines,
            out,
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        for e in &errors {
            let at = e.span().map_or(0, |s| s.start.min(text.len()));
            source.error(
                at,
                "syntax",
                format!("not TOML: {}", e.message()),
                "see https://toml.io for the syntax",
            );
        }
        if errors.is_empty() {
            parsed.push((path, source.name.clone(), source.lines, table));
        }
    }
    let mut sets = Sets::default();
    let mut places: HashMap<String, (Arc<str>, u32)> = HashMap::new();
    for (path, name, lines, table) in &parsed {
        let mut source = Source {
            path,
            name: name.clone(),
            lines: lines.clone(),
            out,
        };
        head(&mut source, table.get_ref());
        read_sets(&mut source, table.get_ref(), &mut sets, &mut places);
    }
    let mut lists: BTreeMap<String, Arc<List>> = BTreeMap::new();
    for (path, name, lines, table) in &parsed {
        let mut source = Source {
            path,
            name: name.clone(),
            lines: lines.clone(),
            out,
        };
        read_lists(&mut source, table.get_ref(), &mut sets, &mut lists);
    }
    let mut unused: Vec<_> = places
        .into_iter()
        .filter(|(name, _)| !sets.used.contains(name))
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
    lists
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
        sets.known.insert(
            name.to_owned(),
            Arc::new(Set {
                name: name.into(),
                members,
            }),
        );
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

fn read_lists(
    source: &mut Source<'_>,
    table: &DeTable<'_>,
    sets: &mut Sets,
    lists: &mut BTreeMap<String, Arc<List>>,
) {
    let Some(value) = table.get("acl") else { return };
    let Some(array) = value.get_ref().as_array() else {
        return source.wrong_type(value, "`acl`", "an array of tables: [[acl]]");
    };
    for item in array.iter() {
        let at = item.span().start;
        let Some(table) = item.get_ref().as_table() else {
            source.wrong_type(item, "a list", "a table: [[acl]]");
            continue;
        };
        source.unknown_keys(table, &["name", "default", "rule"], "a list");
        let name = match table.get("name").map(|n| (n.get_ref().as_str(), n)) {
            Some((Some(name), _)) if !name.is_empty() => name.to_owned(),
            Some((_, value)) => {
                source.wrong_type(value, "`name`", "a string that is not empty");
                continue;
            }
            None => {
                source.error(
                    at,
                    "missing_key",
                    "a list without `name`".into(),
                    "write name = \"NAME\" under [[acl]]",
                );
                continue;
            }
        };
        let default = match table.get("default") {
            None => {
                let hint = "write default = \"deny\" or \"allow\"";
                source.warning(
                    at,
                    "no_default",
                    format!("list \"{name}\" has no `default`; deny is assumed"),
                    hint,
                );
                Action::Deny
            }
            Some(v) => match v.get_ref().as_str() {
                Some("allow") => Action::Allow,
                Some("deny") => Action::Deny,
                _ => {
                    let at = v.span().start;
                    source.error(
                        at,
                        "bad_value",
                        "`default` is neither allow nor deny".into(),
                        "write \"deny\"",
                    );
                    continue;
                }
            },
        };
        let list_origin = origin(&source.name, source.line(at));
        if let Some(first) = lists.get(&name) {
            let message = format!(
                "list \"{name}\" stands already at {}:{}",
                first.origin.file, first.origin.line
            );
            source.error(at, "duplicate_list", message, "give one of them another name");
            continue;
        }
        let mut list = List {
            name,
            default,
            rules: Vec::new(),
            origin: list_origin,
        };
        if let Some(rules) = table.get("rule") {
            match rules.get_ref().as_array() {
                None => source.wrong_type(rules, "`rule`", "an array of tables: [[acl.rule]]"),
                Some(array) => {
                    list.rules.reserve(array.len());
                    for item in array.iter() {
                        list.rules.extend(rule::read(source, item, sets));
                    }
                }
            }
        }
        lists.insert(list.name.clone(), Arc::new(list));
    }
}
