//! Namespaces for tests of the mirror, and a data plane that forwards nothing.
//!
//! ```text
//!   namespace NAME                    namespace NAME-p
//!   v0 10.0.0.1/24  2001:db8:a::1/64 ─── w0 10.0.0.2 …  2001:db8:a::2
//!   v1 10.0.1.1/24  2001:db8:b::1/64 ─── w1 10.0.1.2 …  2001:db8:b::2
//!   v2 (no address)                  ─── w2 10.65.0.2/32
//! ```
//! A test runs itself again inside the namespace, since a namespace belongs to a thread.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::lpm::IpPrefix;
use classifier::qsbr::Domain;
use control::mirror::{Mirror, MirrorConfig, Plane};
use forwarder::fib::{Fib, Routes, VrfId};
use forwarder::tables::NeighbourRequest;
use forwarder::{Error, MultipathHash, PortAttrs, PortId};

const INSIDE: &str = "MARGAY_TEST_NAMESPACE";

/// `ip -n` mounts a /sys of its own, which fails in a chroot, where `/` is no mount point; nsenter does not.
const IP: &str = r#"ip() { if [ "$1" = -n ]; then ns=$2; shift 2; nsenter --net="/run/netns/$ns" ip "$@"; else command ip "$@"; fi; }
"#;

/// Runs a shell line; panics with what it said when it fails.
pub fn sh(line: &str) -> String {
    let script = format!("{IP}{line}");
    let output = Command::new("sh").args(["-ec", &script]).output().expect("sh");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{line}\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

struct Namespaces(String);

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [self.0.clone(), format!("{}-p", self.0)] {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

/// Runs `body` inside namespaces of its own. `name` is that of the test, its module in front.
pub fn inside<F: Future<Output = ()>>(name: &str, body: impl FnOnce(String) -> F) {
    if let Ok(peer) = std::env::var(INSIDE) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(body(peer));
        return;
    }
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|out| out.stdout == b"0\n");
    if !root {
        eprintln!("SKIPPED {name}: needs root for network namespaces");
        return;
    }
    let unique = format!("mir-{}-{}", std::process::id(), name.replace("::", "-"));
    let names = Namespaces(unique.clone());
    sh(&format!(
        "ip netns add {unique}; ip netns add {unique}-p
         ip -n {unique} link set lo up; ip -n {unique}-p link set lo up
         for i in 0 1 2; do ip link add v$i netns {unique} type veth peer name w$i netns {unique}-p
           ip -n {unique} link set v$i up; ip -n {unique}-p link set w$i up; done
         nsenter --net=/run/netns/{unique} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
         ip -n {unique} addr add 10.0.0.1/24 dev v0; ip -n {unique} addr add 10.0.1.1/24 dev v1
         ip -n {unique} addr add 2001:db8:a::1/64 dev v0 nodad; ip -n {unique} addr add 2001:db8:b::1/64 dev v1 nodad
         ip -n {unique}-p addr add 10.0.0.2/24 dev w0; ip -n {unique}-p addr add 10.0.0.3/24 dev w0
         ip -n {unique}-p addr add 10.0.1.2/24 dev w1; ip -n {unique}-p addr add 10.65.0.2/32 dev w2
         ip -n {unique}-p addr add 2001:db8:a::2/64 dev w0 nodad; ip -n {unique}-p addr add 2001:db8:b::2/64 dev w1 nodad
         ip -n {unique}-p route add 10.0.0.1/32 dev w2 metric 9; ip -n {unique}-p addr add fe80::2/64 dev w0 nodad"
    ));
    let me = std::env::current_exe().expect("own path");
    // nsenter rather than `ip netns exec`: it also works in a chroot, where `/` is no mount point.
    let output = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{unique}"))
        .arg(me)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, format!("{unique}-p"))
        .output()
        .expect("nsenter can be run");
    eprintln!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    drop(names);
    assert!(output.status.success(), "the test failed inside its namespace");
}

/// A FIB without workers.
pub struct Bare {
    pub fib: Fib,
    pub local: BTreeSet<(VrfId, IpPrefix)>,
    pub requests: Vec<NeighbourRequest>,
    pub attrs: Vec<(PortId, PortAttrs)>,
    domain: Domain,
}

impl Bare {
    pub fn new() -> Self {
        let domain = Domain::new();
        Self {
            fib: Fib::new(Arc::new(Routes::new(&domain, MultipathHash::L4, 1))),
            local: BTreeSet::new(),
            requests: Vec::new(),
            attrs: Vec::new(),
            domain,
        }
    }
}

impl Plane for Bare {
    fn fib(&mut self) -> &mut Fib {
        &mut self.fib
    }

    fn requests(&mut self) -> Vec<NeighbourRequest> {
        std::mem::take(&mut self.requests)
    }

    fn set_local(&mut self, add: &[(VrfId, IpPrefix)], remove: &[(VrfId, IpPrefix)]) -> Result<(), Error> {
        for own in remove {
            assert!(self.local.remove(own), "{own:?} was not local");
        }
        for own in add {
            assert!(self.local.insert(*own), "{own:?} was local already");
        }
        Ok(())
    }

    fn update_port(&mut self, port: PortId, attrs: PortAttrs) -> Result<(), Error> {
        self.attrs.push((port, attrs));
        Ok(())
    }

    fn maintain(&mut self) {
        self.domain.reclaim();
    }
}

/// A mirror with its data plane, complete.
pub struct Lab {
    pub mirror: Mirror,
    pub plane: Bare,
}

impl Lab {
    /// Starts a mirror of the main table and `v0`, `v1`, `v2` as ports.
    pub async fn start(config: MirrorConfig) -> Self {
        let mut lab = Self {
            mirror: Mirror::new(config).expect("mirror"),
            plane: Bare::new(),
        };
        lab.until("the mirror is complete", |lab| lab.mirror.complete())
            .await;
        for (port, name) in ["v0", "v1", "v2"].iter().enumerate() {
            if let Some(link) = lab.mirror.link(name) {
                let port = PortId(port as u16);
                lab.mirror
                    .port_opened(&mut lab.plane, link.index, port)
                    .expect("port");
            }
        }
        lab
    }

    /// Lets the mirror work for that long.
    pub async fn pump(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let next = self.mirror.next(&mut self.plane);
            if let Ok(result) = tokio::time::timeout(Duration::from_millis(2), next).await {
                result.expect("mirror");
            }
            self.mirror.tick(&mut self.plane).expect("tick");
            self.plane.maintain();
        }
    }

    /// Waits for a condition.
    pub async fn until(&mut self, what: &str, condition: impl Fn(&mut Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            assert!(
                Instant::now() < end,
                "waited in vain: {what}\n{}",
                sh("ip route; ip neigh; ip -6 route")
            );
            self.pump(Duration::from_millis(2)).await;
        }
    }

    /// Kernel, mirror and data plane agree.
    pub async fn agree(&mut self, after: &str) {
        let differences = self
            .mirror
            .diff_kernel(&mut self.plane, None)
            .await
            .expect("diff");
        assert!(
            differences.is_empty(),
            "after {after}:\n{differences:#?}\n{}",
            sh("ip route show table all; ip -6 route show table all; ip link; ip neigh")
        );
    }
}
