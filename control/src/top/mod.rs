//! `margay top`: what the data plane does, live. The daemon tells counters once an interval; rates are made and drawn here.

mod rates;
mod sample;
mod terminal;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::{Value, json};

use crate::socket::{Client, ClientError, Code, ErrorBody};

pub use rates::Rates;
pub use sample::{Drop, Port, Rule, Sample, TOP_RULES, Tables, Worker};
pub use view::{Header, draw};

/// How long a key waits at most.
const KEYS: Duration = Duration::from_millis(50);

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Time between two samples.
    pub interval: Duration,
    /// End after so many; never for `None`.
    pub count: Option<u64>,
}

/// Why `top` ended otherwise than by a key.
#[derive(Debug)]
pub enum Ended {
    /// The daemon answered with an error, or is gone.
    Daemon(ErrorBody),
    /// The terminal or the output cannot be written.
    Output(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Ended::Output(error)
    }
}

fn lost(error: ClientError) -> ErrorBody {
    match error {
        ClientError::Answered(error) => error,
        ClientError::Io(error) => ErrorBody::new(Code::NotReachable, format!("the daemon is gone: {error}")),
    }
}

/// Asks the daemon again and again, on a thread of its own, so that keys work while it does not answer. A sample that
/// nobody has taken yet keeps the next one waiting: a slow terminal sees fewer of them, never old ones.
fn samples(socket: &Path, options: Options) -> Result<Receiver<Result<Value, ErrorBody>>, ErrorBody> {
    let mut client = Client::connect(socket)?;
    let (sender, receiver) = mpsc::sync_channel(0);
    std::thread::spawn(move || {
        let mut taken = 0;
        loop {
            let answer = client.ask("top", &json!({})).map_err(lost);
            let is_last = answer.is_err() || options.count.is_some_and(|count| taken + 1 >= count);
            taken += 1;
            if sender.send(answer).is_err() || is_last {
                return;
            }
            std::thread::sleep(options.interval);
        }
    });
    Ok(receiver)
}

/// Prints a sample a line, as JSON, until the count is reached or the daemon ends.
///
/// # Errors
/// The daemon is not reachable or ends; the output cannot be written.
pub fn print(socket: &Path, options: Options, out: &mut impl Write) -> Result<(), Ended> {
    for sample in samples(socket, options).map_err(Ended::Daemon)? {
        writeln!(out, "{}", sample.map_err(Ended::Daemon)?)?;
        out.flush()?;
    }
    Ok(())
}

/// Shows the view on the terminal until `q`, escape, ctrl-c or a signal.
///
/// # Errors
/// There is no terminal; the daemon is not reachable or ends. The terminal is as it was before.
pub fn run(socket: &Path, options: Options) -> Result<(), Ended> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let error = ErrorBody::new(Code::BadArgument, "top needs a terminal")
            .hint("`margay -j top` prints samples as JSON");
        return Err(Ended::Daemon(error));
    }
    let receiver = samples(socket, options).map_err(Ended::Daemon)?;
    let mut screen = terminal::Screen::open()?;
    let mut before: Option<Sample> = None;
    let mut rates: Option<Rates> = None;
    let mut answered = Instant::now();
    loop {
        match receiver.recv_timeout(KEYS) {
            Ok(Ok(answer)) => {
                answered = Instant::now();
                let sample: Sample = serde_json::from_value(answer).map_err(|error| {
                    let text = format!("the daemon is of another version: {error}");
                    Ended::Daemon(ErrorBody::new(Code::Failed, text))
                })?;
                if let Some(before) = &before {
                    rates = Some(Rates::between(before, &sample));
                }
                before = Some(sample);
            }
            Ok(Err(error)) => return Err(Ended::Daemon(error)),
            Err(RecvTimeoutError::Timeout) => {}
            // As many samples as were asked for.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let late = answered.elapsed();
        let silent = (late > options.interval * 3 + Duration::from_secs(1)).then_some(late.as_secs());
        screen
            .terminal
            .draw(|frame| draw(frame, rates.as_ref(), Header { silent }))?;
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()?
                && ends(key)
            {
                return Ok(());
            }
        }
        if screen.is_ended() {
            return Ok(());
        }
    }
}

/// Whether a key ends the view.
fn ends(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind != KeyEventKind::Release
        && (matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc)
            || control && matches!(key.code, KeyCode::Char('c' | 'd')))
}
