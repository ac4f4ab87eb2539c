use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::{broadcast, mpsc};

use super::*;

fn code(line: &[u8]) -> Code {
    parse_request(line).expect_err("refused").code
}

#[test]
fn requests_of_the_contract_are_understood() {
    for (line, expected) in [
        (r#"{"command": "status"}"#, Request::Status),
        (r#"{"command": "status", "args": {}}"#, Request::Status),
        (
            r#"{"command": "route show", "args": {"table": 254}}"#,
            Request::RouteShow(RouteShowArgs {
                table: Some(254),
                ..RouteShowArgs::default()
            }),
        ),
        (
            r#"{"command": "route get", "args": {"address": "2001:db8::1"}}"#,
            Request::RouteGet(RouteGetArgs {
                address: "2001:db8::1".parse().expect("address"),
                port: None,
            }),
        ),
        (
            r#"{"command": "route get", "args": {"address": "10.0.0.1", "in": "eth1"}}"#,
            Request::RouteGet(RouteGetArgs {
                address: "10.0.0.1".parse().expect("address"),
                port: Some("eth1".into()),
            }),
        ),
        (
            r#"{"command": "monitor", "args": {"kinds": ["route", "drop"]}}"#,
            Request::Monitor(vec![MonitorKind::Route, MonitorKind::Drop]),
        ),
        (
            r#"{"command": "neigh show", "args": {"family": 6}}"#,
            Request::NeighShow(Some(FamilyArg::V6)),
        ),
    ] {
        assert_eq!(parse_request(line.as_bytes()), Ok(expected), "{line}");
    }
}

#[test]
fn every_other_request_has_a_stable_code() {
    assert_eq!(code(b""), Code::BadRequest);
    assert_eq!(code(b"status"), Code::BadRequest);
    assert_eq!(code(b"[1, 2]"), Code::BadRequest);
    assert_eq!(code(b"{\"command\": \"status\", \"arg\": {}}"), Code::BadRequest);
    assert_eq!(code(b"\xff\xfe"), Code::BadRequest);
    assert_eq!(code("[".repeat(60_000).as_bytes()), Code::BadRequest);
    assert_eq!(code(br#"{"command": "reboot"}"#), Code::UnknownCommand);
    assert_eq!(
        code(br#"{"command": "route show", "args": {"tabel": 1}}"#),
        Code::BadArgument
    );
    assert_eq!(
        code(br#"{"command": "route get", "args": {"address": "nowhere"}}"#),
        Code::BadArgument
    );
    assert_eq!(code(br#"{"command": "route get"}"#), Code::BadArgument);
    assert_eq!(code(&vec![b' '; MAX_REQUEST + 1]), Code::RequestTooLarge);
    assert_eq!(Code::UnknownCommand.exit(), 2);
    assert_eq!(
        serde_json::to_value(Code::UnknownCommand).expect("json"),
        json!("unknown_command")
    );
}

proptest! {
    #[test]
    fn no_bytes_break_the_parser(line in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = parse_request(&line);
    }
}

/// A served client and the requests that reach the control loop, which answers with the request's text.
fn served() -> (DuplexStream, tokio::task::JoinHandle<usize>) {
    let (client, server) = tokio::io::duplex(4096);
    let (sender, mut receiver) = mpsc::channel::<Incoming>(4);
    let (reader, writer) = tokio::io::split(server);
    tokio::spawn(server::serve(BufReader::new(reader), writer, sender));
    let handled = tokio::spawn(async move {
        let mut count = 0;
        while let Some(incoming) = receiver.recv().await {
            count += 1;
            let text = format!("{:?}", incoming.request);
            let _ = incoming
                .reply
                .send(Answer::Value(json!({"schema": "margay.test/1", "request": text})));
        }
        count
    });
    (client, handled)
}

async fn answer(client: &mut BufReader<DuplexStream>) -> Value {
    let mut line = String::new();
    client.read_line(&mut line).await.expect("read");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[tokio::test]
async fn requests_in_pieces_and_in_bunches_are_answered_one_by_one() {
    let (client, handled) = served();
    let mut client = BufReader::new(client);
    for piece in [
        "{\"comm",
        "and\": \"sta",
        "tus\"}\n{\"command\": \"acl show\"}\n{\"co",
    ] {
        client.write_all(piece.as_bytes()).await.expect("write");
        tokio::task::yield_now().await;
    }
    assert_eq!(answer(&mut client).await["request"], "Status");
    assert_eq!(answer(&mut client).await["request"], "AclShow(None)");
    client
        .write_all(b"mmand\": \"nonsense\"}\n")
        .await
        .expect("write");
    assert_eq!(answer(&mut client).await["code"], "unknown_command");
    // An error does not end the connection.
    client
        .write_all(b"{\"command\": \"drops\"}\n")
        .await
        .expect("write");
    assert!(
        answer(&mut client).await["request"]
            .as_str()
            .is_some_and(|text| text.starts_with("Drops"))
    );
    drop(client);
    assert_eq!(handled.await.expect("loop"), 3);
}

#[tokio::test]
async fn an_oversized_request_is_refused_and_ends_the_connection() {
    let (client, handled) = served();
    let (mut reader, mut writer) = tokio::io::split(client);
    let flood = tokio::spawn(async move {
        // 1 MiB without a line end; writing fails once the server has closed.
        let _ = writer.write_all(&vec![b'x'; 1 << 20]).await;
    });
    let mut text = String::new();
    reader.read_to_string(&mut text).await.expect("read");
    let value: Value = serde_json::from_str(&text).expect("one line of JSON");
    assert_eq!(value["code"], "request_too_large");
    flood.await.expect("flood");
    assert_eq!(handled.await.expect("loop"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_half_sent_request_is_given_up() {
    let (client, handled) = served();
    let mut client = BufReader::new(client);
    client.write_all(b"{\"command\": ").await.expect("write");
    let value = answer(&mut client).await;
    assert_eq!(value["code"], "bad_request");
    let mut rest = Vec::new();
    assert_eq!(client.read_to_end(&mut rest).await.expect("read"), 0);
    assert_eq!(handled.await.expect("loop"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_let_go() {
    let (client, server) = tokio::io::duplex(1024);
    let (sender, mut receiver) = mpsc::channel::<Incoming>(4);
    let (reader, writer) = tokio::io::split(server);
    let task = tokio::spawn(server::serve(BufReader::new(reader), writer, sender));
    let (_reader, mut writer) = tokio::io::split(client);
    writer
        .write_all(b"{\"command\": \"route show\"}\n")
        .await
        .expect("write");
    let incoming = receiver.recv().await.expect("request");
    let mut dump = DumpWriter::new(&serde_json::Map::new(), "routes");
    for number in 0..10_000 {
        dump.row(&json!({ "prefix": number })).expect("row");
    }
    let dump = Arc::new(dump.finish());
    let _ = incoming.reply.send(Answer::Dump(Arc::clone(&dump)));
    tokio::time::timeout(Duration::from_secs(120), task)
        .await
        .expect("the client is let go")
        .expect("task");
    assert_eq!(Arc::strong_count(&dump), 1, "and its answer is freed");
}

#[tokio::test]
async fn a_stream_lasts_until_the_client_closes_and_tells_what_was_lost() {
    let (client, server) = tokio::io::duplex(1 << 16);
    let (sender, mut receiver) = mpsc::channel::<Incoming>(4);
    let (reader, writer) = tokio::io::split(server);
    let task = tokio::spawn(server::serve(BufReader::new(reader), writer, sender));
    let mut client = BufReader::new(client);
    client
        .write_all(b"{\"command\": \"monitor\", \"args\": {\"kinds\": [\"route\"]}}\n")
        .await
        .expect("write");
    let incoming = receiver.recv().await.expect("request");
    let (events, subscription) = broadcast::channel(4);
    for number in 0..6 {
        let kind = if number == 5 {
            MonitorKind::Link
        } else {
            MonitorKind::Route
        };
        let _ = events.send(Arc::new((kind, json!({ "number": number }).to_string())));
    }
    let _ = incoming
        .reply
        .send(Answer::Stream(subscription, vec![MonitorKind::Route]));
    assert_eq!(answer(&mut client).await["count"], 2);
    for number in [2, 3, 4] {
        assert_eq!(answer(&mut client).await["number"], number);
    }
    drop(client);
    task.await.expect("the task ends with its client");
}

#[test]
fn a_dump_is_one_line_of_json() {
    let mut head = serde_json::Map::new();
    head.insert("schema".into(), json!("margay.route-show/1"));
    let mut dump = DumpWriter::new(&head, "routes");
    for number in 0..5000 {
        dump.row(&json!({"prefix": format!("10.0.{}.{}/32", number / 256, number % 256)}))
            .expect("row");
    }
    let dump = dump.finish();
    assert!(dump.pieces().len() > 1);
    let line: Vec<u8> = dump.pieces().concat();
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    let value: Value = serde_json::from_slice(&line).expect("json");
    assert_eq!(value["schema"], "margay.route-show/1");
    assert_eq!(value["routes"].as_array().map(Vec::len), Some(5000));
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("margay.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("stale"));
    let (server, _requests) = Server::bind(&path).expect("stale is replaced");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("metadata").permissions());
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(Server::bind(&path), Err(BindError::Live(_))));
    drop(server);
    assert!(!path.exists());
    std::fs::write(&path, "x").expect("file");
    assert!(matches!(Server::bind(&path), Err(BindError::NotASocket(_))));
}
