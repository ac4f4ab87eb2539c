//! From words to an expression.

use std::net::IpAddr;

use classifier::filter::{Expr, MAX_TESTS, Side, Test};
use classifier::lpm::IpPrefix;
use classifier::packet::{Family, protocol};

use super::words::{Word, split};
use super::{FilterError, MAX_TEXT, too_many_tests};
use crate::acl::{nearest, protocol_number};

/// How deep `not` and parentheses may go.
const MAX_DEPTH: usize = 64;

/// Words that may begin a primitive.
const BEGINNINGS: [&str; 14] = [
    "host",
    "net",
    "port",
    "portrange",
    "proto",
    "src",
    "dst",
    "tcp",
    "udp",
    "sctp",
    "icmp",
    "icmp6",
    "ip",
    "ip6",
];

/// Reads a filter; `None` for one without words.
///
/// # Errors
/// The first word that is wrong.
pub fn expression(text: &str) -> Result<Option<Expr>, FilterError> {
    if text.len() > MAX_TEXT {
        return Err(FilterError {
            text: String::new(),
            at: 0,
            word: String::new(),
            message: format!("it has {} bytes, and may have {MAX_TEXT}", text.len()),
            hint: None,
        });
    }
    let mut parser = Parser {
        text,
        words: split(text),
        next: 0,
        tests: 0,
    };
    if parser.words.is_empty() {
        return Ok(None);
    }
    let expr = parser.terms(0)?;
    match parser.peek() {
        None => Ok(Some(expr)),
        Some(word) if word.text == ")" => Err(parser.wrong(Some(word), "no parenthesis is open here", None)),
        Some(word) => Err(parser.wrong(
            Some(word),
            "expected `and`, `or` or the end",
            Some("tests are joined with and, or; see `margay trace --help`".to_owned()),
        )),
    }
}

struct Parser<'t> {
    text: &'t str,
    words: Vec<Word<'t>>,
    next: usize,
    tests: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<Word<'t>> {
        self.words.get(self.next).copied()
    }

    fn take(&mut self) -> Option<Word<'t>> {
        let word = self.peek();
        self.next += usize::from(word.is_some());
        word
    }

    /// An error at a word, or at the end.
    fn wrong(&self, word: Option<Word<'_>>, message: impl Into<String>, hint: Option<String>) -> FilterError {
        FilterError {
            text: self.text.to_owned(),
            at: word.map_or_else(|| self.text.trim_end().chars().count(), |word| word.at),
            word: word.map_or_else(String::new, |word| word.text.to_owned()),
            message: message.into(),
            hint,
        }
    }

    fn terms(&mut self, depth: usize) -> Result<Expr, FilterError> {
        let mut expr = self.term(depth)?;
        while let Some(word) = self.peek() {
            let join = match word.text {
                "and" | "&&" => Expr::And,
                "or" | "||" => Expr::Or,
                _ => break,
            };
            self.next += 1;
            expr = join(Box::new(expr), Box::new(self.term(depth)?));
        }
        Ok(expr)
    }

    fn term(&mut self, depth: usize) -> Result<Expr, FilterError> {
        let word = self.take();
        if depth > MAX_DEPTH {
            return Err(self.wrong(
                word,
                format!("`not` and parentheses go {MAX_DEPTH} deep at most"),
                None,
            ));
        }
        match word.map(|word| word.text) {
            Some("not" | "!") => Ok(Expr::Not(Box::new(self.term(depth + 1)?))),
            Some("(") => {
                let expr = self.terms(depth + 1)?;
                match self.take() {
                    Some(Word { text: ")", .. }) => Ok(expr),
                    other => Err(self.wrong(
                        other,
                        "expected `and`, `or` or `)`",
                        word.map(|open| format!("the parenthesis at character {} is open", open.at + 1)),
                    )),
                }
            }
            _ => self.primitive(word),
        }
    }

    fn test(&mut self, word: Word<'_>, test: Test) -> Result<Expr, FilterError> {
        self.tests += 1;
        if self.tests > MAX_TESTS {
            return Err(self.wrong(Some(word), too_many_tests(), None));
        }
        Ok(Expr::Test(test))
    }

    fn both(&mut self, word: Word<'_>, a: Test, b: Test) -> Result<Expr, FilterError> {
        let a = self.test(word, a)?;
        Ok(Expr::And(Box::new(a), Box::new(self.test(word, b)?)))
    }

    fn primitive(&mut self, word: Option<Word<'t>>) -> Result<Expr, FilterError> {
        let Some(word) = word else {
            return Err(self.wrong(None, "expected a test such as `host 10.0.0.1`", None));
        };
        match word.text {
            "src" => self.sided(word, Side::Src),
            "dst" => self.sided(word, Side::Dst),
            "host" | "net" | "port" | "portrange" => self.typed(word, Side::Either),
            "proto" => {
                let number = self.protocol()?;
                self.test(word, Test::Proto(number))
            }
            "tcp" => self.transport(word, protocol::TCP),
            "udp" => self.transport(word, protocol::UDP),
            "sctp" => self.transport(word, protocol::SCTP),
            "ip" => self.test(word, Test::Family(Family::V4)),
            "ip6" => self.test(word, Test::Family(Family::V6)),
            "icmp" => self.both(word, Test::Family(Family::V4), Test::Proto(protocol::ICMP)),
            "icmp6" => self.both(word, Test::Family(Family::V6), Test::Proto(protocol::ICMPV6)),
            text => {
                let hint = if text.parse::<IpAddr>().is_ok() {
                    Some(format!("write `host {text}`"))
                } else if text.parse::<IpPrefix>().is_ok() {
                    Some(format!("write `net {text}`"))
                } else {
                    nearest(text, BEGINNINGS.into_iter()).map(|near| format!("do you mean `{near}`?"))
                };
                Err(self.wrong(
                    Some(word),
                    "expected a test: host, net, src, dst, port, portrange, proto, tcp, udp, sctp, icmp, icmp6, ip, ip6",
                    hint,
                ))
            }
        }
    }

    /// What follows `src` or `dst`.
    fn sided(&mut self, side: Word<'t>, of: Side) -> Result<Expr, FilterError> {
        match self.take() {
            Some(word) if matches!(word.text, "host" | "net" | "port" | "portrange") => self.typed(word, of),
            Some(word) if word.text.parse::<IpAddr>().is_ok() => self.host(word, of),
            other => {
                let hint = other
                    .filter(|word| word.text.parse::<IpPrefix>().is_ok())
                    .map(|word| format!("write `{} net {}`", side.text, word.text));
                let message = format!(
                    "expected host, net, port, portrange or an address behind `{}`",
                    side.text
                );
                Err(self.wrong(other, message, hint))
            }
        }
    }

    fn typed(&mut self, kind: Word<'t>, side: Side) -> Result<Expr, FilterError> {
        let word = self.take();
        match (kind.text, word) {
            ("host", Some(word)) => self.host(word, side),
            ("net", Some(word)) => self.net(word, side),
            ("port", Some(word)) => {
                let port = self.port(word, word.text)?;
                self.test(
                    word,
                    Test::Port {
                        side,
                        lo: port,
                        hi: port,
                    },
                )
            }
            (_, Some(word)) => {
                let Some((lo, hi)) = word.text.split_once('-') else {
                    return Err(self.wrong(Some(word), "expected two ports such as 8000-8080", None));
                };
                let (lo, hi) = (self.port(word, lo)?, self.port(word, hi)?);
                if lo > hi {
                    return Err(self.wrong(Some(word), "the first port is the larger one", None));
                }
                self.test(word, Test::Port { side, lo, hi })
            }
            (kind, None) => {
                let what = match kind {
                    "host" => "an address",
                    "net" => "a prefix",
                    "port" => "a port",
                    _ => "two ports such as 8000-8080",
                };
                Err(self.wrong(None, format!("expected {what} behind `{kind}`"), None))
            }
        }
    }

    fn host(&mut self, word: Word<'t>, side: Side) -> Result<Expr, FilterError> {
        let (family, bits) = match word.text.parse() {
            Ok(IpAddr::V4(address)) => (Family::V4, u128::from(address.to_bits())),
            Ok(IpAddr::V6(address)) => (Family::V6, address.to_bits()),
            Err(_) => {
                let is_net = word.text.parse::<IpPrefix>().is_ok();
                let hint = if is_net {
                    format!("write `net {}`", word.text)
                } else {
                    "names are not looked up: an address is written as 10.0.0.1 or 2001:db8::1".to_owned()
                };
                return Err(self.wrong(Some(word), "this is no address", Some(hint)));
            }
        };
        let mask = mask(family, if family == Family::V4 { 32 } else { 128 });
        self.test(
            word,
            Test::Net {
                side,
                family,
                bits,
                mask,
            },
        )
    }

    fn net(&mut self, word: Word<'t>, side: Side) -> Result<Expr, FilterError> {
        let prefix = match word.text.parse::<IpPrefix>() {
            Ok(prefix) => prefix,
            Err(error) => {
                let hint = "a prefix is written as 10.0.0.0/8 or 2001:db8::/32".to_owned();
                return Err(self.wrong(Some(word), error.to_string(), Some(hint)));
            }
        };
        let (family, bits, length) = match prefix {
            IpPrefix::V4(prefix) => (Family::V4, u128::from(prefix.addr()), prefix.len()),
            IpPrefix::V6(prefix) => (Family::V6, prefix.addr(), prefix.len()),
        };
        let mask = mask(family, u32::from(length));
        self.test(
            word,
            Test::Net {
                side,
                family,
                bits,
                mask,
            },
        )
    }

    fn port(&self, word: Word<'_>, text: &str) -> Result<u16, FilterError> {
        // Unlike `parse`, no sign.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits).ok_or_else(|| {
            let hint = "a port is a number from 0 to 65535; names are not looked up".to_owned();
            self.wrong(Some(word), format!("{text:?} is no port"), Some(hint))
        })
    }

    fn protocol(&mut self) -> Result<u8, FilterError> {
        let word = self.take();
        word.and_then(|word| protocol_number(word.text, true)).ok_or_else(|| {
            let hint = "a protocol is a number from 0 to 255, or a name as in access lists: tcp, udp, icmp, icmpv6, gre, esp".to_owned();
            self.wrong(word, "expected a protocol behind `proto`", Some(hint))
        })
    }

    /// `tcp`, or `tcp src port 80`.
    fn transport(&mut self, word: Word<'t>, number: u8) -> Result<Expr, FilterError> {
        let proto = self.test(word, Test::Proto(number))?;
        let (side, words) = match self.peek().map(|word| word.text) {
            Some("src") => (Side::Src, 1),
            Some("dst") => (Side::Dst, 1),
            _ => (Side::Either, 0),
        };
        let kind = self.words.get(self.next + words).copied();
        match kind.filter(|kind| matches!(kind.text, "port" | "portrange")) {
            Some(kind) => {
                self.next += words + 1;
                let port = self.typed(kind, side)?;
                Ok(Expr::And(Box::new(proto), Box::new(port)))
            }
            None => Ok(proto),
        }
    }
}

/// The mask of a prefix of that length.
fn mask(family: Family, length: u32) -> u128 {
    let (width, all) = match family {
        Family::V4 => (32, u128::from(u32::MAX)),
        Family::V6 => (128, u128::MAX),
    };
    all.checked_shl(width - length).unwrap_or(0) & all
}
