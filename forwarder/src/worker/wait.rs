//! Sleeping in the kernel until a packet, a command or a handed-over frame arrives.

// Why unsafe is needed: epoll and eventfd go through libc with pointers to plain structures.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::handshake::Handshake;

/// Wakes a worker that sleeps; costs a worker that does not next to nothing. Any thread may use it.
#[derive(Debug)]
pub(crate) struct Waker {
    event: OwnedFd,
    handshake: CachePadded<Handshake>,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and that nobody else has.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            event,
            handshake: CachePadded::new(Handshake::new()),
        })
    }

    /// Says that there is work, which must have been made visible before: a sleeping worker is woken.
    #[inline]
    pub(crate) fn wake(&self) {
        if self.handshake.must_ring() {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        let one = 1u64;
        // SAFETY: the kernel reads 8 bytes. It fails only when the counter is full, and then it wakes all the same.
        unsafe { libc::write(self.event.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
    }
}

/// The turn that a worker asks the scheduler for: short ones come sooner when other programs want the core too.
const TURN: Duration = Duration::from_micros(200);

/// `struct sched_attr` (linux/sched/types.h), as its first version was.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for short turns of the calling thread, without asking for more of the core. Linux 6.12 and later grant them;
/// earlier ones take no notice. A policy that somebody else has set is left alone.
pub(crate) fn ask_for_short_turns() -> io::Result<()> {
    let size = size_of::<SchedAttr>() as u32;
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel writes at most `size` bytes, the structure's own.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if attr.policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attr.size = size;
    attr.runtime = TURN.as_nanos() as u64;
    // SAFETY: the kernel reads `size` bytes, the structure's own.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What a worker sleeps in.
#[derive(Debug)]
pub(crate) struct Sleep {
    epoll: OwnedFd,
}

impl Sleep {
    /// Wakes for `waker`, and for the sockets that are added.
    pub(crate) fn new(waker: &Waker) -> io::Result<Self> {
        use std::os::fd::AsFd;
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and that nobody else has.
        let sleep = Self {
            epoll: unsafe { OwnedFd::from_raw_fd(fd) },
        };
        sleep.add(waker.event.as_fd())?;
        Ok(sleep)
    }

    /// Wakes when `socket` has something to read.
    pub(crate) fn add(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: socket.as_raw_fd() as u64,
        };
        self.control(libc::EPOLL_CTL_ADD, socket, &raw mut event)
    }

    /// Wakes for `socket` no longer.
    pub(crate) fn remove(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, socket, std::ptr::null_mut())
    }

    fn control(&self, operation: i32, fd: BorrowedFd<'_>, event: *mut libc::epoll_event) -> io::Result<()> {
        // SAFETY: the kernel reads one event, or none for a removal.
        if unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), event) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// To be called before looking for work a last time.
    pub(crate) fn prepare(&self, waker: &Waker) {
        waker.handshake.prepare();
    }

    /// To be called when that found work, or after sleeping.
    pub(crate) fn resume(&self, waker: &Waker) {
        waker.handshake.resume();
    }

    /// Sleeps until there is something to do, or for the given time (rounded up to milliseconds).
    pub(crate) fn sleep(&self, waker: &Waker, limit: Option<Duration>) {
        let limit = limit.map_or(-1, |limit| limit.as_micros().div_ceil(1000).min(1 << 30) as i32);
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        // SAFETY: the kernel writes at most 8 events.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 8, limit) };
        let rung = |event: &libc::epoll_event| event.u64 == waker.event.as_raw_fd() as u64;
        if count > 0 && events[..count as usize].iter().any(rung) {
            let mut counter = 0u64;
            // SAFETY: the kernel writes 8 bytes.
            unsafe {
                libc::read(
                    waker.event.as_raw_fd(),
                    std::ptr::from_mut(&mut counter).cast(),
                    8,
                )
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::{Relaxed, SeqCst};
    use std::time::Instant;

    use super::*;

    #[test]
    fn no_wake_up_is_lost() {
        let waker = Arc::new(Waker::new().unwrap());
        let sleep = Sleep::new(&waker).unwrap();
        let work = Arc::new(AtomicU64::new(0));
        let rounds = 20_000;
        let (theirs, made) = (waker.clone(), work.clone());
        let maker = std::thread::spawn(move || {
            for i in 0..rounds {
                while made.load(SeqCst) != i * 2 {
                    std::thread::yield_now();
                }
                made.store(i * 2 + 1, Relaxed);
                theirs.wake();
            }
        });
        for i in 0..rounds {
            loop {
                sleep.prepare(&waker);
                if work.load(Relaxed) == i * 2 + 1 {
                    break;
                }
                let before = Instant::now();
                sleep.sleep(&waker, Some(Duration::from_secs(20)));
                assert!(
                    before.elapsed() < Duration::from_secs(19),
                    "slept through round {i}"
                );
            }
            sleep.resume(&waker);
            work.store(i * 2 + 2, SeqCst);
        }
        maker.join().unwrap();
    }

    #[test]
    fn short_turns_are_granted_or_ignored() {
        std::thread::spawn(|| ask_for_short_turns().unwrap())
            .join()
            .unwrap();
    }

    #[test]
    fn it_sleeps_no_longer_than_asked() {
        let waker = Waker::new().unwrap();
        let sleep = Sleep::new(&waker).unwrap();
        let before = Instant::now();
        sleep.sleep(&waker, Some(Duration::from_micros(100)));
        assert!(before.elapsed() >= Duration::from_micros(100));
    }
}
