//! `drops last`, `drops watch`, `trace` and `capture`: what is asked of the daemon, and what becomes of its lines.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use super::args::{CaptureCommand, Cli, DropsCommand};
use super::pcapng::Writer;
use super::print;
use super::run::{Exit, Failure, ask, show};
use crate::filter;
use crate::socket::{Client, ClientError, Code, ErrorBody, PointArg};

/// The words of a filter as one text, which is looked at here first: an error then shows where it is.
fn filter_text(cli: &Cli, words: &[String]) -> Result<String, ErrorBody> {
    let text = words.join(" ");
    match filter::parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let mut message = error.to_string();
            if !cli.json {
                message = format!("{message}\n{}", error.marked());
            }
            let body = ErrorBody::new(Code::BadArgument, message);
            Err(match error.hint {
                Some(hint) => body.hint(hint),
                None => body,
            })
        }
    }
}

pub(super) fn drops(cli: &Cli, out: &mut impl Write, reset: bool, command: Option<&DropsCommand>) -> Exit {
    match command {
        None => {
            let answer = ask(cli, "drops", json!({ "reset": reset }))?;
            show(cli, out, &answer, |out| print::drops(out, &answer))?;
        }
        Some(DropsCommand::Last { count, hex, filter }) => {
            let filter = filter_text(cli, filter)?;
            let answer = ask(cli, "drops last", json!({"count": count, "filter": filter}))?;
            show(cli, out, &answer, |out| print::drops_last(out, &answer, *hex))?;
        }
        Some(DropsCommand::Watch) => {
            lines(cli, "drops watch", json!({}), |line| {
                show(cli, out, line, |out| print::drops_watch(out, line))?;
                out.flush()?;
                Ok(())
            })?;
        }
    }
    Ok(0)
}

pub(super) fn trace(cli: &Cli, out: &mut impl Write, count: u64, words: &[String]) -> Exit {
    let args = json!({"count": count, "filter": filter_text(cli, words)?});
    lines(cli, "trace", args, |line| {
        if cli.json {
            writeln!(out, "{line}")?;
        } else {
            print::trace(out, line)?;
        }
        out.flush()?;
        Ok(())
    })?;
    Ok(0)
}

/// Hands each line of a stream to `each`, until either side ends.
fn lines(
    cli: &Cli,
    command: &str,
    args: Value,
    mut each: impl FnMut(&Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut client = Client::connect(&cli.socket)?;
    client.send(command, &args, true).map_err(ClientError::from)?;
    while let Some(line) = client.line()? {
        each(&line)?;
    }
    Ok(())
}

/// Where captured packets go.
enum Sink<'o, W: Write> {
    File(BufWriter<File>),
    Output(&'o mut W),
}

impl<W: Write> Write for Sink<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::File(file) => file.write(bytes),
            Sink::Output(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::File(file) => file.flush(),
            Sink::Output(out) => out.flush(),
        }
    }
}

pub(super) fn capture(cli: &Cli, out: &mut impl Write, command: &CaptureCommand) -> Exit {
    let filter = filter_text(cli, &command.filter)?;
    let at: Vec<PointArg> = command.at.iter().map(|at| (*at).into()).collect();
    let args = json!({
        "ports": command.port,
        "at": at,
        "count": command.count,
        "snap": command.snap,
        "filter": filter,
    });
    let to_output = command.write == Path::new("-");
    if to_output && !cli.json && io::stdout().is_terminal() {
        return Err(
            ErrorBody::new(Code::BadArgument, "a terminal cannot show a capture")
                .hint("write it to a file (-w FILE), or pipe it: margay capture … -w - | tshark -r -")
                .into(),
        );
    }
    let mut client = Client::connect(&cli.socket)?;
    client.send("capture", &args, true).map_err(ClientError::from)?;
    // The first line: from here on packets are captured. A refusal comes before a file is made.
    let Some(begin) = client.line()? else {
        return Err(ErrorBody::new(Code::NotReachable, "the daemon closed without an answer").into());
    };
    let sink = if to_output {
        Sink::Output(out)
    } else {
        let file = File::create(&command.write).map_err(|error| {
            ErrorBody::new(
                Code::Failed,
                format!("{} cannot be written: {error}", command.write.display()),
            )
        })?;
        Sink::File(BufWriter::new(file))
    };
    stop_on_interrupt(client.stream()?)?;
    let mut kept = Kept::new(cli, sink, begin)?;
    if !cli.json {
        eprintln!("capturing, until interrupted or the limit is reached");
    }
    let broken = loop {
        match client.line() {
            Ok(Some(event)) => kept.event(&event)?,
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
        if client.is_drained() {
            // Nothing more is here: whoever reads along sees what there is, and an end at any time leaves a whole file.
            kept.flush()?;
        }
    };
    let (packets, lost) = kept.finish()?;
    if let Some(error) = broken {
        return Err(error.into());
    }
    if !cli.json {
        eprintln!("{packets} packets captured, {lost} lost for want of room in the capture's ring");
    }
    Ok(0)
}

/// What is written: pcapng, or with `-j` the daemon's lines.
struct Kept<'o, W: Write> {
    json: bool,
    lines: Option<Sink<'o, W>>,
    blocks: Option<Writer<Sink<'o, W>>>,
    packets: u64,
    lost: u64,
}

impl<'o, W: Write> Kept<'o, W> {
    fn new(cli: &Cli, mut sink: Sink<'o, W>, begin: Value) -> Result<Self, Failure> {
        let (mut lines, mut blocks) = (None, None);
        if cli.json {
            writeln!(sink, "{begin}")?;
            lines = Some(sink);
        } else {
            let snap = begin["snap"].as_u64().unwrap_or(0) as u32;
            blocks = Some(Writer::new(sink, snap)?);
        }
        let mut kept = Self {
            json: cli.json,
            lines,
            blocks,
            packets: 0,
            lost: 0,
        };
        kept.flush()?;
        Ok(kept)
    }

    fn event(&mut self, event: &Value) -> Result<(), Failure> {
        if let Some(lines) = &mut self.lines {
            writeln!(lines, "{event}")?;
        }
        if event["event"] == "packet" {
            self.packets += 1;
            if let Some(blocks) = &mut self.blocks {
                blocks.packet(event)?;
            }
        } else {
            let lost = event["lost"].as_u64().unwrap_or(0);
            if event["event"] == "lost" && lost > self.lost && !self.json {
                eprintln!("{lost} packets lost so far for want of room in the capture's ring");
            }
            self.lost = lost;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        match (&mut self.lines, &mut self.blocks) {
            (Some(lines), _) => lines.flush(),
            (_, Some(blocks)) => blocks.flush(),
            _ => Ok(()),
        }
    }

    fn finish(mut self) -> io::Result<(u64, u64)> {
        self.flush()?;
        if let Some(blocks) = self.blocks.take() {
            blocks.finish(self.lost)?;
        }
        Ok((self.packets, self.lost))
    }
}

/// On SIGINT and SIGTERM the stream ends: what has come in is written, and the file gets its end.
fn stop_on_interrupt(stream: UnixStream) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut terminate) = signal(SignalKind::terminate()) else {
                return;
            };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            // An error means that the stream has ended already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
    });
    Ok(())
}
