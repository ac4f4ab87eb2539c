//! The netlink sockets: one that listens, one for each dump, one for requests.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::constants::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use tracing::warn;

use super::MirrorError;
use super::sockopt::force_receive_buffer;

/// `RTNLGRP_…`: links, neighbours, addresses, routes and policy rules of both families, settings of devices, nexthop objects.
const GROUPS: [u32; 11] = [1, 3, 5, 7, 8, 9, 11, 19, 24, 25, 32];

/// Largest datagram that the kernel sends: dumps fill 32 KiB.
const DATAGRAM: usize = 64 << 10;

fn failed(what: &'static str) -> impl Fn(io::Error) -> MirrorError {
    move |source| MirrorError::Socket { what, source }
}

/// A socket that asks, with strict checking, so that the kernel filters dumps by table.
pub fn asking() -> Result<Socket, MirrorError> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("opening a socket"))?;
    socket.bind_auto().map_err(failed("binding a socket"))?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .map_err(failed("connecting to the kernel"))?;
    socket
        .set_netlink_get_strict_chk(true)
        .map_err(failed("asking for strict checking"))?;
    // Errors need not carry the whole request back.
    socket
        .set_cap_ack(true)
        .map_err(failed("asking for short acknowledgements"))?;
    Ok(socket)
}

/// The socket that listens to all that the mirror follows.
pub fn listening(receive_buffer: usize) -> Result<Socket, MirrorError> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("opening a socket"))?;
    if let Err(error) = force_receive_buffer(socket.as_fd(), receive_buffer) {
        let size = libc::c_int::try_from(receive_buffer).unwrap_or(libc::c_int::MAX);
        socket
            .set_rx_buf_sz(size)
            .map_err(failed("setting the receive buffer"))?;
        let got = socket.get_rx_buf_sz().unwrap_or(0);
        warn!(
            "netlink: no receive buffer of {receive_buffer} bytes ({error}), {got} instead: overruns are likely and \
             cost a dump each; run with CAP_NET_ADMIN or raise net.core.rmem_max"
        );
    }
    socket.bind_auto().map_err(failed("binding a socket"))?;
    socket
        .set_non_blocking(true)
        .map_err(failed("making a socket non-blocking"))?;
    for group in GROUPS {
        socket.add_membership(group).map_err(failed("subscribing"))?;
    }
    Ok(socket)
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// A datagram is in the buffer.
    Datagram,
    /// There is nothing now.
    Nothing,
    /// The kernel had to drop messages for this socket.
    Overrun,
}

/// Reads a datagram from the kernel without waiting. What others send to the socket is dropped.
pub fn read(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<Read> {
    loop {
        buffer.clear();
        buffer.reserve(DATAGRAM);
        match socket.recv_from(buffer, libc::MSG_DONTWAIT) {
            Ok((_, from)) if from.port_number() == 0 => return Ok(Read::Datagram),
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(Read::Nothing),
                Some(libc::ENOBUFS) => return Ok(Read::Overrun),
                Some(libc::EINTR) => {}
                _ => return Err(error),
            },
        }
    }
}
