//! Kernel against mirror against data plane, prefix by prefix.

use std::collections::{BTreeSet, HashMap};

use classifier::lpm::IpPrefix;
use forwarder::fib::{Fib, GroupId};

use super::dump::Gaps;
use super::plan::{Found, plan, want};
use super::program::Program;
use super::rib::TargetId;
use super::state::{LOCAL_TABLE, State};
use super::view::Difference;

/// Everything in which a fresh dump, the mirror and the data plane do not agree.
///
/// First the routes themselves: all of a prefix, in order. Where they agree, the data plane's own entry: the group that
/// the prefix leads to, member by member, with weights, MTU, port and MAC addresses.
pub fn compare(
    fresh: &State,
    gaps: Gaps,
    state: &State,
    program: &Program,
    fib: &Fib,
    only: Option<u32>,
) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut same = SameTargets::default();
    // Groups are shared: each is compared once.
    let mut groups: HashMap<GroupId, bool> = HashMap::new();
    let tables = state.tables.iter().copied().chain([LOCAL_TABLE]);
    for table in tables.filter(|table| only.is_none_or(|only| only == *table)) {
        for prefix in fresh.rib.prefixes(table) {
            if !same.routes(fresh, state, table, prefix) {
                differences.push(Difference {
                    prefix: prefix.to_string(),
                    table,
                    kernel: fresh.text(table, prefix),
                    margay: state.text(table, prefix),
                });
            }
        }
        for prefix in state.rib.prefixes(table) {
            let missing = fresh.rib.get(table, prefix).is_empty();
            if missing && !(gaps.routes6 && prefix.addr().is_ipv6()) {
                let margay = state.text(table, prefix);
                differences.push(Difference {
                    prefix: prefix.to_string(),
                    table,
                    kernel: String::new(),
                    margay,
                });
            }
        }
        if table == LOCAL_TABLE {
            compare_local(state, program, &mut differences);
        } else {
            compare_fib(state, program, fib, table, &mut groups, &mut differences);
        }
    }
    differences
}

/// The steering program's prefixes against the local table and what VRFs have of their own.
fn compare_local(state: &State, program: &Program, differences: &mut Vec<Difference>) {
    let tables = state.tables.iter().copied().chain([LOCAL_TABLE]);
    let wanted: BTreeSet<IpPrefix> = tables
        .flat_map(|table| {
            let prefixes = state.rib.prefixes(table);
            prefixes.filter(move |prefix| state.has_local(table, *prefix))
        })
        .collect();
    for prefix in wanted.symmetric_difference(program.local()) {
        let side = |yes: bool| {
            if yes {
                "to the kernel".to_owned()
            } else {
                String::new()
            }
        };
        differences.push(Difference {
            prefix: prefix.to_string(),
            table: LOCAL_TABLE,
            kernel: side(wanted.contains(prefix)),
            margay: side(program.local().contains(prefix)),
        });
    }
}

fn compare_fib(
    state: &State,
    program: &Program,
    fib: &Fib,
    table: u32,
    groups: &mut HashMap<GroupId, bool>,
    differences: &mut Vec<Difference>,
) {
    let neighbours = state
        .neighbours
        .keys()
        .map(|(address, _)| IpPrefix::host(*address));
    let extra: BTreeSet<IpPrefix> = neighbours
        .chain(fib.iter(table).map(|(prefix, _)| prefix))
        .filter(|prefix| state.rib.get(table, *prefix).is_empty())
        .collect();
    for prefix in state.rib.prefixes(table).chain(extra) {
        let (wanted, found) = (want(state, table, prefix), fib.get(table, prefix));
        let right = match (wanted, found) {
            (None, None) => true,
            (Some(key), Some(id)) if program.key(id) == Some(key) => *groups
                .entry(id)
                .or_insert_with(|| Found::read(fib, id) == program.expected(state, &plan(state, key))),
            _ => false,
        };
        if !right {
            let wanted = wanted.map(|key| state.found_text(&program.expected(state, &plan(state, key))));
            let found = found.map(|id| state.found_text(&Found::read(fib, id)));
            differences.push(Difference {
                prefix: prefix.to_string(),
                table,
                kernel: wanted.unwrap_or_default(),
                margay: found.unwrap_or_default(),
            });
        }
    }
}

/// Remembers which targets of two states have the same content.
#[derive(Debug, Default)]
struct SameTargets(HashMap<(TargetId, TargetId), bool>);

impl SameTargets {
    fn targets(&mut self, a: &State, b: &State, ids: (TargetId, TargetId)) -> bool {
        *self
            .0
            .entry(ids)
            .or_insert_with(|| a.rib.targets.get(ids.0) == b.rib.targets.get(ids.1))
    }

    fn routes(&mut self, a: &State, b: &State, table: u32, prefix: IpPrefix) -> bool {
        let (one, other) = (a.rib.get(table, prefix), b.rib.get(table, prefix));
        one.len() == other.len()
            && one.iter().zip(other).all(|(x, y)| {
                (x.metric, x.protocol, x.tos) == (y.metric, y.protocol, y.tos)
                    && self.targets(a, b, (x.target, y.target))
            })
    }
}
