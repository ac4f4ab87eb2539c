//! The address that an ICMP error comes from.

use std::net::IpAddr;

use classifier::packet::{Family, Headers};

use crate::tables::Port;

/// The address to answer from: the ingress port's own (RFC 1812 4.3.2.4, RFC 4443 2.2 (b)), or where the port has none
/// the one that the kernel would use towards the sender: the route's preferred source, then the egress port's.
/// `None` when the node has no address of that family.
pub(crate) fn source(
    about: &Headers,
    ingress: &Port,
    prefsrc: Option<IpAddr>,
    egress: &Port,
) -> Option<u128> {
    match about.family {
        Family::V4 => {
            let preferred = match prefsrc {
                Some(IpAddr::V4(address)) => Some(address),
                _ => None,
            };
            let address = ingress.icmp4_source.or(preferred).or(egress.icmp4_source)?;
            Some(u128::from(address.to_bits()))
        }
        Family::V6 => {
            let preferred = match prefsrc {
                Some(IpAddr::V6(address)) => Some(address.to_bits()),
                _ => None,
            };
            nearest(ingress, about.src)
                .or(preferred)
                .or_else(|| nearest(egress, about.src))
        }
    }
}

/// Of a port's addresses the one with the longest prefix in common with the destination (RFC 6724 5 rule 8), the first
/// of them when there are several. Link-local ones come last: a sender behind another router cannot tell whose they are.
fn nearest(port: &Port, destination: u128) -> Option<u128> {
    let mut best: Option<(bool, u32, u128)> = None;
    for address in &port.icmp6_sources {
        let bits = address.to_bits();
        let rank = (
            !address.is_unicast_link_local(),
            (bits ^ destination).leading_zeros(),
        );
        if best.is_none_or(|(global, common, _)| rank > (global, common)) {
            best = Some((rank.0, rank.1, bits));
        }
    }
    best.map(|(_, _, bits)| bits)
}
