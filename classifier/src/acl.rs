//! Access lists: the model, the slow twin, and the compiled image.
//!
//! A [`List`] holds [`Rule`]s, each with its place in a file. [`Image::compile`] turns a list into an immutable image
//! that judges bursts of [`Headers`]; nothing is remembered from one packet to the next, so there is no flow cache
//! that traffic could thrash. [`linear::classify`] is the slow, obvious twin: a scan in the order of the rules.
//!
//! First match wins. A later fragment carries no upper-layer header: a rule that names ports, TCP flags or ICMP types
//! does not match one, unless its `fragment` says `any` or `later`; then those conditions are not looked at.
//!
//! [`Headers`]: crate::packet::Headers

mod compile;
mod cover;
mod image;
mod limits;
pub mod linear;
mod model;
mod run;
#[cfg(test)]
mod tests;

pub use cover::{Covered, covered};
pub use image::{Image, Way};
pub use limits::{CompileError, Limits};
pub use model::{
    Action, Addresses, DscpSet, FragmentMatch, IcmpMatch, IcmpType, List, Match, Origin, PortRange, ProtoSet,
    Protocols, Rule, Set, TcpMatch,
};

/// The most packets that one call of [`Image::classify_burst`] takes.
pub const BURST: usize = 64;
