//! Short lists: every rule is compared, all at once, in vector lanes.
//!
//! A handful of rules needs no tables of its own of hundreds of KiB, which matters where each of many workloads has its
//! list: this form takes a few KiB. A rule with several prefixes or port ranges takes a lane for each combination.

use super::pack;
use crate::acl::model::{List, PortRange, Rule};
use crate::lpm::IpPrefix;
use crate::packet::{Family, Fragment};

/// Lanes at most.
pub(in crate::acl) const LANES: usize = 32;

/// A value and the bits of it that count, for each lane.
#[derive(Debug, Clone)]
pub(in crate::acl) struct Word {
    pub(in crate::acl) value: [u32; LANES],
    pub(in crate::acl) mask: [u32; LANES],
}

/// A range for each lane: first value and distance to the last.
#[derive(Debug, Clone)]
pub(in crate::acl) struct Range {
    pub(in crate::acl) low: [u32; LANES],
    pub(in crate::acl) span: [u32; LANES],
}

/// A short list for one family. Masks have bit i set for lane i.
#[derive(Debug)]
pub(in crate::acl) struct Short {
    pub(in crate::acl) lanes: usize,
    /// Packed rule of each lane, in the order of the rules.
    pub(in crate::acl) rules: [u32; LANES],
    /// Words of the addresses, most significant first: one in IPv4, four in IPv6.
    pub(in crate::acl) src: Vec<Word>,
    pub(in crate::acl) dst: Vec<Word>,
    pub(in crate::acl) sport: Range,
    pub(in crate::acl) dport: Range,
    /// By place in the datagram << 8 | protocol.
    pub(in crate::acl) proto: Vec<u32>,
    /// By TCP flags byte; empty when no rule looks at them.
    pub(in crate::acl) tcp: Vec<u32>,
    /// By code point; empty when no rule looks at it.
    pub(in crate::acl) dscp: Vec<u32>,
    /// Lanes that do not look at ICMP types.
    pub(in crate::acl) not_icmp: u32,
    /// By type: lanes that take it with any code; empty when no rule looks at types.
    pub(in crate::acl) icmp: Vec<u32>,
    /// Type, code, lanes that take them.
    pub(in crate::acl) icmp_codes: Vec<(u8, u8, u32)>,
}

/// Compiles a list for one family; `None` when it has more than [`LANES`] combinations.
pub(super) fn build(list: &List, family: Family, default: u32) -> Option<Short> {
    let words = if family == Family::V4 { 1 } else { 4 };
    let nothing = Word {
        value: [0; LANES],
        mask: [0; LANES],
    };
    let full = Range {
        low: [0; LANES],
        span: [u32::MAX; LANES],
    };
    let mut out = Short {
        lanes: 0,
        rules: [default; LANES],
        src: vec![nothing.clone(); words],
        dst: vec![nothing; words],
        sport: full.clone(),
        dport: full,
        proto: vec![0; 3 << 8],
        tcp: Vec::new(),
        dscp: Vec::new(),
        not_icmp: u32::MAX,
        icmp: Vec::new(),
        icmp_codes: Vec::new(),
    };
    let looks = |at: &dyn Fn(&Rule) -> bool| list.rules.iter().any(at);
    if looks(&|r| r.tcp.is_some()) {
        out.tcp = vec![0; 256];
    }
    if looks(&|r| r.dscp != u64::MAX) {
        out.dscp = vec![0; 64];
    }
    if looks(&|r| !r.icmp.is_empty()) {
        out.icmp = vec![0; 256];
    }
    for (i, rule) in list.rules.iter().enumerate() {
        let (src, dst) = (prefixes(&rule.src, family)?, prefixes(&rule.dst, family)?);
        for s in &src {
            for d in &dst {
                for sport in ranges(&rule.sport) {
                    for dport in ranges(&rule.dport) {
                        if out.lanes == LANES {
                            return None;
                        }
                        out.set_addresses(*s, *d);
                        out.set_ports(sport, dport);
                        out.set_rest(rule, family);
                        out.rules[out.lanes] = pack(i, rule.action);
                        out.lanes += 1;
                    }
                }
            }
        }
    }
    Some(out)
}

/// Address and length of each prefix of the family; `None` when there are too many.
fn prefixes(addresses: &crate::acl::Addresses, family: Family) -> Option<Vec<(u128, u8)>> {
    if addresses.is_any() {
        return Some(vec![(0, 0)]);
    }
    let mut out = Vec::new();
    for p in addresses.all() {
        match (p, family) {
            (IpPrefix::V4(p), Family::V4) => out.push((u128::from(p.addr()) << 96, p.len())),
            (IpPrefix::V6(p), Family::V6) => out.push((p.addr(), p.len())),
            _ => {}
        }
        if out.len() > LANES {
            return None;
        }
    }
    Some(out)
}

fn ranges(ports: &[PortRange]) -> Vec<Option<PortRange>> {
    if ports.is_empty() {
        vec![None]
    } else {
        ports.iter().map(|p| Some(*p)).collect()
    }
}

impl Short {
    fn set_addresses(&mut self, src: (u128, u8), dst: (u128, u8)) {
        let lane = self.lanes;
        for (words, (addr, len)) in [(&mut self.src, src), (&mut self.dst, dst)] {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            for (i, word) in words.iter_mut().enumerate() {
                let part = |n: u128| (n >> (96 - 32 * i)) as u32;
                (word.value[lane], word.mask[lane]) = (part(addr), part(mask));
            }
        }
    }

    fn set_ports(&mut self, sport: Option<PortRange>, dport: Option<PortRange>) {
        let lane = self.lanes;
        for (range, ports) in [(&mut self.sport, sport), (&mut self.dport, dport)] {
            if let Some(p) = ports {
                (range.low[lane], range.span[lane]) = (u32::from(p.lo), u32::from(p.hi - p.lo));
            }
        }
    }

    fn set_rest(&mut self, rule: &Rule, family: Family) {
        let bit = 1u32 << self.lanes;
        let protocols = rule.protocols_of(family);
        for (place, fragment) in [Fragment::Whole, Fragment::First, Fragment::Later]
            .into_iter()
            .enumerate()
        {
            if rule.fragment_matches(fragment) {
                for n in (0..=255u8).filter(|&n| protocols.contains(n)) {
                    self.proto[place << 8 | usize::from(n)] |= bit;
                }
            }
        }
        for (flags, mask) in self.tcp.iter_mut().enumerate() {
            if rule.tcp.is_none_or(|t| t.matches(flags as u8)) {
                *mask |= bit;
            }
        }
        for (point, mask) in self.dscp.iter_mut().enumerate() {
            if rule.dscp >> point & 1 == 1 {
                *mask |= bit;
            }
        }
        if !rule.icmp.is_empty() {
            self.not_icmp &= !bit;
            for m in &rule.icmp {
                let wanted = if family == Family::V4 { m.v4 } else { m.v6 };
                match wanted {
                    Some(t) if t.code.is_none() => self.icmp[usize::from(t.kind)] |= bit,
                    Some(t) => self.icmp_codes.push((t.kind, t.code.unwrap_or(0), bit)),
                    None => {}
                }
            }
        }
    }

    pub(in crate::acl) fn bytes(&self) -> usize {
        size_of::<Short>()
            + (self.src.len() + self.dst.len()) * size_of::<Word>()
            + (self.proto.len() + self.tcp.len() + self.dscp.len() + self.icmp.len()) * 4
            + self.icmp_codes.len() * 8
    }
}
