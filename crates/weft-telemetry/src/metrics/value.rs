//! The cells that a worker writes and a scrape reads.
//!
//! A cell that came from a worker's shard has one writer, so an increment is a relaxed load and a relaxed store: no
//! locked instruction. A cell from the registry's shared shard may have many, and pays for `fetch_add`. Debug builds check
//! that a single-writer cell is always written by the same thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How many threads write a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    One,
    Many,
}

#[derive(Debug)]
struct Cell {
    value: AtomicU64,
    writers: Writers,
    #[cfg(debug_assertions)]
    owner: std::sync::OnceLock<std::thread::ThreadId>,
}

impl Cell {
    fn new(writers: Writers) -> Self {
        Self {
            value: AtomicU64::new(0),
            writers,
            #[cfg(debug_assertions)]
            owner: std::sync::OnceLock::new(),
        }
    }

    #[inline]
    fn add(&self, n: u64) {
        bump(&self.value, self.writers, n);
        #[cfg(debug_assertions)]
        self.check_owner();
    }

    #[cfg(debug_assertions)]
    fn check_owner(&self) {
        if self.writers == Writers::One {
            let here = std::thread::current().id();
            let owner = *self.owner.get_or_init(|| here);
            assert_eq!(owner, here, "a metric handle of a worker's shard was written by two threads");
        }
    }
}

#[inline]
fn bump(cell: &AtomicU64, writers: Writers, n: u64) {
    match writers {
        Writers::One => cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed),
        Writers::Many => {
            cell.fetch_add(n, Relaxed);
        }
    }
}

/// A value that only grows. Clones share the cell.
#[derive(Clone, Debug)]
pub struct Counter(Arc<Cell>);

impl Counter {
    pub(super) fn new(writers: Writers) -> Self {
        Self(Arc::new(Cell::new(writers)))
    }

    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.add(n);
    }

    /// The value in this shard.
    pub fn get(&self) -> u64 {
        self.0.value.load(Relaxed)
    }

    pub(super) fn in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// A value that goes up and down; shards are summed at a scrape, so one shard may go below zero. Clones share the cell.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<Cell>);

impl Gauge {
    pub(super) fn new(writers: Writers) -> Self {
        Self(Arc::new(Cell::new(writers)))
    }

    /// Adds `n`, which may be negative.
    #[inline]
    pub fn add(&self, n: i64) {
        // Two's complement: adding the bit pattern of a negative number subtracts.
        self.0.add(n.cast_unsigned());
    }

    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Subtracts one.
    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Replaces this shard's value.
    pub fn set(&self, value: i64) {
        self.0.value.store(value.cast_unsigned(), Relaxed);
    }

    /// The value in this shard.
    pub fn get(&self) -> i64 {
        self.0.value.load(Relaxed).cast_signed()
    }

    pub(super) fn in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// Upper bounds of histogram buckets in a histogram's base unit, and how they are written.
#[derive(Debug)]
pub struct Buckets {
    /// Inclusive upper bounds, rising; the `+Inf` bucket is implied.
    pub bounds: &'static [u64],
    /// The same bounds as `le` label values.
    pub le: &'static [&'static str],
    /// Base units per exposed unit: 1e9 where nanoseconds are exposed as seconds, 1 where the unit is the same.
    pub scale: u64,
}

/// A distribution over fixed buckets. Clones share the cells.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<HistogramCells>);

#[derive(Debug)]
struct HistogramCells {
    buckets: &'static Buckets,
    writers: Writers,
    sum: Cell,
    /// One more than there are bounds: the last is `+Inf`. Not cumulative; a scrape adds up.
    counts: Box<[AtomicU64]>,
}

impl Histogram {
    pub(super) fn new(buckets: &'static Buckets, writers: Writers) -> Self {
        let counts = (0..=buckets.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(HistogramCells { buckets, writers, sum: Cell::new(writers), counts }))
    }

    /// Records a duration; for histograms whose base unit is the nanosecond.
    #[inline]
    pub fn observe(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Records a value in the base unit.
    #[inline]
    pub fn record(&self, value: u64) {
        let cells = &*self.0;
        let index = cells.buckets.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = cells.counts.get(index) {
            bump(count, cells.writers, 1);
        }
        cells.sum.add(value);
    }

    /// How many values this shard has seen.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|c| c.load(Relaxed)).sum()
    }

    /// The sum of the values in this shard, in the base unit. Wraps after 584 years of nanoseconds.
    pub fn sum(&self) -> u64 {
        self.0.sum.value.load(Relaxed)
    }

    /// Adds this shard's counts (not cumulative) to `into`, which has one entry per bucket and one for `+Inf`.
    pub(super) fn add_to(&self, into: &mut [u64]) {
        for (to, from) in into.iter_mut().zip(&self.0.counts) {
            *to = to.wrapping_add(from.load(Relaxed));
        }
    }

    pub(super) fn in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}
