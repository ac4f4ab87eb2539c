//! `cargo xtask demo`: two hosts full of containers, a fabric between them, and BGP, in network namespaces of their own.
//!
//! ```text
//!   A 192.168.1.1 ─┐                                                              ┌─ D 192.168.1.4
//!   B 192.168.1.2 ─┼─ Host 1 ── 10.0.1.0/24 ── Fabric ── 10.0.2.0/24 ── Host 2 ───┤
//!   C 192.168.1.3 ─┘  margayd                  BIRD, BGP                margayd   └─ E 192.168.1.5
//!                     BIRD                     route reflector          BIRD
//! ```
//! Every container has a /32 (and an IPv6 /128) and sends everything to 169.254.1.1 (fe80::1), which its host answers on its end of the
//! veth pair. The hosts' kernels forward nothing: `ip_forward=0`.

mod net;
mod story;

use std::process::Command;
use std::time::Instant;

use crate::run::{self, Failure};
use crate::setup;

pub use net::down;

/// What happens to the network at the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is taken away.
    Remove,
    /// It stays up for a look around.
    Keep,
}

/// The command by which [`show`] runs the demo proper, as a child that may be interrupted.
pub const INNER: &str = "demo-inner";

/// Cleans up after the demo however it ends: the shell waits for it, and outlives Ctrl-C.
const GUARD: &str = r#"
trap : INT TERM HUP
"$0" demo-inner "$1"; status=$?
if [ "$1" != keep ] || [ $status != 0 ]; then "$0" demo --down || status=1; fi
exit $status
"#;

/// Installs, builds, and shows.
pub fn show(ending: Ending) -> Result<(), Failure> {
    run::need_root("the demo makes network namespaces and loads BPF programs")?;
    setup::install(&[setup::BUILD, setup::NETWORK, setup::DEMO])?;
    run::build_binaries()?;
    let this =
        std::env::current_exe().map_err(|error| Failure(format!("this program cannot be found: {error}")))?;
    let start = Instant::now();
    let ending_word = if ending == Ending::Keep { "keep" } else { "remove" };
    let status = Command::new("sh")
        .args(["-c", GUARD])
        .arg(this)
        .arg(ending_word)
        .status();
    let status = status.map_err(|error| Failure(format!("sh cannot be run: {error}")))?;
    if !status.success() {
        return Err(Failure(
            "the demo did not go to its end; what it printed says where it stopped".into(),
        ));
    }
    println!(
        "\nThe demo took {:.0} s after the build.",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The demo proper.
pub fn inner(ending: &str) -> Result<(), Failure> {
    net::down()?;
    let net = net::Net::build()?;
    let told = story::tell(&net);
    if told.is_err() {
        net.print_logs();
    } else if ending == "keep" {
        net.print_how_to_look_around();
    }
    told
}
