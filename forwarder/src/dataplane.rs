//! The data plane's control side: it lives on one thread and never waits for a packet.

use crate::{Error, PortAttrs, PortId, PortSpec, Settings, Snapshot};

/// The running data plane: one UMEM, one XDP program, the workers and their ports.
///
/// It lives on the control thread. Dropping it stops the workers and detaches everything, as
/// [`shutdown`](Self::shutdown) does, but tells no errors.
#[derive(Debug)]
pub struct Dataplane {}

impl Dataplane {
    /// Loads the steering program, creates the UMEM and starts a worker on each configured core.
    pub fn start(settings: Settings) -> Result<Self, Error> {
        let _ = settings;
        todo!()
    }

    /// Attaches the steering program to a device and binds a socket to each of its RX queues.
    ///
    /// Traffic flows as soon as it returns. The device must be in the network namespace of the calling thread.
    pub fn open_port(&mut self, spec: PortSpec) -> Result<PortId, Error> {
        let _ = spec;
        todo!()
    }

    /// Detaches a port and takes its frames back; other ports go on undisturbed. Works for devices that are gone.
    pub fn close_port(&mut self, port: PortId) -> Result<(), Error> {
        let _ = port;
        todo!()
    }

    /// Tells workers and the steering program what has changed about a port.
    pub fn update_port(&mut self, port: PortId, attrs: PortAttrs) -> Result<(), Error> {
        let _ = (port, attrs);
        todo!()
    }

    /// Counters and state, read while the workers run.
    pub fn counters(&self) -> Snapshot {
        todo!()
    }

    /// To be called every few milliseconds: frees what workers no longer read and ages what has a time limit.
    pub fn maintain(&mut self) {
        todo!()
    }

    /// Stops the workers, detaches the program from every port and closes all sockets.
    pub fn shutdown(self) -> Result<(), Error> {
        todo!()
    }
}
