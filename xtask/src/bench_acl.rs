//! `cargo xtask bench acl`: access lists next to DPDK's `rte_acl`, and in a running margayd.

use crate::run::{self, Failure};
use crate::setup;

/// Installs what is missing, builds the peer, runs the measurement of the `benches` crate, which prints its table and writes
/// `docs/acl.svg`. `options` go to the program: `benches/src/bin/acl.rs` lists them.
pub fn acl(options: &[&str]) -> Result<(), Failure> {
    setup::install(&[setup::BUILD, setup::NETWORK, setup::LOOKUP_PEERS])?;
    // One rule more is timed through the daemon itself.
    run::build_binaries()?;
    let mut command = run::bench_program("acl");
    command.args(options);
    match run::dpdk_peer("acl_dpdk")? {
        Some(program) => {
            command.env("ACL_PEER", program);
        }
        None => eprintln!("no peer: DPDK's library cannot be linked with"),
    }
    run::succeed(&mut command)
}
