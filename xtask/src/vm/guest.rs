//! One guest: its NICs and wires, what it runs, and how it ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::packages::{Found, Tools};
use crate::run::{self, Failure};

/// How long the guest may say nothing. Emulation is slow, and a lab that works on many packets is silent meanwhile.
const SILENCE: Duration = Duration::from_secs(300);

/// Lines of the console that are told again when something went wrong.
const LAST_WORDS: usize = 40;

/// What the guest's script says at its end, before the status of the labs.
const ENDED: &str = "margay-vm: labs ended with ";

/// Without these, virtio_net takes no XDP program: large segments and checksums that are not there yet.
const PLAIN: &str =
    "disable-legacy=on,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_csum=off";

/// virtio_net has zero-copy only where its rings are mapped for DMA.
const MAPPED: &str = "iommu_platform=on";

/// The NICs that labs put their ports on: the number in their MAC addresses, their name, and QEMU's device.
///
/// Each kind has two wires; the far end of each is a plain virtio_net for the hosts. The far ends' names are of no
/// interest, and the labs find all of them by their addresses, 52:54:00:KIND:WIRE:END.
const NICS: &[(u8, &str, &str)] = &[
    (1, "virtio_net", "virtio-net-pci"),
    (2, "igb", "igb"),
    (3, "e1000e", "e1000e"),
    (4, "virtio_net_copy", "virtio-net-pci"),
    (QUEUES, "virtio_net_queues", "virtio-net-pci"),
];

/// The kind with two queues. QEMU's hubs have one: its wires are bridges between taps, in a network namespace that is QEMU's own
/// and goes with it.
const QUEUES: u8 = 5;

const WIRES: u8 = 2;

/// What every script of a guest begins with: programs are found, modules are loaded on demand, what is written goes to memory.
pub fn prelude(tools: &Tools, kernel: &Found) -> String {
    format!(
        "export PATH={path} HOME=/root LC_ALL=C\nbusybox='{busybox}'\nmodules='{modules}'\n{LAB}",
        path = run::SYSTEM.join(":"),
        busybox = tools.busybox_program().display(),
        modules = kernel.folder.join("lib/modules").display(),
    )
}

/// The guest's script: what the labs need, the labs, the end.
pub fn script(tools: &Tools, kernel: &Found, labs: &Path, filters: &[&str]) -> String {
    let kinds: Vec<String> = nics()
        .map(|(number, name, _)| format!("{name}={number:02x}"))
        .collect();
    let ci = std::env::var("CI").unwrap_or_default();
    let data = run::root().join("../shared/data");
    let data = std::env::var_os("MARGAY_DATA").map_or(data, PathBuf::from);
    format!(
        "{prelude}export CI='{ci}' MARGAY_DATA='{data}' MARGAY_VM_NICS='{kinds}' MARGAY_BIN_DIR='{binaries}'\n\
         export MARGAY_VM_TOOLS='{tools}'\n\
         cd '{root}'\n'{labs}' --test-threads 1 --nocapture --skip {OUTSIDE}{filters}\necho \"{ENDED}$?\"\npower_off\n",
        prelude = prelude(tools, kernel),
        data = data.display(),
        kinds = kinds.join(" "),
        binaries = run::binaries().display(),
        tools = tools.folder.display(),
        root = run::root().join("tests").display(),
        labs = labs.display(),
        filters = filters
            .iter()
            .map(|filter| format!(" '{filter}'"))
            .collect::<String>(),
    )
}

/// Labs whose names begin so run on this machine and boot a guest of their own: a workload.
pub const OUTSIDE: &str = "machine::";

const LAB: &str = include_str!("lab.sh");

/// Boots a guest, shows what it says, and waits for its end.
pub fn run(cache: &Path, tools: &Tools, kernel: &Found, initial: &Path, script: &str) -> Result<(), Failure> {
    let tag = format!("{}-{}", kernel.version, std::process::id());
    let path = cache.join(format!("run-{tag}.sh"));
    let log = cache.join(format!("console-{}.log", kernel.version));
    fs::write(&path, script).map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    let result = watched(tools, kernel, initial, &path, &log);
    let _ = fs::remove_file(&path);
    result
}

fn watched(tools: &Tools, kernel: &Found, initial: &Path, script: &Path, log: &Path) -> Result<(), Failure> {
    let mut log_file = File::create(log).map_err(|error| Failure(format!("{}: {error}", log.display())))?;
    let mut guest = boot(tools, kernel, initial, script)?;
    let Some(console) = guest.stdout.take() else {
        return Err(Failure("QEMU has no console".to_owned()));
    };
    let mut said = String::new();
    let silent = listen(console, |text| {
        print!("{text}");
        let _ = std::io::stdout().flush();
        let _ = log_file.write_all(text.as_bytes());
        said.push_str(text);
        // The end of what was said is enough to tell how it ended.
        if said.len() > 256 * 1024 {
            said = String::from_utf8_lossy(&said.as_bytes()[said.len() - 128 * 1024..]).into_owned();
        }
    });
    end(&mut guest);
    let verdict = verdict(&said, silent);
    if let Err(Failure(why)) = &verdict {
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n  ");
        println!(
            "\nxtask: {why}; the guest's last words ({}):\n  {tail}",
            log.display()
        );
    }
    verdict
}

/// How a guest ended that said this.
fn verdict(said: &str, silent: bool) -> Result<(), Failure> {
    // The kernel's own messages may follow without a space.
    let status = said.rsplit_once(ENDED).map(|(_, rest)| {
        rest.split(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap_or_default()
    });
    match status {
        Some("0") => Ok(()),
        Some(status) => Err(Failure(format!("labs ended with {status}"))),
        None if silent => Err(Failure(format!(
            "the guest said nothing for {} s",
            SILENCE.as_secs()
        ))),
        None => Err(Failure("the guest ended before its labs did".to_owned())),
    }
}

/// Gives what comes from the console to `hear` until it ends; true when it was silent for too long.
fn listen(mut console: ChildStdout, mut hear: impl FnMut(&str)) -> bool {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut buffer) {
            if tell.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    loop {
        match told.recv_timeout(SILENCE) {
            Ok(bytes) => hear(&String::from_utf8_lossy(&bytes).replace('\r', "")),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

fn end(guest: &mut Child) {
    let _ = guest.kill();
    let _ = guest.wait();
}

/// The NICs that this machine can give a guest.
fn nics() -> impl Iterator<Item = &'static (u8, &'static str, &'static str)> {
    let bridges = can_bridge();
    NICS.iter().filter(move |(kind, _, _)| bridges || *kind != QUEUES)
}

/// Whether this machine's kernel has bridges and taps: they are made once to see.
fn can_bridge() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let made = run::capture(&mut in_own_network(&run::command("true")));
        let can = made.as_ref().is_ok_and(|(done, _)| *done);
        if !can {
            println!("xtask: no bridges or taps here: the guest has no virtio_net with two queues");
        }
        can
    })
}

/// Makes a command run in a network namespace of its own, with the wires of the NICs that have two queues. The namespace has
/// no name and goes with the command.
fn in_own_network(command: &Command) -> Command {
    let mut setup = "set -e; sysctl -qw net.ipv6.conf.default.disable_ipv6=1\n".to_owned();
    for wire in 1..=WIRES {
        setup += &format!("ip link add wire{wire} type bridge; ip link set wire{wire} up\n");
        for end in 1..=2 {
            let queues = if end == 1 { "multi_queue" } else { "" };
            setup += &format!(
                "ip tuntap add wire{wire}.{end} mode tap vnet_hdr {queues}; ip link set wire{wire}.{end} master wire{wire} up\n"
            );
        }
    }
    let mut own = run::command("unshare");
    own.args(["--net", "sh", "-c", &format!("{setup}exec \"$@\""), "wires"]);
    own.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            own.env(name, value);
        }
    }
    own
}

/// QEMU with one guest that has no NICs yet, and a console where this process has its own.
fn machine(tools: &Tools, kernel: &Found, initial: &Path, script: &str) -> Command {
    let mut qemu = tools.qemu();
    qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-smp", "2", "-m", "2G", "-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(initial)
        // Emulation stops a processor for longer than the watchdogs think possible.
        .arg("-append")
        .arg(format!(
            "console=ttyS0 loglevel=3 panic=-1 oops=panic nowatchdog mitigations=off margay.script={script}"
        ))
        .args([
            "-virtfs",
            "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        ]);
    qemu
}

/// Writes a program that boots a guest: its first argument is the guest's script, the others are QEMU's.
pub fn launcher(cache: &Path, tools: &Tools, kernel: &Found, initial: &Path) -> Result<PathBuf, Failure> {
    let path = cache.join(format!("launch-{}.sh", kernel.version));
    let qemu = machine(tools, kernel, initial, "'\"$script\"'");
    let quoted = |word: &OsStr| format!("'{}' ", word.to_string_lossy());
    let mut text = "#!/bin/sh\nscript=$1\nshift\n".to_owned();
    for (name, value) in qemu.get_envs() {
        text += &format!(
            "export {}={}\n",
            name.to_string_lossy(),
            quoted(value.unwrap_or_default())
        );
    }
    text += "exec ";
    for word in std::iter::once(qemu.get_program()).chain(qemu.get_args()) {
        text += &quoted(word);
    }
    text += "\"$@\"\n";
    fs::write(&path, text).map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    Ok(path)
}

/// Starts QEMU.
fn boot(tools: &Tools, kernel: &Found, initial: &Path, script: &Path) -> Result<Child, Failure> {
    let mut qemu = machine(tools, kernel, initial, &script.display().to_string());
    if can_bridge() {
        qemu = in_own_network(&qemu);
    }
    for word in network() {
        qemu.arg(word);
    }
    qemu.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut guest = qemu
        .spawn()
        .map_err(|error| Failure(format!("QEMU cannot be started: {error}")))?;
    if let Some(complaints) = guest.stderr.take() {
        // That wires lead nowhere but to each other is as it should be.
        let complaints = BufReader::new(complaints).lines().map_while(Result::ok);
        std::thread::spawn(move || {
            for line in complaints.filter(|line| !line.contains("is not connected to host network")) {
                eprintln!("{line}");
            }
        });
    }
    Ok(guest)
}

/// Two NICs on each wire: one of the kind that is tested, one for the hosts beyond.
fn network() -> Vec<String> {
    let mut words = Vec::new();
    let mut hub = 0;
    for &(kind, name, device) in nics() {
        let features = match name {
            "virtio_net" => format!(",{PLAIN},{MAPPED}"),
            "virtio_net_copy" => format!(",{PLAIN}"),
            "virtio_net_queues" => format!(",{PLAIN},{MAPPED},mq=on,vectors=6"),
            _ => String::new(),
        };
        for wire in 1..=WIRES {
            hub += 1;
            let ends = [
                (1, format!("{device},romfile={features}")),
                (2, format!("virtio-net-pci,romfile=,{PLAIN}")),
            ];
            for (end, device) in ends {
                let far = match (kind, end) {
                    (QUEUES, 1) => {
                        format!("tap,ifname=wire{wire}.1,queues=2,script=no,downscript=no,vhost=off")
                    }
                    (QUEUES, _) => format!("tap,ifname=wire{wire}.2,script=no,downscript=no,vhost=off"),
                    _ => format!("hubport,hubid={hub}"),
                };
                words.extend([
                    "-netdev".to_owned(),
                    format!("{far},id=wire{hub}.{end}"),
                    "-device".to_owned(),
                    format!("{device},netdev=wire{hub}.{end},mac=52:54:00:{kind:02x}:{wire:02x}:{end:02x}"),
                ]);
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_that_ended_well_pass() {
        assert!(
            verdict(
                "test a ... ok\nmargay-vm: labs ended with 0\n[ 9.0] reboot: Power down\n",
                false
            )
            .is_ok()
        );
        assert!(
            verdict(
                "margay-vm: labs ended with 0[ 307.391039] sysrq: Power Off\n\n",
                false
            )
            .is_ok()
        );
        for (said, silent, why) in [
            ("margay-vm: labs ended with 101\n", false, "ended with 101"),
            ("test a ... ", true, "said nothing"),
            ("Kernel panic - not syncing", false, "before its labs did"),
            ("", false, "before its labs did"),
        ] {
            let Err(Failure(told)) = verdict(said, silent) else {
                panic!("passed: {said}");
            };
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn every_nic_has_an_address_of_its_own() {
        let words = network();
        let mut addresses: Vec<&str> = words
            .iter()
            .filter_map(|word| word.split_once("mac="))
            .map(|at| at.1)
            .collect();
        let expected = nics().count() * usize::from(WIRES) * 2;
        assert_eq!(addresses.len(), expected);
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), expected);
    }
}
