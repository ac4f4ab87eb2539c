//! The few system calls that the standard library does not offer.
#![allow(unsafe_code)]

/// Raises the limit of open files to what the system allows this process: each port queue, each client and each
/// netlink socket needs one, and the usual limit of 1,024 is soon reached. Answers the limit that holds.
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: needed because std has no getrlimit. It writes one `rlimit` to the pointer, which is valid and exclusive.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    let wanted = libc::rlimit {
        rlim_cur: limit.rlim_max,
        rlim_max: limit.rlim_max,
    };
    // SAFETY: needed because std has no setrlimit. It reads one `rlimit` from the pointer, which is valid.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) } == 0 {
        wanted.rlim_cur
    } else {
        limit.rlim_cur
    }
}
