//! The daemon.
mod state;
