//! `cargo xtask bench lpm`: route look-ups next to DPDK's, over the same files, in rounds that alternate.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::run::{self, Failure};
use crate::setup;

mod chart;
mod peer;

use peer::Peer;

const MODELS: [&str; 4] = ["route", "uniform", "zipf", "sweep"];
/// Rounds unless `--rounds` says otherwise.
const ROUNDS: usize = 5;
/// Where the figures stand in docs/lpm.md.
const BEGIN: &str = "<!-- figures: written by `cargo xtask bench lpm` -->";
const END: &str = "<!-- end of figures -->";
/// Rows of our own: the default engine and the baseline.
const OURS: [&str; 2] = ["Margay", "Margay, `--engine dir24`"];

/// Rates by method and model, one for each round.
type Rates = Vec<(String, [Vec<f64>; 4])>;

/// What was measured for a family.
struct Family {
    name: &'static str,
    rates: Rates,
    /// Seconds by method; Margay's are medians.
    loads: Vec<(String, f64)>,
    /// Bytes that look-ups of the baseline read; 0 for IPv6.
    baseline_bytes: f64,
}

/// Measures, prints Markdown, and writes the same to docs/lpm.md and a chart to docs/lpm.svg.
pub fn lpm(options: &[&str]) -> Result<(), Failure> {
    let rounds = match options {
        [] => ROUNDS,
        ["--rounds", count] => count.parse().ok().filter(|count| *count > 0).ok_or_else(usage)?,
        _ => return Err(usage()),
    };
    setup::install(&[setup::BUILD, setup::LOOKUP_PEERS])?;
    run::build_binaries()?;
    run::succeed(run::cargo().args(["build", "--release", "--package", "benches", "--bin", "lpm"]))?;
    let folder = std::env::temp_dir().join(format!("margay-bench-lpm-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| Failure(format!("{}: {error}", folder.display())))?;
    let result = measure(&folder, rounds);
    // The keys are half a gigabyte.
    let _ = fs::remove_dir_all(&folder);
    result
}

fn usage() -> Failure {
    Failure("usage: cargo xtask bench lpm [--rounds N]".into())
}

fn measure(folder: &Path, rounds: usize) -> Result<(), Failure> {
    let helper = run::root().join("target/release/lpm");
    let origin = output(&helper, &["traffic", &folder.display().to_string()])?;
    let peer = run::dpdk_peer("lpm_dpdk")?;
    let mut families = Vec::new();
    for name in ["4", "6"] {
        families.push(family(name, folder, rounds, peer.as_deref())?);
    }
    let mut report = format!(
        "{} IPv4 and {} IPv6 prefixes from {}; one core of {}; medians of {rounds} rounds in which both sides took turns, in M \
         look-ups a second.\n",
        text(&origin, "ipv4").unwrap_or_default(),
        text(&origin, "ipv6").unwrap_or_default(),
        text(&origin, "origin").unwrap_or_default(),
        processor(),
    );
    if peer.is_none() {
        report += "\nDPDK's library was not there: no peers.\n";
    }
    for family in &families {
        rates_table(&mut report, family);
    }
    memory_table(
        &mut report,
        &output(&helper, &["memory"])?,
        families[0].baseline_bytes,
    )?;
    updates_table(&mut report, output(&helper, &["updates"]))?;
    println!("{report}");
    let docs = run::root().join("docs");
    let page = docs.join("lpm.md");
    let failed = |path: &Path, error: std::io::Error| Failure(format!("{}: {error}", path.display()));
    let old = fs::read_to_string(&page).map_err(|error| failed(&page, error))?;
    let new = replaced(&old, &report).ok_or_else(|| {
        Failure(format!(
            "{} has lost the lines around its figures",
            page.display()
        ))
    })?;
    fs::write(&page, new).map_err(|error| failed(&page, error))?;
    let bars: Vec<_> = families
        .iter()
        .map(|family| (family.name, best(&family.rates)))
        .collect();
    let picture = docs.join("lpm.svg");
    fs::write(&picture, chart::svg(&bars)).map_err(|error| failed(&picture, error))?;
    println!("written: docs/lpm.md, docs/lpm.svg");
    Ok(())
}

/// The page with the figures between the two marks replaced.
fn replaced(page: &str, figures: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{figures}{END}{after}"))
}

/// The processor's name.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    name.map_or_else(
        || "this machine".into(),
        |name| name.trim_start_matches([' ', '\t', ':']).to_owned(),
    )
}

/// All rounds of a family.
fn family(name: &'static str, folder: &Path, rounds: usize, peer: Option<&Path>) -> Result<Family, Failure> {
    let mut family = Family {
        name,
        rates: Rates::new(),
        loads: Vec::new(),
        baseline_bytes: 0.0,
    };
    let mut server = match peer {
        Some(program) => Some(Peer::start(program, folder, name, &mut family.loads)?),
        None => None,
    };
    // DIR-24-8 is for IPv4.
    let engines = if name == "4" {
        &["compressed", "dir24"][..]
    } else {
        &["compressed"]
    };
    let mut own_loads = vec![Vec::new(); engines.len()];
    for round in 0..rounds {
        for (at, model) in MODELS.iter().enumerate() {
            eprintln!("IPv{name}, {model}, round {} of {rounds}", round + 1);
            let keys = folder.join(format!("{model}{name}"));
            let mut digests = Vec::new();
            for ((engine, row), loads) in engines.iter().zip(OURS).zip(&mut own_loads) {
                let answer = margay(folder, &keys, engine)?;
                push(&mut family.rates, row, at, number(&answer, "lookups_per_second")?);
                loads.push(number(&answer, "load_seconds")?);
                digests.push((row.to_owned(), text(&answer, "digest").unwrap_or_default()));
                if *engine == "dir24" {
                    family.baseline_bytes = number(&answer, "image_bytes")?;
                }
            }
            if let Some(server) = &mut server {
                for line in server.run(&keys)? {
                    let method = text(&line, "result").unwrap_or_default();
                    push(
                        &mut family.rates,
                        &method,
                        at,
                        number(&line, "lookups_per_second")?,
                    );
                    digests.push((method, text(&line, "digest").unwrap_or_default()));
                }
            }
            let (_, digest) = &digests[0];
            if let Some((method, other)) = digests.iter().find(|(_, other)| other != digest) {
                return Err(Failure(format!(
                    "{method} found other prefixes: digest {other}, not {digest}"
                )));
            }
        }
    }
    for (row, loads) in OURS.iter().zip(&own_loads) {
        family.loads.push((row.to_string(), median(loads)));
    }
    Ok(family)
}

/// The answer of `margay bench lpm`.
fn margay(folder: &Path, keys: &Path, engine: &str) -> Result<String, Failure> {
    output(
        Path::new("taskset"),
        &[
            "--cpu-list",
            &core(),
            &run::binaries().join("margay").display().to_string(),
            "-j",
            "bench",
            "lpm",
            "--engine",
            engine,
            "--prefixes",
            &folder.join("prefixes.txt").display().to_string(),
            "--keys",
            &keys.display().to_string(),
        ],
    )
}

/// Adds a rate to a method's.
fn push(rates: &mut Rates, method: &str, model: usize, rate: f64) {
    let at = rates
        .iter()
        .position(|(name, _)| name == method)
        .unwrap_or_else(|| {
            rates.push((method.to_owned(), Default::default()));
            rates.len() - 1
        });
    rates[at].1[model].push(rate);
}

/// Medians in M look-ups a second: the default engine's and, for each model, the best peer's.
fn best(rates: &Rates) -> [(f64, f64); 4] {
    std::array::from_fn(|model| {
        let of = |wanted: &dyn Fn(&str) -> bool| {
            let rates = rates.iter().filter(|(name, _)| wanted(name));
            rates
                .map(|(_, rates)| median(&rates[model]) / 1e6)
                .fold(0.0, f64::max)
        };
        (of(&|name| name == OURS[0]), of(&|name| !OURS.contains(&name)))
    })
}

fn rates_table(report: &mut String, family: &Family) {
    let _ = writeln!(
        report,
        "\n### IPv{}\n\n| | {} | load |\n|---|---|---|---|---|---|",
        family.name,
        MODELS.join(" | ")
    );
    for (method, values) in &family.rates {
        let cells: Vec<String> = values
            .iter()
            .map(|rates| format!("{:.0}", median(rates) / 1e6))
            .collect();
        // Methods that differ only in the look-up share a table.
        let load = match family.loads.iter().find(|(name, _)| name == method) {
            Some((_, load)) => format!("{load:.2} s"),
            None => "as above".into(),
        };
        let _ = writeln!(report, "| {method} | {} | {load} |", cells.join(" | "));
    }
    let best = best(&family.rates);
    if best.iter().all(|(_, theirs)| *theirs > 0.0) {
        let ratios = best.map(|(ours, theirs)| ours / theirs);
        let mean = ratios.iter().product::<f64>().powf(0.25);
        let _ = writeln!(
            report,
            "| **Margay / the best of DPDK** | {} | geometric mean {mean:.2} × |",
            ratios.map(|ratio| format!("{ratio:.2} ×")).join(" | ")
        );
    }
}

fn memory_table(report: &mut String, memory: &str, baseline: f64) -> Result<(), Failure> {
    *report += "\n### Memory, MiB\n\n| | image, each prefix a value of its own | image, 256 values at random | everything else |\n\
                |---|---|---|---|\n";
    for line in memory.lines() {
        let (image, bytes) = (number(line, "image")?, number(line, "bytes")?);
        let name = text(line, "family").unwrap_or_default();
        let share = |bytes: f64| match &name[..] {
            "4" if baseline > 0.0 => format!(" (1/{:.1} of DIR-24-8)", baseline / bytes),
            _ => String::new(),
        };
        let few = number(line, "image_of_256")?;
        let _ = writeln!(
            report,
            "| IPv{name} | {:.2}{} | {:.2}{} | {:.1} |",
            image / 1048576.0,
            share(image),
            few / 1048576.0,
            share(few),
            (bytes - image) / 1048576.0,
        );
    }
    Ok(())
}

fn updates_table(report: &mut String, updates: Result<String, Failure>) -> Result<(), Failure> {
    *report += "\n### Updates\n\n";
    let updates = match updates {
        Ok(updates) => updates,
        Err(Failure(reason)) => {
            let _ = writeln!(report, "Not measured: {reason}.");
            return Ok(());
        }
    };
    *report += "Time until a reader on a second core sees an update, and look-up speed lost under 10,000 updates a second.\n\n\
                | | median | p99 | speed lost |\n|---|---|---|---|\n";
    for line in updates.lines() {
        let _ = writeln!(
            report,
            "| IPv{} | {:.2} µs | {:.2} µs | {:.1} % (at {:.0} a second) |",
            text(line, "family").unwrap_or_default(),
            number(line, "median")? * 1e6,
            number(line, "p99")? * 1e6,
            number(line, "lost")? * 100.0,
            number(line, "rate")?,
        );
    }
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(0.0)
}

/// The core that both sides are measured on: the last one.
fn core() -> String {
    std::thread::available_parallelism()
        .map_or(0, |count| count.get() - 1)
        .to_string()
}

fn output(program: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let output = run::command(&program.display().to_string())
        .args(arguments)
        .stderr(Stdio::inherit())
        .output();
    let output = output.map_err(|error| Failure(format!("{}: {error}", program.display())))?;
    if !output.status.success() {
        return Err(Failure(format!(
            "{} {}: {}",
            program.display(),
            arguments.join(" "),
            output.status
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The value of a key in a flat JSON object, as its text. Enough for objects that this project prints itself.
fn text(json: &str, key: &str) -> Option<String> {
    let rest = json.split_once(&format!("\"{key}\":"))?.1.trim_start();
    Some(match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?.to_owned(),
        None => rest.split([',', '}', '\n']).next()?.trim().to_owned(),
    })
}

fn number(json: &str, key: &str) -> Result<f64, Failure> {
    let value = text(json, key).and_then(|text| text.parse().ok());
    value.ok_or_else(|| Failure(format!("no number '{key}' in: {json}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_json_is_read() {
        let line = "{\"result\":\"rte_fib/4B\",\"lookups_per_second\":12.5,\"digest\":7}";
        assert_eq!(text(line, "result").as_deref(), Some("rte_fib/4B"));
        assert_eq!(
            (
                number(line, "lookups_per_second").unwrap(),
                text(line, "digest").as_deref()
            ),
            (12.5, Some("7"))
        );
        assert!(number(line, "missing").is_err());
    }

    #[test]
    fn figures_go_between_the_marks() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replaced(&page, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replaced("no marks", "new"), None);
    }

    #[test]
    fn the_best_peer_counts_and_not_our_baseline() {
        let mut rates = Rates::new();
        for (method, rate) in [(OURS[0], 3e6), (OURS[1], 9e6), ("a", 1e6), ("b", 2e6)] {
            for model in 0..4 {
                push(&mut rates, method, model, rate);
            }
        }
        assert_eq!(best(&rates), [(3.0, 2.0); 4]);
    }
}
