//! The checks as functions of what was read: each fault is found, with a cure, and a sound node passes.

use forwarder::device::Offloads;
use serde_json::{Value, json};

use super::reading::{Device, numbers};
use super::*;

const OWN: u64 = 7;

fn facts() -> Facts {
    Facts {
        ports: vec![port("eth1", Role::Uplink), port("cali1", Role::Workload)],
        waiting: Vec::new(),
        not_ports: Vec::new(),
        frame_size: 2048,
        cores: vec![1],
        profile: Profile::Adaptive,
        frames: 4096,
        file: PathBuf::from("/etc/margay/margay.toml"),
        neighbours: 3,
        guarded: Vec::new(),
        node: true,
    }
}

fn port(name: &str, role: Role) -> Port {
    Port {
        name: name.into(),
        mode_wanted: Mode::Auto,
        mode_obtained: "copy".into(),
        queues: 1,
        mtu: 1500,
        largest_mtu: 3818,
        mtu_limit: "igb has one frame of 3840 bytes for a packet in zero-copy mode".into(),
        role,
        up: true,
        fix_checksums: FixChecksums::Auto,
        pattern: (role == Role::Workload).then(|| "cali*".to_owned()),
        closed: false,
        acl_missing: Vec::new(),
    }
}

fn device() -> Device {
    Device {
        driver: Some("veth".into()),
        rx_queues: Some(1),
        offloads: Some(Offloads {
            gro: true,
            lro: false,
            rx_vlan: false,
            rx_checksum: true,
        }),
        mtu: Some(1500),
        program: Some(OWN),
        filters: Vec::new(),
        disciplines: json!([{"kind": "noqueue", "root": true}]),
    }
}

/// An nftables listing of one chain with these rules.
fn listing(hook: &str, kind: &str, policy: &str, rules: &[Value]) -> Value {
    let chain = json!({"chain": {"family": "inet", "table": "fw", "name": "c", "type": kind, "hook": hook, "policy": policy}});
    let rules = rules
        .iter()
        .map(|expr| json!({"rule": {"family": "inet", "table": "fw", "chain": "c", "expr": expr}}));
    let items: Vec<Value> = [chain].into_iter().chain(rules).collect();
    json!({ "nftables": items })
}

fn interface(name: Value) -> Value {
    json!([{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": name}}, {"drop": null}])
}

fn reading() -> Reading {
    let sysctls = [
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/eth1/rp_filter", "2"),
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/nexthop_compat_mode", "1"),
        ("net/ipv4/neigh/default/gc_thresh3", "1024"),
        ("net/ipv6/neigh/default/gc_thresh3", "1024"),
    ];
    Reading {
        sysctls: sysctls
            .map(|(path, value)| (path.to_owned(), value.to_owned()))
            .into(),
        devices: ["eth1", "cali1"].map(|name| (name.to_owned(), device())).into(),
        own_programs: [OWN].into(),
        nftables: Some(listing("input", "filter", "accept", &[interface(json!("cali*"))])),
        rules: vec![(
            '4',
            json!([
                {"priority": 0, "src": "all", "table": "local"},
                {"priority": 500, "src": "all", "iif": "eth1", "table": "100"},
                {"priority": 501, "src": "all", "iif": "eth2", "iif_detached": null, "action": "unreachable"},
                {"priority": 1000, "src": "all", "l3mdev": null},
                {"priority": 32766, "src": "all", "table": "main"},
            ]),
        )],
        huge_pages: Some("always [madvise] never".into()),
        may_lock: true,
        ..Reading::default()
    }
}

fn worst(checks: &[Check], name: &str, port: Option<&str>) -> Outcome {
    let of_name = checks
        .iter()
        .filter(|check| check.name == name && check.port.as_deref() == port);
    let results: Vec<Outcome> = of_name.map(|check| check.result).collect();
    assert!(!results.is_empty(), "no check {name} of {port:?} in {checks:#?}");
    let has = |outcome| results.contains(&outcome);
    match () {
        () if has(Outcome::Fail) => Outcome::Fail,
        () if has(Outcome::Warn) => Outcome::Warn,
        () => Outcome::Pass,
    }
}

#[test]
fn a_sound_node_passes() {
    let checks = judge(&facts(), &reading());
    let bad: Vec<_> = checks
        .iter()
        .filter(|check| check.result != Outcome::Pass)
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    for name in [
        "link",
        "mode",
        "xdp_program",
        "queues",
        "mtu",
        "checksums",
        "gro",
        "vlan_strip",
        "rp_filter",
        "tc_filter",
    ] {
        for port in ["eth1", "cali1"] {
            worst(&checks, name, Some(port));
        }
    }
    for name in [
        "route_device",
        "ip_forward",
        "gc_thresh3",
        "nexthop_compat_mode",
        "cores",
        "huge_pages",
        "memory_lock",
        "forward_rules",
        "nat",
        "ip_rule",
    ] {
        worst(&checks, name, None);
    }
    worst(&checks, "input_rules", Some("cali1"));
}

/// A fault: how it is made, the check that finds it, the port and how bad it is.
type Fault = (
    fn(&mut Facts, &mut Reading),
    &'static str,
    Option<&'static str>,
    Outcome,
);

const FAULTS: &[Fault] = &[
    (|f, _| f.ports[0].up = false, "link", Some("eth1"), Outcome::Warn),
    (
        |f, _| f.ports[0].mode_obtained = "generic".into(),
        "mode",
        Some("eth1"),
        Outcome::Warn,
    ),
    (
        |f, _| f.ports[0].mode_obtained = "generic".into(),
        "gro",
        Some("eth1"),
        Outcome::Warn,
    ),
    (
        |_, r| device_of(r).program = Some(99),
        "xdp_program",
        Some("eth1"),
        Outcome::Fail,
    ),
    (
        |_, r| device_of(r).rx_queues = Some(4),
        "queues",
        Some("eth1"),
        Outcome::Fail,
    ),
    (|f, _| f.ports[0].mtu = 9000, "mtu", Some("eth1"), Outcome::Fail),
    (
        |f, _| f.ports[1].fix_checksums = FixChecksums::Off,
        "checksums",
        Some("cali1"),
        Outcome::Warn,
    ),
    (
        |f, _| f.ports[0].fix_checksums = FixChecksums::Off,
        "checksums",
        Some("eth1"),
        Outcome::Warn,
    ),
    (
        |_, r| offloads_of(r).rx_vlan = true,
        "vlan_strip",
        Some("eth1"),
        Outcome::Warn,
    ),
    (
        |f, _| f.ports[0].acl_missing = vec!["edge".into()],
        "acl",
        Some("eth1"),
        Outcome::Fail,
    ),
    (
        |_, r| set(r, "net/ipv4/conf/eth1/rp_filter", "1"),
        "rp_filter",
        Some("eth1"),
        Outcome::Warn,
    ),
    (
        |_, r| device_of(r).filters = vec![("ingress", json!([{"kind": "u32"}]))],
        "tc_filter",
        Some("eth1"),
        Outcome::Warn,
    ),
    (
        |_, r| device_of(r).disciplines = json!([{"kind": "htb", "root": true}]),
        "tc_filter",
        Some("eth1"),
        Outcome::Warn,
    ),
    (
        |f, _| waits(f, Cause::Absent),
        "port",
        Some("eth9"),
        Outcome::Warn,
    ),
    (
        |f, _| {
            waits(
                f,
                Cause::TooLarge {
                    mtu: 9000,
                    largest: 3818,
                },
            )
        },
        "mtu",
        Some("eth9"),
        Outcome::Fail,
    ),
    (
        |f, _| waits(f, Cause::Frames(32_768)),
        "frames",
        Some("eth9"),
        Outcome::Fail,
    ),
    (|f, _| waits(f, Cause::Other), "port", Some("eth9"), Outcome::Warn),
    (
        waiting_for_another_program,
        "xdp_program",
        Some("eth9"),
        Outcome::Fail,
    ),
    (
        |f, _| f.not_ports = vec![("docker0".into(), 2)],
        "route_device",
        Some("docker0"),
        Outcome::Warn,
    ),
    (
        |_, r| set(r, "net/ipv4/ip_forward", "0"),
        "ip_forward",
        None,
        Outcome::Warn,
    ),
    (|f, _| f.neighbours = 600, "gc_thresh3", None, Outcome::Warn),
    (
        |_, r| set(r, "net/ipv4/nexthop_compat_mode", "0"),
        "nexthop_compat_mode",
        None,
        Outcome::Fail,
    ),
    (|f, _| f.profile = Profile::Poll, "cores", None, Outcome::Warn),
    (
        |_, r| r.huge_pages = Some("always madvise [never]".into()),
        "huge_pages",
        None,
        Outcome::Warn,
    ),
    (no_memory, "memory_lock", None, Outcome::Fail),
    (
        |_, r| {
            r.nftables = Some(listing(
                "forward",
                "filter",
                "accept",
                &[json!([{"accept": null}])],
            ))
        },
        "forward_rules",
        None,
        Outcome::Warn,
    ),
    (
        |_, r| r.nftables = Some(listing("forward", "filter", "drop", &[])),
        "forward_rules",
        None,
        Outcome::Warn,
    ),
    (
        |_, r| r.legacy = vec!["*filter\n:INPUT ACCEPT\n:FORWARD DROP\nCOMMIT\n".into()],
        "forward_rules",
        None,
        Outcome::Warn,
    ),
    (
        |_, r| {
            r.nftables = Some(listing(
                "postrouting",
                "nat",
                "accept",
                &[json!([{"masquerade": null}])],
            ))
        },
        "nat",
        None,
        Outcome::Warn,
    ),
    (
        |_, r| r.legacy = vec!["*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n".into()],
        "nat",
        None,
        Outcome::Warn,
    ),
    (
        |_, r| {
            r.rules
                .push(('6', json!([{"priority": 100, "src": "all", "table": "7"}])))
        },
        "ip_rule",
        None,
        Outcome::Warn,
    ),
    (
        |_, r| {
            let rule = json!({"priority": 100, "src": "10.0.0.0", "srclen": 8, "iif": "eth1", "table": "7"});
            r.rules.push(('4', json!([rule])));
        },
        "ip_rule",
        None,
        Outcome::Warn,
    ),
    (
        |_, r| r.devices.get_mut("eth1").expect("it is there").driver = Some("bonding".into()),
        "kind",
        Some("eth1"),
        Outcome::Warn,
    ),
    (
        |_, r| r.devices.get_mut("eth1").expect("it is there").driver = Some("bridge".into()),
        "kind",
        Some("eth1"),
        Outcome::Warn,
    ),
    (
        |_, r| r.devices.get_mut("eth1").expect("it is there").driver = Some("macvlan".into()),
        "kind",
        Some("eth1"),
        Outcome::Warn,
    ),
    (
        |_, r| r.nftables = Some(listing("input", "filter", "accept", &[interface(json!("eth*"))])),
        "input_rules",
        Some("cali1"),
        Outcome::Warn,
    ),
    (
        |_, r| r.nftables = None,
        "input_rules",
        Some("cali1"),
        Outcome::Warn,
    ),
];

fn device_of(reading: &mut Reading) -> &mut Device {
    reading.devices.get_mut("eth1").expect("it is there")
}

fn offloads_of(reading: &mut Reading) -> &mut Offloads {
    device_of(reading).offloads.as_mut().expect("they are known")
}

fn set(reading: &mut Reading, path: &str, value: &str) {
    reading.sysctls.insert(path.to_owned(), value.to_owned());
}

fn waits(facts: &mut Facts, cause: Cause) {
    facts.waiting = vec![Waiting {
        name: "eth9".into(),
        cause,
        message: "words for the reader alone".into(),
    }];
}

fn waiting_for_another_program(facts: &mut Facts, reading: &mut Reading) {
    waits(facts, Cause::OtherProgram);
    reading.devices.insert(
        "eth9".into(),
        Device {
            program: Some(99),
            ..device()
        },
    );
}

fn no_memory(_: &mut Facts, reading: &mut Reading) {
    reading.memory_lock = Some(65_536);
    reading.may_lock = false;
}

#[test]
fn every_fault_is_found_with_a_cure() {
    for (number, (make, name, port, expected)) in FAULTS.iter().enumerate() {
        let (mut facts, mut reading) = (facts(), reading());
        make(&mut facts, &mut reading);
        let checks = judge(&facts, &reading);
        assert_eq!(worst(&checks, name, *port), *expected, "fault {number}, {name}");
        for check in checks {
            assert_eq!(
                check.fix.is_some(),
                check.result != Outcome::Pass,
                "a cure where there is something to cure: {check:?}"
            );
            assert!(!check.message.is_empty());
        }
    }
}

#[test]
fn what_guards_the_node_is_recognized() {
    for (expr, stands) in [
        (interface(json!("cali1")), true),
        (interface(json!("cali2")), false),
        (interface(json!({"set": ["eth0", "cali*"]})), true),
        (json!([{"drop": null}]), true),
        (json!([{"jump": {"target": "elsewhere"}}]), true),
        (json!([{"accept": null}]), false),
    ] {
        let mut reading = reading();
        reading.nftables = Some(listing("input", "filter", "accept", std::slice::from_ref(&expr)));
        let found = worst(&judge(&facts(), &reading), "input_rules", Some("cali1"));
        assert_eq!(found == Outcome::Pass, stands, "{expr}");
    }
}

#[test]
fn lists_of_cores_are_read() {
    assert_eq!(numbers("1,3-5\n"), [1, 3, 4, 5].into());
    assert_eq!(numbers("\n"), [].into());
}
