//! The slow, obvious twin: a binary trie, one node a bit, changed by copying the path and swapping the root.
//!
//! Every clever engine is compared against it in tests. It needs no `unsafe`, allocates at each change, and
//! reads up to 32 (128) nodes a look-up.

use std::sync::Arc;

use super::{Addr, BURST, LpmError, MAX_VALUE, NO_ROUTE, Prefix, Value};
use crate::qsbr::{Domain, Online, Published};

/// A subtree; `None` is empty.
type Link = Option<Arc<Node>>;

#[derive(Clone, Default)]
struct Node {
    value: Option<Value>,
    children: [Link; 2],
}

impl Node {
    fn is_empty(&self) -> bool {
        self.value.is_none() && self.children.iter().all(Option::is_none)
    }
}

/// The subtree with `value` at the place that `prefix` names below `depth`, and what was there before. Nodes that
/// became empty are left out.
fn with<A: Addr>(link: &Link, prefix: Prefix<A>, depth: u8, value: Option<Value>) -> (Link, Option<Value>) {
    let mut node = link.as_deref().cloned().unwrap_or_default();
    let old = if depth == prefix.len() {
        std::mem::replace(&mut node.value, value)
    } else {
        let side = usize::from(prefix.addr().bit(depth));
        let (child, old) = with(&node.children[side], prefix, depth + 1, value);
        node.children[side] = child;
        old
    };
    ((!node.is_empty()).then(|| Arc::new(node)), old)
}

fn longest<A: Addr>(root: &Link, addr: A) -> Option<(Prefix<A>, Value)> {
    let (mut link, mut depth, mut best) = (root, 0, None);
    while let Some(node) = link {
        if let Some(value) = node.value {
            best = Some((Prefix::covering(addr, depth), value));
        }
        if depth == A::BITS {
            break;
        }
        link = &node.children[usize::from(addr.bit(depth))];
        depth += 1;
    }
    best
}

fn collect<A: Addr>(link: &Link, prefix: Prefix<A>, out: &mut Vec<(Prefix<A>, Value)>) {
    let Some(node) = link else { return };
    if let Some(value) = node.value {
        out.push((prefix, value));
    }
    if prefix.len() < A::BITS {
        let len = prefix.len() + 1;
        collect(&node.children[0], Prefix::covering(prefix.addr(), len), out);
        // The upper half begins where the prefix filled to its end has only the bits up to `len` left.
        collect(&node.children[1], Prefix::covering(prefix.last(), len), out);
    }
}

fn count_nodes(link: &Link) -> usize {
    link.as_ref()
        .map_or(0, |node| 1 + node.children.iter().map(count_nodes).sum::<usize>())
}

/// A route table with one writer. Same interface as the fast engine's.
pub struct Table<A> {
    domain: Domain,
    root: Link,
    published: Arc<Published<Link>>,
    len: usize,
    family: std::marker::PhantomData<A>,
}

impl<A: Addr> Table<A> {
    /// An empty table whose readers belong to `domain`.
    #[must_use]
    pub fn new(domain: &Domain) -> Self {
        Self {
            domain: domain.clone(),
            root: None,
            published: Arc::new(Published::new(None)),
            len: 0,
            family: std::marker::PhantomData,
        }
    }

    fn publish(&self) {
        self.published.replace(self.root.clone(), &self.domain);
        self.domain.reclaim();
    }

    /// Adds the prefix or gives it another value; returns the value it had.
    ///
    /// # Errors
    /// [`LpmError::Value`].
    pub fn insert(&mut self, prefix: Prefix<A>, value: Value) -> Result<Option<Value>, LpmError> {
        if value > MAX_VALUE {
            return Err(LpmError::Value(value));
        }
        let (root, old) = with(&self.root, prefix, 0, Some(value));
        self.root = root;
        self.len += usize::from(old.is_none());
        self.publish();
        Ok(old)
    }

    /// Takes the prefix out; returns the value it had, `None` when it was not there.
    ///
    /// # Errors
    /// None by this engine.
    pub fn remove(&mut self, prefix: Prefix<A>) -> Result<Option<Value>, LpmError> {
        let (root, old) = with(&self.root, prefix, 0, None);
        self.root = root;
        self.len -= usize::from(old.is_some());
        self.publish();
        Ok(old)
    }

    /// Adds many prefixes at once; those already there get the new value.
    ///
    /// # Errors
    /// [`LpmError::Value`], and [`LpmError::Duplicate`] when a prefix stands twice in `routes`; the table is as it
    /// was.
    pub fn load(&mut self, routes: impl IntoIterator<Item = (Prefix<A>, Value)>) -> Result<(), LpmError> {
        let mut seen = std::collections::HashSet::new();
        let (mut root, mut len) = (self.root.clone(), self.len);
        for (prefix, value) in routes {
            if value > MAX_VALUE {
                return Err(LpmError::Value(value));
            }
            if !seen.insert(prefix) {
                return Err(LpmError::Duplicate(prefix.to_string()));
            }
            let (next, old) = with(&root, prefix, 0, Some(value));
            root = next;
            len += usize::from(old.is_none());
        }
        (self.root, self.len) = (root, len);
        self.publish();
        Ok(())
    }

    /// The value of exactly this prefix.
    #[must_use]
    pub fn get(&self, prefix: Prefix<A>) -> Option<Value> {
        let mut link = &self.root;
        for depth in 0..prefix.len() {
            link = &link.as_ref()?.children[usize::from(prefix.addr().bit(depth))];
        }
        link.as_ref()?.value
    }

    /// The longest prefix that covers the address, and its value.
    #[must_use]
    pub fn lookup(&self, addr: A) -> Option<(Prefix<A>, Value)> {
        longest(&self.root, addr)
    }

    /// All prefixes in order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix<A>, Value)> + '_ {
        let mut all = Vec::with_capacity(self.len);
        collect(&self.root, Prefix::covering(A::default(), 0), &mut all);
        all.into_iter()
    }

    /// How many prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that look-ups read.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        // An Arc's allocation carries two counters.
        count_nodes(&self.root) * (size_of::<Node>() + 2 * size_of::<usize>())
    }

    /// Bytes of all that the table holds: the trie serves both sides.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.image_bytes() + size_of::<Self>()
    }

    /// A handle for workers.
    #[must_use]
    pub fn reader(&self) -> TableReader<A> {
        TableReader {
            published: self.published.clone(),
            family: std::marker::PhantomData,
        }
    }
}

impl<A> std::fmt::Debug for Table<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// What workers look up in. Clones read the same table.
#[derive(Clone)]
pub struct TableReader<A> {
    published: Arc<Published<Link>>,
    family: std::marker::PhantomData<A>,
}

impl<A: Addr> TableReader<A> {
    /// Looks up to [`BURST`] addresses up: `out[i]` becomes the value for `keys[i]`, [`NO_ROUTE`] when none.
    ///
    /// # Panics
    /// When there are more keys than [`BURST`] or fewer places in `out` than keys.
    pub fn lookup_burst(&self, online: &Online<'_>, keys: &[A], out: &mut [Value]) {
        assert!(
            keys.len() <= BURST && keys.len() <= out.len(),
            "a burst is at most {BURST} keys"
        );
        let root = self.published.load(online);
        for (key, out) in keys.iter().zip(out) {
            *out = longest(root, *key).map_or(NO_ROUTE, |(_, value)| value);
        }
    }

    /// The value for one address, [`NO_ROUTE`] when none.
    #[must_use]
    pub fn lookup(&self, online: &Online<'_>, key: A) -> Value {
        longest(self.published.load(online), key).map_or(NO_ROUTE, |(_, value)| value)
    }
}

impl<A> std::fmt::Debug for TableReader<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableReader").finish_non_exhaustive()
    }
}
