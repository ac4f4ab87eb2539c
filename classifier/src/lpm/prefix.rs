//! Prefixes, their text form, and what can be wrong with them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::Value;
use super::table::Family;

/// Why a table or a parser refused something. The table is as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LpmError {
    /// The address has bits set behind the prefix length.
    HostBits {
        /// The prefix as given.
        given: String,
        /// The prefix that was probably meant: host bits cleared.
        meant: String,
    },
    /// The length exceeds the family's: 32 for IPv4, 128 for IPv6.
    Length {
        /// The length as given.
        given: u8,
        /// The family's longest.
        max: u8,
    },
    /// Not an address with a length.
    Syntax(String),
    /// The prefix is there already, or stands twice in a bulk load.
    Duplicate(String),
    /// The value is above [`MAX_VALUE`](super::MAX_VALUE).
    Value(Value),
    /// Memory, or the space that the table's index can address, ran out.
    Memory,
}

impl fmt::Display for LpmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostBits { given, meant } => {
                write!(f, "prefix {given} has host bits set; {meant} covers that address")
            }
            Self::Length { given, max } => write!(f, "prefix length {given} is above {max}"),
            Self::Syntax(text) => {
                write!(
                    f,
                    "'{text}' is not a prefix; write ADDRESS/LENGTH, as 192.0.2.0/24 or 2001:db8::/32"
                )
            }
            Self::Duplicate(prefix) => write!(f, "prefix {prefix} is already there"),
            Self::Value(value) => {
                write!(
                    f,
                    "value {value} is out of range; the greatest is {}",
                    super::MAX_VALUE
                )
            }
            Self::Memory => write!(f, "no memory left for the route table"),
        }
    }
}

impl std::error::Error for LpmError {}

/// An address as a number in host order: `u32` for IPv4, `u128` for IPv6.
pub trait Addr:
    Family + Copy + Ord + Eq + std::hash::Hash + fmt::Debug + Default + Send + Sync + 'static
{
    /// Bits of an address.
    const BITS: u8;
    /// The address with all bits behind the first `len` cleared.
    #[must_use]
    fn masked(self, len: u8) -> Self;
    /// The address with all bits behind the first `len` set.
    #[must_use]
    fn filled(self, len: u8) -> Self;
    /// Bit `index`, 0 being the most significant one. `index` < [`Addr::BITS`].
    #[must_use]
    fn bit(self, index: u8) -> bool;
    /// How many leading bits the two have in common.
    #[must_use]
    fn common(self, other: Self) -> u8;
    /// The next address, `None` after the last.
    #[must_use]
    fn next(self) -> Option<Self>;
    /// The address in the family's text form.
    #[must_use]
    fn ip(self) -> IpAddr;
}

macro_rules! addr {
    ($int:ty, $ip:ty, $bits:literal) => {
        impl Addr for $int {
            const BITS: u8 = $bits;
            #[inline]
            fn masked(self, len: u8) -> Self {
                self & !<$int>::MAX.checked_shr(len.into()).unwrap_or(0)
            }
            #[inline]
            fn filled(self, len: u8) -> Self {
                self | <$int>::MAX.checked_shr(len.into()).unwrap_or(0)
            }
            #[inline]
            fn bit(self, index: u8) -> bool {
                self >> ($bits - 1 - index) & 1 == 1
            }
            #[inline]
            fn common(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }
            #[inline]
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn ip(self) -> IpAddr {
                <$ip>::from(self).into()
            }
        }
    };
}
addr!(u32, Ipv4Addr, 32);
addr!(u128, Ipv6Addr, 128);

/// A prefix: an address without host bits, and a length. Ordered by address, then by length: a prefix stands
/// before everything it contains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix<A> {
    addr: A,
    len: u8,
}

impl<A: Addr> Prefix<A> {
    /// The prefix of `len` bits at `addr` (host order).
    ///
    /// # Errors
    /// [`LpmError::Length`] and [`LpmError::HostBits`].
    pub fn new(addr: A, len: u8) -> Result<Self, LpmError> {
        if len > A::BITS {
            return Err(LpmError::Length {
                given: len,
                max: A::BITS,
            });
        }
        if addr.masked(len) != addr {
            return Err(LpmError::HostBits {
                given: format!("{}/{len}", addr.ip()),
                meant: format!("{}/{len}", addr.masked(len).ip()),
            });
        }
        Ok(Self { addr, len })
    }

    /// The prefix of `len` bits that covers `addr`; a length above the family's counts as the family's.
    #[must_use]
    pub fn covering(addr: A, len: u8) -> Self {
        let len = len.min(A::BITS);
        Self {
            addr: addr.masked(len),
            len,
        }
    }

    /// First address.
    #[must_use]
    pub fn addr(&self) -> A {
        self.addr
    }

    /// Last address.
    #[must_use]
    pub fn last(&self) -> A {
        self.addr.filled(self.len)
    }

    /// Length in bits.
    // A prefix has no notion of being empty.
    #[allow(clippy::len_without_is_empty)]
    #[must_use]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether the address lies in the prefix.
    #[must_use]
    pub fn contains(&self, addr: A) -> bool {
        addr.masked(self.len) == self.addr
    }

    /// Whether `other` lies in this prefix or is the same.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }
}

impl<A: Addr> fmt::Display for Prefix<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr.ip(), self.len)
    }
}

impl<A: Addr> fmt::Debug for Prefix<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A prefix of either family.
///
/// Its text form is `ADDRESS/LENGTH`; an address alone stands for itself (/32 or /128).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpPrefix {
    /// An IPv4 prefix.
    V4(Prefix<u32>),
    /// An IPv6 prefix.
    V6(Prefix<u128>),
}

impl IpPrefix {
    /// The prefix of `len` bits at `addr`.
    ///
    /// # Errors
    /// [`LpmError::Length`] and [`LpmError::HostBits`].
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, LpmError> {
        Ok(match addr {
            IpAddr::V4(addr) => Self::V4(Prefix::new(addr.into(), len)?),
            IpAddr::V6(addr) => Self::V6(Prefix::new(addr.into(), len)?),
        })
    }

    /// The prefix that holds this address alone.
    #[must_use]
    pub fn host(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::V4(Prefix::covering(addr.into(), 32)),
            IpAddr::V6(addr) => Self::V6(Prefix::covering(addr.into(), 128)),
        }
    }

    /// First address.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        match self {
            Self::V4(prefix) => prefix.addr().ip(),
            Self::V6(prefix) => prefix.addr().ip(),
        }
    }

    /// Length in bits.
    #[allow(clippy::len_without_is_empty)]
    #[must_use]
    pub fn len(&self) -> u8 {
        match self {
            Self::V4(prefix) => prefix.len(),
            Self::V6(prefix) => prefix.len(),
        }
    }

    /// Whether the address lies in the prefix; never across families.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self, addr) {
            (Self::V4(prefix), IpAddr::V4(addr)) => prefix.contains(addr.into()),
            (Self::V6(prefix), IpAddr::V6(addr)) => prefix.contains(addr.into()),
            _ => false,
        }
    }
}

impl From<Prefix<u32>> for IpPrefix {
    fn from(prefix: Prefix<u32>) -> Self {
        Self::V4(prefix)
    }
}

impl From<Prefix<u128>> for IpPrefix {
    fn from(prefix: Prefix<u128>) -> Self {
        Self::V6(prefix)
    }
}

impl FromStr for IpPrefix {
    type Err = LpmError;

    fn from_str(text: &str) -> Result<Self, LpmError> {
        let syntax = || LpmError::Syntax(text.to_owned());
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| syntax())?;
        let Some(len) = len else {
            return Ok(Self::host(addr));
        };
        // Digits only: `u8::from_str` alone would take "+8".
        if len.is_empty() || len.len() > 3 || !len.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(syntax());
        }
        let max = if addr.is_ipv4() { 32 } else { 128 };
        let len: u16 = len.parse().map_err(|_| syntax())?;
        let len = u8::try_from(len).map_err(|_| LpmError::Length { given: u8::MAX, max })?;
        Self::new(addr, len)
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(prefix) => prefix.fmt(f),
            Self::V6(prefix) => prefix.fmt(f),
        }
    }
}

impl fmt::Debug for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
