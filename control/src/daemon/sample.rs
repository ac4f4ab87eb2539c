//! What the daemon tells of itself at a scrape: numbers, taken in one go.

use std::collections::BTreeMap;
use std::sync::Arc;

use forwarder::acl::Instance;

use super::Daemon;
use crate::metrics::{MAX_RULES, RuleSample, Sample};

impl Daemon {
    /// Takes a sample. Its cost grows with ports, queues, neighbours and adjacencies; of rules it looks at a bounded
    /// number, of routes at none.
    pub(super) fn sample(&mut self) -> Sample {
        let snapshot = self.dataplane.counters();
        let drops = self.drops.totals(&snapshot);
        let (groups, adjacencies) = self.mirror.adjacency_states(&mut self.dataplane);
        let (rules, rules_left_out) = rules(self.lists.iter().map(|(name, instance, _)| (name, instance)));
        let is_up = |ifindex| self.mirror.port_attrs(ifindex).is_some_and(|attrs| attrs.up);
        let open = self.ports.open.values();
        Sample {
            ready: self.ready,
            started: self.started_at,
            up: open
                .filter(|open| is_up(open.ifindex))
                .map(|open| open.id)
                .collect(),
            snapshot,
            waiting: self.ports.waiting.len(),
            drops,
            rules,
            rules_left_out,
            mirror: self.mirror.stats(),
            neighbours: self.mirror.neighbour_states(),
            groups,
            adjacencies,
            fib_bytes: self.dataplane.fib().bytes(),
            served: self
                .metrics
                .as_ref()
                .map(|server| server.served())
                .unwrap_or_default(),
        }
    }
}

/// The counters of the first [`MAX_RULES`] rules, defaults first, and how many are left out. Which rules have series
/// depends on the lists alone, so that no series comes and goes with traffic.
fn rules<'l>(lists: impl Iterator<Item = (&'l str, &'l Arc<Instance>)>) -> (Vec<RuleSample>, usize) {
    let lists: BTreeMap<Arc<str>, &Arc<Instance>> = lists
        .map(|(name, instance)| (Arc::from(name), instance))
        .collect();
    let defaults = lists
        .iter()
        .map(|(name, instance)| (name, instance, None, instance.image().rules()));
    let numbered = lists.iter().flat_map(|(name, instance)| {
        (0..instance.image().rules()).map(move |rule| (name, instance, Some(rule), rule))
    });
    let all: usize = lists.values().map(|instance| instance.image().rules() + 1).sum();
    let told: Vec<RuleSample> = defaults
        .chain(numbered)
        .take(MAX_RULES)
        .map(|(name, instance, rule, row)| RuleSample {
            list: Arc::clone(name),
            rule,
            count: instance.counter(row),
        })
        .collect();
    let left_out = all - told.len();
    (told, left_out)
}
