//! The command line: looks into a running margayd and steers it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(control::cli::main(std::env::args_os()))
}
