//! What the demo shows, step by step. Each step checks what it shows: a demo that prints nonsense fails.

use std::process::Command;

use super::net::{NODES, Net, acl, port, v4, v6};
use crate::run::{self, Failure};

const TOPOLOGY: &str = "
   A 192.168.1.1 ─┐                                                              ┌─ D 192.168.1.4
   B 192.168.1.2 ─┼─ Host 1 ── 10.0.1.0/24 ── Fabric ── 10.0.2.0/24 ── Host 2 ───┤
   C 192.168.1.3 ─┘  margayd                  BIRD, BGP                margayd   └─ E 192.168.1.5
                     BIRD                     route reflector          BIRD

   Each container also has an IPv6 address: A is fd00:192:168:1::1, E is fd00:192:168:1::5.
   Its default route leads to 169.254.1.1 (fe80::1), its host's end of its veth pair. On the hosts ip_forward is 0.";

/// Runs all steps.
pub fn tell(net: &Net) -> Result<(), Failure> {
    title("Two hosts, five containers, a fabric");
    println!("{TOPOLOGY}");
    start_up(net)?;
    tables(net)?;
    reach(net)?;
    throughput(net)?;
    withdraw(net)?;
    deny(net)?;
    proof(net)
}

fn start_up(net: &Net) -> Result<(), Failure> {
    title("BGP comes up, Margay mirrors what BIRD put into the kernel");
    for node in &NODES {
        net.wait_for(&format!("margayd on {} is ready", node.name), || {
            Ok(run::capture(&mut net.margay(node.name, "status --ready"))?.0)
        })?;
    }
    let mut longest = std::time::Duration::ZERO;
    for (node, other) in [(&NODES[0], &NODES[1]), (&NODES[1], &NODES[0])] {
        for (_, number) in other.containers {
            for address in [v4(*number), v6(*number)] {
                let took = net.wait_for(&format!("{} has a route to {address}", node.name), || {
                    has_route(net, node.name, &address)
                })?;
                longest = longest.max(took);
            }
        }
    }
    println!("  all routes are there");
    Ok(())
}

/// Whether Margay on `host` has a route: `route get` answers "not found" without one, and the hosts have no default route.
fn has_route(net: &Net, host: &str, address: &str) -> Result<bool, Failure> {
    Ok(run::capture(&mut net.margay(host, &format!("route get {address}")))?.0)
}

fn tables(net: &Net) -> Result<(), Failure> {
    show("Host 1", "birdc show protocols", &mut {
        let mut birdc = net.command("host1", "birdc");
        let control = net.socket("host1").with_file_name("bird.ctl");
        birdc.arg("-s").arg(control).args(["show", "protocols"]);
        birdc
    })?;
    for (node, title) in NODES.iter().zip(["Host 1", "Host 2"]) {
        show(
            title,
            "margay route show",
            &mut net.margay(node.name, "route show"),
        )?;
        show(
            title,
            "margay route show --diff-kernel",
            &mut net.margay(node.name, "route show --diff-kernel"),
        )?;
    }
    show(
        "Host 1",
        "margay neigh show",
        &mut net.margay("host1", "neigh show"),
    )?;
    Ok(())
}

fn reach(net: &Net) -> Result<(), Failure> {
    title("A reaches E, over IPv4 and IPv6");
    for address in [v4(5), v6(5)] {
        net.wait_for(&format!("A reaches {address}"), || {
            Ok(run::capture(
                net.command("A", "ping")
                    .args(["-n", "-c", "1", "-W", "1", &address]),
            )?
            .0)
        })?;
        let line = format!("ping -n -c 3 -i 0.2 {address}");
        show("A", &line, &mut words(net, "A", &line))?;
    }
    for (address, hops) in [
        (v4(5), ["10.0.1.1", "10.0.2.2"]),
        (v6(5), ["fd00:0:0:1::1", "fd00:0:0:2::2"]),
    ] {
        let line = format!("traceroute -n -q 1 -w 2 {address}");
        let text = show("A", &line, &mut words(net, "A", &line))?;
        for hop in hops.into_iter().chain([address.as_str()]) {
            expect(text.contains(hop), &format!("traceroute shows {hop}"))?;
        }
        expect(
            text.lines().count() == 5,
            "traceroute shows Host 1, the fabric, Host 2 and E",
        )?;
    }
    println!("  Hops: Host 1 (Margay), the fabric (its kernel), Host 2 (Margay), E.");
    Ok(())
}

fn throughput(net: &Net) -> Result<(), Failure> {
    title("iperf3 from A to E; the containers are as their kernel made them, no offload is turned off");
    for address in [v4(5), v6(5)] {
        let mut server = words(net, "E", "iperf3 -s -1")
            .stdout(std::process::Stdio::null())
            .spawn();
        net.wait_for("iperf3 listens on E", || {
            Ok(net.sh("E", "ss -Hltn")?.contains(":5201 "))
        })?;
        let line = format!("iperf3 -c {address} -t 2 -f m");
        let (done, text) = run::capture(&mut words(net, "A", &line))?;
        println!("\n  A$ {line}");
        for line in text
            .lines()
            .filter(|line| line.contains("sender") || line.contains("receiver") || !done)
        {
            println!("    {line}");
        }
        if let Ok(server) = &mut server {
            let _ = server.kill();
            let _ = server.wait();
        }
        expect(done, "iperf3 gets through")?;
    }
    Ok(())
}

fn withdraw(net: &Net) -> Result<(), Failure> {
    let (d, port) = (v4(4), port("D"));
    title(&format!(
        "Host 2 withdraws the route to D ({d}), then announces it again"
    ));
    let reached = || Ok(run::capture(net.command("A", "ping").args(["-n", "-c", "1", "-W", "1", &d]))?.0);
    let routed = || has_route(net, "host1", &d);
    net.wait_for("A reaches D", reached)?;
    println!("\n  A reaches D.");
    let line = format!("ip route del {d} dev {port}");
    println!("\n  Host 2$ {line}        # the orchestrator takes D away; BIRD tells the route reflector");
    net.sh("host2", &line)?;
    let took = net.wait_for("Host 1 loses the route to D", || routed().map(|routed| !routed))?;
    println!(
        "  Margay on Host 1 has no route to D any more, {} ms later.",
        took.as_millis()
    );
    let ping = format!("ping -n -c 2 -i 0.3 -W 1 {d}");
    let (reached_still, text) = run::capture(&mut words(net, "A", &ping))?;
    indent("A", &ping, &text);
    expect(!reached_still, "D is not reached without a route")?;
    let line = format!("ip route add {d} dev {port} scope link");
    println!("\n  Host 2$ {line}");
    net.sh("host2", &line)?;
    let took = net.wait_for("Host 1 has the route to D again", routed)?;
    println!(
        "  Margay on Host 1 has the route again, {} ms later.",
        took.as_millis()
    );
    net.wait_for("A reaches D", reached)?;
    show("A", &ping, &mut words(net, "A", &ping)).map(drop)
}

fn deny(net: &Net) -> Result<(), Failure> {
    title("An access list denies one flow: TCP port 5201 from A to E");
    let rule = "[[acl.rule]]\naction = \"deny\"\nproto = \"tcp\"\nsrc = [\"192.168.1.1\"]\ndst = [\"192.168.1.5\"]\ndport = [5201]\n";
    net.write(&net.acl_file("host2"), &acl(rule))?;
    println!("\n  Host 2, {}:", net.acl_file("host2").display());
    acl(rule).lines().for_each(|line| println!("    {line}"));
    show(
        "Host 2",
        "margay acl reload",
        &mut net.margay("host2", "acl reload"),
    )?;
    let mut server = words(net, "E", "iperf3 -s")
        .stdout(std::process::Stdio::null())
        .spawn();
    net.wait_for("iperf3 listens on E", || {
        Ok(net.sh("E", "ss -Hltn")?.contains(":5201 "))
    })?;
    let line = format!("iperf3 -c {} -t 1 --connect-timeout 1500", v4(5));
    let (connected, text) = run::capture(&mut words(net, "A", &line))?;
    indent("A", &line, &text);
    expect(!connected, "the denied flow does not get through")?;
    let line = format!("iperf3 -c {} -n 1M -f m", v4(5));
    let (other, text) = run::capture(&mut words(net, "B", &line))?;
    println!("\n  B$ {line}        # not denied");
    text.lines()
        .filter(|line| line.contains("receiver") || !other)
        .for_each(|line| println!("    {line}"));
    if let Ok(server) = &mut server {
        let _ = server.kill();
        let _ = server.wait();
    }
    expect(other, "the flow from B gets through")?;
    let text = show("Host 2", "margay drops", &mut net.margay("host2", "drops"))?;
    expect(text.contains("acl_ingress"), "the drop is counted")?;
    show(
        "Host 2",
        "margay -s acl show edge-in",
        &mut net.margay("host2", "-s acl show edge-in"),
    )?;
    net.write(&net.acl_file("host2"), &acl(""))?;
    show(
        "Host 2",
        "margay acl reload",
        &mut net.margay("host2", "acl reload"),
    )?;
    Ok(())
}

fn proof(net: &Net) -> Result<(), Failure> {
    title("Proof: AF_XDP carried it, the kernels forwarded nothing");
    for (node, title) in NODES.iter().zip(["Host 1", "Host 2"]) {
        show(
            title,
            "margay -s port show",
            &mut net.margay(node.name, "-s port show"),
        )?;
        let (_, json) = run::capture(&mut net.margay(node.name, "-j port show"))?;
        let forwarded = sum(&json, "forwarded");
        let setting = net.sh(node.name, "cat /proc/sys/net/ipv4/ip_forward")?;
        // ForwDatagrams of IPv4 and IPv6 (RFC 4293), as this namespace's kernel counts them.
        let kernel = net.sh(node.name, "awk '/^Ip: [0-9]/ {print $7}' /proc/net/snmp; awk '/^Ip6OutForwDatagrams/ {print $2}' /proc/net/snmp6")?;
        let kernel: u64 = kernel
            .split_whitespace()
            .filter_map(|count| count.parse::<u64>().ok())
            .sum();
        println!(
            "\n  {title}: Margay forwarded {forwarded} packets; the kernel, with ip_forward={}, {kernel}.",
            setting.trim()
        );
        expect(forwarded > 1000, "Margay forwarded the traffic")?;
        expect(
            kernel == 0 && setting.trim() == "0",
            "the kernel forwarded nothing",
        )?;
    }
    Ok(())
}

/// The sum of all numbers that stand under `key` in a JSON text: enough to read a counter without a JSON library.
fn sum(json: &str, key: &str) -> u64 {
    let mark = format!("\"{key}\":");
    let numbers = json.split(&mark).skip(1).map(|rest| {
        let digits: String = rest
            .trim_start()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse::<u64>().unwrap_or(0)
    });
    numbers.sum()
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn words(net: &Net, host: &str, line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = net.command(host, words.next().unwrap_or_default());
    command.args(words);
    command
}

/// Runs a command that must succeed, and shows it and what it printed.
fn show(host: &str, line: &str, command: &mut Command) -> Result<String, Failure> {
    let (done, text) = run::capture(command)?;
    indent(host, line, &text);
    expect(done, &format!("{line} succeeds on {host}"))?;
    Ok(text)
}

fn indent(host: &str, line: &str, text: &str) {
    println!("\n  {host}$ {line}");
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        println!("    {line}");
    }
}

fn expect(met: bool, what: &str) -> Result<(), Failure> {
    if met {
        Ok(())
    } else {
        Err(Failure(format!("this should have been so: {what}")))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn counters_add_up_over_ports() {
        let json = r#"{"ports":[{"name":"a","forwarded":12,"dropped":1},{"name":"b","forwarded": 30}]}"#;
        assert_eq!(super::sum(json, "forwarded"), 42);
        assert_eq!(super::sum(json, "held"), 0);
    }
}
