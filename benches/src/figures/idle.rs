//! Processor time that an idle margayd takes.

use std::fs;
use std::time::{Duration, Instant};

use crate::command::pause;
use crate::lab::Lab;
use crate::router::Margayd;
use crate::{Context, Error, Result};

/// Ticks of `/proc/PID/stat` in a second (USER_HZ, 100 on every Linux architecture that margayd runs on).
const TICKS: f64 = 100.0;

/// Seconds of processor time of a process, all threads, user and system (`proc_pid_stat(5)`, fields 14 and 15).
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).context(&path)?;
    // The name in parentheses may hold blanks; field 3 stands behind it.
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok((user + system) / TICKS),
        _ => Err(Error::new(format!("{path} cannot be read"))),
    }
}

/// Share of a core that an idle margayd takes with two ports, one worker and the given profile, in percent.
pub fn measure(lab: &Lab, profile: &str, time: Duration) -> Result<f64> {
    let margayd = Margayd::start(lab, profile)?;
    // Router and neighbour discovery of the new links comes first.
    pause(Duration::from_secs(3))?;
    let (before, start) = (cpu_seconds(margayd.pid())?, Instant::now());
    pause(time)?;
    let used = cpu_seconds(margayd.pid())? - before;
    Ok(used / start.elapsed().as_secs_f64() * 100.0)
}
