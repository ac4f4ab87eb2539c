//! What the mirror needs of the data plane.

use classifier::lpm::IpPrefix;
use forwarder::fib::{Fib, VrfId};
use forwarder::tables::NeighbourRequest;
use forwarder::{Dataplane, Error, PortAttrs, PortId};

/// The data plane as the mirror sees it. [`Dataplane`] is one; a bare FIB is enough where nothing is forwarded.
pub trait Plane {
    /// The FIB to program.
    fn fib(&mut self) -> &mut Fib;

    /// Neighbours that workers ask for, oldest first.
    fn requests(&mut self) -> Vec<NeighbourRequest>;

    /// Changes the set of prefixes that are the kernel's, by VRF.
    fn set_local(&mut self, add: &[(VrfId, IpPrefix)], remove: &[(VrfId, IpPrefix)]) -> Result<(), Error>;

    /// Tells of a port that its device has changed.
    fn update_port(&mut self, port: PortId, attrs: PortAttrs) -> Result<(), Error>;

    /// Periodic work, every few milliseconds.
    fn maintain(&mut self);
}

impl Plane for Dataplane {
    fn fib(&mut self) -> &mut Fib {
        self.fib()
    }

    fn requests(&mut self) -> Vec<NeighbourRequest> {
        self.requests()
    }

    fn set_local(&mut self, add: &[(VrfId, IpPrefix)], remove: &[(VrfId, IpPrefix)]) -> Result<(), Error> {
        self.set_local(add, remove)
    }

    fn update_port(&mut self, port: PortId, attrs: PortAttrs) -> Result<(), Error> {
        self.update_port(port, attrs)
    }

    fn maintain(&mut self) {
        self.maintain();
    }
}
