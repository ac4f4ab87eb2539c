//! Longest-prefix match for IPv4 and IPv6.
//!
//! A [`Table`] maps prefixes to values (next-hop group ids). It has one writer; any number of workers read it
//! through [`TableReader`]s in bursts while it changes, under a [`qsbr`](crate::qsbr) guard, and never wait.
//!
//! ```
//! use classifier::lpm::{NO_ROUTE, Prefix, Table};
//! use classifier::qsbr::Domain;
//! let domain = Domain::new();
//! let mut table = Table::<u32>::new(&domain);
//! table.insert(Prefix::new(0x0a00_0000, 8)?, 7)?;
//! let (worker, routes) = (domain.register(), table.reader());
//! let mut values = [0; 2];
//! routes.lookup_burst(&worker.online(), &[0x0a01_0203, 0x0b00_0000], &mut values);
//! assert_eq!(values, [7, NO_ROUTE]);
//! # Ok::<(), classifier::lpm::LpmError>(())
//! ```

mod arena;
mod compressed;
mod dir24;
mod frozen;
mod image;
mod image4;
mod image6;
mod leaf;
mod lookup;
mod lookup4;
mod lookup6;
mod node;
mod prefix;
mod rib;
mod shape;
mod store;
mod table;
pub mod trie;
mod way;

pub(crate) use frozen::{Bytes, Frozen};
pub use prefix::{Addr, IpPrefix, LpmError, Prefix};
pub use table::{Engine, Table, TableReader};
pub use way::Way;

/// What a prefix maps to: the id of a next-hop group, from 0 to [`MAX_VALUE`].
pub type Value = u32;

/// The answer for an address that no prefix covers. Not a valid value of a prefix.
pub const NO_ROUTE: Value = u32::MAX;

/// The greatest value that a table takes: 2^24 different ones, 0 included.
pub const MAX_VALUE: Value = (1 << 24) - 1;

/// The most keys that one call looks up.
pub const BURST: usize = 64;

#[cfg(test)]
mod tests;
