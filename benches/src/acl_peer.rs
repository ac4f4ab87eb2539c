//! DPDK's `rte_acl` as a process of its own: built once for a set, asked for a round whenever it is our turn to wait.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{Context, Error, Result};

/// The process. Dropping it ends it.
pub struct Peer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    /// Seconds that it took to build.
    pub build: f64,
    /// Bytes that it holds.
    pub bytes: f64,
}

impl Peer {
    /// Starts the program that `ACL_PEER` names, and waits until it is built and all its methods have found what the keys
    /// expect. A round takes the best of `shots` measurements of 3 ms. `None` without `ACL_PEER`.
    ///
    /// # Errors
    /// A peer that does not start, that finds other rules, or that cannot build the set.
    pub fn start(rules: &Path, keys: &Path, shots: usize) -> Result<Option<Peer>> {
        let Some(program) = std::env::var_os("ACL_PEER") else {
            return Ok(None);
        };
        let mut child = Command::new(program)
            .arg(rules)
            .arg(keys)
            .args([&shots.to_string(), "3", "serve"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the peer")?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| Error::new("the peer has no output"))?;
        let mut peer = Peer {
            child,
            lines: BufReader::new(stdout).lines(),
            build: 0.0,
            bytes: 0.0,
        };
        loop {
            let line = peer.line()?;
            if line == "ready" {
                return Ok(Some(peer));
            }
            let answer: serde_json::Value = serde_json::from_str(&line).context("the peer's answer")?;
            let field = |name: &str| answer[name].as_f64().unwrap_or(0.0);
            if field("mismatches") != 0.0 {
                return Err(Error::new(format!("the peer finds other rules: {line}")));
            }
            (peer.build, peer.bytes) = (field("load_seconds"), field("bytes"));
        }
    }

    fn line(&mut self) -> Result<String> {
        let line = self.lines.next().ok_or_else(|| Error::new("the peer ended"))?;
        line.context("the peer's output")
    }

    /// Classifications a second of its fastest method, measured now.
    ///
    /// # Errors
    /// A peer that has ended.
    pub fn round(&mut self) -> Result<f64> {
        let stdin = self
            .child
            .stdin
            .as_mut()
            .ok_or_else(|| Error::new("the peer has no input"))?;
        stdin.write_all(b"\n").context("asking the peer")?;
        stdin.flush().context("asking the peer")?;
        let line = self.line()?;
        line.parse()
            .map_err(|_| Error::new(format!("the peer answered {line}")))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
