//! Writes rule sets and keys for the access-list benchmarks to a folder.
//!
//! `acl_sets BASE COUNT SEED OUT`: grows the ClassBench set BASE to COUNT rules (0: takes it as it is), draws two keys
//! a rule (at most 200,000) and writes OUT.rules, OUT.keys, OUT-v6.rules, OUT-v6.keys.

use std::process::ExitCode;

use benches::acl_sets::{expected, grow, keys, parse, print_keys, print_rules};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("acl_sets: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), String> {
    let [base, count, seed, out] = args else {
        return Err("usage: acl_sets BASE COUNT SEED OUT".into());
    };
    let number = |text: &String| {
        text.parse::<u64>()
            .map_err(|_| format!("`{text}` is not a number"))
    };
    let (count, seed) = (number(count)? as usize, number(seed)?);
    let text = std::fs::read_to_string(base).map_err(|e| format!("{base}: {e}"))?;
    let base_rules = parse(&text).map_err(|e| format!("{base}: {e}"))?;
    let rules = if count == 0 {
        base_rules
    } else {
        grow(&base_rules, count, seed)
    };
    if rules.is_empty() {
        return Err(format!("{base}: no rules"));
    }
    let keys = keys(&rules, (2 * rules.len()).min(200_000), seed ^ 0x6b65_7973);
    let expected = expected(&rules, &keys);
    let write = |suffix: &str, text: String| {
        let path = format!("{out}{suffix}");
        std::fs::write(&path, text).map_err(|e| format!("{path}: {e}"))
    };
    write(".rules", print_rules(&rules, false))?;
    write(".keys", print_keys(&keys, &expected, false))?;
    write("-v6.rules", print_rules(&rules, true))?;
    write("-v6.keys", print_keys(&keys, &expected, true))
}
