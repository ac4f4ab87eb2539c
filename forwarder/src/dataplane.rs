//! The data plane's control side: it lives on one thread and never waits for a packet.

mod closing;
mod counting;
mod watching;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::lpm::IpPrefix;
use classifier::packet::Headers;

use crate::acl::Instance;
use crate::error::Error;
use crate::fib::{Fib, VrfId};
use crate::frame::Frame;
use crate::path::explain::{Explanation, explain};
use crate::port::open::{count_queues, open, steered};
use crate::port::queue::Queue;
use crate::port::{Port, device};
use crate::settings::{Direction, MAX_PORTS, PortAttrs, PortId, PortSpec, Settings};
use crate::steer::Steer;
use crate::steer::beats::MAX_WORKERS;
use crate::tables::{NeighbourRequest, Shared};
use crate::umem::Umem;
use crate::worker::fabric::{Command, Fabric};
use crate::worker::rounds::{frames_for, most_queues};
use crate::worker::{Plan, Worker};
use closing::Closing;
use counting::Marks;

/// How long an open waits for workers to have a port's queues, and a close for its queues to come back. Workers that
/// need longer are not waited for: the rest is done by [`Dataplane::maintain`].
const WORKERS_ANSWER: Duration = Duration::from_millis(100);

/// The running data plane: one UMEM, one XDP program, the workers and their ports.
///
/// It lives on the control thread. Dropping it stops the workers and detaches everything, as
/// [`shutdown`](Self::shutdown) does.
#[derive(Debug)]
pub struct Dataplane {
    settings: Settings,
    shared: Arc<Shared>,
    fib: Fib,
    steer: Steer,
    umem: Umem,
    fabric: Arc<Fabric>,
    workers: Vec<Worker>,
    /// Frames that each worker has.
    share: u32,
    ports: BTreeMap<PortId, Port>,
    /// Queues of each worker, of ports being closed too.
    load: Vec<u32>,
    closing: Vec<Closing>,
    /// Frames that a device may still write to, for the worker they go to, and when it surely does not any more.
    quarantine: Vec<(Instant, usize, Vec<Frame>)>,
    /// The number to try next: numbers are used again as late as possible.
    next_id: u16,
    marks: RefCell<Marks>,
    warnings: Vec<String>,
    /// Sockets, maps and rings are used from one thread.
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

impl Dataplane {
    /// Loads the steering program, creates the UMEM and starts a worker on each configured core.
    pub fn start(settings: Settings) -> Result<Self, Error> {
        check(&settings)?;
        let mut warnings = Vec::new();
        if let Err(error) = device::unlock_memory() {
            warnings.push(format!(
                "the limit of locked memory stays ({error}): needed by kernels before 5.11 only, which then refuse \
                 to load the XDP program"
            ));
        }
        let kernel = |what: &str| {
            let what = what.to_owned();
            move |source| Error::Kernel { what, source }
        };
        let steer = Steer::load()?;
        let count = settings.cores.len();
        let (umem, mut frames) = Umem::new(settings.frames, settings.frame_size).map_err(kernel(
            "mapping the UMEM (runtime.frames times runtime.frame_size bytes)",
        ))?;
        let shared = Shared::new(&settings, seed());
        let fabric = Fabric::new(count).map_err(kernel("creating an event descriptor"))?;
        let fib = shared.fib();
        let share = settings.frames / count as u32;
        let mut dataplane = Self {
            fib,
            steer,
            fabric,
            workers: Vec::with_capacity(count),
            share,
            ports: BTreeMap::new(),
            load: vec![0; count],
            closing: Vec::new(),
            quarantine: Vec::new(),
            next_id: 0,
            marks: RefCell::new(Marks::new(count)),
            warnings,
            _not_sync: PhantomData,
            shared,
            umem,
            settings,
        };
        for (number, &core) in dataplane.settings.cores.clone().iter().enumerate() {
            // The last worker also has what does not divide.
            let keep = if number + 1 == count {
                0
            } else {
                frames.len() - share as usize
            };
            dataplane.workers.push(Worker::start(Plan {
                number,
                core,
                profile: dataplane.settings.profile,
                umem: dataplane.umem.clone(),
                free: frames.split_off(keep),
                shared: dataplane.shared.clone(),
                fabric: dataplane.fabric.clone(),
                beat: dataplane.steer.beats().of(number),
            })?);
        }
        Ok(dataplane)
    }

    /// What was not as it should be at the start, and did no harm.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Attaches the steering program to a device and binds a socket to each of its RX queues.
    ///
    /// Traffic flows as soon as it returns. The device must be in the network namespace of the calling thread.
    pub fn open_port(&mut self, spec: PortSpec) -> Result<PortId, Error> {
        self.reap();
        if self.ports.values().any(|port| port.spec.ifindex == spec.ifindex) {
            return Err(Error::AlreadyOpen { port: spec.name });
        }
        let queues = count_queues(&spec)?;
        self.admit(&spec, queues.map_or(1, |queues| queues.rx))?;
        let id = self.free_id(&spec)?;

        self.shared.open_port(id, &spec);
        let opened = open(&self.steer, &self.umem, id, &spec, queues).and_then(|opened| {
            // Where only binding told how many queues there are.
            self.admit(&spec, opened.queues.len() as u32).map(|()| opened)
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.shared.close_port(id);
                let _ = self.steer.remove_port(spec.ifindex);
                return Err(error);
            }
        };
        self.next_id = (id.0 + 1) % MAX_PORTS as u16;

        let sockets: Vec<_> = opened.queues.iter().map(|queue| queue.socket().clone()).collect();
        let owners = self.spread(opened.queues.len());
        let name = spec.name.clone();
        let (possible, why) = crate::port::mtu::possible(&self.umem, &spec, &opened.bound.limit);
        let port = Port {
            id,
            spec,
            obtained: opened.bound.obtained,
            limit: opened.bound.limit,
            in_parts: opened.bound.in_parts,
            possible_mtu: (possible, why.into()),
            _link: opened.link,
            sockets,
            owners,
        };
        self.give_to_workers(&port, opened.queues);
        let fds = port.sockets.iter().enumerate();
        let mapped = fds.map(|(queue, socket)| {
            let stall = self.settings.stall_after;
            self.steer.watch(id, queue as u32, port.owners[queue], stall)?;
            self.steer.set_socket(id, queue as u32, socket.fd())
        });
        let mapped: std::io::Result<()> = mapped.collect();
        self.ports.insert(id, port);
        if let Err(source) = mapped {
            self.close_port(id)?;
            return Err(Error::Kernel {
                what: format!("port {name}: giving its queues to its sockets"),
                source,
            });
        }
        Ok(id)
    }

    /// Refuses queues that the frames cannot serve.
    fn admit(&self, spec: &PortSpec, queues: u32) -> Result<(), Error> {
        let workers = self.workers.len() as u32;
        let used: u32 = self.load.iter().sum();
        let limit = most_queues(self.share) * workers;
        if used + queues <= limit {
            return Ok(());
        }
        // Rounded up to what each worker needs for its part.
        let needed = frames_for((used + queues).div_ceil(workers)) * workers;
        Err(Error::Frames {
            port: spec.name.clone(),
            queues,
            frames: self.umem.frames(),
            limit,
            used,
            needed: needed.next_power_of_two(),
        })
    }

    fn free_id(&self, spec: &PortSpec) -> Result<PortId, Error> {
        let in_use = |id| self.ports.contains_key(&id) || self.closing.iter().any(|closing| closing.is(id));
        let ids = (0..MAX_PORTS as u16).map(|i| PortId((self.next_id + i) % MAX_PORTS as u16));
        ids.into_iter()
            .find(|&id| !in_use(id))
            .ok_or_else(|| Error::Limit {
                port: spec.name.clone(),
                what: format!("{} open ports", MAX_PORTS + 1),
                limit: MAX_PORTS,
            })
    }

    /// Chooses a worker for each of so many queues: the one with the fewest.
    fn spread(&mut self, queues: usize) -> Vec<u16> {
        let mut owners = Vec::with_capacity(queues);
        for _ in 0..queues {
            let (worker, load) = self
                .load
                .iter_mut()
                .enumerate()
                .min_by_key(|(_, load)| **load)
                .expect("there is a worker");
            *load += 1;
            owners.push(worker as u16);
        }
        owners
    }

    /// Tells all workers of a port, gives each its queues, and waits until they have them.
    fn give_to_workers(&self, port: &Port, queues: Vec<Queue>) {
        let sending = queues.iter().filter(|queue| queue.sends());
        let owners: Arc<[u16]> = sending
            .map(|queue| port.owners[queue.number() as usize])
            .collect();
        let mut parts: Vec<Vec<Queue>> = self.workers.iter().map(|_| Vec::new()).collect();
        for queue in queues {
            parts[usize::from(port.owners[queue.number() as usize])].push(queue);
        }
        for (worker, queues) in parts.into_iter().enumerate() {
            self.fabric.command(
                worker,
                Command::Open {
                    port: port.id,
                    owners: owners.clone(),
                    queues,
                },
            );
        }
        let until = Instant::now() + WORKERS_ANSWER;
        while !self.fabric.is_settled() && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Tells workers and the steering program what has changed about a port.
    pub fn update_port(&mut self, id: PortId, attrs: PortAttrs) -> Result<(), Error> {
        let port = self.ports.get_mut(&id).ok_or(Error::NotOpen(id.0))?;
        port.spec.attrs = attrs;
        self.shared.update_port(id, &port.spec.attrs);
        let steered = steered(id, &port.spec, port.sockets.len() as u32);
        self.steer
            .set_port(port.spec.ifindex, &steered)
            .map_err(|source| Error::Kernel {
                what: format!("port {}: telling the XDP program", port.spec.name),
                source,
            })
    }

    /// Whether a port is bound as it would be if it were opened with that MTU. If not, it has to be closed and opened again:
    /// larger packets are lost, or a better mode has become possible.
    pub fn suits_mtu(&self, id: PortId, mtu: u32) -> bool {
        self.ports
            .get(&id)
            .is_none_or(|port| mtu <= port.limit.largest && port.limit.needs_parts(mtu) == port.in_parts)
    }

    /// Sets or takes away an access list of a port; it holds from each worker's next burst on.
    pub fn set_acl(
        &mut self,
        id: PortId,
        direction: Direction,
        acl: Option<Arc<Instance>>,
    ) -> Result<(), Error> {
        let port = self.ports.get_mut(&id).ok_or(Error::NotOpen(id.0))?;
        match direction {
            Direction::Ingress => port.spec.acl_ingress.clone_from(&acl),
            Direction::Egress => port.spec.acl_egress.clone_from(&acl),
        }
        self.shared.set_acl(id, direction, acl);
        Ok(())
    }

    /// Adds and removes prefixes that are the kernel's own in a VRF: unicast, broadcast and anycast alike. Removals go first.
    pub fn set_local(
        &mut self,
        add: &[(VrfId, IpPrefix)],
        remove: &[(VrfId, IpPrefix)],
    ) -> Result<(), Error> {
        self.steer.set_local(add, remove)
    }

    /// The routes that workers use.
    pub fn fib(&mut self) -> &mut Fib {
        &mut self.fib
    }

    /// What workers want resolved since the last call. To be drained every few milliseconds.
    pub fn requests(&mut self) -> Vec<NeighbourRequest> {
        std::iter::from_fn(|| self.shared.next_request()).collect()
    }

    /// What a worker would do with a packet that came in through `port`.
    pub fn explain(&self, headers: &Headers, port: PortId) -> Explanation {
        explain(&self.shared, &self.fib, headers, port)
    }

    /// To be called every few milliseconds: frees what workers no longer read and finishes the closing of ports.
    pub fn maintain(&mut self) {
        self.reap();
        self.shared.domain().reclaim();
    }

    /// Stops the workers, detaches the program from every port and closes all sockets.
    pub fn shutdown(mut self) -> Result<(), Error> {
        self.stop()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        // Who wants to know of errors calls `shutdown`.
        let _ = self.stop();
    }
}

/// A number that differs from node to node and from start to start.
fn seed() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as u32
}

/// Refuses settings that cannot work.
fn check(settings: &Settings) -> Result<(), Error> {
    let wrong = |key, value: String, why: &str| {
        Err(Error::Setting {
            key,
            value,
            why: why.to_owned(),
        })
    };
    let cores = &settings.cores;
    if cores.is_empty() {
        return wrong("runtime.workers", "[]".to_owned(), "name at least one core");
    }
    if cores.len() > MAX_WORKERS {
        return wrong(
            "runtime.workers",
            format!("{} cores", cores.len()),
            &format!("there may be {MAX_WORKERS} workers"),
        );
    }
    if let Some(core) = cores
        .iter()
        .enumerate()
        .find_map(|(i, core)| cores[..i].contains(core).then_some(core))
    {
        return wrong(
            "runtime.workers",
            format!("{cores:?}"),
            &format!("core {core} is named twice"),
        );
    }
    if ![2048, 4096].contains(&settings.frame_size) {
        return wrong(
            "runtime.frame_size",
            settings.frame_size.to_string(),
            "must be 2048 or 4096",
        );
    }
    let least = frames_for(2) * cores.len() as u32;
    if settings.frames < least || settings.frames > 1 << 24 {
        let why = format!(
            "must be from {least} (for {} workers) to {}",
            cores.len(),
            1 << 24
        );
        return wrong("runtime.frames", settings.frames.to_string(), &why);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::default();
        change(&mut settings);
        check(&settings).unwrap_err().to_string()
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        assert!(check(&Settings::default()).is_ok());
        assert!(refused(|s| s.cores = vec![]).contains("runtime.workers"));
        assert!(refused(|s| s.cores = vec![0, 1, 0]).contains("core 0 is named twice"));
        assert!(refused(|s| s.frame_size = 1024).contains("2048 or 4096"));
        assert!(refused(|s| s.frames = 100).contains("must be from 128"));
        assert!(refused(|s| s.frames = u32::MAX).contains("runtime.frames"));
    }
}
