use clap::{CommandFactory, Parser};
use serde_json::json;

use super::args::{Cli, Command, PortCommand, RouteCommand};
use super::print;
use super::stream;

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn flags_stand_before_and_behind_the_command() {
    for line in [
        "margay -j -s -6 --socket /s route show --table 7",
        "margay route show --table 7 -6 -s --json --socket=/s",
        "margay ro sh --table 7 -6sj --socket /s",
    ] {
        let cli = parse(line);
        assert!(cli.json && cli.statistics, "{line}");
        assert_eq!(cli.family().map(u8::from), Some(6), "{line}");
        assert_eq!(cli.socket.to_str(), Some("/s"));
        let Command::Route {
            command: Some(RouteCommand::Show(args)),
        } = &cli.command
        else {
            panic!("{line}: {:?}", cli.command)
        };
        assert_eq!(args.table, Some(7));
    }
}

#[test]
fn a_noun_alone_shows() {
    for noun in ["port", "route", "neigh", "nexthop", "acl"] {
        parse(&format!("margay {noun}"));
        parse(&format!("margay {noun} show"));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for line in [
        "margay",
        "margay nonsense",
        "margay release",
        "margay release eth1 --all",
        "margay route get here",
        "margay acl check",
        "margay -4 -6 route show",
        "margay port set",
        "margay port set eth1 --default --acl-ingress x",
        "margay monitor packets",
        "margay explain --from 10.0.0.1 --in eth1",
        "margay explain --from 10.0.0.1 --to 10.0.0.2",
        "margay explain --cases x --from 10.0.0.1",
    ] {
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}

#[test]
fn an_empty_list_name_takes_the_list_away() {
    let cli = Cli::try_parse_from(["margay", "port", "set", "eth1", "--acl-egress", ""]).expect("valid");
    let Command::Port {
        command:
            Some(PortCommand::Set {
                acl_egress,
                acl_ingress,
                ..
            }),
    } = cli.command
    else {
        panic!("{:?}", cli.command)
    };
    assert_eq!((acl_ingress, acl_egress), (None, Some(String::new())));
}

#[test]
fn every_command_explains_itself() {
    fn walk(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{} {}",
                command.get_name(),
                argument.get_id()
            );
        }
        command.get_subcommands().for_each(walk);
    }
    Cli::command().get_subcommands().for_each(walk);
}

#[test]
fn rows_of_a_long_answer_are_read_one_by_one() {
    let text = br#"{"schema":"margay.route-show/1","routes":[{"prefix":"a"},{"prefix":"b"}],"more":1}"#;
    let mut seen = Vec::new();
    let head = stream::rows(&text[..], "routes", |row| seen.push(row)).expect("json");
    assert_eq!(seen, [json!({"prefix": "a"}), json!({"prefix": "b"})]);
    assert_eq!(head["more"], 1);
    assert!(stream::rows(&text[..50], "routes", |_| {}).is_err());
}

#[test]
fn routes_are_an_aligned_table() {
    let mut out = Vec::new();
    let mut table = print::RouteTable::new(&mut out);
    for route in [
        json!({"prefix": "10.0.0.0/24", "table": 254, "protocol": "static", "type": "unicast", "metric": 0,
               "nexthops": [{"via": "10.1.0.2", "dev": "eth1", "weight": 2, "neighbour": "reachable"},
                            {"via": null, "dev": "eth2", "weight": 1, "neighbour": ""}]}),
        json!({"prefix": "0.0.0.0/0", "table": 254, "protocol": "bird", "type": "blackhole", "metric": 20,
               "nexthops": []}),
    ] {
        table.row(&route).expect("row");
    }
    table.finish().expect("table");
    assert_eq!(
        String::from_utf8_lossy(&out),
        "PREFIX       TABLE  PROTOCOL  TYPE       METRIC  NEXT HOPS\n\
         10.0.0.0/24    254  static    unicast         0  via 10.1.0.2 dev eth1 weight 2 (reachable), dev eth2\n\
         0.0.0.0/0      254  bird      blackhole      20  -\n"
    );
}

#[test]
fn findings_of_a_check_have_the_shape_of_the_contract() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("margay.toml");
    std::fs::write(
        &file,
        "version = 1\n[[port]]\nname = \"eth1\"\nacl = { ingress = \"edge\" }\n",
    )
    .expect("written");
    let findings = super::check::configuration(&file);
    let answer = findings.json("margay.config-check/1");
    assert_eq!(answer["errors"], json!([]));
    let codes: Vec<_> = findings.warnings.iter().map(|warning| warning.code).collect();
    assert_eq!(codes, ["no_directory", "missing_list"]);
    for key in ["file", "line", "code", "message", "hint"] {
        assert!(!answer["warnings"][0][key].is_null(), "{key}");
    }
    std::fs::write(&file, "version = 1\nprots = 1\n").expect("written");
    let findings = super::check::configuration(&file);
    assert_eq!(
        (findings.errors[0].line, findings.errors[0].code),
        (2, "unknown_key")
    );
}
