//! Between the configuration's words and the data plane's.

use forwarder::{Error, PortSpec, Settings};

use super::lists::Lists;
use crate::config::{self, AclNames, Config, Hash, Port, Workers};
use crate::mirror::MirrorError;
use crate::socket::{Code, ErrorBody};

/// The cores of the workers. `auto` is one worker, on the last core that the process may use: the first ones take
/// interrupts and the control thread.
pub(super) fn cores(config: &Config) -> Result<Vec<usize>, ErrorBody> {
    let allowed = allowed_cores();
    match &config.runtime.workers {
        Workers::Auto => Ok(vec![allowed.last().copied().unwrap_or(0)]),
        Workers::Cores(cores) => match cores.iter().find(|core| !allowed.contains(core)) {
            Some(core) if !allowed.is_empty() => Err(ErrorBody::new(
                Code::BadConfiguration,
                format!("runtime.workers: core {core} is not there, or this process may not use it"),
            )
            .hint(format!("cores that can be used: {allowed:?}"))),
            _ => Ok(cores.clone()),
        },
    }
}

fn allowed_cores() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or_default();
    parse_cores(list.trim())
}

/// `0-3,8` as the kernel writes lists of cores.
fn parse_cores(list: &str) -> Vec<usize> {
    list.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        })
        .flatten()
        .collect()
}

pub(super) fn settings(config: &Config, cores: Vec<usize>) -> Settings {
    Settings {
        profile: match config.runtime.profile {
            config::Profile::Poll => forwarder::Profile::Poll,
            config::Profile::Adaptive => forwarder::Profile::Adaptive,
        },
        cores,
        frames: config.runtime.frames,
        frame_size: config.runtime.frame_size,
        stall_after: config.runtime.stall_after,
        icmp_rate: config.icmp_rate,
        icmp_burst: config.icmp_burst,
        multipath: multipath(config.multipath_hash),
    }
}

/// `kernel` means the policy of the kernel at the start (`Documentation/networking/ip-sysctl.rst`,
/// `fib_multipath_hash_policy`: 0 layer 3, 1 layer 4, 2 inner, 3 custom fields, for which layer 4 is nearest).
fn multipath(hash: Hash) -> forwarder::MultipathHash {
    match hash {
        Hash::L3 => forwarder::MultipathHash::L3,
        Hash::L4 => forwarder::MultipathHash::L4,
        Hash::Inner => forwarder::MultipathHash::Inner,
        Hash::Kernel => {
            let policy = std::fs::read_to_string("/proc/sys/net/ipv4/fib_multipath_hash_policy");
            match policy.as_deref().map(str::trim) {
                Ok("0") => forwarder::MultipathHash::L3,
                Ok("2") => forwarder::MultipathHash::Inner,
                _ => forwarder::MultipathHash::L4,
            }
        }
    }
}

/// What a port is opened with; its lists hold from the first frame on.
pub(super) fn spec(
    name: &str,
    ifindex: u32,
    port: &Port,
    acl: &AclNames,
    attrs: forwarder::PortAttrs,
    closed: bool,
    lists: &mut Lists,
) -> PortSpec {
    PortSpec {
        name: name.to_owned(),
        ifindex,
        role: match port.role {
            config::Role::Uplink => forwarder::Role::Uplink,
            config::Role::Workload => forwarder::Role::Workload,
        },
        mode: match port.mode {
            config::Mode::Auto => forwarder::Mode::Auto,
            config::Mode::Zerocopy => forwarder::Mode::Zerocopy,
            config::Mode::Copy => forwarder::Mode::Copy,
            config::Mode::Generic => forwarder::Mode::Generic,
        },
        on_exit_drop: closed,
        fix_checksums: port.fix_checksums == config::FixChecksums::Auto,
        anti_spoof: match port.anti_spoof {
            config::AntiSpoof::Strict => forwarder::AntiSpoof::Strict,
            config::AntiSpoof::Loose => forwarder::AntiSpoof::Loose,
            config::AntiSpoof::Off => forwarder::AntiSpoof::Off,
        },
        attrs,
        acl_ingress: acl.ingress.as_ref().map(|name| lists.get(name)),
        acl_egress: acl.egress.as_ref().map(|name| lists.get(name)),
    }
}

/// The data plane's errors with the contract's codes.
pub(super) fn dataplane_error(error: &Error) -> ErrorBody {
    let code = match error {
        Error::Setting { .. } => Code::BadConfiguration,
        Error::Permission { .. } => Code::NotPermitted,
        Error::NoDevice { .. } => Code::NotFound,
        _ => Code::Failed,
    };
    ErrorBody::new(code, error.to_string())
}

/// The mirror's errors with the contract's codes.
pub(super) fn mirror_error(error: &MirrorError) -> ErrorBody {
    let permission = match error {
        MirrorError::Socket { source, .. } | MirrorError::Refused { source, .. } => {
            source.kind() == std::io::ErrorKind::PermissionDenied
        }
        MirrorError::Dataplane(error) => return dataplane_error(error),
        MirrorError::Tables(_) => false,
    };
    if permission {
        ErrorBody::new(Code::NotPermitted, error.to_string()).hint("run as root or with CAP_NET_ADMIN")
    } else {
        ErrorBody::new(Code::Failed, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_cores("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_cores("5"), [5]);
        assert_eq!(parse_cores(""), Vec::<usize>::new());
        assert!(!allowed_cores().is_empty());
    }
}
