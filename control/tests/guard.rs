//! The guard against a real nftables, in a network namespace of its own.
//!
//! ```text
//!   gl 10.1.0.2 ── l0 (closed) ┐
//!                              ├─ gn (ip_forward=1)
//!   gr 10.2.0.2 ── r0 ─────────┘
//! ```
//!
//! Needs root and network namespaces; without them the tests say so and pass.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use control::guard::{Entry, transaction};

/// Three namespaces that go away with the value.
struct Net {
    names: [String; 3],
}

impl Net {
    fn build(test: &str) -> Option<Net> {
        let base = format!("margay-guard-{}-{test}", std::process::id());
        let names = ["n", "l", "r"].map(|part| format!("{base}-{part}"));
        let net = Net { names };
        for name in &net.names {
            let made = Command::new("ip").args(["netns", "add", name]).output();
            if !made.is_ok_and(|output| output.status.success()) {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "network namespaces are needed in CI"
                );
                eprintln!("SKIPPED: network namespaces cannot be made here (root and iproute2 are needed)");
                return None;
            }
        }
        if !net.run(0, "nft --version").status.success() {
            assert!(std::env::var_os("CI").is_none(), "nftables is needed in CI");
            eprintln!("SKIPPED: nftables is not installed");
            return None;
        }
        let [node, left, right] = &net.names;
        let script = format!(
            "ip link add l0 type veth peer name e0 netns {left}
             ip link add r0 type veth peer name e0 netns {right}
             ip addr add 10.1.0.1/24 dev l0; ip link set l0 up
             ip addr add 10.2.0.1/24 dev r0; ip link set r0 up
             echo 1 > /proc/sys/net/ipv4/ip_forward
             nsenter --net=/run/netns/{left} ip addr add 10.1.0.2/24 dev e0; nsenter --net=/run/netns/{left} ip link set e0 up
             nsenter --net=/run/netns/{left} ip route add default via 10.1.0.1
             nsenter --net=/run/netns/{right} ip addr add 10.2.0.2/24 dev e0; nsenter --net=/run/netns/{right} ip link set e0 up
             nsenter --net=/run/netns/{right} ip route add default via 10.2.0.1"
        );
        let done = net.run(0, &script);
        assert!(done.status.success(), "{node}: {done:?}");
        Some(net)
    }

    /// A command that runs on a host. nsenter rather than `ip netns exec`: it also works in a chroot, where `/` is no
    /// mount point.
    fn inside(&self, host: usize) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.names[host]));
        command
    }

    fn run(&self, host: usize, script: &str) -> Output {
        self.inside(host)
            .args(["sh", "-ec", script])
            .output()
            .expect("nsenter can be run")
    }

    fn load(&self, entries: &[Entry]) {
        let mut nft = self
            .inside(0)
            .args(["nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nft can be run");
        let mut stdin = nft.stdin.take().expect("a pipe");
        stdin
            .write_all(transaction(entries).as_bytes())
            .expect("nft reads");
        drop(stdin);
        assert!(
            nft.wait().expect("nft ends").success(),
            "{}",
            transaction(entries)
        );
    }

    fn release(&self, words: &str) -> Output {
        let margay = env!("CARGO_BIN_EXE_margay");
        self.run(
            0,
            &format!("{margay} -j --socket /nonexistent/margay.sock release {words}"),
        )
    }

    /// Whether the left host reaches the right one through the node, and the node itself.
    fn pings(&self) -> (bool, bool) {
        let ping = |address: &str| {
            let script = format!("ping -n -c 3 -i 0.1 -W 1 {address} > /dev/null");
            self.run(1, &script).status.success()
        };
        (ping("10.2.0.2"), ping("10.1.0.1"))
    }

    fn table(&self) -> String {
        let done = self.run(0, "nft list table inet margay 2> /dev/null || :");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

fn entry(name: &str) -> Entry {
    Entry::of(name.to_owned())
}

#[test]
fn a_closed_port_forwards_nothing_until_it_is_released_without_a_daemon() {
    let Some(net) = Net::build("forward") else {
        return;
    };
    assert_eq!(net.pings(), (true, true), "the kernel forwards");
    for closed in ["l0", "l*", "r0"] {
        net.load(&[entry(closed), entry("other*")]);
        assert_eq!(
            net.pings(),
            (false, true),
            "{closed} is closed, and the node answers"
        );
        let done = net.release(&format!("'{closed}'"));
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        assert!(String::from_utf8_lossy(&done.stdout).contains(closed), "{done:?}");
        assert_eq!(net.pings(), (true, true), "{closed} is released");
        assert!(net.table().contains("other*"), "{}", net.table());
    }
    let done = net.release("nosuch");
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    assert!(
        String::from_utf8_lossy(&done.stderr).contains("\"code\":\"not_found\""),
        "{done:?}"
    );
    let done = net.release("--all");
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_eq!(net.table(), "", "the table is gone");
    let done = net.release("--all");
    assert_eq!(
        done.status.code(),
        Some(0),
        "nothing to release is no error: {done:?}"
    );
}

#[test]
fn an_open_port_inside_a_closed_pattern_stays_open() {
    let Some(net) = Net::build("except") else { return };
    net.load(&[Entry {
        except: vec!["l0".into()],
        ..entry("l*")
    }]);
    assert_eq!(net.pings(), (true, true));
    // Loading replaces the whole table in one step.
    net.load(&[entry("l0"), entry("l0.*"), entry("l*")]);
    assert_eq!(net.pings(), (false, true));
    assert!(!net.table().contains("!="), "{}", net.table());
    let done = net.release("l0");
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(
        !net.table().contains("l0.*"),
        "sub-interfaces go with their port: {}",
        net.table()
    );
}

#[test]
fn nftables_takes_every_shape_of_groups() {
    let Some(net) = Net::build("groups") else { return };
    let listed = |name: &str, groups: &[&str]| Entry {
        multicast: groups
            .iter()
            .map(|group| group.parse().expect("a prefix"))
            .collect(),
        ..entry(name)
    };
    net.load(&[
        // Within one another, twice, and side by side.
        listed(
            "l0",
            &[
                "239.1.2.0/24",
                "239.1.0.0/16",
                "239.1.0.0/16",
                "239.3.0.0/16",
                "ff1e::/16",
                "ff1e:1::/32",
            ],
        ),
        listed("r*", &["ff15::7"]),
        listed("all", &["224.0.0.0/4", "ff00::/8"]),
    ]);
    let table = net.table();
    for line in [
        "iifname \"l0\" ip daddr != { 239.1.0.0/16, 239.3.0.0/16 } counter",
        "oifname \"r*\" ip6 daddr != ff15::7 counter",
        "iifname \"r*\" meta nfproto ipv4 counter",
        "oifname \"all\" ip daddr != 224.0.0.0/4 counter",
    ] {
        // nftables may write a set of one without braces.
        let plain = |text: &str| {
            text.replace(['{', '}'], "")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert!(plain(&table).contains(&plain(line)), "{line}: {table}");
    }
    // Unicast is closed, and a port with groups is released with all its rules.
    assert_eq!(net.pings(), (false, true));
    for name in ["l0", "'r*'"] {
        assert_eq!(net.release(name).status.code(), Some(0));
    }
    assert!(
        !net.table().contains("l0") && !net.table().contains("r*"),
        "{}",
        net.table()
    );
    assert_eq!(net.pings(), (true, true));
}
