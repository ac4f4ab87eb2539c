//! What a full Internet table costs: time to mirror it, next to a plain dump, and memory.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::wait_for;
use crate::lab::{GATEWAY_V4, GATEWAY_V6, Lab};
use crate::router::Margayd;
use crate::{Context, Error, Result};

/// What was measured.
#[derive(Debug, Default)]
pub struct Figures {
    /// Prefixes loaded, IPv4 and IPv6.
    pub prefixes: (usize, usize),
    /// Seconds that `ip -batch` took to load them.
    pub batch_s: f64,
    /// Seconds of `ip route show table main | wc -l` and `ip -6 route show table main | wc -l` together.
    pub dump_s: f64,
    /// Routes that those two counted.
    pub dumped: usize,
    /// Seconds from the start of margayd to readiness with all of them.
    pub mirror_s: f64,
    /// Routes that margayd then had, in all.
    pub mirrored: u64,
    /// Resident memory then and at its highest, MiB.
    pub resident_mib: (f64, f64),
    /// Seconds of `route show --diff-kernel`, which found no difference.
    pub diff_s: f64,
}

/// The prefix file: `prefixes.txt.gz` of the shared data.
pub fn prefix_file() -> PathBuf {
    let data = std::env::var_os("MARGAY_DATA").map(PathBuf::from);
    let data =
        data.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")));
    data.join("prefixes.txt.gz")
}

/// Loads the table into the router's kernel, dumps it, and mirrors it. `None` when the prefix file is not there.
pub fn measure(lab: &Lab) -> Result<Option<Figures>> {
    let file = prefix_file();
    if !file.exists() {
        eprintln!(
            "SKIPPED: no prefixes at {} (set MARGAY_DATA to the folder that holds them)",
            file.display()
        );
        return Ok(None);
    }
    let mut text = String::new();
    let opened = fs::File::open(&file).context(file.display())?;
    flate2::read::GzDecoder::new(opened)
        .read_to_string(&mut text)
        .context(file.display())?;
    let (v6, v4): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains(':'));
    let mut figures = Figures {
        prefixes: (v4.len(), v6.len()),
        ..Figures::default()
    };

    let start = Instant::now();
    load(lab, "-4", &v4, GATEWAY_V4)?;
    load(lab, "-6", &v6, GATEWAY_V6)?;
    figures.batch_s = start.elapsed().as_secs_f64();

    let start = Instant::now();
    for family in ["-4", "-6"] {
        figures.dumped += dump(lab, family)?;
    }
    figures.dump_s = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut margayd = Margayd::spawn(lab, "adaptive")?;
    wait_for("margayd with the full table", Duration::from_secs(120), || {
        margayd.ready()
    })?;
    figures.mirror_s = start.elapsed().as_secs_f64();
    let status = margayd.json("status")?;
    figures.mirrored = status["routes"].as_u64().unwrap_or_default();
    if (figures.mirrored as usize) < v4.len() + v6.len() {
        return Err(Error::new(format!(
            "margayd has only {} routes",
            figures.mirrored
        )));
    }
    figures.resident_mib = (memory(margayd.pid(), "VmRSS:")?, memory(margayd.pid(), "VmHWM:")?);
    let start = Instant::now();
    margayd
        .cli("route show --diff-kernel")
        .context("mirror and kernel differ")?;
    figures.diff_s = start.elapsed().as_secs_f64();
    Ok(Some(figures))
}

/// Loads prefixes with `ip -batch`. Prefixes that the lab uses itself stay as they are.
fn load(lab: &Lab, family: &str, prefixes: &[&str], gateway: &str) -> Result<()> {
    let mut ip = Command::new("ip")
        .args([
            "netns",
            "exec",
            &lab.router(),
            "ip",
            family,
            "-force",
            "-batch",
            "-",
        ])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("ip -batch")?;
    let input = ip
        .stdin
        .take()
        .ok_or_else(|| Error::new("ip -batch has no input"))?;
    let mut input = std::io::BufWriter::new(input);
    for prefix in prefixes {
        writeln!(input, "route add {prefix} via {gateway}").context("ip -batch")?;
    }
    input.flush().context("ip -batch")?;
    drop(input);
    ip.wait().context("ip -batch")?;
    Ok(())
}

/// `ip route show table main | wc -l`.
fn dump(lab: &Lab, family: &str) -> Result<usize> {
    let line = format!("ip {family} route show table main | wc -l");
    let output = Command::new("ip")
        .args(["netns", "exec", &lab.router(), "sh", "-c", &line])
        .output();
    let output = output.context(&line)?;
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .context(&line)
}

/// A line of `/proc/PID/status`, in MiB.
fn memory(pid: u32, key: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).context(&path)?;
    let kib = text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .split_whitespace()
            .next()?
            .parse::<f64>()
            .ok()
    });
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| Error::new(format!("no {key} in {path}")))
}
