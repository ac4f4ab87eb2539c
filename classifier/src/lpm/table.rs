//! The table that the rest of Margay uses: the RIB's copy, the image behind it, and handles for workers.

use std::sync::Arc;

use super::compressed::Compressed;
use super::dir24::Dir24;
use super::lookup::Lookup;
use super::rib::Rib;
use super::way::Way;
use super::{Addr, BURST, LpmError, MAX_VALUE, NO_ROUTE, Prefix, Value};
use crate::qsbr::{Domain, Online};

/// Which image answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// A direct table with compressed leaves: speed and memory together.
    #[default]
    Compressed,
    /// DIR-24-8, 64 MiB a table: the baseline. IPv4 only; an IPv6 table takes the default.
    Dir24,
}

/// The writer's side of an image. An image answers as the RIB that it was last shown.
pub(super) trait Backend<A>: Send {
    /// Takes over what the RIB says in `prefix`, in place. On an error nothing has changed.
    fn refresh(&mut self, rib: &Rib<A>, prefix: &Prefix<A>) -> Result<(), LpmError>;
    /// Builds anew from the RIB, and publishes the result in one step. On an error nothing has changed.
    fn rebuild(&mut self, rib: &Rib<A>) -> Result<(), LpmError>;
    /// Bytes that look-ups read.
    fn image_bytes(&self) -> usize;
    /// All bytes of the image and of what its writer knows about it.
    fn bytes(&self) -> usize;
    /// A handle for workers.
    fn reader(&self) -> Arc<dyn Lookup<A>>;
}

/// The choice of a backend by family: part of [`Addr`](super::Addr), invisible outside.
pub trait Family: Sized {
    /// An empty image.
    #[allow(private_interfaces)]
    fn backend(engine: Engine, domain: &Domain) -> Result<Box<dyn Backend<Self>>, LpmError>;
}

impl Family for u32 {
    #[allow(private_interfaces)]
    fn backend(engine: Engine, domain: &Domain) -> Result<Box<dyn Backend<Self>>, LpmError> {
        Ok(match engine {
            Engine::Compressed => Box::new(Compressed::<u32>::new(domain)?),
            Engine::Dir24 => Box::new(Dir24::new(domain)?),
        })
    }
}

impl Family for u128 {
    #[allow(private_interfaces)]
    fn backend(_: Engine, domain: &Domain) -> Result<Box<dyn Backend<Self>>, LpmError> {
        Ok(Box::new(Compressed::<u128>::new(domain)?))
    }
}

/// A route table: prefixes to values, one writer, any number of readers.
///
/// Every method that fails leaves the table as it was.
pub struct Table<A: Addr> {
    rib: Rib<A>,
    backend: Box<dyn Backend<A>>,
}

impl<A: Addr> Table<A> {
    /// An empty table of the default engine, whose readers belong to `domain`.
    ///
    /// # Panics
    /// When the kernel grants no address space (128 MiB for IPv4, 256 MiB for IPv6, taken as it is used); see
    /// [`with_engine`](Self::with_engine) for an error instead.
    #[must_use]
    pub fn new(domain: &Domain) -> Self {
        Self::with_engine(domain, Engine::default()).expect("address space for an empty route table")
    }

    /// An empty table.
    ///
    /// # Errors
    /// [`LpmError::Memory`].
    pub fn with_engine(domain: &Domain, engine: Engine) -> Result<Self, LpmError> {
        Ok(Self {
            rib: Rib::new(),
            backend: A::backend(engine, domain)?,
        })
    }

    /// An empty table of the default engine whose images take at most `words` words.
    #[cfg(test)]
    pub(super) fn with_words(domain: &Domain, words: usize) -> Result<Self, LpmError>
    where
        A: super::shape::Shape,
    {
        Ok(Self {
            rib: Rib::new(),
            backend: Box::new(Compressed::<A>::with_words(domain, words)?),
        })
    }

    /// Adds the prefix or gives it another value; returns the value it had. Readers see it when this returns.
    ///
    /// # Errors
    /// [`LpmError::Value`] and [`LpmError::Memory`].
    pub fn insert(&mut self, prefix: Prefix<A>, value: Value) -> Result<Option<Value>, LpmError> {
        check(value)?;
        self.change(prefix, Some(value))
    }

    /// Adds a prefix that is not there yet.
    ///
    /// # Errors
    /// [`LpmError::Duplicate`], [`LpmError::Value`] and [`LpmError::Memory`].
    pub fn add(&mut self, prefix: Prefix<A>, value: Value) -> Result<(), LpmError> {
        if self.rib.get(&prefix).is_some() {
            return Err(LpmError::Duplicate(prefix.to_string()));
        }
        self.insert(prefix, value).map(|_| ())
    }

    /// Takes the prefix out; returns the value it had, `None` when it was not there.
    ///
    /// # Errors
    /// [`LpmError::Memory`]: what takes its place needs room, too.
    pub fn remove(&mut self, prefix: Prefix<A>) -> Result<Option<Value>, LpmError> {
        if self.rib.get(&prefix).is_none() {
            return Ok(None);
        }
        self.change(prefix, None)
    }

    fn change(&mut self, prefix: Prefix<A>, value: Option<Value>) -> Result<Option<Value>, LpmError> {
        let old = self.rib.set(prefix, value);
        if old == value {
            return Ok(old);
        }
        match self.backend.refresh(&self.rib, &prefix) {
            Ok(()) => Ok(old),
            Err(error) => {
                self.rib.set(prefix, old);
                Err(error)
            }
        }
    }

    /// Adds many prefixes at once, far faster than one by one; those already there get the new value. Readers see
    /// all of them at one moment. Sorted input is faster still.
    ///
    /// # Errors
    /// [`LpmError::Value`], [`LpmError::Memory`], and [`LpmError::Duplicate`] when a prefix stands twice in `routes`.
    pub fn load(&mut self, routes: impl IntoIterator<Item = (Prefix<A>, Value)>) -> Result<(), LpmError> {
        let routes = routes.into_iter();
        let mut sorted = Vec::new();
        sorted
            .try_reserve_exact(routes.size_hint().0)
            .map_err(|_| LpmError::Memory)?;
        for (prefix, value) in routes {
            check(value)?;
            sorted.push((prefix, value));
        }
        if !sorted.is_sorted_by(|(one, _), (two, _)| one < two) {
            sorted.sort_unstable_by_key(|(prefix, _)| *prefix);
        }
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(LpmError::Duplicate(twice[0].0.to_string()));
        }
        let rib = self.rib.merged(sorted);
        self.backend.rebuild(&rib)?;
        self.rib = rib;
        Ok(())
    }

    /// The value of exactly this prefix.
    #[must_use]
    pub fn get(&self, prefix: Prefix<A>) -> Option<Value> {
        self.rib.get(&prefix)
    }

    /// The longest prefix that covers the address, and its value: from the RIB's copy, not from the image.
    #[must_use]
    pub fn lookup(&self, addr: A) -> Option<(Prefix<A>, Value)> {
        self.rib.longest(addr, A::BITS)
    }

    /// All prefixes in order of address and length.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix<A>, Value)> + '_ {
        self.rib.iter()
    }

    /// How many prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rib.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rib.len() == 0
    }

    /// Bytes that look-ups read: the image up to its highest word ever used.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.backend.image_bytes()
    }

    /// All bytes that the table holds: the image, the writer's knowledge of it, the RIB's copy at its map's
    /// worst fill.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.backend.bytes() + self.rib.bytes()
    }

    /// A handle for workers.
    #[must_use]
    pub fn reader(&self) -> TableReader<A> {
        let image = self.backend.reader();
        TableReader {
            way: image.best(),
            image,
        }
    }
}

fn check(value: Value) -> Result<(), LpmError> {
    if value > MAX_VALUE {
        Err(LpmError::Value(value))
    } else {
        Ok(())
    }
}

impl<A: Addr> std::fmt::Debug for Table<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// What workers look up in. Clones read the same table.
#[derive(Clone)]
pub struct TableReader<A: Addr> {
    image: Arc<dyn Lookup<A>>,
    way: Way,
}

impl<A: Addr> TableReader<A> {
    /// Looks up to [`BURST`] addresses up: `out[i]` becomes the value for `keys[i]`, [`NO_ROUTE`] when none.
    ///
    /// # Panics
    /// When there are more keys than [`BURST`] or fewer places in `out` than keys, or when the guard is of another
    /// domain than the table.
    #[inline]
    pub fn lookup_burst(&self, online: &Online<'_>, keys: &[A], out: &mut [Value]) {
        assert!(keys.len() <= BURST, "a burst is at most {BURST} keys");
        self.image.burst(online, self.way, keys, &mut out[..keys.len()]);
    }

    /// The value for one address, [`NO_ROUTE`] when none.
    #[must_use]
    pub fn lookup(&self, online: &Online<'_>, key: A) -> Value {
        let mut out = [NO_ROUTE];
        self.image.burst(online, self.way, &[key], &mut out);
        out[0]
    }

    /// The instructions in use.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// The same table looked up in another way, `None` where the processor lacks it: for tests and benchmarks.
    #[must_use]
    pub fn with_way(&self, way: Way) -> Option<Self> {
        way.available().then(|| Self {
            image: self.image.clone(),
            way,
        })
    }
}

impl<A: Addr> std::fmt::Debug for TableReader<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableReader")
            .field("way", &self.way)
            .finish_non_exhaustive()
    }
}
