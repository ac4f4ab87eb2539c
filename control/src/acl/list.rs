//! The lists of a file and their rules, those included that were read before.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use classifier::acl::{Action, List, Origin, Rule};
use toml::de::{DeArray, DeTable};

use super::diagnostic::Diagnostic;
use super::file::{File, Sets, Source, Tables};
use super::lines::Lines;
use super::pieces::{Kept, Parsed, Pieces, Place, item};
use super::{origin, rule};

/// What files say: sets and lists by name. Of each piece that became a rule, the place, with the number of the list in `order`.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) sets: Sets,
    pub(super) lists: BTreeMap<String, Arc<List>>,
    order: Vec<Arc<List>>,
    places: Vec<(u64, Place)>,
}

impl Reading {
    /// Keeps a reading without errors, of these files, for the next one.
    pub(super) fn keep(self, files: Vec<(PathBuf, String)>, kept: &mut Kept) {
        kept.keep(files, self.sets.known, self.order, self.places);
    }
}

impl Reading {
    /// The lists of the file with number `number`.
    pub(super) fn lists(&mut self, number: usize, file: &File<'_>, out: &mut Vec<Diagnostic>) {
        let mut source = file.source(out);
        let Some(value) = file.tables().1.get("acl") else {
            return;
        };
        let Some(array) = value.get_ref().as_array() else {
            return source.wrong_type(value, "`acl`", "an array of tables: [[acl]]");
        };
        for item in array.iter() {
            let Some(table) = item.get_ref().as_table() else {
                source.wrong_type(item, "a list", "a table: [[acl]]");
                continue;
            };
            let Some(mut list) = list_head(&mut source, table, item.span().start) else {
                continue;
            };
            if let Some(first) = self.lists.get(&list.name) {
                let Origin { file, line } = &first.origin;
                let message = format!("list \"{}\" stands already at {file}:{line}", list.name);
                let hint = "give one of them another name";
                source.error(item.span().start, "duplicate_list", message, hint);
                continue;
            }
            if let Some(rules) = table.get("rule") {
                match rules.get_ref().as_array() {
                    None => source.wrong_type(rules, "`rule`", "an array of tables: [[acl.rule]]"),
                    Some(array) => self.rules(&mut source, number, file, array, &mut list.rules),
                }
            }
            let list = Arc::new(list);
            self.order.push(Arc::clone(&list));
            self.lists.insert(list.name.clone(), list);
        }
    }

    /// The rules of the list that is read now.
    fn rules(
        &mut self,
        source: &mut Source<'_>,
        number: usize,
        file: &File<'_>,
        array: &DeArray<'_>,
        rules: &mut Vec<Rule>,
    ) {
        rules.reserve(array.len());
        for item in array.iter() {
            let pieces = match &file.content {
                Tables::Pieces(pieces) => pieces.run(item).map(|run| (pieces, run)),
                Tables::Whole(..) => None,
            };
            let Some((pieces, run)) = pieces else {
                rules.extend(rule::read(source, item, &mut self.sets));
                continue;
            };
            rules.reserve(run.len());
            for piece in run {
                let before = source.reported();
                let Some(rule) = self.piece(source, pieces, piece) else {
                    continue;
                };
                // What there is something to say about is read every time.
                if source.reported() == before {
                    let place = pieces.place(piece, number, self.order.len(), rules.len());
                    self.places.push(place);
                }
                rules.push(rule);
            }
        }
    }

    fn piece(&mut self, source: &mut Source<'_>, pieces: &Pieces<'_>, number: usize) -> Option<Rule> {
        let (piece, parsed) = pieces.piece(number);
        let again;
        let table = match parsed {
            Parsed::Known(rule) if self.sets.are_those_of(rule) => {
                return Some(Rule {
                    origin: origin(&source.name, piece.line),
                    ..(*rule).clone()
                });
            }
            Parsed::Known(_) => {
                again = DeTable::parse_recoverable(piece.text).0;
                &again
            }
            Parsed::New(table) => table,
        };
        let lines = Lines::of(piece.text, piece.line);
        rule::read(&mut source.part(&lines), item(table.get_ref())?, &mut self.sets)
    }
}

/// A list without its rules. Errors are reported and give nothing.
fn list_head(source: &mut Source<'_>, table: &DeTable<'_>, at: usize) -> Option<List> {
    source.unknown_keys(table, &["name", "default", "rule"], "a list");
    let name = match table.get("name").map(|n| (n.get_ref().as_str(), n)) {
        Some((Some(name), _)) if !name.is_empty() => name.to_owned(),
        Some((_, value)) => {
            source.wrong_type(value, "`name`", "a string that is not empty");
            return None;
        }
        None => {
            source.error(
                at,
                "missing_key",
                "a list without `name`".into(),
                "write name = \"NAME\" under [[acl]]",
            );
            return None;
        }
    };
    let default = match table.get("default") {
        None => {
            let hint = "write default = \"deny\" or \"allow\"";
            let message = format!("list \"{name}\" has no `default`; deny is assumed");
            source.warning(at, "no_default", message, hint);
            Action::Deny
        }
        Some(v) => match v.get_ref().as_str() {
            Some("allow") => Action::Allow,
            Some("deny") => Action::Deny,
            _ => {
                let message = "`default` is neither allow nor deny".into();
                source.error(v.span().start, "bad_value", message, "write \"deny\"");
                return None;
            }
        },
    };
    Some(List {
        name,
        default,
        rules: Vec::new(),
        origin: origin(&source.name, source.line(at)),
    })
}
