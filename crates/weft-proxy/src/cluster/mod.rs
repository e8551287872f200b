//! The endpoints that serve one name, as one worker sees them: which takes the next request, and over which connection.

mod budget;
mod links;
mod outside;
mod race;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use tokio::net::TcpStream;
use weft_balance::{Endpoint, InFlight, Picker, Snapshot, Timestamp};
use weft_config::Retries;
use weft_core::{AppProtocol, EndpointAddr, MtlsMode, PeerRule, ProxyProtocol};
use weft_http::ErrorCode;
use weft_telemetry::metrics::{CodeCounters, Direction, TlsLabel, families};
use weft_telemetry::{Counter, Gauge};

use crate::dial::DialError;
use crate::limits::Limits;
use crate::shared::Service;
use crate::telemetry::{Labels, SeriesByVersion, WorkerTelemetry};

pub(crate) use budget::{Attempts, Budget};
pub(crate) use links::{Connect, EndpointLinks, Link, PlainPeer};
#[cfg(test)]
pub(crate) use links::{Connecting, Opened};
pub(crate) use outside::{Beyond, Outside, PeerIo, Speaks};

/// What the clusters of a worker have in common.
pub(crate) struct Ways {
    pub(crate) connect: Rc<dyn Connect>,
    pub(crate) telemetry: Rc<WorkerTelemetry>,
    pub(crate) limits: Rc<Limits>,
    pub(crate) retries: Retries,
    /// HTTP/2 connections to one endpoint at most.
    pub(crate) max_connections: usize,
    /// The identity's generation, so that a request need not touch shared memory to know it.
    pub(crate) generation: Rc<Cell<u64>>,
    pub(crate) rng: RefCell<fastrand::Rng>,
    /// What stands for this workload where a service's clients keep their endpoints: its address, as Kubernetes has it.
    pub(crate) affinity_key: u64,
    /// Whose requests they are, for metrics.
    pub(crate) direction: Direction,
    /// How long a TLS handshake may take.
    pub(crate) handshake: Duration,
}

impl Ways {
    /// Whether a link of this generation was made with the identity of now: no link outlives the certificates it was
    /// checked with.
    fn is_current(&self, generation: u64) -> bool {
        generation >= self.generation.get()
    }
}

/// How the endpoints of a cluster are to be reached.
#[derive(Clone, Debug)]
pub(crate) struct MeshRule {
    pub(crate) mode: weft_config::DestinationMode,
    pub(crate) peer: PeerRule,
    /// Whether this workload is to keep the endpoint that it has once been given.
    pub(crate) affinity: bool,
}

impl MeshRule {
    pub(crate) fn new(mode: weft_config::DestinationMode, peer: PeerRule) -> Self {
        Self { mode, peer, affinity: false }
    }
}

/// The endpoints that serve one name. It is updated in place: whatever the configuration changes, connections that hold it
/// see with their next request.
pub(crate) struct Cluster {
    pub(crate) label: Arc<str>,
    pub(crate) ways: Rc<Ways>,
    /// How many requests may be sent again.
    pub(crate) budget: Budget,
    rule: RefCell<MeshRule>,
    service: RefCell<Arc<Service>>,
    beyond: Beyond,
    view: RefCell<Option<View>>,
    /// For requests that never came to an endpoint.
    pub(crate) unserved: SeriesByVersion,
    pub(crate) retries: CodeCounters,
    pub(crate) retries_refused: Counter,
    links_open: Gauge,
    links_opened: Counter,
    connect_errors: CodeCounters,
    /// Until when nobody waits for endpoints that may replace those that are gone.
    hopeless_until: Cell<Timestamp>,
}

/// The endpoints at one version, with this worker's links at the same index.
struct View {
    snapshot: Arc<Snapshot>,
    endpoints: Vec<Rc<EndpointLinks>>,
}

/// An endpoint picked for one request.
pub(crate) struct Picked {
    pub(crate) links: Rc<EndpointLinks>,
    pub(crate) in_flight: InFlight,
}

/// How long a request waits for the records of a pod's successor: two early refreshes, and the time that a cluster takes
/// to tell its name server.
const REPLACEMENT: Duration = Duration::from_millis(2_500);
/// How long after such a wait was in vain no other is made.
const HOPELESS: Duration = Duration::from_secs(10);

impl Cluster {
    pub(crate) fn new(
        ways: &Rc<Ways>,
        label: &Arc<str>,
        rule: MeshRule,
        service: Arc<Service>,
        beyond: Beyond,
    ) -> Rc<Self> {
        let shard = &ways.telemetry.shard;
        let name: &[&str] = &[label];
        let outside_tls = beyond.tls.is_some();
        Rc::new(Self {
            label: Arc::clone(label),
            ways: Rc::clone(ways),
            budget: Budget::new(ways.retries.budget),
            rule: RefCell::new(rule),
            service: RefCell::new(service),
            beyond,
            view: RefCell::default(),
            unserved: SeriesByVersion::new(Labels {
                direction: ways.direction,
                source_workload: ways.telemetry.own_workload(),
                destination_service: Arc::clone(label),
                destination_workload: Arc::from(""),
                peer_identity: Arc::from(""),
                tls: if outside_tls { TlsLabel::Tls } else { TlsLabel::None },
            }),
            retries: CodeCounters::new(shard, &families::HTTP_RETRIES, name),
            retries_refused: shard.counter(&families::HTTP_RETRIES_REFUSED, name),
            links_open: shard.gauge(&families::LINKS_OPEN, name),
            links_opened: shard.counter(&families::LINKS_OPENED, name),
            connect_errors: CodeCounters::new(shard, &families::CONNECT_ERRORS, name),
            hopeless_until: Cell::default(),
        })
    }

    /// The mode towards one endpoint.
    pub(crate) fn mode_towards(&self, endpoint: EndpointAddr) -> MtlsMode {
        self.rule.borrow().mode.towards(endpoint.ip())
    }

    /// The mode of the cluster as a whole.
    pub(crate) fn mode(&self) -> MtlsMode {
        self.rule.borrow().mode.of_all()
    }

    /// Reaches an endpoint by mutual TLS, or in plaintext where the mode towards it allows that: [`is_plaintext`] alone decides.
    pub(crate) async fn by_mode<T>(
        &self,
        links: &EndpointLinks,
        mutual: impl AsyncFnOnce() -> Result<T, DialError>,
        plain: impl AsyncFnOnce() -> Result<T, DialError>,
    ) -> Result<T, DialError> {
        let now = Timestamp::now();
        let mode = self.mode_towards(links.endpoint.addr());
        if is_plaintext(mode, links, now) {
            return plain().await;
        }
        match mutual().await {
            Err(error) if mode == MtlsMode::Permissive && error.code == ErrorCode::TlsFailed => {
                links.remember_plaintext(now);
                plain().await
            }
            reached => reached,
        }
    }

    /// The same where nothing has to be waited for: over what is open.
    pub(crate) fn by_mode_now<T>(
        &self,
        links: &EndpointLinks,
        now: Timestamp,
        mutual: impl FnOnce() -> Option<T>,
        plain: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        let mode = self.mode_towards(links.endpoint.addr());
        if is_plaintext(mode, links, now) { plain() } else { mutual() }
    }

    /// Which identities its endpoints may have.
    pub(crate) fn peer(&self) -> PeerRule {
        self.rule.borrow().peer.clone()
    }

    /// Takes another rule over, and where its endpoints come from. No request goes over a link to a peer that may no longer be
    /// one; what is under way there ends.
    pub(crate) fn follow(&self, rule: MeshRule, service: Option<Arc<Service>>) {
        let before = self.rule.replace(rule);
        let moved = service.is_some_and(|service| {
            let before = self.service.replace(Arc::clone(&service));
            !Arc::ptr_eq(&before, &service)
        });
        if moved || before.peer != self.rule.borrow().peer {
            *self.view.borrow_mut() = None;
        }
    }

    /// The protocol that the service's records or the configuration tell, once its endpoints are known.
    pub(crate) async fn protocol(&self) -> AppProtocol {
        match self.service().ready().await {
            Some(set) => set.load().protocol,
            None => AppProtocol::Detect,
        }
    }

    fn service(&self) -> Arc<Service> {
        Arc::clone(&self.service.borrow())
    }

    /// Picks an endpoint other than those in `tried`. `None`: there is none.
    async fn pick(&self, now: Timestamp, tried: &[EndpointAddr]) -> Option<Picked> {
        self.service().ready().await?;
        self.pick_now(now, tried)
    }

    /// The same without waiting, for when the endpoints are known.
    pub(crate) fn pick_now(&self, now: Timestamp, tried: &[EndpointAddr]) -> Option<Picked> {
        let affinity = self.rule.borrow().affinity;
        self.pick_by(now, |endpoints| {
            let skip =
                |i: usize| !tried.is_empty() && endpoints.get(i).is_some_and(|e| tried.contains(&e.addr()));
            let picker =
                if affinity { Picker::Rendezvous(self.ways.affinity_key) } else { Picker::PowerOfTwo };
            picker.pick(endpoints, &mut self.ways.rng.borrow_mut(), now, skip)
        })
    }

    /// Takes the endpoint of this address, while it is one of the service's.
    pub(crate) fn pick_at(&self, now: Timestamp, addr: EndpointAddr) -> Option<Picked> {
        self.pick_where(now, |other| other == addr)
    }

    /// Whether there is such an endpoint, as far as is known.
    pub(crate) fn has(&self, is: impl Fn(EndpointAddr) -> bool) -> bool {
        let service = self.service.borrow();
        service.known().is_some_and(|set| set.load().endpoints.iter().any(|endpoint| is(endpoint.addr())))
    }

    /// Takes the endpoint whose address is the one that is meant.
    pub(crate) fn pick_where(&self, now: Timestamp, is: impl Fn(EndpointAddr) -> bool) -> Option<Picked> {
        self.pick_by(now, |endpoints| endpoints.iter().position(|endpoint| is(endpoint.addr())))
    }

    fn pick_by(&self, now: Timestamp, by: impl FnOnce(&[Arc<Endpoint>]) -> Option<usize>) -> Option<Picked> {
        let service = self.service.borrow();
        let set = service.known()?;
        let mut view = self.view.borrow_mut();
        let current = set.load();
        if view.as_ref().is_none_or(|view| view.snapshot.version != current.version) {
            let snapshot = Arc::clone(&current);
            *view = Some(View::follow(snapshot, view.as_ref(), self.ways.max_connections));
        }
        let view = view.as_ref()?;
        let index = by(&view.snapshot.endpoints)?;
        let links = Rc::clone(view.endpoints.get(index)?);
        let in_flight = links.endpoint.begin(now);
        Some(Picked { links, in_flight })
    }

    /// Picks endpoints, each once, until `connect` reaches one; nothing was sent meanwhile. `tried` gets those that could
    /// not be reached.
    pub(crate) async fn reach<T>(
        &self,
        tried: &mut Vec<EndpointAddr>,
        connect: impl AsyncFn(&Picked) -> Result<T, DialError>,
    ) -> Result<(Picked, T), DialError> {
        let mut last = None;
        let mut attempts = Attempts::new(self.ways.retries.connect_attempts);
        loop {
            let Some(picked) = self.pick(Timestamp::now(), tried).await else {
                // Whoever answered, but not as itself, is not about to be replaced.
                let gone = last.as_ref().is_none_or(|error: &DialError| error.code.is_connect());
                if gone && self.replaced(tried).await {
                    continue;
                }
                break;
            };
            // Boxed: nothing that keeps a request's future in its room has to do with two dials at once.
            let (picked, reached) = Box::pin(self.connect_one_of(picked, tried, &connect)).await;
            match reached {
                Ok(reached) => return Ok((picked, reached)),
                Err(error) => {
                    self.failed(&picked.links.endpoint, &error);
                    tried.push(picked.links.endpoint.addr());
                    let another = attempts.another(&error);
                    last = Some(error);
                    if !another {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(DialError::no_endpoint))
    }

    /// Which version its endpoints have agreed to over TLS, if that was left to them.
    pub(crate) fn settled(&self) -> Option<Version> {
        self.beyond.tls.as_ref()?.settled()
    }

    /// The header that connections to its endpoints begin with, each of which is one client's.
    pub(crate) fn announced(&self) -> Option<ProxyProtocol> {
        self.beyond.announced
    }

    /// Takes a connection to an endpoint outside the mesh to its TLS, where there is to be any.
    pub(crate) async fn secured(&self, tcp: TcpStream, speaks: Speaks) -> Result<PeerIo, DialError> {
        outside::secured(self.beyond.tls.as_deref(), tcp, speaks, self.ways.handshake).await
    }

    /// Waits for endpoints besides those that could not be reached. Where a single pod is replaced, its successor's records
    /// follow within moments of its end; where nothing follows, the next requests do not wait for it again for a while.
    async fn replaced(&self, tried: &[EndpointAddr]) -> bool {
        if Timestamp::now() < self.hopeless_until.get() {
            return false;
        }
        let service = self.service();
        let came = tokio::time::timeout(REPLACEMENT, service.other_than(tried)).await.unwrap_or(false);
        if !came {
            self.hopeless_until.set(Timestamp::now().plus(HOPELESS));
        }
        came
    }

    /// Notes that an endpoint's application took no request, although its proxy may be there.
    pub(crate) fn unseen(&self, endpoint: &Endpoint, code: ErrorCode) {
        self.connect_errors.inc(code.as_str());
        if code.is_connect() {
            endpoint.failed_connect(Timestamp::now());
        }
        self.service().refresh_soon();
    }

    /// Notes that an endpoint could not be reached: others are preferred for a while, and DNS is asked again.
    fn failed(&self, endpoint: &Endpoint, error: &DialError) {
        self.connect_errors.inc(error.code.as_str());
        if error.blames_endpoint {
            endpoint.failed_connect(Timestamp::now());
            self.service().refresh_soon();
        }
    }
}

/// Whether an endpoint is called in plaintext at once.
fn is_plaintext(mode: MtlsMode, links: &EndpointLinks, now: Timestamp) -> bool {
    match mode {
        MtlsMode::Strict => false,
        MtlsMode::Permissive => links.is_plaintext(now),
        MtlsMode::Disable => true,
    }
}

impl View {
    /// Links of endpoints that stay are kept; those of endpoints that left go on until their last stream ends.
    fn follow(snapshot: Arc<Snapshot>, old: Option<&Self>, most: usize) -> Self {
        let kept = |endpoint: &Arc<Endpoint>| {
            let old = old?;
            let at = old.snapshot.position(endpoint.addr())?;
            old.endpoints.get(at).filter(|links| Arc::ptr_eq(&links.endpoint, endpoint)).cloned()
        };
        let endpoints = snapshot
            .endpoints
            .iter()
            .map(|e| kept(e).unwrap_or_else(|| EndpointLinks::new(e, most)))
            .collect();
        Self { snapshot, endpoints }
    }
}
