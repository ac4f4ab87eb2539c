//! Milliseconds from `margay acl reload` to the first packet that a rule just added lets through, in a running margayd.

use std::thread;
use std::time::Duration;

use crate::acl_sets::{self, Rule};
use crate::command::wait_for;
use crate::figures::Prober;
use crate::lab::Lab;
use crate::router::Margayd;
use crate::sink::Sink;
use crate::{Error, Result, report, sys};

/// Time between two packets of the stream: the resolution of the figure.
const INTERVAL: Duration = Duration::from_micros(100);

/// The rule that comes and goes: the probe's packets, which no rule of the sets matches.
const ADDED: Rule = Rule {
    src: (u32::from_be_bytes([198, 18, 0, 2]), 32),
    dst: (u32::from_be_bytes([198, 19, 128, 1]), 32),
    sport: (0, u16::MAX),
    dport: (0, u16::MAX),
    proto: (17, 0xff),
};

/// For each ClassBench set of 10 k rules, as the list of a port: the median and the greatest of `trials` times from the call
/// of `margay acl reload`, with one rule more in the file, to the first packet behind the router. The stream is on its way
/// all the time and is dropped until then; the clock includes the start of the command.
///
/// # Errors
/// No namespaces (root needed), no data, a daemon that fails.
pub fn measure(trials: usize) -> Result<String> {
    let lab = Lab::new()?;
    lab.resolve()?;
    let margayd = Margayd::start(&lab, "adaptive")?;
    let sink = Sink::attach(&lab.sink(), "s0", lab.routed(), true)?;
    let prober = Prober::start(&lab, vec![lab.traffic(false, 64).frame()?], Some(INTERVAL))?;
    let mut rows = Vec::new();
    for base in ["acl1", "fw1", "ipc1"] {
        let Some(text) = acl_sets::classbench(&format!("{base}_10k.rules")) else {
            continue;
        };
        let mut rules = acl_sets::parse(&text).map_err(Error::new)?;
        // A few wide rules match the probe: without them, the default drops it.
        let inside = |(addr, len): (u32, u8), probe: u32| {
            (addr ^ probe).checked_shr(32 - u32::from(len)).unwrap_or(0) == 0
        };
        rules.retain(|rule| {
            let matches = (rule.proto.0 ^ ADDED.proto.0) & rule.proto.1 == 0;
            !(matches && inside(rule.src, ADDED.src.0) && inside(rule.dst, ADDED.dst.0))
        });
        let without = acl_sets::print_list("set", &rules);
        rules.insert(rules.len() / 2, ADDED);
        let with = acl_sets::print_list("set", &rules);
        let mut millis = Vec::new();
        for _ in 0..trials {
            margayd.write_list("set", &without)?;
            margayd.cli("acl reload")?;
            margayd.cli("port set r0 --acl-ingress set")?;
            wait_for("the rule is gone", Duration::from_secs(5), || {
                sink.reset()?;
                thread::sleep(Duration::from_millis(10));
                Ok(sink.seen()?.good == 0)
            })?;
            margayd.write_list("set", &with)?;
            let start = sys::monotonic_ns();
            margayd.cli("acl reload")?;
            let first = sink.first_ns(&format!("{base}: the rule"), || prober.check())?;
            millis.push(first.saturating_sub(start) as f64 / 1e6);
        }
        rows.push(vec![
            format!("{base}_10k"),
            report::thousands(rules.len() as f64),
            format!("{:.1}", report::median(&millis)),
            format!("{:.1}", report::quantile(&millis, 1.0)),
        ]);
    }
    Ok(report::table(&["list", "rules", "median ms", "worst ms"], &rows))
}
