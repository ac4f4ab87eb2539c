//! 64-byte frames a second through one core: margayd next to the kernel and testpmd, in rounds that alternate.
//!
//! ```text
//! cargo xtask bench forward
//! ```

use std::process::ExitCode;

use benches::lab::Lab;
use benches::report::{median, table, thousands};
use benches::router::{Contender, GENERATOR_CORE, ROUTER_CORE};
use benches::throughput::{self, Measured};
use benches::{Error, Result, sys};
use clap::Parser;

/// Measures forwarding between two veth pairs: generator on core 0, router on core 1, 1,024 flows.
#[derive(Parser)]
struct Arguments {
    /// Rounds. Every round measures every contender once, so that a machine that slows down hits all of them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Bytes of a frame without FCS.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// IPv6 rather than IPv4.
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Who takes part: margay, adaptive, kernel, threaded, testpmd.
    #[arg(long, value_delimiter = ',', default_value = "margay,adaptive,kernel,testpmd", value_parser = contender)]
    contenders: Vec<Contender>,
}

fn contender(text: &str) -> Result<Contender> {
    match text {
        "margay" => Ok(Contender::Margay),
        "adaptive" => Ok(Contender::MargayAdaptive),
        "kernel" => Ok(Contender::Kernel),
        "threaded" => Ok(Contender::KernelThreaded),
        "testpmd" => Ok(Contender::Testpmd),
        _ => Err(Error::new("one of margay, adaptive, kernel, threaded, testpmd")),
    }
}

fn work(a: &Arguments) -> Result<()> {
    if a.rounds == 0 || a.contenders.is_empty() || !(0.1..=600.0).contains(&a.seconds) {
        return Err(Error::new(
            "at least one round and one contender, 0.1 to 600 seconds",
        ));
    }
    let lab = Lab::new()?;
    lab.resolve()?;
    let mut results: Vec<Vec<Measured>> = a.contenders.iter().map(|_| Vec::new()).collect();
    for round in 1..=a.rounds {
        for (contender, results) in a.contenders.iter().zip(&mut results) {
            let measured = throughput::measure(&lab, *contender, a.ipv6, a.size, a.seconds)?;
            eprintln!(
                "round {round}: {:<34} {:>9} packets/s of {:>9} offered",
                contender.name(),
                thousands(measured.routed),
                thousands(measured.offered)
            );
            results.push(measured);
        }
    }
    let routed = |at: usize| results[at].iter().map(|m| m.routed).collect::<Vec<_>>();
    let first = routed(0);
    let mut rows = Vec::new();
    for (at, contender) in a.contenders.iter().enumerate() {
        let values = routed(at);
        let offered: Vec<f64> = results[at].iter().map(|m| m.offered).collect();
        // A ratio is taken within a round, where both met the same machine.
        let ratios: Vec<f64> = first
            .iter()
            .zip(&values)
            .map(|(first, other)| first / other)
            .collect();
        let (low, high) = values
            .iter()
            .fold((f64::MAX, 0.0), |(low, high), &v| (v.min(low), v.max(high)));
        rows.push(vec![
            contender.name().to_owned(),
            thousands(median(&values)),
            format!("{} to {}", thousands(low), thousands(high)),
            thousands(median(&offered)),
            format!("{:.2}", median(&ratios)),
        ]);
    }
    let family = if a.ipv6 { "IPv6" } else { "IPv4" };
    println!(
        "{}-byte {family} frames, 1,024 flows, {} alternating rounds of {} s, generator on core {GENERATOR_CORE}, \
         router on core {ROUTER_CORE}:\n",
        a.size, a.rounds, a.seconds
    );
    let ratio = format!("{} / this", a.contenders[0].name());
    println!(
        "{}",
        table(&["router", "median packets/s", "range", "offered", &ratio], &rows)
    );
    Ok(())
}

fn main() -> ExitCode {
    sys::catch_interrupts();
    match work(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forward: {error}");
            ExitCode::FAILURE
        }
    }
}
