//! Traffic files and update figures for `cargo xtask bench lpm`.
//!
//! `lpm traffic DIR` writes `prefixes.txt` and the keys of each model and family; `lpm updates` prints what single
//! updates cost and what look-ups lose to them, `lpm memory` what a full table takes, one JSON object a family.

use std::path::Path;

use benches::lpm::updates::{latency, loss};
use benches::lpm::{Ip, KEYS, Model, memory, source, write_keys};
use classifier::lpm::{Prefix, Value};
use control::bench::lpm::parse_prefixes;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let table = source();
    let routes = parse_prefixes(&table.text, Path::new(&table.origin))?;
    match words[..] {
        ["traffic", folder] => {
            let folder = Path::new(folder);
            std::fs::write(folder.join("prefixes.txt"), &table.text)?;
            traffic(folder, "4", &routes.v4)?;
            traffic(folder, "6", &routes.v6)?;
            println!(
                "{}",
                serde_json::json!({ "origin": table.origin, "ipv4": routes.v4.len(), "ipv6": routes.v6.len() })
            );
        }
        ["updates"] => {
            // Before any thread is pinned: that changes the count.
            let cores = std::thread::available_parallelism()?.get();
            if cores < 2 {
                return Err("updates are measured with a reader on a second core; there is one core".into());
            }
            cost("4", &routes.v4, (cores - 2, cores - 1))?;
            cost("6", &routes.v6, (cores - 2, cores - 1))?;
        }
        ["memory"] => {
            for (family, memory) in [("4", memory(&routes.v4)), ("6", memory(&routes.v6))] {
                println!(
                    "{}",
                    serde_json::json!({
                        "family": family,
                        "image": memory.image,
                        "image_of_256": memory.image_of_256,
                        "bytes": memory.bytes,
                    })
                );
            }
        }
        _ => return Err("usage: lpm traffic DIR | lpm updates | lpm memory".into()),
    }
    Ok(())
}

fn cost<A: Ip>(
    family: &str,
    routes: &[(Prefix<A>, Value)],
    (writer, reader): (usize, usize),
) -> Result<(), Box<dyn std::error::Error>> {
    let (latency, loss) = (latency(routes, writer, reader)?, loss(routes, writer, reader)?);
    println!(
        "{}",
        serde_json::json!({
            "family": family,
            "median": latency.median,
            "p99": latency.p99,
            "updates": latency.count,
            "lost": loss.lost,
            "rate": loss.rate,
        })
    );
    Ok(())
}

fn traffic<A: Ip>(folder: &Path, family: &str, routes: &[(Prefix<A>, Value)]) -> std::io::Result<()> {
    for model in Model::ALL {
        write_keys(
            &folder.join(format!("{}{family}", model.name())),
            &model.keys(routes, KEYS),
        )?;
    }
    Ok(())
}
