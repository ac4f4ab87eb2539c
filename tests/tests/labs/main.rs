//! Labs in network namespaces; `cargo xtask test` runs them. See `tests/src/lib.rs` for what they are built from.

mod common;

mod abuse;
mod acl;
mod attack;
mod bgp;
mod census;
mod churn;
mod dhcp;
mod doctor;
mod exit;
mod fire;
mod flood;
mod hundreds;
mod icmp;
mod idle;
mod leaks;
mod local;
mod malformed;
mod metrics;
mod neighbours;
mod overrun;
mod panics;
mod protection;
mod queues;
mod reach;
mod routes;
mod silent;
mod socket;
mod stalls;
mod startup;
mod starved;
mod top;
mod views;
mod watch;
