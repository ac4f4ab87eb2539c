//! The control plane: everything around the data plane that may take its time.
//!
//! `margayd` mirrors the kernel's tables into the data plane, compiles access lists, guards closed ports while it
//! is away and answers on a control socket. `margay` is nothing but a client of that socket, plus the few commands
//! that need no daemon.

pub mod acl;
pub mod bench;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod filter;
pub mod guard;
pub mod metrics;
pub mod mirror;
pub mod socket;
pub mod sys;
pub mod top;
