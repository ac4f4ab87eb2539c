//! A start that cannot succeed says what is wrong and what would mend it, and ends with the exit code for that kind of failure.
//!
//! ```text
//!   r (margayd) up0 ── u
//! ```

use std::process::Command;
use std::sync::Arc;

use tests::{LIMIT, Margay, sys, wait_for};

use crate::common::{Node, node};

const UP0: &str = "[[port]]\nname = \"up0\"\nrole = \"uplink\"\n";
const CLOSED: &str = "[[port]]\nname = \"up0\"\nrole = \"uplink\"\non_exit = \"drop\"\n";

fn build(name: &str) -> Option<(Node, Arc<Margay>)> {
    let net = node(name)?;
    let margay = Margay::prepare(&net.lab, &net.r, UP0, &[]);
    Some((net, margay))
}

/// Starts margayd as `change` says; it must end with `code` and say each of `words`.
#[track_caller]
fn fails(margay: &Margay, code: i32, words: &[&str], change: impl FnOnce(Command) -> Command) {
    let command = margay.host().command(tests::margay::program("margayd"));
    let mut command = change(command);
    command
        .arg("--config")
        .arg(margay.config())
        .env("RUST_LOG", "info");
    let process = margay.host().start("failing-margayd", command);
    let ended = wait_for("the start fails", LIMIT, || process.exited());
    let log = process.log_tail(12);
    assert_eq!(ended, code, "{log}");
    for word in words {
        assert!(log.contains(word), "{word:?} is not said: {log}");
    }
}

/// `setpriv WORDS… margayd`, in the namespace of the daemon.
fn setpriv(margay: &Margay, words: &[&str]) -> Command {
    let mut command = margay.host().command("setpriv");
    command.args(words).arg(tests::margay::program("margayd"));
    command
}

#[test]
fn files() {
    let Some((net, margay)) = build("start-files") else {
        return;
    };
    for (text, words) in [
        ("[runtime]\nfrmaes = 4096\n", &["frmaes", "line ", "frames"][..]),
        ("[runtime]\nframes = 12\n", &["frames", "12"]),
        (
            "[runtime]\nworkers = [4000]\n",
            &["4000", "cores that can be used"],
        ),
        ("[[port]]\nrole = \"uplink\"\n", &["name"]),
        ("[[port]\n", &["margay.toml"]),
    ] {
        margay.write_config(text);
        let log = {
            let process = margay.launch();
            let code = wait_for("the start fails", LIMIT, || process.exited());
            assert_eq!(code, 6, "{text}: {}", process.log_tail(8));
            process.log_tail(8)
        };
        for word in words {
            assert!(
                log.contains(word) || *word == "line ",
                "{word:?} is not said of {text}: {log}"
            );
        }
    }
    std::fs::remove_file(margay.config()).expect("the lab's directory can be written");
    fails(&margay, 6, &["margay.toml", "No such file"], |command| command);
    // A port that is not there is waited for, and said so.
    margay.write_config("[[port]]\nname = \"up7\"\nrole = \"uplink\"\n");
    let process = margay.launch();
    margay.ready();
    assert!(
        process
            .log()
            .contains("up7 is not open: there is no such device yet; it is taken up when")
    );
    assert_eq!(
        margay.run("port set up8 --acl-ingress x").code,
        3,
        "a port that nothing speaks of"
    );
    assert_eq!(margay.terminate(), 0);
    drop(net);
}

#[test]
fn the_port_and_the_socket_are_taken() {
    let Some((net, margay)) = build("start-taken") else {
        return;
    };
    margay.launch();
    margay.ready();
    // Its own socket answers.
    fails(
        &margay,
        1,
        &["a daemon answers on", "[control] socket"],
        |command| command,
    );
    // Another daemon with a socket of its own finds the port taken.
    let text = std::fs::read_to_string(margay.config()).expect("it was written");
    let other = margay.config().with_file_name("other.toml");
    std::fs::write(&other, text.replace("margay.sock", "other.sock"))
        .expect("the lab's directory can be written");
    let mut command = net.r.command(tests::margay::program("margayd"));
    command.arg("--config").arg(&other);
    let process = net.r.start("second-margayd", command);
    let code = wait_for("the second daemon gives up", LIMIT, || process.exited());
    let log = process.log_tail(10);
    assert_eq!(code, 1, "{log}");
    for word in ["up0", "another XDP program", "ip link set dev up0 xdp off"] {
        assert!(log.contains(word), "{word:?} is not said: {log}");
    }
    // The first one was not disturbed.
    assert_eq!(margay.run("status --ready").code, 0);
    // A socket that nobody listens on any more is replaced.
    margay.process().signal(libc::SIGKILL);
    wait_for("the process ends", LIMIT, || margay.process().exited());
    assert!(margay.socket().exists(), "what a killed daemon leaves");
    margay.launch();
    margay.ready();
    assert_eq!(margay.terminate(), 0);
    // Anything else in its place is not.
    std::fs::write(margay.socket(), "mine").expect("the lab's directory can be written");
    fails(&margay, 1, &["is not a socket", "remove it"], |command| command);
}

#[test]
fn rights() {
    let Some((net, margay)) = build("start-rights") else {
        return;
    };
    // The binaries are where only root may look; so are the lab's files.
    let open = net.lab.directory().join("open");
    net.r.sh(&format!("chmod 755 {}", net.lab.directory().display()));
    std::fs::create_dir_all(&open).expect("the lab's directory can be written");
    // With every capability but one, as root without it.
    for (missing, words) in [
        ("net_raw", &["AF_XDP socket", "CAP_NET_RAW"][..]),
        ("bpf", &["not permitted", "CAP_BPF"]),
        ("net_admin", &["CAP_NET_ADMIN"]),
    ] {
        // CAP_SYS_ADMIN stands in for CAP_BPF, so it goes as well.
        let drop = format!("-{missing},-sys_admin");
        let sets = ["--bounding-set", &drop, "--inh-caps", &drop];
        fails(&margay, 5, words, |_| setpriv(&margay, &sets));
    }
    // Too little lockable memory for the UMEM.
    fails(&margay, 5, &["CAP_IPC_LOCK", "LimitMEMLOCK"], |_| {
        let mut command = margay.host().command("prlimit");
        command.args([
            "--memlock=65536:65536",
            "setpriv",
            "--bounding-set",
            "-ipc_lock,-sys_resource",
        ]);
        command
            .args(["--inh-caps", "-ipc_lock,-sys_resource"])
            .arg(tests::margay::program("margayd"));
        command
    });
    // A kernel without AF_XDP.
    fails(
        &margay,
        1,
        &["this kernel has no AF_XDP", "CONFIG_XDP_SOCKETS"],
        |mut command| {
            sys::without_af_xdp(&mut command);
            command
        },
    );
    // Nothing stays behind of any of them.
    assert!(!net.r.sh("ip link").contains("xdp"));
    margay.launch();
    margay.ready();
    assert_eq!(margay.terminate(), 0);
}

#[test]
fn nftables_is_missing() {
    let Some((net, margay)) = build("start-nft") else {
        return;
    };
    margay.write_config(CLOSED);
    let without = |mut command: Command| {
        command.env("PATH", net.lab.directory());
        command
    };
    net.r.sysctl("net.ipv4.ip_forward", "1");
    fails(
        &margay,
        1,
        &[
            "nftables is not installed",
            "apt install nftables",
            "ip_forward=0",
        ],
        without,
    );
    // Where the kernel does not forward there is nothing to guard: it starts, and warns.
    net.r.sysctl("net.ipv4.ip_forward", "0");
    margay.launch_with(&[("PATH", &net.lab.directory().display().to_string())]);
    margay.ready();
    assert!(margay.process().log().contains("nftables is not installed"));
    assert_eq!(margay.terminate(), 0);
}
