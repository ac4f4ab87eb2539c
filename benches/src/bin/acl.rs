//! Access lists next to DPDK's `rte_acl`: one table, one chart.
//!
//! ```text
//! cargo xtask bench acl [--quick] [--search SECONDS] [--only SUBSTRING]
//! ```
//! Sets: ClassBench at 1 k and 10 k rules as they are with the keys that come with them and with keys of our own
//! (misses among them), 100 k rules grown from the 10 k sets, and all of these for IPv6. Both programs look the same keys
//! up in bursts of 64, in turn; the table holds medians of the rounds. The peer's program is named by `ACL_PEER`;
//! without it only our figures are printed. Formats, growing and keys: `benches/src/acl_sets.rs`.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use benches::acl_sets::{self, Rng};
use benches::acl_worst;
use benches::{Context, Error, Result};
use classifier::acl::{Image, Limits, List};
use classifier::packet::Headers;
use control::bench::acl::{Key, parse_keys, parse_rules, rate};

/// Rounds in turn for the medians.
const ROUNDS: usize = 7;
/// Short measurements in a round, of which the best counts.
const SHOTS: usize = 12;

struct Options {
    quick: bool,
    search: f64,
    only: String,
}

fn main() -> ExitCode {
    match options().and_then(|o| run(&o)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench acl: {e}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut o = Options {
        quick: false,
        search: 5.0,
        only: String::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || {
            args.next()
                .ok_or_else(|| Error::new(format!("{arg} needs a value")))
        };
        match arg.as_str() {
            "--quick" => o.quick = true,
            "--search" => {
                o.search = value()?
                    .parse()
                    .map_err(|_| Error::new("--search needs seconds"))?
            }
            "--only" => o.only = value()?,
            _ => {
                return Err(Error::new(
                    "usage: bench acl [--quick] [--search SECONDS] [--only SUBSTRING]",
                ));
            }
        }
    }
    Ok(o)
}

/// A line of the table.
struct Row {
    name: String,
    rules: usize,
    ours: f64,
    peer: Option<f64>,
    build: f64,
    peer_build: Option<f64>,
    bytes: usize,
    peer_bytes: Option<f64>,
    wrong: usize,
    worst: f64,
    worst_name: &'static str,
}

fn run(o: &Options) -> Result<()> {
    let folder = PathBuf::from(std::env::var_os("MARGAY_DATA").unwrap_or_else(|| "../shared/data".into()));
    let classbench = folder.join("classbench");
    if !classbench.is_dir() {
        return Err(Error::new(format!(
            "no ClassBench sets in {}: set MARGAY_DATA",
            classbench.display()
        )));
    }
    let work = std::env::temp_dir().join(format!("margay-acl-{}", std::process::id()));
    std::fs::create_dir_all(&work).context("a temporary folder")?;
    let result = sets(o, &folder, &classbench, &work);
    let _ = std::fs::remove_dir_all(&work);
    result
}

fn sets(o: &Options, folder: &Path, classbench: &Path, work: &Path) -> Result<()> {
    let mut rows = Vec::new();
    for (size, count) in [("1k", 0), ("10k", 0), ("100k", 100_000)] {
        for base in ["acl1", "fw1", "ipc1"] {
            let source = if count == 0 {
                format!("{base}_{size}")
            } else {
                format!("{base}_10k")
            };
            let text = gunzip(&classbench.join(format!("{source}.rules.gz")))?;
            let parsed = acl_sets::parse(&text).map_err(Error::new)?;
            let rules = if count == 0 {
                parsed
            } else {
                acl_sets::grow(&parsed, count, 1)
            };
            let keys = acl_sets::keys(&rules, (2 * rules.len()).min(100_000), 2);
            let expected = acl_sets::expected(&rules, &keys);
            for ipv6 in [false, true] {
                let name = format!("{base}_{size}{}", if ipv6 { "-v6" } else { "" });
                if !name.contains(&o.only) || o.quick && (ipv6 || count > 0) {
                    continue;
                }
                let (rules_path, keys_path) = (work.join("rules"), work.join("keys"));
                let rules_text = acl_sets::print_rules(&rules, ipv6);
                let keys_text = acl_sets::print_keys(&keys, &expected, ipv6);
                std::fs::write(&rules_path, &rules_text).context("writing rules")?;
                std::fs::write(&keys_path, &keys_text).context("writing keys")?;
                let list = parse_rules(&rules_text, &rules_path).map_err(|e| Error::new(e.to_string()))?;
                let keys = parse_keys(&keys_text, &keys_path).map_err(|e| Error::new(e.to_string()))?;
                let row = measure(name, &list, &keys, &rules_path, &keys_path, o)?;
                eprintln!("{}", line(&row));
                rows.push(row);
            }
        }
    }
    print(&rows);
    if o.only.is_empty() || "sets".contains(&o.only) {
        let prefixes = gunzip(&folder.join("prefixes.txt.gz"))?;
        println!("\n{}", benches::acl_large_sets::measure(&prefixes)?);
    }
    if o.only.is_empty() && !o.quick {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/acl.svg");
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).context("docs/")?;
        std::fs::write(&path, chart(&rows)).context("docs/acl.svg")?;
        eprintln!("chart: docs/acl.svg");
    }
    Ok(())
}

fn measure(
    name: String,
    list: &List,
    keys: &[Key],
    rules_path: &Path,
    keys_path: &Path,
    o: &Options,
) -> Result<Row> {
    let mut build = f64::MAX;
    let mut image = None;
    for _ in 0..3 {
        let start = Instant::now();
        let compiled = Image::compile(list, &Limits::default()).map_err(|e| Error::new(e.to_string()))?;
        build = build.min(start.elapsed().as_secs_f64());
        image = Some(compiled);
    }
    let image = image.ok_or_else(|| Error::new("not compiled"))?;
    let headers: Vec<Headers> = keys.iter().map(|k| k.headers).collect();
    let wrong = keys
        .iter()
        .filter(|k| image.classify(&k.headers).rule != k.expected)
        .count();
    // A peer that cannot build a set leaves its columns empty; the others go on.
    let mut peer = Peer::start(rules_path, keys_path).unwrap_or_else(|e| {
        eprintln!("{name}: no figures of the peer: {e}");
        None
    });
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..if o.quick { 3 } else { ROUNDS } {
        ours.push(rate(&image, &headers, SHOTS));
        if let Some(peer) = &mut peer {
            theirs.push(peer.round()?);
        }
    }
    let average = median(&mut ours);
    let (worst_name, worst) = acl_worst::worst(&image, list, &headers, o.search, &mut Rng(3));
    Ok(Row {
        name,
        rules: list.rules.len(),
        ours: average,
        peer: peer.as_ref().map(|_| median(&mut theirs)),
        build,
        peer_build: peer.as_ref().map(|p| p.build),
        bytes: image.image_bytes(),
        peer_bytes: peer.as_ref().map(|p| p.bytes),
        wrong,
        worst,
        worst_name,
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The peer's process, which measures a round whenever it is asked.
struct Peer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    build: f64,
    bytes: f64,
}

impl Peer {
    fn start(rules: &Path, keys: &Path) -> Result<Option<Peer>> {
        let Some(program) = std::env::var_os("ACL_PEER") else {
            return Ok(None);
        };
        let mut child = Command::new(program)
            .arg(rules)
            .arg(keys)
            .args([&SHOTS.to_string(), "3", "serve"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the peer")?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| Error::new("the peer has no output"))?;
        let mut peer = Peer {
            child,
            lines: BufReader::new(stdout).lines(),
            build: 0.0,
            bytes: 0.0,
        };
        loop {
            let line = peer.line()?;
            if line == "ready" {
                return Ok(Some(peer));
            }
            let answer: serde_json::Value = serde_json::from_str(&line).context("the peer's answer")?;
            let field = |name: &str| answer[name].as_f64().unwrap_or(0.0);
            if field("mismatches") != 0.0 {
                return Err(Error::new(format!("the peer finds other rules: {line}")));
            }
            (peer.build, peer.bytes) = (field("load_seconds"), field("bytes"));
        }
    }

    fn line(&mut self) -> Result<String> {
        let line = self.lines.next().ok_or_else(|| Error::new("the peer ended"))?;
        line.context("the peer's output")
    }

    fn round(&mut self) -> Result<f64> {
        let stdin = self
            .child
            .stdin
            .as_mut()
            .ok_or_else(|| Error::new("the peer has no input"))?;
        stdin.write_all(b"\n").context("asking the peer")?;
        stdin.flush().context("asking the peer")?;
        let line = self.line()?;
        line.parse()
            .map_err(|_| Error::new(format!("the peer answered {line}")))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn line(r: &Row) -> String {
    let ratio = r.peer.map_or("–".into(), |p| format!("{:.2}", r.ours / p));
    let number = |v: Option<f64>, scale: f64, digits: usize| {
        v.map_or("–".into(), |v| format!("{:.digits$}", v / scale))
    };
    format!(
        "| {} | {} | {:.1} | {} | {ratio} | {:.3} | {} | {:.1} | {} | {} | {:.2} ({}) |",
        r.name,
        r.rules,
        r.ours / 1e6,
        number(r.peer, 1e6, 1),
        r.build,
        number(r.peer_build, 1.0, 2),
        r.bytes as f64 / 1048576.0,
        number(r.peer_bytes, 1048576.0, 1),
        r.wrong,
        r.worst / r.ours,
        r.worst_name
    )
}

fn print(rows: &[Row]) {
    println!(
        "| set | rules | Margay M/s | rte_acl M/s | ratio | build s | rte_acl | MiB | rte_acl | mismatches | worst / average |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        println!("{}", line(row));
    }
    for (what, family) in [("IPv4", false), ("IPv6", true)] {
        for sizes in [&["_1k", "_10k"][..], &["_100k"][..]] {
            let ratios: Vec<f64> = rows
                .iter()
                .filter(|r| {
                    r.name.ends_with("-v6") == family
                        && sizes.iter().any(|s| r.name.trim_end_matches("-v6").ends_with(s))
                })
                .filter_map(|r| r.peer.map(|p| r.ours / p))
                .collect();
            if !ratios.is_empty() {
                let mean = (ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64).exp();
                let least = ratios.iter().copied().fold(f64::MAX, f64::min);
                println!(
                    "\n{what} {}: geometric mean {mean:.2} ×, least {least:.2} ×",
                    sizes.join(" ").replace('_', "")
                );
            }
        }
    }
}

/// A bar chart of the sets that the peer was measured with.
fn chart(rows: &[Row]) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|r| r.peer.is_some()).collect();
    let most = rows
        .iter()
        .map(|r| r.ours.max(r.peer.unwrap_or(0.0)))
        .fold(1.0, f64::max);
    let height = 46 + rows.len() * 34;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"760\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Classifications a second, one core, bursts of 64: Margay and DPDK's rte_acl (best method)</text>\n"
    );
    for (i, r) in rows.iter().enumerate() {
        let y = 36 + i * 34;
        let width = |v: f64| v / most * 520.0;
        let peer = r.peer.unwrap_or(0.0);
        let _ = write!(
            out,
            "<text x=\"120\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"128\" y=\"{y}\" width=\"{:.1}\" height=\"13\" fill=\"#b5651d\"/><text x=\"{:.1}\" y=\"{}\">{:.0} M/s</text>\n\
             <rect x=\"128\" y=\"{}\" width=\"{:.1}\" height=\"13\" fill=\"#9aa5b1\"/><text x=\"{:.1}\" y=\"{}\">{:.0} M/s</text>\n",
            y + 18,
            r.name,
            width(r.ours),
            134.0 + width(r.ours),
            y + 11,
            r.ours / 1e6,
            y + 14,
            width(peer),
            134.0 + width(peer),
            y + 25,
            peer / 1e6
        );
    }
    out + "</svg>\n"
}

fn gunzip(path: &Path) -> Result<String> {
    let file = std::fs::File::open(path).context(path.display())?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text)
        .context(path.display())?;
    Ok(text)
}
