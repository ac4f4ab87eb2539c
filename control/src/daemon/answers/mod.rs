//! What the daemon answers on its socket.

mod doctor;
mod lists;
mod ports;
mod routes;
mod status;
mod top;

use serde_json::{Value, json};

use super::Daemon;
use super::reload::What;
use crate::guard;
use crate::socket::{Answer, Code, ErrorBody, Incoming, Request};

pub(super) use routes::Dumps;

impl Daemon {
    /// Answers one request. What takes longer is answered later by whoever finishes it.
    pub(super) async fn answer(&mut self, incoming: Incoming) {
        let Incoming { request, reply } = incoming;
        let answer = match request {
            Request::Status => Answer::Value(self.status()),
            Request::PortShow(name) => self.port_show(name.as_deref()).into(),
            Request::PortSet(args) => self.port_set(&args).into(),
            Request::RouteShow(args) if args.diff_kernel => self.diff_kernel(args).await.into(),
            Request::RouteShow(args) => self.route_show(args),
            Request::RouteGet(args) => self.route_get(&args).into(),
            Request::NeighShow(family) => Answer::Value(self.neigh_show(family)),
            Request::NexthopShow => Answer::Value(json!({
                "schema": "margay.nexthop-show/1",
                "nexthops": self.mirror.groups(&mut self.dataplane),
            })),
            Request::AclShow(name) => self.acl_show(name.as_deref()).into(),
            Request::AclReload => return self.reload(What::Lists, Some(reply)),
            Request::Drops(args) => Answer::Value(self.drops(args)),
            Request::DropsLast(args) => self.drops_last(&args).into(),
            Request::DropsWatch => self.drops_watch(),
            Request::Trace(args) => self.trace(&args),
            Request::Capture(args) => self.capture(&args),
            Request::Explain(args) => self.explain(&args).into(),
            Request::Monitor(kinds) => {
                self.mirror.watch(true);
                Answer::Stream(self.events.subscribe(), kinds)
            }
            Request::ConfigShow => Answer::Value(json!({
                "schema": "margay.config-show/1",
                "file": self.file,
                "config": self.config.effective(),
            })),
            Request::Top => Answer::Value(json!(self.top())),
            Request::Doctor(port) => return self.doctor(port.as_deref(), reply),
            Request::Release(port) => self.release(port.as_deref()).into(),
        };
        // A client that has left needs no answer.
        let _ = reply.send(answer);
    }

    fn release(&mut self, port: Option<&str>) -> Result<Value, ErrorBody> {
        let released = guard::release(port).map_err(|error| crate::cli::guard_error(&error))?;
        if !released.is_empty() {
            tracing::warn!(
                "released until the next start: {}; the kernel forwards there when no worker does",
                released.join(", ")
            );
        }
        self.released.extend(released.iter().cloned());
        self.guard_stacked();
        Ok(json!({"schema": "margay.release/1", "released": released}))
    }
}

pub(super) fn no_port(name: &str) -> ErrorBody {
    ErrorBody::new(Code::NotFound, format!("there is no port {name:?}"))
        .hint("`margay port show` names those there are")
}
