//! What a configuration says, validated: no raw string of the file is left.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use classifier::lpm::IpPrefix;
use serde::{Serialize, Serializer};

/// How a worker waits for frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Never sleeps.
    Poll,
    /// Sleeps in the kernel when idle and wakes on the first frame.
    Adaptive,
}

/// Which cores run workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workers {
    /// One worker, on a core that the daemon chooses.
    Auto,
    /// One worker on each of these cores.
    Cores(Vec<usize>),
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Workers::Auto => serializer.serialize_str("auto"),
            Workers::Cores(cores) => cores.serialize(serializer),
        }
    }
}

/// `[runtime]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Runtime {
    /// How workers wait.
    pub profile: Profile,
    /// Which cores run workers.
    pub workers: Workers,
    /// UMEM frames of the node.
    pub frames: u32,
    /// Bytes of a frame: 2048 or 4096.
    pub frame_size: u32,
    /// A worker silent for longer counts as gone.
    #[serde(serialize_with = "duration_text")]
    pub stall_after: Duration,
}

fn duration_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{}ms", duration.as_millis()))
}

fn prefix_texts<S: Serializer>(prefixes: &[IpPrefix], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(prefixes.iter().map(IpPrefix::to_string))
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Towards other routers.
    Uplink,
    /// Towards a container or a virtual machine, which is not trusted.
    Workload,
}

/// How a port's sockets are bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The best that the driver can do.
    Auto,
    /// Zero-copy or nothing.
    Zerocopy,
    /// Driver mode with a copy.
    Copy,
    /// Generic XDP.
    Generic,
}

/// What happens to a port's traffic while no worker serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExit {
    /// The kernel forwards it.
    Kernel,
    /// Nobody forwards it: the nftables guard is loaded.
    Drop,
}

/// How source addresses are checked (RFC 3704).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AntiSpoof {
    /// The route back to the source must leave by the port it came from.
    Strict,
    /// There must be a route back to the source.
    Loose,
    /// Not checked.
    Off,
}

/// Whether partial TCP and UDP checksums are completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FixChecksums {
    /// Completed where they are found.
    Auto,
    /// Left alone.
    Off,
}

/// Which fields choose the member of a multipath route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// Addresses.
    L3,
    /// Addresses, protocol and ports.
    L4,
    /// The inner packet of a tunnel.
    Inner,
    /// As `fib_multipath_hash_policy` says.
    Kernel,
}

/// Names of a port's access lists. `{port}` in a name stands for the port's name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AclNames {
    /// The list for what comes into Margay from the port.
    pub ingress: Option<String>,
    /// The list for what goes out of Margay to the port.
    pub egress: Option<String>,
}

impl AclNames {
    /// The names with `{port}` replaced.
    pub fn expand(&self, port: &str) -> AclNames {
        let expand = |name: &Option<String>| name.as_ref().map(|name| name.replace("{port}", port));
        AclNames {
            ingress: expand(&self.ingress),
            egress: expand(&self.egress),
        }
    }

    /// Whether any list is named.
    pub fn any(&self) -> bool {
        self.ingress.is_some() || self.egress.is_some()
    }
}

/// Which interfaces a `[[port]]` table speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Selector {
    /// The interface of exactly this name.
    Name(String),
    /// Every interface whose name matches: `*` stands for any letters, `?` for one.
    Match(String),
}

impl Selector {
    /// Whether an interface of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Selector::Name(exact) => exact == name,
            Selector::Match(pattern) => glob(pattern.as_bytes(), name.as_bytes()),
        }
    }

    /// Whether nftables can name these interfaces: exactly, or by a beginning followed by one `*`.
    pub fn can_be_guarded(&self) -> bool {
        match self {
            Selector::Name(_) => true,
            Selector::Match(pattern) => pattern
                .strip_suffix('*')
                .is_some_and(|start| !start.is_empty() && !start.contains(['*', '?'])),
        }
    }

    /// The text of the file.
    pub fn text(&self) -> &str {
        match self {
            Selector::Name(text) | Selector::Match(text) => text,
        }
    }
}

/// Shell-like matching of `*` and `?`; linear in memory, and in time `pattern × name`, both at most 15 letters.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(letter) if *letter == b'?' || *letter == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, taken)) => {
                    retry = Some((star, taken + 1));
                    p = star + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|letter| *letter == b'*')
}

/// `[[port]]`, with the defaults of its role filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The interfaces it speaks of.
    #[serde(flatten)]
    pub selector: Selector,
    /// What the port is for.
    pub role: Role,
    /// How its sockets are bound.
    pub mode: Mode,
    /// What the file says of `on_exit`; `None` leaves it to [`Port::on_exit`].
    #[serde(skip)]
    pub on_exit_said: Option<OnExit>,
    /// How source addresses are checked.
    pub anti_spoof: AntiSpoof,
    /// Whether partial checksums are completed.
    pub fix_checksums: FixChecksums,
    /// Its access lists, `{port}` not yet replaced.
    pub acl: AclNames,
    /// Multicast groups that the kernel may forward from and to the port although it is closed.
    #[serde(serialize_with = "prefix_texts")]
    pub multicast: Vec<IpPrefix>,
    /// The line of the file where the table begins.
    #[serde(skip)]
    pub line: usize,
}

impl Port {
    /// What happens while no worker serves the port, with these lists: workloads and ports with a list are closed
    /// unless the file says otherwise.
    pub fn on_exit(&self, acl: &AclNames) -> OnExit {
        self.on_exit_said
            .unwrap_or(if self.role == Role::Workload || acl.any() {
                OnExit::Drop
            } else {
                OnExit::Kernel
            })
    }
}

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Listen::Tcp(address) => serializer.collect_str(address),
            Listen::Unix(path) => serializer.collect_str(&path.display()),
        }
    }
}

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[runtime]`.
    pub runtime: Runtime,
    /// `[[port]]`, in the order of the file.
    pub ports: Vec<Port>,
    /// Kernel tables that are mirrored, in the order in which they are asked.
    pub tables: Vec<u32>,
    /// ICMP errors a second and worker.
    pub icmp_rate: u32,
    /// ICMP errors that may be sent at once.
    pub icmp_burst: u32,
    /// Which fields choose a multipath member.
    pub multipath_hash: Hash,
    /// Directory of ACL files.
    pub acl_dir: PathBuf,
    /// Path of the control socket.
    pub socket: PathBuf,
    /// File in which `port set` is remembered.
    pub state: PathBuf,
    /// Where metrics are served, if the file says so.
    pub metrics: Option<Listen>,
}

impl Config {
    /// The table that speaks of an interface: an exact name beats a pattern, then the order of the file.
    pub fn port_for(&self, name: &str) -> Option<&Port> {
        let exact = self
            .ports
            .iter()
            .find(|port| matches!(&port.selector, Selector::Name(exact) if exact == name));
        // The loopback device is never a port, whatever a pattern says.
        exact.or_else(|| {
            self.ports
                .iter()
                .filter(|_| name != "lo")
                .find(|port| port.selector.matches(name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_like_a_shell_does() {
        for (pattern, name, expected) in [
            ("cali*", "cali1", true),
            ("cali*", "cali", true),
            ("cali*", "cal", false),
            ("eth?", "eth1", true),
            ("eth?", "eth", false),
            ("eth?", "eth10", false),
            ("*0", "eth0", true),
            ("*0", "eth00", true),
            ("*0", "eth01", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }
}
