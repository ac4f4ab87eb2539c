//! Labs on real drivers: `cargo xtask test --vm` runs them in a virtual machine, one after another. Their topology is
//! drawn in `tests/src/guest.rs`; docs/vm.md says how to add one.

mod common;

mod coexist;
mod core;
mod jumbo;
mod life;
mod machine;
mod modes;
mod stacked;
mod tap;
mod vlan;
mod vrf;
