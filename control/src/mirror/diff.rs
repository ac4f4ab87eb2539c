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
use super::vrf::Vrf;

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
    let tables = state
        .followed
        .union(&fresh.followed)
        .copied()
        .chain([LOCAL_TABLE]);
    if only.is_none() {
        compare_vrfs(fresh, gaps, state, program, fib, &mut differences);
    }
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

/// Which tables are looked up for the packets of each device.
fn compare_vrfs(
    fresh: &State,
    gaps: Gaps,
    state: &State,
    program: &Program,
    fib: &Fib,
    differences: &mut Vec<Difference>,
) {
    let devices: BTreeSet<u32> = fresh.vrfs.keys().chain(state.vrfs.keys()).copied().collect();
    let text = |vrf: Option<&Vrf>| match vrf {
        Some(vrf) => format!(
            "IPv4 by tables {:?}, IPv6 by tables {:?}",
            vrf.tables.v4, vrf.tables.v6
        ),
        None => "by the configured tables".to_owned(),
    };
    for index in devices {
        let (kernel, own) = (fresh.vrfs.get(&index), state.vrfs.get(&index));
        let link = fresh.links.get(&index).or_else(|| state.links.get(&index));
        let programmed = own.is_none_or(|vrf| fib.vrf(program.vrf(state, index)) == Some(&vrf.lookups()));
        if kernel != own && !gaps.others || !programmed {
            let margay = if programmed {
                text(own)
            } else {
                "not programmed".to_owned()
            };
            differences.push(Difference {
                prefix: format!("iif {}", link.map_or("?", |link| link.name.as_str())),
                table: own
                    .or(kernel)
                    .and_then(|vrf| vrf.tables.v4.first().copied())
                    .unwrap_or(0),
                kernel: text(kernel),
                margay,
            });
        }
    }
}

/// The steering program's prefixes against the local table and what VRFs have of their own.
fn compare_local(state: &State, program: &Program, differences: &mut Vec<Difference>) {
    let wanted = program.expected_local(state);
    for entry in wanted.symmetric_difference(program.local()) {
        let (prefix, vrf) = entry;
        let side = |yes: bool| match (yes, vrf.0) {
            (false, _) => String::new(),
            (true, 0) => "to the kernel".to_owned(),
            (true, number) => format!("to the kernel in VRF {number}"),
        };
        differences.push(Difference {
            prefix: prefix.to_string(),
            table: LOCAL_TABLE,
            kernel: side(wanted.contains(entry)),
            margay: side(program.local().contains(entry)),
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
