//! Packet filters: which packets `trace` and `capture` look at.
//!
//! An expression is compiled to a row of tests, each of which says where to go on when it holds and when it does not,
//! as in the BSD packet filter (McCanne and Jacobson, 1993). Every step leads to an earlier one or to the end, so that
//! a filter always ends; nothing is allocated while packets are looked at.

use crate::packet::{Family, Fragment, Headers, protocol};

#[cfg(test)]
mod tests;

/// Most tests in one filter.
pub const MAX_TESTS: usize = 256;

/// Which of a packet's two ends a test is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Src,
    /// The destination.
    Dst,
    /// One of them, it does not matter which.
    Either,
}

/// One thing that is true of a packet or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// The packet is of this family.
    Family(Family),
    /// An address lies in a prefix of this family. `bits` has nothing set outside `mask`; IPv4 stands in the low 32 bits.
    Net {
        /// Whose address.
        side: Side,
        /// The family that the packet must be of.
        family: Family,
        /// The prefix.
        bits: u128,
        /// Its mask.
        mask: u128,
    },
    /// A port of a protocol that has ports lies in a range, ends included. Later fragments have none.
    Port {
        /// Whose port.
        side: Side,
        /// The lowest port.
        lo: u16,
        /// The highest port.
        hi: u16,
    },
    /// The upper-layer protocol, behind extension headers.
    Proto(u8),
}

impl Test {
    #[inline]
    fn holds(&self, headers: &Headers) -> bool {
        match *self {
            Test::Family(family) => headers.family == family,
            Test::Net {
                side,
                family,
                bits,
                mask,
            } => {
                headers.family == family
                    && side.any(headers.src, headers.dst, |address| address & mask == bits)
            }
            Test::Port { side, lo, hi } => {
                has_ports(headers) && side.any(headers.sport, headers.dport, |port| (lo..=hi).contains(&port))
            }
            Test::Proto(number) => headers.proto == number,
        }
    }
}

impl Side {
    #[inline]
    fn any<T>(self, src: T, dst: T, test: impl Fn(T) -> bool) -> bool {
        match self {
            Side::Src => test(src),
            Side::Dst => test(dst),
            Side::Either => test(src) || test(dst),
        }
    }
}

/// Whether the packet carries ports: TCP, UDP, SCTP, DCCP or UDP-Lite, and no later fragment.
#[inline]
pub fn has_ports(headers: &Headers) -> bool {
    let known = matches!(
        headers.proto,
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDP_LITE
    );
    known && headers.fragment != Fragment::Later
}

/// A filter as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// One test.
    Test(Test),
    /// The opposite.
    Not(Box<Expr>),
    /// Both.
    And(Box<Expr>, Box<Expr>),
    /// At least one.
    Or(Box<Expr>, Box<Expr>),
}

impl Expr {
    /// Tests in it.
    fn tests(&self) -> usize {
        match self {
            Expr::Test(_) => 1,
            Expr::Not(inner) => inner.tests(),
            Expr::And(a, b) | Expr::Or(a, b) => a.tests() + b.tests(),
        }
    }
}

/// Where a test leads.
const ACCEPT: u16 = u16::MAX;
const REJECT: u16 = u16::MAX - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    test: Test,
    /// The step to go on with: one before this one, or the end.
    yes: u16,
    no: u16,
}

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Begins with the last step; without steps every packet matches.
    steps: Box<[Step]>,
}

/// A filter that has more than [`MAX_TESTS`] tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl Filter {
    /// The filter that every packet matches, also one whose headers cannot be read.
    pub fn all() -> Filter {
        Filter::default()
    }

    /// Compiles an expression. Its depth must be bounded by whoever built it: compiling goes down as deep.
    ///
    /// # Errors
    /// More than [`MAX_TESTS`] tests.
    pub fn compile(expr: &Expr) -> Result<Filter, TooLong> {
        if expr.tests() > MAX_TESTS {
            return Err(TooLong);
        }
        let mut steps = Vec::new();
        emit(expr, ACCEPT, REJECT, &mut steps);
        Ok(Filter {
            steps: steps.into_boxed_slice(),
        })
    }

    /// Whether every packet matches.
    #[inline]
    pub fn is_all(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether a packet matches. One whose headers cannot be read (`None`) matches only the filter that everything does.
    #[inline]
    pub fn matches(&self, headers: Option<&Headers>) -> bool {
        let Some(mut step) = self.steps.last() else {
            return true;
        };
        let Some(headers) = headers else { return false };
        loop {
            let next = if step.test.holds(headers) {
                step.yes
            } else {
                step.no
            };
            match self.steps.get(usize::from(next)) {
                Some(earlier) => step = earlier,
                None => return next == ACCEPT,
            }
        }
    }
}

/// Appends the steps of an expression, the first one to be done last, and returns where it begins.
fn emit(expr: &Expr, yes: u16, no: u16, steps: &mut Vec<Step>) -> u16 {
    match expr {
        Expr::Test(test) => {
            steps.push(Step { test: *test, yes, no });
            // There are at most MAX_TESTS of them.
            (steps.len() - 1) as u16
        }
        Expr::Not(inner) => emit(inner, no, yes, steps),
        Expr::And(a, b) => {
            let second = emit(b, yes, no, steps);
            emit(a, second, no, steps)
        }
        Expr::Or(a, b) => {
            let second = emit(b, yes, no, steps);
            emit(a, yes, second, steps)
        }
    }
}
