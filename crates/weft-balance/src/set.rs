//! The endpoints of one service, as they change.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use weft_core::{AppProtocol, EndpointAddr, EndpointList, EndpointSource};

use crate::{Endpoint, SEED_LATENCY, Timestamp};

/// The endpoints at one moment. Immutable; sorted by address, as the list it was made from.
#[derive(Debug)]
pub struct Snapshot {
    /// The version of the list.
    pub version: u64,
    /// The endpoints; index `i` means the same endpoint for as long as this snapshot is used.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    /// What discovery says about the protocol.
    pub protocol: AppProtocol,
    /// Where the list came from.
    pub source: EndpointSource,
}

impl Snapshot {
    /// The index of an address, for carrying a worker's own per-endpoint state over from an older snapshot.
    pub fn position(&self, addr: EndpointAddr) -> Option<usize> {
        self.endpoints.binary_search_by_key(&addr, |endpoint| endpoint.addr()).ok()
    }
}

/// Follows the lists of one service. An address that stays keeps its [`Endpoint`], and so its statistics; one that comes
/// starts with the mean latency of its peers, so that it gets a fair share at once and not all of the load (slow start
/// would begin here); one that leaves lives on until its last request has ended.
#[derive(Debug)]
pub struct EndpointSet {
    current: ArcSwap<Snapshot>,
    /// Held by writers only: two updates at once must not lose an endpoint's state.
    update: Mutex<()>,
}

impl EndpointSet {
    /// A set with the endpoints of `list`.
    pub fn new(list: &EndpointList, now: Timestamp) -> Self {
        Self { current: ArcSwap::from_pointee(follow(list, &[], now)), update: Mutex::new(()) }
    }

    /// The snapshot to pick from. Cheap (no shared reference count); do not hold it over an await, clone the inner
    /// `Arc` for that ([`Self::snapshot`]).
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The snapshot, to keep.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Takes over a newer list; an older or equal version changes nothing. Returns whether it was taken.
    pub fn update(&self, list: &EndpointList, now: Timestamp) -> bool {
        if list.version <= self.current.load().version {
            return false;
        }
        let _held = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.current.load();
        if list.version <= old.version {
            return false;
        }
        let next = follow(list, &old.endpoints, now);
        self.current.store(Arc::new(next));
        true
    }
}

fn follow(list: &EndpointList, old: &[Arc<Endpoint>], now: Timestamp) -> Snapshot {
    let seed = mean_latency(old, now).unwrap_or(SEED_LATENCY);
    let endpoints = list
        .endpoints
        .iter()
        .map(|addr| match old.binary_search_by_key(addr, |endpoint| endpoint.addr()) {
            Ok(at) => Arc::clone(&old[at]),
            Err(_) => Arc::new(Endpoint::new(*addr, seed, now)),
        })
        .collect();
    Snapshot { version: list.version, endpoints, protocol: list.protocol, source: list.source }
}

fn mean_latency(endpoints: &[Arc<Endpoint>], now: Timestamp) -> Option<Duration> {
    let count = u32::try_from(endpoints.len()).ok().filter(|count| *count > 0)?;
    Some(endpoints.iter().map(|endpoint| endpoint.latency(now)).sum::<Duration>() / count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;

    fn addr(last: u8) -> EndpointAddr {
        EndpointAddr::new(([10, 0, 0, last], 80).into())
    }

    fn list(version: u64, lasts: &[u8]) -> EndpointList {
        let endpoints = lasts.iter().copied().map(addr).collect();
        EndpointList::new(version, endpoints, AppProtocol::Detect, EndpointSource::Headless)
    }

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn addresses_that_stay_keep_their_state() {
        let set = EndpointSet::new(&list(1, &[1, 2]), ms(0));
        let two = Arc::clone(&set.load().endpoints[1]);
        let guard = two.begin(ms(0));
        assert!(set.update(&list(2, &[3, 2]), ms(1)));
        let snapshot = set.snapshot();
        assert_eq!(snapshot.endpoints.len(), 2);
        assert_eq!(snapshot.position(addr(2)), Some(0));
        assert_eq!(snapshot.position(addr(1)), None);
        assert!(Arc::ptr_eq(&snapshot.endpoints[0], &two));
        assert_eq!(snapshot.endpoints[0].in_flight(), 1);
        assert_eq!(snapshot.endpoints[1].in_flight(), 0);
        drop(guard);
    }

    #[test]
    fn a_newcomer_looks_like_the_mean_of_its_peers() {
        let set = EndpointSet::new(&list(1, &[1, 2]), ms(0));
        for (endpoint, took) in set.load().endpoints.iter().zip([40, 80]) {
            endpoint.begin(ms(0)).finish(ms(took), Outcome::Success);
        }
        set.update(&list(2, &[1, 2, 3]), ms(80));
        let newcomer = set.load().endpoints[2].latency(ms(80));
        assert!((59..=60).contains(&newcomer.as_millis()), "{newcomer:?}");
    }

    #[test]
    fn an_older_list_changes_nothing() {
        let set = EndpointSet::new(&list(5, &[1]), ms(0));
        assert!(!set.update(&list(5, &[2]), ms(0)));
        assert!(!set.update(&list(4, &[2]), ms(0)));
        assert_eq!(set.load().position(addr(1)), Some(0));
    }

    #[test]
    fn an_empty_list_is_followed_too() {
        let set = EndpointSet::new(&list(1, &[1]), ms(0));
        assert!(set.update(&list(2, &[]), ms(0)));
        assert!(set.load().endpoints.is_empty());
    }
}
