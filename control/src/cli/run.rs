//! Each command: what it asks the daemon, and what it prints.

use std::io::{self, BufRead, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::args::{AclCommand, BenchCommand, Cli, Command, ConfigCommand, Flow, PortCommand, RouteCommand};
use super::{check, flow, print, stream, watch};
use crate::config;
use crate::guard;
use crate::socket::{Client, ClientError, Code, ErrorBody};
use crate::top;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// To be reported.
    Error(ErrorBody),
    /// The output cannot be written.
    Output(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

impl From<ErrorBody> for Failure {
    fn from(error: ErrorBody) -> Self {
        Failure::Error(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure::Error(match error {
            ClientError::Answered(error) => error,
            ClientError::Io(error) => ErrorBody::new(
                Code::NotReachable,
                format!("the connection to the daemon broke: {error}"),
            ),
        })
    }
}

impl From<top::Ended> for Failure {
    fn from(ended: top::Ended) -> Self {
        match ended {
            top::Ended::Daemon(error) => Failure::Error(error),
            top::Ended::Output(error) => Failure::Output(error),
        }
    }
}

pub(super) type Exit = Result<u8, Failure>;

/// Runs one command; what it prints goes to `out`.
pub(super) fn run(cli: &Cli, out: &mut impl Write) -> Exit {
    match &cli.command {
        Command::Status { ready } => {
            let answer = ask(cli, "status", json!({}))?;
            show(cli, out, &answer, |out| {
                print::status(out, &answer, cli.statistics)
            })?;
            Ok(if *ready && answer["ready"] != true {
                Code::NotMet.exit()
            } else {
                0
            })
        }
        Command::Doctor { port } => {
            let answer = ask(cli, "doctor", named("port", port.as_ref()))?;
            show(cli, out, &answer, |out| print::doctor(out, &answer))?;
            let failed = rows(&answer, "checks")
                .iter()
                .any(|check| check["result"] == "fail");
            Ok(u8::from(failed))
        }
        Command::Top { delay, count } => {
            let options = top::Options {
                interval: *delay,
                count: *count,
            };
            if cli.json {
                top::print(&cli.socket, options, out)?;
            } else {
                top::run(&cli.socket, options)?;
            }
            Ok(0)
        }
        Command::Release { port, .. } => release(cli, out, port.as_deref()),
        Command::Port { command } => match command {
            None => port_show(cli, out, None),
            Some(PortCommand::Show { name }) => port_show(cli, out, name.as_ref()),
            Some(PortCommand::Set {
                name,
                acl_ingress,
                acl_egress,
                default,
            }) => {
                if acl_ingress.is_none() && acl_egress.is_none() && !default {
                    return Err(ErrorBody::new(
                        Code::BadArgument,
                        "name what is to be set: --acl-ingress, --acl-egress or --default",
                    )
                    .into());
                }
                let mut args = json!({"name": name, "default": default});
                if let Some(list) = acl_ingress {
                    args["acl_ingress"] = json!(list);
                }
                if let Some(list) = acl_egress {
                    args["acl_egress"] = json!(list);
                }
                let answer = ask(cli, "port set", args)?;
                show(cli, out, &answer, |out| print::port_set(out, &answer))?;
                Ok(0)
            }
        },
        Command::Route { command } => match command {
            None => route_show(cli, out, None, false),
            Some(RouteCommand::Show(args)) => route_show(cli, out, args.table, args.diff_kernel),
            Some(RouteCommand::Get { address, port }) => {
                let mut args = json!({ "address": address });
                if let Some(port) = port {
                    args["in"] = json!(port);
                }
                let answer = ask(cli, "route get", args)?;
                show(cli, out, &answer, |out| print::route_get(out, &answer))?;
                Ok(0)
            }
        },
        Command::Neigh { .. } => {
            let answer = ask(cli, "neigh show", with_family(cli, json!({})))?;
            show(cli, out, &answer, |out| print::neighbours(out, &answer))?;
            Ok(0)
        }
        Command::Nexthop { .. } => {
            let answer = ask(cli, "nexthop show", json!({}))?;
            show(cli, out, &answer, |out| print::groups(out, &answer))?;
            Ok(0)
        }
        Command::Acl { command } => match command {
            None => acl_show(cli, out, None),
            Some(AclCommand::Show { name }) => acl_show(cli, out, name.as_ref()),
            Some(AclCommand::Check { files }) => {
                findings(cli, out, &check::acl_files(files), "margay.acl-check/1")
            }
            Some(AclCommand::Reload) => {
                let answer = ask(cli, "acl reload", json!({}))?;
                show(cli, out, &answer, |out| print::acl_reload(out, &answer))?;
                Ok(0)
            }
        },
        Command::Drops { reset, command } => watch::drops(cli, out, *reset, command.as_ref()),
        Command::Trace { count, filter } => watch::trace(cli, out, *count, filter),
        Command::Capture(command) => watch::capture(cli, out, command),
        Command::Explain { flow, cases } => match cases {
            None => explain(cli, out, flow),
            Some(file) => explain_cases(cli, out, file),
        },
        Command::Monitor { kinds } => {
            let kinds: Vec<crate::socket::MonitorKind> = kinds.iter().map(|kind| (*kind).into()).collect();
            monitor(cli, out, &json!({ "kinds": kinds }))
        }
        Command::Bench { command } => bench(cli, command),
        Command::Config { command } => match command {
            ConfigCommand::Check { file } => {
                findings(cli, out, &check::configuration(file), "margay.config-check/1")
            }
            ConfigCommand::Diff { file } => config_diff(cli, out, file),
            ConfigCommand::Show => {
                let answer = ask(cli, "config show", json!({}))?;
                show(cli, out, &answer, |out| print::config(out, &answer))?;
                Ok(0)
            }
        },
    }
}

pub(super) fn ask(cli: &Cli, command: &str, args: Value) -> Result<Value, Failure> {
    Ok(Client::connect(&cli.socket)?.ask(command, &args)?)
}

/// Prints an answer: as it came with `-j`, else by `text`.
pub(super) fn show<W: Write>(
    cli: &Cli,
    out: &mut W,
    answer: &Value,
    text: impl FnOnce(&mut W) -> io::Result<()>,
) -> Result<(), Failure> {
    if cli.json {
        writeln!(out, "{answer}")?;
    } else {
        text(out)?;
    }
    Ok(())
}

fn rows<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn named(key: &str, name: Option<&String>) -> Value {
    match name {
        Some(name) => json!({ key: name }),
        None => json!({}),
    }
}

fn with_family(cli: &Cli, mut args: Value) -> Value {
    if let Some(family) = cli.family() {
        args["family"] = json!(family);
    }
    args
}

fn port_show(cli: &Cli, out: &mut impl Write, name: Option<&String>) -> Exit {
    let answer = ask(cli, "port show", named("name", name))?;
    show(cli, out, &answer, |out| {
        print::ports(out, &answer, cli.statistics)
    })?;
    Ok(0)
}

fn acl_show(cli: &Cli, out: &mut impl Write, name: Option<&String>) -> Exit {
    let answer = ask(cli, "acl show", named("name", name))?;
    let rules = cli.statistics || name.is_some();
    show(cli, out, &answer, |out| print::lists(out, &answer, rules))?;
    Ok(0)
}

fn route_show(cli: &Cli, out: &mut impl Write, table: Option<u32>, diff_kernel: bool) -> Exit {
    let mut args = with_family(cli, json!({}));
    if let Some(table) = table {
        args["table"] = json!(table);
    }
    if diff_kernel {
        args["diff_kernel"] = json!(true);
        let answer = ask(cli, "route show", args)?;
        show(cli, out, &answer, |out| print::differences(out, &answer))?;
        let same = rows(&answer, "differences").is_empty();
        return Ok(if same { 0 } else { Code::NotMet.exit() });
    }
    let mut client = Client::connect(&cli.socket)?;
    client
        .send("route show", &args, false)
        .map_err(ClientError::from)?;
    // A full table is a hundred megabytes: it is passed on as it comes.
    let is_error = client
        .reader()
        .fill_buf()
        .map_err(ClientError::from)?
        .starts_with(br#"{"schema":"margay.error/"#);
    if is_error {
        client.line()?;
        return Ok(Code::Failed.exit());
    }
    if cli.json {
        io::copy(&mut LineOf::new(client.reader()), out)?;
        return Ok(0);
    }
    let mut printed = Ok(());
    let mut table = print::RouteTable::new(out);
    let head = stream::rows(LineOf::new(client.reader()), "routes", |row| {
        if printed.is_ok() {
            printed = table.row(&row);
        }
    });
    printed?;
    table.finish()?;
    let _: Map<String, Value> = head.map_err(|error| {
        ErrorBody::new(
            Code::NotReachable,
            format!("the daemon's answer broke off: {error}"),
        )
    })?;
    Ok(0)
}

/// Reads up to and including the end of one line.
struct LineOf<'r, R> {
    reader: &'r mut R,
    ended: bool,
}

impl<'r, R: BufRead> LineOf<'r, R> {
    fn new(reader: &'r mut R) -> Self {
        Self { reader, ended: false }
    }
}

impl<R: BufRead> io::Read for LineOf<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let bytes = self.reader.fill_buf()?;
        let mut length = bytes.len().min(buffer.len());
        if let Some(end) = bytes[..length].iter().position(|byte| *byte == b'\n') {
            length = end + 1;
            self.ended = true;
        }
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.reader.consume(length);
        Ok(length)
    }
}

fn monitor(cli: &Cli, out: &mut impl Write, args: &Value) -> Exit {
    let mut client = Client::connect(&cli.socket)?;
    client.send("monitor", args, true).map_err(ClientError::from)?;
    while let Some(event) = client.line()? {
        if cli.json {
            writeln!(out, "{event}")?;
        } else {
            print::event(out, &event)?;
        }
        out.flush()?;
    }
    Ok(0)
}

fn findings(cli: &Cli, out: &mut impl Write, findings: &check::Findings, schema: &str) -> Exit {
    if cli.json {
        writeln!(out, "{}", findings.json(schema))?;
    } else {
        // A pipe to another program gets what was asked for; what is wrong goes where errors go.
        let mut stderr = io::stderr().lock();
        for line in findings.lines() {
            writeln!(stderr, "{line}")?;
        }
        writeln!(
            out,
            "{} errors, {} warnings",
            findings.errors.len(),
            findings.warnings.len()
        )?;
    }
    Ok(if findings.errors.is_empty() {
        0
    } else {
        Code::BadConfiguration.exit()
    })
}

/// The daemon is asked when it lives, so that it does not put the guard back; else the table is changed right here.
fn release(cli: &Cli, out: &mut impl Write, port: Option<&str>) -> Exit {
    let args = named("port", port.map(str::to_owned).as_ref());
    let answer = match Client::connect(&cli.socket) {
        Ok(mut client) => client.ask("release", &args)?,
        Err(error) if error.code == Code::NotReachable => {
            let released = guard::release(port).map_err(|error| guard_error(&error))?;
            json!({"schema": "margay.release/1", "released": released})
        }
        Err(error) => return Err(error.into()),
    };
    show(cli, out, &answer, |out| print::release(out, &answer))?;
    Ok(0)
}

/// The guard's errors as the contract's.
pub(crate) fn guard_error(error: &guard::Error) -> ErrorBody {
    let code = match error {
        guard::Error::NotPermitted(_) => Code::NotPermitted,
        guard::Error::NotGuarded(_) => Code::NotFound,
        guard::Error::Missing | guard::Error::Failed(_) => Code::Failed,
    };
    ErrorBody::new(code, error.to_string()).hint(error.hint())
}

fn config_diff(cli: &Cli, out: &mut impl Write, file: &Path) -> Exit {
    let loaded = config::load(file).map_err(|bad| ErrorBody::new(Code::BadConfiguration, bad.to_string()))?;
    let answer = ask(cli, "config show", json!({}))?;
    let differences = config::differences(&answer["config"], &loaded.config.effective());
    let same = differences.is_empty();
    let answer = json!({"schema": "margay.config-diff/1", "differences": differences});
    show(cli, out, &answer, |out| print::config_differences(out, &answer))?;
    Ok(if same { 0 } else { Code::NotMet.exit() })
}

fn explain(cli: &Cli, out: &mut impl Write, flow: &Flow) -> Exit {
    let answer = ask(cli, "explain", json!(flow::arguments(flow)?))?;
    show(cli, out, &answer, |out| print::explain(out, &answer))?;
    let met = flow.expect.is_none_or(|expect| flow::is_met(expect, &answer));
    Ok(if met { 0 } else { Code::NotMet.exit() })
}

/// Explains every case of a file and prints those that are not as expected; with `-j` all of them.
fn explain_cases(cli: &Cli, out: &mut impl Write, file: &Path) -> Exit {
    let cases = flow::read_cases(file)?;
    let mut client = Client::connect(&cli.socket)?;
    let mut rows = Vec::new();
    for (line, flow, expect) in &cases {
        let mut answer = client.ask("explain", &json!(flow::arguments(flow)?))?;
        answer["line"] = json!(line);
        answer["met"] = json!(flow::is_met(*expect, &answer));
        rows.push(answer);
    }
    let missed = rows.iter().filter(|row| row["met"] != true).count();
    let answer = json!({"schema": "margay.explain-cases/1", "cases": rows, "missed": missed});
    show(cli, out, &answer, |out| print::cases(out, file, &answer))?;
    Ok(if missed == 0 { 0 } else { Code::NotMet.exit() })
}

/// Each benchmark prints its own answer.
fn bench(cli: &Cli, command: &BenchCommand) -> Exit {
    let result = match command {
        BenchCommand::Acl { rules, keys } => crate::bench::acl::run(rules, keys, cli.json),
        BenchCommand::Lpm {
            prefixes,
            keys,
            engine,
        } => crate::bench::lpm::run(prefixes, keys, *engine, cli.json),
        BenchCommand::Forward {
            prefixes,
            rules,
            keys,
        } => crate::bench::forward::run(prefixes, rules, keys, cli.json),
    };
    result
        .map(|()| 0)
        .map_err(|error| Failure::Error(ErrorBody::new(Code::Failed, error.to_string())))
}
