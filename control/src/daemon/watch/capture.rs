//! `capture`: packets as they pass a point of the data path.

use forwarder::PortId;
use forwarder::watch::{Point, Points, PortSet, Record, Tap, TapSpec};
use serde_json::json;
use tokio::sync::mpsc;

use super::packet::{hex, nanoseconds};
use super::{Kind, filter};
use crate::daemon::Daemon;
use crate::daemon::answers::no_port;
use crate::socket::{Answer, CaptureArgs, Code, ErrorBody, PointArg};

/// Bytes of a worker's ring, and the packets that it holds at least and at most.
const RING: usize = 8 << 20;
const SLOTS: (usize, usize) = (128, 8192);

impl Daemon {
    pub(in crate::daemon) fn capture(&mut self, args: &CaptureArgs) -> Answer {
        self.begin_capture(args).into()
    }

    fn begin_capture(&mut self, args: &CaptureArgs) -> Result<mpsc::Receiver<String>, ErrorBody> {
        let filter = filter(&args.filter)?;
        if args.at.is_empty() {
            return Err(ErrorBody::new(Code::BadArgument, "at: name rx, tx or drop"));
        }
        let ports: Vec<PortId> = args
            .ports
            .iter()
            .map(|name| {
                self.ports
                    .open
                    .get(name)
                    .map(|open| open.id)
                    .ok_or_else(|| no_port(name))
            })
            .collect::<Result<_, _>>()?;
        let points = args.at.iter().fold(Points::default(), |set, at| {
            set.with(match at {
                PointArg::Rx => Point::Rx,
                PointArg::Tx => Point::Tx,
                PointArg::Drop => Point::Drop,
            })
        });
        let most = self.config.runtime.frame_size as usize;
        let snap = if args.snap == 0 { most } else { args.snap.min(most) };
        let spec = TapSpec {
            filter,
            points,
            ports: if ports.is_empty() {
                PortSet::ALL
            } else {
                PortSet::of(&ports)
            },
            snap,
            slots: (RING / Tap::slot_bytes(snap)).clamp(SLOTS.0, SLOTS.1),
        };
        self.watch(Kind::Capture, spec, args.count)
    }

    /// One packet as a line.
    pub(super) fn capture_line(&self, record: &Record, bytes: &[u8]) -> String {
        let (at, port) = match record.point {
            Point::Tx => (
                "tx",
                record.way.and_then(|way| way.egress).unwrap_or(record.ingress),
            ),
            Point::Drop => ("drop", record.ingress),
            _ => ("rx", record.ingress),
        };
        let mut line = json!({
            "schema": Kind::Capture.schema(),
            "event": "packet",
            "time_ns": nanoseconds(self.dataplane.time_of(record.time)),
            "at": at,
            "port": self.name_of(port),
            "length": record.len,
        });
        for (key, value) in self.verdict(record) {
            line[key] = value;
        }
        line["originated"] = json!(record.originated);
        line["data"] = json!(hex(bytes));
        format!("{line}\n")
    }
}
