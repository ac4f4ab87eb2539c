//! Opening a port: the steering program first, as drivers want it for zero-copy, then a socket on every RX queue.

use std::io;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::port::device::{self, Queues};
use crate::port::mtu::{self, Limit};
use crate::port::queue::{Queue, Traits};
use crate::port::socket::{BindMode, Failure, Rings, Socket, Step};
use crate::settings::{MAX_QUEUES, Mode, PortId, PortSpec, Role};
use crate::snapshot::Obtained;
use crate::steer::link::{self, Link, Place};
use crate::steer::{Steer, Steered};
use crate::umem::Umem;

/// A queue stays bound for up to a quarter of a second after the process that held it has died.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// A port whose sockets are bound and whose queues wait for their workers. Nothing flows to them yet.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) link: Link,
    pub(crate) bound: Bound,
    pub(crate) queues: Vec<Queue>,
}

/// How a port is bound.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) obtained: Obtained,
    pub(crate) limit: Limit,
    /// Whether packets may be spread over several frames.
    pub(crate) in_parts: bool,
}

/// How many queues a device has; `None` when only binding tells.
pub(crate) fn count_queues(spec: &PortSpec) -> Result<Option<Queues>, Error> {
    let queues = device::queues(&spec.name).map_err(|source| match source.raw_os_error() {
        Some(libc::ENODEV) => Error::NoDevice {
            port: spec.name.clone(),
        },
        _ => Error::Kernel {
            what: format!("port {}: counting its queues", spec.name),
            source,
        },
    })?;
    match queues {
        Some(Queues { rx, .. }) if rx as usize > MAX_QUEUES => Err(Error::Limit {
            port: spec.name.clone(),
            what: format!(
                "its {rx} RX queues (fewer: `ethtool -L {} combined {MAX_QUEUES}`)",
                spec.name
            ),
            limit: MAX_QUEUES,
        }),
        queues => Ok(queues),
    }
}

/// How the program is to treat a port's frames.
pub(crate) fn steered(id: PortId, spec: &PortSpec, queues: u32) -> Steered {
    Steered {
        slot: id,
        mac: spec.attrs.mac,
        vrf: spec.attrs.vrf,
        closed: spec.on_exit_drop,
        guarded: spec.role == Role::Workload,
        queues,
    }
}

/// Attaches the program and binds the sockets. On failure nothing is left behind.
pub(crate) fn open(
    steer: &Steer,
    umem: &Umem,
    id: PortId,
    spec: &PortSpec,
    queues: Option<Queues>,
) -> Result<Opened, Error> {
    let kernel = |what: &'static str| {
        let port = spec.name.clone();
        move |source| Error::Kernel {
            what: format!("port {port}: {what}"),
            source,
        }
    };
    mtu::admit(umem, spec)?;
    steer.reset(id).map_err(kernel("resetting its counters"))?;
    let steered = steered(id, spec, queues.map_or(MAX_QUEUES as u32, |queues| queues.rx));
    steer
        .set_port(spec.ifindex, &steered)
        .map_err(kernel("telling the XDP program of it"))?;
    let opened = attach(steer, spec).and_then(|(link, place)| {
        let (bound, queues) = bind_all(umem, id, spec, queues, place)?;
        Ok(Opened { link, bound, queues })
    });
    if opened.is_err() {
        // Best effort: the first error is the one to tell.
        let _ = steer.remove_port(spec.ifindex);
    }
    opened
}

/// Attaches the program where the mode asks for it, or where the driver lets it.
fn attach(steer: &Steer, spec: &PortSpec) -> Result<(Link, Place), Error> {
    // A native program on a bond runs at its slaves, as theirs: it sees their device and queues, whose sockets are not the
    // bond's (bond_xdp_set of drivers/net/bonding/bond_main.c). Everything would be left to the kernel.
    let driver = device::driver(&spec.name).ok().flatten();
    let is_bond = driver.is_some_and(|driver| driver == "bonding");
    let places: &[Place] = match spec.mode {
        Mode::Auto if is_bond => &[Place::Generic],
        Mode::Auto => &[Place::Native, Place::Generic],
        Mode::Zerocopy | Mode::Copy if is_bond => {
            return Err(attach_error(spec, io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
        }
        Mode::Zerocopy | Mode::Copy => &[Place::Native],
        Mode::Generic => &[Place::Generic],
    };
    let mut failed = None;
    for &place in places {
        let error = match steer.attach(spec.ifindex, place) {
            Ok(link) => return Ok((link, place)),
            Err(error) => attach_error(spec, error),
        };
        let refused_by_driver = matches!(error, Error::Unsupported { .. });
        failed.get_or_insert(error);
        if !refused_by_driver {
            break;
        }
    }
    Err(failed.expect("there is at least one place to try"))
}

fn attach_error(spec: &PortSpec, source: io::Error) -> Error {
    let port = spec.name.clone();
    match source.raw_os_error() {
        Some(libc::ENODEV) => Error::NoDevice { port },
        Some(libc::EPERM | libc::EACCES) => Error::Permission {
            what: format!("port {port}: attaching the XDP program"),
            capability: "CAP_NET_ADMIN",
        },
        // Native and generic programs exclude each other: EEXIST.
        Some(libc::EBUSY | libc::EEXIST) => Error::XdpBusy {
            port,
            program: link::attached(spec.ifindex).unwrap_or(0),
        },
        _ => Error::Unsupported {
            port,
            mode: mode_name(spec.mode),
            instead: "generic",
            source,
        },
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::Zerocopy => "zerocopy",
        Mode::Copy => "copy",
        Mode::Generic => "generic",
    }
}

/// Binds a socket to every RX queue.
fn bind_all(
    umem: &Umem,
    id: PortId,
    spec: &PortSpec,
    count: Option<Queues>,
    place: Place,
) -> Result<(Bound, Vec<Queue>), Error> {
    let ways: &[BindMode] = match place {
        Place::Native => mtu::ways(spec.mode),
        Place::Generic => &[BindMode::Copy],
    };
    let mut first = None;
    for (at, &way) in ways.iter().enumerate() {
        let limit = mtu::limit(umem, spec, way);
        let in_parts = limit.needs_parts(spec.attrs.mtu);
        match bind_first(umem, spec, way, &limit) {
            Ok(bound) => {
                first = Some((way, limit, in_parts, bound));
                break;
            }
            // The driver has no zero-copy, or not with these settings (virtio_net says EINVAL), or not for such packets.
            Err(Error::Unsupported { .. } | Error::Mtu { .. }) if at + 1 < ways.len() => {}
            Err(error) => return Err(error),
        }
    }
    let (way, limit, in_parts, (socket, rings)) = first.expect("the last way returns or binds");
    let zerocopy = socket.is_zerocopy().map_err(|source| Error::Kernel {
        what: format!("port {}: asking for its mode", spec.name),
        source,
    })?;
    let traits = |number| Traits {
        zerocopy,
        sends: number == 0 || count.is_none_or(|count| number < count.tx),
        most_parts: if in_parts { limit.parts } else { 1 },
    };
    let mut queues = vec![Queue::new(id, 0, (socket.clone(), rings), traits(0), umem)];
    for number in 1..count.map_or(MAX_QUEUES as u32, |count| count.rx) {
        match bind(umem, spec, number, way, in_parts, Some(&socket)) {
            Ok(bound) => queues.push(Queue::new(id, number, bound, traits(number), umem)),
            // A queue that the device does not have, where its driver does not tell how many there are.
            Err(Error::Unsupported { .. }) if count.is_none() => break,
            Err(error) => return Err(error),
        }
    }
    let obtained = match (place, zerocopy) {
        (Place::Generic, _) => Obtained::Generic,
        (Place::Native, true) => Obtained::Zerocopy,
        (Place::Native, false) => Obtained::Copy,
    };
    let bound = Bound {
        obtained,
        limit,
        in_parts,
    };
    Ok((bound, queues))
}

/// Binds the first queue, if packets of the port's MTU can be had so.
fn bind_first(umem: &Umem, spec: &PortSpec, way: BindMode, limit: &Limit) -> Result<(Socket, Rings), Error> {
    let mtu = spec.attrs.mtu;
    if mtu > limit.largest {
        return Err(Error::Mtu {
            port: spec.name.clone(),
            mtu,
            largest: limit.largest,
            why: limit.why.clone(),
        });
    }
    bind(umem, spec, 0, way, limit.needs_parts(mtu), None)
}

/// Binds one queue, again and again while it is still another socket's.
fn bind(
    umem: &Umem,
    spec: &PortSpec,
    queue: u32,
    mode: BindMode,
    in_parts: bool,
    first: Option<&Socket>,
) -> Result<(Socket, Rings), Error> {
    let give_up = Instant::now() + BUSY_FOR;
    loop {
        match Socket::open(umem, spec.ifindex, queue, mode, in_parts, first) {
            Ok(bound) => return Ok(bound),
            Err(Failure {
                step: Step::Bind,
                source,
            }) if source.raw_os_error() == Some(libc::EBUSY) => {
                if Instant::now() >= give_up {
                    return Err(Error::QueueBusy {
                        port: spec.name.clone(),
                        queue,
                        seconds: BUSY_FOR.as_secs(),
                    });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(failure) => return Err(bind_error(spec, queue, mode, failure)),
        }
    }
}

fn bind_error(spec: &PortSpec, queue: u32, mode: BindMode, failure: Failure) -> Error {
    let Failure { step, source } = failure;
    let port = spec.name.clone();
    let permission = |what: &str, capability| Error::Permission {
        what: format!("port {port}: {what}"),
        capability,
    };
    match (step, source.raw_os_error()) {
        (Step::Create, Some(libc::EPERM)) => permission("opening an AF_XDP socket", "CAP_NET_RAW"),
        (Step::Create, Some(libc::EAFNOSUPPORT)) => Error::Kernel {
            what: format!("port {port}: this kernel has no AF_XDP (CONFIG_XDP_SOCKETS is needed)"),
            source,
        },
        // ENOBUFS: more locked memory than the limit (`xdp_umem_account_pages`).
        (Step::Register, Some(libc::ENOBUFS | libc::EPERM)) => permission(
            "locking the UMEM's memory (or raise LimitMEMLOCK)",
            "CAP_IPC_LOCK",
        ),
        (Step::Bind, Some(libc::ENODEV | libc::ENXIO)) => Error::NoDevice { port },
        (Step::Bind, Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
            let (mode, instead) = match mode {
                BindMode::Zerocopy => ("zerocopy", "auto"),
                BindMode::Copy => (mode_name(spec.mode), "generic"),
            };
            Error::Unsupported {
                port,
                mode,
                instead,
                source,
            }
        }
        (Step::Bind, Some(libc::ENETDOWN)) => Error::Kernel {
            what: format!("port {port}: the device is down (`ip link set {port} up`)"),
            source,
        },
        (step, _) => {
            let what = match step {
                Step::Create => "opening an AF_XDP socket",
                Step::Register => "registering the UMEM",
                Step::Rings => "setting up the rings",
                Step::Bind => "binding",
            };
            Error::Kernel {
                what: format!("port {port}, queue {queue}: {what}"),
                source,
            }
        }
    }
}
