//! Figures of a running margayd: route to first packet, wake-up after idling, idle cost, full table.
//!
//! ```text
//! cargo xtask figures [--only route,wake,idle,table,many]
//! ```

use std::process::ExitCode;
use std::time::Duration;

use benches::figures::{LATENCY_HEAD, idle, latency_row, many, route, table, wake};
use benches::lab::Lab;
use benches::report::{self, thousands};
use benches::router::Contender;
use benches::{Error, Result, sys};
use clap::Parser;

/// Measures a running margayd in network namespaces and prints Markdown.
#[derive(Parser)]
struct Arguments {
    /// Which figures: route, wake, idle, table, many.
    #[arg(long, value_delimiter = ',', default_value = "route,wake,idle,table")]
    only: Vec<String>,
    /// Routes added, and packets sent after idling.
    #[arg(long, default_value_t = 500)]
    trials: usize,
    /// Seconds of idling.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

fn routes(trials: usize) -> Result<()> {
    let mut rows = Vec::new();
    for contender in [Contender::MargayAdaptive, Contender::Kernel] {
        let lab = Lab::new()?;
        lab.resolve()?;
        rows.push(latency_row(
            contender.name(),
            &route::measure(&lab, contender, trials)?,
        ));
    }
    println!(
        "From `ip route add` (a line given to a waiting `ip -batch`) to the first packet that uses the route:\n"
    );
    println!("{}", report::table(&LATENCY_HEAD, &rows));
    Ok(())
}

fn wakes(trials: usize) -> Result<()> {
    let mut rows = Vec::new();
    for contender in [Contender::MargayAdaptive, Contender::Margay, Contender::Kernel] {
        let lab = Lab::new()?;
        lab.resolve()?;
        rows.push(latency_row(
            contender.name(),
            &wake::measure(&lab, contender, trials)?,
        ));
    }
    println!(
        "A single packet after 20 ms of silence, from the sender's call to the receiver's XDP program:\n"
    );
    println!("{}", report::table(&LATENCY_HEAD, &rows));
    Ok(())
}

fn idling(seconds: Duration) -> Result<()> {
    let lab = Lab::new()?;
    lab.resolve()?;
    let share = idle::measure(&lab, "adaptive", seconds)?;
    println!("Idle, adaptive profile, one worker and two ports: {share:.2} % of a core, all threads.\n");
    Ok(())
}

fn many_ports(trials: usize) -> Result<()> {
    let figures = many::measure(&[4, 256], 3, trials / 3 + 1)?;
    let first = figures.first().map_or(1.0, |f| f.rate);
    let rows: Vec<Vec<String>> = figures
        .iter()
        .map(|f| {
            let cell = |share| format!("{:.0}", report::quantile(&f.wake, share));
            vec![
                f.ports.to_string(),
                thousands(f.rate),
                format!("{:.2}", f.rate / first),
                cell(0.5),
                cell(0.99),
            ]
        })
        .collect();
    println!(
        "Ports of one queue each, four of them in use (in by one, out by three), adaptive profile, medians of alternating rounds:\n"
    );
    let head = [
        "ports",
        "packets/s",
        "of the first",
        "wake-up, median µs",
        "p99 µs",
    ];
    println!("{}", report::table(&head, &rows));
    Ok(())
}

fn full_table() -> Result<()> {
    let lab = Lab::new()?;
    lab.resolve()?;
    let Some(f) = table::measure(&lab)? else {
        return Ok(());
    };
    let rows = vec![
        vec![
            "`ip -batch` loads them into the kernel".to_owned(),
            format!("{:.2} s", f.batch_s),
        ],
        vec![
            format!(
                "`ip route show table main \\| wc -l`, both families ({} routes)",
                thousands(f.dumped as f64)
            ),
            format!("{:.2} s", f.dump_s),
        ],
        vec![
            format!(
                "margayd from its start to ready with {} routes",
                thousands(f.mirrored as f64)
            ),
            format!("{:.2} s", f.mirror_s),
        ],
        vec!["its resident memory then (at most)".to_owned(), {
            let (now, most) = f.resident_mib;
            format!("{now:.0} MiB ({most:.0} MiB)")
        }],
        vec![
            "`margay route show --diff-kernel`: no difference".to_owned(),
            format!("{:.2} s", f.diff_s),
        ],
    ];
    let (v4, v6) = f.prefixes;
    println!(
        "Full table, {} IPv4 and {} IPv6 prefixes:\n",
        thousands(v4 as f64),
        thousands(v6 as f64)
    );
    println!("{}", report::table(&["step", "result"], &rows));
    Ok(())
}

fn work(a: &Arguments) -> Result<()> {
    let seconds =
        Duration::try_from_secs_f64(a.seconds).map_err(|error| Error::new(format!("--seconds: {error}")))?;
    if a.trials == 0 || seconds.is_zero() {
        return Err(Error::new("at least one trial and some time"));
    }
    for figure in &a.only {
        match figure.as_str() {
            "route" => routes(a.trials)?,
            "wake" => wakes(a.trials)?,
            "idle" => idling(seconds)?,
            "table" => full_table()?,
            "many" => many_ports(a.trials)?,
            other => {
                return Err(Error::new(format!(
                    "no figure {other}: route, wake, idle, table, many"
                )));
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    sys::catch_interrupts();
    match work(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("figures: {error}");
            ExitCode::FAILURE
        }
    }
}
