//! A worker: one thread, one runtime, the connections it accepted.
//!
//! It makes what the stages of a connection need and hands it to them; none of them knows it.

use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::LocalRuntime;
use weft_core::{EndpointAddr, ServiceKey};
use weft_net::{AcceptEvent, Accepted, Acceptor, ConnectOptions, Keepalive, Listener, SocketOptions};
use weft_telemetry::metrics::Direction;

use crate::application::Applications;
use crate::cluster::Ways;
use crate::destination::Destinations;
use crate::dial::Dialer;
use crate::inbound::{self, InboundDoor, PlaintextDrain};
use crate::limits::Limits;
use crate::open::{OpenConnections, OpenGuard};
use crate::outbound::{self, OutboundDoor};
use crate::shared::Shared;
use crate::telemetry::WorkerTelemetry;

/// What a worker has.
struct Worker {
    shared: Arc<Shared>,
    telemetry: Rc<WorkerTelemetry>,
    outbound: Rc<OutboundDoor>,
    inbound: Rc<InboundDoor>,
    /// The identity's generation.
    generation: Rc<Cell<u64>>,
    open: OpenConnections,
    /// Connections accepted when it was last looked, and when memory was last given back.
    seen: Cell<u64>,
    trimmed: Cell<u64>,
}

/// The listeners of one worker.
pub(crate) type WorkerListeners = Vec<(Door, Listener)>;

/// What a listener is for.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// The rules bring connections here; the kernel knows where each was going.
    Captured(Direction),
    /// The application dials this for one service.
    Service(Arc<ServiceKey>),
    /// Others dial this for one port of the application.
    Application(EndpointAddr),
}

impl Door {
    fn direction(&self) -> Direction {
        match self {
            Self::Captured(direction) => *direction,
            Self::Service(_) => Direction::Outbound,
            Self::Application(_) => Direction::Inbound,
        }
    }
}

/// Stands for the workload where services have their clients keep an endpoint; the same for all workers, and after a restart.
fn affinity_key(shared: &Shared) -> u64 {
    let mut hasher = DefaultHasher::new();
    shared.own_addrs.iter().min().hash(&mut hasher);
    hasher.finish()
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Rc<Self> {
        let config = &shared.config;
        let telemetry =
            WorkerTelemetry::new(&shared.registry, &shared.sampler, shared.spans.as_ref(), &shared.access);
        let (telemetry, limits) = (Rc::new(telemetry), Rc::new(Limits::new(config)));
        let max_connections = config.limits.http2.max_connections_per_endpoint;
        let options =
            ConnectOptions { timeout: config.timeouts.connect, bind: None, socket: socket_options(config) };
        let dialer = Rc::new(Dialer::new(Arc::clone(&shared), Rc::clone(&telemetry), options));
        let generation = Rc::new(Cell::new(0));
        let ways = Rc::new(Ways {
            connect: Rc::clone(&dialer) as _,
            telemetry: Rc::clone(&telemetry),
            limits: Rc::clone(&limits),
            retries: config.retries,
            max_connections,
            generation: Rc::clone(&generation),
            rng: RefCell::default(),
            affinity_key: affinity_key(&shared),
            direction: Direction::Outbound,
            handshake: config.timeouts.handshake,
        });
        let outbound = OutboundDoor {
            shared: Arc::clone(&shared),
            telemetry: Rc::clone(&telemetry),
            limits: Rc::clone(&limits),
            destinations: Destinations::new(Arc::clone(&shared), ways),
            dialer,
        };
        let inbound = InboundDoor {
            shared: Arc::clone(&shared),
            telemetry: Rc::clone(&telemetry),
            limits: Rc::clone(&limits),
            applications: Applications::new(limits, Rc::clone(&telemetry), options, max_connections),
            plaintext: Rc::new(PlaintextDrain::new()),
        };
        Rc::new(Self {
            telemetry,
            outbound: Rc::new(outbound),
            inbound: Rc::new(inbound),
            generation,
            open: OpenConnections::default(),
            seen: Cell::new(0),
            trimmed: Cell::new(0),
            shared,
        })
    }

    /// Takes a new version of the configuration over: open connections follow it.
    fn reconfigure(&self) {
        self.outbound.destinations.follow();
        let mode = self.shared.snapshot.load().inbound.mode;
        self.inbound.plaintext.follow(mode, self.shared.config.timeouts.drain);
    }

    /// Forgets what no connection uses, so that memory follows what the pod talks to.
    fn sweep(&self) {
        self.outbound.destinations.sweep();
        self.inbound.applications.sweep();
    }

    /// Gives back what connections have freed, once no new ones have come for a while.
    fn trim(&self) {
        let accepted = self.telemetry.inbound.accepted.get() + self.telemetry.outbound.accepted.get();
        if self.seen.replace(accepted) == accepted && self.trimmed.replace(accepted) != accepted {
            (self.shared.trim)();
        }
    }
}

/// Options of every socket: see [`SocketOptions`].
pub(crate) fn socket_options(config: &weft_config::ProxyConfig) -> SocketOptions {
    let keepalive = config.timeouts.keepalive;
    SocketOptions {
        keepalive: Some(Keepalive {
            idle: keepalive.idle,
            interval: keepalive.interval,
            count: keepalive.count,
        }),
        ..SocketOptions::default()
    }
}

/// How often destinations are looked over: one that no connection has used between two looks is forgotten, with its
/// links.
const SWEEP: Duration = Duration::from_secs(120);
/// How often to see whether memory can be given back.
const TRIM: Duration = Duration::from_secs(5);

/// Runs a worker on the calling thread until everything is closed.
pub(crate) fn run(shared: Arc<Shared>, listeners: WorkerListeners) -> std::io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime: LocalRuntime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve(Worker::new(shared), listeners))
}

async fn serve(worker: Rc<Worker>, listeners: WorkerListeners) -> std::io::Result<()> {
    let mut drain = worker.shared.drain.clone();
    tokio::task::spawn_local(follow_identity(Rc::clone(&worker)));
    tokio::task::spawn_local(follow_config(Rc::clone(&worker)));
    let plaintext = Rc::clone(&worker.inbound.plaintext);
    tokio::task::spawn_local(
        plaintext.pass_on(worker.shared.drain.clone(), worker.shared.config.timeouts.drain),
    );
    let mut accepting = Vec::new();
    for (door, listener) in listeners {
        let acceptor = Acceptor::new(listener)?;
        accepting.push(tokio::task::spawn_local(accept(Rc::clone(&worker), acceptor, door)));
    }
    let mut sweep = tokio::time::interval(SWEEP);
    let mut trim = tokio::time::interval(TRIM);
    loop {
        tokio::select! {
            () = drain.closed() => return Ok(()),
            _ = sweep.tick() => worker.sweep(),
            _ = trim.tick() => worker.trim(),
        }
    }
}

/// Accepts until there is nothing more to accept: inbound stops when draining begins, outbound goes on until the end,
/// because the application may still have calls to make while it shuts down.
async fn accept(worker: Rc<Worker>, acceptor: Acceptor, door: Door) {
    let direction = door.direction();
    let telemetry = Rc::clone(&worker.telemetry);
    let mut acceptor = acceptor.on_event(move |event| {
        let reason = match event {
            AcceptEvent::Skipped(_) => "skipped",
            AcceptEvent::Paused { error, pause } => {
                tracing::warn!(%error, ?pause, listener = direction.as_str(), "accepting paused");
                "paused"
            }
        };
        telemetry.of(direction).accept_errors.inc(reason);
    });
    let mut drain = worker.shared.drain.clone();
    let mut stop = std::pin::pin!(async move {
        match direction {
            Direction::Inbound => drain.draining().await,
            Direction::Outbound => drain.closed().await,
        }
    });
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.as_mut() => return,
            accepted = acceptor.accept() => accepted,
        };
        let guard = worker.open.guard(&worker.telemetry, direction);
        if worker.shared.config.limits.max_connections.is_some_and(|max| worker.open.count() > max) {
            worker.telemetry.of(direction).accept_errors.inc("limit");
            weft_net::reset(accepted.stream);
            continue;
        }
        tokio::task::spawn_local(handle(Rc::clone(&worker), accepted, door.clone(), guard));
    }
}

async fn handle(worker: Rc<Worker>, accepted: Accepted, door: Door, open: OpenGuard) {
    let (inbound, outbound) = (Rc::clone(&worker.inbound), Rc::clone(&worker.outbound));
    match door {
        Door::Captured(Direction::Inbound) => inbound::serve(inbound, accepted, open, None).await,
        Door::Captured(Direction::Outbound) => outbound::serve(outbound, accepted, open).await,
        Door::Application(application) => inbound::serve(inbound, accepted, open, Some(application)).await,
        Door::Service(service) => outbound::serve_service(outbound, accepted, open, &service).await,
    }
}

async fn follow_identity(worker: Rc<Worker>) {
    let mut generations = worker.shared.identity.subscribe();
    loop {
        let generation = *generations.borrow_and_update();
        worker.generation.set(generation);
        if let Some(current) = worker.shared.identity.current() {
            worker.telemetry.set_own(&current.own);
        }
        if generations.changed().await.is_err() {
            return;
        }
    }
}

async fn follow_config(worker: Rc<Worker>) {
    let mut versions = worker.shared.snapshot.subscribe();
    while versions.changed().await.is_ok() {
        worker.reconfigure();
    }
}
