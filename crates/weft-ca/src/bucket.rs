//! A rate with room for a burst, in the space of one instant.

use std::time::Duration;

use tokio::time::Instant;

/// So many at once, and then one each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At once, after a rest.
    pub burst: u32,
    /// The time after which one more is allowed.
    pub every: Duration,
}

/// What is left of one caller's [`Rate`]. A new bucket is full.
///
/// Kept as the time at which it is full again (the generic cell rate algorithm): nothing has to tick.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one, or says how long to wait for it.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        match self.missing(rate, now) {
            Some(wait) => Err(wait),
            None => {
                self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + rate.every);
                Ok(())
            }
        }
    }

    /// Takes one where there is one.
    pub(crate) fn spend(&mut self, rate: Rate, now: Instant) {
        let _ = self.take(rate, now);
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self, rate: Rate, now: Instant) -> bool {
        self.missing(rate, now).is_some()
    }

    /// Whether it is as new.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }

    /// How long until there is one, where there is none.
    fn missing(&self, rate: Rate, now: Instant) -> Option<Duration> {
        let full_in = self.full_at?.saturating_duration_since(now);
        let wait = (full_in + rate.every).saturating_sub(rate.every * rate.burst);
        (!wait.is_zero()).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, every: Duration::from_secs(2) };

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_then_one_each_time() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.take(RATE, Instant::now()), Ok(()));
        }
        assert_eq!(bucket.take(RATE, Instant::now()), Err(Duration::from_secs(2)));
        assert!(bucket.is_empty(RATE, Instant::now()) && !bucket.is_full(Instant::now()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(bucket.take(RATE, Instant::now()), Ok(()));
        assert_eq!(bucket.take(RATE, Instant::now()), Err(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(bucket.is_full(Instant::now()));
        for _ in 0..3 {
            bucket.spend(RATE, Instant::now());
        }
        bucket.spend(RATE, Instant::now());
        assert_eq!(bucket.take(RATE, Instant::now()), Err(Duration::from_secs(2)), "no debt is kept");
    }
}
