//! `cargo xtask bench forward` and `cargo xtask figures`: what the `benches` crate measures in network namespaces.

use crate::run::{self, Failure};
use crate::setup;

/// 64-byte frames a second through margayd, the kernel and DPDK's testpmd; `options` go to the program (`--help` lists them).
pub fn forward(options: &[&str]) -> Result<(), Failure> {
    measure("forward", options, &[setup::BUILD, setup::NETWORK, setup::PEERS])
}

/// Latencies and the full table: see `benches/src/bin/figures.rs`.
pub fn figures(options: &[&str]) -> Result<(), Failure> {
    measure("figures", options, &[setup::BUILD, setup::NETWORK])
}

fn measure(program: &str, options: &[&str], needs: &[&[setup::Need]]) -> Result<(), Failure> {
    run::need_root("this is measured in network namespaces, with BPF programs")?;
    setup::install(needs)?;
    run::build_binaries()?;
    let mut command = run::bench_program(program);
    command.args(options).env("MARGAY_BIN_DIR", run::binaries());
    run::succeed(&mut command)
}
