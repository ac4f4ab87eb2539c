//! Checks that need a nightly toolchain, and the model checker: fuzzing, Miri, sanitizers, loom.

use std::process::Command;

use crate::run::{self, Failure};

/// The toolchain that fuzzing, Miri and the sanitizers need.
const NIGHTLY: &str = "nightly";

/// AddressSanitizer needs to be told the target, or it would be put into build scripts too.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Unit tests that Miri can run: those over memory and threads that ask no kernel and no vector instruction. Under the interpreter a
/// step costs a thousand times what it costs otherwise, so tests that go through millions are left out.
const MIRI: &[(&str, &[&str])] = &[
    ("classifier", &["qsbr", "arena"]),
    ("forwarder", &["ring::", "frame::"]),
];

/// Runs each fuzz target for so many seconds, from the seeds and what earlier runs have found.
pub fn fuzz(seconds: u32) -> Result<(), Failure> {
    if !has_nightly("fuzz targets")? || !has_cargo_fuzz()? {
        return Ok(());
    }
    run::succeed(&mut in_fuzz(&["run", "--release", "--quiet", "--bin", "seeds"]))?;
    run::succeed(&mut in_fuzz(&["fuzz", "build"]))?;
    for target in targets()? {
        println!("xtask: fuzzing {target} for {seconds} s");
        let limit = format!("-max_total_time={seconds}");
        let options = ["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"];
        let mut command = in_fuzz(&["fuzz", "run", &target, "--", &limit]);
        run::succeed(command.args(options))?;
    }
    Ok(())
}

/// The fuzz targets: a file each.
fn targets() -> Result<Vec<String>, Failure> {
    let folder = run::root().join("fuzz/fuzz_targets");
    let files = std::fs::read_dir(&folder)
        .map_err(|error| Failure(format!("{} cannot be read: {error}", folder.display())))?;
    let mut names: Vec<String> = files
        .flatten()
        .filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Model checker, Miri and AddressSanitizer over the modules with unsafe code.
pub fn sanitize() -> Result<(), Failure> {
    println!("xtask: loom: publication of values and reuse of blocks");
    let mut loom = run::cargo();
    loom.args(["test", "--package", "classifier", "--lib", "loom_"])
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", run::root().join("target/loom"));
    run::succeed(&mut loom)?;
    println!("xtask: loom: the hand-over between workers");
    run::succeed(run::cargo().args(["test", "--package", "forwarder", "--lib", "worker::model"]))?;
    if !has_nightly("Miri and AddressSanitizer")? {
        return Ok(());
    }
    for (package, filters) in MIRI {
        for filter in *filters {
            miri(package, filter)?;
        }
    }
    println!("xtask: AddressSanitizer: classifier and forwarder");
    let mut address = nightly(&[
        "test",
        "--target",
        TRIPLE,
        "--package",
        "classifier",
        "--package",
        "forwarder",
        "--lib",
    ]);
    address
        .env("RUSTFLAGS", "-Zsanitizer=address")
        // What is still reachable at the end of a test process is no leak of the daemon's.
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .env("CARGO_TARGET_DIR", run::root().join("target/asan"));
    run::succeed(&mut address)
}

/// Runs the unit tests of a package that a filter names under Miri. A filter that names none is a mistake in here.
fn miri(package: &str, filter: &str) -> Result<(), Failure> {
    println!("xtask: Miri: {package}, {filter}");
    let mut miri = nightly(&["miri", "test", "--package", package, "--lib", "--", filter]);
    miri.env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("CARGO_TARGET_DIR", run::root().join("target/miri"));
    let (passed, said) = run::capture(&mut miri)?;
    print!("{said}");
    match passed && !said.contains("running 0 tests") {
        true => Ok(()),
        false if passed => Err(Failure(format!("Miri: {package} has no tests called {filter}"))),
        false => Err(Failure(format!("Miri: the tests {filter} of {package} failed"))),
    }
}

/// `cargo` of the nightly toolchain, in the workspace's root.
fn nightly(words: &[&str]) -> Command {
    let mut command = run::command("rustup");
    command
        .args(["run", NIGHTLY, "cargo"])
        .args(words)
        .current_dir(run::root());
    // The cargo that runs this has said which toolchain it is of.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

/// The same in the fuzz targets' own workspace.
fn in_fuzz(words: &[&str]) -> Command {
    let mut command = nightly(words);
    command.current_dir(run::root().join("fuzz"));
    command
}

/// Whether the nightly toolchain is there with what is needed of it. In CI it is installed; elsewhere its absence is said, loudly.
fn has_nightly(what: &str) -> Result<bool, Failure> {
    if run::capture(&mut nightly(&["miri", "--version"])).is_ok_and(|(there, _)| there) {
        return Ok(true);
    }
    let install = "rustup toolchain install nightly --profile minimal --component miri,rust-src";
    if std::env::var_os("CI").is_none() {
        eprintln!("xtask: SKIPPED {what}: a nightly toolchain with Miri is needed ({install})");
        return Ok(false);
    }
    println!("xtask: {install}");
    run::succeed(run::command("sh").args(["-c", install]))?;
    Ok(true)
}

fn has_cargo_fuzz() -> Result<bool, Failure> {
    if run::capture(&mut nightly(&["fuzz", "--version"])).is_ok_and(|(there, _)| there) {
        return Ok(true);
    }
    if std::env::var_os("CI").is_none() {
        eprintln!("xtask: SKIPPED fuzz targets: cargo-fuzz is needed (cargo install cargo-fuzz)");
        return Ok(false);
    }
    run::succeed(run::cargo().args(["install", "--locked", "cargo-fuzz"]))?;
    Ok(true)
}
