//! Opening a port: the steering program first, as drivers want it for zero-copy, then a socket on every RX queue.

use std::io;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::port::device::{self, Queues};
use crate::port::queue::Queue;
use crate::port::socket::{BindMode, Failure, Rings, Socket, Step};
use crate::settings::{MAX_QUEUES, Mode, PortId, PortSpec, Role};
use crate::snapshot::Obtained;
use crate::steer::link::{self, Link, Place};
use crate::steer::{Steer, Steered};
use crate::umem::Umem;

/// A queue stays bound for up to a quarter of a second after the process that held it has died.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// What the kernel keeps free in front of each packet (`XDP_PACKET_HEADROOM`).
const HEADROOM: u32 = 256;

/// An Ethernet header with two VLAN tags.
const ETHERNET: u32 = 14 + 8;

/// A port whose sockets are bound and whose queues wait for their workers. Nothing flows to them yet.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) link: Link,
    pub(crate) obtained: Obtained,
    pub(crate) queues: Vec<Queue>,
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
    steer.reset(id).map_err(kernel("resetting its counters"))?;
    let steered = steered(id, spec, queues.map_or(MAX_QUEUES as u32, |queues| queues.rx));
    steer
        .set_port(spec.ifindex, &steered)
        .map_err(kernel("telling the XDP program of it"))?;
    let opened = attach(steer, spec).and_then(|(link, place)| {
        let (obtained, queues) = bind_all(umem, id, spec, queues, place)?;
        Ok(Opened {
            link,
            obtained,
            queues,
        })
    });
    if opened.is_err() {
        // Best effort: the first error is the one to tell.
        let _ = steer.remove_port(spec.ifindex);
    }
    opened
}

/// Attaches the program where the mode asks for it, or where the driver lets it.
fn attach(steer: &Steer, spec: &PortSpec) -> Result<(Link, Place), Error> {
    let places: &[Place] = match spec.mode {
        Mode::Auto => &[Place::Native, Place::Generic],
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
) -> Result<(Obtained, Vec<Queue>), Error> {
    let modes: &[BindMode] = match (spec.mode, place) {
        (Mode::Auto, Place::Native) => &[BindMode::Zerocopy, BindMode::Copy],
        (Mode::Zerocopy, _) => &[BindMode::Zerocopy],
        (Mode::Copy | Mode::Generic, _) | (Mode::Auto, Place::Generic) => &[BindMode::Copy],
    };
    let mut first = None;
    for (at, &mode) in modes.iter().enumerate() {
        let bound = fits(umem, spec, mode).and_then(|()| bind(umem, spec, 0, mode, None));
        match bound {
            Ok(bound) => {
                first = Some((mode, bound));
                break;
            }
            // The driver has no zero-copy, or not with these settings (virtio_net says EINVAL).
            Err(Error::Unsupported { .. }) if at + 1 < modes.len() => {}
            Err(error) => return Err(error),
        }
    }
    let (mode, (socket, rings)) = first.expect("the last mode returns or binds");
    let zerocopy = socket.is_zerocopy().map_err(|source| Error::Kernel {
        what: format!("port {}: asking for its mode", spec.name),
        source,
    })?;
    let sends = |number| count.is_none_or(|count| number < count.tx);
    let mut queues = vec![Queue::new(id, 0, (socket.clone(), rings), zerocopy, true, umem)];
    for number in 1..count.map_or(MAX_QUEUES as u32, |count| count.rx) {
        match bind(umem, spec, number, mode, Some(&socket)) {
            Ok(bound) => queues.push(Queue::new(id, number, bound, zerocopy, sends(number), umem)),
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
    Ok((obtained, queues))
}

/// Whether packets of the port's MTU fit what the driver receives into.
fn fits(umem: &Umem, spec: &PortSpec, mode: BindMode) -> Result<(), Error> {
    let room = umem.frame_size() - HEADROOM;
    // A driver that does not tell its name is asked by binding.
    let driver = device::driver(&spec.name).ok().flatten().unwrap_or_default();
    let fits = device::zerocopy_room(&driver, room);
    let frame = spec.attrs.mtu + ETHERNET;
    if mode == BindMode::Copy || fits == room || frame <= fits {
        return Ok(());
    }
    Err(Error::Unsupported {
        port: spec.name.clone(),
        mode: "zerocopy",
        instead: "auto",
        source: io::Error::other(format!(
            "{driver} receives into {fits} of the {} bytes of a UMEM frame, and packets of the MTU need {frame}; a larger \
             runtime.frame_size or a smaller MTU would do",
            umem.frame_size()
        )),
    })
}

/// Binds one queue, again and again while it is still another socket's.
fn bind(
    umem: &Umem,
    spec: &PortSpec,
    queue: u32,
    mode: BindMode,
    first: Option<&Socket>,
) -> Result<(Socket, Rings), Error> {
    let give_up = Instant::now() + BUSY_FOR;
    loop {
        match Socket::open(umem, spec.ifindex, queue, mode, first) {
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
