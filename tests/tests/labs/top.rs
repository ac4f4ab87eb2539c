//! `margay top` in a terminal (tmux) of 80 by 24: readable, quits cleanly by key, signal and the daemon's end, and works over a
//! terminal that reads slowly.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd) up0 ── u 203.0.113.1
//! ```

use std::sync::Arc;
use std::time::Duration;

use tests::lab::skip;
use tests::margay::program;
use tests::traffic::Stream;
use tests::{Host, LIMIT, Margay, schema, wait_for};

use crate::common::{Node, PORTS, node};

const LIST: &str = "[[acl]]\nname = \"in\"\ndefault = \"allow\"\n[[acl.rule]]\naction = \"deny\"\nproto = \"udp\"\ndport = [9]\n";

/// A terminal of its own on the node, with a shell in it.
struct Terminal {
    host: Host,
    socket: String,
}

impl Terminal {
    fn open(net: &Node, name: &str) -> Self {
        let socket = net.lab.directory().join(name).display().to_string();
        let terminal = Self {
            host: net.r.clone(),
            socket,
        };
        terminal.tmux("-f /dev/null new-session -d -x 80 -y 24 'env PS1=done: TERM=screen sh'");
        terminal
    }

    fn tmux(&self, words: &str) -> String {
        self.host.sh(&format!("tmux -S '{}' {words}", self.socket))
    }

    /// What is on the screen, and whether the alternate screen is shown.
    fn screen(&self) -> (String, bool) {
        let alternate = self.tmux("display-message -p '#{alternate_on}'");
        (self.tmux("capture-pane -p"), alternate.trim() == "1")
    }

    fn types(&self, text: &str) {
        // Quoted for the shell that runs tmux: the shell inside the terminal gets every letter.
        let quoted = text.replace('\'', "'\\''");
        self.tmux(&format!("send-keys -l '{quoted}'"));
        self.tmux("send-keys Enter");
    }

    #[track_caller]
    fn shows(&self, what: &str, words: &[&str]) -> String {
        wait_for(what, LIMIT, || {
            let (screen, _) = self.screen();
            match words.iter().find(|word| !screen.contains(**word)) {
                Some(word) => Err(format!("{word:?} is not in\n{screen}")),
                None => Ok(screen),
            }
        })
    }

    /// `top` has ended: the shell is back on the ordinary screen, echoes what is typed, and knows the exit status.
    #[track_caller]
    fn is_restored(&self, what: &str, status: &str) {
        wait_for(what, LIMIT, || {
            let (screen, alternate) = self.screen();
            if alternate {
                return Err(format!("the alternate screen is still shown:\n{screen}"));
            }
            if screen.contains(status) {
                Ok(())
            } else {
                Err(format!("{status:?} is not in\n{screen}"))
            }
        });
        self.types("clear");
        let settings = "stty -a | grep -o -e '-*icanon' -e '-*echo ' | tr -d '\\n'; echo .";
        self.types(settings);
        self.shows("the terminal echoes and collects lines again", &["icanonecho ."]);
        assert!(!self.screen().0.contains("-icanon"));
        self.types("clear");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.host
            .try_sh(&format!("tmux -S '{}' kill-server", self.socket));
    }
}

fn build(name: &str) -> Option<(Node, Host, Arc<Margay>)> {
    if std::process::Command::new("tmux").arg("-V").output().is_err() {
        skip(name, "tmux (package tmux) is missing");
        return None;
    }
    let net = node(name)?;
    let a = net.container("a", 2);
    let ports = PORTS.replace(
        "role = \"workload\"",
        "role = \"workload\"\nacl = { ingress = \"in\" }",
    );
    let margay = Margay::start_with(&net.lab, &net.r, &ports, &[("in", LIST)]);
    margay.has_port("cali-a");
    a.reaches("203.0.113.1");
    Some((net, a, margay))
}

fn command(margay: &Margay, words: &str) -> String {
    format!(
        "{} --socket {} top {words}; echo status=$?",
        program("margay").display(),
        margay.socket().display()
    )
}

#[test]
fn top() {
    let Some((net, a, margay)) = build("top") else {
        return;
    };
    let stream = Stream::start(
        &a,
        &net.u,
        "203.0.113.1".parse().expect("an address"),
        1,
        Duration::from_millis(5),
    );
    let denied = a
        .enter(|| std::net::UdpSocket::bind("0.0.0.0:0"))
        .expect("a UDP port is free");
    for _ in 0..5 {
        denied.send_to(b"x", "203.0.113.1:9").expect("a datagram is sent");
    }
    wait_for("drops are counted", LIMIT, || margay.drops("acl_ingress") == 5);
    let terminal = Terminal::open(&net, "terminal");
    terminal.types(&command(&margay, "-d 0.2"));
    let screen = terminal.shows(
        "everything is on one screen",
        &[
            "margay ready",
            "routes",
            "ports",
            "up0",
            "cali-a",
            "rx bit/s",
            "workers",
            "busy",
            "bursts/s",
            "drops",
            "acl_ingress",
            "top rules",
            "in default",
            "in 0",
            "in.toml:",
        ],
    );
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    // The stream's rate is seen: about 200 packets a second came in by cali-a.
    wait_for("the rate of a port with traffic is shown", LIMIT, || {
        let (screen, _) = terminal.screen();
        let row = screen
            .lines()
            .find(|line| line.starts_with("cali-a"))
            .unwrap_or_default();
        let rate = row
            .split_whitespace()
            .nth(1)
            .and_then(|rate| rate.parse::<f64>().ok());
        if rate.is_some_and(|rate| rate > 1.0) {
            Ok(())
        } else {
            Err(screen)
        }
    });
    assert!(terminal.screen().1, "the view is on the alternate screen");
    // A key ends it.
    terminal.tmux("send-keys q");
    terminal.is_restored("top ends by q", "status=0");
    // So does a signal. The shell says its process number, and then becomes top.
    let file = net.lab.directory().join("top.pid").display().to_string();
    let words = command(&margay, "-d 0.2").replace("; echo status=$?", "");
    terminal.types(&format!("sh -c 'echo $$ >{file}; exec {words}'; echo status=$?"));
    terminal.shows("it runs again", &["margay ready"]);
    net.r.sh(&format!("kill -TERM $(cat {file})"));
    terminal.is_restored("top ends by a signal", "status=0");
    // A daemon that is silent is said to be so, and keys work; one that goes ends the view.
    terminal.types(&command(&margay, "-d 0.2"));
    terminal.shows("it runs again", &["margay ready"]);
    margay.process().signal(libc::SIGSTOP);
    terminal.shows("silence is shown", &["no answer for"]);
    margay.process().signal(libc::SIGCONT);
    terminal.shows("it answers again", &["margay ready"]);
    stream.stop();
    margay.process().signal(libc::SIGKILL);
    terminal.is_restored("top ends with the daemon", "status=4");
    // Without a daemon nothing is touched.
    terminal.types(&command(&margay, ""));
    terminal.is_restored("top says that nobody answers", "status=4");
}

/// A terminal that takes 600 bytes a second: what is shown is never much older than the terminal is slow, and `q` ends it.
#[test]
fn slow_terminal() {
    let Some((net, _a, margay)) = build("slowtop") else {
        return;
    };
    // A terminal inside of a terminal: `script` runs top on a terminal of its own, whose output is read slowly.
    let reader = "import sys,os,time\nwhile True:\n b=os.read(0,60)\n if not b: break\n sys.stdout.buffer.write(b); sys.stdout.flush(); time.sleep(0.1)\n";
    let path = net.lab.directory().join("slow.py");
    std::fs::write(&path, reader).expect("the lab's directory can be written");
    let inner = command(&margay, "-d 0.2 -n 8").replace("; echo status=$?", "");
    let begin = std::time::Instant::now();
    let out = net.r.sh(&format!(
        "COLUMNS=80 LINES=24 script -qec \"stty rows 24 cols 80; {inner}\" /dev/null </dev/null | python3 {}",
        path.display()
    ));
    assert!(out.contains("acl") || out.contains("margay"), "{out}");
    // The alternate screen was entered and left.
    let (entered, left) = (out.find("\u{1b}[?1049h"), out.rfind("\u{1b}[?1049l"));
    assert!(entered.is_some() && left > entered, "{out:?}");
    assert!(
        begin.elapsed() < Duration::from_secs(50),
        "eight samples were shown after {:?}",
        begin.elapsed()
    );
    margay.check_sums();
}

/// Without a terminal `top` says so; with `-j` it prints samples whose counters are those of `port show`.
#[test]
fn without_a_terminal() {
    let Some((_net, _a, margay)) = build("topjson") else {
        return;
    };
    let done = margay.run("top");
    assert!(
        done.code == 2 && done.err.contains("top -j") | done.err.contains("-j top"),
        "{done:?}"
    );
    let done = margay.run("-j top -d 0.1 -n 3");
    assert_eq!(done.code, 0, "{done:?}");
    let samples = schema::check_lines("top", &done.out);
    assert_eq!(samples.len(), 3);
    assert!(samples[2]["uptime_ns"].as_u64() > samples[0]["uptime_ns"].as_u64());
    wait_for("top and port show name the same numbers", LIMIT, || {
        let top = margay.json("top -n 1");
        let shown = margay.find_port("cali-a").expect("the port is there");
        let row = tests::margay::list(&top, "ports")
            .iter()
            .find(|port| port["name"] == "cali-a");
        let row = row.expect("the port is there");
        ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "dropped"]
            .iter()
            .all(|key| row[*key] == shown[*key])
    });
    assert_eq!(margay.run("-j top -d 0").code, 2);
    margay.check_sums();
}
