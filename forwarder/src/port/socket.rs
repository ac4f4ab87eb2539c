//! One AF_XDP socket: the node's UMEM registered with it, its four rings mapped, bound to one queue of one device.
//!
//! Every port registers the same memory anew instead of sharing one registration: the kernel gives all sockets of one
//! registration the same mode, zero-copy or copy (`xp_assign_dev_shared` in `net/xdp/xsk_buff_pool.c`), and binds new
//! ones through a socket that must stay bound. A zero-copy uplink could not stand beside a copying veth, and the port
//! that was opened first could never be closed. Frames move between registrations as they are: an address means the
//! same byte in all of them.

// Why unsafe is needed: socket options, bind and mmap go through libc with pointers to plain structures.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::ring::{Consumer, Desc, Entry, Parts, Producer};
use crate::umem::Umem;

/// Entries of each ring. As many frames as a queue may have in the kernel to receive into, so that an RX ring never
/// overflows.
pub(crate) const RING: u32 = 2048;

/// `XDP_MAX_TX_SKB_BUDGET` (Linux 6.17): frames that one `sendto` sends in copy mode; 32 unless raised.
const MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Bytes that may wait in the device's queue. In copy mode each frame is a socket buffer of its own that counts until
/// it is freed: a whole TX ring of them must fit.
const SEND_BUFFER: libc::c_int = RING as libc::c_int * 4096;

/// What a step of opening a socket failed with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) source: io::Error,
}

/// The steps of opening a socket that fail for different causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Create,
    Register,
    Rings,
    Bind,
}

/// How to bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BindMode {
    Zerocopy,
    Copy,
}

/// The rings of a bound socket, for its worker.
pub(crate) struct Rings {
    pub(crate) fill: Producer<u64>,
    pub(crate) completion: Consumer<u64>,
    pub(crate) rx: Consumer<Desc>,
    pub(crate) tx: Producer<Desc>,
}

/// A bound socket. It closes when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    fd: Arc<OwnedFd>,
}

/// What the kernel counted on a socket (`struct xdp_statistics`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// No frame to receive into, or a packet larger than a frame.
    pub(crate) rx_dropped: u64,
    /// The RX ring was full.
    pub(crate) rx_ring_full: u64,
    /// No frame to receive into.
    pub(crate) rx_fill_ring_empty: u64,
    /// Descriptors of the fill and TX rings that made no sense to the kernel.
    pub(crate) invalid: u64,
}

/// What a kick did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kick {
    /// The kernel did what it could; look at the ring for what is left.
    Done,
    /// The kernel wants to be asked again later: out of buffers or over its budget.
    Again,
    /// The device is down or gone.
    Down,
}

impl Socket {
    /// Creates a socket that is not bound yet.
    fn create() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and that nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Opens a socket on `queue` of the device `ifindex`; with `in_parts`, packets may be spread over several frames.
    /// Queues of one port share the registration of `first`.
    pub(crate) fn open(
        umem: &Umem,
        ifindex: u32,
        queue: u32,
        mode: BindMode,
        in_parts: bool,
        first: Option<&Socket>,
    ) -> Result<(Self, Rings), Failure> {
        let at = |step| move |source| Failure { step, source };
        let socket = Self::create().map_err(at(Step::Create))?;

        if first.is_none() {
            let (addr, len) = umem.area();
            // SAFETY: all fields are integers, for which zero is a value.
            let mut registration: libc::xdp_umem_reg = unsafe { std::mem::zeroed() };
            registration.addr = addr;
            registration.len = len;
            registration.chunk_size = umem.frame_size();
            socket
                .set(libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)
                .map_err(at(Step::Register))?;
        }
        for ring in [
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_RX_RING,
            libc::XDP_TX_RING,
        ] {
            socket.set(libc::SOL_XDP, ring, &RING).map_err(at(Step::Rings))?;
        }
        let rings = socket.map_rings().map_err(at(Step::Rings))?;

        // Kernels before 6.17 do not know the budget; a worker kicks them as often as it takes.
        let _ = socket.set(libc::SOL_XDP, MAX_TX_SKB_BUDGET, &RING);
        if socket
            .set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER)
            .is_err()
        {
            // Without CAP_NET_ADMIN in the first namespace: as much as the node allows.
            let _ = socket.set(libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER);
        }
        // A shared registration brings its mode along; asking for it again is an error (`xsk_bind`).
        let flags = match (first, mode) {
            (Some(_), _) => libc::XDP_SHARED_UMEM,
            (None, BindMode::Zerocopy) => libc::XDP_ZEROCOPY | libc::XDP_USE_NEED_WAKEUP,
            (None, BindMode::Copy) => libc::XDP_COPY | libc::XDP_USE_NEED_WAKEUP,
        };
        let spread = if in_parts && first.is_none() {
            libc::XDP_USE_SG
        } else {
            0
        };
        socket
            .bind(ifindex, queue, flags | spread, first)
            .map_err(at(Step::Bind))?;
        Ok((socket, rings))
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: the kernel reads at most as many bytes as `value` has.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// # Safety
    /// Any bytes must be a value of `T`.
    unsafe fn get<T>(&self, option: libc::c_int) -> io::Result<T> {
        // SAFETY: any bytes are a value of T, zeros among them.
        let mut value: T = unsafe { std::mem::zeroed() };
        let mut len = size_of::<T>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, the size of `value`.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_XDP,
                option,
                std::ptr::from_mut(&mut value).cast(),
                &raw mut len,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(value)
        }
    }

    fn map_rings(&self) -> io::Result<Rings> {
        // SAFETY: the structure is all integers.
        let offsets: libc::xdp_mmap_offsets = unsafe { self.get(libc::XDP_MMAP_OFFSETS)? };
        let fill = self.map_ring::<u64>(&offsets.fr, libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t)?;
        let completion =
            self.map_ring::<u64>(&offsets.cr, libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t)?;
        let rx = self.map_ring::<Desc>(&offsets.rx, libc::XDP_PGOFF_RX_RING as libc::off_t)?;
        let tx = self.map_ring::<Desc>(&offsets.tx, libc::XDP_PGOFF_TX_RING as libc::off_t)?;
        // SAFETY: `map_ring` maps what the kernel says; each ring gets one handle on our side, the one made here.
        unsafe {
            Ok(Rings {
                fill: Producer::new(fill),
                completion: Consumer::new(completion),
                rx: Consumer::new(rx),
                tx: Producer::new(tx),
            })
        }
    }

    fn map_ring<T: Entry>(&self, at: &libc::xdp_ring_offset, page: libc::off_t) -> io::Result<Parts> {
        let len = at.desc as usize + RING as usize * size_of::<T>();
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                self.fd.as_raw_fd(),
                page,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).expect("the kernel never maps at address 0 unasked");
        let memory = Arc::new(Mapping { start, len });
        // SAFETY: the kernel's offsets lie inside what it maps.
        let part = |offset: u64| unsafe { start.as_ptr().add(offset as usize) };
        Ok(Parts {
            producer: part(at.producer).cast(),
            consumer: part(at.consumer).cast(),
            flags: part(at.flags).cast(),
            entries: part(at.desc),
            size: RING,
            memory,
        })
    }

    fn bind(&self, ifindex: u32, queue: u32, flags: libc::__u16, first: Option<&Socket>) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as libc::__u16,
            sxdp_flags: flags,
            sxdp_ifindex: ifindex,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: first.map_or(0, |socket| socket.fd.as_raw_fd() as u32),
        };
        // SAFETY: the kernel reads one sockaddr_xdp.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Whether the device writes into the UMEM itself (`XDP_OPTIONS`).
    pub(crate) fn is_zerocopy(&self) -> io::Result<bool> {
        // SAFETY: one integer.
        let options: libc::xdp_options = unsafe { self.get(libc::XDP_OPTIONS)? };
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// What the kernel counted on this socket.
    pub(crate) fn statistics(&self) -> io::Result<Statistics> {
        // SAFETY: the structure is all integers.
        let counted: libc::xdp_statistics = unsafe { self.get(libc::XDP_STATISTICS)? };
        Ok(Statistics {
            rx_dropped: counted.rx_dropped,
            rx_ring_full: counted.rx_ring_full,
            rx_fill_ring_empty: counted.rx_fill_ring_empty_descs,
            invalid: counted.rx_invalid_descs + counted.tx_invalid_descs,
        })
    }

    /// Has the kernel send what is in the TX ring.
    #[inline]
    pub(crate) fn kick_tx(&self) -> Kick {
        // SAFETY: no bytes are sent and no address is given.
        let result = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        Self::kicked(result)
    }

    /// Has the driver look at the fill ring.
    #[inline]
    pub(crate) fn kick_rx(&self) -> Kick {
        // SAFETY: no room for bytes and none for an address is given.
        let result = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        Self::kicked(result)
    }

    fn kicked(result: isize) -> Kick {
        if result >= 0 {
            return Kick::Done;
        }
        match io::Error::last_os_error().raw_os_error() {
            // The ring goes on being served: EBUSY is a packet that the device dropped.
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR | libc::ENOMEM) => Kick::Again,
            // ENXIO: unbound as the device went away. ENETDOWN: not up.
            _ => Kick::Down,
        }
    }

    /// The descriptor, to wait for packets with.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.fd.as_fd()
    }

    /// A socket that is none, for tests of what stands around it.
    #[cfg(test)]
    pub(crate) fn fake() -> Self {
        let file = std::fs::File::open("/dev/null").expect("/dev/null opens");
        Self {
            fd: Arc::new(file.into()),
        }
    }
}

/// Whether the kernel knows the flag for packets in several frames, as it does since 6.6: it looks at the flags first, and
/// at the device, which there is none of, only if it knows them (`xsk_bind`).
pub(crate) fn knows_parts() -> bool {
    let flags = libc::XDP_COPY | libc::XDP_USE_SG;
    Socket::create()
        .and_then(|socket| socket.bind(i32::MAX as u32, 0, flags, None))
        .is_err_and(|error| error.raw_os_error() == Some(libc::ENODEV))
}

/// Memory mapped from a socket.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: shared memory that any thread may access; the rings' protocol says how.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map_ring` with this length; every user of it holds the `Arc` that is gone now.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
