//! A worker's way to the endpoints of one destination: which endpoint, and over which mesh link.
//!
//! What the workers share of an endpoint (requests in flight, latency, failures) is atomics in `weft-balance`. Links
//! belong to a worker. Both are arrays with the same index, so a pick is two array reads.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use weft_balance::{Endpoint, InFlight, Picker, Snapshot, Timestamp};
use weft_config::DestinationMode;
use weft_core::{EndpointAddr, MtlsMode, PeerRule};
use weft_http::{ErrorCode, Http2Client, Http2Pool, Lease};
use weft_identity::LinkProtocol;
use weft_telemetry::metrics::{CodeCounters, Direction, TlsLabel, families};
use weft_telemetry::{Counter, Gauge};

use crate::app::App;
use crate::destination::{self, MeshRule, Target};
use crate::dial::{DialError, dial_mesh};
use crate::shared::Service;
use crate::telemetry::{Labels, SeriesByVersion, workload_of};
use crate::worker::Worker;

/// One mesh destination, as one worker sees it.
pub(crate) struct Upstream {
    pub(crate) target: Target,
    pub(crate) label: Arc<str>,
    /// Follows the configuration, for connections that are open as well.
    mode: RefCell<DestinationMode>,
    pub(crate) peer: PeerRule,
    pub(crate) spoken: Cell<Spoken>,
    /// A connection has asked for it since the last sweep.
    pub(crate) used: Cell<bool>,
    /// Host and port that applications dial, for spans.
    pub(crate) server: (Arc<str>, u16),
    service: Arc<Service>,
    view: RefCell<Option<View>>,
    /// For requests that never came to an endpoint.
    pub(crate) unserved: SeriesByVersion,
    pub(crate) retries: CodeCounters,
    links_open: Gauge,
    links_opened: Counter,
    connect_errors: CodeCounters,
    /// Until when nobody waits for endpoints that may replace those that are gone.
    hopeless_until: Cell<Timestamp>,
}

/// What connections to a destination have spoken so far; decides how long to wait for the client's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// The client spoke first.
    ClientFirst,
    /// The server spoke first: there is nothing to wait for.
    ServerFirst,
}

/// The endpoints at one version, with this worker's links at the same index.
struct View {
    snapshot: Arc<Snapshot>,
    endpoints: Vec<Rc<EndpointLinks>>,
}

/// This worker's connections to one endpoint.
pub(crate) struct EndpointLinks {
    pub(crate) endpoint: Arc<Endpoint>,
    links: Http2Pool<Link, DialError>,
    /// Plaintext connections, for the modes that allow them.
    plain: OnceCell<Rc<App>>,
    /// Until when the endpoint is taken not to speak mutual TLS (permissive mode).
    plaintext_until: Cell<Timestamp>,
}

/// One mesh link that carries requests.
pub(crate) struct Link {
    client: Http2Client,
    pub(crate) peer: Arc<str>,
    pub(crate) series: SeriesByVersion,
    generation: u64,
    open: Gauge,
}

impl AsRef<Http2Client> for Link {
    fn as_ref(&self) -> &Http2Client {
        &self.client
    }
}

impl Link {
    /// Whether it was made with the identity of now: no link outlives the certificates it was checked with.
    fn is_current(&self, worker: &Worker) -> bool {
        self.generation >= worker.generation.get()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// An endpoint picked for one request.
pub(crate) struct Picked {
    pub(crate) links: Rc<EndpointLinks>,
    pub(crate) in_flight: InFlight,
}

/// Refused connects that do not count as attempts: four dead pods with two addresses each.
const FREE_REFUSALS: u32 = 8;

/// How long a request waits for the records of a pod's successor: two early refreshes, and the time that a cluster takes
/// to tell its name server.
const REPLACEMENT: std::time::Duration = std::time::Duration::from_millis(2_500);
/// How long after such a wait was in vain no other is made.
const HOPELESS: std::time::Duration = std::time::Duration::from_secs(10);

/// How long a permissive client remembers that an endpoint has no sidecar.
const PLAINTEXT_MEMORY: std::time::Duration = std::time::Duration::from_secs(30);

impl Upstream {
    pub(crate) fn new(
        worker: &Worker,
        target: &Target,
        rule: MeshRule,
        dialed: Option<EndpointAddr>,
    ) -> Rc<Self> {
        let (service, server) = match target {
            Target::Service(key) => {
                (worker.shared.service(key, dialed), (Arc::from(key.name.as_str()), key.port))
            }
            Target::Addr(addr) => (Service::fixed(*addr), (Arc::from(addr.ip().to_string()), addr.port())),
        };
        let shard = &worker.telemetry.shard;
        let label = target.label();
        Rc::new(Self {
            target: target.clone(),
            mode: RefCell::new(rule.mode),
            peer: rule.peer,
            spoken: Cell::default(),
            used: Cell::new(true),
            server,
            service,
            view: RefCell::default(),
            unserved: SeriesByVersion::new(Labels {
                direction: Direction::Outbound,
                source_workload: worker.telemetry.own_workload(),
                destination_service: Arc::clone(&label),
                destination_workload: Arc::from(""),
                peer_identity: Arc::from(""),
                tls: TlsLabel::None,
            }),
            retries: CodeCounters::new(shard, &families::HTTP_RETRIES, &[&label]),
            links_open: shard.gauge(&families::LINKS_OPEN, &[&label]),
            links_opened: shard.counter(&families::LINKS_OPENED, &[&label]),
            connect_errors: CodeCounters::new(shard, &families::CONNECT_ERRORS, &[&label]),
            hopeless_until: Cell::default(),
            label,
        })
    }

    /// The mode towards one endpoint.
    pub(crate) fn mode_towards(&self, endpoint: EndpointAddr) -> MtlsMode {
        self.mode.borrow().towards(endpoint.ip())
    }

    /// The mode of the destination as a whole.
    pub(crate) fn mode(&self) -> MtlsMode {
        self.mode.borrow().of_all()
    }

    /// Takes a new configuration over, connections that are open included. `false`: it must be made anew.
    pub(crate) fn follow(&self, snapshot: &weft_config::Snapshot) -> bool {
        let Some(rule) = destination::rule(snapshot, &self.target) else { return false };
        *self.mode.borrow_mut() = rule.mode;
        let listed = match &self.target {
            Target::Service(key) => self.service.is_listed() || snapshot.services.get(key).is_some(),
            Target::Addr(_) => false,
        };
        rule.peer == self.peer && !listed
    }

    /// The protocol that the service's records or the configuration tell, once its endpoints are known.
    pub(crate) async fn protocol(&self) -> weft_core::AppProtocol {
        match self.service.ready().await {
            Some(set) => set.load().protocol,
            None => weft_core::AppProtocol::Detect,
        }
    }

    /// Picks an endpoint other than those in `tried`. `None`: there is none.
    pub(crate) async fn pick(
        &self,
        worker: &Worker,
        now: Timestamp,
        tried: &[EndpointAddr],
    ) -> Option<Picked> {
        self.service.ready().await?;
        self.pick_now(worker, now, tried)
    }

    /// The same without waiting, for when the endpoints are known.
    pub(crate) fn pick_now(&self, worker: &Worker, now: Timestamp, tried: &[EndpointAddr]) -> Option<Picked> {
        let set = self.service.known()?;
        let mut view = self.view.borrow_mut();
        let current = set.load();
        if view.as_ref().is_none_or(|view| view.snapshot.version != current.version) {
            let snapshot = Arc::clone(&current);
            let most = worker.shared.config.limits.http2.max_connections_per_endpoint;
            *view = Some(View::follow(snapshot, view.as_ref(), most));
        }
        let view = view.as_ref()?;
        let endpoints = &view.snapshot.endpoints;
        let skip =
            |i: usize| !tried.is_empty() && endpoints.get(i).is_some_and(|e| tried.contains(&e.addr()));
        let index = Picker::PowerOfTwo.pick(endpoints, &mut worker.rng.borrow_mut(), now, skip)?;
        let links = Rc::clone(view.endpoints.get(index)?);
        let in_flight = links.endpoint.begin(now);
        Some(Picked { links, in_flight })
    }

    /// Picks endpoints, each once, until `connect` reaches one; nothing was sent meanwhile. `tried` gets those that could
    /// not be reached.
    pub(crate) async fn reach<T>(
        &self,
        worker: &Worker,
        tried: &mut Vec<EndpointAddr>,
        connect: impl AsyncFn(&Picked) -> Result<T, DialError>,
    ) -> Result<(Picked, T), DialError> {
        let mut last = None;
        let mut attempts = Attempts::new(worker);
        loop {
            let Some(picked) = self.pick(worker, Timestamp::now(), tried).await else {
                // Whoever answered, but not as itself, is not about to be replaced.
                let gone = last.as_ref().is_none_or(|error: &DialError| error.code.is_connect());
                if gone && self.replaced(tried).await {
                    continue;
                }
                break;
            };
            match connect(&picked).await {
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

    /// Waits for endpoints besides those that could not be reached. Where a single pod is replaced, its successor's records
    /// follow within moments of its end; where nothing follows, the next requests do not wait for it again for a while.
    async fn replaced(&self, tried: &[EndpointAddr]) -> bool {
        if Timestamp::now() < self.hopeless_until.get() {
            return false;
        }
        let came = tokio::time::timeout(REPLACEMENT, self.service.other_than(tried)).await.unwrap_or(false);
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
        self.service.refresh_soon();
    }

    /// Notes that an endpoint could not be reached: others are preferred for a while, and DNS is asked again.
    pub(crate) fn failed(&self, endpoint: &Endpoint, error: &DialError) {
        self.connect_errors.inc(error.code.as_str());
        if error.blames_endpoint {
            endpoint.failed_connect(Timestamp::now());
            self.service.refresh_soon();
        }
    }
}

/// How many endpoints one request or connection may still try.
///
/// A refusal is told at once and costs next to nothing, so the first few do not count: two crashed pods that DNS still
/// names have four addresses, and a request must not end before it has come to a living one.
pub(crate) struct Attempts {
    left: u32,
    refusals: u32,
}

impl Attempts {
    pub(crate) fn new(worker: &Worker) -> Self {
        let left = worker.shared.config.retries.connect_attempts.max(1);
        Self { left, refusals: if left > 1 { FREE_REFUSALS } else { 0 } }
    }

    /// Whether another endpoint may be tried after one has failed.
    pub(crate) fn another(&mut self, error: &DialError) -> bool {
        if error.code == ErrorCode::ConnectRefused && self.refusals > 0 {
            self.refusals -= 1;
            return true;
        }
        self.left -= 1;
        self.left > 0
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

impl EndpointLinks {
    fn new(endpoint: &Arc<Endpoint>, most: usize) -> Rc<Self> {
        Rc::new(Self {
            endpoint: Arc::clone(endpoint),
            links: Http2Pool::new(most),
            plain: OnceCell::new(),
            plaintext_until: Cell::default(),
        })
    }

    /// A place on a link for one more request: on an open one or a new one, or on whichever has one first.
    pub(crate) async fn link(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        upstream: &Rc<Upstream>,
    ) -> Result<Lease<Link>, DialError> {
        let dial = || open(Rc::clone(self), Rc::clone(worker), Rc::clone(upstream));
        self.links.acquire(|link| link.is_current(worker), dial).await
    }

    /// The same, where nothing has to be waited for.
    pub(crate) fn link_now(&self, worker: &Worker) -> Option<Lease<Link>> {
        self.links.try_acquire(|link| link.is_current(worker))
    }

    /// Plaintext connections to the endpoint.
    pub(crate) fn plain(&self, worker: &Worker) -> Rc<App> {
        Rc::clone(self.plain.get_or_init(|| App::new(worker, self.endpoint.addr())))
    }

    /// Whether a permissive client should try plaintext at once.
    pub(crate) fn is_plaintext(&self, now: Timestamp) -> bool {
        now < self.plaintext_until.get()
    }

    /// Remembers for a while that the endpoint does not speak mutual TLS.
    pub(crate) fn remember_plaintext(&self, now: Timestamp) {
        self.plaintext_until.set(now.plus(PLAINTEXT_MEMORY));
    }
}

async fn open(
    links: Rc<EndpointLinks>,
    worker: Rc<Worker>,
    upstream: Rc<Upstream>,
) -> Result<Link, DialError> {
    let dialed = dial_mesh(&worker, links.endpoint.addr(), &upstream.peer, LinkProtocol::Http).await?;
    let failed = |error: h2::Error| DialError {
        code: ErrorCode::TlsFailed,
        detail: error.to_string().into(),
        blames_endpoint: true,
    };
    let client = Http2Client::handshake(dialed.stream, &worker.http2_pool, ()).await.map_err(failed)?;
    let peer: Arc<str> = dialed.peer.to_string().into();
    upstream.links_open.inc();
    upstream.links_opened.inc();
    links.endpoint.connected();
    Ok(Link {
        client,
        series: SeriesByVersion::new(Labels {
            direction: Direction::Outbound,
            source_workload: worker.telemetry.own_workload(),
            destination_service: Arc::clone(&upstream.label),
            destination_workload: workload_of(&dialed.peer),
            peer_identity: Arc::clone(&peer),
            tls: TlsLabel::Mutual,
        }),
        peer,
        generation: dialed.generation,
        open: upstream.links_open.clone(),
    })
}
