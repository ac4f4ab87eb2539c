//! The rate limit of answers (RFC 1812 4.3.2.8, RFC 4443 2.4 (f)).

use crate::tables::IcmpLimit;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// A token bucket: one token an answer. It counts in nanoseconds, of which each token costs a fixed number.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Nanoseconds that a token costs; `None` when none may be sent at all.
    cost: Option<u64>,
    /// Most nanoseconds that are saved up.
    most: u64,
    saved: u64,
    last: u64,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(limit: IcmpLimit) -> Self {
        let cost = SECOND.checked_div(limit.rate.into()).map(|cost| cost.max(1));
        // A burst of zero would never let the rate through either.
        let most = cost.unwrap_or(0).saturating_mul(limit.burst.max(1).into());
        Self {
            cost,
            most,
            saved: most,
            last: 0,
        }
    }

    /// Whether one more answer may be sent at that time, in nanoseconds of any clock that does not go back.
    pub(crate) fn take(&mut self, now: u64) -> bool {
        let Some(cost) = self.cost else { return false };
        self.saved = self
            .saved
            .saturating_add(now.saturating_sub(self.last))
            .min(self.most);
        self.last = self.last.max(now);
        let enough = self.saved >= cost;
        if enough {
            self.saved -= cost;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, now: u64, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(bucket.take(now))).sum()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = Bucket::new(IcmpLimit {
            rate: 1000,
            burst: 100,
        });
        assert_eq!(taken(&mut bucket, 0, 500), 100);
        assert_eq!(taken(&mut bucket, SECOND / 100, 500), 10);
        assert_eq!(
            taken(&mut bucket, SECOND / 200, 500),
            0,
            "a clock that goes back gives nothing"
        );
        assert_eq!(
            taken(&mut bucket, 3600 * SECOND, 500),
            100,
            "no more than the burst is saved up"
        );
    }

    #[test]
    fn limits_at_their_ends() {
        assert_eq!(
            taken(&mut Bucket::new(IcmpLimit { rate: 0, burst: 9 }), SECOND, 9),
            0
        );
        assert_eq!(
            taken(&mut Bucket::new(IcmpLimit { rate: 5, burst: 0 }), SECOND, 9),
            1
        );
        let mut most = Bucket::new(IcmpLimit {
            rate: u32::MAX,
            burst: u32::MAX,
        });
        assert_eq!(taken(&mut most, SECOND, 1000), 1000);
    }
}
