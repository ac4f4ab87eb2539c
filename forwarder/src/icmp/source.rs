//! The address that an ICMP error comes from.

use std::net::IpAddr;

use classifier::packet::{Family, Headers};

use crate::tables::Port;

/// The address to answer from. IPv4: the ingress port's own (RFC 1812 4.3.2.4), or where the port has none the one that the
/// kernel would use towards the sender: the route's preferred source, then the egress port's. IPv6 as the kernel
/// (icmp6_send in net/ipv6/icmp.c): the preferred source of the route to the sender, then what RFC 6724 chooses for
/// a packet that leaves by the ingress port. `None` when the node has no address of that family.
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
            preferred
                .or_else(|| nearest(ingress, about.src))
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
