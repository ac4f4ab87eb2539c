//! Traffic files and update figures for `cargo xtask bench lpm`.
//!
//! `lpm traffic DIR` writes `prefixes.txt` and the keys of each model and family; `lpm updates` prints what single
//! updates cost, one JSON object a family.

use std::path::Path;

use benches::lpm::{Ip, KEYS, Model, source, updates, write_keys};
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
            for (family, figures) in [("4", updates(&routes.v4)), ("6", updates(&routes.v6))] {
                println!(
                    "{}",
                    serde_json::json!({
                        "family": family,
                        "median": figures.median,
                        "p99": figures.p99,
                        "lost": figures.lost,
                        "rate": figures.rate,
                    })
                );
            }
        }
        _ => return Err("usage: lpm traffic DIR | lpm updates".into()),
    }
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
