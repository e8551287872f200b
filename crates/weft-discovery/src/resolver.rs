//! Cache, coalescing and upstream together: one way to an answer for the application's queries and for our own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::bounded::BoundedMap;
use crate::config::DiscoveryConfig;
use crate::stats::DiscoveryStats;
use crate::upstream::{NoAnswer, Upstream};
use crate::wire::{Answer, Key, Kind, Query, SERVFAIL, failure};

/// How long a failure is remembered, so that a name which cannot be resolved is not asked for by every caller anew
/// (RFC 9520 section 3.2 wants at least one second).
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// The TTL on an answer that is given after its own (RFC 8767 section 4).
const STALE_TTL: u32 = 30;
/// How long a client waits for upstream before it gets a stale answer, if there is one (RFC 8767 section 5).
const STALE_AFTER: Duration = Duration::from_millis(1800);
/// How long stale answers are given without asking upstream again. RFC 8767 suggests thirty seconds to spare servers
/// of the whole internet; ours is the cluster's own, and we want to know soon when it is back.
const STALE_RECHECK: Duration = Duration::from_secs(5);

/// An answer and how old it is.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) answer: Arc<Answer>,
    age: Age,
}

#[derive(Clone, Copy, Debug)]
enum Age {
    Fresh(Duration),
    Stale,
}

impl Found {
    /// The TTL to give for a record whose TTL was `old` when the answer came.
    pub(crate) fn ttl(&self, old: u32) -> u32 {
        match self.age {
            Age::Fresh(age) => old.saturating_sub(u32::try_from(age.as_secs()).unwrap_or(u32::MAX)),
            Age::Stale => STALE_TTL,
        }
    }

    /// Whether it is past its TTL.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self.age, Age::Stale)
    }

    /// For how much longer it is good.
    pub(crate) fn remaining(&self) -> Duration {
        match self.age {
            Age::Fresh(age) => self.answer.ttl.saturating_sub(age),
            Age::Stale => STALE_RECHECK,
        }
    }
}

/// Why there is no answer at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// Upstream did not answer and nothing stale is left.
    NoAnswer(NoAnswer),
    /// Too many queries are under way.
    Overloaded,
}

#[derive(Debug)]
struct Entry {
    answer: Arc<Answer>,
    stored: Instant,
    expires: Instant,
    /// Until when it may be given stale.
    dead: Instant,
    /// Set while upstream fails: until then, do not ask again.
    recheck: Option<Instant>,
}

type Outcome = Result<Arc<Answer>, NoAnswer>;
type Flight = watch::Receiver<Option<Outcome>>;

#[derive(Debug)]
pub(crate) struct Resolver {
    cache: Mutex<BoundedMap<Key, Entry>>,
    flights: Mutex<HashMap<Key, Flight>>,
    in_flight: AtomicUsize,
    /// Upstream has not answered when it was last waited for.
    silent: AtomicBool,
    answer_octets: usize,
    max_in_flight: usize,
    max_stale: Duration,
    pub(crate) upstream: Upstream,
    pub(crate) stats: Arc<DiscoveryStats>,
}

impl Resolver {
    pub(crate) fn new(config: &DiscoveryConfig, stats: Arc<DiscoveryStats>) -> Self {
        Self {
            cache: Mutex::new(BoundedMap::weighted(config.cache_entries, config.cache_octets)),
            answer_octets: config.answer_octets,
            flights: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            silent: AtomicBool::new(false),
            max_in_flight: config.max_in_flight.max(1),
            max_stale: config.max_stale,
            upstream: Upstream::new(config),
            stats,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BoundedMap<Key, Entry>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cached_answers(&self) -> usize {
        self.lock().len()
    }

    /// The octets of the answers in the cache, as they lie there.
    pub(crate) fn cached_octets(&self) -> usize {
        self.lock().weight()
    }

    /// Forgets what may not even be given stale.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|entry| entry.dead > now);
    }

    /// The answer, if it is at hand: nothing waits. `max_age` asks for one that is not older, whatever its TTL.
    pub(crate) fn at_hand(&self, query: &Query, max_age: Option<Duration>) -> Option<Found> {
        let now = Instant::now();
        let cache = self.lock();
        let entry = cache.get(&*query.key())?;
        let age = now - entry.stored;
        if entry.expires > now && max_age.is_none_or(|max_age| age <= max_age) {
            self.stats.cache_hits.inc();
            return Some(Found { answer: Arc::clone(&entry.answer), age: Age::Fresh(age) });
        }
        if entry.recheck.is_some_and(|recheck| recheck > now) && entry.dead > now {
            self.stats.cache_stale.inc();
            return Some(Found { answer: Arc::clone(&entry.answer), age: Age::Stale });
        }
        None
    }

    fn stale(&self, key: &Key) -> Option<Found> {
        let cache = self.lock();
        let entry = cache.get(&**key).filter(|entry| entry.dead > Instant::now())?;
        (entry.answer.kind != Kind::Failure)
            .then(|| Found { answer: Arc::clone(&entry.answer), age: Age::Stale })
    }

    /// The answer: from the cache, from an identical query under way, or from upstream.
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        query: &Query,
        max_age: Option<Duration>,
    ) -> Result<Found, Unresolved> {
        if let Some(found) = self.at_hand(query, max_age) {
            return Ok(found);
        }
        let key = query.key();
        let flight = self.join(&key, query);
        let stale = self.stale(&key);
        let Some(mut flight) = flight else {
            stale.iter().for_each(|_| self.stats.cache_stale.inc());
            return stale.ok_or(Unresolved::Overloaded);
        };
        let landed = landed(&mut flight);
        let outcome = if let Some(stale) = stale {
            // One wait tells that upstream is silent. Until it answers again, whatever is stale is given at once: an application
            // that goes along a search list would else wait at every step of it.
            let patience = if self.silent.load(Relaxed) { Duration::ZERO } else { STALE_AFTER };
            match timeout(patience, landed).await {
                Ok(Ok(answer)) if answer.kind != Kind::Failure => Ok(answer),
                outcome => {
                    if outcome.is_err() {
                        self.silent.store(true, Relaxed);
                    }
                    self.defer(&key);
                    self.stats.cache_stale.inc();
                    return Ok(stale);
                }
            }
        } else {
            landed.await
        };
        match outcome {
            Ok(answer) => Ok(Found { answer, age: Age::Fresh(Duration::ZERO) }),
            Err(reason) => Err(Unresolved::NoAnswer(reason)),
        }
    }

    /// Joins the identical query under way or starts it; `None` if too many are under way.
    fn join(self: &Arc<Self>, key: &Key, query: &Query) -> Option<Flight> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key) {
            self.stats.coalesced.inc();
            return Some(flight.clone());
        }
        if self.in_flight.load(Relaxed) >= self.max_in_flight {
            return None;
        }
        self.in_flight.fetch_add(1, Relaxed);
        self.stats.cache_misses.inc();
        let (tx, rx) = watch::channel(None);
        flights.insert(Arc::clone(key), rx.clone());
        let takeoff = Takeoff { resolver: Arc::clone(self), key: Arc::clone(key) };
        let query = query.clone();
        // A task of its own: the query goes on when the client that began it goes away, for those who joined it.
        tokio::spawn(async move {
            let resolver = &takeoff.resolver;
            let outcome = resolver.upstream.exchange(&query, &resolver.stats).await.map(Arc::new);
            resolver.silent.store(outcome.is_err(), Relaxed);
            resolver.store(&takeoff.key, &query, &outcome);
            drop(takeoff);
            let _ = tx.send(Some(outcome));
        });
        Some(rx)
    }

    /// Upstream fails or is slow: gives what is stale at once for a while.
    fn defer(&self, key: &Key) {
        if let Some(entry) = self.lock().get_mut(&**key) {
            entry.recheck = Some(Instant::now() + STALE_RECHECK);
        }
    }

    /// Puts an entry into the cache, unless it is too large to be kept: then the place is left to many others.
    fn keep(&self, cache: &mut BoundedMap<Key, Entry>, key: &Key, entry: Entry) {
        let octets = entry.answer.octets() + 2 * key.len() + ENTRY;
        if octets > self.answer_octets {
            cache.remove(key);
        } else {
            cache.insert_weighing(Arc::clone(key), entry, octets);
        }
    }

    fn store(&self, key: &Key, query: &Query, outcome: &Outcome) {
        let now = Instant::now();
        let mut cache = self.lock();
        let good = outcome.as_ref().ok().filter(|answer| answer.kind != Kind::Failure);
        if let Some(answer) = good {
            if !answer.ttl.is_zero() {
                let expires = now + answer.ttl;
                let dead = expires + self.max_stale;
                let answer = Arc::clone(answer);
                let entry = Entry { answer, stored: now, expires, dead, recheck: None };
                self.keep(&mut cache, key, entry);
            }
            return;
        }
        match cache.get_mut(&**key) {
            Some(entry) if entry.answer.kind != Kind::Failure && entry.dead > now => {
                entry.recheck = Some(now + STALE_RECHECK);
            }
            _ => {
                let answer = match outcome {
                    Ok(answer) => Arc::clone(answer),
                    Err(_) => Arc::new(failure(query, SERVFAIL)),
                };
                let expires = now + FAILURE_TTL;
                let entry = Entry { answer, stored: now, expires, dead: expires, recheck: None };
                self.keep(&mut cache, key, entry);
            }
        }
    }
}

/// What an entry takes besides its answer and twice its key: the slot in the map, the reference counts, the allocator's part.
const ENTRY: usize = 256;

async fn landed(flight: &mut Flight) -> Outcome {
    match flight.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().unwrap_or(Err(NoAnswer::Unreachable)),
        // The task is gone without a word: the runtime is shutting down.
        Err(_) => Err(NoAnswer::Unreachable),
    }
}

/// Takes a query off the list however its task ends.
struct Takeoff {
    resolver: Arc<Resolver>,
    key: Key,
}

impl Drop for Takeoff {
    fn drop(&mut self) {
        self.resolver.in_flight.fetch_sub(1, Relaxed);
        self.resolver.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
