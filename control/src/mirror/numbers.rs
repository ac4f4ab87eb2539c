//! Numbers of the kernel's interface: `linux/rtnetlink.h`, `linux/if.h`, `linux/nexthop.h`.

/// Links of no family of their own.
pub const AF_UNSPEC: u8 = 0;
/// IPv4.
pub const AF_INET: u8 = 2;
/// IPv6.
pub const AF_INET6: u8 = 10;

/// A link was added or changed.
pub const RTM_NEWLINK: u16 = 16;
/// A link is gone.
pub const RTM_DELLINK: u16 = 17;
/// Asks for links.
pub const RTM_GETLINK: u16 = 18;
/// An address was added or changed.
pub const RTM_NEWADDR: u16 = 20;
/// An address is gone.
pub const RTM_DELADDR: u16 = 21;
/// Asks for addresses.
pub const RTM_GETADDR: u16 = 22;
/// A route was added or changed.
pub const RTM_NEWROUTE: u16 = 24;
/// A route is gone.
pub const RTM_DELROUTE: u16 = 25;
/// Asks for routes.
pub const RTM_GETROUTE: u16 = 26;
/// A neighbour was added or changed.
pub const RTM_NEWNEIGH: u16 = 28;
/// A neighbour is gone.
pub const RTM_DELNEIGH: u16 = 29;
/// Asks for neighbours.
pub const RTM_GETNEIGH: u16 = 30;
/// A policy rule was added.
pub const RTM_NEWRULE: u16 = 32;
/// A policy rule is gone.
pub const RTM_DELRULE: u16 = 33;
/// Asks for policy rules.
pub const RTM_GETRULE: u16 = 34;
/// A device's setting was changed.
pub const RTM_NEWNETCONF: u16 = 80;
/// Asks for devices' settings.
pub const RTM_GETNETCONF: u16 = 82;
/// A nexthop object was added or changed.
pub const RTM_NEWNEXTHOP: u16 = 104;
/// A nexthop object is gone.
pub const RTM_DELNEXTHOP: u16 = 105;
/// Asks for nexthop objects.
pub const RTM_GETNEXTHOP: u16 = 106;

/// `IFF_UP`: administratively up.
pub const IFF_UP: u32 = 1;
/// `IFF_RUNNING`: operational.
pub const IFF_RUNNING: u32 = 0x40;
/// `IFF_RUNNING | IFF_LOWER_UP`: it has a carrier when one of them is set (`netif_get_flags`).
pub const CARRIER: u32 = 0x40 | 0x10000;

/// `RTNH_F_DEAD`: not to be used.
pub const DEAD: u8 = 1;
/// `RTNH_F_ONLINK`: the gateway is on the device whatever the routes say.
pub const ONLINK: u8 = 4;
/// `RTNH_F_LINKDOWN`: the device has no carrier.
pub const LINKDOWN: u8 = 16;
/// Not the kernel's: the next hop puts packets into a tunnel (`RTA_ENCAP`), which Margay does not do.
pub const ENCAP: u8 = 0x80;

/// `RTM_F_CLONED`: an entry of the route cache.
pub const RTM_F_CLONED: u32 = 0x200;
/// `RT_SCOPE_HOST`.
pub const SCOPE_HOST: u8 = 254;
/// `RT_SCOPE_LINK`.
pub const SCOPE_LINK: u8 = 253;

/// `RTN_UNICAST`.
pub const UNICAST: u8 = 1;
/// `RTN_LOCAL`.
pub const LOCAL: u8 = 2;
/// `RTN_BROADCAST`.
pub const BROADCAST: u8 = 3;
/// `RTN_ANYCAST`.
pub const ANYCAST: u8 = 4;
/// `RTN_BLACKHOLE`.
pub const BLACKHOLE: u8 = 6;
/// `RTN_UNREACHABLE`.
pub const UNREACHABLE: u8 = 7;
/// `RTN_PROHIBIT`.
pub const PROHIBIT: u8 = 8;
/// `RTN_THROW`.
pub const THROW: u8 = 9;

/// `RTPROT_RA`: learnt from a router advertisement.
pub const PROTO_RA: u8 = 9;
