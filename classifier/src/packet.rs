//! What the data plane needs to know of a packet, read once from its bytes.

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
    /// Not a fragment.
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
    /// Destination address.
    pub dst: u128,
    /// Upper-layer protocol, behind extension headers.
    pub proto: u8,
    /// Source port (TCP, UDP, SCTP, DCCP, UDP-Lite; 0 otherwise and in later fragments).
    pub sport: u16,
    /// Destination port, as `sport`.
    pub dport: u16,
    /// TCP flags byte (CWR ECE URG ACK PSH RST SYN FIN from bit 7 to bit 0), 0 when not TCP.
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type; `None` when not ICMP or in a later fragment.
    pub icmp: Option<(u8, u8)>,
    /// Place in a fragmented datagram.
    pub fragment: Fragment,
    /// Differentiated services code point, 6 bits.
    pub dscp: u8,
    /// IPv4 TTL or IPv6 hop limit.
    pub ttl: u8,
    /// Whether the don't-fragment bit is set; always true for IPv6.
    pub dont_fragment: bool,
    /// Start of the IP header in the frame (14 for untagged Ethernet).
    pub l3: u16,
    /// Start of the upper-layer header in the frame.
    pub l4: u16,
    /// Length of the IP packet in bytes as its header says (trailing Ethernet padding not counted).
    pub len: u16,
    /// IPv6 flow label, 0 for IPv4.
    pub flow_label: u32,
}
