//! The daemon's end: accepts clients, reads bounded requests, hands them to the control loop and writes answers.
//!
//! Each client is a task of its own. A client that sends half a request, garbage, or reads slowly keeps only its own
//! task waiting and costs at most one request's bytes; the control loop sees whole, valid requests only.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::time::timeout;

use super::request::too_large;
use super::{Code, Dump, ErrorBody, MAX_CLIENTS, MAX_REQUEST, MonitorKind, Request, parse_request};

/// How long the rest of a begun request may take.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long a client may take without reading a single byte of its answer.
const STALLED: Duration = Duration::from_secs(60);
/// How long bytes behind a refused request are read and thrown away.
const DISCARD: Duration = Duration::from_millis(500);
/// Lines of a stream that are written together.
const BATCH: usize = 64;
/// Requests that wait for the control loop; further clients wait before sending theirs on.
const QUEUE: usize = 64;

/// What the control loop answers.
#[derive(Debug)]
pub enum Answer {
    /// One object.
    Value(Value),
    /// One object, rendered already.
    Dump(Arc<Dump>),
    /// Lines until either side closes; only those of the named kinds, all when none is named.
    Stream(broadcast::Receiver<Arc<(MonitorKind, String)>>, Vec<MonitorKind>),
    /// Lines for this client alone, until either side ends. A client that reads slowly fills the channel: whoever sends
    /// notices.
    Lines(mpsc::Receiver<String>),
    /// An error.
    Error(ErrorBody),
}

impl From<Result<Value, ErrorBody>> for Answer {
    fn from(result: Result<Value, ErrorBody>) -> Self {
        match result {
            Ok(value) => Answer::Value(value),
            Err(error) => Answer::Error(error),
        }
    }
}

/// A request on its way to the control loop.
#[derive(Debug)]
pub struct Incoming {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes; the client may be gone.
    pub reply: oneshot::Sender<Answer>,
}

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error(
        "a daemon answers on {} already; stop it, or give this one another path",
        .0.display()
    )]
    Live(PathBuf),
    /// The path is something that is not a socket.
    #[error(
        "{} exists and is not a socket; remove it or choose another path",
        .0.display()
    )]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("the socket {} cannot be opened: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The listening socket. The file is removed when it is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
}

impl Server {
    /// Whether a daemon answers on the path.
    pub fn is_live(path: &Path) -> bool {
        std::os::unix::net::UnixStream::connect(path).is_ok()
    }

    /// Opens the socket with mode 0660 and begins to serve; a stale socket file is replaced. Call it inside a tokio
    /// runtime. Requests arrive at the receiver.
    pub fn bind(path: &Path) -> Result<(Server, mpsc::Receiver<Incoming>), BindError> {
        let listener = bind_unix(path)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(accept(listener, sender));
        Ok((
            Server {
                path: path.to_owned(),
            },
            receiver,
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens on a Unix socket with mode 0660; a stale socket file is replaced. Call it inside a tokio runtime.
pub(crate) fn bind_unix(path: &Path) -> Result<UnixListener, BindError> {
    let io_error = |source| BindError::Io {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io_error)?;
    }
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        use std::os::unix::fs::FileTypeExt;
        if !metadata.file_type().is_socket() {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        if Server::is_live(path) {
            return Err(BindError::Live(path.to_owned()));
        }
    }
    // Bound under another name and moved: nobody can connect before the mode is set, and a stale file is
    // replaced in one step.
    let new = path.with_extension(format!("{}", std::process::id()));
    let _ = std::fs::remove_file(&new);
    let listener = std::os::unix::net::UnixListener::bind(&new).map_err(io_error)?;
    let prepared = std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o660))
        .and_then(|()| std::fs::rename(&new, path))
        .and_then(|()| listener.set_nonblocking(true))
        .and_then(|()| UnixListener::from_std(listener));
    prepared.map_err(|error| {
        let _ = std::fs::remove_file(&new);
        io_error(error)
    })
}

async fn accept(listener: UnixListener, requests: mpsc::Sender<Incoming>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: they come back when clients leave.
                tracing::warn!("control socket: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            let busy = ErrorBody::new(Code::Busy, format!("{MAX_CLIENTS} clients are connected already"));
            // What fits into the socket's buffer is written at once; nobody waits for it.
            let _ = stream.try_write(&busy.line());
            continue;
        };
        let requests = requests.clone();
        tokio::spawn(async move {
            let _place = place;
            let (reader, writer) = stream.into_split();
            serve(BufReader::new(reader), writer, requests).await;
        });
    }
}

/// Why reading a request ended without one.
enum Ended {
    /// The client closed, or failed.
    Closed,
    /// It sent something that cannot be answered further.
    Refused(ErrorBody),
}

/// Serves one client until it leaves.
pub(super) async fn serve<R, W>(mut reader: R, mut writer: W, requests: mpsc::Sender<Incoming>)
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let line = match read_request(&mut reader).await {
            Ok(line) => line,
            Err(Ended::Closed) => return,
            Err(Ended::Refused(error)) => {
                if write(&mut writer, &error.line()).await.is_ok() {
                    discard(&mut reader).await;
                }
                return;
            }
        };
        let answer = match parse_request(&line) {
            Err(error) => Answer::Error(error),
            Ok(request) => {
                let (reply, answer) = oneshot::channel();
                let gone = || Answer::Error(ErrorBody::new(Code::NotReady, "the daemon is ending"));
                match requests.send(Incoming { request, reply }).await {
                    Err(_) => gone(),
                    Ok(()) => answer.await.unwrap_or_else(|_| gone()),
                }
            }
        };
        let written = match answer {
            Answer::Value(value) => {
                let mut line = value.to_string().into_bytes();
                line.push(b'\n');
                write(&mut writer, &line).await
            }
            Answer::Error(error) => write(&mut writer, &error.line()).await,
            Answer::Dump(dump) => write_dump(&mut writer, &dump).await,
            Answer::Stream(events, kinds) => {
                stream(&mut reader, &mut writer, events, &kinds).await;
                return;
            }
            Answer::Lines(lines) => {
                pass_on(&mut reader, &mut writer, lines).await;
                return;
            }
        };
        if written.is_err() {
            return;
        }
    }
}

/// Reads up to the end of a line, or to the end of the stream behind the last byte of a request without one.
async fn read_request<R: AsyncBufRead + Unpin>(reader: &mut R) -> Result<Vec<u8>, Ended> {
    // An idle client may wait as long as it likes: it costs a task and no buffer.
    match reader.fill_buf().await {
        Ok(bytes) if !bytes.is_empty() => {}
        _ => return Err(Ended::Closed),
    }
    let mut line = Vec::new();
    let rest = async {
        loop {
            let bytes = reader.fill_buf().await.map_err(|_| Ended::Closed)?;
            if bytes.is_empty() {
                return if line.is_empty() {
                    Err(Ended::Closed)
                } else {
                    Ok(())
                };
            }
            let (taken, ended) = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end, true),
                None => (bytes.len(), false),
            };
            if line.len() + taken > MAX_REQUEST {
                return Err(Ended::Refused(too_large()));
            }
            line.extend_from_slice(&bytes[..taken]);
            reader.consume(taken + usize::from(ended));
            if ended {
                return Ok(());
            }
        }
    };
    match timeout(REQUEST_TIME, rest).await {
        Ok(result) => result.map(|()| line),
        Err(_) => Err(Ended::Refused(ErrorBody::new(
            Code::BadRequest,
            format!("the request was not complete after {} s", REQUEST_TIME.as_secs()),
        ))),
    }
}

/// Reads on for a moment. A Unix socket that is closed with bytes unread resets the connection, and the client would
/// see that instead of the error it was just told.
async fn discard<R: AsyncBufRead + Unpin>(reader: &mut R) {
    let _ = timeout(DISCARD, async {
        while let Ok(bytes) = reader.fill_buf().await {
            let length = bytes.len();
            if length == 0 {
                break;
            }
            reader.consume(length);
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Writes all bytes; a client that takes none of them for [`STALLED`] is let go.
async fn write<W: AsyncWrite + Unpin>(writer: &mut W, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(STALLED, writer.write(bytes))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
    }
    Ok(())
}

async fn write_dump<W: AsyncWrite + Unpin>(writer: &mut W, dump: &Dump) -> io::Result<()> {
    for piece in dump.pieces() {
        write(writer, piece).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn stream<R, W>(
    reader: &mut R,
    writer: &mut W,
    mut events: broadcast::Receiver<Arc<(MonitorKind, String)>>,
    kinds: &[MonitorKind],
) where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut ignored = [0u8; 256];
    loop {
        let line = tokio::select! {
            event = events.recv() => match event {
                Ok(event) if kinds.is_empty() || kinds.contains(&event.0) => format!("{}\n", event.1),
                Ok(_) => continue,
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    // The client reads slower than things happen: it is told how much it has missed.
                    let lost = serde_json::json!({"schema": "margay.monitor/1", "event": "lost", "count": count});
                    format!("{lost}\n")
                }
                Err(broadcast::error::RecvError::Closed) => return,
            },
            read = reader.read(&mut ignored) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            },
        };
        if write(writer, line.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Writes lines until there are no more or the client has closed.
async fn pass_on<R, W>(reader: &mut R, writer: &mut W, mut lines: mpsc::Receiver<String>)
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut ignored = [0u8; 256];
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            taken = lines.recv_many(&mut batch, BATCH) => if taken == 0 { return },
            read = reader.read(&mut ignored) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            },
        }
        // What has come in meanwhile goes out together.
        let bytes = batch.concat();
        batch.clear();
        if write(writer, bytes.as_bytes()).await.is_err() {
            return;
        }
    }
}
