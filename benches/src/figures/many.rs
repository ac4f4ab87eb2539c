//! What ports that nobody uses cost those that are used: margayd with four ports and with 256, in alternating rounds.

use crate::command::run_in;
use crate::lab::{GATEWAY_V4, Lab, mac_text};
use crate::report::median;
use crate::router::Contender;
use crate::sink::Expected;
use crate::{Result, throughput};

use super::wake;

/// What was measured with so many ports.
pub struct Figures {
    /// Ports in all.
    pub ports: usize,
    /// Packets a second, median of the rounds.
    pub rate: f64,
    /// Microseconds of single packets after idling, one a trial.
    pub wake: Vec<f64>,
}

/// Two more ports of the lab, with a gateway beyond each: device of the router and of the sink, and the last byte of their MACs.
const MORE: [(&str, &str, u8); 2] = [("idle-a", "s1", 0x10), ("idle-b", "s2", 0x20)];

fn more(number: u8) -> Expected {
    Expected {
        dst_mac: [2, 0x19, 0, 0, number, 2],
        src_mac: [2, 0x19, 0, 0, number, 1],
        ttl: Some(63),
    }
}

/// Makes [`MORE`], so that packets come in by one port and leave by three.
fn three_ways(lab: &Lab) -> Result<()> {
    let (r, s) = (lab.router(), lab.sink());
    for (near, far, number) in MORE {
        let (near_mac, far_mac) = (mac_text(more(number).src_mac), mac_text(more(number).dst_mac));
        run_in(
            &r,
            &format!(
                "ip link add {near} address {near_mac} type veth peer name {far} netns {s} address {far_mac}"
            ),
        )?;
        run_in(&r, &format!("ip address add 198.19.{number}.1/30 dev {near}"))?;
        run_in(&s, &format!("ip address add 198.19.{number}.2/30 dev {far}"))?;
        run_in(&r, &format!("ip link set {near} up"))?;
        run_in(&s, &format!("ip link set {far} up"))?;
        run_in(&r, &format!("ping -c1 -W2 198.19.{number}.2"))?;
    }
    Ok(())
}

/// Spreads the flows over the three gateways, or leaves them all to the first.
fn spread(lab: &Lab, over: bool) -> Result<()> {
    let vias: String = MORE
        .iter()
        .map(|(_, _, number)| format!(" nexthop via 198.19.{number}.2"))
        .collect();
    let line = match over {
        true => format!("ip route add 198.19.128.0/24 nexthop via {GATEWAY_V4}{vias}"),
        false => "ip route del 198.19.128.0/24".to_owned(),
    };
    run_in(&lab.router(), &line).map(drop)
}

/// Makes so many pairs of devices that are ports and carry nothing, or takes them away.
fn idle_ports(lab: &Lab, count: usize, there: bool) -> Result<()> {
    let netns = lab.router();
    for n in 0..count {
        if there {
            run_in(&netns, &format!("ip link add idle{n} type veth peer name far{n}"))?;
            run_in(&netns, &format!("ip link set idle{n} up"))?;
            run_in(&netns, &format!("ip link set far{n} up"))?;
        } else {
            run_in(&netns, &format!("ip link del idle{n}"))?;
        }
    }
    Ok(())
}

/// Measures with each of `ports` ports in all (4 at least, which are in use): `rounds` times the rate, and the wake-up of
/// `trials` packets a round.
pub fn measure(ports: &[usize], rounds: usize, trials: usize) -> Result<Vec<Figures>> {
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); ports.len()];
    let mut wakes: Vec<Vec<f64>> = vec![Vec::new(); ports.len()];
    let lab = Lab::new()?;
    lab.resolve()?;
    three_ways(&lab)?;
    let sinks: Vec<(&str, Expected)> = std::iter::once(("s0", lab.routed()))
        .chain(MORE.iter().map(|(_, far, number)| (*far, more(*number))))
        .collect();
    let traffic = lab.traffic(false, 64);
    for _ in 0..rounds {
        for (at, count) in ports.iter().enumerate() {
            let idle = count.saturating_sub(2 + MORE.len());
            idle_ports(&lab, idle, true)?;
            spread(&lab, true)?;
            let measured = throughput::measure_into(&lab, Contender::MargayAdaptive, &traffic, &sinks, 3.0)?;
            spread(&lab, false)?;
            rates[at].push(measured.routed);
            wakes[at].extend(wake::measure(&lab, Contender::MargayAdaptive, trials)?);
            idle_ports(&lab, idle, false)?;
        }
    }
    let figures = ports.iter().zip(rates).zip(wakes);
    Ok(figures
        .map(|((ports, rates), wake)| Figures {
            ports: *ports,
            rate: median(&rates),
            wake,
        })
        .collect())
}
