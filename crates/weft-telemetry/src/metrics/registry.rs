//! Where series live between being found and being scraped.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::points::FamilyPoints;
use super::value::Writers;
use super::{Counter, Encoder, Family, Gauge, Histogram, Kind, families};

/// Series per family beyond which new label sets go to one `overflow="true"` series.
///
/// A sidecar talks to tens of destinations; 2,000 leaves room for a busy gateway, and bounds a scrape of the largest
/// family (a histogram of 20 lines) to about 6 MB.
pub const DEFAULT_SERIES_CAP: usize = 2_000;

type Collector = Box<dyn Fn(&mut Encoder<'_>) + Send + Sync>;

/// All metrics of a process. Clones share it.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    cap: usize,
    /// Since when values count that come from collectors.
    since: SystemTime,
    next_shard: AtomicU64,
    overflowed: AtomicU64,
    families: Mutex<BTreeMap<&'static str, Arc<Mutex<FamilyState>>>>,
    collectors: Mutex<Vec<Collector>>,
}

/// Label values in the family's order. Shared, so that a scrape can take them along without copying text.
type LabelValues = Arc<[Box<str>]>;

/// The value of a series in each shard that has it.
pub(super) type Shards = Vec<(u64, Value)>;

/// The values of one label set, and when it was first asked for: it began at zero then, and does so again when it comes
/// back after it was forgotten.
#[derive(Clone)]
pub(super) struct Series {
    pub(super) since: SystemTime,
    pub(super) shards: Shards,
}

struct FamilyState {
    family: &'static Family,
    series: HashMap<LabelValues, Series>,
    /// Where label sets go that do not fit any more.
    overflow: Shards,
}

/// A family's series at the moment of a scrape.
pub(super) struct FamilySnapshot {
    pub(super) family: &'static Family,
    /// Sorted by labels: a stable order makes scrapes comparable by eye and compressible.
    pub(super) series: Vec<(LabelValues, Series)>,
    pub(super) overflow: Shards,
}

#[derive(Clone)]
pub(super) enum Value {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

impl Value {
    fn new(kind: Kind, writers: Writers) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Counter::new(writers)),
            Kind::Gauge => Self::Gauge(Gauge::new(writers)),
            Kind::Histogram(buckets) => Self::Histogram(Histogram::new(buckets, writers)),
        }
    }

    fn in_use(&self) -> bool {
        match self {
            Self::Counter(c) => c.in_use(),
            Self::Gauge(g) => g.in_use(),
            Self::Histogram(h) => h.in_use(),
        }
    }
}

/// One worker's view of the registry. Handles from it must be written by one thread only (debug builds check it), which
/// need not be the thread that asked for them. Clones are the same shard.
#[derive(Clone)]
pub struct Shard {
    registry: Registry,
    id: u64,
    writers: Writers,
}

/// The id of the shard that any thread may write.
const SHARED: u64 = 0;

impl Default for Registry {
    fn default() -> Self {
        Self::new(DEFAULT_SERIES_CAP)
    }
}

impl Registry {
    /// A registry that knows all [`families::ALL`], with at most `cap` series in each family.
    pub fn new(cap: usize) -> Self {
        let state = |family: &&'static Family| (family.name, FamilyState::shared(family));
        Self(Arc::new(Inner {
            cap,
            since: SystemTime::now(),
            next_shard: AtomicU64::new(SHARED + 1),
            overflowed: AtomicU64::new(0),
            families: Mutex::new(families::ALL.iter().map(state).collect()),
            collectors: Mutex::new(Vec::new()),
        }))
    }

    /// A new shard, for one worker thread.
    pub fn shard(&self) -> Shard {
        let id = self.0.next_shard.fetch_add(1, Relaxed);
        Shard { registry: self.clone(), id, writers: Writers::One }
    }

    /// The shard whose handles any number of threads may write, at the price of an atomic add.
    pub fn shared(&self) -> Shard {
        Shard { registry: self.clone(), id: SHARED, writers: Writers::Many }
    }

    /// Adds a source of values that another part keeps as atomics of its own; it is called at each scrape, on the
    /// scraping thread, and must neither block nor call back into the registry.
    pub fn register_collector(&self, collector: Box<dyn Fn(&mut Encoder<'_>) + Send + Sync>) {
        lock(&self.0.collectors).push(collector);
    }

    /// How many times a series was asked for that the cap refused.
    pub fn overflowed(&self) -> u64 {
        self.0.overflowed.load(Relaxed)
    }

    /// Appends all metrics in the Prometheus text format, version 0.0.4 (`text/plain; version=0.0.4`).
    ///
    /// Families without a series are left out.
    pub fn encode(&self, out: &mut String) {
        self.collect(&mut Encoder::text(out, self.0.since));
    }

    /// All metrics as values, for an exporter.
    pub(crate) fn points(&self) -> Vec<FamilyPoints> {
        let mut points = Vec::new();
        self.collect(&mut Encoder::points(&mut points, self.0.since));
        points
    }

    fn collect(&self, encoder: &mut Encoder<'_>) {
        let families: Vec<_> = lock(&self.0.families).values().cloned().collect();
        for state in families {
            // The locks are held to copy handles, not to write text: a worker that meets a new peer during a scrape
            // must not wait for it.
            let snapshot = lock(&state).snapshot();
            encoder.snapshot(&snapshot);
        }
        if self.overflowed() > 0 {
            encoder.family(&families::METRIC_SERIES_OVERFLOW).value(&[], self.overflowed());
        }
        for collector in lock(&self.0.collectors).iter() {
            collector(encoder);
        }
    }

    fn value(&self, family: &'static Family, labels: &[&str], shard: u64, writers: Writers) -> Value {
        debug_assert_eq!(family.labels.len(), labels.len(), "{}: wrong number of labels", family.name);
        let state =
            lock(&self.0.families).entry(family.name).or_insert_with(|| FamilyState::shared(family)).clone();
        let mut state = lock(&state);
        let state = &mut *state;
        let key: LabelValues = labels.iter().map(|l| Box::from(*l)).collect();
        let full = state.series.len() >= self.0.cap && !state.series.contains_key(&key);
        if full {
            state.retire_unused();
        }
        let shards = if full && state.series.len() >= self.0.cap {
            self.0.overflowed.fetch_add(1, Relaxed);
            &mut state.overflow
        } else {
            let new = || Series { since: SystemTime::now(), shards: Shards::new() };
            &mut state.series.entry(key).or_insert_with(new).shards
        };
        match shards.iter().find(|(id, _)| *id == shard) {
            Some((_, value)) => value.clone(),
            None => {
                let value = Value::new(family.kind, writers);
                shards.push((shard, value.clone()));
                value
            }
        }
    }
}

impl FamilyState {
    fn shared(family: &'static Family) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { family, series: HashMap::new(), overflow: Vec::new() }))
    }

    fn snapshot(&self) -> FamilySnapshot {
        let mut series: Vec<_> =
            self.series.iter().map(|(labels, series)| (labels.clone(), series.clone())).collect();
        series.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        FamilySnapshot { family: self.family, series, overflow: self.overflow.clone() }
    }

    /// Forgets the series that no one can write any more, to make room: pods come and go, and with them peers. Only done
    /// when the family is full, because a series that disappears and comes back starts at zero.
    fn retire_unused(&mut self) {
        self.series.retain(|_, series| series.shards.iter().any(|(_, value)| value.in_use()));
    }
}

impl Shard {
    /// The counter of `family` with these label values, made if new. Locks the registry.
    ///
    /// A family of another kind is a mistake in the caller: debug builds panic, release builds count into the void.
    pub fn counter(&self, family: &'static Family, labels: &[&str]) -> Counter {
        match self.registry.value(family, labels, self.id, self.writers) {
            Value::Counter(counter) => counter,
            Value::Gauge(_) | Value::Histogram(_) => {
                debug_assert!(false, "{} is not a counter", family.name);
                Counter::new(self.writers)
            }
        }
    }

    /// The gauge of `family` with these label values, made if new. Locks the registry.
    pub fn gauge(&self, family: &'static Family, labels: &[&str]) -> Gauge {
        match self.registry.value(family, labels, self.id, self.writers) {
            Value::Gauge(gauge) => gauge,
            Value::Counter(_) | Value::Histogram(_) => {
                debug_assert!(false, "{} is not a gauge", family.name);
                Gauge::new(self.writers)
            }
        }
    }

    /// The histogram of `family` with these label values, made if new. Locks the registry.
    pub fn histogram(&self, family: &'static Family, labels: &[&str]) -> Histogram {
        match self.registry.value(family, labels, self.id, self.writers) {
            Value::Histogram(histogram) => histogram,
            Value::Counter(_) | Value::Gauge(_) => {
                debug_assert!(false, "{} is not a histogram", family.name);
                Histogram::new(&families::SECONDS, self.writers)
            }
        }
    }

    /// The registry this shard belongs to.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("cap", &self.0.cap).finish_non_exhaustive()
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A panic elsewhere must not take the metrics away: the maps are valid between any two operations.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
