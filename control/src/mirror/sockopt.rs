//! What has no safe wrapper: one socket option, and watching a socket of another crate.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_sys::Socket;
use tokio::io::unix::AsyncFd;

/// Sets the receive buffer beyond the limit of ordinary users (`SO_RCVBUFFORCE`, needs `CAP_NET_ADMIN`). The kernel
/// doubles the number for its own bookkeeping.
pub fn force_receive_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let value: libc::c_int = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: no wrapper in use offers this option. The descriptor is open for the whole call because it is borrowed,
    // and the pointer and the length describe `value`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has the runtime tell when the socket can be read.
pub fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: tokio has no safe constructor for types of other crates that only name their descriptor. The socket owns
    // its descriptor, gives the same one each time and closes it when it is dropped, which is when tokio lets go of it:
    // nothing here takes the socket out of the `AsyncFd` or closes it behind its back.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}
