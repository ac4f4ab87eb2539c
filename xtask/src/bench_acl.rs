//! `cargo xtask bench acl`: access lists next to DPDK's `rte_acl`, where Debian's libdpdk is there.

use crate::run::{self, Failure};
use crate::setup;

/// Builds the peer where it can be built, runs the measurement of the `benches` crate, prints its table and writes `docs/acl.svg`.
/// `options` go to the program: `benches/src/bin/acl.rs` lists them.
pub fn acl(options: &[&str]) -> Result<(), Failure> {
    setup::install(&[setup::BUILD])?;
    let mut command = run::bench_program("acl");
    command.args(options);
    match run::dpdk_peer("acl_dpdk")? {
        Some(program) => {
            command.env("ACL_PEER", program);
        }
        None => eprintln!("no peer: install libdpdk-dev to measure rte_acl beside"),
    }
    run::succeed(&mut command)
}
