//! Address classes of both sides to the rules that are left.
//!
//! A rule is kept where it costs least. If few source classes meet its source condition, it stands in the rows of
//! those classes: a row is a search tree over destination classes. If few destination classes meet its destination
//! condition, it stands in the rows of those. The few rules that are wide on both sides stand in a dense table over
//! the combinations of wide conditions. Whatever the packet, each of the three is asked once.

use hashbrown::HashMap;

use super::TooLarge;
use super::classes::{Classes, Runs, Spec};
use super::map::tree;
use crate::acl::image::{LEAF_RULES, Line};

/// A rule of one family, reduced to numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reduced {
    /// Number of the rule << 2 | action: the smaller one wins.
    pub(super) packed: u32,
    pub(super) src: Spec,
    pub(super) dst: Spec,
    pub(super) signature: u32,
}

/// A list of (signature, packed rule) in the order of the rules.
type Rules = Vec<(u32, u32)>;

/// Leaves: rules that are left when both addresses are known.
pub(super) struct Leaves {
    ids: HashMap<Rules, u32>,
    pub(super) lines: Vec<Line>,
    /// Signature that never holds.
    padding: u32,
    /// `covers[a]` has bit b set when signature b holds only where a does.
    covers: Vec<Vec<u64>>,
    /// The longest chain of lines.
    pub(super) longest: usize,
}

impl Leaves {
    pub(super) fn new(padding: u32, covers: Vec<Vec<u64>>) -> Leaves {
        let mut leaves = Leaves {
            ids: HashMap::new(),
            lines: Vec::new(),
            padding,
            covers,
            longest: 1,
        };
        leaves.id(Vec::new());
        leaves
    }

    /// Drops rules that an earlier rule of the same leaf makes needless.
    fn reduce(&self, rules: impl Iterator<Item = (u32, u32)>) -> Rules {
        let mut kept: Rules = Vec::new();
        for (signature, packed) in rules {
            let covered = |&(s, _): &(u32, u32)| match self.covers.get(s as usize) {
                Some(row) => row[signature as usize >> 6] >> (signature & 63) & 1 == 1,
                None => s == signature,
            };
            if !kept.iter().any(covered) {
                kept.push((signature, packed));
            }
        }
        kept
    }

    /// The first rule of a leaf that holds for a row of signatures; the greatest number when none does.
    pub(super) fn first(&self, leaf: u32, row: &[Line]) -> u32 {
        let mut line = &self.lines[leaf as usize];
        loop {
            for i in 0..LEAF_RULES {
                let signature = (line.0[i / 2] >> (16 * (i % 2)) & 0xffff) as usize;
                if row[signature >> 9].0[signature >> 5 & 15] >> (signature & 31) & 1 == 1 {
                    return line.0[6 + i];
                }
            }
            if line.0[5] == 0 {
                return u32::MAX;
            }
            line = &self.lines[line.0[5] as usize];
        }
    }

    /// The number of a leaf, which is that of its first line; 0 is the empty one.
    fn id(&mut self, rules: Rules) -> u32 {
        if let Some(&id) = self.ids.get(&rules) {
            return id;
        }
        let id = self.lines.len() as u32;
        let parts = rules.len().div_ceil(LEAF_RULES).max(1);
        self.longest = self.longest.max(parts);
        for k in 0..parts {
            let mut line = [0u32; 16];
            for i in 0..LEAF_RULES {
                let (signature, packed) = rules
                    .get(k * LEAF_RULES + i)
                    .copied()
                    .unwrap_or((self.padding, u32::MAX));
                line[i / 2] |= signature << (16 * (i % 2));
                line[6 + i] = packed;
            }
            // 0 ends the chain: the empty leaf follows no other.
            line[5] = if k + 1 < parts { id + k as u32 + 1 } else { 0 };
            self.lines.push(Line(line));
        }
        self.ids.insert(rules, id);
        id
    }
}

/// Classes of one side told apart only by some of the conditions.
pub(super) struct Restricted {
    /// By class: the class told apart.
    pub(super) of: Vec<u32>,
    active: Vec<Vec<Spec>>,
    runs: HashMap<Spec, Runs>,
}

impl Restricted {
    pub(super) fn new(classes: &Classes, used: &[bool]) -> Restricted {
        let mut ids: HashMap<Vec<Spec>, u32> = HashMap::new();
        let mut out = Restricted {
            of: Vec::new(),
            active: Vec::new(),
            runs: HashMap::new(),
        };
        for class in 0..classes.len() {
            let active: Vec<Spec> = classes
                .active(class)
                .iter()
                .copied()
                .filter(|&s| used[s as usize])
                .collect();
            let next = out.active.len() as u32;
            let id = *ids.entry_ref(&active).or_insert(next);
            if id == next {
                for &s in &active {
                    let runs = out.runs.entry(s).or_default();
                    match runs.last_mut() {
                        Some(run) if run.1 + 1 == id => run.1 = id,
                        _ => runs.push((id, id)),
                    }
                }
                out.active.push(active);
            }
            out.of.push(id);
        }
        out
    }

    pub(super) fn len(&self) -> usize {
        self.active.len()
    }
}

/// Rows of one group: for each class of the near side a search tree over the classes of the far side.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// By class of the near side: leaf or node.
    pub(super) root: Vec<u32>,
}

/// A rule as a row sees it.
struct Item<'a> {
    /// Classes of the far side at which it holds.
    runs: &'a [(u32, u32)],
    signature: u32,
    packed: u32,
}

/// The rules of a group by their condition on the near side.
struct Group<'a> {
    rules: &'a [Reduced],
    by_spec: Vec<Vec<u32>>,
}

impl<'a> Group<'a> {
    fn new(rules: &'a [Reduced], near: impl Fn(&Reduced) -> Spec, specs: usize) -> Self {
        let mut by_spec = vec![Vec::new(); specs];
        for (i, r) in rules.iter().enumerate() {
            by_spec[near(r) as usize].push(i as u32);
        }
        Group { rules, by_spec }
    }

    /// By condition: whether a rule of the group has it.
    fn used(&self) -> Vec<bool> {
        self.by_spec.iter().map(|rules| !rules.is_empty()).collect()
    }

    /// The rules that may hold where these conditions do, in order, each with its runs on the far side.
    fn items<'r>(&self, active: &[Spec], far: impl Fn(&Reduced) -> &'r [(u32, u32)]) -> Vec<Item<'r>> {
        let mut members: Vec<u32> = active
            .iter()
            .flat_map(|&s| &self.by_spec[s as usize])
            .copied()
            .collect();
        members.sort_unstable();
        let item = |&i: &u32| {
            let r = &self.rules[i as usize];
            Item {
                runs: far(r),
                signature: r.signature,
                packed: r.packed,
            }
        };
        members.iter().map(item).collect()
    }
}

/// Cuts the far side's `far` classes into runs with the same rules: (last class, leaf) in order.
fn sweep(items: &[Item<'_>], far: usize, leaves: &mut Leaves) -> Vec<(u32, u32)> {
    // (class at which it changes, item); an item is switched at each end of its runs.
    let mut changes: Vec<(u32, u32)> = Vec::with_capacity(items.len() * 2);
    for (i, item) in items.iter().enumerate() {
        for &(lo, hi) in item.runs {
            changes.push((lo, i as u32));
            if hi as usize + 1 < far {
                changes.push((hi + 1, i as u32));
            }
        }
    }
    changes.sort_unstable();
    let mut on = vec![0u64; items.len().div_ceil(64)];
    let mut out: Vec<(u32, u32)> = Vec::new();
    let mut c = 0;
    loop {
        while c < changes.len() && changes[c].0 == at(&out) {
            let i = changes[c].1 as usize;
            on[i >> 6] ^= 1 << (i & 63);
            c += 1;
        }
        let end = changes.get(c).map_or(u32::MAX, |next| next.0 - 1);
        let active = on.iter().enumerate().flat_map(|(w, &word)| {
            std::iter::successors((word != 0).then_some(word), |w| {
                (w & (w - 1) != 0).then_some(w & (w - 1))
            })
            .map(move |rest| w * 64 + rest.trailing_zeros() as usize)
        });
        let rules = leaves.reduce(active.map(|i| (items[i].signature, items[i].packed)));
        out.push((end, leaves.id(rules)));
        if end == u32::MAX {
            break;
        }
    }
    out.dedup_by(|next, prev| {
        let same = next.1 == prev.1;
        if same {
            prev.0 = next.0;
        }
        same
    });
    out
}

/// The class at which the next run begins.
fn at(runs: &[(u32, u32)]) -> u32 {
    runs.last().map_or(0, |r| r.0 + 1)
}

/// Builds the rows of a group. `flip` makes the destination the near side.
pub(super) fn rows(
    rules: &[Reduced],
    near: &Classes,
    far: &Classes,
    flip: bool,
    nodes: &mut Vec<Line>,
    leaves: &mut Leaves,
    limit: usize,
) -> Result<Rows, TooLarge> {
    let near_spec = |r: &Reduced| if flip { r.dst } else { r.src };
    let far_spec = |r: &Reduced| if flip { r.src } else { r.dst };
    let group = Group::new(rules, near_spec, near.runs.len());
    let told = Restricted::new(near, &group.used());
    let mut shared: HashMap<Vec<(u32, u32)>, u32> = HashMap::new();
    let mut roots = Vec::with_capacity(told.len());
    for active in &told.active {
        let items = group.items(active, |r| &far.runs[far_spec(r) as usize]);
        let runs = sweep(&items, far.len(), leaves);
        let root = match shared.get(&runs) {
            Some(&root) => root,
            None => {
                let (root, _) = tree(nodes, &runs);
                shared.insert(runs, root);
                root
            }
        };
        roots.push(root);
        let bytes = (nodes.len() + leaves.lines.len()) * 64;
        if bytes > limit {
            return Err(TooLarge::Bytes(bytes));
        }
    }
    Ok(Rows {
        root: told.of.iter().map(|&id| roots[id as usize]).collect(),
    })
}

/// The dense table of a group.
#[derive(Debug, Default)]
pub(super) struct Dense {
    /// By source class: where its row begins in `cells`.
    pub(super) src: Vec<u32>,
    /// By destination class: its column.
    pub(super) dst: Vec<u32>,
    /// Leaves.
    pub(super) cells: Vec<u32>,
}

/// Builds a dense table over the conditions of a group.
pub(super) fn dense(
    rules: &[Reduced],
    src: &Classes,
    dst: &Classes,
    leaves: &mut Leaves,
    limit: usize,
) -> Result<Dense, TooLarge> {
    let group = Group::new(rules, |r| r.src, src.runs.len());
    let mut used_dst = vec![false; dst.runs.len()];
    for r in rules {
        used_dst[r.dst as usize] = true;
    }
    let (src, dst) = (
        Restricted::new(src, &group.used()),
        Restricted::new(dst, &used_dst),
    );
    let cells = src.len().saturating_mul(dst.len());
    if cells.saturating_mul(4) > limit || cells > u32::MAX as usize {
        return Err(TooLarge::Bytes(cells.saturating_mul(4)));
    }
    let mut out = Dense {
        cells: Vec::with_capacity(cells),
        ..Dense::default()
    };
    for active in &src.active {
        let items = group.items(active, |r| dst.runs.get(&r.dst).map_or(&[], |v| v));
        let mut filled = 0;
        for (end, leaf) in sweep(&items, dst.len(), leaves) {
            let until = (end as usize).saturating_add(1).min(dst.len());
            out.cells
                .extend(std::iter::repeat_n(leaf, until.saturating_sub(filled)));
            filled = until.max(filled);
        }
        let bytes = out.cells.len() * 4 + leaves.lines.len() * 64;
        if bytes > limit {
            return Err(TooLarge::Bytes(bytes));
        }
    }
    out.src = src.of.iter().map(|&id| id * dst.len() as u32).collect();
    out.dst = dst.of;
    Ok(out)
}
