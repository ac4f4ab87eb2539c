//! Why a packet was not forwarded: one enum names the reason, its counter, its metric label and its help text.

/// Declares the reasons in one table, so that nothing about a reason can be forgotten elsewhere.
macro_rules! reasons {
    ($( $variant:ident, $name:literal, $help:literal, $hint:literal; )*) => {
        /// The reason why a packet was dropped, or why it was answered by an ICMP error instead of being forwarded.
        ///
        /// Every dropped packet has exactly one. The discriminant indexes the per-port counters.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $( #[doc = $help] $variant, )*
        }

        impl Reason {
            /// All reasons, in the order of their discriminants.
            pub const ALL: &'static [Reason] = &[ $( Reason::$variant, )* ];

            /// Stable name in snake case: JSON value and metric label.
            pub const fn name(self) -> &'static str {
                match self { $( Reason::$variant => $name, )* }
            }

            /// What happened, in one sentence.
            pub const fn help(self) -> &'static str {
                match self { $( Reason::$variant => $help, )* }
            }

            /// What an operator can look at or do about it.
            pub const fn hint(self) -> &'static str {
                match self { $( Reason::$variant => $hint, )* }
            }
        }
    };
}

reasons! {
    NotIp, "not_ip", "The frame carries neither IPv4 nor IPv6.",
        "The steering program leaves such frames to the kernel; a frame that comes through was damaged on its way.";
    Truncated, "truncated", "The frame ends within its IP header, or before the length that the header gives (RFC 1812 5.2.2).",
        "Look at the sender with `tcpdump -e`; a driver or a tunnel cuts frames short.";
    BadVersion, "bad_version", "The IP version field disagrees with the EtherType (RFC 1812 5.2.2).",
        "The sender builds broken packets.";
    BadHeaderLength, "bad_header_length", "The IPv4 header length is below 20 bytes (RFC 1812 5.2.2).",
        "The sender builds broken packets.";
    BadTotalLength, "bad_total_length", "The IP length field is shorter than the header, or stands for an IPv6 jumbogram (RFC 1812 5.2.2, RFC 2675).",
        "The sender builds broken packets.";
    BadChecksum, "bad_checksum", "The IPv4 header checksum is wrong (RFC 1812 5.2.2).",
        "Bytes are damaged on the wire or by the sender; look at the link's error counters with `ip -s link`.";
    BadOptions, "bad_options", "An IPv4 option does not fit into the header (RFC 791 3.1) and an answer was not due.",
        "The sender builds broken packets; it is told so by ICMP parameter problem, unless that may not be answered.";
    ExtensionChain, "extension_chain", "An access list had to look behind IPv6 extension headers that number more than 8 or do not fit the packet.",
        "Up to 8 extension headers are walked; longer chains hide the ports from access lists. Ports without a list forward such packets.";
    TransportTruncated, "transport_truncated", "An access list had to look at a packet that ends inside its TCP, UDP or ICMP header.",
        "Such packets serve to slip past filters (RFC 1858); find the sender.";
    TinyFragment, "tiny_fragment", "An access list had to look at a later TCP fragment that begins within the TCP header, where it could overwrite what a rule looked at (RFC 1858 4).",
        "No ordinary stack sends such fragments: find the sender.";
    SourceRoute, "source_route", "The packet asks to be routed by a list of its own: an IPv4 source route option (RFC 7126 4.3 and 4.4).",
        "Refused for security, as every router does by default; find the sender.";
    MartianSource, "martian_source", "The source address may never appear on a wire: loopback, multicast, unspecified, reserved (RFC 1812 5.3.7).",
        "The sender has no address yet, or forges its source.";
    MartianDestination, "martian_destination", "The destination address may never be forwarded to: loopback, unspecified, multicast, reserved (RFC 1812 5.3.7).",
        "Find the sender; nothing legitimate is sent there.";
    LinkLocal, "link_local", "Source or destination is link-local, which no router forwards (RFC 3927 7, RFC 4291 2.5.6).",
        "The sender should use a global or unique local address; look at its source address selection.";
    SpoofedSource, "spoofed_source", "The source address is not routed back to the port it came from.",
        "`margay route get SOURCE` shows where it is routed; set anti_spoof = \"loose\" or \"off\" for asymmetric routing.";
    AclIngress, "acl_ingress", "The ingress access list of the port denied it.",
        "`margay explain` names the rule; `margay acl show` counts per rule.";
    AclEgress, "acl_egress", "The egress access list of the outgoing port denied it.",
        "`margay explain` names the rule; `margay acl show` counts per rule.";
    AclRejectIngress, "acl_reject_ingress", "The ingress access list rejected it and an answer was not due.",
        "`margay explain` names the rule; answers are not sent about ICMP errors, later fragments and group addresses.";
    AclRejectEgress, "acl_reject_egress", "The egress access list rejected it and an answer was not due.",
        "`margay explain` names the rule; answers are not sent about ICMP errors, later fragments and group addresses.";
    TtlExceeded, "ttl_exceeded", "The TTL or hop limit ran out and an answer was not due.",
        "Usually a routing loop, or a traceroute with ICMP errors as probes.";
    NoRoute, "no_route", "No table has a route to the destination and an answer was not due.",
        "`margay route get DESTINATION`; compare with `ip route get` and `margay route show --diff-kernel`.";
    Blackhole, "blackhole", "The route to the destination is a blackhole.",
        "Configured so: `ip route show type blackhole`.";
    Unreachable, "unreachable", "The route to the destination is of type unreachable and an answer was not due.",
        "Configured so: `ip route show type unreachable`.";
    Prohibit, "prohibit", "The route to the destination is of type prohibit and an answer was not due.",
        "Configured so: `ip route show type prohibit`.";
    Local, "local", "The destination is the node's own address, yet the packet reached a worker.",
        "Happens for a moment while an address is being added; if it lasts, the steering program's local prefixes lag behind.";
    EgressNotAPort, "egress_not_a_port", "The route leads to a device that is not a port, and an answer was not due.",
        "Add the device as [[port]], or route through one that is; `margay doctor` lists such routes.";
    EgressDown, "egress_down", "The outgoing port or link is down and an answer was not due.",
        "`ip link show`; routes of a device without carrier stay until the routing daemon withdraws them.";
    NeighbourUnresolved, "neighbour_unresolved", "The next hop did not answer ARP or neighbour discovery, and an answer was not due.",
        "`margay neigh show` and `ip neigh`; is the next hop up and on that link?";
    HoldFull, "hold_full", "The queue of packets that wait for a neighbour was full.",
        "8 packets a neighbour and worker, 512 packets and 128 neighbours in all may wait; an address scan fills it.";
    MtuExceeded, "mtu_exceeded", "The packet is larger than the outgoing MTU, may not or cannot be fragmented, and an answer was not due.",
        "Compare the MTUs of the ports and routes: IPv4 packets with the don't-fragment bit and all of IPv6 are answered with the MTU, others sent in fragments.";
    FragmentNoFrame, "fragment_no_frame", "The packet had to be sent in fragments, and there were not enough free frames for them.",
        "Raise [runtime] frames, or the outgoing MTU; `margay status` shows how many frames are free.";
    IcmpRateLimited, "icmp_rate_limited", "An ICMP error was due, but the rate limit for them was reached.",
        "Raise [icmp] rate and burst if the answers matter; the flood behind it matters more.";
    TxRingFull, "tx_ring_full", "The TX ring of the outgoing port was full.",
        "The outgoing port is slower than what is sent to it.";
    HandoverFull, "handover_full", "The hand-over ring to the worker of the outgoing queue was full.",
        "That worker is overloaded: `margay top`; more workers or queues spread the load.";
    RxRingFull, "rx_ring_full", "The RX ring of the port was full: the kernel dropped the frame.",
        "The worker is overloaded or was not scheduled: `margay top`; give it a core of its own.";
    RxNoFrame, "rx_no_frame", "The kernel had no free frame to receive into.",
        "Raise [runtime] frames.";
    HostProtection, "host_protection", "A router advertisement or redirect from a workload, which would change the node's own routes.",
        "Workloads are no routers: stop the sender, or make the port an uplink.";
    PortClosed, "port_closed", "The port was closed while the packet was on its way.",
        "Expected when a device goes away; only packets in flight at that moment are counted.";
    Oversize, "oversize", "The packet did not fit the UMEM frames that its port takes for one.",
        "Something sends packets larger than the device's MTU: merging (`ethtool -K DEV gro off lro off`), or large segments of a virtual machine.";
    Stale, "stale", "The packet waited for a worker that did not run for longer than stall_after.",
        "The worker was stopped or starved: give it a core of its own; `margay top` shows how busy it is.";
}

impl Reason {
    /// How many reasons there are: the length of a row of counters.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<Reason> {
        Self::ALL.iter().copied().find(|r| r.name() == name)
    }

    /// Whether an access list decided: then the name begins with `acl_`.
    pub const fn is_acl(self) -> bool {
        matches!(
            self,
            Self::AclIngress | Self::AclEgress | Self::AclRejectIngress | Self::AclRejectEgress
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_snake_case_and_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(
                reason.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{reason}"
            );
            assert!(seen.insert(reason.name()), "{reason} twice");
            assert_eq!(Reason::from_name(reason.name()), Some(*reason));
            assert_eq!(reason.is_acl(), reason.name().starts_with("acl_"), "{reason}");
            assert!(reason.help().ends_with('.') && !reason.hint().is_empty());
        }
    }
}
