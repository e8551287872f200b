//! Points in time that fit an atomic.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// One epoch for the process, because endpoints (and so their stamps) are shared by all workers.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A monotonic point in time: nanoseconds since an epoch that the process chose.
///
/// It is always handed in, never read behind the caller's back: a worker reads the clock once per poll and uses that for
/// everything, and tests are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Reads the clock.
    pub fn now() -> Self {
        Self::at(Instant::now())
    }

    /// The same moment as `instant`; moments before the first use of this type become that first moment.
    pub fn at(instant: Instant) -> Self {
        let since = instant.saturating_duration_since(*EPOCH);
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// From nanoseconds since the epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is, in nanoseconds; zero if it is not after it. Workers read their clocks at
    /// different moments, so a slightly later stamp of another worker is normal.
    pub const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment moved on by `by`.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}
