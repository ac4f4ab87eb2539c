//! What the control thread and the workers share: published tables, counters, and the queue of requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use classifier::qsbr::{Domain, Online, Published};
use crossbeam::queue::ArrayQueue;

use crate::acl::Instance;
use crate::counters::Counters;
use crate::fib::{Fib, Routes, VrfId};
use crate::settings::{AntiSpoof, Direction, MAX_PORTS, MacAddr, PortAttrs, PortId, PortSpec, Settings};
use crate::watch::Watch;

/// UMEM frames of packets that may wait for neighbours, all workers together: nearly every packet has one.
pub const MAX_HELD: usize = 512;
/// Packets that may wait for one neighbour on one worker.
pub const MAX_HELD_EACH: usize = 8;
/// Neighbours that may be waited for at a time, all workers together. More would fill the kernel's neighbour table,
/// whose limits are global over all network namespaces.
pub const MAX_UNRESOLVED: usize = 128;
/// Requests that may wait for the control thread; more are made again a second later.
const REQUESTS: usize = 1024;

/// Asks the control thread to have the kernel resolve a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NeighbourRequest {
    /// The device that the neighbour is on.
    pub ifindex: u32,
    /// The neighbour's address.
    pub address: IpAddr,
}

/// A port as workers see it. Replaced whole when something about it changes.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    /// Closed ports receive nothing and nothing is sent to them.
    pub(crate) open: bool,
    pub(crate) ifindex: u32,
    pub(crate) mac: MacAddr,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) fix_checksums: bool,
    pub(crate) anti_spoof: AntiSpoof,
    pub(crate) vrf: VrfId,
    pub(crate) icmp4_source: Option<Ipv4Addr>,
    pub(crate) icmp6_sources: Vec<Ipv6Addr>,
    pub(crate) ingress: Option<Arc<Instance>>,
    pub(crate) egress: Option<Arc<Instance>>,
}

impl Port {
    fn closed() -> Self {
        Self {
            open: false,
            ifindex: 0,
            mac: [0; 6],
            mtu: 0,
            up: false,
            fix_checksums: false,
            anti_spoof: AntiSpoof::Off,
            vrf: VrfId::DEFAULT,
            icmp4_source: None,
            icmp6_sources: Vec::new(),
            ingress: None,
            egress: None,
        }
    }

    fn set(&mut self, attrs: &PortAttrs) {
        self.mac = attrs.mac;
        self.mtu = attrs.mtu;
        self.up = attrs.up;
        self.vrf = attrs.vrf;
        self.icmp4_source = attrs.icmp4_source;
        self.icmp6_sources.clone_from(&attrs.icmp6_sources);
    }
}

/// How many ICMP errors a worker may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpLimit {
    /// A second, in the long run. 0 for none at all.
    pub rate: u32,
    /// At once after a quiet time.
    pub burst: u32,
}

/// Everything that workers read and count in, behind one `Arc`.
#[derive(Debug)]
pub struct Shared {
    domain: Domain,
    routes: Arc<Routes>,
    ports: Box<[Published<Port>]>,
    /// The ports as the control thread set them last; workers never take this lock.
    ports_now: Mutex<Vec<Port>>,
    counters: Counters,
    watch: Watch,
    requests: ArrayQueue<NeighbourRequest>,
    icmp: IcmpLimit,
    workers: usize,
    /// Packets that wait on all workers. Touched only when a packet starts or ends to wait.
    pub(crate) held: AtomicUsize,
    /// Neighbours that are waited for on all workers.
    pub(crate) unresolved: AtomicUsize,
}

impl Shared {
    /// Tables without routes and ports, for a worker on each of `settings.cores`. `seed` goes into the flow hash, so
    /// that routers in a row do not all choose alike.
    pub fn new(settings: &Settings, seed: u32) -> Arc<Self> {
        let domain = Domain::new();
        let workers = settings.cores.len();
        Arc::new(Self {
            routes: Arc::new(Routes::new(&domain, settings.multipath, seed)),
            domain,
            ports: (0..MAX_PORTS).map(|_| Published::new(Port::closed())).collect(),
            ports_now: Mutex::new(vec![Port::closed(); MAX_PORTS]),
            counters: Counters::new(workers),
            watch: Watch::new(workers),
            requests: ArrayQueue::new(REQUESTS),
            icmp: IcmpLimit {
                rate: settings.icmp_rate,
                burst: settings.icmp_burst,
            },
            workers,
            held: AtomicUsize::new(0),
            unresolved: AtomicUsize::new(0),
        })
    }

    /// The writer of the routes. One only: a second one would know nothing of the first one's numbers.
    pub fn fib(&self) -> Fib {
        Fib::new(self.routes.clone())
    }

    /// The domain that readers of these tables register with.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The packets that workers show.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Opens a port for workers; its counters start at zero. Its access lists hold from the first frame on.
    pub fn open_port(&self, id: PortId, spec: &PortSpec) {
        self.counters.open(id);
        self.change(id, |port| {
            *port = Port {
                open: true,
                ifindex: spec.ifindex,
                fix_checksums: spec.fix_checksums,
                anti_spoof: spec.anti_spoof,
                ingress: spec.acl_ingress.clone(),
                egress: spec.acl_egress.clone(),
                ..Port::closed()
            };
            port.set(&spec.attrs);
        });
    }

    /// Changes what the kernel says about a port.
    pub fn update_port(&self, id: PortId, attrs: &PortAttrs) {
        self.change(id, |port| port.set(attrs));
    }

    /// Sets or takes away an access list of a port.
    pub fn set_acl(&self, id: PortId, direction: Direction, acl: Option<Arc<Instance>>) {
        self.change(id, |port| match direction {
            Direction::Ingress => port.ingress = acl,
            Direction::Egress => port.egress = acl,
        });
    }

    /// Closes a port: packets from it and to it are dropped from the next burst on.
    pub fn close_port(&self, id: PortId) {
        self.change(id, |port| *port = Port::closed());
    }

    fn change(&self, id: PortId, change: impl FnOnce(&mut Port)) {
        let mut ports = self.ports_now();
        let port = &mut ports[id.index()];
        change(port);
        self.ports[id.index()].replace(port.clone(), &self.domain);
        self.routes.changed();
    }

    fn ports_now(&self) -> MutexGuard<'_, Vec<Port>> {
        // Each change is whole before the lock is given back: a panic elsewhere does not spoil it.
        self.ports_now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A neighbour that a worker asks for, oldest first. The control thread drains it every few milliseconds.
    pub fn next_request(&self) -> Option<NeighbourRequest> {
        self.requests.pop()
    }

    /// Makes room for one more packet that waits, of so many frames, if there is any.
    pub(crate) fn hold(&self, frames: usize) -> bool {
        take(&self.held, frames, MAX_HELD)
    }

    /// Makes room for one more neighbour that is waited for, if there is any.
    pub(crate) fn await_one(&self) -> bool {
        take(&self.unresolved, 1, MAX_UNRESOLVED)
    }

    /// Queues a request; false when the queue is full.
    pub(crate) fn request(&self, request: NeighbourRequest) -> bool {
        self.requests.push(request).is_ok()
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }

    #[inline]
    pub(crate) fn port<'g>(&'g self, online: &'g Online<'_>, id: PortId) -> &'g Port {
        self.ports[id.index()].load(online)
    }

    pub(crate) fn icmp(&self) -> IcmpLimit {
        self.icmp
    }
}

/// Adds to a count that workers share, unless that would exceed its limit.
fn take(count: &AtomicUsize, more: usize, limit: usize) -> bool {
    count
        .fetch_update(Relaxed, Relaxed, |now| {
            (now + more <= limit).then_some(now + more)
        })
        .is_ok()
}
