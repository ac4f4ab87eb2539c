//! Rules as they are written, before they are compiled.

use std::sync::Arc;

use crate::lpm::IpPrefix;
use crate::packet::{Family, Fragment, Headers};

/// TCP's protocol number (RFC 9293).
pub(super) const TCP: u8 = 6;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// Pass it on.
    Allow = 0,
    /// Drop it.
    Deny = 1,
    /// Drop it and answer with an ICMP error.
    Reject = 2,
}

impl Action {
    /// The word used in files and answers.
    pub fn name(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
            Action::Reject => "reject",
        }
    }
}

/// The answer for one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// What becomes of the packet.
    pub action: Action,
    /// Number of the first matching rule, from 0; -1 when no rule matched and the default decided.
    pub rule: i32,
}

impl Default for Match {
    fn default() -> Self {
        Match {
            action: Action::Deny,
            rule: -1,
        }
    }
}

/// Where a rule was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Path of the file.
    pub file: Arc<str>,
    /// Line from 1.
    pub line: u32,
}

/// Ports from `lo` to `hi`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// First port.
    pub lo: u16,
    /// Last port.
    pub hi: u16,
}

impl PortRange {
    /// Whether `port` lies in the range.
    #[inline]
    pub fn contains(self, port: u16) -> bool {
        self.lo <= port && port <= self.hi
    }
}

/// A set of upper-layer protocol numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProtoSet([u64; 4]);

impl ProtoSet {
    /// Every protocol.
    pub const ALL: ProtoSet = ProtoSet([u64::MAX; 4]);
    /// No protocol.
    pub const NONE: ProtoSet = ProtoSet([0; 4]);

    /// The set of the given numbers.
    pub fn of(numbers: &[u8]) -> ProtoSet {
        let mut set = Self::NONE;
        for &n in numbers {
            set.0[usize::from(n >> 6)] |= 1 << (n & 63);
        }
        set
    }

    /// Whether `number` is in the set.
    #[inline]
    pub fn contains(&self, number: u8) -> bool {
        self.0[usize::from(number >> 6)] >> (number & 63) & 1 == 1
    }

    /// Numbers that are in both sets.
    pub fn and(self, other: ProtoSet) -> ProtoSet {
        ProtoSet(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// Whether every number of `other` is in this set.
    pub fn covers(self, other: ProtoSet) -> bool {
        self.and(other) == other
    }
}

impl std::fmt::Debug for ProtoSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::ALL {
            return f.write_str("ALL");
        }
        f.debug_set()
            .entries((0..=255u8).filter(|&n| self.contains(n)))
            .finish()
    }
}

/// Protocols that a rule names, for each family: the name `icmp` means another number in IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protocols {
    /// Numbers in IPv4 packets.
    pub v4: ProtoSet,
    /// Numbers in IPv6 packets, behind the extension headers.
    pub v6: ProtoSet,
}

impl Protocols {
    /// Any protocol.
    pub const ANY: Protocols = Protocols {
        v4: ProtoSet::ALL,
        v6: ProtoSet::ALL,
    };
    /// ICMP of the packet's family: 1 in IPv4 (RFC 792), 58 in IPv6 (RFC 4443).
    pub fn icmp() -> Protocols {
        Protocols {
            v4: ProtoSet::of(&[1]),
            v6: ProtoSet::of(&[58]),
        }
    }
    /// One number in both families.
    pub fn number(number: u8) -> Protocols {
        Self::both(ProtoSet::of(&[number]))
    }
    /// The protocols that carry ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
    pub fn with_ports() -> Protocols {
        Self::both(ProtoSet::of(&[6, 17, 33, 132, 136]))
    }
    /// One set in both families.
    pub fn both(set: ProtoSet) -> Protocols {
        Protocols { v4: set, v6: set }
    }
    /// The set for packets of `family`.
    #[inline]
    pub fn of(&self, family: Family) -> ProtoSet {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// A named set of prefixes, of one family or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name, without `@`.
    pub name: Arc<str>,
    /// Its members.
    pub members: Vec<IpPrefix>,
}

/// Addresses that a rule names. Neither prefixes nor sets: any address of any family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// Prefixes written in the rule.
    pub prefixes: Vec<IpPrefix>,
    /// Sets named by the rule.
    pub sets: Vec<Arc<Set>>,
}

impl Addresses {
    /// Any address.
    pub fn any() -> Self {
        Self::default()
    }
    /// Whether the rule names no address at all.
    pub fn is_any(&self) -> bool {
        self.prefixes.is_empty() && self.sets.is_empty()
    }
    /// All prefixes, those of the sets included.
    pub fn all(&self) -> impl Iterator<Item = &IpPrefix> {
        self.prefixes
            .iter()
            .chain(self.sets.iter().flat_map(|s| s.members.iter()))
    }
    /// Whether an address of `family` is meant.
    pub fn contains(&self, family: Family, addr: u128) -> bool {
        self.is_any()
            || self.all().any(|p| match (p, family) {
                (IpPrefix::V4(p), Family::V4) => p.contains(addr as u32),
                (IpPrefix::V6(p), Family::V6) => p.contains(addr),
                _ => false,
            })
    }
    /// Whether any address of `family` can be meant.
    pub fn has(&self, family: Family) -> bool {
        self.is_any()
            || self.all().any(|p| {
                matches!(
                    (p, family),
                    (IpPrefix::V4(_), Family::V4) | (IpPrefix::V6(_), Family::V6)
                )
            })
    }
}

/// A condition on the TCP flags byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpMatch {
    /// Of the flags in `mask`, exactly those in `set` are set.
    Flags {
        /// Flags that must be set.
        set: u8,
        /// Flags that are looked at.
        mask: u8,
    },
    /// ACK or RST is set: a segment of a connection that exists.
    Established,
}

impl TcpMatch {
    /// Whether the condition holds for a flags byte.
    #[inline]
    pub fn matches(self, flags: u8) -> bool {
        match self {
            TcpMatch::Flags { set, mask } => flags & mask == set & mask,
            TcpMatch::Established => flags & 0x14 != 0,
        }
    }
}

/// An ICMP type, with a code or any code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IcmpType {
    /// Type.
    pub kind: u8,
    /// Code; `None` for any.
    pub code: Option<u8>,
}

/// One alternative of a rule's `icmp`: what it means in each family. A name that a family lacks is `None` there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// In ICMP.
    pub v4: Option<IcmpType>,
    /// In ICMPv6.
    pub v6: Option<IcmpType>,
}

impl IcmpMatch {
    /// Whether type and code of a packet of `family` are meant.
    pub fn matches(&self, family: Family, kind: u8, code: u8) -> bool {
        let wanted = match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        };
        wanted.is_some_and(|w| w.kind == kind && w.code.is_none_or(|c| c == code))
    }
}

/// What a rule says of fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FragmentMatch {
    /// Nothing said: every packet, but conditions on the upper-layer header keep later fragments out.
    #[default]
    Unsaid,
    /// Every packet; in later fragments the upper-layer conditions are not looked at.
    Any,
    /// Only first fragments.
    First,
    /// Only later fragments; upper-layer conditions are not looked at.
    Later,
    /// Only packets that are no fragments.
    None,
}

/// A set of differentiated services code points (RFC 2474): bit n stands for code point n.
pub type DscpSet = u64;

/// One rule. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What becomes of a packet that matches.
    pub action: Action,
    /// Protocols.
    pub protocols: Protocols,
    /// Source addresses.
    pub src: Addresses,
    /// Destination addresses.
    pub dst: Addresses,
    /// Source ports; empty for any.
    pub sport: Vec<PortRange>,
    /// Destination ports; empty for any.
    pub dport: Vec<PortRange>,
    /// TCP flags.
    pub tcp: Option<TcpMatch>,
    /// ICMP types; empty for any.
    pub icmp: Vec<IcmpMatch>,
    /// Fragments.
    pub fragment: FragmentMatch,
    /// Code points; all bits set for any.
    pub dscp: DscpSet,
    /// Where the rule stands.
    pub origin: Origin,
}

impl Rule {
    /// A rule that matches every packet.
    pub fn any(action: Action, origin: Origin) -> Rule {
        Rule {
            action,
            protocols: Protocols::ANY,
            src: Addresses::any(),
            dst: Addresses::any(),
            sport: Vec::new(),
            dport: Vec::new(),
            tcp: None,
            icmp: Vec::new(),
            fragment: FragmentMatch::Unsaid,
            dscp: u64::MAX,
            origin,
        }
    }

    /// Whether the rule looks at the upper-layer header, which later fragments lack.
    pub fn names_upper_layer(&self) -> bool {
        !self.sport.is_empty() || !self.dport.is_empty() || self.tcp.is_some() || !self.icmp.is_empty()
    }

    /// Protocols of packets of `family` that can match: TCP flags stand in TCP only, ICMP types in ICMP only.
    pub fn protocols_of(&self, family: Family) -> ProtoSet {
        let mut set = self.protocols.of(family);
        if self.tcp.is_some() {
            set = set.and(ProtoSet::of(&[TCP]));
        }
        if !self.icmp.is_empty() {
            set = set.and(Protocols::icmp().of(family));
        }
        set
    }

    /// Whether the conditions on the fragment's place allow a packet.
    pub fn fragment_matches(&self, fragment: Fragment) -> bool {
        match self.fragment {
            FragmentMatch::Unsaid => fragment != Fragment::Later || !self.names_upper_layer(),
            FragmentMatch::Any => true,
            FragmentMatch::First => fragment == Fragment::First,
            FragmentMatch::Later => fragment == Fragment::Later,
            FragmentMatch::None => fragment == Fragment::Whole,
        }
    }

    /// Whether the packet matches: the definition that everything compiled is measured against.
    pub fn matches(&self, h: &Headers) -> bool {
        let ports = |ranges: &[PortRange], port| ranges.is_empty() || ranges.iter().any(|r| r.contains(port));
        if !self.fragment_matches(h.fragment)
            || !self.protocols_of(h.family).contains(h.proto)
            || self.dscp >> (h.dscp & 63) & 1 == 0
        {
            return false;
        }
        if h.fragment != Fragment::Later
            && (!ports(&self.sport, h.sport)
                || !ports(&self.dport, h.dport)
                || self.tcp.is_some_and(|t| !t.matches(h.tcp_flags))
                || !self.icmp.is_empty()
                    && !h
                        .icmp
                        .is_some_and(|(t, c)| self.icmp.iter().any(|m| m.matches(h.family, t, c))))
        {
            return false;
        }
        self.src.contains(h.family, h.src) && self.dst.contains(h.family, h.dst)
    }
}

/// A named list of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Its name.
    pub name: String,
    /// What becomes of a packet that no rule matches.
    pub default: Action,
    /// The rules, first match wins.
    pub rules: Vec<Rule>,
    /// Where the list stands.
    pub origin: Origin,
}
