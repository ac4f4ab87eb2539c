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

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use classifier::lpm::{self, IpPrefix, LpmError};
use classifier::packet::Headers;
use classifier::qsbr::Domain;

pub use adjacency::{AdjId, AdjState, Adjacency};
pub use group::{Group, GroupId, Member};
pub(crate) use group::{Image, Target};
pub use routes::Routes;
pub(crate) use routes::TableReaders;

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
    order: Vec<TableId>,
    groups: Numbered<Group>,
    adjacencies: Numbered<Adjacency>,
}

impl Fib {
    /// An empty FIB that looks up in table 254 (`main`), and what workers read of it.
    pub fn new(routes: Arc<Routes>) -> Self {
        let domain = routes.domain().clone();
        let mut fib = Self {
            routes,
            domain,
            tables: BTreeMap::new(),
            order: Vec::new(),
            groups: Numbered::new(),
            adjacencies: Numbered::new(),
        };
        fib.set_tables(&[254]);
        fib
    }

    /// Sets the tables that are looked up, in that order, until one has a route. Tables that are not named keep their
    /// prefixes but are not looked up.
    pub fn set_tables(&mut self, tables: &[TableId]) {
        let mut order: Vec<TableId> = Vec::with_capacity(tables.len());
        for id in tables {
            if !order.contains(id) {
                order.push(*id);
            }
        }
        let readers = order.iter().map(|id| {
            let table = Self::table(&mut self.tables, &self.domain, *id);
            TableReaders {
                v4: table.v4.reader(),
                v6: table.v6.reader(),
            }
        });
        self.routes.set_tables(readers.collect());
        self.order = order;
    }

    /// The tables that are looked up, in order.
    pub fn tables(&self) -> &[TableId] {
        &self.order
    }

    fn table<'a>(tables: &'a mut BTreeMap<TableId, Table>, domain: &Domain, id: TableId) -> &'a mut Table {
        tables.entry(id).or_insert_with(|| Table {
            v4: lpm::Table::new(domain),
            v6: lpm::Table::new(domain),
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
        let image = Image::new(&group, None);
        let id = GroupId(self.groups.add(group));
        self.routes.set_group(id, image);
        id
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
        let reader = self.domain.register();
        let image = {
            let online = reader.online();
            Image::new(&group, self.routes.group(&online, id))
        };
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
        let table = Self::table(&mut self.tables, &self.domain, table);
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
        let table = Self::table(&mut self.tables, &self.domain, table);
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

    /// The route of an address: the tables in order, the longest prefix in each, as workers look it up.
    pub fn lookup(&self, address: IpAddr) -> Option<(TableId, IpPrefix, GroupId)> {
        self.order.iter().find_map(|id| {
            let table = self.tables.get(id)?;
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
            Some((*id, prefix, GroupId(group)))
        })
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
