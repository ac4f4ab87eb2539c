//! A lab: a small network of namespaces and veth pairs that belongs to one test and goes away with it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError, Weak};

use crate::host::{Host, HostInner};
use crate::margay::Margay;
use crate::sys;

/// What the name of everything that a lab makes begins with.
const PREFIX: &str = "margay-lab";

/// A lab. Dropping it ends its programs and removes its namespaces; when that happens because the test failed, it first prints what
/// an operator would ask for.
pub struct Lab {
    name: String,
    directory: PathBuf,
    hosts: Mutex<Vec<Host>>,
    daemons: Mutex<Vec<Weak<Margay>>>,
    _turn: Turn,
}

/// How many labs of this process run, and whether one of them is alone.
static RUNNING: (Mutex<(usize, bool)>, Condvar) = (Mutex::new((0, false)), Condvar::new());

/// A lab's permission to run, given back when it is dropped.
struct Turn;

impl Turn {
    /// Waits until no lab runs that has to be alone; with `alone`, until none runs at all.
    fn wait(alone: bool) -> Self {
        let (running, changed) = &RUNNING;
        let blocked = |(count, taken): &mut (usize, bool)| *taken || alone && *count > 0;
        let turn = changed.wait_while(lock(running), blocked);
        let mut turn = turn.unwrap_or_else(PoisonError::into_inner);
        *turn = (turn.0 + 1, alone);
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (running, changed) = &RUNNING;
        let mut turn = lock(running);
        *turn = (turn.0 - 1, false);
        changed.notify_all();
    }
}

/// How a veth pair is made.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Receive and transmit queues of the first end.
    pub near: (u32, u32),
    /// Receive and transmit queues of the second end. An XDP program cannot be attached to a veth whose peer has more transmit queues
    /// than it has receive queues.
    pub far: (u32, u32),
}

impl Default for Link {
    fn default() -> Self {
        Self {
            near: (1, 1),
            far: (1, 1),
        }
    }
}

impl Lab {
    /// Begins the lab called `name`. `None` when labs cannot run here; this has then been said, loudly.
    ///
    /// # Panics
    /// With `CI=true` when labs cannot run: there a skipped lab is a failed one.
    pub fn new(name: &str) -> Option<Arc<Self>> {
        Self::begin(name, false)
    }

    /// The same for a lab that changes what all namespaces of the machine share: no other lab runs beside it.
    ///
    /// # Panics
    /// As [`Lab::new`].
    pub fn alone(name: &str) -> Option<Arc<Self>> {
        Self::begin(name, true)
    }

    fn begin(name: &str, alone: bool) -> Option<Arc<Self>> {
        if let Err(reason) = able() {
            skip(name, &reason);
            return None;
        }
        let turn = Turn::wait(alone);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let name = format!(
            "{PREFIX}-{}-{name}",
            tag(std::process::id()).expect("this process is in /proc")
        );
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(&directory).expect("the directory for temporary files can be written");
        Some(Arc::new(Self {
            name,
            directory,
            hosts: Mutex::default(),
            daemons: Mutex::default(),
            _turn: turn,
        }))
    }

    /// Where the lab's configuration and log files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a network namespace called `name`: a host that forwards nothing (`ip_forward=0`), its loopback up, without reverse-path
    /// filter and without duplicate address detection, so that addresses can be used at once.
    pub fn host(self: &Arc<Self>, name: &str) -> Host {
        let host = HostInner::create(name, &format!("{}-{name}", self.name), &self.directory);
        lock(&self.hosts).push(host.clone());
        host
    }

    /// Joins two hosts with a veth pair of one queue a side; both ends are up.
    pub fn veth(&self, a: &Host, a_name: &str, b: &Host, b_name: &str) {
        self.veth_with(a, a_name, b, b_name, Link::default());
    }

    /// Joins two hosts with a veth pair; both ends are up.
    pub fn veth_with(&self, a: &Host, a_name: &str, b: &Host, b_name: &str, link: Link) {
        let Link {
            near: (near_rx, near_tx),
            far: (far_rx, far_tx),
        } = link;
        a.sh(&format!(
            "ip link add {a_name} numrxqueues {near_rx} numtxqueues {near_tx} type veth \
             peer name {b_name} netns {} numrxqueues {far_rx} numtxqueues {far_tx}; ip link set {a_name} up",
            b.netns()
        ));
        b.sh(&format!("ip link set {b_name} up"));
    }

    /// Makes a container behind `node`, as an orchestrator does: a namespace with one address of each family, everything routed through
    /// 169.254.1.1 and fe80::1, which the node answers on its end of the veth pair, called `port`. Nothing is tuned inside of it.
    pub fn container(self: &Arc<Self>, name: &str, node: &Host, port: &str, v4: &str, v6: &str) -> Host {
        let container = self.host(name);
        self.veth(node, port, &container, "eth0");
        container.sh(&format!(
            "ip addr add {v4}/32 dev eth0; ip -6 addr add {v6}/128 dev eth0 nodad
             ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1
             ip -6 route add default via fe80::1 dev eth0"
        ));
        node.sh(&format!(
            "ip addr add 169.254.1.1/32 dev {port} scope link; ip -6 addr add fe80::1/64 dev {port} nodad
             ip route add {v4} dev {port} scope link; ip -6 route add {v6} dev {port}"
        ));
        container
    }

    /// So that the daemon's own view can be printed when the test fails.
    pub(crate) fn watch(&self, daemon: &Arc<Margay>) {
        lock(&self.daemons).push(Arc::downgrade(daemon));
    }

    fn report(&self) {
        for daemon in lock(&self.daemons).iter().filter_map(Weak::upgrade) {
            daemon.report();
        }
        for host in lock(&self.hosts).iter() {
            host.report();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
        for host in lock(&self.hosts).drain(..) {
            host.remove();
        }
        if std::thread::panicking() && std::env::var_os("MARGAY_LAB_KEEP_FILES").is_some() {
            eprintln!("kept: {}", self.directory.display());
        } else {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Says on the standard error stream, past the test runner's capture, something that the reader of a passing run should see too.
pub fn announce(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Says that a test was not run and why.
///
/// # Panics
/// With `CI=true`.
pub fn skip(name: &str, reason: &str) {
    let line = format!("SKIPPED {name}: {reason}");
    assert!(!ci(), "{line} (a skipped lab is a failure under CI=true)");
    announce(&line);
}

/// Whether labs are to go on for as long as it takes to see what is rare (`cargo xtask test --soak`), or only for as long as it takes
/// to see that they work.
pub fn soak() -> bool {
    std::env::var_os("MARGAY_SOAK").is_some_and(|value| value != "0")
}

fn ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

fn able() -> Result<(), String> {
    if sys::euid() != 0 {
        return Err("labs make network namespaces and load BPF programs: run as root".into());
    }
    for name in ["margayd", "margay"] {
        let program = crate::margay::program(name);
        if !program.exists() {
            return Err(format!(
                "{} is missing: cargo xtask test builds it",
                program.display()
            ));
        }
    }
    Ok(())
}

/// Removes what runs left behind that did not live to clean up. The names say whose it is: a process id and when that process began.
fn sweep() {
    let netns = Path::new("/run/netns");
    for name in names(netns).chain(names(&std::env::temp_dir())) {
        let Some(owner) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1)) else {
            continue;
        };
        let alive = owner
            .split('.')
            .next()
            .and_then(|pid| pid.parse().ok())
            .and_then(tag);
        if alive.as_deref() == Some(owner) {
            continue;
        }
        if netns.join(&name).exists() {
            crate::host::remove_namespace(&name);
        }
        let _ = fs::remove_dir_all(std::env::temp_dir().join(&name));
    }
}

fn names(directory: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
}

/// `PID.STARTTIME`, which no two processes share even when the kernel uses a process id again.
fn tag(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in the second field may contain blanks; the start time is field 22, the 20th after the name.
    let start = stat.rsplit(')').next()?.split_whitespace().nth(19)?;
    Some(format!("{pid}.{start}"))
}

/// A poisoned lock only says that some test thread panicked; cleaning up must go on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
