//! Labs in network namespaces; `cargo xtask test` runs them. See `tests/src/lib.rs` for what they are built from.

mod common;

mod churn;
mod queues;
mod reach;
mod routes;
mod silent;
