//! Debian's packages of QEMU and of kernels, fetched and unpacked into a folder of their own.
//!
//! apt is given a state of its own, so that neither the machine's lists nor its packages change; it checks the
//! signatures with Debian's keys all the same. Where the packages come from is what the machine's own lists say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{self, Failure};

/// A kernel that Margay is tested on.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What the command line calls it.
    pub name: &'static str,
    /// What its package's version begins with; of several the newest is taken.
    series: &'static str,
}

/// The oldest one that is supported (Debian 12), one in between (Debian 13), and the newest of Debian's backports.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "6.1",
        series: "6.1.",
    },
    Kernel {
        name: "6.12",
        series: "6.12.",
    },
    Kernel {
        name: "newest",
        series: "",
    },
];

/// An unpacked kernel.
pub struct Found {
    /// Where it is unpacked.
    pub folder: PathBuf,
    /// As `uname -r` will say.
    pub version: String,
}

impl Found {
    /// Its modules.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.version)
    }

    /// The kernel itself: newer packages have it beside the modules.
    pub fn image(&self) -> PathBuf {
        let beside = self.modules().join("vmlinuz");
        if beside.exists() {
            return beside;
        }
        self.folder.join(format!("boot/vmlinuz-{}", self.version))
    }
}

/// QEMU, a busybox without libraries and xdp-tools, unpacked.
pub struct Tools {
    /// Where they are.
    pub folder: PathBuf,
}

impl Tools {
    /// QEMU as a command that finds its libraries and its firmware.
    pub fn qemu(&self) -> Command {
        let own = self.folder.join("usr/bin/qemu-system-x86_64");
        // Under `setpriv` it dies with whoever watches it; under `nice` it does not slow the machine down.
        let mut command = run::command("setpriv");
        command.args(["--pdeathsig", "KILL", "nice", "-n", "10"]);
        command.arg(if own.exists() {
            own
        } else {
            "qemu-system-x86_64".into()
        });
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.folder.join(firmware));
        }
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let libraries: Vec<PathBuf> = libraries.iter().map(|at| self.folder.join(at)).collect();
        command.env("LD_LIBRARY_PATH", super::joined(&libraries));
        command
    }

    /// What QEMU says that it is.
    pub fn version(&self) -> Result<String, Failure> {
        match run::capture(self.qemu().arg("--version"))? {
            (true, said) => Ok(said.lines().next().unwrap_or_default().to_owned()),
            (false, said) => Err(Failure(format!("QEMU does not run: {}", tail(&said)))),
        }
    }

    /// A program of busybox.
    pub fn busybox(&self, applet: &str) -> Command {
        let mut command = Command::new(self.busybox_program());
        command.arg(applet);
        command
    }

    /// Busybox itself: it runs in the guest before there are any libraries.
    pub fn busybox_program(&self) -> PathBuf {
        self.folder.join("bin/busybox")
    }
}

/// QEMU with an emulated igb is in Debian's backports for bookworm.
pub fn tools(cache: &Path) -> Result<Tools, Failure> {
    let folder = cache.join("tools");
    if !folder.exists() {
        println!("xtask: fetching QEMU into {}", folder.display());
        let apt = Apt::new(&cache.join("apt-tools"), &["bookworm", "bookworm-backports"])?;
        let options = [
            "-t",
            "bookworm-backports",
            "--no-install-recommends",
            "--download-only",
        ];
        // What the machine has already of what QEMU needs is not fetched again.
        apt.call(
            "apt-get",
            [
                &["install", "-y"],
                &options[..],
                &["qemu-system-x86", "xdp-tools"],
            ]
            .concat(),
        )?;
        apt.call("apt-get", vec!["download", "busybox-static"])?;
        unpack(&apt.fetched()?, &folder, &[])?;
    }
    Ok(Tools { folder })
}

/// The parts of a kernel's packages that the guest needs: networks, the file systems it boots from, and what they use.
const PARTS: &[&str] = &[
    "./boot/vmlinuz*",
    "*/vmlinuz",
    "*/modules.builtin*",
    "*/modules.order",
    "*/kernel/arch/*",
    "*/kernel/crypto/*",
    "*/kernel/lib/*",
    "*/kernel/net/*",
    "*/kernel/fs/9p/*",
    "*/kernel/fs/netfs/*",
    "*/kernel/fs/fscache/*",
    "*/kernel/fs/overlayfs/*",
    "*/kernel/drivers/virtio/*",
    "*/kernel/drivers/dca/*",
    "*/kernel/drivers/i2c/algos/*",
    "*/kernel/drivers/ptp/*",
    "*/kernel/drivers/pps/*",
    "*/kernel/drivers/net/*.ko*",
    "*/kernel/drivers/net/bonding/*",
    "*/kernel/drivers/net/ethernet/intel/*",
];

/// Fetches and unpacks kernels that are not there yet.
pub fn kernels(cache: &Path, wanted: &[&Kernel]) -> Result<Vec<Found>, Failure> {
    let mut apt = None;
    wanted
        .iter()
        .map(|kernel| {
            let folder = cache.join(format!("kernel-{}", kernel.name));
            if !folder.exists() {
                let apt = match &mut apt {
                    Some(apt) => apt,
                    none => none.insert(Apt::new(
                        &cache.join("apt-kernels"),
                        &["bookworm", "trixie", "trixie-backports"],
                    )?),
                };
                fetch_kernel(apt, kernel, &folder)?;
            }
            let modules = folder.join("lib/modules");
            let version = fs::read_dir(&modules)
                .ok()
                .and_then(|mut entries| entries.next()?.ok()?.file_name().into_string().ok());
            let version = version.ok_or_else(|| {
                Failure(format!(
                    "{} holds no kernel: remove the folder {} and try again",
                    modules.display(),
                    folder.display()
                ))
            })?;
            Ok(Found { folder, version })
        })
        .collect()
}

fn fetch_kernel(apt: &Apt, kernel: &Kernel, folder: &Path) -> Result<(), Failure> {
    let shown = apt.call("apt-cache", vec!["show", "linux-image-amd64"])?;
    let (version, image) = pick(&shown, kernel.series)
        .ok_or_else(|| Failure(format!("Debian's lists have no kernel {}", kernel.name)))?;
    println!("xtask: fetching Linux {version} into {}", folder.display());
    // Newer packages are split: the image's depends on those that hold the kernel and its modules.
    let depends = apt.call("apt-cache", vec!["show", &format!("{image}={version}")])?;
    let mut names = vec![image.clone()];
    names.extend(
        words_of(&depends, "Depends:")
            .filter(|word| word.starts_with("linux-binary-") || word.starts_with("linux-modules-"))
            .map(str::to_owned),
    );
    for name in &names {
        apt.call("apt-get", vec!["download", &format!("{name}={version}")])?;
    }
    unpack(&apt.fetched()?, folder, PARTS)
}

/// Of the stanzas that apt-cache shows (newest first), the first of a series: its version, and the image package that it names.
fn pick(shown: &str, series: &str) -> Option<(String, String)> {
    shown.split("\n\n").find_map(|stanza| {
        let version = words_of(stanza, "Version:").next()?;
        let image = words_of(stanza, "Depends:").find(|word| word.starts_with("linux-image-"))?;
        version
            .starts_with(series)
            .then(|| (version.to_owned(), image.to_owned()))
    })
}

/// The words of a field, without commas.
fn words_of<'a>(stanza: &'a str, field: &'a str) -> impl Iterator<Item = &'a str> {
    stanza
        .lines()
        .filter_map(move |line| line.strip_prefix(field))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_matches(','))
}

/// Unpacks packages, whole or some parts, into a folder that is there only when all of it is.
fn unpack(packages: &[PathBuf], folder: &Path, parts: &[&str]) -> Result<(), Failure> {
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    make(&partial)?;
    for package in packages {
        if parts.is_empty() {
            run::succeed(run::command("dpkg").arg("-x").arg(package).arg(&partial))?;
            continue;
        }
        // tar says no to patterns without a match; what matters is looked for afterwards.
        let script = "package=$1; folder=$2; shift 2; dpkg-deb --fsys-tarfile \"$package\" | tar -x -C \"$folder\" --wildcards \"$@\"";
        let mut shell = run::command("sh");
        shell.args(["-c", script, "unpack"]).arg(package).arg(&partial);
        run::capture(shell.args(parts))?;
    }
    // Packages of the merged /usr have it below; older ones do not.
    if !partial.join("lib").exists() && partial.join("usr/lib").exists() {
        std::os::unix::fs::symlink("usr/lib", partial.join("lib"))
            .map_err(|error| Failure(format!("{}: {error}", partial.display())))?;
    }
    fs::rename(&partial, folder).map_err(|error| Failure(format!("{}: {error}", folder.display())))?;
    // The packages themselves are of no more use.
    for package in packages {
        let _ = fs::remove_file(package);
    }
    Ok(())
}

/// apt with lists and archives of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Brings the lists of some suites.
    fn new(folder: &Path, suites: &[&str]) -> Result<Self, Failure> {
        if !run::capture(run::command("apt-get").arg("--version")).is_ok_and(|(done, _)| done) {
            return Err(Failure(
                "there is no apt-get here to fetch Debian's packages with".to_owned(),
            ));
        }
        for made in ["lists/partial", "archives/partial"] {
            make(&folder.join(made))?;
        }
        let mirror = mirror()?;
        let sources: String = suites
            .iter()
            .map(|suite| {
                format!(
                    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main\n"
                )
            })
            .collect();
        let at = folder.display();
        let settings = format!(
            "Dir::State \"{at}\";\nDir::State::lists \"{at}/lists\";\nDir::State::status \"/var/lib/dpkg/status\";\n\
             Dir::Cache \"{at}\";\nDir::Cache::archives \"{at}/archives\";\nDir::Etc::sourcelist \"{at}/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\nAcquire::Languages \"none\";\n\
             APT::Sandbox::User \"root\";\nDebug::NoLocking \"1\";\n"
        );
        for (name, text) in [("sources.list", sources), ("apt.conf", settings)] {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|error| Failure(format!("{}: {error}", path.display())))?;
        }
        let apt = Self {
            folder: folder.to_owned(),
        };
        apt.call("apt-get", vec!["update", "-q", "--error-on=any"])?;
        Ok(apt)
    }

    /// Runs an apt program and answers what it printed.
    fn call(&self, program: &str, words: Vec<&str>) -> Result<String, Failure> {
        let mut command = run::command(program);
        command
            .args(&words)
            .current_dir(self.folder.join("archives"))
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        match run::capture(&mut command)? {
            (true, said) => Ok(said),
            (false, said) => Err(Failure(format!(
                "{program} {} failed: {}",
                words.join(" "),
                tail(&said)
            ))),
        }
    }

    /// The packages that were fetched.
    fn fetched(&self) -> Result<Vec<PathBuf>, Failure> {
        let archives = self.folder.join("archives");
        let entries =
            fs::read_dir(&archives).map_err(|error| Failure(format!("{}: {error}", archives.display())))?;
        let mut packages: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "deb"))
            .collect();
        packages.sort();
        Ok(packages)
    }
}

/// Where this machine gets Debian from.
fn mirror() -> Result<String, Failure> {
    let format = "$(REPO_URI) $(RELEASE)";
    let (done, said) = run::capture(run::command("apt-get").args(["indextargets", "--format", format]))?;
    let main = said.lines().find_map(|line| {
        let (uri, suite) = line.split_once(' ')?;
        ["bookworm", "trixie", "stable"]
            .contains(&suite)
            .then(|| uri.to_owned())
    });
    main.filter(|_| done).ok_or_else(|| {
        Failure("apt's sources name no mirror of Debian 12 or 13 to fetch QEMU and kernels from".to_owned())
    })
}

fn make(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| Failure(format!("{}: {error}", folder.display())))
}

/// The last lines of what a program said.
fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.trim_end().lines().collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_of_a_series_is_picked() {
        let shown = "Package: linux-image-amd64\nVersion: 7.2.12-1~bpo13+1\nDepends: linux-base-amd64 (= 7.2.12-1~bpo13+1), linux-image-7.2.12+deb13-amd64 (= 7.2.12-1~bpo13+1)\n\n\
                     Package: linux-image-amd64\nVersion: 6.12.107-1\nDepends: linux-image-6.12.107+deb13-amd64 (= 6.12.107-1)\n\n\
                     Package: linux-image-amd64\nVersion: 6.1.176-1\nDepends: linux-image-6.1.0-50-amd64 (= 6.1.176-1)\n";
        let picked = |series| pick(shown, series).map(|(_, image)| image);
        assert_eq!(picked("6.1.").as_deref(), Some("linux-image-6.1.0-50-amd64"));
        assert_eq!(
            picked("6.12.").as_deref(),
            Some("linux-image-6.12.107+deb13-amd64")
        );
        assert_eq!(picked("").as_deref(), Some("linux-image-7.2.12+deb13-amd64"));
        assert_eq!(picked("5."), None);
    }
}
