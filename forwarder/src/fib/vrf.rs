//! VRFs: which tables a packet's addresses are looked up in, by the port that it came in through.

use classifier::lpm::{BURST, NO_ROUTE, TableReader};
use classifier::packet::Family;
use classifier::qsbr::{Domain, Online, Published};

use super::slots::Slots;
use super::{Addr, TableId};

/// The number of a VRF: a list of tables for each family, looked up in order until one has a route.
///
/// Every port is in one VRF. What one VRF knows is never looked up for the packets of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct VrfId(pub u32);

impl VrfId {
    /// The VRF of ports that are in no other one.
    pub const DEFAULT: VrfId = VrfId(0);
}

/// The tables of a VRF, in the order in which they are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct VrfTables {
    /// For IPv4.
    pub v4: Vec<TableId>,
    /// For IPv6.
    pub v6: Vec<TableId>,
}

impl VrfTables {
    /// The same tables for both families, each once.
    pub fn both(tables: &[TableId]) -> Self {
        let mut each: Vec<TableId> = Vec::with_capacity(tables.len());
        for id in tables {
            if !each.contains(id) {
                each.push(*id);
            }
        }
        Self {
            v4: each.clone(),
            v6: each,
        }
    }

    /// Those of one family.
    pub fn of(&self, family: Family) -> &[TableId] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// What workers read of a VRF. One that is not there has no tables, and so no routes.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pub(crate) v4: Vec<TableReader<u32>>,
    pub(crate) v6: Vec<TableReader<u128>>,
}

#[derive(Debug)]
struct Slot(Published<Image>);

impl Default for Slot {
    fn default() -> Self {
        Self(Published::new(Image::default()))
    }
}

/// All VRFs.
#[derive(Debug)]
pub(crate) struct Vrfs {
    slots: Slots<Slot>,
}

impl Vrfs {
    pub(crate) fn new() -> Self {
        Self { slots: Slots::new() }
    }

    /// One pointer write: packets of the next burst are looked up in the new tables.
    pub(crate) fn set(&self, id: VrfId, image: Image, domain: &Domain) {
        self.slots.make(id.0).0.replace(image, domain);
    }

    /// Looks up to [`BURST`] addresses of either family up; `out[i]` becomes the group for `keys[i]`, or [`NO_ROUTE`].
    /// A group for which `goes_on` holds sends the look-up to the next table, if there is one.
    pub(crate) fn lookup_burst(
        &self,
        online: &Online<'_>,
        id: VrfId,
        keys: &[(Family, u128)],
        out: &mut [u32],
        goes_on: impl Fn(u32) -> bool,
    ) {
        out[..keys.len()].fill(NO_ROUTE);
        let Some(slot) = self.slots.get(id.0) else { return };
        let image = slot.0.load(online);
        let (mut v4, mut v6) = (Keys::<u32>::new(), Keys::<u128>::new());
        for (at, (family, address)) in keys.iter().enumerate() {
            match family {
                Family::V4 => v4.push(*address as u32, at),
                Family::V6 => v6.push(*address, at),
            }
        }
        v4.lookup(online, &image.v4, out, &goes_on);
        v6.lookup(online, &image.v6, out, &goes_on);
    }
}

/// The addresses of one family in a burst, and where each one stands in it.
struct Keys<A> {
    keys: [A; BURST],
    at: [u8; BURST],
    len: usize,
}

impl<A: Addr> Keys<A> {
    #[inline]
    fn new() -> Self {
        Self {
            keys: [A::default(); BURST],
            at: [0; BURST],
            len: 0,
        }
    }

    #[inline]
    fn push(&mut self, key: A, at: usize) {
        (self.keys[self.len], self.at[self.len]) = (key, at as u8);
        self.len += 1;
    }

    fn lookup(
        &mut self,
        online: &Online<'_>,
        tables: &[TableReader<A>],
        out: &mut [u32],
        goes_on: &impl Fn(u32) -> bool,
    ) {
        for (number, table) in tables.iter().enumerate() {
            if self.len == 0 {
                return;
            }
            let mut values = [NO_ROUTE; BURST];
            table.lookup_burst(online, &self.keys[..self.len], &mut values);
            for (at, value) in self.at[..self.len].iter().zip(values) {
                out[usize::from(*at)] = value;
            }
            if number + 1 == tables.len() {
                return;
            }
            let mut rest = 0;
            for (lane, value) in values.into_iter().enumerate().take(self.len) {
                if value == NO_ROUTE || goes_on(value) {
                    (self.keys[rest], self.at[rest]) = (self.keys[lane], self.at[lane]);
                    rest += 1;
                }
            }
            self.len = rest;
        }
    }
}
