//! The command line's end of the socket: blocking, one request and its answer.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Code, ErrorBody};

/// Longer than any answer of a healthy daemon takes, the comparison of a full table included.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon answered with an error, or could not be reached.
    #[error(transparent)]
    Answered(#[from] ErrorBody),
    /// The connection broke.
    #[error("the connection to the daemon broke: {0}")]
    Io(#[from] io::Error),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the socket.
    pub fn connect(path: &Path) -> Result<Client, ErrorBody> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ErrorBody::new(
                Code::NotPermitted,
                format!("{} may not be opened: {error}", path.display()),
            )
            .hint("the socket is open to root and its group"),
            _ => ErrorBody::new(
                Code::NotReachable,
                format!("no daemon answers on {}: {error}", path.display()),
            )
            .hint("start margayd, or name its socket with --socket or MARGAY_SOCKET"),
        })?;
        Ok(Client {
            reader: BufReader::with_capacity(256 * 1024, stream),
        })
    }

    /// Sends a request. Its answer is read from [`reader`](Self::reader).
    pub fn send(&mut self, command: &str, args: &Value, stream: bool) -> io::Result<()> {
        let patience = if stream { None } else { Some(PATIENCE) };
        self.reader.get_ref().set_read_timeout(patience)?;
        let mut line = json!({"command": command, "args": args}).to_string();
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes())
    }

    /// The answer's bytes.
    pub fn reader(&mut self) -> &mut BufReader<UnixStream> {
        &mut self.reader
    }

    /// Another handle of the connection, to end it by.
    pub fn stream(&self) -> io::Result<UnixStream> {
        self.reader.get_ref().try_clone()
    }

    /// Whether all that has arrived has been read.
    pub fn is_drained(&self) -> bool {
        self.reader.buffer().is_empty()
    }

    /// One line of the answer as JSON; `None` when the daemon has closed. Error answers come out as errors.
    pub fn line(&mut self) -> Result<Option<Value>, ClientError> {
        let mut line = Vec::new();
        if self.reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let value: Value = serde_json::from_slice(&line)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if value["schema"] == "margay.error/1" {
            let error: ErrorBody = serde_json::from_value(value)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            return Err(error.into());
        }
        Ok(Some(value))
    }

    /// Sends a request and reads its one answer.
    pub fn ask(&mut self, command: &str, args: &Value) -> Result<Value, ClientError> {
        self.send(command, args, false)?;
        self.line()?
            .ok_or_else(|| ErrorBody::new(Code::NotReachable, "the daemon closed without an answer").into())
    }
}
