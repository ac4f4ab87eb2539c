//! Access lists next to DPDK's `rte_acl`: one table, one chart.
//!
//! ```text
//! cargo xtask bench acl [--quick] [--search SECONDS] [--only SUBSTRING]
//! ```
//! Sets: ClassBench at 1 k and 10 k rules as they are, 100 k rules grown from the 10 k sets, and all of these for IPv6; keys of
//! our own, misses among them. Both programs look the same keys up in bursts of 64, in turn: the peer builds a set once and
//! waits while Margay is measured. The table holds medians of the rounds. The peer's program is named by `ACL_PEER`; without
//! it only our figures are printed. Then, with `--only sets` alone, the list over large sets, and with `--only reload` alone,
//! a rule added to the list of a running margayd. Formats, growing and keys: `benches/src/acl_sets.rs`.
//!
//! `--search` gives the seconds of CPU time that each set is searched for slow traffic, from what was found before on; an
//! interrupt ends a search early. The steps go to standard error, in the format of `benches/src/acl_worst.txt`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use benches::acl_peer::Peer;
use benches::acl_sets::{self, classbench, shared};
use benches::acl_table::{Row, chart, table};
use benches::{Context, Error, Result, acl_large_sets, acl_reload, acl_worst, report, sys};
use clap::Parser;
use classifier::acl::{Image, Limits, List};
use classifier::packet::Headers;
use control::bench::acl::{Key, parse_keys, parse_rules, rate};

/// Rounds in turn for the medians.
const ROUNDS: usize = 7;
/// Short measurements in a round, of which the best counts.
const SHOTS: usize = 12;

/// Measures access lists next to `rte_acl` and prints Markdown.
#[derive(Parser)]
struct Options {
    /// Only the IPv4 sets of 1 k and 10 k rules, in three rounds.
    #[arg(long)]
    quick: bool,
    /// CPU seconds of search for the slowest traffic of each IPv4 set, beside the traffic that is known.
    #[arg(long, default_value_t = 0.0)]
    search: f64,
    /// Only sets whose names contain this; `sets`: the list over large sets; `reload`: a rule added to a running margayd.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> ExitCode {
    sys::catch_interrupts();
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench acl: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(o: &Options) -> Result<()> {
    let work = std::env::temp_dir().join(format!("margay-acl-{}", std::process::id()));
    std::fs::create_dir_all(&work).context("a temporary folder")?;
    let rows = sets(o, &work);
    let _ = std::fs::remove_dir_all(&work);
    let rows = rows?;
    if !rows.is_empty() {
        println!("{}", table(&rows));
    }
    let all = o.only.is_empty() && !o.quick;
    if all || o.only == "sets" {
        let prefixes = shared("prefixes.txt").ok_or_else(|| Error::new("no prefixes"))?;
        println!("{}\n", acl_large_sets::measure(&prefixes)?);
    }
    if all || o.only == "reload" {
        println!(
            "One rule added to a list, from `margay acl reload` to the first packet that it lets through:\n"
        );
        println!("{}", acl_reload::measure(11)?);
    }
    if all {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/acl.svg");
        std::fs::write(&path, chart(&rows)).context("docs/acl.svg")?;
        eprintln!("chart: docs/acl.svg");
    }
    Ok(())
}

fn sets(o: &Options, work: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (size, count) in [("1k", 0), ("10k", 0), ("100k", 100_000)] {
        for base in ["acl1", "fw1", "ipc1"] {
            let wanted: Vec<(bool, String)> = [(false, ""), (true, "-v6")]
                .into_iter()
                .map(|(ipv6, suffix)| (ipv6, format!("{base}_{size}{suffix}")))
                .filter(|(ipv6, name)| name.contains(&o.only) && !(o.quick && (*ipv6 || count > 0)))
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let source = if count == 0 { size } else { "10k" };
            let text = classbench(&format!("{base}_{source}.rules"))
                .ok_or_else(|| Error::new("no ClassBench sets"))?;
            let parsed = acl_sets::parse(&text).map_err(Error::new)?;
            let rules = if count == 0 {
                parsed
            } else {
                acl_sets::grow(&parsed, count, 1)
            };
            let keys = acl_sets::keys(&rules, (2 * rules.len()).min(100_000), 2);
            let expected = acl_sets::expected(&rules, &keys);
            for (ipv6, name) in wanted {
                sys::check_interrupt()?;
                let (rules_path, keys_path) = (work.join("rules"), work.join("keys"));
                let rules_text = acl_sets::print_rules(&rules, ipv6);
                let keys_text = acl_sets::print_keys(&keys, &expected, ipv6);
                std::fs::write(&rules_path, &rules_text).context("writing rules")?;
                std::fs::write(&keys_path, &keys_text).context("writing keys")?;
                let list = parse_rules(&rules_text, &rules_path).map_err(|e| Error::new(e.to_string()))?;
                let keys = parse_keys(&keys_text, &keys_path).map_err(|e| Error::new(e.to_string()))?;
                // A peer that cannot build a set leaves its columns empty; the others go on.
                let peer = Peer::start(&rules_path, &keys_path, SHOTS).unwrap_or_else(|e| {
                    eprintln!("{name}: no figures of the peer: {e}");
                    None
                });
                let row = measure(name, &list, &keys, peer, o)?;
                eprintln!("{}", row.line());
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

fn measure(name: String, list: &List, keys: &[Key], mut peer: Option<Peer>, o: &Options) -> Result<Row> {
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
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..if o.quick { 3 } else { ROUNDS } {
        ours.push(rate(&image, &headers, SHOTS));
        if let Some(peer) = &mut peer {
            theirs.push(peer.round()?);
        }
    }
    // The forms that the search has to find the weak places of are the same for IPv6.
    let search = if name.ends_with("-v6") { 0.0 } else { o.search };
    let worst = acl_worst::worst(&name, &image, list, &headers, search);
    if let Some(search) = worst.search {
        eprintln!("# {:.0} s, {} steps tried", search.seconds, search.tried);
        let steps: Vec<String> = search.steps.iter().map(u64::to_string).collect();
        eprintln!("{name}: {}", steps.join(" "));
    }
    Ok(Row {
        name,
        rules: list.rules.len(),
        ours: report::median(&ours),
        peer: peer.as_ref().map(|_| report::median(&theirs)),
        build,
        peer_build: peer.as_ref().map(|p| p.build),
        bytes: image.image_bytes(),
        peer_bytes: peer.as_ref().map(|p| p.bytes),
        wrong,
        worst: worst.share,
        worst_name: worst.name,
    })
}
