//! The daemon: mirrors the kernel's tables and forwards by them.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use control::cli::check;
use control::socket::Code;

/// Forwards IPv4 and IPv6 between the ports of this node through AF_XDP, by the kernel's own tables.
///
/// Runs in the foreground and logs to standard error. SIGHUP reads configuration and access lists anew; a bad file
/// changes nothing. SIGTERM ends it with status 0 and leaves nothing in the kernel but the guard of closed ports,
/// which `margay release` takes away.
#[derive(Debug, Parser)]
#[command(
    name = "margayd",
    version,
    after_help = "Exit status: 0 ended by a signal, 1 failed, 2 usage, 3 not found, 5 not permitted, 6 bad configuration.\n\
                  The environment variable RUST_LOG chooses what is logged (error, warn, info, debug).\n\n\
                  Examples:\n  \
                  margayd --config /etc/margay/margay.toml\n  \
                  margayd --check --config /etc/margay/margay.toml"
)]
struct Arguments {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "/etc/margay/margay.toml")]
    config: PathBuf,
    /// Check the configuration and the access lists that it names, and exit
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.check {
        let findings = check::configuration(&arguments.config);
        for line in findings.lines() {
            eprintln!("{line}");
        }
        let exit = if findings.errors.is_empty() {
            0
        } else {
            Code::BadConfiguration.exit()
        };
        return ExitCode::from(exit);
    }
    log_to_stderr();
    end_on_panic();
    match control::daemon::run(&arguments.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            if let Some(hint) = &error.hint {
                tracing::error!("hint: {hint}");
            }
            ExitCode::from(error.code.exit())
        }
    }
}

/// A node that forwards with half its threads would lose flows silently: whichever thread panics, the process ends.
fn end_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        let thread = std::thread::current();
        eprintln!(
            "margayd: thread {} has panicked (see above): the process ends, as half a data plane is none",
            thread.name().unwrap_or("without a name")
        );
        std::process::abort();
    }));
}

fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
