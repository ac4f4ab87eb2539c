//! What the data plane needs to know of a packet, read once from its bytes.
//!
//! [`parse`] checks what a router must check before it forwards (RFC 1812 5.2.2, RFC 8200 3 and 4) and returns
//! [`Headers`], or the one reason why the packet is not a packet. [`martian`] says whether its addresses may be
//! forwarded at all. Nothing here allocates, and no input panics.

mod glance;
mod hash;
mod martian;
mod transport;
mod v4;
mod v6;

pub use glance::glance;
pub use martian::{Martian, martian};
pub use transport::protocol;
pub use v6::MAX_EXTENSION_HEADERS;

/// Bytes of an untagged Ethernet II header: destination, source, EtherType.
pub const ETHERNET_HEADER: usize = 14;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6 (RFC 2464 3).
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Address family of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 (RFC 791).
    V4,
    /// IPv6 (RFC 8200).
    V6,
}

/// Place of a packet in its fragmented datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Fragment {
    /// Not a fragment, or an IPv6 atomic fragment (RFC 6946), which is a whole datagram.
    #[default]
    Whole,
    /// The fragment with offset 0: ports are present.
    First,
    /// Any other fragment: no ports.
    Later,
}

/// The headers of one IP packet, validated.
///
/// Addresses are numbers in host order; an IPv4 address stands in the low 32 bits.
/// Offsets count bytes from the start of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Address family.
    pub family: Family,
    /// Source address.
    pub src: u128,
    /// Destination address, as the IP header has it now (a source route may hold the final one).
    pub dst: u128,
    /// Upper-layer protocol, behind extension headers. In a later IPv6 fragment, the first header of the
    /// fragmented part, which may be an extension header.
    pub proto: u8,
    /// Source port (TCP, UDP, SCTP, DCCP, UDP-Lite; 0 otherwise and in later fragments).
    pub sport: u16,
    /// Destination port, as `sport`.
    pub dport: u16,
    /// TCP flags byte (CWR ECE URG ACK PSH RST SYN FIN from bit 7 to bit 0), 0 when not TCP.
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type and code; `None` when not ICMP or in a later fragment.
    pub icmp: Option<(u8, u8)>,
    /// Place in a fragmented datagram.
    pub fragment: Fragment,
    /// Differentiated services code point, 6 bits.
    pub dscp: u8,
    /// IPv4 TTL or IPv6 hop limit.
    pub ttl: u8,
    /// Whether the don't-fragment bit is set; always true for IPv6.
    pub dont_fragment: bool,
    /// Whether the destination is only the next stop of a source route: an IPv4 source route option (RFC 791 3.1) or
    /// an IPv6 routing header with segments left (RFC 8200 4.4).
    pub source_route: bool,
    /// Start of the IP header in the frame (14 for untagged Ethernet).
    pub l3: u16,
    /// Start of the upper-layer header in the frame.
    pub l4: u16,
    /// Length of the IP packet in bytes as its header says (trailing Ethernet padding not counted).
    pub len: u16,
    /// IPv6 flow label, 0 for IPv4.
    pub flow_label: u32,
    /// What is wrong behind the fixed header, if anything.
    pub flaw: Option<Flaw>,
}

/// What is wrong with a packet whose addresses can be believed: the first fault met behind the fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// The IPv4 option that begins at this byte of the header does not fit into it (RFC 791 3.1). Such a packet is never
    /// forwarded, and its sender is told (RFC 1812 4.3.3.5).
    BadOption(u8),
    /// IPv6 extension headers that run out of the packet, number more than [`MAX_EXTENSION_HEADERS`], or stand where
    /// RFC 8200 4.1 does not let them.
    ExtensionChain,
    /// The packet, or the first fragment, ends within the fixed part of its TCP, UDP, ICMP, SCTP, DCCP or UDP-Lite header
    /// (RFC 1858 3, RFC 7112 5).
    TransportTruncated,
    /// A later TCP fragment that begins within the TCP header and could overwrite what a rule looked at (RFC 1858 4).
    TinyFragment,
}

impl Flaw {
    /// Whether the upper-layer header cannot be relied on. No router on the way needs that header (RFC 8200 4), but a
    /// rule about ports cannot be applied.
    #[inline]
    pub fn hides_transport(self) -> bool {
        !matches!(self, Flaw::BadOption(_))
    }
}

impl Headers {
    /// Length of the upper-layer header and payload in bytes.
    #[inline]
    pub fn l4_len(&self) -> usize {
        // `parse` only returns headers with l3 <= l4 <= l3 + len.
        (self.l3 as usize + self.len as usize).saturating_sub(self.l4 as usize)
    }
}

/// Why bytes are not a packet that may be looked at further. One reason a packet, the first one met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// EtherType is neither IPv4 nor IPv6.
    NotIp,
    /// The frame ends before the header does, or before the length that the header gives (RFC 1812 5.2.2 (1), (5)).
    Truncated,
    /// The version field does not fit the EtherType (RFC 1812 5.2.2 (3)).
    BadVersion,
    /// IPv4 header length below 5 words (RFC 1812 5.2.2 (4)).
    BadHeaderLength,
    /// IPv4 total length smaller than the header (RFC 1812 5.2.2 (5)), an IPv6 jumbogram (RFC 2675), or a packet that ends
    /// behind byte 65,535 of its frame.
    BadTotalLength,
    /// The IPv4 header checksum does not verify (RFC 1812 5.2.2 (2)).
    BadChecksum,
}

/// Reads and validates the IP packet in an untagged Ethernet II frame.
///
/// Bytes behind the length that the IP header gives are padding and are not looked at.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Headers, Malformed> {
    parse_start(frame, frame.len())
}

/// As [`parse`] for a frame of `whole` bytes of which only the first are at hand: all headers must be among them. One that
/// is not counts as cut off, as it would at the end of the packet.
#[inline]
pub fn parse_start(start: &[u8], whole: usize) -> Result<Headers, Malformed> {
    let Some((ethernet, packet)) = start.split_first_chunk::<ETHERNET_HEADER>() else {
        return Err(Malformed::Truncated);
    };
    let whole = whole.saturating_sub(ETHERNET_HEADER);
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        ETHERTYPE_IPV4 => v4::parse(packet, whole, ETHERNET_HEADER as u16),
        ETHERTYPE_IPV6 => v6::parse(packet, whole, ETHERNET_HEADER as u16),
        _ => Err(Malformed::NotIp),
    }
}
