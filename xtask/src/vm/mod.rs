//! Labs on real drivers: a guest under QEMU's software emulation, on this machine's own root file system.
//!
//! ```text
//! packages   Debian's kernels and QEMU, fetched and unpacked into target/vm and nowhere else
//! image      the first file system of a guest: mounts the host's root read-only, with memory above it for what is written
//! guest      one guest: its NICs and wires, its console, its end
//! ```
//! No KVM is needed, and none is used where there is one: a run is the same everywhere.

mod guest;
mod image;
mod packages;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::run::{self, Failure};
use crate::setup;
use packages::Kernel;

/// How `cargo xtask test --vm` goes on.
pub const USAGE: &str = "[--kernel 6.1|6.12|newest]... [--short] [FILTER]...";

/// Labs whose names begin so run on every kernel, the others on the newest only.
const CORE: &str = "core::";

/// Labs of the short run, of which CI has one on every change.
const SHORT: &str = "core::";

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wish<'a> {
    kernels: Vec<&'static Kernel>,
    short: bool,
    filters: Vec<&'a str>,
}

/// Reads the words after `--vm`; `None` when they make no sense.
fn wish<'a>(words: &[&'a str]) -> Option<Wish<'a>> {
    let mut wish = Wish {
        kernels: Vec::new(),
        short: false,
        filters: Vec::new(),
    };
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        match word {
            "--short" => wish.short = true,
            "--kernel" => {
                let name = words.next()?;
                wish.kernels
                    .push(packages::KERNELS.iter().find(|kernel| kernel.name == *name)?);
            }
            // Filters become words of a shell script.
            _ if word.starts_with('-') || word.contains('\'') => return None,
            _ => wish.filters.push(word),
        }
    }
    if wish.kernels.is_empty() {
        let newest = packages::KERNELS.len() - 1;
        wish.kernels = packages::KERNELS[if wish.short { newest } else { 0 }..]
            .iter()
            .collect();
    }
    Some(wish)
}

/// Whether the words after `--vm` make sense.
pub fn understands(words: &[&str]) -> bool {
    wish(words).is_some()
}

/// Runs the labs that are made for the guest.
pub fn test(words: &[&str]) -> Result<(), Failure> {
    let Some(wish) = wish(words) else {
        return Err(Failure(format!("cargo xtask test --vm {USAGE}")));
    };
    run::need_root("the guest is given this machine's root file system to read")?;
    setup::install(&[setup::BUILD, setup::NETWORK, setup::DEMO, setup::LABS])?;
    let cache = run::target().join("vm");
    let fetched =
        packages::tools(&cache).and_then(|tools| Ok((tools, packages::kernels(&cache, &wish.kernels)?)));
    let (tools, kernels) = match fetched {
        Ok(fetched) => fetched,
        Err(Failure(why)) => return skipped(&why),
    };
    run::build_binaries()?;
    let labs = build_labs()?;
    let mut failed = Vec::new();
    for (kernel, found) in wish.kernels.iter().zip(&kernels) {
        let begun = Instant::now();
        let initial = image::build(&cache, &tools, found)?;
        let newest = *kernel == &packages::KERNELS[packages::KERNELS.len() - 1];
        let filters: &[&str] = match &wish.filters[..] {
            [] if wish.short => &[SHORT],
            [] if !newest => &[CORE],
            filters => filters,
        };
        println!(
            "xtask: booting Linux {} under {}",
            found.version,
            tools.version()?
        );
        let is_outside = |filter: &&str| filter.starts_with(guest::OUTSIDE);
        let mut result = Ok(());
        if filters.is_empty() || !filters.iter().all(is_outside) {
            let script = guest::script(&tools, found, &labs, filters);
            result = guest::run(&cache, &tools, found, &initial, &script);
        }
        if result.is_ok() && (filters.is_empty() || filters.iter().any(is_outside)) {
            result = outside(&cache, &tools, found, &initial, &labs, filters);
        }
        let seconds = begun.elapsed().as_secs();
        match result {
            Ok(()) => println!("xtask: labs on Linux {} passed in {seconds} s", found.version),
            Err(Failure(why)) => {
                println!(
                    "xtask: labs on Linux {} failed after {seconds} s: {why}",
                    found.version
                );
                failed.push(format!("Linux {}: {why}", found.version));
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failure(failed.join("; ")))
    }
}

/// Runs the labs on this machine that boot a guest as a workload.
fn outside(
    cache: &Path,
    tools: &packages::Tools,
    kernel: &packages::Found,
    initial: &Path,
    labs: &Path,
    filters: &[&str],
) -> Result<(), Failure> {
    let prelude = cache.join("prelude.sh");
    fs::write(&prelude, guest::prelude(tools, kernel))
        .map_err(|error| Failure(format!("{}: {error}", prelude.display())))?;
    let mut command = run::command(&labs.display().to_string());
    command
        .current_dir(run::root().join("tests"))
        .env(
            "MARGAY_VM_LAUNCH",
            guest::launcher(cache, tools, kernel, initial)?,
        )
        .env("MARGAY_VM_PRELUDE", prelude)
        .env("MARGAY_BIN_DIR", run::binaries())
        .args(["--test-threads", "1", "--nocapture"]);
    if filters.is_empty() {
        command.arg(guest::OUTSIDE);
    }
    run::succeed(command.args(filters.iter().filter(|filter| filter.starts_with(guest::OUTSIDE))))
}

/// The packages cannot be had: said loudly, and in CI a failure, because a lab that never runs is worth nothing.
fn skipped(why: &str) -> Result<(), Failure> {
    let line = format!("SKIPPED the labs in the virtual machine: {why}");
    if env::var_os("CI").is_some_and(|value| value == "true" || value == "1") {
        return Err(Failure(format!(
            "{line} (a skipped lab is a failure under CI=true)"
        )));
    }
    println!("xtask: {line}");
    Ok(())
}

/// Builds the labs and answers where the program is.
fn build_labs() -> Result<PathBuf, Failure> {
    let mut cargo = run::cargo();
    cargo
        .args(["test", "--package", "tests", "--features", "vm", "--test", "vm"])
        .args(["--no-run", "--message-format=json-render-diagnostics"])
        .stderr(std::process::Stdio::inherit());
    let output = cargo
        .output()
        .map_err(|error| Failure(format!("cargo cannot be run: {error}")))?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = executable(&messages);
    match program {
        Some(program) if output.status.success() => Ok(program.into()),
        _ => Err(Failure("the labs could not be built".to_owned())),
    }
}

/// The program that cargo's messages name: the one `"executable"` that is not null.
fn executable(messages: &str) -> Option<&str> {
    messages
        .lines()
        .filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next())
        .next_back()
}

/// `PATH`-like: folders of libraries.
fn joined(folders: &[PathBuf]) -> String {
    env::join_paths(folders).map_or_else(
        |_| String::new(),
        |joined| OsStr::to_string_lossy(&joined).into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood() {
        let all = wish(&[]).unwrap();
        assert_eq!(all.kernels.len(), packages::KERNELS.len());
        let short = wish(&["--short"]).unwrap();
        assert_eq!(short.kernels.len(), 1);
        assert_eq!(short.kernels[0].name, "newest");
        let one = wish(&["--kernel", "6.1", "igb"]).unwrap();
        assert_eq!(
            (one.kernels[0].name, one.kernels.len(), &one.filters[..]),
            ("6.1", 1, &["igb"][..])
        );
        for wrong in [&["--kernel"][..], &["--kernel", "2.6"], &["--what"], &["it's"]] {
            assert_eq!(wish(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null,\"fresh\":true}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/debug/deps/vm-1\",\"fresh\":true}\n\
                        {\"reason\":\"build-finished\",\"success\":true}";
        assert_eq!(executable(messages), Some("/t/debug/deps/vm-1"));
        assert_eq!(executable("{\"executable\":null}"), None);
    }
}
