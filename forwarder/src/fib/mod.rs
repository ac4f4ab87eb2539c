//! The forwarding information base: prefix → group → member → adjacency.
//!
//! [`Fib`] is the single writer's side and lives on the control thread; [`Routes`] is what workers read. Every step of
//! the chain is a number that leads to a published value, so that a MAC change or a lost link is one pointer write,
//! whatever number of prefixes uses it. Numbers that were taken back are given out again only when no worker can still
//! hold one.

mod adjacency;
mod group;
mod routes;
mod slots;
mod vrf;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use classifier::lpm::{self, Addr, Engine, IpPrefix, LpmError};
use classifier::packet::{Family, Headers};
use classifier::qsbr::Domain;

pub use adjacency::{AdjId, AdjState, Adjacency};
pub use group::{Group, GroupId, Member};
pub(crate) use group::{Image, Target};
pub use routes::Routes;
pub use vrf::{VrfId, VrfTables};

/// A kernel table's number (254 is `main`).
pub type TableId = u32;

/// The prefixes of one kernel table.
#[derive(Debug)]
struct Table {
    v4: lpm::Table<u32>,
    v6: lpm::Table<u128>,
}

/// Values by number, with numbers that come back once workers have let go of them.
#[derive(Debug)]
struct Numbered<T> {
    values: Vec<Option<T>>,
    /// Filled by the domain's reclamation, emptied here; both on the control thread.
    free: Arc<Mutex<Vec<u32>>>,
}

impl<T> Numbered<T> {
    fn new() -> Self {
        Self {
            values: Vec::new(),
            free: Arc::default(),
        }
    }

    fn add(&mut self, value: T) -> u32 {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match free {
            Some(number) => {
                self.values[number as usize] = Some(value);
                number
            }
            None => {
                self.values.push(Some(value));
                (self.values.len() - 1) as u32
            }
        }
    }

    fn get(&self, number: u32) -> Option<&T> {
        self.values.get(number as usize)?.as_ref()
    }

    /// Replaces a value that is there; false when it is not.
    fn set(&mut self, number: u32, value: T) -> bool {
        match self.values.get_mut(number as usize) {
            Some(slot @ Some(_)) => {
                *slot = Some(value);
                true
            }
            _ => false,
        }
    }

    /// Takes a value out. Its number is given out again once workers have let go of it; `clear` runs right before.
    fn remove(&mut self, number: u32, domain: &Domain, clear: impl FnOnce() + Send + 'static) -> Option<T> {
        let value = self.values.get_mut(number as usize)?.take()?;
        let free = self.free.clone();
        domain.retire(Box::new(move || {
            clear();
            free.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        }));
        Some(value)
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.values
            .iter()
            .enumerate()
            .filter_map(|(i, value)| Some((i as u32, value.as_ref()?)))
    }
}

/// The writer of the FIB. What it changes is seen by workers at their next burst.
#[derive(Debug)]
pub struct Fib {
    routes: Arc<Routes>,
    domain: Domain,
    tables: BTreeMap<TableId, Table>,
    vrfs: Numbered<VrfTables>,
    groups: Numbered<Group>,
    adjacencies: Numbered<Adjacency>,
}

impl Fib {
    /// An empty FIB whose default VRF looks up in table 254 (`main`), and what workers read of it.
    ///
    /// # Panics
    /// When the kernel grants no address space for an empty table.
    pub fn new(routes: Arc<Routes>) -> Self {
        let domain = routes.domain().clone();
        let mut fib = Self {
            routes,
            domain,
            tables: BTreeMap::new(),
            vrfs: Numbered::new(),
            groups: Numbered::new(),
            adjacencies: Numbered::new(),
        };
        let first = fib
            .add_vrf(VrfTables::both(&[254]))
            .expect("address space for an empty route table");
        debug_assert_eq!(first, VrfId::DEFAULT);
        fib
    }

    /// Sets the tables of the default VRF, for both families. Tables that no VRF names keep their prefixes but are not
    /// looked up.
    ///
    /// # Errors
    /// [`LpmError::Memory`] when there is no address space for one more table; nothing has changed then.
    pub fn set_tables(&mut self, tables: &[TableId]) -> Result<(), LpmError> {
        self.set_vrf(VrfId::DEFAULT, VrfTables::both(tables)).map(drop)
    }

    /// The tables of the default VRF for IPv4, in order.
    pub fn tables(&self) -> &[TableId] {
        self.vrf(VrfId::DEFAULT).map_or(&[], |tables| &tables.v4)
    }

    /// Adds a VRF.
    ///
    /// # Errors
    /// As [`set_tables`](Self::set_tables).
    pub fn add_vrf(&mut self, tables: VrfTables) -> Result<VrfId, LpmError> {
        let image = self.vrf_image(&tables)?;
        let id = VrfId(self.vrfs.add(tables));
        self.routes.set_vrf(id, image);
        Ok(id)
    }

    /// Gives a VRF other tables: one pointer write. False when there is no such VRF.
    ///
    /// # Errors
    /// As [`set_tables`](Self::set_tables).
    pub fn set_vrf(&mut self, id: VrfId, tables: VrfTables) -> Result<bool, LpmError> {
        if self.vrf(id).is_none() {
            return Ok(false);
        }
        let image = self.vrf_image(&tables)?;
        self.vrfs.set(id.0, tables);
        self.routes.set_vrf(id, image);
        Ok(true)
    }

    /// Takes a VRF away that no port is in any more. Packets on their way still use it; its number is given out again
    /// once workers have passed.
    pub fn remove_vrf(&mut self, id: VrfId) -> Option<VrfTables> {
        let routes = self.routes.clone();
        self.vrfs.remove(id.0, &self.domain, move || {
            routes.set_vrf(id, vrf::Image::default());
        })
    }

    /// The tables of a VRF.
    pub fn vrf(&self, id: VrfId) -> Option<&VrfTables> {
        self.vrfs.get(id.0)
    }

    fn vrf_image(&mut self, tables: &VrfTables) -> Result<vrf::Image, LpmError> {
        let mut image = vrf::Image::default();
        for id in &tables.v4 {
            let table = Self::table(&mut self.tables, &self.domain, *id)?;
            image.v4.push(table.v4.reader());
        }
        for id in &tables.v6 {
            let table = Self::table(&mut self.tables, &self.domain, *id)?;
            image.v6.push(table.v6.reader());
        }
        Ok(image)
    }

    /// Gives back the memory of a table that has no prefix and that no VRF names. False when it has, or one does.
    pub fn remove_table(&mut self, id: TableId) -> bool {
        let named = |tables: &VrfTables| tables.v4.contains(&id) || tables.v6.contains(&id);
        let used = self.len(id) > 0 || self.vrfs.iter().any(|(_, tables)| named(tables));
        !used && self.tables.remove(&id).is_some()
    }

    fn table<'a>(
        tables: &'a mut BTreeMap<TableId, Table>,
        domain: &Domain,
        id: TableId,
    ) -> Result<&'a mut Table, LpmError> {
        Ok(match tables.entry(id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Table {
                v4: lpm::Table::with_engine(domain, Engine::default())?,
                v6: lpm::Table::with_engine(domain, Engine::default())?,
            }),
        })
    }

    /// Adds an adjacency.
    pub fn add_adjacency(&mut self, adjacency: Adjacency) -> AdjId {
        let id = AdjId(self.adjacencies.add(adjacency));
        self.routes.adjacencies.set(id, adjacency, &self.domain);
        id
    }

    /// Changes an adjacency: one pointer write. False when there is no such adjacency.
    pub fn set_adjacency(&mut self, id: AdjId, adjacency: Adjacency) -> bool {
        if self.adjacency(id) == Some(&adjacency) {
            return true;
        }
        let known = self.adjacencies.set(id.0, adjacency);
        if known {
            self.routes.adjacencies.set(id, adjacency, &self.domain);
            self.routes.changed();
        }
        known
    }

    /// Takes an adjacency away that no group names any more. Packets on their way still go by it; once workers have
    /// passed, a group that names it all the same leads to `egress_down`.
    pub fn remove_adjacency(&mut self, id: AdjId) -> Option<Adjacency> {
        let routes = self.routes.clone();
        self.adjacencies
            .remove(id.0, &self.domain, move || routes.clear_adjacency(id))
    }

    /// The adjacency of that number.
    pub fn adjacency(&self, id: AdjId) -> Option<&Adjacency> {
        self.adjacencies.get(id.0)
    }

    /// All adjacencies.
    pub fn adjacencies(&self) -> impl Iterator<Item = (AdjId, &Adjacency)> {
        self.adjacencies
            .iter()
            .map(|(id, adjacency)| (AdjId(id), adjacency))
    }

    /// Whether a packet was sent by this adjacency since the last call.
    pub fn adjacency_used(&self, id: AdjId) -> bool {
        self.routes.adjacencies.take_used(id)
    }

    /// Adds a group.
    pub fn add_group(&mut self, group: Group) -> GroupId {
        self.add_group_after(group, None)
    }

    /// Adds a group for a prefix that led to another one until now: flows keep their member where both have it.
    pub fn add_group_after(&mut self, group: Group, before: Option<GroupId>) -> GroupId {
        let image = self.image(&group, before);
        let id = GroupId(self.groups.add(group));
        self.routes.set_group(id, image);
        id
    }

    /// What workers read of a group; `before` is the one whose flows it takes over.
    fn image(&self, group: &Group, before: Option<GroupId>) -> Image {
        let Some(before) = before else {
            return Image::new(group, None);
        };
        let reader = self.domain.register();
        let online = reader.online();
        Image::new(group, self.routes.group(&online, before))
    }

    /// Changes a group: one pointer write, and flows keep their member where they can. False when there is no such
    /// group.
    pub fn set_group(&mut self, id: GroupId, group: Group) -> bool {
        if self.group(id) == Some(&group) {
            return true;
        }
        if self.groups.get(id.0).is_none() {
            return false;
        }
        let image = self.image(&group, Some(id));
        self.groups.set(id.0, group);
        self.routes.set_group(id, image);
        self.routes.changed();
        true
    }

    /// Takes a group away that no prefix leads to any more. Packets on their way still go by it; once workers have
    /// passed, a prefix that leads to it all the same has no route.
    pub fn remove_group(&mut self, id: GroupId) -> Option<Group> {
        let routes = self.routes.clone();
        self.groups
            .remove(id.0, &self.domain, move || routes.clear_group(id))
    }

    /// The group of that number.
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(id.0)
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.groups.iter().map(|(id, group)| (GroupId(id), group))
    }

    /// Adds a prefix or leads it to another group; returns the group that it led to.
    pub fn insert(
        &mut self,
        table: TableId,
        prefix: IpPrefix,
        group: GroupId,
    ) -> Result<Option<GroupId>, LpmError> {
        let table = Self::table(&mut self.tables, &self.domain, table)?;
        let old = match prefix {
            IpPrefix::V4(prefix) => table.v4.insert(prefix, group.0),
            IpPrefix::V6(prefix) => table.v6.insert(prefix, group.0),
        }?;
        self.routes.changed();
        Ok(old.map(GroupId))
    }

    /// Takes a prefix out; returns the group that it led to.
    pub fn remove(&mut self, table: TableId, prefix: IpPrefix) -> Result<Option<GroupId>, LpmError> {
        let Some(table) = self.tables.get_mut(&table) else {
            return Ok(None);
        };
        let old = match prefix {
            IpPrefix::V4(prefix) => table.v4.remove(prefix),
            IpPrefix::V6(prefix) => table.v6.remove(prefix),
        }?;
        self.routes.changed();
        Ok(old.map(GroupId))
    }

    /// The group that exactly this prefix leads to.
    pub fn get(&self, table: TableId, prefix: IpPrefix) -> Option<GroupId> {
        let table = self.tables.get(&table)?;
        match prefix {
            IpPrefix::V4(prefix) => table.v4.get(prefix),
            IpPrefix::V6(prefix) => table.v6.get(prefix),
        }
        .map(GroupId)
    }

    /// Adds many prefixes at once, each at most once; those that are there already get the new group.
    pub fn bulk(&mut self, table: TableId, routes: Vec<(IpPrefix, GroupId)>) -> Result<(), LpmError> {
        let table = Self::table(&mut self.tables, &self.domain, table)?;
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, group) in routes {
            match prefix {
                IpPrefix::V4(prefix) => v4.push((prefix, group.0)),
                IpPrefix::V6(prefix) => v6.push((prefix, group.0)),
            }
        }
        if !v4.is_empty() {
            table.v4.load(v4)?;
        }
        if !v6.is_empty() {
            table.v6.load(v6)?;
        }
        self.routes.changed();
        Ok(())
    }

    /// All prefixes of a table with their groups: IPv4 first, each family in order.
    pub fn iter(&self, table: TableId) -> impl Iterator<Item = (IpPrefix, GroupId)> + '_ {
        self.tables.get(&table).into_iter().flat_map(|table| {
            let v4 = table
                .v4
                .iter()
                .map(|(prefix, group)| (IpPrefix::V4(prefix), GroupId(group)));
            v4.chain(
                table
                    .v6
                    .iter()
                    .map(|(prefix, group)| (IpPrefix::V6(prefix), GroupId(group))),
            )
        })
    }

    /// How many prefixes a table has.
    pub fn len(&self, table: TableId) -> usize {
        self.tables
            .get(&table)
            .map_or(0, |table| table.v4.len() + table.v6.len())
    }

    /// Whether no table has a prefix.
    pub fn is_empty(&self) -> bool {
        self.tables
            .values()
            .all(|table| table.v4.is_empty() && table.v6.is_empty())
    }

    /// Bytes that look-ups read, and bytes of all that the tables hold.
    pub fn bytes(&self) -> (usize, usize) {
        self.tables.values().fold((0, 0), |(image, all), table| {
            (
                image + table.v4.image_bytes() + table.v6.image_bytes(),
                all + table.v4.bytes() + table.v6.bytes(),
            )
        })
    }

    /// The route of an address in a VRF: its tables in order, the longest prefix in each, as workers look it up.
    pub fn lookup(&self, vrf: VrfId, address: IpAddr) -> Option<(TableId, IpPrefix, GroupId)> {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let tables = self.vrf(vrf)?.of(family);
        let mut thrown = None;
        for id in tables {
            let Some((prefix, group)) = self.longest(*id, address) else {
                continue;
            };
            if !matches!(self.group(group), Some(Group::Throw)) {
                return Some((*id, prefix, group));
            }
            // The answer when the last table throws: no route, by that group.
            thrown = (Some(id) == tables.last()).then_some((*id, prefix, group));
        }
        thrown
    }

    /// The longest prefix of a table that covers an address.
    fn longest(&self, table: TableId, address: IpAddr) -> Option<(IpPrefix, GroupId)> {
        let table = self.tables.get(&table)?;
        let (prefix, group) = match address {
            IpAddr::V4(address) => {
                let (prefix, group) = table.v4.lookup(address.to_bits())?;
                (IpPrefix::V4(prefix), group)
            }
            IpAddr::V6(address) => {
                let (prefix, group) = table.v6.lookup(address.to_bits())?;
                (IpPrefix::V6(prefix), group)
            }
        };
        Some((prefix, GroupId(group)))
    }

    /// The member that a flow takes, by the same function as the workers'. `None` when the group forwards to nobody.
    pub fn select_member(&self, group: GroupId, headers: &Headers) -> Option<AdjId> {
        let reader = self.domain.register();
        let online = reader.online();
        self.routes.member(&online, group, self.routes.hash(headers))
    }

    /// What workers read.
    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }
}

#[cfg(test)]
mod tests;
