//! What a tap tells about one packet, and how that is laid out in words.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use classifier::acl::{Action, Match};
use classifier::packet::Family;

use crate::fib::{AdjId, GroupId};
use crate::reason::Reason;
use crate::settings::{MacAddr, PortId};

/// Where on its way a packet was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Point {
    /// As it came in, before anything was changed.
    Rx = 1,
    /// Rewritten, on its way to the TX ring of its egress port.
    Tx = 2,
    /// Dropped.
    Drop = 4,
    /// The whole way of a packet that came in: its bytes are as at `Rx`.
    Trace = 8,
    /// The second half of the way of a packet that had waited for a neighbour.
    Released = 16,
}

/// A set of points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Points(u8);

impl Points {
    /// The same set with one more point.
    #[must_use]
    pub const fn with(self, point: Point) -> Points {
        Points(self.0 | point as u8)
    }

    /// Whether a point is in the set.
    #[inline]
    pub const fn has(self, point: Point) -> bool {
        self.0 & point as u8 != 0
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was sent on.
    Forwarded,
    /// It waits for its neighbour.
    Held,
    /// It was answered, for this reason.
    Replied(Reason),
    /// It was dropped, for this reason.
    Dropped(Reason),
}

impl End {
    /// The word used in answers.
    pub const fn name(self) -> &'static str {
        match self {
            End::Forwarded => "forward",
            End::Held => "hold",
            End::Replied(_) => "reply",
            End::Dropped(_) => "drop",
        }
    }

    /// Why it was not sent on.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            End::Forwarded | End::Held => None,
            End::Replied(reason) | End::Dropped(reason) => Some(reason),
        }
    }

    fn to_word(self) -> u64 {
        let kind = match self {
            End::Forwarded => 0,
            End::Held => 1,
            End::Replied(_) => 2,
            End::Dropped(_) => 3,
        };
        kind | self.reason().map_or(0, |reason| (reason as u64) << 8)
    }

    fn from_word(word: u64) -> Option<End> {
        let reason = reason_of((word >> 8) as u8);
        Some(match word as u8 {
            0 => End::Forwarded,
            1 => End::Held,
            2 => End::Replied(reason?),
            3 => End::Dropped(reason?),
            _ => return None,
        })
    }
}

/// The reason with that discriminant.
pub(super) fn reason_of(number: u8) -> Option<Reason> {
    Reason::ALL.get(usize::from(number)).copied()
}

/// A decision of an access list: which list, which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// The list's serial number (`acl::Instance::serial`); 0 when no list was asked.
    pub list: u32,
    /// The rule, and what it says.
    pub found: Match,
}

impl Decided {
    /// No list was asked.
    pub const NONE: Decided = Decided {
        list: 0,
        found: Match {
            action: Action::Allow,
            rule: -1,
        },
    };

    /// List in the low half, rule and action in the high half.
    #[inline]
    pub(super) fn to_word(self) -> u64 {
        let action = match self.found.action {
            Action::Allow => 0,
            Action::Deny => 1,
            Action::Reject => 2,
        };
        // Rules begin at -1 and number fewer than 2^29.
        let rule = (self.found.rule + 1) as u32;
        u64::from(self.list) | u64::from(rule << 2 | action) << 32
    }

    pub(super) fn from_word(word: u64) -> Option<Decided> {
        let (list, high) = (word as u32, (word >> 32) as u32);
        let action = match high & 3 {
            0 => Action::Allow,
            1 => Action::Deny,
            _ => Action::Reject,
        };
        (list != 0).then_some(Decided {
            list,
            found: Match {
                action,
                rule: (high >> 2) as i32 - 1,
            },
        })
    }
}

/// How the next hop could be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// By its Ethernet address.
    Ready {
        /// The neighbour's address.
        dst: MacAddr,
        /// The egress port's.
        src: MacAddr,
    },
    /// Its Ethernet address is being asked for.
    Waiting,
    /// Not at all.
    Never,
}

/// Where a packet was found to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The route's group.
    pub group: GroupId,
    /// The member; `None` for a host of a connected prefix that is not known yet, and without a way.
    pub adj: Option<AdjId>,
    /// The flow's hash.
    pub hash: u32,
    /// The port to leave by; `None` without a way.
    pub egress: Option<PortId>,
    /// The device of the neighbour, 0 when there is none.
    pub ifindex: u32,
    /// The neighbour.
    pub neighbour: IpAddr,
    /// Largest IP packet that goes this way; 0 without a way.
    pub mtu: u32,
    /// How the neighbour can be reached.
    pub link: LinkState,
}

/// What a tap tells about one packet besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since the data plane's start, by the worker's clock.
    pub time: u64,
    /// Where it was seen.
    pub point: Point,
    /// The port that it came in through; of an answer, the one that the answered packet came in through.
    pub ingress: PortId,
    /// What became of it.
    pub end: End,
    /// Whether Margay made it: an answer.
    pub originated: bool,
    /// Bytes of the frame.
    pub len: u32,
    /// What the ingress list said, if it was asked.
    pub ingress_rule: Option<Decided>,
    /// What the egress list said, if it was asked.
    pub egress_rule: Option<Decided>,
    /// Where it was found to go, if it came so far.
    pub way: Option<Way>,
}

impl Record {
    /// Words of one.
    pub(super) const WORDS: usize = 12;

    pub(super) fn write(&self, words: &[AtomicU64]) {
        let rule = |decided: Option<Decided>| decided.unwrap_or(Decided::NONE).to_word();
        let mut row = [0_u64; Self::WORDS];
        row[0] = self.time;
        row[1] = u64::from(self.len) | u64::from(self.ingress.0) << 32 | (self.point as u64) << 48;
        row[2] = self.end.to_word() | u64::from(self.originated) << 16;
        row[3] = rule(self.ingress_rule);
        row[4] = rule(self.egress_rule);
        if let Some(way) = &self.way {
            let mac = |mac: MacAddr| mac.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            let (link, dst, src) = match way.link {
                LinkState::Ready { dst, src } => (1, mac(dst), mac(src)),
                LinkState::Waiting => (2, 0, 0),
                LinkState::Never => (3, 0, 0),
            };
            let (family, neighbour) = match way.neighbour {
                IpAddr::V4(address) => (0, u128::from(address.to_bits())),
                IpAddr::V6(address) => (1, address.to_bits()),
            };
            row[2] |= link << 17 | family << 19;
            row[2] |= u64::from(way.egress.is_some()) << 20 | u64::from(way.adj.is_some()) << 21;
            row[2] |= u64::from(way.egress.map_or(0, |port| port.0)) << 32;
            row[5] = u64::from(way.group.0) | u64::from(way.adj.map_or(0, |adj| adj.0)) << 32;
            row[6] = u64::from(way.hash) | u64::from(way.mtu) << 32;
            row[7] = u64::from(way.ifindex);
            (row[8], row[9]) = (neighbour as u64, (neighbour >> 64) as u64);
            (row[10], row[11]) = (dst, src);
        }
        for (word, value) in words.iter().zip(row) {
            word.store(value, Relaxed);
        }
    }

    pub(super) fn read(words: &[AtomicU64]) -> Option<Record> {
        let mut row = [0; Self::WORDS];
        for (value, word) in row.iter_mut().zip(words) {
            *value = word.load(Relaxed);
        }
        let mac = |word: u64| word.to_be_bytes()[2..].first_chunk().copied();
        let link = match row[2] >> 17 & 3 {
            1 => Some(LinkState::Ready {
                dst: mac(row[10])?,
                src: mac(row[11])?,
            }),
            2 => Some(LinkState::Waiting),
            3 => Some(LinkState::Never),
            _ => None,
        };
        let family = if row[2] >> 19 & 1 == 0 {
            Family::V4
        } else {
            Family::V6
        };
        let neighbour = u128::from(row[8]) | u128::from(row[9]) << 64;
        let set = |bit: u32| row[2] >> bit & 1 == 1;
        Some(Record {
            time: row[0],
            point: [Point::Rx, Point::Tx, Point::Drop, Point::Trace, Point::Released]
                .into_iter()
                .find(|point| *point as u64 == row[1] >> 48)?,
            ingress: PortId((row[1] >> 32) as u16),
            end: End::from_word(row[2])?,
            originated: set(16),
            len: row[1] as u32,
            ingress_rule: Decided::from_word(row[3]),
            egress_rule: Decided::from_word(row[4]),
            way: link.map(|link| Way {
                group: GroupId(row[5] as u32),
                adj: set(21).then_some(AdjId((row[5] >> 32) as u32)),
                hash: row[6] as u32,
                egress: set(20).then_some(PortId((row[2] >> 32) as u16)),
                ifindex: row[7] as u32,
                neighbour: crate::path::address(family, neighbour),
                mtu: (row[6] >> 32) as u32,
                link,
            }),
        })
    }
}
