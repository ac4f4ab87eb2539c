//! The nftables guard of closed ports.
