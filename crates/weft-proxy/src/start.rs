//! Start to end of the process: listeners, threads, signals, drain.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use weft_config::{
    AccessLogMode, AccessLogSink, ConfigHandle, Env, IdentitySource, Listen, ProxyConfig, Role,
};
use weft_core::{Drain, DrainTrigger, EndpointAddr, SpiffeId};
use weft_discovery::{Discovery, DiscoveryConfig, DiscoveryTask, DnsListeners, Upstreams};
use weft_identity::{CaSource, FilesSource, Publisher};
use weft_net::{ListenOptions, Listener};
use weft_telemetry::access::{AccessLogTarget, AccessLogWriter};
use weft_telemetry::metrics::{BuildInfo, Direction, register_process};
use weft_telemetry::{AccessLog, Registry, Sampler};

use crate::admin::{self, Admin, AdminListeners};
use crate::connections::Connections;
use crate::error::ProxyError;
use crate::export::exporters;
use crate::feed;
use crate::gateway::doors::{DoorSender, Doors};
use crate::probes::Probes;
use crate::program::ProgramHandle;
use crate::shared::{Services, Shared, interface_addrs};
use crate::worker::{self, Door, WorkerListeners, socket_options};

/// Changes what is logged while the process runs.
pub trait LogControl: Send + Sync {
    /// The directives in force, such as `info,h2=warn`.
    fn current(&self) -> String;
    /// Puts others in force.
    ///
    /// # Errors
    /// What is wrong with them.
    fn set(&self, directives: &str) -> Result<(), String>;
}

/// What [`run`] needs besides the configuration.
pub struct RunOptions {
    /// The environment the configuration was read with, for reading it again.
    pub env: Env,
    /// The log's level switch.
    pub log: Arc<dyn LogControl>,
    /// What is running, for `weft_build_info`.
    pub build: BuildInfo,
    /// Gives memory that the calling thread has freed back to the system; called by workers that have become quiet.
    pub trim: fn(),
}

/// Records that may wait for the access log's writer.
const ACCESS_QUEUE: usize = 8_192;
/// How long the last spans and log lines may take at the end.
const LAST_FLUSH: Duration = Duration::from_secs(2);
/// How long the start waits for gateways and routes: many times what 5,000 of them take.
const FIRST_ROUTES: Duration = Duration::from_secs(10);
/// How often a drain looks whether it is done.
const DRAIN_TICK: Duration = Duration::from_millis(25);

/// Runs a proxy until it is told to stop (SIGTERM, SIGINT, `/drain`). Blocks.
///
/// # Errors
/// See [`ProxyError`]; all of them before the first connection is accepted, apart from the loss of a worker.
pub fn run(config: ProxyConfig, options: RunOptions) -> Result<(), ProxyError> {
    crate::rlimit::raise();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ProxyError::Start { what: "control thread", source })?;
    let writer = runtime.block_on(control(&runtime, config, options))?;
    if !writer.finish(LAST_FLUSH) {
        tracing::warn!("the access log was not written to its end");
    }
    Ok(())
}

async fn control(
    runtime: &Runtime,
    config: ProxyConfig,
    options: RunOptions,
) -> Result<AccessLogWriter, ProxyError> {
    let (trigger, drain) = weft_core::drain();
    let count = config.workers.resolve().get();
    // Bind first: a port that is taken ends the process before anything else has begun.
    let (bound, doors) = Bound::new(&config, count)?;
    let (snapshot, reload) = weft_config::watch(&config, options.env);
    tokio::spawn(reload);
    let registry = Registry::default();
    register_process(&registry, options.build);
    let (publisher, identity) = weft_identity::identity(config.identity.trust_domain.clone());
    tokio::spawn(run_identity(&config, publisher, drain.clone()));
    let (discovery, task) = Discovery::new(discovery_config(&config));
    discovery.judge_names(crate::destination::Names(Arc::clone(&snapshot)));
    tokio::spawn(run_discovery(task, bound.dns, drain.clone()));
    let sampler = Arc::new(Sampler::new(snapshot.load().sampling)?);
    let (spans, exporters) = exporters(&config, &registry)?;
    let (access, writer) = access_log(&config, &snapshot, &registry)?;
    let own_addrs = own_addrs(&config)?;
    tracing::info!(?own_addrs, workers = count, "starting");
    let shared = Arc::new(Shared {
        config,
        snapshot,
        identity,
        discovery,
        own_addrs,
        drain: drain.clone(),
        control: runtime.handle().clone(),
        registry,
        sampler,
        spans,
        access,
        connections: Connections::default(),
        trim: options.trim,
        services: Services::default(),
        program: ProgramHandle::new(),
        doors: Arc::default(),
    });
    let (export_trigger, export_drain) = weft_core::drain();
    let exporting = exporters.start(&export_drain, LAST_FLUSH);
    tokio::spawn(follow_config(Arc::clone(&shared), Arc::clone(&options.log)));
    follow_resources(&shared).await;
    let workers = Workers::start(&shared, bound.workers)?;
    if shared.config.role == Role::Gateway {
        tokio::spawn(gateway_doors(&shared, doors).run(drain.clone()));
    }
    let probes = Probes::new(&shared.config, &shared.own_addrs).map_err(ProxyError::Probes)?;
    let admin = Arc::new(Admin::new(Arc::clone(&shared), options.log, probes));
    admin::start(&admin, bound.admin, &drain)
        .map_err(|source| ProxyError::Start { what: "admin server", source })?;
    let result = until_stopped(&shared, &admin, &workers, &trigger).await;
    trigger.close();
    workers.join().await;
    export_trigger.close();
    let _ = tokio::time::timeout(LAST_FLUSH * 2, futures_util::future::join_all(exporting)).await;
    result.map(|()| writer)
}

/// Waits for a reason to stop, then drains: inbound takes nothing new and finishes what it has; outbound goes on until
/// the application's connections are gone. The deadline ends both.
async fn until_stopped(
    shared: &Shared,
    admin: &Admin,
    workers: &Workers,
    trigger: &DrainTrigger,
) -> Result<(), ProxyError> {
    let failed = |source| ProxyError::Start { what: "signal handlers", source };
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hup = signal(SignalKind::hangup()).map_err(failed)?;
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            () = admin.drain_requested() => break,
            _ = hup.recv() => shared.access.reopen(),
            id = workers.lost() => return Err(ProxyError::WorkerLost(id)),
        }
    }
    let grace = shared.config.timeouts.drain;
    tracing::info!(?grace, connections = shared.connections.count(), "draining");
    trigger.start(grace);
    let deadline = Instant::now() + grace;
    loop {
        if shared.connections.are_over() {
            tracing::info!("drained");
            return Ok(());
        }
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = tokio::time::sleep(DRAIN_TICK) => {
                if Instant::now() < deadline {
                    continue;
                }
            }
        }
        let left = shared.connections.count();
        let inbound = shared.connections.count_of(Direction::Inbound);
        let gateway = shared.connections.count_of(Direction::Gateway);
        tracing::warn!(
            inbound,
            gateway,
            outbound = left - inbound - gateway,
            "closing connections that did not end by themselves"
        );
        return Ok(());
    }
}

/// Gateways and routes are in force before the first request, so that none goes another way.
async fn follow_resources(shared: &Arc<Shared>) {
    if shared.config.resources.paths.is_empty() {
        return;
    }
    let mut versions = shared.program.subscribe();
    tokio::spawn(feed::follow(Arc::clone(shared)));
    if tokio::time::timeout(FIRST_ROUTES, versions.changed()).await.is_err() {
        tracing::error!(code = "resources-late", waited = ?FIRST_ROUTES, "starting before the resources could be read");
    }
}

/// The ports of a gateway.
fn gateway_doors(shared: &Shared, workers: Vec<DoorSender>) -> Doors {
    let options = listen_options(&shared.config);
    let (program, status) = (Arc::clone(&shared.program), Arc::clone(&shared.doors));
    Doors::new(program, status, workers, options, shared.config.timeouts.drain)
}

fn listen_options(config: &ProxyConfig) -> ListenOptions {
    ListenOptions { accepted: socket_options(config), ..ListenOptions::default() }
}

/// Everything that listens from the start, bound before anything runs.
struct Bound {
    workers: Vec<WorkerListeners>,
    dns: DnsListeners,
    admin: AdminListeners,
}

impl Bound {
    /// And how more listeners come to the workers.
    fn new(config: &ProxyConfig, workers: usize) -> Result<(Self, Vec<DoorSender>), ProxyError> {
        let options = listen_options(config);
        let (mut list, mut doors) = (Vec::with_capacity(workers), Vec::with_capacity(workers));
        for _ in 0..workers {
            let (sender, later) = tokio::sync::mpsc::unbounded_channel();
            list.push(WorkerListeners { bound: worker_listeners(config, &options)?, later });
            doors.push(sender);
        }
        let one = ListenOptions { reuse_port: false, ..options };
        let admin = AdminListeners {
            admin: bind("admin", config.bind.admin, &one)?,
            metrics: bind("metrics", config.bind.metrics, &one)?,
            health: bind("health", config.bind.health, &one)?,
        };
        let dns = config.bind.dns.map(bind_dns).transpose()?.unwrap_or_default();
        Ok((Self { workers: list, dns, admin }, doors))
    }
}

fn worker_listeners(
    config: &ProxyConfig,
    options: &ListenOptions,
) -> Result<Vec<(Door, Listener)>, ProxyError> {
    let captured = [
        (Door::Captured(Direction::Outbound), "outbound", config.bind.outbound),
        (Door::Captured(Direction::Inbound), "inbound", config.bind.inbound),
    ];
    let captured = captured.into_iter().filter_map(|(door, what, listen)| Some((door, what, listen?)));
    let services = config.listeners.outbound.iter().map(|listener| {
        (Door::Service(Arc::new(listener.destination.clone())), "outbound.listeners", listener.address)
    });
    let applications = config.listeners.inbound.iter().map(|listener| {
        let application = EndpointAddr::new(listener.application);
        (Door::Application(application), "inbound.listeners", listener.address)
    });
    let mut bound = Vec::new();
    for (door, what, address) in captured.chain(services).chain(applications) {
        bound.extend(bind(what, address, options)?.into_iter().map(|listener| (door.clone(), listener)));
    }
    Ok(bound)
}

fn bind(what: &'static str, listen: Listen, options: &ListenOptions) -> Result<Vec<Listener>, ProxyError> {
    if let Listen::Any(port) = listen {
        let addr = SocketAddr::from(([0; 16], port));
        return match Listener::bind_any(port, options) {
            Ok(listener) => Ok(vec![listener]),
            Err(source) => Err(ProxyError::Listen { what, addr, source }),
        };
    }
    let options = ListenOptions { v6_only: true, ..*options };
    let mut bound = Vec::new();
    for addr in listen.addrs() {
        match Listener::bind(addr, &options) {
            Ok(listener) => bound.push(listener),
            Err(error) if addr.is_ipv6() && !bound.is_empty() && no_ipv6(&error) => {}
            Err(source) => return Err(ProxyError::Listen { what, addr, source }),
        }
    }
    Ok(bound)
}

fn bind_dns(listen: Listen) -> Result<DnsListeners, ProxyError> {
    let mut bound = DnsListeners::default();
    for addr in listen.addrs() {
        match DnsListeners::bind(&[addr]) {
            Ok(more) => {
                bound.udp.extend(more.udp);
                bound.tcp.extend(more.tcp);
            }
            Err(weft_discovery::DiscoveryError::Listen { source, .. })
                if addr.is_ipv6() && !bound.udp.is_empty() && no_ipv6(&source) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bound)
}

/// The kernel has no IPv6, or no `::1`.
fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// The worker threads.
struct Workers {
    threads: Vec<JoinHandle<io::Result<()>>>,
    running: Arc<AtomicUsize>,
}

impl Workers {
    fn start(shared: &Arc<Shared>, listeners: Vec<WorkerListeners>) -> Result<Self, ProxyError> {
        let running = Arc::new(AtomicUsize::new(listeners.len()));
        let mut threads = Vec::new();
        for (id, listeners) in listeners.into_iter().enumerate() {
            let (shared, running) = (Arc::clone(shared), Arc::clone(&running));
            let body = move || {
                let result = worker::run(shared, listeners);
                running.fetch_sub(1, Ordering::Release);
                result
            };
            let thread = std::thread::Builder::new()
                .name(format!("weft-worker-{id}"))
                .spawn(body)
                .map_err(|source| ProxyError::Start { what: "worker", source })?;
            threads.push(thread);
        }
        Ok(Self { threads, running })
    }

    /// Resolves with the number of a worker that has ended although the process runs.
    async fn lost(&self) -> usize {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if let Some(id) = self.threads.iter().position(JoinHandle::is_finished) {
                return id;
            }
        }
    }

    async fn join(self) {
        let deadline = Instant::now() + LAST_FLUSH;
        while self.running.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_TICK).await;
        }
    }
}

async fn run_discovery(task: DiscoveryTask, listeners: DnsListeners, drain: Drain) {
    if let Err(error) = task.run(listeners, drain).await {
        tracing::error!(%error, "DNS stopped");
    }
}

fn run_identity(
    config: &ProxyConfig,
    publisher: Publisher,
    drain: Drain,
) -> impl Future<Output = ()> + Send + 'static {
    let workload = &config.workload;
    let expected_id = match (&workload.namespace, &workload.service_account) {
        (Some(namespace), Some(service_account)) => Some(SpiffeId {
            trust_domain: config.identity.trust_domain.clone(),
            namespace: namespace.clone(),
            service_account: service_account.clone(),
        }),
        _ => None,
    };
    let source = config.identity.source.clone();
    async move {
        match source {
            IdentitySource::Ca(ca) => {
                let source = CaSource {
                    address: ca.address.to_string(),
                    bundle: ca.bundle,
                    server_id: ca.server_id,
                    token_file: ca.token_file,
                    expected_id,
                };
                source.run(publisher, drain).await;
            }
            IdentitySource::Files(files) => {
                let source =
                    FilesSource { certificate: files.certificate, key: files.key, bundle: files.bundle };
                source.run(publisher, drain).await;
            }
            // Who waits for a certificate waits: the publisher must not be lost.
            IdentitySource::None => {
                drain.into_closed().await;
                drop(publisher);
            }
        }
    }
}

fn discovery_config(config: &ProxyConfig) -> DiscoveryConfig {
    let dns = &config.dns;
    DiscoveryConfig {
        upstreams: if dns.servers.is_empty() {
            Upstreams::ResolvConf(dns.resolv_conf.clone())
        } else {
            Upstreams::Servers(dns.servers.clone())
        },
        search_from: Some(dns.resolv_conf.clone()),
        min_ttl: dns.min_ttl,
        max_ttl: dns.max_ttl,
        max_negative_ttl: dns.negative_ttl,
        refresh_floor: dns.refresh_floor,
        cache_entries: dns.cache_entries,
        ..DiscoveryConfig::default()
    }
}

fn access_log(
    config: &ProxyConfig,
    snapshot: &ConfigHandle,
    registry: &Registry,
) -> Result<(AccessLog, AccessLogWriter), ProxyError> {
    let target = match &config.telemetry.access_log {
        AccessLogSink::Stdout => AccessLogTarget::Stdout,
        AccessLogSink::File(path) => AccessLogTarget::File(path.clone()),
    };
    let (format, mode) = (config.telemetry.log_format.clone(), log_mode(snapshot.load().access_log));
    Ok(AccessLog::start_as(&target, format, mode, ACCESS_QUEUE, registry)?)
}

fn log_mode(mode: AccessLogMode) -> weft_telemetry::AccessLogMode {
    match mode {
        AccessLogMode::Off => weft_telemetry::AccessLogMode::Off,
        AccessLogMode::Errors => weft_telemetry::AccessLogMode::Errors,
        AccessLogMode::All => weft_telemetry::AccessLogMode::All,
        AccessLogMode::Sampled => weft_telemetry::AccessLogMode::Sampled,
    }
}

/// Applies the parts of a new configuration that are not read from the snapshot itself.
async fn follow_config(shared: Arc<Shared>, log: Arc<dyn LogControl>) {
    let mut versions = shared.snapshot.subscribe();
    let mut directives = Arc::clone(&shared.snapshot.load().log);
    while versions.changed().await.is_ok() {
        let snapshot = shared.snapshot.snapshot();
        if let Err(error) = shared.sampler.set_ratio(snapshot.sampling) {
            tracing::warn!(%error, "sampling stays as it was");
        }
        shared.access.set_mode(log_mode(snapshot.access_log));
        // A level that was set by hand on the admin page stays until the file says something new.
        if snapshot.log != directives {
            directives = Arc::clone(&snapshot.log);
            if let Err(error) = log.set(&directives) {
                tracing::warn!(%error, "the log level stays as it was");
            }
        }
    }
}

/// The workload's addresses: configured, or those of the interfaces.
fn own_addrs(config: &ProxyConfig) -> Result<Vec<IpAddr>, ProxyError> {
    if !config.workload.addresses.is_empty() {
        return Ok(config.workload.addresses.iter().map(IpAddr::to_canonical).collect());
    }
    interface_addrs().map_err(ProxyError::Interfaces)
}
