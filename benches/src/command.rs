//! Running other programs, in a namespace or not.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Context, Error, Result, sys};

/// Runs a command line (split at blanks) and returns its standard output; an error has what it wrote to standard error.
pub fn run(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().ok_or_else(|| Error::new("empty command"))?;
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .context(program)?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(format!("{line}: {}", error.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command line in a namespace.
pub fn run_in(netns: &str, line: &str) -> Result<String> {
    run(&format!("ip netns exec {netns} {line}"))
}

/// Asks until `done` says yes; an error that names `what` when it has not within `limit`.
pub fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        sys::check_interrupt()?;
        if done()? {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Error::new(format!("{what} did not happen within {limit:?}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sleeps, but wakes and fails on an interrupt.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        sys::check_interrupt()?;
        thread::sleep(left.min(Duration::from_millis(50)));
    }
    Ok(())
}
