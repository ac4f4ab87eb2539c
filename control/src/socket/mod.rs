//! The control socket: one JSON object a line each way.
//!
//! A request is `{"command": "route show", "args": {"table": 254}}`; the answer is one object with a `schema`, or a
//! line for each event of a stream. `docs/socket.md` describes it for clients in other languages.

mod client;
mod dump;
mod error;
mod request;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientError};
pub use dump::{Dump, DumpWriter};
pub use error::{Code, ErrorBody};
pub use request::{
    CaptureArgs, DropsArgs, ExplainArgs, FamilyArg, LastArgs, MonitorKind, PointArg, PortSetArgs, Request,
    RouteGetArgs, RouteShowArgs, TraceArgs, parse_request,
};
pub(crate) use server::bind_unix;
pub use server::{Answer, BindError, Incoming, Server};

/// Most bytes of one request, its line end included.
pub const MAX_REQUEST: usize = 64 * 1024;

/// Most clients at a time; the next one is told `busy`.
pub const MAX_CLIENTS: usize = 2048;
