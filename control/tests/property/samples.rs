//! Good inputs, to start from.

/// Requests, the first five of them good.
pub const REQUESTS: &[&str] = &[
    r#"{"command": "top"}"#,
    r#"{"command": "status", "args": {}}"#,
    r#"{"command": "route show", "args": {"table": 254, "diff_kernel": true}}"#,
    r#"{"command": "route get", "args": {"address": "2001:db8::1"}}"#,
    r#"{"command": "port set", "args": {"name": "eth1", "acl_ingress": "edge-in"}}"#,
    r#"{"command": "monitor", "args": {"kinds": ["route", "drop"]}}"#,
    r#"{"command": "explain", "args": {"from": "10.0.0.1", "to": "10.0.0.2", "in": "eth1", "proto": 6}}"#,
];

/// A good configuration.
pub const CONFIGURATION: &str = r#"version = 1
[runtime]
profile = "adaptive"
workers = [2, 3]
frames = 16384
stall_after = "100ms"
[[port]]
name = "eth1"
role = "uplink"
acl = { ingress = "edge-in", egress = "{port}-out" }
multicast = ["239.1.0.0/16", "ff1e::/16"]
[[port]]
match = "cali*"
role = "workload"
[kernel]
tables = [254, 100]
[multipath]
hash = "l4"
[metrics]
listen = "127.0.0.1:9469"
"#;

/// A good file of access lists: the one of the file format's description, and a rule for ICMP.
pub const LISTS: &str = r#"version = 1
[sets.frontends]
prefixes = ["10.1.0.0/24", "2001:db8:1::/64"]
[[acl]]
name = "edge-in"
default = "deny"
[[acl.rule]]
action = "allow"
proto = "tcp"
src = ["@frontends", "192.0.2.7"]
dst = ["10.2.0.0/16"]
sport = ["1024-65535"]
dport = [443, "8443-8450"]
tcp_flags = "syn/syn,ack"
dscp = [46]
[[acl.rule]]
action = "allow"
src = ["@frontends"]
icmp = ["echo-request", "3/4", 11]
fragment = "any"
"#;

/// Requests to the metrics server.
pub const SCRAPES: &[&str] = &[
    "GET /metrics HTTP/1.1\r\nHost: localhost:9469\r\nAccept: */*\r\n\r\n",
    "HEAD /metrics?a=b HTTP/1.0\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
];

/// Filters of `trace` and `capture`.
pub const FILTERS: [&str; 8] = [
    "ip",
    "host 10.0.0.1",
    "src 10.0.0.1 and dst net 10.0.0.0/24",
    "net 2001:db8::/32 and not (port 53 or portrange 8000-8080)",
    "tcp dst port 443 or udp port 53 && !icmp",
    "ip6 and proto gre or proto 89",
    "not not src host 2001:db8::1 || icmp6",
    "(tcp and src portrange 1-1023) or sctp",
];
