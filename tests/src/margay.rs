//! A `margayd` in a namespace, looked at only through `margay`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::host::{Done, Host, Program, finish};
use crate::lab::{Lab, announce, lock};
use crate::schema;
use crate::traffic::Tally;
use crate::wait::{LIMIT, wait_for};

/// A daemon of a lab.
pub struct Margay {
    host: Host,
    directory: PathBuf,
    program: Mutex<Option<Arc<Program>>>,
    /// What the machine's queues of received packets had dropped when the lab began.
    backlog: u64,
}

/// Where the binaries are: `MARGAY_BIN_DIR`, or the release build of this workspace.
pub fn program(name: &str) -> PathBuf {
    let built = || {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
        target.join("release")
    };
    std::env::var_os("MARGAY_BIN_DIR")
        .map_or_else(built, PathBuf::from)
        .join(name)
}

/// What a lab does not say about `[runtime]`: few frames, because many daemons share the machine, and much patience
/// with workers that a busy machine does not schedule, because a lab that counts lost packets would count those that
/// went to the kernel meanwhile.
pub const RUNTIME: &str =
    "[runtime]\nprofile = \"adaptive\"\nworkers = [0]\nframes = 4096\nstall_after = \"5s\"\n";

impl Margay {
    /// Starts `margayd` on `host` and waits until it is ready. `ports` is the part of the configuration file that the lab cares
    /// about; version, socket, list directory and (unless given) `[runtime]` are added.
    ///
    /// # Panics
    /// When it does not become ready.
    #[track_caller]
    pub fn start(lab: &Lab, host: &Host, ports: &str) -> Arc<Self> {
        Self::start_with(lab, host, ports, &[])
    }

    /// The same with ACL files: name (without `.toml`) and content, to which `version = 1` is added.
    #[track_caller]
    pub fn start_with(lab: &Lab, host: &Host, ports: &str, lists: &[(&str, &str)]) -> Arc<Self> {
        let margay = Self::prepare(lab, host, ports, lists);
        margay.launch();
        margay.ready();
        margay
    }

    /// Writes the configuration without starting the daemon.
    pub fn prepare(lab: &Lab, host: &Host, ports: &str, lists: &[(&str, &str)]) -> Arc<Self> {
        let directory = lab.directory().join(format!("{}-margay", host.name()));
        fs::create_dir_all(directory.join("acl.d")).expect("the lab's directory can be written");
        let margay = Arc::new(Self {
            host: host.clone(),
            directory,
            program: Mutex::default(),
            backlog: backlog_drops(),
        });
        for (name, rules) in lists {
            margay.write_acl(name, rules);
        }
        margay.write_config(ports);
        lab.watch(&margay);
        margay
    }

    /// Writes the configuration file anew.
    pub fn write_config(&self, ports: &str) {
        let runtime = if ports.contains("[runtime]") { "" } else { RUNTIME };
        let control = format!("[control]\nsocket = \"{}\"\n", self.socket().display());
        let text = format!("version = 1\n{runtime}{control}{ports}\n");
        fs::write(self.config(), text).expect("the lab's directory can be written");
    }

    /// Writes an ACL file (`acl.d/NAME.toml`); `version = 1` is added.
    pub fn write_acl(&self, name: &str, rules: &str) {
        let path = self.directory.join("acl.d").join(format!("{name}.toml"));
        fs::write(path, format!("version = 1\n{rules}\n")).expect("the lab's directory can be written");
    }

    /// Starts the daemon without waiting for anything.
    #[track_caller]
    pub fn launch(&self) -> Arc<Program> {
        self.launch_with(&[])
    }

    /// The same with environment variables.
    #[track_caller]
    pub fn launch_with(&self, environment: &[(&str, &str)]) -> Arc<Program> {
        let mut command = self.host.command(program("margayd"));
        command.arg("--config").arg(self.config()).env("RUST_LOG", "info");
        command.envs(environment.iter().copied());
        let program = self.host.start("margayd", command);
        *lock(&self.program) = Some(program.clone());
        program
    }

    /// Waits until the daemon says that it is ready.
    #[track_caller]
    pub fn ready(&self) {
        wait_for(
            &format!("margayd on {} is ready", self.host.name()),
            LIMIT,
            || {
                if let Some(code) = self.process().exited() {
                    panic!(
                        "margayd on {} ended with {code}:\n{}",
                        self.host.name(),
                        self.process().log_tail(40)
                    );
                }
                let done = self.run("status --ready");
                if done.code == 0 {
                    Ok(())
                } else {
                    Err(format!("status --ready: {} {}{}", done.code, done.out, done.err))
                }
            },
        );
    }

    /// The threads whose names begin with `name`, in the order of their names.
    ///
    /// # Panics
    /// When the daemon does not live.
    pub fn threads(&self, name: &str) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process().pid())).expect("margayd lives");
        let mut named: Vec<(String, u32)> = tasks
            .flatten()
            .filter_map(|task| {
                let named = fs::read_to_string(task.path().join("comm")).ok()?;
                let tid = task.file_name().to_str()?.parse().ok()?;
                named.starts_with(name).then(|| (named.trim().to_owned(), tid))
            })
            .collect();
        named.sort();
        named.into_iter().map(|(_, tid)| tid).collect()
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.join("margay.toml")
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("margay.sock")
    }

    /// The running process.
    ///
    /// # Panics
    /// When it was never started.
    #[track_caller]
    pub fn process(&self) -> Arc<Program> {
        lock(&self.program).clone().expect("the daemon was started")
    }

    /// Asks it to end with SIGTERM and waits for that; answers its exit status.
    #[track_caller]
    pub fn terminate(&self) -> i32 {
        let process = self.process();
        process.signal(libc::SIGTERM);
        wait_for("margayd ends on SIGTERM", LIMIT, || process.exited())
    }

    /// Runs `margay` with these words; single quotes keep blanks together. What it prints with `-j` is checked against its schema, and the
    /// code of an error against the exit status.
    ///
    /// # Panics
    /// When that check fails.
    #[track_caller]
    pub fn run(&self, words: &str) -> Done {
        let mut command = self.host.command("timeout");
        command
            .args(["-k", "5", "60"])
            .arg(program("margay"))
            .arg("--socket")
            .arg(self.socket());
        let quoted = words.split('\'').enumerate();
        for (index, part) in quoted {
            if index % 2 == 1 {
                command.arg(part);
            } else {
                command.args(part.split_whitespace());
            }
        }
        let done = finish(&mut command);
        if words.split_whitespace().any(|word| word == "-j") {
            let what = format!("margay {words}");
            schema::check_lines(&what, &done.out);
            for error in schema::check_lines(&what, &done.err) {
                let code = error["code"].as_str().unwrap_or_default();
                assert_eq!(done.code, schema::exit_status(code), "margay {words}: {error}");
            }
        }
        done
    }

    /// Runs `margay -j` and answers its one object.
    ///
    /// # Panics
    /// When it fails or prints anything but one JSON object.
    #[track_caller]
    pub fn json(&self, words: &str) -> Value {
        let done = self.run(&format!("-j {words}"));
        assert!(
            done.code == 0,
            "margay -j {words} ended with {}: {}{}",
            done.code,
            done.err,
            done.out
        );
        parse(words, &done.out)
    }

    /// The row of `port show` for the port called `name`, or `None`.
    #[track_caller]
    pub fn find_port(&self, name: &str) -> Option<Value> {
        let shown = self.json("port show");
        list(&shown, "ports")
            .iter()
            .find(|port| port["name"] == name)
            .cloned()
    }

    /// One counter of a port.
    ///
    /// # Panics
    /// When there is no such port or counter.
    #[track_caller]
    pub fn port(&self, name: &str, counter: &str) -> u64 {
        let port = self.find_port(name).unwrap_or_else(|| panic!("no port {name}"));
        port[counter]
            .as_u64()
            .unwrap_or_else(|| panic!("no counter {counter} in {port}"))
    }

    /// Waits until a port is there and takes traffic.
    #[track_caller]
    pub fn has_port(&self, name: &str) {
        wait_for(
            &format!("margayd on {} takes up port {name}", self.host.name()),
            LIMIT,
            || self.find_port(name),
        );
    }

    /// Packets dropped so far for one reason, over all ports.
    #[track_caller]
    pub fn drops(&self, reason: &str) -> u64 {
        let shown = self.json("drops");
        let drops = list(&shown, "drops").iter();
        drops
            .filter(|drop| drop["reason"] == reason)
            .filter_map(|drop| drop["packets"].as_u64())
            .sum()
    }

    /// Checks what became of streams through the daemon: every packet that it received got where it was sent, in order
    /// within its flow. What it never received because a busy machine did not schedule a worker for as long as its rings
    /// are deep is counted by the daemon, and is the only excuse.
    ///
    /// # Panics
    /// When more is lost than that, or anything was overtaken.
    #[track_caller]
    pub fn lost_nothing(&self, tallies: &[Tally]) {
        let missed = self.missed();
        let lost: u64 = tallies.iter().map(|tally| tally.lost()).sum();
        assert!(
            lost <= missed,
            "{lost} lost, {missed} of them never received: {tallies:?}"
        );
        assert!(tallies.iter().all(|tally| tally.reordered == 0), "{tallies:?}");
        if missed > 0 {
            announce(&format!(
                "{lost} lost; the machine was too busy to receive {missed} packets"
            ));
        }
    }

    /// Packets that margayd never saw, because a busy machine did not let a worker take them off its rings in time or dropped them
    /// itself. A veth counts what its AF_XDP socket could not take as well.
    #[track_caller]
    pub fn missed(&self) -> u64 {
        let rings = self.drops("rx_no_frame") + self.drops("rx_ring_full");
        rings.max(self.dropped_beside())
    }

    /// Packets that the kernel dropped before margayd saw them or after it had sent them: on the rings of the node's veths, and on the
    /// queues of received packets of a machine that is busy (those are the machine's, not the lab's).
    pub fn dropped_beside(&self) -> u64 {
        let shown: Value = serde_json::from_str(&self.host.sh("ip -s -j link")).expect("ip prints JSON");
        let of = |link: &Value, way: &str| link["stats64"][way]["dropped"].as_u64().unwrap_or(0);
        let links = shown.as_array().map(Vec::as_slice).unwrap_or_default();
        let rings: u64 = links.iter().map(|link| of(link, "rx") + of(link, "tx")).sum();
        rings + backlog_drops().saturating_sub(self.backlog)
    }

    /// Waits until the mirror equals the kernel.
    #[track_caller]
    pub fn mirrors_kernel(&self) {
        self.mirrors_table(254);
    }

    /// Waits until the mirror of one table equals the kernel's.
    #[track_caller]
    pub fn mirrors_table(&self, table: u32) {
        let words = format!("-j route show --table {table} --diff-kernel");
        wait_for(
            &format!("the mirror of table {table} equals the kernel's"),
            LIMIT,
            || {
                let done = self.run(&words);
                if done.code != 0 {
                    return Err(format!(
                        "margay {words} ended with {}: {}{}",
                        done.code, done.out, done.err
                    ));
                }
                let answer = parse(&words, &done.out);
                if list(&answer, "differences").is_empty() {
                    Ok(())
                } else {
                    Err(answer.to_string())
                }
            },
        );
    }

    /// The route that `route get` answers for an address, `null` fields and all; `None` when it answers "not found".
    #[track_caller]
    pub fn route_get(&self, address: &str) -> Option<Value> {
        let words = format!("-j route get {address}");
        let done = self.run(&words);
        match done.code {
            0 => Some(parse(&words, &done.out)),
            3 => None,
            code => panic!("margay {words} ended with {code}: {}{}", done.err, done.out),
        }
    }

    /// Checks, once traffic has ceased, that every frame that came in is accounted for, exactly once: on each ingress port
    /// rx = punted + forwarded + replied + dropped + held. What is held is one of the sums, so held packets need not be waited for.
    ///
    /// # Panics
    /// When the sums do not come to hold.
    #[track_caller]
    pub fn check_sums(&self) {
        wait_for(
            &format!("the port counters on {} add up", self.host.name()),
            Duration::from_secs(20),
            || {
                let shown = self.json("port show");
                for port in list(&shown, "ports") {
                    let count =
                        |name: &str| port[name].as_u64().ok_or_else(|| format!("no {name} in {port}"));
                    let rx = count("rx_packets")?;
                    let went = count("punted")?
                        + count("forwarded")?
                        + count("replied")?
                        + count("dropped")?
                        + count("held")?;
                    if rx != went {
                        return Err(format!(
                            "{rx} received, {went} accounted for: {port}; {}",
                            self.json("drops")
                        ));
                    }
                }
                Ok(())
            },
        );
    }

    pub(crate) fn report(&self) {
        eprintln!("\n=== margay on {}", self.host.name());
        for words in [
            "status",
            "port show",
            "drops",
            "neigh show",
            "nexthop show",
            "-s acl show",
            "route show",
        ] {
            let done = self.run(words);
            let lines: Vec<&str> = done.out.lines().take(60).collect();
            eprintln!(
                "--- margay {words} ({})\n{}{}",
                done.code,
                lines.join("\n"),
                done.err
            );
        }
    }
}

impl Drop for Margay {
    /// A lab that fails lets go of its daemon before the lab itself ends: what an operator would ask is asked now.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
    }
}

/// Packets that the machine's queues of received packets had no room for: the second column for each core.
fn backlog_drops() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let columns = text.lines().filter_map(|line| line.split_whitespace().nth(1));
    columns.filter_map(|hex| u64::from_str_radix(hex, 16).ok()).sum()
}

/// The list that stands under `key`.
///
/// # Panics
/// When there is none.
#[track_caller]
pub fn list<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer[key]
        .as_array()
        .unwrap_or_else(|| panic!("no list {key} in {answer}"))
}

#[track_caller]
fn parse(words: &str, text: &str) -> Value {
    serde_json::from_str(text)
        .unwrap_or_else(|error| panic!("margay {words} did not print one JSON object: {error}: {text}"))
}
