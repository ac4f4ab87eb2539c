//! What surrounds the code: setting up a machine, showing Margay at work, testing it.
//!
//! ```text
//! cargo xtask demo [--keep|--down]   two hosts, five containers, a fabric and BGP in network namespaces; see demo.rs
//! cargo xtask test [FILTER]          unit tests, property tests and labs, or those whose names contain FILTER
//! cargo xtask test --vm [FILTER]     labs on real drivers and on several kernels, in a virtual machine; see vm/mod.rs
//! cargo xtask test --soak [FILTER]   the labs for as long as it takes to see what is rare: half an hour and more
//! cargo xtask fuzz [SECONDS]         each fuzz target for so long (12 s); needs nightly and cargo-fuzz
//! cargo xtask sanitize               loom, Miri and AddressSanitizer over the modules with unsafe code
//! cargo xtask setup                  only install what the two need
//! cargo xtask figures                measure what the labs do not assert: route to first packet, wake-up after idling
//! cargo xtask bench acl              access lists next to DPDK's rte_acl
//! cargo xtask bench forward          64-byte frames a second next to the kernel and DPDK's testpmd
//! cargo xtask bench lpm              route look-ups next to DPDK's rte_fib, rte_lpm and rte_fib6
//! ```
//! Each installs first what is missing, and says so. Standard library only: this must build where nothing else is there yet.

mod bench_acl;
mod bench_forward;
mod bench_lpm;
mod checks;
mod demo;
mod run;
mod setup;
mod vm;

use std::process::ExitCode;

use run::Failure;

const USAGE: &str = "\
usage: cargo xtask COMMAND
  demo [--keep|--down]   watch two nodes forward between containers; --keep leaves it up, --down removes it
  test [FILTER]          run all tests, or those whose names contain FILTER
  test --vm [--kernel 6.1|6.12|newest]... [--short] [FILTER]...
                         run the labs on real drivers, in a virtual machine with Debian's kernels
  test --soak [FILTER]   run the labs for as long as it takes to see what is rare
  fuzz [SECONDS]         run each fuzz target for so long (12 s)
  sanitize               loom, Miri and AddressSanitizer over the modules with unsafe code
  setup                  install what the other commands need, and nothing else
  figures [OPTIONS]      measure latencies and the full table in a lab and print them
  bench acl [OPTIONS]    access lists next to DPDK's rte_acl: a table, and a chart under docs/
  bench forward [OPTIONS]  64-byte frames a second next to the kernel and DPDK's testpmd
  bench lpm [--rounds N]   route look-ups next to DPDK's; writes docs/lpm.svg";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run::extend_path();
    let result = match words[..] {
        ["demo"] => demo::show(demo::Ending::Remove),
        ["demo", "--keep"] => demo::show(demo::Ending::Keep),
        ["demo", "--down"] => demo::down(),
        [demo::INNER, ending] => demo::inner(ending),
        ["test"] => test(None),
        ["test", "--soak"] => soak(None),
        ["test", "--soak", filter] => soak(Some(filter)),
        ["test", filter] if !filter.starts_with('-') => test(Some(filter)),
        ["test", "--vm", ref words @ ..] if vm::understands(words) => vm::test(words),
        ["fuzz"] => checks::fuzz(12),
        ["fuzz", seconds] if seconds.parse::<u32>().is_ok() => checks::fuzz(seconds.parse().unwrap_or(12)),
        ["sanitize"] => checks::sanitize(),
        ["setup"] => setup::install(&[setup::BUILD, setup::NETWORK, setup::DEMO, setup::LABS]),
        ["figures", ref options @ ..] => bench_forward::figures(options),
        ["bench", "acl", ref options @ ..] => bench_acl::acl(options),
        ["bench", "lpm", ref options @ ..] => bench_lpm::lpm(options),
        ["bench", "forward", ref options @ ..] => bench_forward::forward(options),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(message)) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Unit and property tests first, then the labs against the release binaries, a few at a time: a lab is mostly waiting, but the
/// daemons of too many at once would wait for the processor.
fn test(filter: Option<&str>) -> Result<(), Failure> {
    run::need_root("labs make network namespaces and load BPF programs")?;
    setup::install(&[setup::BUILD, setup::NETWORK, setup::DEMO, setup::LABS])?;
    run::build_binaries()?;
    let filter = filter.as_slice();
    let units = run::cargo()
        .args(["test", "--no-fail-fast", "--workspace", "--exclude", "tests"])
        .args(filter)
        .status();
    let labs = labs(filter, "3").status();
    for (what, status) in [("unit and property tests", units), ("labs", labs)] {
        let status = status.map_err(|error| Failure(format!("cargo cannot be run: {error}")))?;
        if !status.success() {
            return Err(Failure(format!("{what} failed")));
        }
    }
    Ok(())
}

/// The labs against the release binaries, so many at a time.
fn labs(filter: &[&str], threads: &str) -> std::process::Command {
    let mut cargo = run::cargo();
    cargo
        .args(["test", "--package", "tests"])
        .args(filter)
        .args(["--", "--test-threads", threads])
        .env("MARGAY_BIN_DIR", run::binaries());
    cargo
}

/// The labs one after the other, each for as long as it takes to see what is rare, then the mirror's tests with the full table.
fn soak(filter: Option<&str>) -> Result<(), Failure> {
    run::need_root("labs make network namespaces and load BPF programs")?;
    setup::install(&[setup::BUILD, setup::NETWORK, setup::DEMO, setup::LABS])?;
    run::build_binaries()?;
    run::succeed(labs(filter.as_slice(), "1").env("MARGAY_SOAK", "1"))?;
    let mut mirror = run::cargo();
    mirror
        .args(["test", "--package", "control", "--test", "mirror"])
        .args(filter)
        .args(["--", "--nocapture"])
        .env("MARGAY_SOAK", "1");
    run::succeed(&mut mirror)
}
