//! What ports that nobody uses cost those that are used: margayd with four ports and with 256, in alternating rounds.

use crate::command::run_in;
use crate::lab::Lab;
use crate::report::median;
use crate::router::Contender;
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

/// Measures with each of `ports` ports in all, two of which are in use: `rounds` times the rate, and the wake-up of
/// `trials` packets a round.
pub fn measure(ports: &[usize], rounds: usize, trials: usize) -> Result<Vec<Figures>> {
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); ports.len()];
    let mut wakes: Vec<Vec<f64>> = vec![Vec::new(); ports.len()];
    let lab = Lab::new()?;
    lab.resolve()?;
    for _ in 0..rounds {
        for (at, count) in ports.iter().enumerate() {
            let idle = count.saturating_sub(2);
            idle_ports(&lab, idle, true)?;
            let measured = throughput::measure(&lab, Contender::MargayAdaptive, false, 64, 3.0)?;
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
