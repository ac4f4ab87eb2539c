//! The filter language of `trace` and `capture`: a subset of pcap's (pcap-filter(7)).
//!
//! ```text
//! filter    = [ terms ]                         nothing: every packet
//! terms     = term { ("and" | "&&" | "or" | "||") term }
//! term      = ("not" | "!") term | "(" terms ")" | primitive
//! primitive = [ "src" | "dst" ] ( "host" ADDRESS | "net" PREFIX | "port" N | "portrange" N-M | ADDRESS )
//!           | ("tcp" | "udp" | "sctp") [ [ "src" | "dst" ] ( "port" N | "portrange" N-M ) ]
//!           | "proto" NAME-OR-NUMBER | "ip" | "ip6" | "icmp" | "icmp6"
//! ```
//!
//! As in pcap, `not` binds tightest, and `and` and `or` bind alike, from left to right: parentheses say what is meant.

mod parse;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;

use classifier::filter::Filter;

pub use parse::expression;

/// Most bytes of a filter.
pub const MAX_TEXT: usize = 4096;

/// Why a filter cannot be used, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// The filter as it was given; without it when it is too long to be shown.
    text: String,
    /// Where the word begins, in characters from 0.
    pub at: usize,
    /// The word that is wrong; empty at the end of the filter.
    pub word: String,
    /// What is wrong with it.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

/// Reads and compiles a filter.
///
/// # Errors
/// The first word that is wrong.
pub fn parse(text: &str) -> Result<Filter, FilterError> {
    match expression(text)? {
        None => Ok(Filter::all()),
        Some(expr) => Filter::compile(&expr).map_err(|_| FilterError {
            text: text.to_owned(),
            at: 0,
            word: String::new(),
            message: too_many_tests(),
            hint: None,
        }),
    }
}

fn too_many_tests() -> String {
    format!("a filter has at most {} tests", classifier::filter::MAX_TESTS)
}

impl FilterError {
    /// The filter, and below it marks under the word.
    pub fn marked(&self) -> String {
        // Control characters would move the marks, or worse.
        let shown: String = self
            .text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let marks = "^".repeat(self.word.chars().count().max(1));
        format!("  {shown}\n  {}{marks}", " ".repeat(self.at))
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.at + 1;
        if self.word.is_empty() {
            write!(
                f,
                "the filter is wrong at its character {place}: {}",
                self.message
            )
        } else {
            let word: String = self.word.chars().take(64).collect();
            write!(
                f,
                "the filter is wrong at {word:?}, character {place}: {}",
                self.message
            )
        }
    }
}

impl std::error::Error for FilterError {}
