//! The services that somebody watches, and the task that keeps each up to date.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use weft_core::{AppProtocol, DnsName, EndpointAddr, EndpointList, EndpointSource, ServiceKey};

use crate::config::DiscoveryConfig;
use crate::endpoints::{Question, Resolved, srv_names};
use crate::lookup::ask_ahead;
use crate::resolver::Resolver;
use crate::stats::{DiscoveryStats, ServiceStatus};

/// The pause after refreshes that failed doubles from the floor up to this many times the floor: half a minute with
/// the default of five seconds.
const FAILED_MAX: u32 = 6;
/// An early refresh takes answers from the cache that are no older than this; at the same time the least time between
/// two of them.
const EARLY: Duration = Duration::from_secs(1);

/// One service.
#[derive(Debug)]
pub(crate) struct Service {
    key: ServiceKey,
    srv_names: Vec<(DnsName, AppProtocol)>,
    /// The address that was dialed last, for when DNS knows nothing. None where only the name was given.
    dialed: Mutex<Option<EndpointAddr>>,
    list: ArcSwapOption<EndpointList>,
    changed: watch::Sender<u64>,
    early: Notify,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    ok: Option<Instant>,
    error: Option<&'static str>,
}

/// A handle on the endpoints of one service. While one is held, the service is kept up to date.
#[derive(Clone)]
pub struct ServiceWatch {
    service: Arc<Service>,
    changed: watch::Receiver<u64>,
}

impl ServiceWatch {
    /// The service.
    pub fn key(&self) -> &ServiceKey {
        &self.service.key
    }

    /// The endpoints; `None` until the first resolution has ended. Never an empty list. Cheap: one atomic load and a
    /// reference count.
    pub fn current(&self) -> Option<Arc<EndpointList>> {
        self.service.list.load_full()
    }

    /// The endpoints, as soon as there are any: at the latest after [`DiscoveryConfig::first_wait`], with the dialed
    /// address if DNS has not answered.
    pub async fn ready(&mut self) -> Arc<EndpointList> {
        loop {
            self.changed.borrow_and_update();
            if let Some(list) = self.current() {
                return list;
            }
            // The service holds the sender, so this ends with a change only.
            let _ = self.changed.changed().await;
        }
    }

    /// Waits for the endpoints to change after the last call of this or of [`ready`](Self::ready).
    pub async fn changed(&mut self) -> Arc<EndpointList> {
        loop {
            let _ = self.changed.changed().await;
            if let Some(list) = self.current() {
                return list;
            }
        }
    }

    /// Asks for a refresh before its time, because connecting failed. At most one a second is made.
    pub fn refresh_soon(&self) {
        self.service.early.notify_one();
    }
}

impl fmt::Debug for ServiceWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServiceWatch").field(&self.service.key).finish()
    }
}

impl Service {
    fn list(
        key: &ServiceKey,
        list: Option<EndpointList>,
        dialed: Option<EndpointAddr>,
        labels: &HashMap<u16, String>,
    ) -> Self {
        Self {
            srv_names: srv_names(key, labels),
            key: key.clone(),
            dialed: Mutex::new(dialed),
            list: ArcSwapOption::from_pointee(list),
            changed: watch::Sender::new(0),
            early: Notify::new(),
            health: Mutex::default(),
        }
    }

    fn watch(self: &Arc<Self>) -> ServiceWatch {
        ServiceWatch { service: Arc::clone(self), changed: self.changed.subscribe() }
    }

    fn dialed(&self) -> Option<EndpointAddr> {
        *self.dialed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All services.
#[derive(Debug)]
pub(crate) struct Services {
    map: Mutex<Registry>,
    /// One count for all lists, so that a service which was dropped and comes back does not repeat a version.
    versions: AtomicU64,
    started: mpsc::UnboundedSender<Arc<Service>>,
    statics: HashMap<ServiceKey, Arc<EndpointList>>,
    labels: HashMap<u16, String>,
    stats: Arc<DiscoveryStats>,
    max: usize,
    floor: Duration,
    first_wait: Duration,
    idle_after: Duration,
}

#[derive(Debug, Default)]
struct Registry {
    by_key: HashMap<ServiceKey, Arc<Service>>,
    /// Set when the task has ended: nobody will resolve any more.
    closed: bool,
}

impl Services {
    pub(crate) fn new(
        config: DiscoveryConfig,
        stats: Arc<DiscoveryStats>,
        started: mpsc::UnboundedSender<Arc<Service>>,
    ) -> Self {
        let mut versions = 0;
        let statics = config.statics.into_iter().map(|service| {
            versions += 1;
            let list =
                EndpointList::new(versions, service.endpoints, service.protocol, EndpointSource::Static);
            (service.key, Arc::new(list))
        });
        Self {
            statics: statics.collect(),
            map: Mutex::default(),
            versions: AtomicU64::new(versions),
            started,
            labels: config.srv_labels,
            stats,
            max: config.max_services,
            floor: config.refresh_floor,
            first_wait: config.first_wait,
            idle_after: config.idle_after,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Relaxed) + 1
    }

    fn dialed_list(&self, dialed: Option<EndpointAddr>) -> EndpointList {
        EndpointList::new(
            self.next_version(),
            dialed.into_iter().collect(),
            AppProtocol::Detect,
            EndpointSource::Dialed,
        )
    }

    pub(crate) fn watch(&self, key: &ServiceKey, dialed: Option<EndpointAddr>) -> ServiceWatch {
        let mut registry = self.lock();
        if let Some(service) = registry.by_key.get(key) {
            if dialed.is_some() {
                *service.dialed.lock().unwrap_or_else(PoisonError::into_inner) = dialed;
            }
            return service.watch();
        }
        if let Some(list) = self.statics.get(key).filter(|list| !list.endpoints.is_empty()) {
            let service = Service::list(key, None, dialed, &HashMap::new());
            service.list.store(Some(Arc::clone(list)));
            let service = Arc::new(service);
            registry.by_key.insert(key.clone(), Arc::clone(&service));
            self.stats.services.inc();
            return service.watch();
        }
        if registry.closed || registry.by_key.len() >= self.max {
            if !registry.closed {
                self.stats.services_refused.inc();
            }
            return Arc::new(Service::list(key, Some(self.dialed_list(dialed)), dialed, &HashMap::new()))
                .watch();
        }
        let service = Arc::new(Service::list(key, None, dialed, &self.labels));
        registry.by_key.insert(key.clone(), Arc::clone(&service));
        self.stats.services.inc();
        // Cannot fail before `closed`; and if it did, `close` gives the service its dialed address.
        let _ = self.started.send(Arc::clone(&service));
        service.watch()
    }

    pub(crate) fn refresh_soon(&self, key: &ServiceKey) {
        if let Some(service) = self.lock().by_key.get(key) {
            service.early.notify_one();
        }
    }

    pub(crate) fn status(&self) -> Vec<ServiceStatus> {
        let services: Vec<Arc<Service>> = self.lock().by_key.values().cloned().collect();
        let mut all: Vec<ServiceStatus> = services
            .iter()
            .map(|service| {
                let health = service.health();
                ServiceStatus {
                    key: service.key.clone(),
                    list: service.list.load_full(),
                    watchers: service.changed.receiver_count(),
                    age: health.ok.map(|ok| ok.elapsed()),
                    error: health.error,
                }
            })
            .collect();
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// The task ends: who still waits for a first list gets the dialed address, and so does who comes later.
    pub(crate) fn close(&self) {
        let mut registry = self.lock();
        registry.closed = true;
        for service in registry.by_key.values() {
            if service.list.load().is_none() {
                self.publish(service, self.dialed_list(service.dialed()));
            }
        }
    }

    fn publish(&self, service: &Service, list: EndpointList) {
        let version = list.version;
        tracing::debug!(service = %service.key, endpoints = ?list.endpoints, source = %list.source, "endpoints");
        service.list.store(Some(Arc::new(list)));
        service.changed.send_replace(version);
    }

    /// Drops the service if nobody watches it. Watches are made under the same lock.
    fn drop_idle(&self, service: &Arc<Service>) -> bool {
        let mut registry = self.lock();
        if service.changed.receiver_count() > 0 {
            return false;
        }
        if registry.by_key.get(&service.key).is_some_and(|own| Arc::ptr_eq(own, service)) {
            registry.by_key.remove(&service.key);
            self.stats.services.dec();
        }
        true
    }

    /// Keeps one service up to date until nobody has watched it for a while.
    pub(crate) async fn keep(self: Arc<Self>, service: Arc<Service>, resolver: Arc<Resolver>) {
        let (mut failures, mut early) = (0u32, false);
        let mut idle_since = None;
        loop {
            let started = Instant::now();
            let pause = self.refresh(&service, &resolver, early, &mut failures).await;
            let next = started + pause;
            // Sleeps in steps, so that an idle service does not stay for as long as its TTL.
            early = loop {
                let step = next.min(Instant::now() + self.idle_after);
                tokio::select! {
                    () = sleep_until(step) => {}
                    () = service.early.notified() => {
                        sleep_until(next.min(started + EARLY)).await;
                        break true;
                    }
                }
                if service.changed.receiver_count() > 0 {
                    idle_since = None;
                } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= self.idle_after
                    && self.drop_idle(&service)
                {
                    return;
                }
                if Instant::now() >= next {
                    break false;
                }
            };
        }
    }

    /// One refresh; returns when the next is due.
    async fn refresh(
        &self,
        service: &Arc<Service>,
        resolver: &Arc<Resolver>,
        early: bool,
        failures: &mut u32,
    ) -> Duration {
        let last = service.list.load_full();
        let question = Question {
            key: &service.key,
            srv_names: &service.srv_names,
            dialed: service.dialed(),
            last: last.as_deref(),
            max_age: early.then_some(EARLY),
        };
        let resolving = question.resolve(resolver);
        tokio::pin!(resolving);
        let resolved = if last.is_some() {
            resolving.await
        } else {
            let names: Vec<DnsName> = service.srv_names.iter().map(|(name, _)| name.clone()).collect();
            ask_ahead(resolver, &names, &service.key.name);
            match timeout(self.first_wait, &mut resolving).await {
                Ok(resolved) => resolved,
                Err(_) => {
                    // Who dialed no address has nothing to gain from an early answer.
                    if service.dialed().is_some() {
                        self.publish(service, self.dialed_list(service.dialed()));
                    }
                    resolving.await
                }
            }
        };
        let ttl = self.apply(service, resolved);
        *failures = if ttl.is_some() { 0 } else { failures.saturating_add(1) };
        let pause = match ttl {
            Some(ttl) => ttl.max(self.floor),
            None => self.floor.saturating_mul((1 << (*failures - 1).min(8)).min(FAILED_MAX)),
        };
        // Later only: before its TTL the same answer would come from the cache again. Up to a tenth, so that the
        // sidecars that a rollout started together do not ask together for ever.
        pause.mul_f64(1.0 + 0.1 * fastrand::f64())
    }

    /// Publishes what is new. Returns the TTL, or nothing if the last good endpoints stay.
    fn apply(&self, service: &Service, resolved: Resolved) -> Option<Duration> {
        let last = service.list.load_full();
        match resolved {
            Resolved::Endpoints { endpoints, protocol, source, ttl } => {
                let next = EndpointList::new(0, endpoints, protocol, source);
                let same = last.is_some_and(|last| {
                    (&last.endpoints, last.protocol, last.source) == (&next.endpoints, protocol, source)
                });
                if !same {
                    self.publish(service, EndpointList { version: self.next_version(), ..next });
                }
                self.stats.refreshes_ok.inc();
                *service.health() = Health { ok: Some(Instant::now()), error: None };
                Some(ttl)
            }
            Resolved::Nothing(reason) => {
                let dialed = service.dialed();
                // Where only the dialed address is known, it is the one that was dialed last.
                let follow = last.is_none_or(|last| {
                    last.source == EndpointSource::Dialed && *last.endpoints != *dialed.as_slice()
                });
                if follow {
                    self.publish(service, self.dialed_list(dialed));
                }
                self.stats.refreshes_failed.inc();
                service.health().error = Some(reason);
                None
            }
        }
    }
}
