//! DPDK's side of `cargo xtask bench lpm`: the peer program and its huge pages.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::{core, number, text};
use crate::run::{self, Failure};

/// Huge pages (2 MiB) that DPDK's tables take.
const PAGES: u32 = 1_000;

/// Reserved huge pages; dropping it gives back what was taken.
struct HugePages {
    before: u32,
}

impl HugePages {
    const COUNT: &str = "/proc/sys/vm/nr_hugepages";

    /// Enough pages, `None` where the kernel or missing privileges refuse them.
    fn reserve() -> Option<Self> {
        let count = || fs::read_to_string(Self::COUNT).ok()?.trim().parse().ok();
        let pages = Self { before: count()? };
        if pages.before < PAGES {
            // Dropped, and so given back, when it is too little.
            fs::write(Self::COUNT, PAGES.to_string()).ok()?;
        }
        (count()? >= PAGES).then_some(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(Self::COUNT, self.before.to_string());
    }
}

/// The peer program, loaded and waiting for keys.
pub(super) struct Peer {
    child: Child,
    input: ChildStdin,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    _reserved: Option<HugePages>,
}

impl Peer {
    pub(super) fn start(
        program: &Path,
        folder: &Path,
        family: &str,
        loads: &mut Vec<(String, f64)>,
    ) -> Result<Self, Failure> {
        let reserved = HugePages::reserve();
        let pages: &[&str] = if reserved.is_some() {
            &["--in-memory"]
        } else {
            println!("no huge pages for DPDK (root can have them reserved): its tables lie in small ones");
            &["--no-huge"]
        };
        let mut child = run::command(&program.display().to_string())
            .args(pages)
            .args([
                "-m",
                "1900",
                "--no-pci",
                "--no-telemetry",
                "--force-max-simd-bitwidth=512",
            ])
            .args(["--log-level=error", "-l", &core(), "--"])
            .arg(folder.join("prefixes.txt"))
            .arg(family)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure(format!("{}: {error}", program.display())))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(Failure("the peer has no pipes".into()));
        };
        eprintln!("loading DPDK's tables for IPv{family} (rte_lpm takes most of a minute)");
        let mut peer = Self {
            child,
            input,
            lines: BufReader::new(output).lines(),
            _reserved: reserved,
        };
        for line in peer.until("\"ready\"")? {
            loads.push((
                text(&line, "loaded").unwrap_or_default(),
                number(&line, "load_seconds")?,
            ));
        }
        Ok(peer)
    }

    /// The lines up to the one that holds `end`.
    fn until(&mut self, end: &str) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        loop {
            match self.lines.next() {
                Some(Ok(line)) if line.contains(end) => return Ok(lines),
                Some(Ok(line)) => lines.push(line),
                _ => return Err(Failure("the peer ended early; it has said why".into())),
            }
        }
    }

    /// The results of all methods over the keys of a file.
    pub(super) fn run(&mut self, keys: &Path) -> Result<Vec<String>, Failure> {
        writeln!(self.input, "run {}", keys.display())
            .map_err(|error| Failure(format!("the peer: {error}")))?;
        self.until("\"done\"")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "quit");
        let _ = self.child.wait();
    }
}
