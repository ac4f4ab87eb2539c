//! `cargo xtask bench acl`: access lists next to DPDK's `rte_acl`, where Debian's libdpdk is there.

use crate::run::{self, Failure};
use crate::setup;

/// Builds the peer where it can be built, runs the measurement of the `benches` crate, prints its table and writes `docs/acl.svg`.
/// `options` go to the program: `benches/src/bin/acl.rs` lists them.
pub fn acl(options: &[&str]) -> Result<(), Failure> {
    setup::install(&[setup::BUILD])?;
    let mut command = run::cargo();
    command
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "benches",
            "--bin",
            "acl",
            "--",
        ])
        .args(options);
    match peer()? {
        Some(program) => {
            command.env("ACL_PEER", program);
        }
        None => eprintln!("no peer: install libdpdk-dev to measure rte_acl beside"),
    }
    run::succeed(&mut command)
}

/// Builds `benches/peers/acl_dpdk.c`; nothing where libdpdk is missing.
fn peer() -> Result<Option<std::path::PathBuf>, Failure> {
    let flags = |what: &str| run::capture(run::command("pkg-config").args([what, "libdpdk"]));
    let Ok((true, cflags)) = flags("--cflags") else {
        return Ok(None);
    };
    let (true, libs) = flags("--libs")? else {
        return Ok(None);
    };
    let program = run::root().join("target/acl_dpdk");
    let mut cc = run::command("cc");
    cc.args(["-O3", "-march=native", "-Wno-deprecated-declarations"])
        .args(cflags.split_whitespace())
        .arg(run::root().join("benches/peers/acl_dpdk.c"))
        .arg("-o")
        .arg(&program)
        .args(libs.split_whitespace());
    run::succeed(&mut cc)?;
    Ok(Some(program))
}
