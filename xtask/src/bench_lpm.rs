//! `cargo xtask bench lpm`: route look-ups next to DPDK's, over the same files, in rounds that alternate.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::run::{self, Failure};
use crate::setup;

const MODELS: [&str; 4] = ["route", "uniform", "zipf", "sweep"];
/// Rounds unless `--rounds` says otherwise.
const ROUNDS: usize = 5;

/// Rates by method and model, one for each round.
type Rates = Vec<(String, [Vec<f64>; 4])>;

/// Measures, prints a Markdown table and writes `docs/lpm.svg`.
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
    println!("table: {}", text(&origin, "origin").unwrap_or_default());
    let peer = run::dpdk_peer("lpm_dpdk")?;
    if peer.is_none() {
        println!("DPDK's library is not here: no peers");
    }
    let mut chart = Vec::new();
    for family in ["4", "6"] {
        let mut rates = Rates::new();
        let mut memory = String::new();
        let mut loads = Vec::new();
        let mut server = match &peer {
            Some(program) => Some(Peer::start(program, folder, family, &mut loads)?),
            None => None,
        };
        let mut own_load = Vec::new();
        for round in 0..rounds {
            for (at, model) in MODELS.iter().enumerate() {
                eprintln!("IPv{family}, {model}, round {} of {rounds}", round + 1);
                let keys = folder.join(format!("{model}{family}"));
                let prefixes = folder.join("prefixes.txt");
                let answer = output(
                    Path::new("taskset"),
                    &[
                        "--cpu-list",
                        &core(),
                        &run::binaries().join("margay").display().to_string(),
                        "-j",
                        "bench",
                        "lpm",
                        "--prefixes",
                        &prefixes.display().to_string(),
                        "--keys",
                        &keys.display().to_string(),
                    ],
                )?;
                push(&mut rates, "Margay", at, number(&answer, "lookups_per_second")?);
                own_load.push(number(&answer, "load_seconds")?);
                let digest = text(&answer, "digest").unwrap_or_default();
                memory = format!(
                    "image {:.2} MiB, in all {:.2} MiB",
                    number(&answer, "image_bytes")? / 1048576.0,
                    number(&answer, "bytes")? / 1048576.0
                );
                let Some(server) = &mut server else { continue };
                for line in server.run(&keys)? {
                    let method = text(&line, "result").unwrap_or_default();
                    let theirs = text(&line, "digest").unwrap_or_default();
                    if theirs != digest {
                        return Err(Failure(format!(
                            "{method} found other prefixes: digest {theirs}, not {digest}"
                        )));
                    }
                    push(&mut rates, &method, at, number(&line, "lookups_per_second")?);
                }
            }
        }
        print_family(family, &rates, &memory, median(&own_load), &loads);
        chart.push((family, best(&rates)));
    }
    println!(
        "\n### Updates\n\n| | median | p99 | look-up speed lost under 10,000 updates a second |\n|---|---|---|---|"
    );
    for line in output(&helper, &["updates"])?.lines() {
        println!(
            "| IPv{} | {:.2} µs | {:.2} µs | {:.1} % (at {:.0} a second) |",
            text(line, "family").unwrap_or_default(),
            number(line, "median")? * 1e6,
            number(line, "p99")? * 1e6,
            number(line, "lost")? * 100.0,
            number(line, "rate")?,
        );
    }
    let path = run::root().join("docs/lpm.svg");
    fs::create_dir_all(run::root().join("docs"))
        .and_then(|()| fs::write(&path, svg(&chart)))
        .map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    println!("\nchart: docs/lpm.svg");
    Ok(())
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

/// Medians in M look-ups a second: Margay's and, for each model, the best peer's.
fn best(rates: &Rates) -> [(f64, f64); 4] {
    std::array::from_fn(|model| {
        let of = |ours: bool| {
            let rates = rates.iter().filter(|(name, _)| (name == "Margay") == ours);
            rates
                .map(|(_, rates)| median(&rates[model]) / 1e6)
                .fold(0.0, f64::max)
        };
        (of(true), of(false))
    })
}

fn print_family(family: &str, rates: &Rates, memory: &str, load: f64, loads: &[(String, f64)]) {
    println!("\n### IPv{family}: M look-ups a second, medians\n");
    println!("| | {} | load |\n|---|---|---|---|---|---|", MODELS.join(" | "));
    for (method, values) in rates {
        let cells: Vec<String> = values
            .iter()
            .map(|rates| format!("{:.0}", median(rates) / 1e6))
            .collect();
        let load = match loads.iter().find(|(name, _)| name == method) {
            Some((_, load)) => format!("{load:.2} s"),
            None if method == "Margay" => format!("{load:.3} s"),
            None => "shared".into(),
        };
        println!("| {method} | {} | {load} |", cells.join(" | "));
    }
    let best = best(rates);
    if best.iter().all(|(_, theirs)| *theirs > 0.0) {
        let ratios = best.map(|(ours, theirs)| ours / theirs);
        let mean = ratios.iter().product::<f64>().powf(0.25);
        println!(
            "| **ratio to the best peer** | {} | geometric mean {mean:.2} × |",
            ratios.map(|ratio| format!("{ratio:.2} ×")).join(" | ")
        );
    }
    println!("\nMargay: {memory}.");
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(0.0)
}

/// The peer program, loaded and waiting for keys.
struct Peer {
    child: Child,
    input: ChildStdin,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Peer {
    fn start(
        program: &Path,
        folder: &Path,
        family: &str,
        loads: &mut Vec<(String, f64)>,
    ) -> Result<Self, Failure> {
        // Huge pages where the kernel has some (they help the 64 MiB tables), else without.
        let free = fs::read_to_string("/proc/sys/vm/nr_hugepages")
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let pages: &[&str] = if free.unwrap_or(0) >= 1_000 {
            &["--in-memory"]
        } else {
            &["--no-huge"]
        };
        let mut child = run::command(&program.display().to_string())
            .args(pages)
            .args([
                "-m",
                "1900",
                "--no-pci",
                "--no-telemetry",
                "--force-max-simd-bitwidth=512",
            ])
            .args(["--log-level=error", "-l", &core(), "--"])
            .arg(folder.join("prefixes.txt"))
            .arg(family)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure(format!("{}: {error}", program.display())))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(Failure("the peer has no pipes".into()));
        };
        eprintln!("loading DPDK's tables for IPv{family} (rte_lpm takes most of a minute)");
        let mut peer = Self {
            child,
            input,
            lines: BufReader::new(output).lines(),
        };
        for line in peer.until("\"ready\"")? {
            loads.push((
                text(&line, "loaded").unwrap_or_default(),
                number(&line, "load_seconds")?,
            ));
        }
        Ok(peer)
    }

    /// The lines up to the one that holds `end`.
    fn until(&mut self, end: &str) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        loop {
            match self.lines.next() {
                Some(Ok(line)) if line.contains(end) => return Ok(lines),
                Some(Ok(line)) => lines.push(line),
                _ => return Err(Failure("the peer ended early; it has said why".into())),
            }
        }
    }

    fn run(&mut self, keys: &Path) -> Result<Vec<String>, Failure> {
        writeln!(self.input, "run {}", keys.display())
            .map_err(|error| Failure(format!("the peer: {error}")))?;
        self.until("\"done\"")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "quit");
        let _ = self.child.wait();
    }
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

/// A bar chart: for each family and model, Margay beside the best peer.
fn svg(families: &[(&str, [(f64, f64); 4])]) -> String {
    const WIDTH: usize = 760;
    const ROW: usize = 44;
    const LEFT: usize = 130;
    let greatest = families
        .iter()
        .flat_map(|(_, bars)| bars)
        .flat_map(|(a, b)| [*a, *b])
        .fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - 90) as f64 / greatest;
    let height = 60 + families.len() * MODELS.len() * ROW;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"15\">Route look-ups, M a second on one core (full table)</text>\n\
         <rect x=\"{LEFT}\" y=\"34\" width=\"12\" height=\"12\" fill=\"#b5651d\"/><text x=\"{}\" y=\"45\">Margay</text>\n\
         <rect x=\"{}\" y=\"34\" width=\"12\" height=\"12\" fill=\"#9aa5b1\"/><text x=\"{}\" y=\"45\">best DPDK method</text>\n",
        LEFT + 18,
        LEFT + 90,
        LEFT + 108,
    );
    let mut y = 58;
    for (family, bars) in families {
        for (model, (ours, theirs)) in MODELS.iter().zip(bars) {
            let _ = writeln!(out, "<text x=\"10\" y=\"{}\">IPv{family} {model}</text>", y + 22);
            for (line, (rate, colour)) in [(ours, "#b5651d"), (theirs, "#9aa5b1")].into_iter().enumerate() {
                let (top, width) = (y + line * 17, rate * scale);
                let _ = writeln!(
                    out,
                    "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"15\" fill=\"{colour}\"/>\
                     <text x=\"{:.1}\" y=\"{}\">{rate:.0}</text>",
                    LEFT as f64 + width + 6.0,
                    top + 12,
                );
            }
            y += ROW;
        }
    }
    out + "</svg>\n"
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
    fn the_chart_has_two_bars_a_model() {
        let chart = svg(&[("4", [(1.0, 2.0); 4]), ("6", [(3.0, 4.0); 4])]);
        // The background, the legend's two, and two for each of eight rows.
        assert_eq!(chart.matches("<rect").count(), 1 + 2 + 16);
    }
}
