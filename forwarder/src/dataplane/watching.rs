//! What the control thread sees of packets: those that were dropped, and those that it asks for.

use std::sync::Arc;
use std::time::SystemTime;

use super::Dataplane;
use crate::watch::{DroppedPacket, Tap, TapSpec};

impl Dataplane {
    /// The last dropped packets of all workers, at most `most`, oldest first, with the number of the worker; and how
    /// many were being overwritten while they were read. What the kernel and the steering program drop is not among them.
    pub fn dropped_packets(&self, most: usize) -> (Vec<(usize, DroppedPacket)>, usize) {
        let (mut all, mut torn) = (Vec::new(), 0);
        for (worker, recent) in self.shared.watch().workers().enumerate() {
            let mut packets = Vec::new();
            torn += recent.last(most, &mut packets);
            all.extend(packets.into_iter().map(|packet| (worker, packet)));
        }
        all.sort_by_key(|(_, packet)| packet.time);
        all.drain(..all.len().saturating_sub(most));
        (all, torn)
    }

    /// Has workers show packets from their next burst on. `None` when there are as many taps as there may be.
    pub fn set_tap(&self, spec: TapSpec) -> Option<Arc<Tap>> {
        self.shared.watch().set(spec, self.shared.domain())
    }

    /// Ends it.
    pub fn unset_tap(&self, tap: &Arc<Tap>) {
        self.shared.watch().unset(tap, self.shared.domain());
    }

    /// The time of day of a time as packets are stamped with: nanoseconds since the start.
    pub fn time_of(&self, nanoseconds: u64) -> SystemTime {
        self.shared.counters().time_of(nanoseconds)
    }
}
