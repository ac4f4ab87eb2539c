//! The system calls that the standard library does not have: namespaces, packet sockets, the monotonic clock, interrupts.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Context, Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Makes SIGINT, SIGTERM and SIGHUP set a flag instead of ending the process, so that namespaces are always cleaned up.
pub fn catch_interrupts() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: needed because the standard library has no signal handlers. The handler only stores to an atomic, which is
        // async-signal-safe.
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
}

/// An error once a signal has come. Long steps call it in their loops.
pub fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        Err(Error::new("interrupted"))
    } else {
        Ok(())
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, the clock that BPF programs read.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds that the calling thread has run on a core (CLOCK_THREAD_CPUTIME_ID).
pub fn thread_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: needed because the standard library does not give these clocks' numbers. `now` is a valid timespec to write to.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Moves the calling thread, and what it starts, into a network namespace of `ip netns`.
pub fn enter_netns(name: &str) -> Result<()> {
    let path = format!("/run/netns/{name}");
    let file = File::open(&path).context(&path)?;
    // SAFETY: needed because the standard library has no setns. The descriptor is open, and the call touches no memory.
    match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("setns"),
    }
}

/// Pins the calling thread, and threads and processes that it starts, to one core.
pub fn pin(core: usize) -> Result<()> {
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        Ok(())
    } else {
        Err(Error::new(format!("cannot run on core {core}")))
    }
}

/// Pins another process, all its threads at the time, to one core.
pub fn pin_process(pid: u32, core: usize) -> Result<()> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).context(format!("process {pid}"))?;
    for task in tasks.flatten() {
        let Ok(tid) = task.file_name().to_string_lossy().parse::<libc::pid_t>() else {
            continue;
        };
        // SAFETY: needed because the standard library has no affinity calls. A cpu_set_t of zeros is an empty set, and both
        // calls get one of the right size.
        let rc = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &set)
        };
        if rc != 0 {
            return Err(io::Error::last_os_error()).context(format!("core {core} for process {pid}"));
        }
    }
    Ok(())
}

/// Sends whole Ethernet frames out of one interface (`packet(7)`).
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens a socket on the interface with this index, in the calling thread's namespace. Receives nothing.
    pub fn open(ifindex: u32) -> Result<Self> {
        // SAFETY: needed because the standard library has no packet sockets; no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("packet socket");
        }
        // SAFETY: the descriptor was just opened and belongs to nobody else.
        let socket = PacketSocket(unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: a sockaddr_ll of zeros is a valid value of that plain struct.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = ifindex as i32;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address lives through the call and `len` is its size.
        if unsafe { libc::bind(fd, (&raw const address).cast(), len) } != 0 {
            return Err(io::Error::last_os_error()).context("bind of a packet socket");
        }
        Ok(socket)
    }

    /// Sends one frame. A full queue is not an error: the frame is lost, as on a wire.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: pointer and length are those of one slice.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent >= 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            error => Err(error).context("send on a packet socket"),
        }
    }
}
