//! Anycast: three nodes announce the same address by BGP, and each answers under its own name.
//!
//! ```text
//!                                   ┌ up0 10.0.0.1 fd00:0::1 ── 10.0.0.2 fd00:0::2 n0 ┐
//!   a 10.65.0.2 fd65::2 ── cali-a r ┼ up1 10.0.1.1 fd00:1::1 ── 10.0.1.2 fd00:1::2 n1 ┼ 203.0.113.1, 2001:db8:113::1
//!            (margayd, BIRD, 64512) └ up2 10.0.2.1 fd00:2::1 ── 10.0.2.2 fd00:2::2 n2 ┘ (BIRD, AS 64513)
//! ```

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use tests::host::Program;
use tests::{Host, LIMIT, Lab, Margay, wait_for};

use crate::bgp::{spawn_bird, statics};
use crate::common::PORTS;

const NODES: usize = 3;
/// Of either family.
const FLOWS: usize = 150;
const ADDRESSES: [&str; 2] = ["203.0.113.1", "2001:db8:113::1"];

/// Answers each datagram with its bytes and the node's number.
const SERVE: &str = r#"
import select, socket, sys
open_at = []
for family, address in ((socket.AF_INET, "203.0.113.1"), (socket.AF_INET6, "2001:db8:113::1")):
    s = socket.socket(family, socket.SOCK_DGRAM); s.bind((address, 5000)); open_at.append(s)
while True:
    for s in select.select(open_at, [], [])[0]:
        data, peer = s.recvfrom(64)
        try: s.sendto(data + b" " + sys.argv[1].encode(), peer)
        except OSError: pass                                         # no way back at the moment
"#;

struct Net {
    _lab: Arc<Lab>,
    nodes: Vec<Host>,
    birds: Vec<Arc<Program>>,
    /// Of a: for either family one socket a flow.
    flows: [Vec<UdpSocket>; 2],
    margay: Arc<Margay>,
    asked: u32,
}

/// The BIRD of a node.
fn announce(host: &Host, number: usize) -> Arc<Program> {
    let config = format!(
        "log stderr all; router id 10.0.{number}.2;
         protocol device {{ scan time 1; }}
         protocol kernel k4 {{ ipv4 {{ export where source = RTS_BGP; }}; }}
         protocol kernel k6 {{ ipv6 {{ export where source = RTS_BGP; }}; }}
         {}
         template bgp peer {{ local as 64513; connect delay time 1; connect retry time 1; error wait time 1, 2; }}
         protocol bgp four from peer {{ neighbor 10.0.{number}.1 as 64512; ipv4 {{ import all; export where source = RTS_STATIC; }}; }}
         protocol bgp six from peer {{ neighbor fd00:{number}::1 as 64512; ipv6 {{ import all; export where source = RTS_STATIC; }}; }}",
        statics("203.0.113.1/32", "2001:db8:113::1/128")
    );
    spawn_bird(host, &config).1
}

fn build(name: &str) -> Option<Net> {
    let lab = Lab::new(name)?;
    let r = lab.host("r");
    let script = lab.directory().join("serve.py");
    std::fs::write(&script, SERVE).expect("the lab's directory can be written");
    let mut sessions = String::new();
    let nodes: Vec<Host> = (0..NODES).map(|number| lab.host(&format!("n{number}"))).collect();
    for (number, node) in nodes.iter().enumerate() {
        lab.veth(&r, &format!("up{number}"), node, "eth0");
        r.sh(&format!(
            "ip addr add 10.0.{number}.1/24 dev up{number}; ip -6 addr add fd00:{number}::1/64 dev up{number} nodad"
        ));
        node.sh(&format!(
            "ip addr add 10.0.{number}.2/24 dev eth0; ip -6 addr add fd00:{number}::2/64 dev eth0 nodad
              ip addr add 203.0.113.1/32 dev lo; ip -6 addr add 2001:db8:113::1/128 dev lo nodad"
        ));
        // Its addresses of IPv6 outlive a link that is down.
        node.sysctl("net.ipv6.conf.eth0.keep_addr_on_down", "1");
        node.spawn("serve", &format!("python3 {} {number}", script.display()));
        sessions += &format!(
            "protocol bgp four{number} from peer {{ neighbor 10.0.{number}.2 as 64513; ipv4 {{ import all; export where source = RTS_STATIC; }}; }}
             protocol bgp six{number} from peer {{ neighbor fd00:{number}::2 as 64513; ipv6 {{ import all; export where source = RTS_STATIC; }}; }}\n"
        );
    }
    let a = lab.container("a", &r, "cali-a", "10.65.0.2", "fd65::2");
    let margay = Margay::start(&lab, &r, PORTS);
    for number in 0..NODES {
        margay.has_port(&format!("up{number}"));
    }
    margay.has_port("cali-a");
    spawn_bird(
        &r,
        &format!(
            "log stderr all; router id 10.0.0.1;
             protocol device {{ scan time 1; }}
             protocol kernel k4 {{ merge paths yes; ipv4 {{ export where source = RTS_BGP; }}; }}
             protocol kernel k6 {{ merge paths yes; ipv6 {{ export where source = RTS_BGP; }}; }}
             {}
             template bgp peer {{ local as 64512; connect delay time 1; connect retry time 1; error wait time 1, 2; }}
             {sessions}",
            statics("10.65.0.0/24", "fd65::/64")
        ),
    );
    let birds = nodes
        .iter()
        .enumerate()
        .map(|(number, node)| announce(node, number));
    let birds = birds.collect();
    let flows = [("10.65.0.2", ADDRESSES[0]), ("fd65::2", ADDRESSES[1])].map(|(from, to)| {
        let open = |flow: usize| {
            let socket = UdpSocket::bind((from, 20_000 + flow as u16))?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            socket.connect((to, 5000))?;
            Ok::<_, std::io::Error>(socket)
        };
        a.enter(|| (0..FLOWS).map(open).collect::<Result<_, _>>())
            .expect("sockets in the container")
    });
    Some(Net {
        _lab: lab,
        nodes,
        birds,
        flows,
        margay,
        asked: 0,
    })
}

impl Net {
    /// Waits until routes of both families lead to these nodes and no others.
    #[track_caller]
    fn lead_to(&self, nodes: &[usize]) {
        for address in ADDRESSES {
            wait_for(&format!("{address} leads to {nodes:?}"), LIMIT, || {
                let route = self.margay.route_get(address).ok_or("there is no route")?;
                let hops = route["route"]["nexthops"].as_array().cloned().unwrap_or_default();
                let mut devices: Vec<&str> = hops.iter().filter_map(|hop| hop["dev"].as_str()).collect();
                devices.sort_unstable();
                let wanted: Vec<String> = nodes.iter().map(|number| format!("up{number}")).collect();
                if devices == wanted {
                    Ok(())
                } else {
                    Err(route.to_string())
                }
            });
        }
        self.margay.mirrors_kernel();
    }

    /// Which node answers each flow, IPv4 first; each is asked until it is answered.
    #[track_caller]
    fn served(&mut self) -> Vec<usize> {
        self.asked += 1;
        let question = self.asked.to_string();
        let mut who = Vec::new();
        for flows in &self.flows {
            let mut answers: Vec<Option<usize>> = vec![None; FLOWS];
            wait_for("every flow is answered", LIMIT, || {
                for (socket, _) in flows.iter().zip(&answers).filter(|(_, answer)| answer.is_none()) {
                    let _ = socket.send(question.as_bytes());
                }
                let open = flows.iter().zip(&mut answers);
                for (socket, answer) in open.filter(|(_, answer)| answer.is_none()) {
                    let mut buffer = [0; 64];
                    // Late answers to an earlier question are not what is asked for.
                    while let Ok(length) = socket.recv(&mut buffer) {
                        let text = String::from_utf8_lossy(&buffer[..length]);
                        let number = text.strip_prefix(&format!("{question} "));
                        if let Some(number) = number.and_then(|number| number.parse().ok()) {
                            *answer = Some(number);
                            break;
                        }
                    }
                }
                let missing = answers.iter().filter(|answer| answer.is_none()).count();
                if missing == 0 {
                    Ok(())
                } else {
                    Err(format!("{missing} are not"))
                }
            });
            who.extend(answers.into_iter().flatten());
        }
        who
    }
}

/// Each of these nodes serves a good part of the flows of either family.
#[track_caller]
fn spread(who: &[usize], nodes: &[usize]) {
    for family in who.chunks(FLOWS) {
        for node in 0..NODES {
            let share = family.iter().filter(|number| **number == node).count();
            if nodes.contains(&node) {
                assert!(
                    share * nodes.len() * 2 > FLOWS,
                    "n{node} serves {share} of {FLOWS}"
                );
            } else {
                assert_eq!(share, 0, "n{node} is gone");
            }
        }
    }
}

#[test]
fn a_node_that_goes_loses_its_flows_alone() {
    let Some(mut net) = build("anycast") else { return };
    net.lead_to(&[0, 1, 2]);
    let before = net.served();
    spread(&before, &[0, 1, 2]);
    assert_eq!(net.served(), before, "flows keep their node");
    // The session is lost with the daemon of n1, and the route has two next hops.
    net.birds[1].end();
    net.lead_to(&[0, 2]);
    let without = net.served();
    spread(&without, &[0, 2]);
    for (flow, (was, is)) in before.iter().zip(&without).enumerate() {
        assert!(*was == 1 || was == is, "flow {flow} of n{was} moved to n{is}");
    }
    // It comes back: flows move to it and nowhere else.
    net.birds[1] = announce(&net.nodes[1], 1);
    net.lead_to(&[0, 1, 2]);
    let again = net.served();
    spread(&again, &[0, 1, 2]);
    for (flow, (was, is)) in without.iter().zip(&again).enumerate() {
        assert!(*is == 1 || was == is, "flow {flow} of n{was} moved to n{is}");
    }
    // The link of n2 is lost: the member leaves at once, and the session, and with it the next hop, some time later.
    net.nodes[2].sh("ip link set eth0 down");
    let cut = net.served();
    spread(&cut, &[0, 1]);
    net.lead_to(&[0, 1]);
    let later = net.served();
    spread(&later, &[0, 1]);
    for (flow, ((was, cut), is)) in again.iter().zip(&cut).zip(&later).enumerate() {
        assert!(
            *was == 2 || was == cut && was == is,
            "flow {flow} of n{was} moved to n{cut}, n{is}"
        );
    }
    net.margay.check_sums();
}
