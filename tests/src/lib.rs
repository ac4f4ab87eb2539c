//! What the labs are built from.
//!
//! A lab is a test that builds a network of its own out of network namespaces and veth pairs, runs `margayd` in some of them and looks
//! at it only from outside: through packets, through the kernel and through `margay`. The labs themselves are in `tests/labs/`, one a
//! file, each with its topology drawn at its head.
//!
//! | Module | What it is for |
//! |---|---|
//! | [`lab`] | the lab: its name, its directory, its namespaces; cleans up after itself and after runs that died |
//! | [`host`] | one namespace: commands, programs and threads inside it |
//! | [`margay`] | a `margayd` in a namespace and the questions that labs ask of it |
//! | [`wait`] | waiting for a described condition with a time limit |
//! | [`schema`] | JSON answers checked against `docs/schema/` |
//! | [`random`] | numbers that look random and are the same in every run |
//! | [`raw`] | frames made by hand, sent and received on a device |
//! | [`traffic`] | numbered datagrams from one namespace to another, and what was lost of them |
//! | [`transfer`] | many datagrams with payloads that are checked byte by byte |
//! | [`twin`] | the same network twice, with the kernel and with Margay as its router |
//! | [`guest`] | the NICs of the virtual machine, for the labs in `tests/vm/` |
//! | [`sys`] | the few system calls that need `unsafe` |

pub mod guest;
pub mod host;
pub mod lab;
pub mod margay;
pub mod random;
pub mod raw;
pub mod schema;
pub mod sys;
pub mod traffic;
pub mod transfer;
pub mod twin;
pub mod wait;

pub use host::{Done, Host};
pub use lab::{Lab, Link};
pub use margay::Margay;
pub use wait::{LIMIT, never, wait_for};
