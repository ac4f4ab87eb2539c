//! The pipeline over plain memory: no kernel, no UMEM, the same code that workers run.
//!
//! ```text
//!                 10.0.0.0/16                       10.1.0.0/16, 2001:db8:1::/48
//!  hosts ── port 0 (uplink) ── the path under test ── port 1 (workload)
//!            2001:db8::/48             │               10.2.0.0/16, 2001:db8:2::/48
//!                                      └───────────── port 2
//! ```

mod acl;
mod agreement;
mod answers;
mod chained;
mod concurrent;
mod explained;
mod forwarding;
mod fragments;
mod held;
mod property;
mod rig;
mod taps;
