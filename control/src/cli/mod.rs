//! The command line `margay`: arguments, and what becomes of them.
//!
//! Nearly every command is one request to the daemon's control socket and a way to print the answer. `bench`,
//! `acl check`, `config check` and, without a daemon, `release` work on their own.

mod args;
pub mod check;
mod flow;
mod pcapng;
mod print;
mod run;
mod stream;
mod subcommands;
mod table;
#[cfg(test)]
mod tests;
mod watch;

use std::ffi::OsString;
use std::io::Write;

use clap::Parser;

use crate::socket::{Code, ErrorBody};

pub use args::Cli;
pub(crate) use run::guard_error;

/// Runs the command line and answers the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&arguments, &error),
    };
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
    let result = run::run(&cli, &mut out);
    // What was printed before an error belongs before it.
    let flushed = out.flush();
    match result.and_then(|exit| flushed.map(|()| exit).map_err(run::Failure::from)) {
        Ok(exit) => exit,
        Err(run::Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(run::Failure::Output(error)) => {
            report(
                cli.json,
                &ErrorBody::new(Code::Failed, format!("the output cannot be written: {error}")),
            );
            1
        }
        Err(run::Failure::Error(error)) => {
            report(cli.json, &error);
            error.code.exit()
        }
    }
}

/// Prints an error to standard error: as text, or as JSON.
pub fn report(json: bool, error: &ErrorBody) {
    let mut stderr = std::io::stderr().lock();
    // Nobody is left to be told when standard error is closed.
    let _ = if json {
        stderr.write_all(&error.line())
    } else {
        let hint = error.hint.as_ref().map(|hint| format!("\nhint: {hint}"));
        writeln!(stderr, "margay: {}{}", error.message, hint.unwrap_or_default())
    };
}

fn usage(arguments: &[OsString], error: &clap::Error) -> u8 {
    use clap::error::ErrorKind;
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // The flags were not read, so the wish for JSON is looked up as it was written.
    let json = arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .any(|argument| argument == "-j" || argument == "--json");
    if json && !asked_for {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(message);
        report(true, &ErrorBody::new(Code::BadArgument, message));
    } else {
        let _ = error.print();
    }
    if asked_for { 0 } else { 2 }
}
