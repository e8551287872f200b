//! The admin server, the metrics listener and the health listener: three doors to the same house, for three audiences.
//!
//! It runs on the control thread. Nothing here is on the way of a request.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower_http::timeout::TimeoutLayer;
use weft_config::{IdentitySource, Role};
use weft_core::{Drain, DrainPhase};
use weft_net::Listener;
use weft_route::explain::QuestionText;
use weft_telemetry::metrics::{Encoder, families};

use crate::probes::Probes;
use crate::shared::Shared;
use crate::start::LogControl;

/// For a question to be there as a whole: it is a line or a few, by hand.
const ASKING: Duration = Duration::from_secs(10);

/// The sockets.
pub(crate) struct AdminListeners {
    pub(crate) admin: Vec<Listener>,
    pub(crate) metrics: Vec<Listener>,
    pub(crate) health: Vec<Listener>,
}

/// What the pages are made from.
pub(crate) struct Admin {
    shared: Arc<Shared>,
    log: Arc<dyn LogControl>,
    probes: Probes,
    drain: Notify,
}

impl Admin {
    pub(crate) fn new(shared: Arc<Shared>, log: Arc<dyn LogControl>, probes: Probes) -> Self {
        register_collectors(&shared);
        Self { shared, log, probes, drain: Notify::new() }
    }

    /// Resolves when `/drain` was asked for.
    pub(crate) async fn drain_requested(&self) {
        self.drain.notified().await;
    }
}

type Page = State<Arc<Admin>>;

/// Starts serving on all listeners, until `drain` has closed.
pub(crate) fn start(admin: &Arc<Admin>, listeners: AdminListeners, drain: &Drain) -> io::Result<()> {
    let metrics = Router::new().route("/metrics", get(metrics));
    let health = Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/probe/{*check}", get(probe));
    let all = own_pages().merge(metrics.clone()).merge(health.clone());
    for (router, sockets) in
        [(all, listeners.admin), (metrics, listeners.metrics), (health, listeners.health)]
    {
        for socket in sockets {
            let listener = TcpListener::from_std(socket.into_std())?;
            let (router, mut drain) = (router.clone().with_state(Arc::clone(admin)), drain.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = weft_telemetry::serve_pages(listener, router) => {}
                    () = drain.closed() => {}
                }
            });
        }
    }
    Ok(())
}

/// Those of the admin server alone.
fn own_pages() -> Router<Arc<Admin>> {
    asked_in_time(
        Router::new()
            .route("/", get(index))
            .route("/config", get(config))
            .route("/endpoints", get(endpoints))
            .route("/certs", get(certs))
            .route("/connections", get(connections))
            .route("/explain", post(explain))
            .route("/log", get(log_level).put(set_log_level))
            .route("/drain", post(start_drain)),
    )
}

/// For pages that wait for nothing but the body of their request. Probes wait for the application, each for the time that its
/// kubelet gives it.
fn asked_in_time<S: Clone + Send + Sync + 'static>(pages: Router<S>) -> Router<S> {
    pages.layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, ASKING))
}

async fn index() -> &'static str {
    "weft admin\n\n\
     GET  /live         200 while the process runs\n\
     GET  /ready        200 when it has an identity and takes traffic\n\
     GET  /probe/...    the application's own health checks\n\
     GET  /metrics      Prometheus text\n\
     GET  /config       every field in force, and where it came from\n\
     GET  /endpoints    followed services and their endpoints\n\
     GET  /certs        own certificate and trust bundle\n\
     GET  /connections  open connections\n\
     POST /explain      what becomes of a request, by the resources in force (weft explain --admin)\n\
     GET  /log          log directives in force; PUT changes them\n\
     POST /drain        finish what is in flight and exit\n"
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(admin): Page) -> Response {
    let shared = &admin.shared;
    let why = if shared.drain.phase() != DrainPhase::Running {
        "draining\n"
    } else if !has_identity(shared) {
        "no valid certificate yet; see /certs\n"
    } else if let Some(why) = not_open(shared) {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response();
    } else {
        return "ready\n".into_response();
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// Whether the process can speak as itself in the mesh, where it is to.
fn has_identity(shared: &Shared) -> bool {
    let valid = || shared.identity.current().is_some_and(|identity| identity.is_valid_at(SystemTime::now()));
    shared.config.identity.source == IdentitySource::None || valid()
}

/// Why a gateway has no listeners yet.
fn not_open(shared: &Shared) -> Option<String> {
    (shared.config.role == Role::Gateway).then(|| shared.doors.unready()).flatten()
}

async fn probe(State(admin): Page, asked: Uri) -> StatusCode {
    admin.probes.answer(asked.path()).await
}

async fn metrics(State(admin): Page) -> Response {
    let mut text = String::with_capacity(64 * 1024);
    admin.shared.registry.encode(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn config(State(admin): Page) -> Json<Value> {
    let snapshot = admin.shared.snapshot.snapshot();
    let fields: Vec<Value> = snapshot
        .effective
        .iter()
        .map(|field| json!({"field": field.field, "value": field.value, "from": field.origin.to_string()}))
        .collect();
    Json(json!({
        "version": snapshot.version,
        "stale": admin.shared.snapshot.is_stale(),
        "fields": fields,
    }))
}

async fn endpoints(State(admin): Page) -> Json<Value> {
    let services: Vec<Value> = admin
        .shared
        .discovery
        .snapshot()
        .into_iter()
        .map(|service| {
            let endpoints: Vec<String> =
                service.list.iter().flat_map(|list| list.endpoints.iter().map(ToString::to_string)).collect();
            json!({
                "service": service.key.to_string(),
                "endpoints": endpoints,
                "source": service.list.as_ref().map(|list| list.source.to_string()),
                "protocol": service.list.as_ref().map(|list| list.protocol.to_string()),
                "ageSeconds": service.age.map(|age| age.as_secs_f64()),
                "error": service.error,
            })
        })
        .collect();
    Json(json!({ "services": services }))
}

async fn certs(State(admin): Page) -> Json<Value> {
    let status = admin.shared.identity.status();
    Json(json!({
        "source": status.source,
        "generation": status.generation,
        "leaf": status.leaf.map(|leaf| json!({
            "id": leaf.id.to_string(),
            "serial": leaf.serial,
            "notBefore": unix(leaf.not_before),
            "notAfter": unix(leaf.not_after),
        })),
        "bundle": status.bundle.map(|bundle| json!({
            "hash": bundle.hash,
            "roots": bundle.roots.iter().map(|root| json!({
                "subject": root.subject,
                "notAfter": unix(root.not_after),
            })).collect::<Vec<_>>(),
        })),
        "lastRenewal": status.last_renewal.map(unix),
        "nextRenewal": status.next_renewal.map(unix),
        "lastError": status.last_error.map(|(at, error)| json!({"at": unix(at), "error": error})),
        "renewals": {"ok": status.renewals_ok, "failed": status.renewals_failed},
    }))
}

async fn connections(State(admin): Page) -> Json<Value> {
    let list: Vec<Value> = admin
        .shared
        .connections
        .list()
        .into_iter()
        .map(|info| {
            json!({
                "direction": info.direction.as_str(),
                "client": info.client.to_string(),
                "destination": info.destination.map(|addr| addr.to_string()),
                "service": info.service.as_deref(),
                "protocol": info.protocol,
                "peer": info.peer.as_deref(),
                "since": unix(info.since),
                "ageSeconds": info.opened.elapsed().as_secs_f64(),
            })
        })
        .collect();
    Json(json!({ "connections": list }))
}

/// By the resources in force.
async fn explain(State(admin): Page, Json(question): Json<QuestionText>) -> Response {
    if admin.shared.program.version() == 0 {
        let why = "no resources are in force: none are configured, or they are still being read\n";
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    }
    match question.answer(&admin.shared.program.load()) {
        Ok(explanation) => Json(explanation).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn log_level(State(admin): Page) -> String {
    format!("{}\n", admin.log.current())
}

async fn set_log_level(State(admin): Page, directives: String) -> Response {
    match admin.log.set(directives.trim()) {
        Ok(()) => {
            tracing::info!(directives = directives.trim(), "log directives changed by hand");
            format!("{}\n", admin.log.current()).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn start_drain(State(admin): Page) -> Response {
    admin.drain.notify_one();
    (StatusCode::ACCEPTED, "draining\n").into_response()
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Values that other crates keep as atomics of their own.
fn register_collectors(shared: &Arc<Shared>) {
    let shared_ref = Arc::downgrade(shared);
    shared.registry.register_collector(Box::new(move |encoder| {
        if let Some(shared) = shared_ref.upgrade() {
            collect_discovery(&shared, encoder);
            collect_identity(&shared, encoder);
            collect_config(&shared, encoder);
            collect_program(&shared, encoder);
        }
    }));
}

fn collect_discovery(shared: &Shared, encoder: &mut Encoder<'_>) {
    let stats = shared.discovery.stats();
    encoder
        .family(&families::DNS_QUERIES)
        .value(&["udp", "received"], stats.queries_udp.get())
        .value(&["tcp", "received"], stats.queries_tcp.get())
        .value(&["", "answered"], stats.answered.get())
        .value(&["", "negative"], stats.negative.get())
        .value(&["", "failed"], stats.failed.get())
        .value(&["", "overloaded"], stats.overloaded.get())
        .value(&["", "malformed"], stats.malformed.get())
        .value(&["", "rejected"], stats.rejected.get())
        .value(&["", "cache_hit"], stats.cache_hits.get())
        .value(&["", "cache_miss"], stats.cache_misses.get())
        .value(&["", "cache_stale"], stats.cache_stale.get());
    encoder
        .family(&families::DNS_UPSTREAM)
        .value(&["sent"], stats.upstream_queries.get())
        .value(&["timeout"], stats.upstream_timeouts.get())
        .value(&["error"], stats.upstream_errors.get())
        .value(&["mismatched"], stats.upstream_mismatched.get());
    encoder.family(&families::DNS_CACHE_ENTRIES).value(&[], shared.discovery.cached_answers());
    encoder.family(&families::DNS_NAMES).value(&[], shared.discovery.learned_addresses());
    let services = shared.discovery.snapshot();
    let mut endpoints = encoder.family(&families::ENDPOINTS);
    for service in &services {
        if let Some(list) = &service.list {
            let (key, source) = (service.key.to_string(), list.source.to_string());
            endpoints.value(&[&key, &source], list.endpoints.len());
        }
    }
    encoder
        .family(&families::ENDPOINT_REFRESH)
        .value(&["ok"], stats.refreshes_ok.get())
        .value(&["failed"], stats.refreshes_failed.get());
}

fn collect_identity(shared: &Shared, encoder: &mut Encoder<'_>) {
    let status = shared.identity.status();
    if let Some(leaf) = &status.leaf {
        encoder.family(&families::CERT_NOT_AFTER).value(&[&leaf.id.to_string()], unix(leaf.not_after));
    }
    if let Some(bundle) = &status.bundle {
        let domain = shared.identity.trust_domain().as_str();
        encoder.family(&families::BUNDLE_INFO).value(&[domain, &bundle.hash], 1_u64);
        encoder.family(&families::BUNDLE_ROOTS).value(&[domain], bundle.roots.len());
        if let Some(first) = bundle.roots.iter().map(|root| root.not_after).min() {
            encoder.family(&families::BUNDLE_NOT_AFTER).value(&[domain], unix(first));
        }
    }
    encoder
        .family(&families::CERT_RENEWALS)
        .value(&["ok"], status.renewals_ok)
        .value(&["failed"], status.renewals_failed);
}

fn collect_config(shared: &Shared, encoder: &mut Encoder<'_>) {
    encoder.family(&families::CONFIG_VERSION).value(&[], shared.snapshot.load().version);
    encoder
        .family(&families::CONFIG_RELOADS)
        .value(&["ok"], shared.snapshot.accepted())
        .value(&["invalid"], shared.snapshot.refused());
}

fn collect_program(shared: &Shared, encoder: &mut Encoder<'_>) {
    if shared.config.role != Role::Gateway && shared.config.resources.paths.is_empty() {
        return;
    }
    encoder.family(&families::PROGRAM_VERSION).value(&[], shared.program.version());
    let mut bound = encoder.family(&families::GATEWAY_PORTS);
    for (at, is_bound) in shared.doors.ports() {
        let port = match at.address {
            None => at.port.to_string(),
            Some(ip) => std::net::SocketAddr::new(ip, at.port).to_string(),
        };
        bound.value(&[&port], u64::from(is_bound));
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, Bytes};
    use axum::http::Request;
    use futures_util::stream;
    use tokio::time::Instant;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_that_does_not_come_is_not_waited_for() {
        let pages: Router = asked_in_time(Router::new().route("/log", post(|text: String| async { text })));
        let asked = |body| Request::post("/log").body(body).unwrap();
        let whole = pages.clone().oneshot(asked(Body::from("info"))).await.unwrap();
        assert_eq!(whole.status(), StatusCode::OK);
        let began = Instant::now();
        // An octet each second, which no bound of a pause would end.
        let slow = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b"x")), ()))
        });
        let cut = pages.oneshot(asked(Body::from_stream(slow))).await.unwrap();
        assert_eq!((cut.status(), began.elapsed()), (StatusCode::REQUEST_TIMEOUT, ASKING));
    }
}
