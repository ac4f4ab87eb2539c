//! The system calls that the standard library does not offer: entering a network namespace, packet sockets, signals.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Moves the calling thread into the network namespace behind `fd`; the other threads stay where they are.
///
/// # Errors
/// What `setns(2)` answers, for example EPERM without `CAP_SYS_ADMIN`.
pub fn enter(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes two integers; the descriptor is open for as long as it is borrowed. No memory is shared with the kernel.
    check(unsafe { libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Makes `command` run inside the namespace behind `fd`, and die with the thread that starts it: a test that is killed leaves no
/// program behind. `fd` must stay open until the command is spawned.
pub fn inside(command: &mut Command, fd: BorrowedFd<'_>) {
    let fd = fd.as_raw_fd();
    let enter = move || {
        // SAFETY: both calls take integers only and are async-signal-safe, which is what the time between fork and exec demands.
        unsafe {
            check(libc::setns(fd, libc::CLONE_NEWNET))?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)).map(drop)
        }
    };
    // SAFETY: the closure neither allocates nor takes a lock; it only makes the two system calls above.
    unsafe { command.pre_exec(enter) };
}

/// Sends `signal` to a process that the caller started and has not yet waited for.
///
/// # Errors
/// ESRCH when there is no such process.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two integers.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) }).map(drop)
}

/// One thread of another process, stopped for as long as this lives. The process's other threads go on.
pub struct StoppedThread(libc::pid_t);

impl StoppedThread {
    /// Stops the thread with number `tid`, as a debugger would (`ptrace(2)`).
    ///
    /// # Errors
    /// EPERM when somebody else traces it or this process may not, ESRCH when there is no such thread.
    pub fn stop(tid: u32) -> io::Result<Self> {
        let tid = tid as libc::pid_t;
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: these requests read neither the address nor the data; the kernel writes nothing into this process.
        check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, nothing, nothing) } as i32)?;
        let stopped = Self(tid);
        // SAFETY: as above.
        check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, nothing, nothing) } as i32)?;
        let mut status = 0;
        // SAFETY: waitpid writes one integer to the pointer, which is valid and exclusive.
        check(unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) })?;
        Ok(stopped)
    }
}

impl StoppedThread {
    /// Lets the thread go on at `function`, an address in its process, as if that had been called with a pointer to what `argument`
    /// answers for the place where it will lie: on the thread's own stack, far below what is in use. The function must not return.
    ///
    /// # Errors
    /// What `ptrace(2)` answers.
    pub fn call(self, function: u64, argument: impl FnOnce(u64) -> Vec<u8>) -> io::Result<()> {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: user_regs_struct is plain data for which all zeroes is a valid value.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one user_regs_struct, which is live and exclusive.
        check(unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.0, nothing, &raw mut registers) } as i32)?;
        let at = (registers.rsp - 4096) & !15;
        let mut bytes = 0_u64.to_ne_bytes().to_vec(); // The return address: there is nobody to return to.
        bytes.extend(argument(at));
        for (word, place) in bytes.chunks(8).zip((at - 8..).step_by(8)) {
            let mut value = [0; 8];
            value[..word.len()].copy_from_slice(word);
            let (place, value) = (
                place as *mut libc::c_void,
                u64::from_ne_bytes(value) as *mut libc::c_void,
            );
            // SAFETY: both are numbers to this process; the kernel writes to the stopped one's memory.
            check(unsafe { libc::ptrace(libc::PTRACE_POKEDATA, self.0, place, value) } as i32)?;
        }
        (registers.rip, registers.rdi, registers.rsp) = (function, at, at - 8);
        // Not in a system call any more: the kernel must not begin it anew.
        registers.orig_rax = u64::MAX;
        // SAFETY: the kernel reads one user_regs_struct.
        check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.0, nothing, &raw mut registers) } as i32)
            .map(drop)
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the request reads neither the address nor the data. Only the thread that stopped it can let it go: tests
        // keep this value on their own stack.
        let done = unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, nothing, nothing) };
        debug_assert!(
            done == 0 || std::thread::panicking(),
            "{}",
            io::Error::last_os_error()
        );
    }
}

/// The effective user.
pub fn euid() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Clock ticks a second, the unit of the times in `/proc/PID/stat`.
pub fn ticks_per_second() -> f64 {
    // SAFETY: sysconf takes an integer and returns one.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

/// A packet socket (`packet(7)`) of one device: whole Ethernet frames in and out.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens it on the device called `name` of the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel answers; ENODEV when there is no such device.
    pub fn open(name: &str) -> io::Result<Self> {
        let name = CString::new(name)?;
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket takes integers; the descriptor is checked before it becomes an owned one, and nobody else owns it.
        let socket = unsafe {
            OwnedFd::from_raw_fd(check(libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                protocol.into(),
            ))?)
        };
        // SAFETY: `name` is a C string that outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: sockaddr_ll is plain data for which all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer is to a live sockaddr_ll and the length is its size.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(Self(socket))
    }

    /// Sends one whole frame, Ethernet header included.
    ///
    /// # Errors
    /// What `send(2)` answers: EMSGSIZE for a frame longer than the device's MTU allows.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of a live slice.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// The next frame in either direction, or `None` after `limit` without one.
    ///
    /// # Errors
    /// What `poll(2)` or `recv(2)` answers: ENETDOWN when the device goes down.
    pub fn receive(&self, limit: Duration) -> io::Result<Option<Vec<u8>>> {
        if !readable(self.0.as_raw_fd(), limit)? {
            return Ok(None);
        }
        let mut frame = vec![0; 65_536];
        // SAFETY: pointer and length are those of a live buffer.
        let length = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        frame.truncate(length as usize);
        Ok(Some(frame))
    }
}

/// A tap device (`Documentation/networking/tuntap.rst`), the end that a virtual machine has: each packet goes with a
/// `virtio_net_hdr` that says what the machine has left undone.
pub struct Tap(std::fs::File);

impl Tap {
    /// Makes a tap called `name` in the calling thread's network namespace; it goes with this.
    ///
    /// # Errors
    /// What the kernel answers; ENOENT without the module tun.
    pub fn open(name: &str) -> io::Result<Self> {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        // SAFETY: ifreq is plain data for which all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1]
            .iter_mut()
            .zip(name.bytes())
        {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        // SAFETY: the kernel reads and writes one ifreq, which lives until then.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
        Ok(Self(file))
    }

    /// Hands over one frame with its `virtio_net_hdr` in front.
    ///
    /// # Errors
    /// What `write(2)` answers.
    pub fn send(&self, header: [u8; 10], frame: &[u8]) -> io::Result<()> {
        use std::io::Write as _;
        (&self.0).write_all(&[&header[..], frame].concat())
    }

    /// The next frame for the machine without its header, or `None` after `limit` without one.
    ///
    /// # Errors
    /// What `poll(2)` or `read(2)` answers.
    pub fn receive(&self, limit: Duration) -> io::Result<Option<Vec<u8>>> {
        use std::io::Read as _;
        if !readable(self.0.as_raw_fd(), limit)? {
            return Ok(None);
        }
        let mut frame = vec![0; 65_536];
        let length = (&self.0).read(&mut frame)?;
        Ok(Some(frame[..length].get(10..).unwrap_or_default().to_vec()))
    }
}

/// Whether something can be read within `limit`.
fn readable(fd: std::os::fd::RawFd, limit: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer is to one live pollfd, and the count says one.
    Ok(check(unsafe { libc::poll(&raw mut poll, 1, limit) })? != 0)
}

/// Keeps the calling thread on one core.
///
/// # Errors
/// EINVAL when the core is not there.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    // SAFETY: cpu_set_t is plain data for which all zeroes is a valid value, and CPU_SET stays inside of it.
    let cores = unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut cores);
        cores
    };
    // SAFETY: the pointer is to a live cpu_set_t and the length is its size.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cores) }).map(drop)
}

/// Gives a socket a receive buffer of so many bytes, beyond `net.core.rmem_max`.
///
/// # Errors
/// EPERM without `CAP_NET_ADMIN`.
pub fn receive_buffer(socket: &impl AsRawFd, bytes: i32) -> io::Result<()> {
    // SAFETY: the pointer is to a live integer and the length is its size.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Makes `command` find no AF_XDP, as in a kernel that was built without it: a filter of its system calls (seccomp(2)) answers
/// `socket(AF_XDP, …)` with EAFNOSUPPORT.
pub fn without_af_xdp(command: &mut Command) {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    // Offsets in `struct seccomp_data`: the call's number at 0, the low half of its first argument at 16.
    let filter = [
        op(load, 0, 0, 0),
        op(equal, 0, 3, libc::SYS_socket as u32),
        op(load, 0, 0, 16),
        op(equal, 0, 1, libc::AF_XDP as u32),
        op(answer, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        op(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: both calls are async-signal-safe; the program points to the filter, which the closure owns, and the kernel copies it.
        unsafe {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            check(libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ))
            .map(drop)
        }
    };
    // SAFETY: the closure neither allocates nor takes a lock; it only makes the two system calls above.
    unsafe { command.pre_exec(install) };
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

/// Whether the BPF map with this id still exists anywhere in the kernel.
///
/// # Errors
/// EPERM without the right to ask.
pub fn bpf_map_exists(id: u32) -> io::Result<bool> {
    bpf_id_exists(14, id) // BPF_MAP_GET_FD_BY_ID
}

/// Whether the BPF program with this id still exists anywhere in the kernel.
///
/// # Errors
/// EPERM without the right to ask.
pub fn bpf_program_exists(id: u32) -> io::Result<bool> {
    bpf_id_exists(13, id) // BPF_PROG_GET_FD_BY_ID
}

fn bpf_id_exists(command: libc::c_int, id: u32) -> io::Result<bool> {
    // `union bpf_attr` (linux/bpf.h) begins with the id for these two commands; what follows must be zero.
    let attributes: [u32; 32] = std::array::from_fn(|word| if word == 0 { id } else { 0 });
    // SAFETY: the pointer is to live memory of the length that is given, and the kernel only reads it.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if answer >= 0 {
        // SAFETY: the kernel has just made this descriptor for us; dropping it closes it.
        drop(unsafe { OwnedFd::from_raw_fd(answer as libc::c_int) });
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        error => Err(error),
    }
}
