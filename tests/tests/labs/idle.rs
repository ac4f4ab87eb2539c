//! The adaptive profile: next to nothing when nothing arrives, and the first packet after a pause is not late. What is measured here is
//! printed; only what would be a mistake and no matter of speed is asserted.
//!
//! ```text
//!   a 10.65.0.2 ── cali-a r (margayd, adaptive) up0 ── u 203.0.113.1
//! ```

use std::time::{Duration, Instant};

use tests::lab::announce;
use tests::{Margay, wait_for};

use crate::common::{PORTS, node};

#[test]
fn sleeps_when_idle() {
    let Some(net) = node("idle") else { return };
    let a = net.container("a", 2);
    let margay = Margay::start(&net.lab, &net.r, PORTS);
    a.reaches("203.0.113.1");
    let process = margay.process();
    // Not less than two seconds of nothing; the best of several, because the kernel's own chatter may fall into one.
    let mut best = f64::MAX;
    wait_for(
        "a period in which margayd uses less than a fifth of a core",
        Duration::from_secs(30),
        || {
            let (start, cpu) = (Instant::now(), process.cpu_seconds());
            tests::never("margayd ends", Duration::from_secs(2), || {
                process.exited().is_some()
            });
            best = best.min((process.cpu_seconds() - cpu) / start.elapsed().as_secs_f64());
            if best < 0.2 {
                Ok(())
            } else {
                Err(format!("{:.1} % of a core", best * 100.0))
            }
        },
    );
    announce(&format!(
        "measured: an idle margayd uses {:.2} % of a core",
        best * 100.0
    ));
    a.reaches("203.0.113.1");
    margay.check_sums();
}
