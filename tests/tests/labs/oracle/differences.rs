//! Where Margay differs from Linux by intent. Each entry says what Margay must send instead, given what the kernel sent.

use tests::twin::Out;

use super::packets::Packet;

/// One intended difference.
pub struct Difference {
    /// What it is about.
    pub name: &'static str,
    /// The clause or the kernel's file that it is grounded on.
    pub source: &'static str,
    /// From the packet, what the kernel sent (changed by the entries before) and what Margay sent: what Margay must have sent. `None`
    /// when the packet has nothing to do with this.
    pub expect: fn(&Packet, &[Out], &[Out]) -> Option<Vec<Out>>,
}

/// All of them.
pub const DIFFERENCES: [Difference; 1] = [Difference {
    name: "identification of an error",
    source: "RFC 6864 4.1: atomic datagrams may have any",
    expect: identification,
}];

fn identification(_: &Packet, kernel: &[Out], margay: &[Out]) -> Option<Vec<Out>> {
    let [want] = kernel else { return None };
    let [sent] = margay else { return None };
    if !is_error4(&want.frame) || !is_error4(&sent.frame) {
        return None;
    }
    let mut want = want.clone();
    want.frame[18..20].copy_from_slice(&sent.frame[18..20]);
    seal(&mut want.frame);
    Some(vec![want])
}

/// Whether a frame is an ICMP error made by the router, and not one that passes: it comes from one of its addresses.
fn is_error4(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 0] && frame[23] == 1 && frame[26] == 10 && frame[27] <= 2 && frame[28..30] == [0, 1]
}

/// Sets the header checksum of the IPv4 packet in a frame right.
fn seal(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let length = usize::from(frame[14] & 15) * 4;
    let check = tests::raw::checksum(&[&frame[14..14 + length]]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
}
