//! Which tables a device's packets are looked up in: pure functions of links and policy rules.
//!
//! A device that is enslaved to a VRF uses the VRF's table, one that a rule `iif DEVICE lookup N` names uses table N. Several
//! such rules are asked in the kernel's order, by preference; `throw`, or no route, leads to the next one. Beyond the last
//! of them there is no route: where the kernel would go on with the main table, a device that was given tables of its own
//! has no others (as the kernel's Documentation/networking/vrf.rst advises to arrange with an unreachable default route).
//! Devices without either use the tables of the configuration.
//!
//! A rule that asks for more than the device (source, destination, mark, ports …) is not followed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use classifier::lpm::IpPrefix;
use forwarder::fib::{VrfId, VrfTables};

use super::message::{ANYCAST, BROADCAST, LOCAL, LinkMsg};
use super::state::{LOCAL_TABLE, State};

/// Where the kernel puts the rule for VRFs when the first one is made (`l3mdev` in net/core/fib_rules.c).
const L3MDEV_PREFERENCE: u32 = 1000;
/// `IFF_LOOPBACK`.
const LOOPBACK: u32 = 8;

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// Looks it up in a table.
    Lookup(u32),
    /// Looks it up in the table of the VRF that its device is in.
    Vrf,
    /// Ends the search: `unreachable`, `prohibit`, `blackhole`.
    End,
}

/// A policy rule that asks for the device alone, or for being in a VRF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleMsg {
    pub v6: bool,
    pub preference: u32,
    /// The device that the packet came in by; `None` for any, with [`RuleAction::Vrf`] only.
    pub iif: Option<String>,
    pub action: RuleAction,
}

/// What tells VRFs apart: the tables of each family, and the VRF's device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Vrf {
    /// Tables in the order in which they are looked up. The kernel's local table can be among them: then the node's addresses
    /// of the default VRF are own ones here, too.
    pub tables: VrfTables,
    /// Index of the VRF's device, 0 when rules alone make it.
    pub master: u32,
}

impl Vrf {
    /// The tables of a family.
    pub fn of(&self, v6: bool) -> &[u32] {
        if v6 { &self.tables.v6 } else { &self.tables.v4 }
    }

    /// The tables that have routes for forwarding, as the FIB is to look them up.
    pub fn lookups(&self) -> VrfTables {
        let forwarding = |tables: &[u32]| tables.iter().copied().filter(|t| *t != LOCAL_TABLE).collect();
        VrfTables {
            v4: forwarding(&self.tables.v4),
            v6: forwarding(&self.tables.v6),
        }
    }
}

/// A rule was added: behind those of the same preference (`fib_nl_newrule` of net/core/fib_rules.c).
pub fn add_rule(rules: &mut Vec<RuleMsg>, rule: RuleMsg) -> bool {
    if rules.contains(&rule) {
        return false;
    }
    let at = rules.partition_point(|other| other.preference <= rule.preference);
    rules.insert(at, rule);
    true
}

/// The VRFs of all devices that are not in the default one.
pub fn vrfs(links: &BTreeMap<u32, LinkMsg>, rules: &[RuleMsg], tables: &[u32]) -> BTreeMap<u32, Vrf> {
    let mut named: HashMap<&str, Vec<&RuleMsg>> = HashMap::new();
    for rule in rules {
        if let Some(name) = &rule.iif {
            named.entry(name).or_default().push(rule);
        }
    }
    if named.is_empty() && links.values().all(|link| link.vrf_table == 0) {
        return BTreeMap::new();
    }
    let preference = |v6: bool| {
        let rule = rules
            .iter()
            .find(|rule| rule.v6 == v6 && rule.action == RuleAction::Vrf);
        rule.map_or(L3MDEV_PREFERENCE, |rule| rule.preference)
    };
    let preferences = [preference(false), preference(true)];
    let of = |link: &LinkMsg| {
        let master = if link.vrf_table == 0 {
            link.master
        } else {
            link.index
        };
        let master = links.get(&master).filter(|master| master.vrf_table != 0);
        let mut asked: Vec<&RuleMsg> = named.get(link.name.as_str()).cloned().unwrap_or_default();
        // The kernel lets packets from a VRF's devices match rules that name the VRF (l3mdev_update_flow).
        if let Some(master) = master.filter(|master| master.index != link.index) {
            asked.extend(named.get(master.name.as_str()).into_iter().flatten());
            asked.sort_by_key(|rule| rule.preference);
        }
        let family = |v6: bool| {
            let own = master.map(|master| (preferences[usize::from(v6)], master.vrf_table));
            let found = in_order(asked.iter().filter(|rule| rule.v6 == v6), own);
            // Devices in a VRF are in it for both families, whatever rules say of one.
            if found.is_empty() { tables.to_vec() } else { found }
        };
        let vrf = Vrf {
            tables: VrfTables {
                v4: family(false),
                v6: family(true),
            },
            master: master.map_or(0, |master| master.index),
        };
        (vrf.master != 0 || vrf.tables.v4 != tables || vrf.tables.v6 != tables).then_some(vrf)
    };
    links
        .values()
        .filter_map(|link| Some((link.index, of(link)?)))
        .collect()
}

/// The tables that rules lead to, by preference, the VRF's own among them; each once.
fn in_order<'a>(rules: impl Iterator<Item = &'a &'a RuleMsg>, mut own: Option<(u32, u32)>) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    let push = |table: u32, found: &mut Vec<u32>| {
        if !found.contains(&table) {
            found.push(table);
        }
    };
    for rule in rules {
        if let Some((_, table)) = own.take_if(|(preference, _)| *preference <= rule.preference) {
            push(table, &mut found);
        }
        match rule.action {
            RuleAction::Lookup(table) => push(table, &mut found),
            RuleAction::Vrf => {}
            RuleAction::End => return found,
        }
    }
    if let Some((_, table)) = own {
        push(table, &mut found);
    }
    found
}

/// In which VRFs prefixes are the node's own.
///
/// The addresses of a VRF's devices are in the VRF's table. All others are in the kernel's one local table, whatever rules
/// say; here they belong to the VRF of their device, so that the same address can be the node's in one plan and a host's in
/// another. Those of the loopback device belong to every VRF that rules alone make, as the kernel asks its local table before
/// any rule.
#[derive(Debug, Default)]
pub struct Scopes {
    /// By family: the VRFs with these tables, the default one among them.
    by_tables: [HashMap<Vec<u32>, Vec<VrfId>>; 2],
    /// By family: the VRFs that look up in a table.
    by_table: [HashMap<u32, Vec<VrfId>>; 2],
    /// By family: the VRFs that have the loopback device's addresses.
    loopback: [Vec<VrfId>; 2],
    tables: Vec<u32>,
}

impl Scopes {
    /// For these VRFs besides the default one, which looks up in `tables`.
    pub fn new<'a>(tables: &[u32], vrfs: impl Iterator<Item = (&'a Vrf, VrfId)>) -> Self {
        let mut scopes = Self {
            tables: tables.to_vec(),
            ..Self::default()
        };
        let default = Vrf {
            tables: VrfTables::both(tables),
            master: 0,
        };
        scopes.add(&default, VrfId::DEFAULT);
        for (vrf, id) in vrfs {
            scopes.add(vrf, id);
        }
        scopes
    }

    fn add(&mut self, vrf: &Vrf, id: VrfId) {
        for family in [0, 1] {
            let tables = vrf.of(family == 1);
            self.by_tables[family]
                .entry(tables.to_vec())
                .or_default()
                .push(id);
            for table in tables {
                self.by_table[family].entry(*table).or_default().push(id);
            }
            if vrf.master == 0 {
                self.loopback[family].push(id);
            }
        }
    }

    /// The VRFs in which a prefix is the node's own.
    pub fn owners(&self, state: &State, prefix: IpPrefix) -> BTreeSet<VrfId> {
        let v6 = prefix.addr().is_ipv6();
        let family = usize::from(v6);
        let mut owners = BTreeSet::new();
        for (table, ids) in &self.by_table[family] {
            if *table != LOCAL_TABLE && state.has_local(*table, prefix) {
                owners.extend(ids);
            }
        }
        for route in state.rib.get(LOCAL_TABLE, prefix) {
            let Some(target) = state.rib.targets.get(route.target) else {
                continue;
            };
            if !is_own(target.kind) {
                continue;
            }
            let index = target.hops.first().map_or(0, |hop| hop.index);
            let vrf = state.vrfs.get(&index);
            let tables = vrf.map_or(&self.tables[..], |vrf| vrf.of(v6));
            owners.extend(self.by_tables[family].get(tables).into_iter().flatten());
            if vrf.is_none() {
                owners.extend(self.by_table[family].get(&LOCAL_TABLE).into_iter().flatten());
                let link = state.links.get(&index);
                if link.is_some_and(|link| link.flags & LOOPBACK != 0) {
                    owners.extend(&self.loopback[family]);
                }
            }
        }
        owners
    }
}

/// Whether packets with such a route are the node's.
pub fn is_own(kind: u8) -> bool {
    matches!(kind, LOCAL | BROADCAST | ANYCAST)
}

impl State {
    /// The tables whose routes are looked up for packets that come in by a device.
    pub fn tables_of(&self, index: u32, v6: bool) -> &[u32] {
        self.vrfs.get(&index).map_or(&self.tables, |vrf| vrf.of(v6))
    }

    /// Whether two devices are in the same VRF for a family, or the other one is the loopback device of all that are in none of
    /// the kernel's.
    pub(super) fn shares_vrf(&self, index: u32, other: u32, v6: bool) -> bool {
        let loopback = self
            .links
            .get(&other)
            .is_some_and(|link| link.flags & LOOPBACK != 0);
        let in_kernels = self.vrfs.get(&index).is_some_and(|vrf| vrf.master != 0);
        self.tables_of(index, v6) == self.tables_of(other, v6) || loopback && !in_kernels
    }

    /// After links or rules have changed: finds out which device is in which VRF, and which tables are followed. Routes of
    /// tables that are followed no longer are forgotten.
    pub(super) fn settle_vrfs(&mut self, changes: &mut super::state::Changes) {
        if !std::mem::take(&mut self.vrfs_stale) {
            return;
        }
        let vrfs = vrfs(&self.links, &self.rules, &self.tables);
        if vrfs == self.vrfs {
            return;
        }
        self.vrfs = vrfs;
        changes.vrfs = true;
        let of = |vrf: &Vrf| {
            vrf.tables
                .v4
                .iter()
                .chain(&vrf.tables.v6)
                .copied()
                .collect::<Vec<_>>()
        };
        let mut followed: BTreeSet<u32> = self.vrfs.values().flat_map(of).collect();
        followed.extend(&self.tables);
        followed.remove(&LOCAL_TABLE);
        let left: Vec<u32> = self.followed.difference(&followed).copied().collect();
        self.followed = followed;
        for table in left {
            let prefixes: Vec<IpPrefix> = self.rib.prefixes(table).collect();
            for prefix in prefixes {
                self.rib.set(table, prefix, &[]);
                changes.prefixes.push((table, prefix));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, master: u32, vrf_table: u32) -> (u32, LinkMsg) {
        let link = LinkMsg {
            index,
            name: name.into(),
            master,
            vrf_table,
            ..LinkMsg::default()
        };
        (index, link)
    }

    fn rule(preference: u32, v6: bool, iif: &str, action: RuleAction) -> RuleMsg {
        let iif = (!iif.is_empty()).then(|| iif.to_owned());
        RuleMsg {
            v6,
            preference,
            iif,
            action,
        }
    }

    fn found(rules: &[RuleMsg], index: u32) -> Option<(Vec<u32>, Vec<u32>, u32)> {
        let links = BTreeMap::from([
            link(1, "lo", 0, 0),
            link(2, "eth0", 0, 0),
            link(3, "red", 0, 10),
            link(4, "eth1", 3, 0),
            link(5, "br0", 0, 0),
            link(6, "eth2", 5, 0),
        ]);
        let mut kept = Vec::new();
        for rule in rules {
            add_rule(&mut kept, rule.clone());
        }
        let vrf = vrfs(&links, &kept, &[254]).remove(&index)?;
        Some((vrf.tables.v4, vrf.tables.v6, vrf.master))
    }

    #[test]
    fn rules_give_tables_in_their_order() {
        use RuleAction::{End, Lookup, Vrf};
        assert_eq!(found(&[], 2), None);
        let hundred = rule(200, false, "eth0", Lookup(100));
        assert_eq!(
            found(std::slice::from_ref(&hundred), 2),
            Some((vec![100], vec![254], 0))
        );
        assert_eq!(found(std::slice::from_ref(&hundred), 6), None);
        let earlier = rule(100, false, "eth0", Lookup(99));
        assert_eq!(
            found(&[hundred.clone(), earlier.clone()], 2),
            Some((vec![99, 100], vec![254], 0))
        );
        let end = rule(150, false, "eth0", End);
        assert_eq!(
            found(&[hundred.clone(), earlier, end], 2),
            Some((vec![99], vec![254], 0))
        );
        let main = rule(1, true, "eth0", Lookup(254));
        assert_eq!(found(&[main], 2), None, "what it would be anyway");
        // A slave of a VRF, of a bridge, the VRF's own device.
        assert_eq!(found(&[], 4), Some((vec![10], vec![10], 3)));
        assert_eq!(found(&[], 3), Some((vec![10], vec![10], 3)));
        assert_eq!(found(&[], 6), None);
        let l3mdev = rule(1000, false, "", Vrf);
        let before = rule(900, false, "red", Lookup(9));
        let after = rule(2000, false, "eth1", Lookup(11));
        assert_eq!(
            found(&[l3mdev, before, after], 4),
            Some((vec![9, 10, 11], vec![10], 3))
        );
    }
}
