//! Running other programs.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why a command of xtask ended: a sentence for the user.
#[derive(Debug)]
pub struct Failure(pub String);

/// Where system programs are, whatever the caller's PATH says: `su` without `-` leaves the sbin folders out.
pub const SYSTEM: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Adds the system's folders to the end of PATH.
pub fn extend_path() {
    let path = search_path();
    let joined = std::env::join_paths(path).unwrap_or_else(|_| OsString::from(SYSTEM.join(":")));
    PATH.get_or_init(|| joined);
}

static PATH: std::sync::OnceLock<OsString> = std::sync::OnceLock::new();

/// The folders in which programs are looked for.
pub fn search_path() -> Vec<PathBuf> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let mut path: Vec<PathBuf> = std::env::split_paths(&own).collect();
    path.extend(
        SYSTEM
            .iter()
            .map(PathBuf::from)
            .filter(|folder| !std::env::split_paths(&own).any(|own| own == *folder)),
    );
    path
}

/// A program found by [`search_path`].
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    if let Some(path) = PATH.get() {
        command.env("PATH", path);
    }
    command
}

/// The cargo that runs this, in the workspace's root.
pub fn cargo() -> Command {
    let mut cargo = command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// A program of the benches, built with optimisation; what is added to the command are the program's own arguments.
pub fn bench_program(name: &str) -> Command {
    let mut cargo = cargo();
    cargo.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "benches",
        "--bin",
        name,
        "--",
    ]);
    cargo
}

/// Builds `benches/peers/NAME.c` against DPDK, for this processor; `None` where its library is not to be had.
pub fn dpdk_peer(name: &str) -> Result<Option<PathBuf>, Failure> {
    let flags = capture(command("pkg-config").args(["--cflags", "--libs", "libdpdk"]));
    let Ok((true, flags)) = flags else {
        return Ok(None);
    };
    let program = root().join("target").join(name);
    let mut cc = command("cc");
    cc.args(["-O3", "-march=native", "-Wno-deprecated-declarations", "-o"])
        .arg(&program)
        .arg(root().join("benches/peers").join(format!("{name}.c")))
        .args(flags.split_whitespace());
    succeed(&mut cc)?;
    Ok(Some(program))
}

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}

/// Where the binaries are: what `MARGAY_BIN_DIR` says (installed ones, say), or the release build.
pub fn binaries() -> PathBuf {
    if let Some(folder) = std::env::var_os("MARGAY_BIN_DIR") {
        return root().join(folder);
    }
    target().join("release")
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(|target| root().join(target));
    target.unwrap_or_else(|| root().join("target"))
}

/// Builds `margayd` and `margay`, unless `MARGAY_BIN_DIR` says that they are there already.
pub fn build_binaries() -> Result<(), Failure> {
    if std::env::var_os("MARGAY_BIN_DIR").is_some() {
        return Ok(());
    }
    succeed(cargo().args(["build", "--release", "--package", "control"]))
}

/// Runs a command whose output the user sees.
pub fn succeed(command: &mut Command) -> Result<(), Failure> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure(format!("{} ended with {status}", line(command)))),
        Err(error) => Err(Failure(format!("{} cannot be run: {error}", line(command)))),
    }
}

/// Runs a command and answers whether it succeeded and what it printed on both streams.
pub fn capture(command: &mut Command) -> Result<(bool, String), Failure> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| Failure(format!("{} cannot be run: {error}", line(command))))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

/// A command as the user would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Refuses to go on for anybody but root.
pub fn need_root(why: &str) -> Result<(), Failure> {
    // The standard library does not tell the user id; the kernel does: "Uid: real effective saved filesystem" (proc_pid_status(5)).
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1));
    match uid {
        Some("0") => Ok(()),
        _ => Err(Failure(format!("run this as root: {why}"))),
    }
}
