//! Metrics for Prometheus: what is measured, how it is written, and who is told.
//!
//! The control thread takes a [`Sample`] in one go, plain numbers without a string for each of them. Writing them as text
//! and sending that to a client of its own speed is done by others.

mod families;
mod http;
mod page;
mod sample;
mod server;
mod text;

pub use families::{FAMILIES, Family, Kind};
pub use http::{MAX_HEAD, Refusal, Wanted, request};
pub use page::page;
pub use sample::{MAX_RULES, RuleSample, Sample};
pub use server::{Served, Server};
pub use text::render;
