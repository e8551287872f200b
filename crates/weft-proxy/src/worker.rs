//! A worker: one thread, one runtime, the connections it accepted.
//!
//! It makes what the stages of a connection need and hands it to them; none of them knows it.

use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::runtime::LocalRuntime;
use tokio::sync::mpsc::UnboundedReceiver;
use weft_config::Role;
use weft_core::{Drain, EndpointAddr, ServiceKey};
use weft_net::{AcceptEvent, Accepted, Acceptor, ConnectOptions, Keepalive, Listener, SocketOptions};
use weft_telemetry::metrics::Direction;

use crate::application::Applications;
use crate::cluster::Ways;
use crate::destination::Destinations;
use crate::dial::Dialer;
use crate::gateway::{self, GatewayDoor, port::Port};
use crate::inbound::{self, InboundDoor, PlaintextDrain};
use crate::limits::Limits;
use crate::open::{OpenConnections, OpenGuard};
use crate::outbound::{self, OutboundDoor};
use crate::routing::Routing;
use crate::shared::Shared;
use crate::telemetry::WorkerTelemetry;

/// What a worker has.
struct Worker {
    shared: Arc<Shared>,
    telemetry: Rc<WorkerTelemetry>,
    outbound: Rc<OutboundDoor>,
    inbound: Rc<InboundDoor>,
    gateway: Rc<GatewayDoor>,
    routing: Rc<Routing>,
    /// The identity's generation.
    generation: Rc<Cell<u64>>,
    open: OpenConnections,
    /// Connections accepted when it was last looked, and when memory was last given back.
    seen: Cell<u64>,
    trimmed: Cell<u64>,
}

/// The listeners of one worker.
pub(crate) struct WorkerListeners {
    /// Those that are there from the start.
    pub(crate) bound: Vec<(Door, Listener)>,
    /// Those that come later.
    pub(crate) later: UnboundedReceiver<(Door, Listener)>,
}

/// What a listener is for.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// The rules bring connections here; the kernel knows where each was going.
    Captured(Direction),
    /// The application dials this for one service.
    Service(Arc<ServiceKey>),
    /// Others dial this for one port of the application.
    Application(EndpointAddr),
    /// Clients of a gateway dial this.
    Gateway(Arc<Port>),
}

impl Door {
    fn direction(&self) -> Direction {
        match self {
            Self::Captured(direction) => *direction,
            Self::Service(_) => Direction::Outbound,
            Self::Application(_) => Direction::Inbound,
            Self::Gateway(_) => Direction::Gateway,
        }
    }

    /// Whether the accepting ends when a drain begins, and not with the process.
    fn ends_with_a_drain(&self) -> bool {
        !matches!(self, Self::Captured(Direction::Outbound) | Self::Service(_))
    }

    /// What ends the accepting: inbound stops when draining begins, a gateway's port when it is gone or draining begins;
    /// outbound goes on until the end, because the application may still have calls to make while it shuts down.
    async fn over(&self, mut process: Drain) {
        match self {
            Self::Gateway(port) => port.drain.clone().draining().await,
            Self::Captured(Direction::Outbound) | Self::Service(_) => process.closed().await,
            Self::Captured(_) | Self::Application(_) => process.draining().await,
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
            direction: match config.role {
                Role::Gateway => Direction::Gateway,
                Role::Sidecar => Direction::Outbound,
            },
            handshake: config.timeouts.handshake,
        });
        let destinations = Destinations::new(Arc::clone(&shared), ways);
        let routing = Routing::new(&shared, &telemetry, &destinations);
        let outbound = Rc::new(OutboundDoor {
            shared: Arc::clone(&shared),
            telemetry: Rc::clone(&telemetry),
            limits: Rc::clone(&limits),
            destinations,
            routing: (!shared.config.resources.paths.is_empty()).then(|| Rc::clone(&routing)),
            dialer,
        });
        let gateway = GatewayDoor::new(&shared, &telemetry, &limits, &outbound, &routing);
        let inbound = InboundDoor {
            shared: Arc::clone(&shared),
            telemetry: Rc::clone(&telemetry),
            limits: Rc::clone(&limits),
            applications: Applications::new(limits, Rc::clone(&telemetry), options, config),
            plaintext: Rc::new(PlaintextDrain::new()),
        };
        Rc::new(Self {
            telemetry,
            outbound,
            inbound: Rc::new(inbound),
            gateway,
            routing,
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
        self.routing.follow();
        let mode = self.shared.snapshot.load().inbound.mode;
        self.inbound.plaintext.follow(mode, self.shared.config.timeouts.drain);
    }

    /// Takes a new program over: the requests of open connections follow it.
    fn reroute(&self) {
        self.outbound.destinations.reroute();
        self.routing.follow();
    }

    /// Forgets what no connection uses, so that memory follows what the pod talks to.
    fn sweep(&self) {
        self.outbound.destinations.sweep();
        self.inbound.applications.sweep();
        self.routing.sweep();
    }

    /// Gives back what connections have freed, once no new ones have come for a while.
    fn trim(&self) {
        let gateway = match self.shared.config.role {
            Role::Gateway => self.telemetry.gateway().accepted.get(),
            Role::Sidecar => 0,
        };
        let accepted =
            self.telemetry.inbound.accepted.get() + self.telemetry.outbound.accepted.get() + gateway;
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
    let WorkerListeners { bound, mut later } = listeners;
    for (door, listener) in bound {
        open(&worker, door, listener)?;
    }
    let mut sweep = tokio::time::interval(SWEEP);
    let mut trim = tokio::time::interval(TRIM);
    loop {
        tokio::select! {
            () = drain.closed() => return Ok(()),
            _ = sweep.tick() => worker.sweep(),
            _ = trim.tick() => worker.trim(),
            Some((door, listener)) = later.recv() => open(&worker, door, listener)?,
        }
    }
}

/// Begins to accept on a listener.
fn open(worker: &Rc<Worker>, door: Door, listener: Listener) -> std::io::Result<()> {
    let acceptor = Acceptor::new(listener)?;
    tokio::task::spawn_local(accept(Rc::clone(worker), acceptor, door));
    Ok(())
}

/// Accepts until there is nothing more to accept.
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
    let ending = door.ends_with_a_drain().then(|| worker.shared.connections.door());
    let mut stop = std::pin::pin!(door.over(worker.shared.drain.clone()));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.as_mut() => break,
            accepted = acceptor.accept() => accepted,
        };
        take(&worker, accepted, &door);
    }
    // What ends with the process is not waited for.
    let Some(_ending) = ending else { return };
    if let Door::Gateway(_) = &door {
        if let Err(error) = acceptor.stop_admitting() {
            tracing::debug!(%error, at = %acceptor.local_addr(), "clients that connect at this moment may be reset");
        }
        let late = async {
            loop {
                take(&worker, acceptor.accept().await, &door);
            }
        };
        let _ = tokio::time::timeout(LATE, late).await;
    }
    take_the_rest(&worker, &mut acceptor, &door).await;
}

/// How long a gateway's port waits for the last packet of handshakes that the kernel has answered: a round trip of most clients, and
/// less than the second after which those whose first packet was not answered send it again (RFC 6298 section 2).
const LATE: Duration = Duration::from_millis(250);

/// Takes in whom the kernel has let in already: where clients are many, some are always on their way.
async fn take_the_rest(worker: &Rc<Worker>, acceptor: &mut Acceptor, door: &Door) {
    loop {
        // The runtime knows of them when it has looked.
        tokio::task::yield_now().await;
        let mut taken = false;
        // Polled once a time, to the end: what the kernel lets in after that is a new connection's risk, so that no wake-up is
        // lost that anybody waits for.
        #[expect(clippy::disallowed_methods, reason = "nobody waits for the listener any more")]
        while let Some(accepted) = acceptor.accept().now_or_never() {
            take(worker, accepted, door);
            taken = true;
        }
        if !taken {
            return;
        }
    }
}

/// Takes a connection in, if there may be another.
fn take(worker: &Rc<Worker>, accepted: Accepted, door: &Door) {
    let direction = door.direction();
    let guard = worker.open.guard(&worker.telemetry, direction);
    if worker.shared.config.limits.max_connections.is_some_and(|max| worker.open.count() > max) {
        worker.telemetry.of(direction).accept_errors.inc("limit");
        return weft_net::reset(accepted.stream);
    }
    tokio::task::spawn_local(handle(Rc::clone(worker), accepted, door.clone(), guard));
}

async fn handle(worker: Rc<Worker>, accepted: Accepted, door: Door, open: OpenGuard) {
    let (inbound, outbound) = (Rc::clone(&worker.inbound), Rc::clone(&worker.outbound));
    match door {
        Door::Captured(Direction::Inbound) => inbound::serve(inbound, accepted, open, None).await,
        Door::Captured(Direction::Outbound) => outbound::serve(outbound, accepted, open).await,
        Door::Application(application) => inbound::serve(inbound, accepted, open, Some(application)).await,
        Door::Service(service) => outbound::serve_service(outbound, accepted, open, &service).await,
        Door::Gateway(port) => gateway::serve(Rc::clone(&worker.gateway), accepted, open, port).await,
        // No door is captured for it.
        Door::Captured(Direction::Gateway) => {}
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
    let mut programs = worker.shared.program.subscribe();
    loop {
        tokio::select! {
            changed = versions.changed() => match changed {
                Ok(()) => worker.reconfigure(),
                Err(_) => return,
            },
            changed = programs.changed() => match changed {
                Ok(()) => worker.reroute(),
                Err(_) => return,
            },
        }
    }
}
