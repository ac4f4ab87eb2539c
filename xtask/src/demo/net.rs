//! The demo's network: namespaces, links, addresses, daemons and their configuration files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::{self, Failure};

const PREFIX: &str = "margay-demo-";

/// Where configuration files, sockets and logs are while the demo is up: a directory that only root can write, gone with a reboot.
const DIRECTORY: &str = "/run/margay-demo";

/// A host that runs margayd and BIRD.
pub struct Node {
    /// `host1`
    pub name: &'static str,
    /// Its number in the addresses: uplink 10.0.N.2 and fd00:0:0:N::2, the fabric's side ends in 1.
    pub number: u8,
    /// Name and last part of the address: A is 192.168.1.1 and fd00:192:168:1::1.
    pub containers: &'static [(&'static str, u8)],
}

/// Both hosts.
pub const NODES: [Node; 2] = [
    Node {
        name: "host1",
        number: 1,
        containers: &[("A", 1), ("B", 2), ("C", 3)],
    },
    Node {
        name: "host2",
        number: 2,
        containers: &[("D", 4), ("E", 5)],
    },
];

/// The built network.
pub struct Net {
    directory: PathBuf,
}

/// A container's IPv4 address.
pub fn v4(number: u8) -> String {
    format!("192.168.1.{number}")
}

/// A container's IPv6 address.
pub fn v6(number: u8) -> String {
    format!("fd00:192:168:1::{number}")
}

/// The access list of Host 2's uplink: `rule` is put before the default.
pub fn acl(rule: &str) -> String {
    format!("version = 1\n[[acl]]\nname = \"edge-in\"\ndefault = \"allow\"\n{rule}")
}

impl Net {
    /// Builds it and starts its daemons.
    pub fn build() -> Result<Self, Failure> {
        let net = Self {
            directory: PathBuf::from(DIRECTORY),
        };
        for name in ["fabric", "host1", "host2", "A", "B", "C", "D", "E"] {
            ip(&["netns", "add", &netns(name)])?;
            // IPv4 settings are inherited from the machine's own network: set what the demo relies on.
            net.sh(
                name,
                "ip link set lo up
                 echo 0 >/proc/sys/net/ipv4/ip_forward
                 for set in all default; do
                     echo 0 >/proc/sys/net/ipv4/conf/$set/rp_filter
                     echo 0 >/proc/sys/net/ipv6/conf/$set/accept_dad
                 done",
            )?;
        }
        net.sh(
            "fabric",
            "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
        )?;
        for node in &NODES {
            net.wire(node)?;
        }
        net.start("fabric", "bird", &net.bird_of_fabric())?;
        for node in &NODES {
            net.start(node.name, "bird", &bird_of_host(node))?;
            let folder = net.folder(node.name)?;
            fs::create_dir_all(folder.join("acl.d")).map_err(|error| unwritable(&folder, &error))?;
            net.write(&folder.join("acl.d/edge.toml"), &acl(""))?;
            net.start(node.name, "margayd", &net.margay_of(node))?;
        }
        Ok(net)
    }

    fn wire(&self, node: &Node) -> Result<(), Failure> {
        let n = node.number;
        let (fabric, host) = (netns("fabric"), node.name);
        self.sh(
            host,
            &format!(
                "ip link add eth0 type veth peer name {host} netns {fabric}
                 ip link set eth0 up
                 ip addr add 10.0.{n}.2/24 dev eth0; ip -6 addr add fd00:0:0:{n}::2/64 dev eth0"
            ),
        )?;
        self.sh(
            "fabric",
            &format!(
                "ip link set {host} up
                 ip addr add 10.0.{n}.1/24 dev {host}; ip -6 addr add fd00:0:0:{n}::1/64 dev {host}"
            ),
        )?;
        for (container, number) in node.containers {
            let (port, v4, v6) = (port(container), v4(*number), v6(*number));
            self.sh(
                host,
                &format!(
                    "ip link add {port} type veth peer name eth0 netns {peer}
                     ip link set {port} up
                     ip addr add 169.254.1.1/32 dev {port} scope link; ip -6 addr add fe80::1/64 dev {port}
                     ip route add {v4} dev {port} scope link; ip -6 route add {v6} dev {port}",
                    peer = netns(container)
                ),
            )?;
            self.sh(
                container,
                &format!(
                    "ip link set eth0 up
                     ip addr add {v4}/32 dev eth0; ip -6 addr add {v6}/128 dev eth0
                     ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1
                     ip -6 route add default via fe80::1 dev eth0"
                ),
            )?;
        }
        Ok(())
    }

    fn bird_of_fabric(&self) -> String {
        let mut text = bird_basis("10.0.1.1");
        for node in &NODES {
            let (n, name) = (node.number, node.name);
            let bgp = |family: &str, us: String, neighbour: String| {
                format!(
                    "protocol bgp {name}_{family} {{\n  local {us} as 64512;\n  neighbor {neighbour} as 64512;\n  \
                     rr client;\n  {TIMERS}\n  {family} {{ import all; export all; next hop self; }};\n}}\n"
                )
            };
            text += &bgp("ipv4", format!("10.0.{n}.1"), format!("10.0.{n}.2"));
            text += &bgp("ipv6", format!("fd00:0:0:{n}::1"), format!("fd00:0:0:{n}::2"));
        }
        text
    }

    fn margay_of(&self, node: &Node) -> String {
        let socket = self.socket(node.name);
        let acl = if node.number == 2 {
            "acl = { ingress = \"edge-in\" }\n"
        } else {
            ""
        };
        format!(
            "version = 1\n\n[runtime]\nprofile = \"adaptive\"\nworkers = [0]\nframes = 8192\n\n\
             [[port]]\nname = \"eth0\"\nrole = \"uplink\"\n{acl}\n\
             [[port]]\nmatch = \"cali*\"\nrole = \"workload\"\n\n\
             [control]\nsocket = \"{}\"\n",
            socket.display()
        )
    }

    /// Writes a daemon's configuration file and starts it, its output going to a log file beside.
    fn start(&self, host: &str, program: &str, config: &str) -> Result<(), Failure> {
        let folder = self.folder(host)?;
        let file = folder.join(if program == "bird" {
            "bird.conf"
        } else {
            "margay.toml"
        });
        self.write(&file, config)?;
        let path = folder.join(format!("{program}.log"));
        let log = File::create(&path).map_err(|error| unwritable(&path, &error))?;
        let errors = log.try_clone().map_err(|error| unwritable(&path, &error))?;
        let mut command = if program == "bird" {
            let mut bird = self.command(host, "bird");
            bird.args(["-f", "-c"])
                .arg(&file)
                .arg("-s")
                .arg(folder.join("bird.ctl"));
            bird
        } else {
            let mut margayd = self.command(host, &run::binaries().join("margayd").display().to_string());
            margayd.arg("--config").arg(&file);
            margayd
        };
        let started = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        started
            .map(drop)
            .map_err(|error| Failure(format!("{program} cannot be started on {host}: {error}")))
    }

    fn folder(&self, host: &str) -> Result<PathBuf, Failure> {
        let folder = self.directory.join(host);
        fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, &error))?;
        Ok(folder)
    }

    /// Writes a file of the demo.
    pub fn write(&self, path: &Path, text: &str) -> Result<(), Failure> {
        fs::write(path, text).map_err(|error| unwritable(path, &error))
    }

    /// The ACL file of a host.
    pub fn acl_file(&self, host: &str) -> PathBuf {
        self.directory.join(host).join("acl.d/edge.toml")
    }

    /// The control socket of a host's margayd.
    pub fn socket(&self, host: &str) -> PathBuf {
        self.directory.join(host).join("margay.sock")
    }

    /// A command that will run on `host`. nsenter rather than `ip netns exec`: it also works where `/` is no mount point, in a chroot.
    pub fn command(&self, host: &str, program: &str) -> Command {
        let mut command = run::command("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", netns(host)))
            .arg("--")
            .arg(program);
        command
    }

    /// A `margay` that asks the daemon of `host`.
    pub fn margay(&self, host: &str, words: &str) -> Command {
        let mut command = run::command(&run::binaries().join("margay").display().to_string());
        command
            .arg("--socket")
            .arg(self.socket(host))
            .args(words.split_whitespace());
        command
    }

    /// Runs a shell script on `host`, which must succeed.
    pub fn sh(&self, host: &str, script: &str) -> Result<String, Failure> {
        let (done, text) = run::capture(self.command(host, "sh").args(["-ec", script]))?;
        if done {
            Ok(text)
        } else {
            Err(Failure(format!("on {host}: {script}\n{text}")))
        }
    }

    /// Asks again and again, at most half a minute.
    pub fn wait_for(
        &self,
        what: &str,
        mut condition: impl FnMut() -> Result<bool, Failure>,
    ) -> Result<Duration, Failure> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if condition()? {
                return Ok(start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(Failure(format!("waited 30 s in vain for: {what}")))
    }

    /// Prints the end of every daemon's log: for when the demo failed.
    pub fn print_logs(&self) {
        for host in ["fabric", "host1", "host2"] {
            for program in ["bird", "margayd"] {
                let path = self.directory.join(host).join(format!("{program}.log"));
                let Ok(bytes) = fs::read(&path) else { continue };
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = text.lines().collect();
                println!(
                    "\n--- the end of {}\n{}",
                    path.display(),
                    lines[lines.len().saturating_sub(20)..].join("\n")
                );
            }
        }
    }

    /// Prints commands to try while the network is kept.
    pub fn print_how_to_look_around(&self) {
        let works = run::capture(run::command("ip").args(["netns", "exec", &netns("A"), "true"]))
            .is_ok_and(|(ok, _)| ok);
        let on = |host: &str| {
            if works {
                format!("ip netns exec {}", netns(host))
            } else {
                format!("nsenter --net=/run/netns/{}", netns(host))
            }
        };
        let margay = run::binaries().join("margay");
        let ask = |host: &str, words: &str| {
            format!(
                "{} --socket {} {words}",
                margay.display(),
                self.socket(host).display()
            )
        };
        let bird = self.directory.join("host1/bird.ctl");
        println!("\nThe network stays up. As root:");
        for (what, command) in [
            (
                "from container A to container E",
                format!("{} ping {}", on("A"), v4(5)),
            ),
            (
                "the hops between them",
                format!("{} traceroute -n {}", on("A"), v4(5)),
            ),
            (
                "what Host 1 forwards; the socket is reached from any namespace",
                ask("host1", "-s port show"),
            ),
            ("its routes", ask("host1", "route show")),
            ("what Host 2 dropped, and why", ask("host2", "drops")),
            (
                "Host 1's BGP",
                format!("{} birdc -s {} show route", on("host1"), bird.display()),
            ),
            ("Host 2's kernel", format!("{} ip route", on("host2"))),
            (
                "configuration, access lists, logs; margay acl reload takes a change of the lists",
                format!("ls -R {}", self.directory.display()),
            ),
            ("and it is gone", "cargo xtask demo --down".to_owned()),
        ] {
            println!("\n  # {what}\n  {command}");
        }
    }
}

/// Takes the demo's network away: ends what runs in its namespaces and removes them. Nothing happens when there is none.
pub fn down() -> Result<(), Failure> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let namespaces: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(PREFIX))
        .collect();
    for signal in ["-TERM", "-KILL"] {
        let pids = |name: &String| {
            let listed = run::capture(run::command("ip").args(["netns", "pids", name]));
            listed
                .map(|(_, text)| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
                .unwrap_or_default()
        };
        let running = || namespaces.iter().flat_map(pids).collect::<Vec<String>>();
        let ended: Vec<String> = running();
        if ended.is_empty() {
            break;
        }
        let kill = "kill \"$@\" 2>/dev/null || :";
        run::capture(run::command("sh").args(["-c", kill, "kill", signal]).args(&ended))?;
        let start = Instant::now();
        while !running().is_empty() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    for name in &namespaces {
        ip(&["netns", "del", name])?;
    }
    match fs::remove_dir_all(DIRECTORY) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(unwritable(Path::new(DIRECTORY), &error))
        }
        _ => Ok(()),
    }
}

/// The host's end of a container's veth pair.
pub fn port(container: &str) -> String {
    format!("cali{container}")
}

fn netns(host: &str) -> String {
    format!("{PREFIX}{host}")
}

fn ip(words: &[&str]) -> Result<(), Failure> {
    let (done, text) = run::capture(run::command("ip").args(words))?;
    if done {
        Ok(())
    } else {
        Err(Failure(format!("ip {}: {text}", words.join(" "))))
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure(format!("{}: {error}", path.display()))
}

const TIMERS: &str = "direct; connect delay time 1; connect retry time 1; error wait time 1, 2; hold time 9;";

/// What all three BIRDs have in common: they learn the routes to containers that an orchestrator (here: the demo) put into the kernel,
/// and put the routes that BGP brings into the kernel, which is where Margay finds them.
fn bird_basis(router_id: &str) -> String {
    format!(
        "log stderr all;\nrouter id {router_id};\nprotocol device {{ scan time 1; }}\n\
         protocol kernel k4 {{ learn; scan time 1; ipv4 {{ import all; export where source = RTS_BGP; }}; }}\n\
         protocol kernel k6 {{ learn; scan time 1; ipv6 {{ import all; export where source = RTS_BGP; }}; }}\n"
    )
}

fn bird_of_host(node: &Node) -> String {
    let n = node.number;
    let bgp = |family: &str, us: String, neighbour: String, own: &str| {
        format!(
            "protocol bgp fabric_{family} {{\n  local {us} as 64512;\n  neighbor {neighbour} as 64512;\n  {TIMERS}\n  \
             {family} {{ import all; export where net ~ [ {own} ]; next hop self; }};\n}}\n"
        )
    };
    bird_basis(&format!("10.0.{n}.2"))
        + &bgp(
            "ipv4",
            format!("10.0.{n}.2"),
            format!("10.0.{n}.1"),
            "192.168.1.0/24{32,32}",
        )
        + &bgp(
            "ipv6",
            format!("fd00:0:0:{n}::2"),
            format!("fd00:0:0:{n}::1"),
            "fd00:192:168:1::/64{128,128}",
        )
}
