//! How fast the controller writes: so many octets a second of each kind of object.
//!
//! Every write goes through etcd and to everybody who watches. Without a pace, one tenant who changes something all the
//! time would have the whole cluster's API server busy with membership.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// `weft-mesh`.
    Mesh,
    /// `weft-state`.
    State,
    /// Headless twins.
    Twin,
    /// Conditions of pods.
    Condition,
    /// Events.
    Event,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Mesh, Self::State, Self::Twin, Self::Condition, Self::Event];

    /// The value of the label `type`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::State => "state",
            Self::Twin => "twin",
            Self::Condition => "condition",
            Self::Event => "event",
        }
    }

    /// Octets a second, and octets at once after a rest.
    fn limits(self) -> (u32, u32) {
        match self {
            // docs/design/controller.md promises 1 MiB/s on average; 10 s of it at once serve a mesh of usual size.
            Self::Mesh => (1 << 20, 10 << 20),
            // One text of at most 900,000 octets; changes come in passes of 2 s.
            Self::State => (256 << 10, 2 << 20),
            Self::Twin => (256 << 10, 1 << 20),
            // Some 300 octets each: 200 pods a second.
            Self::Condition => (64 << 10, 128 << 10),
            // Some 1,000 octets each; their number has a limit of its own.
            Self::Event => (32 << 10, 256 << 10),
        }
    }

    /// A bucket of this kind's own.
    pub(crate) fn bucket(self, now: Instant) -> Bucket {
        let (rate, most) = self.limits();
        Bucket::new(rate.into(), most.into(), now)
    }
}

/// A bucket that fills at a rate. What is taken may leave it in debt once, so that a large thing passes too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: f64,
    most: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// Full; `rate` a second.
    pub(crate) fn new(rate: f64, most: f64, now: Instant) -> Self {
        Self { rate, most, level: most, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.rate).min(self.most);
        self.at = now;
    }

    /// Nothing was taken for so long that it is as new.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level >= self.most
    }

    /// When something can be taken, where that is not now.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        // A little more than needed: a sleep that ends a nanosecond early would find it still empty.
        (self.level <= 0.0).then(|| now + Duration::from_secs_f64(-self.level / self.rate + 0.001))
    }

    pub(crate) fn take(&mut self, amount: f64) {
        self.level -= amount;
    }
}

/// The pace of each kind.
#[derive(Debug)]
pub(crate) struct Pace(HashMap<Kind, Bucket>);

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Kind::ALL.into_iter().map(|kind| (kind, kind.bucket(now))).collect())
    }

    /// Takes `octets` for a write of this kind.
    ///
    /// # Errors
    /// When it may be tried again.
    pub(crate) fn take(&mut self, kind: Kind, octets: usize, now: Instant) -> Result<(), Instant> {
        let Some(bucket) = self.0.get_mut(&kind) else { return Ok(()) };
        match bucket.wait(now) {
            Some(when) => Err(when),
            None => {
                bucket.take(octets as f64);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn on_average_a_mebibyte_a_second_of_membership_whatever_is_asked_for() {
        let mut pace = Pace::new(Instant::now());
        let begun = Instant::now();
        let mut written = 0usize;
        while begun.elapsed() < Duration::from_secs(300) {
            match pace.take(Kind::Mesh, 900_000, Instant::now()) {
                Ok(()) => written += 900_000,
                Err(when) => tokio::time::sleep_until(when).await,
            }
        }
        let allowed = (300 << 20) + (10 << 20) + 900_000;
        assert!((250 << 20..=allowed).contains(&written), "{written}");
        // Each kind has its own.
        assert_eq!(pace.take(Kind::State, 900_000, Instant::now()), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_is_full_again_after_a_rest() {
        let mut bucket = Bucket::new(1.0, 3.0, Instant::now());
        bucket.take(3.0);
        assert!(bucket.wait(Instant::now()).is_some() && !bucket.is_full(Instant::now()));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(bucket.is_full(Instant::now()));
    }
}
