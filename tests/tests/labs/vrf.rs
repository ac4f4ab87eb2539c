//! Overlapping address plans side by side on one node, kept apart by `ip rule iif PORT lookup N`.
//!
//! ```text
//!   a1 10.1.0.2 ── pa1 ┐  table 100   ┌ pa2 ── 10.2.0.2, 10.5.0.1 a2
//!                      ├─ r (margayd) ┤                                 all router ports: 10.1.0.1 and 10.2.0.1,
//!   b1 10.1.0.2 ── pb1 ┘  table 200   └ pb2 ── 10.2.0.2           b2    pb2 also 10.5.0.1; IPv6 fd01::, fd02:: alike
//!                              up0 ── 10.9.0.2 c (main table)
//! ```

use serde_json::Value;
use tests::margay::list;
use tests::{Host, LIMIT, Lab, Margay, wait_for};

const PORTS: &str = r#"
[[port]]
match = "p*"
role = "uplink"
anti_spoof = "strict"
fix_checksums = "auto"
[[port]]
name = "up0"
role = "uplink"
fix_checksums = "auto"
"#;

struct Net {
    lab: std::sync::Arc<Lab>,
    r: Host,
    /// a1, a2, b1, b2, c.
    hosts: [Host; 5],
}

fn build(name: &str) -> Option<Net> {
    let lab = Lab::new(name)?;
    let r = lab.host("r");
    let hosts = ["a1", "a2", "b1", "b2", "c"].map(|name| lab.host(name));
    for (host, port) in hosts.iter().zip(["pa1", "pa2", "pb1", "pb2", "up0"]) {
        lab.veth(&r, port, host, "eth0");
    }
    for (plan, table) in [("a", 100), ("b", 200)] {
        for net in [1, 2] {
            let port = format!("p{plan}{net}");
            r.sh(&format!(
                "ip addr add 10.{net}.0.1/24 dev {port}; ip -6 addr add fd0{net}::1/64 dev {port} nodad
                 ip route add 10.{net}.0.0/24 dev {port} table {table}
                 ip -6 route add fd0{net}::/64 dev {port} table {table}
                 ip rule add iif {port} lookup {table}; ip -6 rule add iif {port} lookup {table}"
            ));
        }
    }
    r.sh("ip addr add 10.9.0.1/24 dev up0; ip addr add 10.5.0.1/32 dev pb2");
    for (at, host) in hosts.iter().take(4).enumerate() {
        let net = at % 2 + 1;
        host.sh(&format!(
            "ip addr add 10.{net}.0.2/24 dev eth0; ip -6 addr add fd0{net}::2/64 dev eth0 nodad
             ip route add default via 10.{net}.0.1; ip -6 route add default via fd0{net}::1"
        ));
    }
    hosts[1].sh("ip addr add 10.5.0.1/32 dev lo");
    r.sh("ip route add 10.5.0.1 via 10.2.0.2 dev pa2 table 100");
    hosts[4].sh("ip addr add 10.9.0.2/24 dev eth0; ip route add default via 10.9.0.1");
    Some(Net { lab, r, hosts })
}

/// Pings go from `from` to `address` and leave by `port`, and none by its twin in the other plan.
#[track_caller]
fn goes(margay: &Margay, from: &Host, address: &str, port: &str, twin: &str) {
    from.reaches(address);
    let count = |name: &str| margay.port(name, "forwarded") + margay.port(name, "tx_packets");
    let before = (count(port), count(twin));
    // ping waits two round trips for the last answer, which is not enough on a busy machine: what counts is what went.
    from.try_sh(&format!("ping -n -c 5 -i 0.02 -W 5 {address}"));
    wait_for(
        &format!("5 there and 5 back by {port} for {address}"),
        LIMIT,
        || {
            let more = count(port) - before.0;
            if more == 10 {
                Ok(())
            } else {
                Err(format!("{more}"))
            }
        },
    );
    assert_eq!(count(twin), before.1, "none by {twin}");
}

fn explain(margay: &Margay, port: &str, to: &str) -> Value {
    margay.json(&format!(
        "explain --from 10.1.0.2 --to {to} --proto udp --dport 9 --in {port}"
    ))
}

/// Waits until the mirror of everything equals the kernel.
#[track_caller]
fn mirrors_all(margay: &Margay) {
    wait_for("the mirror equals the kernel in all tables", LIMIT, || {
        let done = margay.run("-j route show --diff-kernel");
        if done.code == 0 { Ok(()) } else { Err(done.out) }
    });
}

#[test]
fn overlapping_plans() {
    let Some(net) = build("vrf") else { return };
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    for port in ["pa1", "pa2", "pb1", "pb2", "up0"] {
        margay.has_port(port);
    }
    let [a1, a2, b1, b2, c] = &net.hosts;
    for address in ["10.2.0.2", "fd02::2"] {
        goes(&margay, a1, address, "pa2", "pb2");
        goes(&margay, b1, address, "pb2", "pa2");
    }
    for address in ["10.1.0.2", "fd01::2"] {
        goes(&margay, a2, address, "pa1", "pb1");
        goes(&margay, b2, address, "pb1", "pa1");
    }
    // An address that is the node's in one plan and a host's in the other.
    goes(&margay, a1, "10.5.0.1", "pa2", "pb2");
    assert_eq!(explain(&margay, "pa1", "10.5.0.1")["verdict"], "forward");
    assert_eq!(explain(&margay, "pb1", "10.5.0.1")["verdict"], "local");
    // No way from one plan to another, nor to the main table.
    let refused = |from: &Host, address: &str| {
        wait_for(&format!("a ping of {address} is refused"), LIMIT, || {
            let out = from.try_sh(&format!("ping -n -c 1 -W 1 {address}")).out;
            // The answer comes from the port's own address, which is the same in both plans.
            let by = out.contains("From 10.1.0.1") && out.contains("Net Unreachable");
            if by { Ok(()) } else { Err(out) }
        });
    };
    refused(a1, "10.9.0.2");
    refused(b1, "10.9.0.2");
    let told = explain(&margay, "pa1", "10.9.0.2");
    assert_eq!(
        (&told["reason"], &told["route"]),
        (&"no_route".into(), &Value::Null),
        "{told}"
    );
    assert_eq!(told["tables"], serde_json::json!([100]), "{told}");
    assert!(!c.pings("10.2.0.2") || margay.port("pa2", "tx_packets") > 0);
    views(&net, &margay);
    // A leak is a route that names a device of the other plan.
    net.r
        .sh("ip route add 10.9.0.0/24 dev up0 table 100; ip route add 10.1.0.0/24 dev pa1 metric 1");
    goes(&margay, a1, "10.9.0.2", "up0", "pb1");
    refused(b1, "10.9.0.2");
    mirrors_all(&margay);
    margay.check_sums();
    // The kernel takes over nothing: both plans would meet in its main table.
    let guard = net.r.sh("nft list table inet margay");
    for port in ["pa1", "pa2", "pb1", "pb2"] {
        assert!(guard.contains(&format!("iifname \"{port}\"")), "{guard}");
        let shown = margay.find_port(port).expect("it is open");
        assert_eq!(shown["on_exit"], "drop", "{shown}");
    }
    assert!(!guard.contains("\"up0\""), "{guard}");
    net.r.sysctl("net.ipv4.ip_forward", "1");
    assert_eq!(margay.terminate(), 0);
    assert!(!a1.pings("10.2.0.2"), "closed while margayd is away");
}

/// What the commands show of tables.
fn views(net: &Net, margay: &Margay) {
    let shown = margay.find_port("pa1").expect("it is open");
    assert_eq!(
        shown["vrf"],
        serde_json::json!({"name": null, "tables": {"ipv4": [100], "ipv6": [100]}})
    );
    assert_eq!(margay.find_port("up0").expect("it is open")["vrf"], Value::Null);
    assert!(margay.run("port show").out.contains("table 200"));
    for (table, dev) in [(100, "pa2"), (200, "pb2")] {
        let routes = margay.json(&format!("route show --table {table}"));
        let to = |route: &&Value| route["prefix"] == "10.2.0.0/24";
        let route = list(&routes, "routes").iter().find(to);
        assert_eq!(route.expect("a route")["nexthops"][0]["dev"], dev, "{routes}");
    }
    let got = margay.json("route get 10.2.0.2 --in pb1");
    assert_eq!(
        (&got["route"]["table"], &got["nexthop"]["dev"]),
        (&200.into(), &"pb2".into()),
        "{got}"
    );
    assert_eq!(margay.run("route get 10.2.0.2 --in nowhere").code, 3);
    mirrors_all(margay);
    // Doctor knows rules that are followed, and names those that are not.
    let rule = || {
        let checks = margay.json("doctor");
        let line = list(&checks, "checks")
            .iter()
            .filter(|check| check["name"] == "ip_rule");
        line.map(|check| check["result"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(rule(), ["pass"]);
    net.r
        .sh("ip rule add iif pa1 from 10.1.0.0/24 lookup 200 pref 77");
    assert_eq!(rule(), ["warn"]);
    net.r.sh("ip rule del pref 77");
}

/// Rules come and go while packets flow; several rules are asked in their order, and `throw` leads to the next table.
#[test]
fn rules_change() {
    let Some(net) = build("rules") else { return };
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    margay.has_port("pa1");
    let [a1, a2, ..] = &net.hosts;
    goes(&margay, a1, "10.2.0.2", "pa2", "pb2");
    // The other table first; it throws what it does not want.
    net.r.sh(
        "ip route add throw 10.2.0.0/24 table 150; ip route add blackhole 10.2.0.2 table 150
              ip rule add iif pa1 lookup 150 pref 50",
    );
    let table_of = |address: &str| {
        let got = margay.run(&format!("-j route get {address} --in pa1"));
        serde_json::from_str::<Value>(&got.out).map(|got| got["route"]["table"].clone())
    };
    wait_for("the new table is followed", LIMIT, || {
        table_of("10.2.0.2").is_ok_and(|table| table == 150)
    });
    assert!(!a1.pings("10.2.0.2"), "table 150 has a blackhole for it");
    net.r.sh("ip route del blackhole 10.2.0.2 table 150");
    goes(&margay, a1, "10.2.0.2", "pa2", "pb2");
    assert_eq!(table_of("10.2.0.2").expect("a route"), 100);
    mirrors_all(&margay);
    // Without rules the port is in the main table, and open again; the tables are followed no longer.
    net.r.sh(
        "ip rule del iif pa1 lookup 150; ip rule del iif pa1 lookup 100; ip -6 rule del iif pa1 lookup 100
              ip rule del iif pa2 lookup 100; ip -6 rule del iif pa2 lookup 100",
    );
    wait_for("the port is in no VRF", LIMIT, || {
        let port = margay.find_port("pa1").ok_or("not open")?;
        let open = port["vrf"].is_null() && port["on_exit"] == "kernel";
        if open { Ok(()) } else { Err(port.to_string()) }
    });
    assert_eq!(margay.run("route show --table 100").code, 3, "followed no longer");
    net.r
        .sh("ip route replace 10.2.0.0/24 dev pa2 metric 1; ip route replace 10.1.0.0/24 dev pa1 metric 1");
    a1.reaches("10.2.0.2");
    a2.reaches("10.1.0.2");
    mirrors_all(&margay);
    margay.check_sums();
    assert!(
        !net.r.sh("nft list ruleset").contains("\"pa1\""),
        "the guard has let go of it"
    );
}
