//! How large packets of a port may be: how much one UMEM frame holds, and into how many of them a packet may be spread
//! (multi-buffer mode, `XDP_USE_SG`).

use std::sync::OnceLock;

use crate::error::Error;
use crate::port::device;
use crate::port::socket::{self, BindMode};
use crate::settings::{Mode, PortSpec};
use crate::steer::link;
use crate::umem::Umem;

/// An Ethernet header with two VLAN tags. virtio_net loses packets that fill the frame to its last byte.
const ETHERNET: u32 = 14 + 8;

/// UMEM frames that the kernel takes for one packet in copy mode: `MAX_SKB_FRAGS` (`xsk_build_skb_zerocopy` in
/// `net/xdp/xsk.c`).
const COPIED_PARTS: u32 = 17;

/// Largest MTU of a Linux device.
const MAX_MTU: u32 = 65_535;

/// What one way of binding sets as limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Largest MTU with one frame a packet.
    pub(crate) single: u32,
    /// Largest MTU at all.
    pub(crate) largest: u32,
    /// Frames of one packet.
    pub(crate) parts: u32,
    /// What sets the limit.
    pub(crate) why: String,
}

impl Limit {
    fn new(room: u32, parts: u32, why: String) -> Self {
        Self {
            single: room - ETHERNET,
            largest: (room * parts - ETHERNET).min(MAX_MTU),
            parts,
            why,
        }
    }

    /// Whether packets of an MTU need several frames.
    pub(crate) fn needs_parts(&self, mtu: u32) -> bool {
        mtu > self.single
    }
}

/// The ways of binding that are tried for a mode, the best first.
pub(crate) fn ways(mode: Mode) -> &'static [BindMode] {
    match mode {
        Mode::Auto => &[BindMode::Zerocopy, BindMode::Copy],
        Mode::Zerocopy => &[BindMode::Zerocopy],
        Mode::Copy | Mode::Generic => &[BindMode::Copy],
    }
}

/// The limit of a port that is bound in one way.
pub(crate) fn limit(umem: &Umem, spec: &PortSpec, way: BindMode) -> Limit {
    let room = umem.capacity();
    match way {
        BindMode::Copy if kernel_spreads() => {
            let why = format!("a packet may take {COPIED_PARTS} frames of {room} bytes");
            Limit::new(room, COPIED_PARTS, why)
        }
        BindMode::Copy => {
            let why = format!(
                "a packet has one frame of {room} bytes: spreading it over several needs Linux 6.6 or later"
            );
            Limit::new(room, 1, why)
        }
        BindMode::Zerocopy => {
            // A driver that does not tell its name is asked by binding.
            let driver = device::driver(&spec.name).ok().flatten();
            let driver = driver.as_deref().unwrap_or("its driver");
            let room = device::zerocopy_room(driver, room);
            let parts = link::zerocopy_parts(spec.ifindex);
            let why = match parts {
                1 => format!("{driver} has one frame of {room} bytes for a packet in zero-copy mode"),
                _ => format!("{driver} has {parts} frames of {room} bytes for a packet in zero-copy mode"),
            };
            Limit::new(room, parts, why)
        }
    }
}

/// The limit of the way that allows the largest MTU, of two the one that is tried last.
fn widest(umem: &Umem, spec: &PortSpec) -> Limit {
    let limits = ways(spec.mode).iter().map(|&way| limit(umem, spec, way));
    limits
        .max_by_key(|limit| limit.largest)
        .expect("there is a way for each mode")
}

/// The largest MTU that a port can have in its mode, opened anew for it where need be, and what limits it.
pub(crate) fn possible(umem: &Umem, spec: &PortSpec, bound: &Limit) -> (u32, String) {
    let widest = widest(umem, spec);
    if widest.largest > bound.largest {
        let Limit { largest, why, .. } = bound;
        (widest.largest, format!("{why}; beyond {largest} in copy mode"))
    } else {
        (bound.largest, bound.why.clone())
    }
}

/// Refuses a port whose MTU no way of binding can serve, before anything is done to its device.
pub(crate) fn admit(umem: &Umem, spec: &PortSpec) -> Result<(), Error> {
    let Limit { largest, why, .. } = widest(umem, spec);
    if spec.attrs.mtu <= largest {
        return Ok(());
    }
    Err(Error::Mtu {
        port: spec.name.clone(),
        mtu: spec.attrs.mtu,
        largest,
        why,
    })
}

/// Whether the kernel spreads packets over several frames at all: it is asked once.
fn kernel_spreads() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(socket::knows_parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_follows_frames_and_parts() {
        let one = Limit::new(4096 - 256, 1, String::new());
        assert_eq!((one.single, one.largest), (3818, 3818));
        assert!(!one.needs_parts(3818) && one.needs_parts(3819));
        let small = Limit::new(2048 - 256, 6, String::new());
        assert_eq!((small.single, small.largest), (1770, 10_730));
        let many = Limit::new(4096 - 256, 18, String::new());
        assert_eq!(many.largest, MAX_MTU);
    }

    #[test]
    fn the_kernel_says_whether_it_knows_the_flag() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        // Where sockets cannot be opened there is nothing to compare.
        if socket::knows_parts() {
            assert!(version >= (6, 6));
        }
    }
}
