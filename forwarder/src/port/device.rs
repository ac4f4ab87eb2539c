//! What has to be known about a device before sockets are bound to it.

// Why unsafe is needed: the ethtool ioctl takes a pointer to a structure that points to another one.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `ETHTOOL_GCHANNELS` of `include/uapi/linux/ethtool.h`.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// Queues in use on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queues {
    /// To receive from: each gets a socket.
    pub(crate) rx: u32,
    /// To send by: in copy mode the kernel leaves packets of a socket on a queue beyond these in the TX ring.
    pub(crate) tx: u32,
}

/// `ETHTOOL_GDRVINFO` of `include/uapi/linux/ethtool.h`.
const ETHTOOL_GDRVINFO: u32 = 3;

/// `struct ethtool_drvinfo`.
#[derive(Clone, Copy)]
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    /// Versions, bus, reserved bytes and five counts, of which none is used.
    rest: [u8; 160],
}

/// What the ethtool ioctl may fill: structures of integers that begin with the command.
///
/// # Safety
/// The type must be exactly the structure that the kernel writes for the command in its first field.
unsafe trait Answer {}
// SAFETY: declared as the kernel's structure.
unsafe impl Answer for Channels {}
// SAFETY: 4 + 32 bytes and then 4 times 32, 12, and five times 4: as long as the kernel's structure.
unsafe impl Answer for DriverInfo {}

/// Asks the driver of a device in the network namespace of the calling thread: sysfs may show another one's.
/// False when the driver does not tell.
fn ethtool<T: Answer>(name: &str, answer: &mut T) -> io::Result<bool> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made and that nobody else has.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: integers, arrays of integers and a pointer: all zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(answer).cast();
    // SAFETY: the kernel reads the request and writes one answer to where it points; both live until then, and the
    // answer is as long as what the kernel writes (see `Answer`).
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
            Ok(false)
        } else {
            Err(error)
        };
    }
    Ok(true)
}

/// Queues in use on a device.
///
/// `None` when its driver does not tell; then queues are bound until the kernel says that there are no more.
pub(crate) fn queues(name: &str) -> io::Result<Option<Queues>> {
    let mut channels = Channels {
        cmd: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    if !ethtool(name, &mut channels)? {
        return Ok(None);
    }
    // Combined channels receive and send; those for one of it come on top.
    let Channels { rx, tx, combined, .. } = channels;
    Ok(Some(Queues {
        rx: (rx + combined).max(1),
        tx: (tx + combined).max(1),
    }))
}

/// How many RX queues a device of the caller's network namespace has; `None` when its driver does not tell.
///
/// # Errors
/// What the kernel says, `ENODEV` for a device that is not there.
pub fn rx_queues(name: &str) -> io::Result<Option<u32>> {
    Ok(queues(name)?.map(|queues| queues.rx))
}

/// The name of the driver of a device of the caller's network namespace (`veth`, `virtio_net`, …); `None` when it does
/// not tell.
///
/// # Errors
/// What the kernel says, `ENODEV` for a device that is not there.
pub fn driver(name: &str) -> io::Result<Option<String>> {
    let mut info = DriverInfo {
        cmd: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    let told = ethtool(name, &mut info)?;
    let name = info.driver.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok((told && !name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()))
}

/// What a device does to frames before the XDP program sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Generic receive offload: frames of a flow are merged.
    pub gro: bool,
    /// Large receive offload: the card merges them.
    pub lro: bool,
    /// VLAN tags are taken out of frames.
    pub rx_vlan: bool,
    /// The card checks transport checksums.
    pub rx_checksum: bool,
}

/// `struct ethtool_value`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Single {
    cmd: u32,
    data: u32,
}
// SAFETY: declared as the kernel's structure.
unsafe impl Answer for Single {}

/// `ETHTOOL_GRXCSUM`, `ETHTOOL_GGRO`, `ETHTOOL_GFLAGS` and two of its flags, of `include/uapi/linux/ethtool.h`.
const ETHTOOL_GRXCSUM: u32 = 0x14;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// What a device of the caller's network namespace does to frames; what the driver does not tell counts as off.
///
/// # Errors
/// What the kernel says, `ENODEV` for a device that is not there.
pub fn offloads(name: &str) -> io::Result<Offloads> {
    let ask = |cmd| {
        let mut value = Single { cmd, data: 0 };
        Ok::<_, io::Error>(if ethtool(name, &mut value)? { value.data } else { 0 })
    };
    let flags = ask(ETHTOOL_GFLAGS)?;
    Ok(Offloads {
        gro: ask(ETHTOOL_GGRO)? != 0,
        lro: flags & ETH_FLAG_LRO != 0,
        rx_vlan: flags & ETH_FLAG_RXVLAN != 0,
        rx_checksum: ask(ETHTOOL_GRXCSUM)? != 0,
    })
}

/// Bytes of a frame that a driver can receive into where it has zero-copy, of so many that are there: the registers of
/// these devices count in units of 1,024 bytes (`SRRCTL.BSIZEPKT`), and their drivers round down
/// (`igb_setup_srrctl`, `igc_configure_rx_ring`, `ixgbe_configure_srrctl`). A longer packet is spread over several
/// frames, and then dropped without being counted.
pub(crate) fn zerocopy_room(driver: &str, room: u32) -> u32 {
    match driver {
        "igb" | "igc" | "ixgbe" => room / 1024 * 1024,
        _ => room,
    }
}

/// Raises the limit of locked memory, which kernels before 5.11 charge BPF maps to. Fails where the process may not,
/// and then it is usually not needed.
pub(crate) fn unlock_memory() -> io::Result<()> {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the kernel reads one rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let error = queues("no-such-device").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert_eq!(
            queues("a-name-longer-than-any").unwrap_err().raw_os_error(),
            Some(libc::ENODEV)
        );
    }

    #[test]
    fn some_drivers_receive_in_units_of_a_kibibyte() {
        assert_eq!(zerocopy_room("igb", 2048 - 256), 1024);
        assert_eq!(zerocopy_room("ixgbe", 4096 - 256), 3072);
        assert_eq!(zerocopy_room("virtio_net", 2048 - 256), 1792);
    }

    #[test]
    fn loopback_has_no_channels_to_tell() {
        assert_eq!(queues("lo").unwrap(), None);
    }

    #[test]
    fn driver_information_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<DriverInfo>(), 196);
        // Loopback names no driver; what matters is that the kernel is asked and nobody falls over.
        let told = driver("lo").unwrap();
        assert!(told.is_none_or(|name| !name.is_empty()));
        assert!(driver("no-such-device").is_err());
    }
}
