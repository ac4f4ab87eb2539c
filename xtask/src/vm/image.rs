//! The first file system of a guest, which mounts the real one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::packages::{Found, Tools};
use crate::run::{self, Failure};

/// What the guest boots with: the modules for its root file system are loaded before there is one.
const MODULES: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Builds it, unless it is there already.
pub fn build(cache: &Path, tools: &Tools, kernel: &Found) -> Result<PathBuf, Failure> {
    let archive = cache.join(format!("initial-{}.cpio", kernel.version));
    if archive.exists() {
        return Ok(archive);
    }
    let failed = |at: &Path| {
        let at = at.display().to_string();
        move |error: std::io::Error| Failure(format!("{at}: {error}"))
    };
    let modules = kernel.modules();
    if !modules.join("modules.alias").exists() {
        let mut depmod = tools.busybox("depmod");
        run::succeed(depmod.arg("-b").arg(&kernel.folder).arg(&kernel.version))?;
    }
    let folder = archive.with_extension("folder");
    let _ = fs::remove_dir_all(&folder);
    for made in ["bin", "modules", "proc", "sys", "dev", "host", "memory", "root"] {
        let path = folder.join(made);
        fs::create_dir_all(&path).map_err(failed(&path))?;
    }
    fs::copy(tools.busybox_program(), folder.join("bin/busybox")).map_err(failed(&folder))?;
    let init = folder.join("init");
    fs::write(&init, include_str!("init.sh")).map_err(failed(&init))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).map_err(failed(&init))?;
    let dependencies = modules.join("modules.dep");
    let dependencies = fs::read_to_string(&dependencies).map_err(failed(&dependencies))?;
    for (number, module) in in_order(&dependencies, MODULES).iter().enumerate() {
        let to = folder.join(format!("modules/{number:03}.ko"));
        let from = modules.join(module);
        if module.ends_with(".xz") {
            let out = File::create(&to).map_err(failed(&to))?;
            run::succeed(tools.busybox("xzcat").arg(&from).stdout(Stdio::from(out)))?;
        } else {
            fs::copy(&from, &to).map_err(failed(&from))?;
        }
    }
    pack(tools, &folder, &archive)?;
    fs::remove_dir_all(&folder).map_err(failed(&folder))?;
    Ok(archive)
}

/// The files of modules and of what they depend on, each after what it needs. Those that are built into the kernel
/// have no file.
fn in_order<'a>(dependencies: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    fn add<'a>(dependencies: &'a str, file: &'a str, seen: &mut BTreeSet<&'a str>, out: &mut Vec<&'a str>) {
        if !seen.insert(file) {
            return;
        }
        let needs = dependencies
            .lines()
            .find_map(|line| line.strip_prefix(file)?.strip_prefix(':'));
        for need in needs.into_iter().flat_map(str::split_whitespace) {
            add(dependencies, need, seen, out);
        }
        out.push(file);
    }
    let (mut seen, mut out) = (BTreeSet::new(), Vec::new());
    for name in wanted {
        let file = dependencies
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.0))
            .find(|file| {
                let module = file.rsplit('/').next().unwrap_or_default();
                module
                    .strip_prefix(name)
                    .is_some_and(|kind| kind.starts_with(".ko"))
            });
        if let Some(file) = file {
            add(dependencies, file, &mut seen, &mut out);
        }
    }
    out
}

/// Writes the archive that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
fn pack(tools: &Tools, folder: &Path, archive: &Path) -> Result<(), Failure> {
    let partial = archive.with_extension("partial");
    let cannot = |what: &str, error: std::io::Error| Failure(format!("{what}: {error}"));
    let out = File::create(&partial).map_err(|error| cannot("the guest's first file system", error))?;
    let mut cpio = tools.busybox("cpio");
    cpio.args(["-o", "-H", "newc"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(out)
        .stderr(Stdio::null());
    let mut child = cpio.spawn().map_err(|error| cannot("busybox cpio", error))?;
    let mut names = String::new();
    list(folder, Path::new(""), &mut names)
        .map_err(|error| cannot("the guest's first file system", error))?;
    if let Some(mut input) = child.stdin.take() {
        input
            .write_all(names.as_bytes())
            .map_err(|error| cannot("busybox cpio", error))?;
    }
    let status = child.wait().map_err(|error| cannot("busybox cpio", error))?;
    if !status.success() {
        return Err(Failure(format!("busybox cpio ended with {status}")));
    }
    fs::rename(&partial, archive).map_err(|error| cannot("the guest's first file system", error))
}

/// Names of all files below, folders before what is in them.
fn list(folder: &Path, at: &Path, out: &mut String) -> std::io::Result<()> {
    for entry in fs::read_dir(folder.join(at))? {
        let entry = entry?;
        let name = at.join(entry.file_name());
        out.push_str(&format!("{}\n", name.display()));
        if entry.file_type()?.is_dir() {
            list(folder, &name, out)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n\
                            kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz\n\
                            kernel/net/9p/9pnet.ko.xz:\nkernel/fs/netfs/netfs.ko.xz:\nkernel/fs/overlayfs/overlay.ko.xz:\n";
        assert_eq!(
            in_order(dependencies, MODULES),
            [
                "kernel/net/9p/9pnet.ko.xz",
                "kernel/net/9p/9pnet_virtio.ko.xz",
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/fs/9p/9p.ko.xz",
                "kernel/fs/overlayfs/overlay.ko.xz",
            ]
        );
    }
}
