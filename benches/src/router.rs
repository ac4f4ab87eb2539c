//! Who routes in the lab: margayd, the kernel, or DPDK's testpmd.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::{run, run_in, wait_for};
use crate::lab::Lab;
use crate::{Context, Error, Result, sys};

/// Core of the worker, the forwarding thread of testpmd, or whatever else moves packets.
pub const ROUTER_CORE: usize = 1;
/// Core of the generator.
pub const GENERATOR_CORE: usize = 0;

/// One that moves packets from r0 to r1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// margayd with one worker that polls.
    Margay,
    /// margayd with one worker that sleeps when idle.
    MargayAdaptive,
    /// The kernel's forwarding. It runs in the soft interrupt of the sender, on the generator's core.
    Kernel,
    /// The kernel's forwarding with r0's NAPI in a thread of its own on the router's core.
    KernelThreaded,
    /// `dpdk-testpmd` in MAC forwarding mode over `net_af_xdp`: no look-up, no TTL.
    Testpmd,
}

impl Contender {
    /// Name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Margay => "margayd (poll)",
            Contender::MargayAdaptive => "margayd (adaptive)",
            Contender::Kernel => "kernel forwarding",
            Contender::KernelThreaded => "kernel forwarding, threaded NAPI",
            Contender::Testpmd => "dpdk-testpmd, net_af_xdp",
        }
    }

    /// Whether the TTL goes down and the packet is looked up.
    pub fn routes(self) -> bool {
        self != Contender::Testpmd
    }
}

/// A started contender. Dropping it stops it and undoes what it set.
pub struct Router {
    netns: String,
    contender: Contender,
    process: Option<Process>,
}

impl Router {
    /// Starts it in the lab's router namespace and waits until it says that it is ready (testpmd does not say).
    pub fn start(lab: &Lab, contender: Contender) -> Result<Self> {
        let mut router = Router {
            netns: lab.router(),
            contender,
            process: None,
        };
        match contender {
            Contender::Margay => router.process = Some(Margayd::start(lab, "poll")?.into_process()),
            Contender::MargayAdaptive => {
                router.process = Some(Margayd::start(lab, "adaptive")?.into_process())
            }
            Contender::Kernel | Contender::KernelThreaded => router.kernel(true)?,
            Contender::Testpmd => router.process = Some(testpmd(lab)?),
        }
        Ok(router)
    }

    /// An error that shows its last words if its process has ended.
    pub fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }

    fn kernel(&self, on: bool) -> Result<()> {
        let value = on as u8;
        // Live frames are delivered to a veth only if it has an XDP program or GRO.
        if on {
            run_in(&self.netns, "ethtool -K r0 gro on")?;
        }
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            run_in(&self.netns, &format!("sysctl -qw {key}={value}"))?;
        }
        if self.contender == Contender::KernelThreaded {
            // It can only be changed while GRO is on. `ip netns exec` mounts the namespace's own /sys.
            let shell = format!("echo {value} > /sys/class/net/r0/threaded");
            let status = Command::new("ip")
                .args(["netns", "exec", &self.netns, "sh", "-c", &shell])
                .status();
            if !status.context("threaded NAPI")?.success() {
                return Err(Error::new("threaded NAPI cannot be set"));
            }
            if on {
                pin_napi_threads()?;
            }
        }
        if !on {
            run_in(&self.netns, "ethtool -K r0 gro off")?;
        }
        Ok(())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        drop(self.process.take());
        if matches!(self.contender, Contender::Kernel | Contender::KernelThreaded)
            && let Err(error) = self.kernel(false)
        {
            eprintln!("clean-up: {error}");
        }
        for dev in ["r0", "r1"] {
            // A peer that was killed leaves its XDP program on the device.
            let _ = run_in(&self.netns, &format!("ip link set {dev} xdp off"));
        }
    }
}

/// Kernel threads named `napi/r0-N` go to the router's core.
fn pin_napi_threads() -> Result<()> {
    wait_for("a NAPI thread of r0", Duration::from_secs(2), || {
        let mut found = false;
        for process in fs::read_dir("/proc").context("/proc")?.flatten() {
            let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            if name.starts_with("napi/r0-") {
                sys::pin_process(pid, ROUTER_CORE)?;
                found = true;
            }
        }
        Ok(found)
    })
}

/// A child process and where its output went. Dropping it ends it: SIGTERM, then SIGKILL after ten seconds.
pub struct Process {
    child: Child,
    name: String,
    dir: PathBuf,
}

impl Process {
    /// Starts `program` in a namespace with output to a file in `dir`, which goes when the process does.
    pub fn start(netns: &str, program: &Path, arguments: &[String], dir: PathBuf) -> Result<Self> {
        let name = program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let log = File::create(dir.join("output")).context("output file")?;
        let child = Command::new("ip")
            .args(["netns", "exec", netns])
            .arg(program)
            .args(arguments)
            // Open, so that testpmd does not take its end for the key that stops it.
            .stdin(Stdio::piped())
            .stderr(log.try_clone().context("output file")?)
            .stdout(log)
            .spawn()
            .context(&name)?;
        Ok(Process { child, name, dir })
    }

    /// Process id (`ip netns exec` becomes the program).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its output if it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context(&self.name)? {
            None => Ok(()),
            Some(status) => {
                let output = fs::read_to_string(self.dir.join("output")).unwrap_or_default();
                let end: Vec<&str> = output.lines().rev().take(15).collect();
                let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
                Err(Error::new(format!("{} ended with {status}:\n{end}", self.name)))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = run(&format!("kill -TERM {}", self.child.id()));
        let end = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > end {
                eprintln!("{} does not end on SIGTERM", self.name);
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A folder of this process's own.
fn scratch(name: &str) -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("mgb{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).context(dir.display())?;
    Ok(dir)
}

/// A running margayd.
pub struct Margayd {
    process: Process,
    socket: PathBuf,
}

impl Margayd {
    /// Starts it on r0 and r1 with one worker, and waits until it is ready.
    pub fn start(lab: &Lab, profile: &str) -> Result<Self> {
        let mut margayd = Self::spawn(lab, profile)?;
        wait_for("margayd's readiness", Duration::from_secs(60), || margayd.ready())?;
        Ok(margayd)
    }

    /// Starts it and does not wait.
    pub fn spawn(lab: &Lab, profile: &str) -> Result<Self> {
        let dir = scratch("margayd")?;
        let socket = dir.join("margay.sock");
        let config = format!(
            "version = 1\n[runtime]\nprofile = \"{profile}\"\nworkers = [{ROUTER_CORE}]\n\
             [[port]]\nname = \"r0\"\nrole = \"uplink\"\n[[port]]\nname = \"r1\"\nrole = \"uplink\"\n\
             [[port]]\nmatch = \"idle*\"\nrole = \"uplink\"\n\
             [control]\nsocket = \"{}\"\n[metrics]\nlisten = \"127.0.0.1:9469\"\n",
            socket.display()
        );
        let path = dir.join("margay.toml");
        fs::create_dir_all(dir.join("acl.d")).context("acl.d")?;
        fs::write(&path, config).context(path.display())?;
        let arguments = ["--config".to_owned(), path.display().to_string()];
        let process = Process::start(&lab.router(), &binary("margayd")?, &arguments, dir)?;
        Ok(Margayd { process, socket })
    }

    /// Whether `status --ready` says yes; an error if the daemon has ended.
    pub fn ready(&mut self) -> Result<bool> {
        self.process.check()?;
        Ok(self.cli("status --ready").is_ok())
    }

    /// Runs a `margay` command against it.
    pub fn cli(&self, arguments: &str) -> Result<String> {
        // The socket is a file: its namespace does not matter.
        let margay = binary("margay")?;
        let socket = self.socket.display();
        run(&format!("{} --socket {socket} {arguments}", margay.display()))
    }

    /// Writes a file of access lists, which the next `acl reload` reads.
    pub fn write_list(&self, name: &str, text: &str) -> Result<()> {
        let path = self.process.dir.join("acl.d").join(format!("{name}.toml"));
        fs::write(&path, text).context(path.display())
    }

    /// Runs a `margay` command with `-j` and parses the answer.
    pub fn json(&self, arguments: &str) -> Result<serde_json::Value> {
        serde_json::from_str(&self.cli(&format!("-j {arguments}"))?).context(format!("answer to {arguments}"))
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn into_process(self) -> Process {
        self.process
    }
}

/// A binary of the project: in the folder that `MARGAY_BIN_DIR` names, or next to the one that runs.
fn binary(name: &str) -> Result<PathBuf> {
    let path = match std::env::var_os("MARGAY_BIN_DIR") {
        Some(folder) => PathBuf::from(folder).join(name),
        None => std::env::current_exe().context("own path")?.with_file_name(name),
    };
    if path.exists() {
        return Ok(path);
    }
    Err(Error::new(format!(
        "no {} (cargo build --release -p control)",
        path.display()
    )))
}

fn testpmd(lab: &Lab) -> Result<Process> {
    let program = Path::new("/usr/bin/dpdk-testpmd");
    if !program.exists() {
        return Err(Error::new("no dpdk-testpmd (apt install dpdk-dev)"));
    }
    // The main thread waits for a key on the generator's core, the other one forwards.
    let line = format!(
        "-l {GENERATOR_CORE},{ROUTER_CORE} --no-huge -m 512 --no-pci --no-shconf --file-prefix=mgb --no-telemetry \
         --vdev net_af_xdp0,iface=r0 --vdev net_af_xdp1,iface=r1 -- \
         --forward-mode=mac --eth-peer=1,{} --nb-cores=1 --burst=64 --total-num-mbufs=16384 --no-mlockall \
         --auto-start",
        lab.sink_mac()
    );
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Process::start(&lab.router(), program, &arguments, scratch("testpmd")?)
}
