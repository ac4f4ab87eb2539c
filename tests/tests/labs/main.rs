//! Labs in network namespaces; `cargo xtask test` runs them. See `tests/src/lib.rs` for what they are built from.

mod common;

mod acl;
mod bgp;
mod churn;
mod dhcp;
mod exit;
mod flood;
mod icmp;
mod idle;
mod leaks;
mod local;
mod malformed;
mod metrics;
mod neighbours;
mod overrun;
mod protection;
mod queues;
mod reach;
mod routes;
mod silent;
mod socket;
mod watch;
