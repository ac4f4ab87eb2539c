//! One network namespace of a lab, and what is run inside of it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::lab::lock;
use crate::sys;

/// A host of a lab: cheap to copy, removed with its lab.
#[derive(Clone)]
pub struct Host(Arc<HostInner>);

pub(crate) struct HostInner {
    name: String,
    netns: String,
    fd: OwnedFd,
    directory: PathBuf,
    programs: Mutex<Vec<Arc<Program>>>,
}

/// A program that keeps running beside the test.
pub struct Program {
    name: String,
    log: PathBuf,
    pid: u32,
    child: Mutex<Child>,
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Done {
    /// The exit status; 124 when the command ran into the time limit, 128 and the signal when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error stream.
    pub err: String,
}

impl HostInner {
    pub(crate) fn create(name: &str, netns: &str, directory: &Path) -> Host {
        let made = Command::new("ip").args(["netns", "add", netns]).output();
        let made = made.unwrap_or_else(|error| panic!("ip (package iproute2) cannot be run: {error}"));
        assert!(
            made.status.success(),
            "ip netns add {netns}: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let file = File::open(Path::new("/run/netns").join(netns))
            .expect("a namespace that was just made can be opened");
        let host = Host(Arc::new(Self {
            name: name.to_owned(),
            netns: netns.to_owned(),
            fd: file.into(),
            directory: directory.to_owned(),
            programs: Mutex::default(),
        }));
        host.sysctl("net.ipv4.ip_forward", "0");
        for set in ["all", "default"] {
            host.sysctl(&format!("net.ipv4.conf.{set}.rp_filter"), "0");
            host.sysctl(&format!("net.ipv6.conf.{set}.accept_dad"), "0");
            host.sysctl(&format!("net.ipv6.conf.{set}.disable_ipv6"), "0");
        }
        host.sh("ip link set lo up");
        host
    }
}

impl Host {
    /// The host's name in its lab's drawing.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name of its namespace, for `ip link ... netns`.
    pub fn netns(&self) -> &str {
        &self.0.netns
    }

    /// Where its files go; shared with the other hosts of the lab.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        sys::inside(&mut command, self.0.fd.as_fd());
        command
    }

    /// Runs a shell script in the namespace, at most a minute, and tells how it ended.
    pub fn try_sh(&self, script: &str) -> Done {
        let mut command = self.command("timeout");
        command.args(["-k", "5", "60", "sh", "-ec", script]);
        finish(&mut command)
    }

    /// Runs a shell script in the namespace and answers its standard output.
    ///
    /// # Panics
    /// When a command in it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let done = self.try_sh(script);
        assert!(
            done.code == 0,
            "on {}: {script}\nended with {}: {}{}",
            self.name(),
            done.code,
            done.err,
            done.out
        );
        done.out
    }

    /// Starts a program that goes on running until the lab ends. What it prints goes to a log file, which a failing lab shows.
    ///
    /// # Panics
    /// When there is no such program.
    #[track_caller]
    pub fn start(&self, name: &str, mut command: Command) -> Arc<Program> {
        let log = self.0.directory.join(format!("{}-{name}.log", self.name()));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the lab's directory can be written");
        command
            .stderr(file.try_clone().expect("a descriptor can be copied"))
            .stdout(file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let program = Arc::new(Program {
            name: name.to_owned(),
            log,
            pid: child.id(),
            child: Mutex::new(child),
        });
        lock(&self.0.programs).push(program.clone());
        program
    }

    /// [`Host::start`] for a command line.
    #[track_caller]
    pub fn spawn(&self, name: &str, line: &str) -> Arc<Program> {
        let mut command = self.command("sh");
        command.args(["-c", &format!("exec {line}")]);
        self.start(name, command)
    }

    /// Runs `work` on a thread inside the namespace. Sockets that it opens stay there, wherever they are used afterwards.
    ///
    /// # Panics
    /// When `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                sys::enter(self.0.fd.as_fd()).expect("root may enter a namespace of its own");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets a sysctl of the namespace; dots separate, as in `sysctl(8)`.
    ///
    /// # Panics
    /// When the kernel does not take it.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = proc_sys(name);
        let written = self.enter(|| fs::write(&path, value));
        written.unwrap_or_else(|error| panic!("on {}: {path} = {value}: {error}", self.name()));
    }

    /// Reads a sysctl of the namespace; empty when there is none of that name.
    pub fn get_sysctl(&self, name: &str) -> String {
        let path = proc_sys(name);
        self.enter(|| fs::read_to_string(path))
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// The MAC address of a device.
    ///
    /// # Panics
    /// When there is no such device.
    #[track_caller]
    pub fn mac(&self, device: &str) -> [u8; 6] {
        let shown = self.sh(&format!("ip -o link show dev {device}"));
        let text = shown
            .split("link/ether ")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next());
        let bytes: Vec<u8> = text
            .into_iter()
            .flat_map(|mac| mac.split(':'))
            .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
            .collect();
        bytes
            .try_into()
            .unwrap_or_else(|_| panic!("no MAC address in: {shown}"))
    }

    /// One ping; whether it was answered within two seconds.
    pub fn pings(&self, address: &str) -> bool {
        self.try_sh(&format!("ping -n -c 1 -W 2 {address}")).code == 0
    }

    /// Waits until a ping of `address` is answered.
    ///
    /// # Panics
    /// When none is within [`crate::LIMIT`].
    #[track_caller]
    pub fn reaches(&self, address: &str) {
        crate::wait_for(
            &format!("{} reaches {address}", self.name()),
            crate::LIMIT,
            || {
                let done = self.try_sh(&format!("ping -n -c 1 -W 1 {address}"));
                if done.code == 0 {
                    Ok(())
                } else {
                    Err(format!("ping said: {}{}", done.out, done.err))
                }
            },
        );
    }

    pub(crate) fn report(&self) {
        eprintln!("\n=== {} ({})", self.name(), self.netns());
        let asked = "ip -br link; ip -br addr; ip route show table all | grep -v 'table local'; ip -6 route; ip neigh; ip -6 neigh";
        for line in asked.split("; ") {
            eprintln!("--- {line}\n{}", self.try_sh(line).out);
        }
        for program in lock(&self.0.programs).iter() {
            eprintln!(
                "--- the end of {}\n{}",
                program.log.display(),
                program.log_tail(40)
            );
        }
    }

    pub(crate) fn remove(&self) {
        for program in lock(&self.0.programs).drain(..) {
            program.end();
        }
        remove_namespace(&self.0.netns);
    }
}

/// Ends what still runs in a namespace of ours and removes it.
pub(crate) fn remove_namespace(netns: &str) {
    if let Ok(listed) = Command::new("ip").args(["netns", "pids", netns]).output() {
        for pid in String::from_utf8_lossy(&listed.stdout)
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
        {
            if pid != std::process::id() {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
        }
    }
    let _ = Command::new("ip")
        .args(["netns", "del", netns])
        .stderr(Stdio::null())
        .status();
}

fn proc_sys(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

impl Program {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal; none when it has ended already.
    pub fn signal(&self, signal: i32) {
        if self.exited().is_none() {
            let _ = sys::kill(self.pid, signal);
        }
    }

    /// Its exit status once it has ended; 128 and the signal when a signal ended it.
    pub fn exited(&self) -> Option<i32> {
        lock(&self.child).try_wait().ok().flatten().map(code)
    }

    /// Ends it at once.
    pub fn end(&self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last `lines` lines of what it has printed.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Seconds of processor time that it has used so far, all threads together.
    ///
    /// # Panics
    /// When it has ended.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid));
        let stat = stat.unwrap_or_else(|error| panic!("{} has ended: {error}", self.name));
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        // utime and stime are fields 14 and 15 (proc_pid_stat(5)), the 12th and 13th after the name.
        let ticks: f64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<f64>().ok())
            .sum();
        ticks / sys::ticks_per_second()
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started.
#[track_caller]
pub fn finish(command: &mut Command) -> Done {
    let output: io::Result<std::process::Output> = command.stdin(Stdio::null()).output();
    let output = output
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", command.get_program().display()));
    Done {
        code: code(output.status),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
