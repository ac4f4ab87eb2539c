//! Pure functions over bytes and tables: packet parsing, checksums, access lists, longest-prefix match.
//!
//! Nothing here does I/O, takes a lock or allocates on the look-up side. Everything that changes while workers
//! read it is published through [`qsbr`].

pub mod acl;
pub mod checksum;
pub mod filter;
pub mod lpm;
pub mod packet;
pub mod qsbr;
