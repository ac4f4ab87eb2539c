//! Attaches the steering program to devices.

// Why unsafe is needed: libbpf-rs attaches XDP links without flags, and the mode is a flag; libbpf is called directly.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Where in the kernel the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the driver.
    Native,
    /// Behind the allocation of the socket buffer.
    Generic,
}

/// The program's attachment to one device. It is not pinned: it goes when this is dropped or the process dies.
#[derive(Debug)]
pub(crate) struct Link {
    _fd: OwnedFd,
}

/// Attaches a program to a device.
pub(crate) fn attach(program: BorrowedFd<'_>, ifindex: u32, place: Place) -> io::Result<Link> {
    let flags = match place {
        Place::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
        Place::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
    };
    // SAFETY: integers and unions of integers and pointers, for which zero is a value.
    let mut options: libbpf_sys::bpf_link_create_opts = unsafe { std::mem::zeroed() };
    options.sz = size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t;
    options.flags = flags;
    // SAFETY: libbpf reads the options, whose size they tell.
    let fd = unsafe {
        libbpf_sys::bpf_link_create(
            program.as_raw_fd(),
            ifindex as i32,
            libbpf_sys::BPF_XDP,
            &raw const options,
        )
    };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: a descriptor that was just made and that nobody else has.
    Ok(Link {
        _fd: unsafe { OwnedFd::from_raw_fd(fd) },
    })
}

/// The id of the XDP program that is attached to a device; 0 for none.
pub(crate) fn attached(ifindex: u32) -> io::Result<u32> {
    let mut id = 0;
    // SAFETY: libbpf writes one integer.
    let result = unsafe { libbpf_sys::bpf_xdp_query_id(ifindex as i32, 0, &raw mut id) };
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(id)
    }
}

/// How many UMEM frames a device can spread a packet over in zero-copy mode; 1 when it does not tell, as kernels before 6.6
/// do not (`xdp-zc-max-segs` of `Documentation/netlink/specs/netdev.yaml`).
pub(crate) fn zerocopy_parts(ifindex: u32) -> u32 {
    // SAFETY: all integers, for which zero is a value.
    let mut options: libbpf_sys::bpf_xdp_query_opts = unsafe { std::mem::zeroed() };
    options.sz = size_of::<libbpf_sys::bpf_xdp_query_opts>() as libbpf_sys::size_t;
    // SAFETY: libbpf writes into the options, whose size they tell.
    let result = unsafe { libbpf_sys::bpf_xdp_query(ifindex as i32, 0, &raw mut options) };
    if result < 0 {
        1
    } else {
        options.xdp_zc_max_segs.clamp(1, crate::frame::MAX_PARTS as u32)
    }
}
