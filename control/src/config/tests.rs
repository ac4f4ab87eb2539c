use std::path::Path;
use std::time::Duration;

use super::*;

/// The example of the documentation, whole.
const WHOLE: &str = r#"
version = 1
[runtime]
profile = "poll"
workers = [2, 3]
frames = 8192
frame_size = 2048
stall_after = "2s"
[[port]]
name = "eth1"
role = "uplink"
mode = "copy"
on_exit = "kernel"
anti_spoof = "loose"
fix_checksums = "auto"
acl = { ingress = "edge-in", egress = "{port}-out" }
multicast = ["239.1.0.0/16", "ff1e::/16"]
[[port]]
match = "cali*"
role = "workload"
[kernel]
tables = [254, 100]
[icmp]
rate = 10
burst = 5
[multipath]
hash = "l3"
[acl]
dir = "lists"
[control]
socket = "/tmp/m.sock"
[metrics]
listen = "127.0.0.1:9469"
"#;

fn good(text: &str) -> Config {
    parse(text, Path::new("/etc/margay")).expect("valid").0
}

/// The problems of a file that cannot be used.
fn bad(text: &str) -> Vec<Problem> {
    parse(text, Path::new("/etc/margay")).expect_err("not valid")
}

#[test]
fn every_key_of_the_contract_is_read() {
    let config = good(WHOLE);
    assert_eq!(config.runtime.profile, Profile::Poll);
    assert_eq!(config.runtime.workers, Workers::Cores(vec![2, 3]));
    assert_eq!(config.runtime.frames, 8192);
    assert_eq!(config.runtime.frame_size, 2048);
    assert_eq!(config.runtime.stall_after, Duration::from_secs(2));
    let eth1 = &config.ports[0];
    assert_eq!(eth1.selector, Selector::Name("eth1".into()));
    assert_eq!(
        (eth1.mode, eth1.anti_spoof, eth1.fix_checksums),
        (Mode::Copy, AntiSpoof::Loose, FixChecksums::Auto)
    );
    assert_eq!(eth1.acl.expand("eth1").egress.as_deref(), Some("eth1-out"));
    let groups: Vec<String> = eth1.multicast.iter().map(ToString::to_string).collect();
    assert_eq!(groups, ["239.1.0.0/16", "ff1e::/16"]);
    assert_eq!(config.tables, [254, 100]);
    assert_eq!((config.icmp_rate, config.icmp_burst), (10, 5));
    assert_eq!(config.multipath_hash, Hash::L3);
    assert_eq!(config.acl_dir, Path::new("/etc/margay/lists"));
    assert_eq!(config.socket, Path::new("/tmp/m.sock"));
    assert_eq!(config.state, Path::new("/tmp/m.ports.json"));
}

#[test]
fn what_is_not_said_has_the_defaults_of_the_contract() {
    let config = good("version = 1\n[[port]]\nname = \"eth1\"\n");
    assert_eq!(config.runtime.profile, Profile::Adaptive);
    assert_eq!(config.runtime.workers, Workers::Auto);
    assert_eq!((config.runtime.frames, config.runtime.frame_size), (16384, 4096));
    assert_eq!(config.runtime.stall_after, Duration::from_millis(100));
    assert_eq!(config.tables, [254]);
    assert_eq!((config.icmp_rate, config.icmp_burst), (1000, 100));
    assert_eq!(config.multipath_hash, Hash::L4);
    assert_eq!(config.acl_dir, Path::new("/etc/margay/acl.d"));
    assert_eq!(config.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.state, Path::new(DEFAULT_STATE));
    assert_eq!(config.metrics, None);
    assert_eq!(config.ports[0].role, Role::Uplink);
}

#[test]
fn roles_and_lists_decide_the_defaults_of_a_port() {
    let config = good(
        r#"version = 1
[[port]]
name = "eth1"
[[port]]
name = "eth2"
acl = { ingress = "in" }
[[port]]
match = "cali*"
role = "workload"
[[port]]
name = "tap0"
role = "workload"
on_exit = "kernel"
anti_spoof = "off"
fix_checksums = "off"
"#,
    );
    let said: Vec<_> = config
        .ports
        .iter()
        .map(|port| (port.on_exit(&port.acl), port.anti_spoof, port.fix_checksums))
        .collect();
    assert_eq!(
        said,
        [
            (OnExit::Kernel, AntiSpoof::Off, FixChecksums::Off),
            (OnExit::Drop, AntiSpoof::Off, FixChecksums::Off),
            (OnExit::Drop, AntiSpoof::Strict, FixChecksums::Auto),
            (OnExit::Kernel, AntiSpoof::Off, FixChecksums::Off),
        ]
    );
    // A list that `port set` adds closes an uplink as one in the file does.
    let added = AclNames {
        ingress: Some("in".into()),
        egress: None,
    };
    assert_eq!(config.ports[0].on_exit(&added), OnExit::Drop);
}

#[test]
fn an_exact_name_beats_a_pattern_and_then_the_order_counts() {
    let config = good(
        r#"version = 1
[[port]]
match = "cali*"
role = "workload"
[[port]]
match = "c*"
role = "workload"
mode = "copy"
[[port]]
name = "cali7"
mode = "generic"
"#,
    );
    assert_eq!(
        config.port_for("cali7").map(|port| port.mode),
        Some(Mode::Generic)
    );
    assert_eq!(config.port_for("cali1").map(|port| port.mode), Some(Mode::Auto));
    assert_eq!(config.port_for("c1").map(|port| port.mode), Some(Mode::Copy));
    assert_eq!(config.port_for("eth0"), None);
}

#[test]
fn loopback_is_never_a_port() {
    assert_eq!(
        good("version = 1\n[[port]]\nmatch = \"l*\"\n").port_for("lo"),
        None
    );
    assert_eq!(bad("version = 1\n[[port]]\nname = \"lo\"\n")[0].line, 3);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    let problems = bad("version = 1\n[runtime]\n\nfrmaes = 4096\n");
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].line, problems[0].code), (4, "unknown_key"));
    assert!(
        problems[0].message.contains("runtime.frmaes"),
        "{}",
        problems[0].message
    );
    assert_eq!(problems[0].hint.as_deref(), Some("did you mean \"frames\"?"));
}

#[test]
fn unknown_keys_are_found_in_every_table() {
    for (text, line, key) in [
        ("version = 1\nrutime = 3\n", 2, "rutime"),
        ("version = 1\n[rutime]\n", 2, "rutime"),
        (
            "version = 1\n[[port]]\nname = \"a\"\nrol = \"uplink\"\n",
            4,
            "port.rol",
        ),
        (
            "version = 1\n[[port]]\nname = \"a\"\nacl = { ingres = \"x\" }\n",
            4,
            "port.acl.ingres",
        ),
        ("version = 1\n[kernel]\ntable = [1]\n", 3, "kernel.table"),
        ("version = 1\n[icmp]\nrates = 1\n", 3, "icmp.rates"),
        ("version = 1\n[multipath]\nhsah = \"l3\"\n", 3, "multipath.hsah"),
        ("version = 1\n[acl]\ndirectory = \"x\"\n", 3, "acl.directory"),
        ("version = 1\n[control]\nsock = \"x\"\n", 3, "control.sock"),
        (
            "version = 1\n[metrics]\nlisten_on = \"x\"\n",
            3,
            "metrics.listen_on",
        ),
    ] {
        let problems = bad(text);
        let found = problems.iter().find(|problem| problem.code == "unknown_key");
        let found = found.unwrap_or_else(|| panic!("{text}: {problems:?}"));
        assert_eq!(found.line, line, "{text}");
        assert!(found.message.ends_with(key), "{}", found.message);
        assert!(found.hint.is_some(), "{text}");
    }
}

#[test]
fn values_that_cannot_be_are_refused_with_their_line() {
    for (text, line) in [
        ("", 1),
        ("version = 2\n", 1),
        ("version = \"1\"\n", 1),
        ("version = 1\n[runtime]\nframes = 10\n", 3),
        ("version = 1\n[runtime]\nframe_size = 3000\n", 3),
        ("version = 1\n[runtime]\nstall_after = \"fast\"\n", 3),
        ("version = 1\n[runtime]\nstall_after = \"1ms\"\n", 3),
        ("version = 1\n[runtime]\nworkers = []\n", 3),
        ("version = 1\n[runtime]\nworkers = [1, 1]\n", 3),
        ("version = 1\n[runtime]\nworkers = \"all\"\n", 3),
        ("version = 1\n[runtime]\nprofile = \"pol\"\n", 3),
        ("version = 1\n[[port]]\nrole = \"uplink\"\n", 2),
        ("version = 1\n[[port]]\nname = \"a\"\nmatch = \"b*\"\n", 4),
        ("version = 1\n[[port]]\nname = \"a*\"\n", 3),
        ("version = 1\n[[port]]\nname = \"a name\"\n", 3),
        ("version = 1\n[[port]]\nname = \"averylongportname\"\n", 3),
        ("version = 1\n[[port]]\nname = \"a\"\n[[port]]\nname = \"a\"\n", 4),
        (
            "version = 1\n[[port]]\nname = \"a\"\nacl = { ingress = \"{prot}\" }\n",
            4,
        ),
        ("version = 1\n[[port]]\nname = \"a\"\nacl = \"x\"\n", 4),
        (
            "version = 1\n[[port]]\nname = \"a\"\nmulticast = \"239.1.0.0/16\"\n",
            4,
        ),
        ("version = 1\n[[port]]\nname = \"a\"\nmulticast = [239]\n", 4),
        (
            "version = 1\n[[port]]\nname = \"a\"\nmulticast = [\n\"239.1.0.0/16\",\n\"10.0.0.0/8\"]\n",
            6,
        ),
        (
            "version = 1\n[[port]]\nname = \"a\"\nmulticast = [\"224.0.0.0/3\"]\n",
            4,
        ),
        (
            "version = 1\n[[port]]\nname = \"a\"\nmulticast = [\"0.0.0.0/0\"]\n",
            4,
        ),
        (
            "version = 1\n[[port]]\nname = \"a\"\nmulticast = [\"ff00::/7\"]\n",
            4,
        ),
        (
            "version = 1\n[[port]]\nname = \"a\"\nmulticast = [\"fd00::/16\"]\n",
            4,
        ),
        (
            "version = 1\n[[port]]\nname = \"a\"\nmulticast = [\"239.1.2.3/16\"]\n",
            4,
        ),
        ("version = 1\n[[port]]\nname = \"a\"\nmulticast = [\"all\"]\n", 4),
        ("version = 1\n[[port]]\nmatch = \"e*0\"\nrole = \"workload\"\n", 3),
        ("version = 1\n[[port]]\nmatch = \"eth?\"\non_exit = \"drop\"\n", 4),
        ("version = 1\n[port]\nname = \"a\"\n", 2),
        ("version = 1\n[kernel]\ntables = [255]\n", 3),
        ("version = 1\n[kernel]\ntables = [0]\n", 3),
        ("version = 1\n[kernel]\ntables = []\n", 3),
        ("version = 1\n[icmp]\nrate = -1\n", 3),
        ("version = 1\n[multipath]\nhash = \"l5\"\n", 3),
        ("version = 1\n[metrics]\nlisten = \"0.0.0.0:9469\"\n", 3),
        ("version = 1\nversion = 1\n", 2),
        ("version = 1\n[runtime\n", 2),
    ] {
        let problems = bad(text);
        assert_eq!(problems[0].line, line, "{text}: {problems:?}");
    }
}

#[test]
fn groups_are_multicast_or_refused_with_a_cure() {
    let of = |group: &str| {
        let text = format!("version = 1\n[[port]]\nname = \"a\"\nmulticast = [\"{group}\"]\n");
        let problem = bad(&text).remove(0);
        (problem.message, problem.hint.expect("a cure"))
    };
    let (message, hint) = of("10.0.0.0/8");
    assert_eq!(message, "port.multicast: 10.0.0.0/8 is not multicast");
    assert!(hint.contains("224.0.0.0/4"), "{hint}");
    let (message, hint) = of("239.1.2.3/16");
    assert_eq!(message, "port.multicast: 239.1.2.3/16 has host bits set");
    assert!(hint.contains("239.1.0.0/16"), "{hint}");
    for whole in ["224.0.0.0/4", "ff00::/8", "239.1.2.3"] {
        good(&format!(
            "version = 1\n[[port]]\nname = \"a\"\nmulticast = [\"{whole}\"]\n"
        ));
    }
}

#[test]
fn all_problems_of_a_file_are_reported_at_once() {
    let problems = bad("version = 1\n[runtime]\nframes = 1\nprofil = \"poll\"\n[icmp]\nrate = \"x\"\n");
    let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [3, 4, 6]);
}

#[test]
fn a_file_without_ports_is_a_warning() {
    let (_, warnings) = parse("version = 1\n", Path::new("/")).expect("valid");
    assert_eq!(warnings[0].code, "no_port");
}

#[test]
fn the_effective_configuration_differs_from_another_key_by_key() {
    let running = good(WHOLE).effective();
    let other = WHOLE
        .replace("frames = 8192", "frames = 4096")
        .replace("role = \"workload\"", "role = \"workload\"\nmode = \"copy\"");
    let file = good(&other).effective();
    let keys: Vec<String> = differences(&running, &file)
        .into_iter()
        .map(|difference| difference.key)
        .collect();
    assert_eq!(keys, ["port.cali*.mode", "runtime.frames"]);
    assert_eq!(differences(&running, &running), []);
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Path::new("/nonexistent/margay.toml")).expect_err("no such file");
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/margay.toml:1: cannot be read"),
        "{error}"
    );
}
