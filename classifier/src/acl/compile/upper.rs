//! Everything but the addresses: ports, protocol, fragment, TCP flags, ICMP type and code, DSCP.
//!
//! The distinct conditions on these fields ("signatures") are few even in large lists. Each field is reduced to a
//! class by one table, classes are combined by cross-product tables whose entries are merged when the same signatures
//! hold, and the last combination, the upper class, has one row of bits: which signatures hold.

use hashbrown::HashMap;

use super::TooLarge;
use crate::acl::model::{DscpSet, FragmentMatch, IcmpMatch, PortRange, ProtoSet, Rule, TcpMatch};
use crate::packet::{Family, Fragment};

/// One distinct condition on the fields above the addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    protocols: ProtoSet,
    sport: Vec<PortRange>,
    dport: Vec<PortRange>,
    tcp: Option<TcpMatch>,
    icmp: Vec<IcmpMatch>,
    fragment: FragmentMatch,
    dscp: DscpSet,
}

impl Signature {
    /// The signature of a rule for packets of a family; `None` when no packet of it can match.
    pub(super) fn of(rule: &Rule, family: Family) -> Option<Signature> {
        let protocols = rule.protocols_of(family);
        if protocols == ProtoSet::NONE || rule.dscp == 0 {
            return None;
        }
        // With nothing said of the upper layer, `any` and saying nothing are the same.
        let upper = rule.names_upper_layer();
        let fragment = match rule.fragment {
            FragmentMatch::Any if !upper => FragmentMatch::Unsaid,
            other => other,
        };
        Some(Signature {
            protocols,
            sport: merged(&rule.sport),
            dport: merged(&rule.dport),
            tcp: rule.tcp,
            icmp: rule.icmp.clone(),
            fragment,
            dscp: rule.dscp,
        })
    }

    fn upper(&self) -> bool {
        !self.sport.is_empty() || !self.dport.is_empty() || self.tcp.is_some() || !self.icmp.is_empty()
    }

    fn fragment_matches(&self, place: Fragment) -> bool {
        match self.fragment {
            FragmentMatch::Unsaid => place != Fragment::Later || !self.upper(),
            FragmentMatch::Any => true,
            FragmentMatch::First => place == Fragment::First,
            FragmentMatch::Later => place == Fragment::Later,
            FragmentMatch::None => place == Fragment::Whole,
        }
    }
}

/// Ranges sorted and joined; none at all for every port.
fn merged(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut out = ranges.to_vec();
    out.sort();
    out.dedup_by(|next, prev| {
        let joins = u32::from(next.lo) <= u32::from(prev.hi) + 1;
        if joins {
            prev.hi = prev.hi.max(next.hi);
        }
        joins
    });
    // "0-65535" stays as it is: it names ports and keeps later fragments out, which saying nothing does not.
    out
}

/// A set of signatures, one bit each.
type Bits = Box<[u64]>;

fn bits(n: usize, holds: impl Fn(usize) -> bool) -> Bits {
    let mut row = vec![0u64; n.div_ceil(64)];
    for i in (0..n).filter(|&i| holds(i)) {
        row[i >> 6] |= 1 << (i & 63);
    }
    row.into()
}

fn and(a: &[u64], b: &[u64]) -> Bits {
    a.iter().zip(b).map(|(x, y)| x & y).collect()
}

/// Numbers rows in the order in which they are first seen. The flag tells packets with an upper-layer header from
/// later fragments, whose ports may not be looked at.
#[derive(Default)]
struct Interner {
    ids: HashMap<(Bits, bool), u32>,
    rows: Vec<(Bits, bool)>,
}

impl Interner {
    fn id(&mut self, row: Bits, later: bool) -> u32 {
        let next = self.rows.len() as u32;
        *self.ids.entry((row, later)).or_insert_with_key(|key| {
            self.rows.push(key.clone());
            next
        })
    }
}

/// TCP flags, ICMP and DSCP, for lists that look at them.
#[derive(Debug, Default)]
pub(in crate::acl) struct Extra {
    /// By TCP flags byte.
    pub(in crate::acl) tcp: Vec<u16>,
    /// By type << 8 | code; the last entry for packets without a type.
    pub(in crate::acl) icmp: Vec<u16>,
    /// By code point.
    pub(in crate::acl) dscp: Vec<u16>,
    pub(in crate::acl) tcp_classes: u32,
    pub(in crate::acl) icmp_classes: u32,
    pub(in crate::acl) dscp_classes: u32,
    /// By ((protocol class × TCP) × ICMP) × DSCP: where the protocol class of the combination begins in `first`.
    pub(in crate::acl) table: Vec<u32>,
}

/// Tables from fields to the upper class.
#[derive(Debug, Default)]
pub(in crate::acl) struct Upper {
    /// By source port; empty when no rule looks at it.
    pub(in crate::acl) sport: Vec<u16>,
    /// By destination port.
    pub(in crate::acl) dport: Vec<u16>,
    /// By place in the datagram << 8 | protocol: where the protocol class begins in `first`, or in `Extra::table`.
    pub(in crate::acl) proto: Vec<u32>,
    pub(in crate::acl) extra: Option<Extra>,
    /// By protocol class × destination port class: where the combination begins in `second`, or the upper class where that is
    /// empty.
    pub(in crate::acl) first: Vec<u32>,
    /// By entry of `first` × source port class: the upper class. Empty when no rule looks at source ports.
    pub(in crate::acl) second: Vec<u32>,
    /// Words of 32 bits in a row; a multiple of 16, so that rows are whole cache lines.
    pub(in crate::acl) words: usize,
    /// By upper class: which signatures hold.
    pub(in crate::acl) rows: Vec<crate::acl::image::Line>,
    /// Number of upper classes.
    pub(in crate::acl) classes: u32,
}

impl Upper {
    pub(super) fn build(signatures: &[Signature], family: Family, limit: usize) -> Result<Upper, TooLarge> {
        let n = signatures.len();
        let mut out = Upper::default();
        let (sport, sports) = ports(signatures, |s| &s.sport);
        let (dport, dports) = ports(signatures, |s| &s.dport);
        let mut metas = Interner::default();
        for place in [Fragment::Whole, Fragment::First, Fragment::Later] {
            for proto in 0..=255 {
                let row = bits(n, |i| {
                    signatures[i].protocols.contains(proto) && signatures[i].fragment_matches(place)
                });
                out.proto.push(metas.id(row, place == Fragment::Later));
            }
        }
        if signatures
            .iter()
            .any(|s| s.tcp.is_some() || !s.icmp.is_empty() || s.dscp != u64::MAX)
        {
            let (mut extra, combined) = extra(signatures, family, &metas, limit)?;
            let step = extra.tcp_classes * extra.icmp_classes * extra.dscp_classes;
            out.proto.iter_mut().for_each(|p| *p *= step);
            extra.table.iter_mut().for_each(|p| *p *= dports.len() as u32);
            out.extra = Some(extra);
            metas = combined;
        } else {
            out.proto.iter_mut().for_each(|p| *p *= dports.len() as u32);
        }

        let row_bytes = n.div_ceil(64) * 8;
        let wanted = metas.rows.len().saturating_mul(dports.len()).saturating_mul(4);
        if wanted > limit {
            return Err(TooLarge::Bytes(wanted));
        }
        let mut first = Interner::default();
        for (row, later) in &metas.rows {
            for dport in &dports {
                let id = if *later {
                    first.id(row.clone(), true)
                } else {
                    first.id(and(row, dport), false)
                };
                out.first.push(id * sports.len() as u32);
            }
            if first.rows.len() * row_bytes > limit {
                return Err(TooLarge::Bytes(first.rows.len() * row_bytes));
            }
        }
        let wanted = first.rows.len().saturating_mul(sports.len()).saturating_mul(4);
        if wanted > limit {
            return Err(TooLarge::Bytes(wanted));
        }
        let mut second = Interner::default();
        for (row, later) in &first.rows {
            for sport in &sports {
                let id = if *later {
                    second.id(row.clone(), false)
                } else {
                    second.id(and(row, sport), false)
                };
                out.second.push(id);
            }
            if second.rows.len() * row_bytes.max(64) > limit {
                return Err(TooLarge::Bytes(second.rows.len() * row_bytes.max(64)));
            }
        }
        (out.sport, out.dport) = (sport, dport);
        if sports.len() == 1 {
            // No rule looks at source ports: `first` leads to the upper class itself.
            out.first.iter_mut().for_each(|f| *f = out.second[*f as usize]);
            (out.sport, out.second) = (Vec::new(), Vec::new());
        }
        out.words = (n + 1).div_ceil(512) * 16; // One bit that never holds: the padding of leaves.
        out.classes = second.rows.len() as u32;
        for (row, _) in &second.rows {
            let mut words = vec![0u32; out.words];
            for (i, w) in row.iter().enumerate() {
                words[2 * i] = *w as u32;
                words[2 * i + 1] = (*w >> 32) as u32;
            }
            out.rows.extend(
                words
                    .chunks_exact(16)
                    .map(|c| crate::acl::image::Line(std::array::from_fn(|i| c[i]))),
            );
        }
        Ok(out)
    }

    pub(in crate::acl) fn bytes(&self) -> usize {
        let extra = self.extra.as_ref().map_or(0, |e| {
            (e.tcp.len() + e.icmp.len() + e.dscp.len()) * 2 + e.table.len() * 4
        });
        (self.sport.len() + self.dport.len()) * 2
            + (self.proto.len() + self.first.len() + self.second.len()) * 4
            + self.rows.len() * 64
            + extra
    }
}

/// Classes of one port field: the table, and for each class the signatures that hold.
fn ports(signatures: &[Signature], of: impl Fn(&Signature) -> &Vec<PortRange>) -> (Vec<u16>, Vec<Bits>) {
    let n = signatures.len();
    let mut starts = vec![0u32];
    for r in signatures.iter().flat_map(&of) {
        starts.push(u32::from(r.lo));
        starts.push(u32::from(r.hi) + 1);
    }
    starts.sort_unstable();
    starts.dedup();
    starts.retain(|&s| s <= u32::from(u16::MAX));
    // Signatures that do not name the field hold everywhere; the others are switched at the ends of their ranges.
    let mut row = bits(n, |i| of(&signatures[i]).is_empty());
    let mut changes: Vec<(u32, u32)> = Vec::new();
    for (i, s) in signatures.iter().enumerate() {
        for r in of(s) {
            changes.push((u32::from(r.lo), i as u32));
            changes.push((u32::from(r.hi) + 1, i as u32));
        }
    }
    changes.sort_unstable();
    let mut ids = Interner::default();
    let mut table = vec![0u16; 1 << 16];
    let mut c = 0;
    for (k, &start) in starts.iter().enumerate() {
        while c < changes.len() && changes[c].0 == start {
            let i = changes[c].1 as usize;
            row[i >> 6] ^= 1 << (i & 63);
            c += 1;
        }
        let end = starts.get(k + 1).map_or(1 << 16, |e| *e as usize);
        table[start as usize..end].fill(ids.id(row.clone(), false) as u16);
    }
    (table, ids.rows.into_iter().map(|(row, _)| row).collect())
}

/// Combines protocol classes with TCP flags, ICMP and DSCP.
fn extra(
    signatures: &[Signature],
    family: Family,
    metas: &Interner,
    limit: usize,
) -> Result<(Extra, Interner), TooLarge> {
    let n = signatures.len();
    let mut out = Extra::default();
    let (mut tcp, mut icmp, mut dscp) = (Interner::default(), Interner::default(), Interner::default());
    for flags in 0..=255u8 {
        let row = bits(n, |i| signatures[i].tcp.is_none_or(|t| t.matches(flags)));
        out.tcp.push(tcp.id(row, false) as u16);
    }
    if signatures.iter().any(|s| !s.icmp.is_empty()) {
        for kind in 0..=255u8 {
            for code in 0..=255u8 {
                let row = bits(n, |i| {
                    let s = &signatures[i];
                    s.icmp.is_empty() || s.icmp.iter().any(|m| m.matches(family, kind, code))
                });
                out.icmp.push(icmp.id(row, false) as u16);
            }
        }
    } else {
        out.icmp = vec![icmp.id(bits(n, |_| true), false) as u16; 1 << 16];
    }
    out.icmp
        .push(icmp.id(bits(n, |i| signatures[i].icmp.is_empty()), false) as u16);
    for point in 0..64 {
        out.dscp
            .push(dscp.id(bits(n, |i| signatures[i].dscp >> point & 1 == 1), false) as u16);
    }
    (out.tcp_classes, out.icmp_classes, out.dscp_classes) = (
        tcp.rows.len() as u32,
        icmp.rows.len() as u32,
        dscp.rows.len() as u32,
    );
    let wanted = [metas.rows.len(), tcp.rows.len(), icmp.rows.len(), dscp.rows.len()]
        .iter()
        .fold(2usize, |product, &n| product.saturating_mul(n));
    if wanted > limit {
        return Err(TooLarge::Bytes(wanted));
    }
    let mut combined = Interner::default();
    for (meta, later) in &metas.rows {
        for (t, _) in &tcp.rows {
            for (i, _) in &icmp.rows {
                for (d, _) in &dscp.rows {
                    let row = and(meta, d);
                    let row = if *later { row } else { and(&and(&row, t), i) };
                    out.table.push(combined.id(row, *later));
                }
            }
        }
    }
    Ok((out, combined))
}
