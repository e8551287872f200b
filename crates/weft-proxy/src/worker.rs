//! A worker: one thread, one runtime, the connections it accepted.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::LocalRuntime;
use weft_core::{EndpointAddr, ServiceKey};
use weft_http::{HalfClose, Http1Limits, Http2Limits};
use weft_net::{AcceptEvent, Accepted, Acceptor, ConnectOptions, Keepalive, Listener, SocketOptions};
use weft_telemetry::metrics::Direction;

use crate::app::App;
use crate::destination::{self, Target};
use crate::shared::Shared;
use crate::telemetry::WorkerTelemetry;
use crate::upstream::Upstream;
use crate::{inbound, outbound};

/// What all connections of a worker share.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) telemetry: WorkerTelemetry,
    pub(crate) rng: RefCell<fastrand::Rng>,
    /// The identity's generation, so that a request need not touch shared memory to know it.
    pub(crate) generation: Cell<u64>,
    pub(crate) connect: ConnectOptions,
    /// Limits towards applications that connect to us.
    pub(crate) http1: Http1Limits,
    pub(crate) http2: Http2Limits,
    /// Limits towards proxies that open links to us.
    pub(crate) http2_link: Http2Limits,
    /// Limits of pooled connections: to applications, and of links.
    pub(crate) http1_pool: Http1Limits,
    pub(crate) http2_app: Http2Limits,
    pub(crate) http2_pool: Http2Limits,
    upstreams: RefCell<HashMap<Target, Rc<Upstream>>>,
    /// Those that were replaced, as long as connections hold them: a mode that becomes strict holds for these as well.
    replaced: RefCell<Vec<Weak<Upstream>>>,
    apps: RefCell<HashMap<EndpointAddr, Rc<App>>>,
    /// The version of the configuration that `upstreams` were made with.
    version: Cell<u64>,
    open: Cell<usize>,
    /// What ends inbound connections without mutual TLS.
    pub(crate) plaintext: Rc<inbound::PlaintextDrain>,
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

impl Worker {
    fn new(shared: Arc<Shared>) -> Rc<Self> {
        let config = &shared.config;
        let timeouts = &config.timeouts;
        let http1 = Http1Limits {
            max_header_bytes: config.limits.max_header_bytes,
            max_headers: config.limits.max_headers,
            max_target_bytes: config.limits.max_target_bytes,
            header_read: timeouts.header_read,
            idle: timeouts.idle,
            pause: timeouts.body_pause.unwrap_or(Duration::MAX),
            half_close: match config.http.half_close {
                weft_config::HalfClose::Serve => HalfClose::Serve,
                weft_config::HalfClose::Cancel => HalfClose::Cancel,
            },
        };
        let http2 = Http2Limits {
            max_concurrent_streams: config.limits.http2.max_concurrent_streams,
            stream_window: config.limits.http2.initial_stream_window,
            connection_window: config.limits.http2.initial_connection_window,
            max_header_bytes: u32::try_from(config.limits.max_header_bytes).unwrap_or(u32::MAX),
            max_pending_resets: config.limits.http2.max_pending_reset_streams,
            max_frame_size: config.limits.http2.max_frame_size,
            max_control_frames: config.limits.http2.max_control_frames,
            head_budget: config.limits.http2.head_budget,
            write_stall: timeouts.write_stall,
            idle: timeouts.idle,
            ..Http2Limits::default()
        };
        // No PING to applications: servers of gRPC take more than one in five minutes for an attack. Keepalive finds one
        // that is gone.
        let http2_app = Http2Limits { idle: timeouts.pool_idle, max_error_resets: None, ..http2 };
        let http2_link = link_limits(&http2, config.limits.max_headers);
        Rc::new(Self {
            telemetry: WorkerTelemetry::new(&shared),
            rng: RefCell::default(),
            generation: Cell::new(0),
            connect: ConnectOptions { timeout: timeouts.connect, bind: None, socket: socket_options(config) },
            http1,
            http2,
            http2_link,
            http1_pool: Http1Limits { idle: timeouts.pool_idle, ..http1 },
            http2_app,
            http2_pool: Http2Limits {
                idle: timeouts.pool_idle,
                ping: timeouts.ping.map(|every| (every, timeouts.ping_timeout)),
                ..http2_link
            },
            upstreams: RefCell::default(),
            replaced: RefCell::default(),
            apps: RefCell::default(),
            version: Cell::new(0),
            open: Cell::new(0),
            plaintext: Rc::new(inbound::PlaintextDrain::new()),
            seen: Cell::new(0),
            trimmed: Cell::new(0),
            shared,
        })
    }

    /// The worker's view of a mesh destination; `None`: it is outside the mesh. Membership is asked when a destination is
    /// new and when the configuration has changed, not for each connection.
    pub(crate) fn upstream(&self, target: &Target, dialed: Option<EndpointAddr>) -> Option<Rc<Upstream>> {
        self.reconfigure();
        let mut upstreams = self.upstreams.borrow_mut();
        if let Some(upstream) = upstreams.get(target) {
            upstream.used.set(true);
            return Some(Rc::clone(upstream));
        }
        let rule = destination::rule(&self.shared.snapshot.load(), target)?;
        let upstream = Upstream::new(self, target, rule, dialed);
        upstreams.insert(target.clone(), Rc::clone(&upstream));
        Some(upstream)
    }

    /// Takes a new version of the configuration over. A destination that stays keeps its links, and connections that are
    /// open follow its mode; one that left the mesh, or whose endpoints are listed, is made anew by its next connection.
    fn reconfigure(&self) {
        let snapshot = self.shared.snapshot.load();
        if self.version.replace(snapshot.version) != snapshot.version {
            let mut replaced = self.replaced.borrow_mut();
            replaced.retain(|upstream| {
                upstream.upgrade().is_some_and(|upstream| {
                    upstream.follow(&snapshot);
                    true
                })
            });
            self.upstreams.borrow_mut().retain(|_, upstream| {
                let stays = upstream.follow(&snapshot);
                if !stays {
                    replaced.push(Rc::downgrade(upstream));
                }
                stays
            });
            self.plaintext.follow(snapshot.inbound.mode, self.shared.config.timeouts.drain);
        }
    }

    /// The connections to an address of the own application.
    pub(crate) fn app(&self, addr: EndpointAddr) -> Rc<App> {
        let mut apps = self.apps.borrow_mut();
        let app = apps.entry(addr).or_insert_with(|| App::new(self, addr));
        app.used.set(true);
        Rc::clone(app)
    }

    /// Forgets destinations that no connection uses, so that memory follows what the pod talks to.
    fn sweep(&self) {
        let in_use = |strong: usize, used: &Cell<bool>| used.replace(false) || strong > 1;
        self.upstreams.borrow_mut().retain(|_, upstream| in_use(Rc::strong_count(upstream), &upstream.used));
        self.apps.borrow_mut().retain(|_, app| in_use(Rc::strong_count(app), &app.used));
    }

    /// Gives back what connections have freed, once no new ones have come for a while.
    fn trim(&self) {
        let accepted = self.telemetry.inbound.accepted.get() + self.telemetry.outbound.accepted.get();
        if self.seen.replace(accepted) == accepted && self.trimmed.replace(accepted) != accepted {
            (self.shared.trim)();
        }
    }
}

/// Limits of a link, which carries the requests of many: the errors and cancellations of one caller must not end it for the
/// others, and their heads add up.
fn link_limits(limits: &Http2Limits, max_headers: usize) -> Http2Limits {
    // What the mesh adds: trace context, addresses, identity, marks.
    const ADDED: u32 = 16 * 1024;
    let fields = u32::try_from(max_headers).unwrap_or(u32::MAX).saturating_mul(32);
    const CALLERS: u32 = 16;
    Http2Limits {
        // How many requests one turn of the connection may bring bounds them.
        max_pending_resets: usize::MAX,
        max_error_resets: None,
        max_control_frames: limits.max_control_frames.saturating_mul(CALLERS),
        // HTTP/2 counts 32 octets for each field besides (RFC 9113 section 6.5.2): what the caller's sidecar has taken must not
        // be too much for the next.
        max_header_bytes: limits.max_header_bytes.saturating_add(fields).saturating_add(ADDED),
        head_budget: limits.head_budget.saturating_mul(CALLERS as usize),
        ..*limits
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
    let plaintext = Rc::clone(&worker.plaintext);
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
    let telemetry = Rc::clone(&worker);
    let mut acceptor = acceptor.on_event(move |event| {
        let reason = match event {
            AcceptEvent::Skipped(_) => "skipped",
            AcceptEvent::Paused { error, pause } => {
                tracing::warn!(%error, ?pause, listener = direction.as_str(), "accepting paused");
                "paused"
            }
        };
        telemetry.telemetry.of(direction).accept_errors.inc(reason);
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
        let guard = OpenGuard::new(&worker, direction);
        if worker.shared.config.limits.max_connections.is_some_and(|max| worker.open.get() > max) {
            worker.telemetry.of(direction).accept_errors.inc("limit");
            weft_net::reset(accepted.stream);
            continue;
        }
        tokio::task::spawn_local(handle(Rc::clone(&worker), accepted, door.clone(), guard));
    }
}

async fn handle(worker: Rc<Worker>, accepted: Accepted, door: Door, open: OpenGuard) {
    match door {
        Door::Captured(Direction::Inbound) => inbound::serve(worker, accepted, open, None).await,
        Door::Captured(Direction::Outbound) => outbound::serve(worker, accepted, open).await,
        Door::Application(application) => inbound::serve(worker, accepted, open, Some(application)).await,
        Door::Service(service) => outbound::serve_service(worker, accepted, open, &service).await,
    }
}

/// Counts an accepted connection while it is open.
pub(crate) struct OpenGuard {
    worker: Rc<Worker>,
    direction: Direction,
}

impl OpenGuard {
    fn new(worker: &Rc<Worker>, direction: Direction) -> Self {
        worker.open.set(worker.open.get() + 1);
        let telemetry = worker.telemetry.of(direction);
        telemetry.accepted.inc();
        telemetry.open.inc();
        Self { worker: Rc::clone(worker), direction }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.worker.open.set(self.worker.open.get() - 1);
        self.worker.telemetry.of(self.direction).open.dec();
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
