//! Serving the metrics over HTTP, on loopback or a Unix socket. One request a connection; everything is bounded: clients at
//! a time, the head's bytes, the time that it may take to come, and the time that a client may read nothing.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::http::{MAX_HEAD, Refusal, Wanted, request};
use super::sample::Sample;
use super::text::{CONTENT_TYPE, render};
use crate::config::Listen;
use crate::socket::{BindError, bind_unix};

/// Clients at a time.
const MAX_CLIENTS: usize = 8;
/// How long a request's head may take to come.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long a client may read nothing of its answer.
const STALLED: Duration = Duration::from_secs(10);

/// What the server has answered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Served {
    /// Scrapes.
    pub scrapes: u64,
    /// Refused requests, by `Refusal as usize`.
    pub refused: [u64; Refusal::ALL.len()],
}

/// Counters of [`Served`] as the clients' tasks write them.
#[derive(Debug, Default)]
struct Counts {
    scrapes: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
}

/// A listening server. The file of a Unix socket is removed when it is dropped.
#[derive(Debug)]
pub struct Server {
    file: Option<PathBuf>,
    counts: Arc<Counts>,
}

/// Where the control thread puts a sample.
pub type Reply = oneshot::Sender<Sample>;

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Server {
    /// Opens the socket and begins to serve. Call it inside a tokio runtime. Each scrape asks for a sample at `samples`.
    ///
    /// # Errors
    /// The address is in use, or the path cannot be used.
    pub fn bind(listen: &Listen, samples: mpsc::Sender<Reply>) -> Result<Self, BindError> {
        let (listener, file) = match listen {
            Listen::Tcp(address) => {
                let bind = || {
                    let listener = std::net::TcpListener::bind(address)?;
                    listener.set_nonblocking(true)?;
                    TcpListener::from_std(listener)
                };
                let listener = bind().map_err(|source| BindError::Io {
                    path: PathBuf::from(address.to_string()),
                    source,
                })?;
                (Listener::Tcp(listener), None)
            }
            Listen::Unix(path) => (Listener::Unix(bind_unix(path)?), Some(path.clone())),
        };
        let counts = Arc::<Counts>::default();
        tokio::spawn(accept(listener, samples, Arc::clone(&counts)));
        Ok(Self { file, counts })
    }

    /// What has been answered so far.
    pub fn served(&self) -> Served {
        Served {
            scrapes: self.counts.scrapes.load(Relaxed),
            refused: std::array::from_fn(|refusal| self.counts.refused[refusal].load(Relaxed)),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn accept(listener: Listener, samples: mpsc::Sender<Reply>, counts: Arc<Counts>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let accepted: io::Result<Box<dyn Stream>> = match &listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Box::new(stream) as _),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Box::new(stream) as _),
        };
        let mut stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("metrics: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (samples, counts) = (samples.clone(), Arc::clone(&counts));
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            counts.refused[Refusal::Busy as usize].fetch_add(1, Relaxed);
            // It fits into the socket's buffer: nobody waits for the client.
            let _ = timeout(
                Duration::from_millis(1),
                stream.write_all(&refusal(Refusal::Busy)),
            )
            .await;
            continue;
        };
        tokio::spawn(async move {
            let _place = place;
            serve(stream, samples, &counts).await;
        });
    }
}

async fn serve(mut stream: impl Stream, samples: mpsc::Sender<Reply>, counts: &Counts) {
    let wanted = match timeout(HEAD_TIME, head(&mut stream)).await {
        Ok(Ok(wanted)) => wanted,
        // The client has left.
        Ok(Err(_)) => return,
        Err(_) => Err(Refusal::Timeout),
    };
    let answer = match wanted {
        Ok(wanted) => {
            let (reply, sample) = oneshot::channel();
            let sample = match samples.send(reply).await {
                Ok(()) => sample.await.ok(),
                Err(_) => None,
            };
            // A text of megabytes is not written on the thread that mirrors the kernel.
            let text = match sample {
                Some(sample) => tokio::task::spawn_blocking(|| render(sample)).await,
                None => return,
            };
            let Ok(Ok(text)) = text else { return };
            counts.scrapes.fetch_add(1, Relaxed);
            let body = if wanted == Wanted::Head { "" } else { &text };
            response("200 OK", CONTENT_TYPE, text.len(), body)
        }
        Err(why) => {
            counts.refused[why as usize].fetch_add(1, Relaxed);
            refusal(why)
        }
    };
    let mut bytes = answer.as_slice();
    while !bytes.is_empty() {
        match timeout(STALLED, stream.write(bytes)).await {
            Ok(Ok(written)) if written > 0 => bytes = &bytes[written..],
            _ => return,
        }
    }
    // A socket that is closed with bytes unread resets the connection, and the client would not see its answer.
    let _ = stream.shutdown().await;
    let mut rest = [0; 1024];
    let mut left = 64 * MAX_HEAD;
    while let Ok(Ok(read)) = timeout(Duration::from_millis(200), stream.read(&mut rest)).await {
        left = left.saturating_sub(read);
        if read == 0 || left == 0 {
            break;
        }
    }
}

/// Reads until the head is complete, or is known to be bad.
async fn head(stream: &mut impl Stream) -> io::Result<Result<Wanted, Refusal>> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let room = MAX_HEAD - bytes.len();
        if (&mut *stream).take(room as u64).read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(wanted) = request(&bytes) {
            return Ok(wanted);
        }
    }
}

fn refusal(why: Refusal) -> Vec<u8> {
    let body = format!("{}: metrics are at GET /metrics\n", why.status());
    response(why.status(), "text/plain; charset=utf-8", body.len(), &body)
}

fn response(status: &str, content: &str, length: usize, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
