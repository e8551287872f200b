use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use http::{Request, Response};
use k8s_openapi::api::core::v1::Secret;
use kube::client::Body;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use weft_identity::{CaSource, crypto_provider};

use super::*;

/// What of the API server outlives a request: the Secret that was made.
type Made = Arc<Mutex<Secret>>;

/// An API server on which Weft has just been installed: no Secret, no webhook, and watches in which nothing happens.
fn fresh_cluster() -> (Client, Made) {
    let made = Made::default();
    let kept = made.clone();
    let service = tower::service_fn(move |request: Request<Body>| answer(request, kept.clone()));
    (Client::new(service, "default"), made)
}

async fn answer(request: Request<Body>, made: Made) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let missing =
        ["/secrets/weft-ca", "/services/weft-ca", "/weft-injector"].iter().any(|end| path.ends_with(end));
    let (code, text) = if parts.method == "POST" && path.ends_with("/secrets") {
        let secret = body.collect_bytes().await.unwrap().to_vec();
        *made.lock().unwrap() = serde_json::from_slice(&secret).unwrap();
        (201, secret)
    } else if parts.method == "GET" && missing {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                "message": "not found", "code": 404});
        (404, status.to_string().into_bytes())
    } else if path == "/api/v1/configmaps" && !parts.uri.query().unwrap_or_default().contains("watch") {
        let none = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": []});
        (200, none.to_string().into_bytes())
    } else {
        std::future::pending().await
    };
    Ok(Response::builder().status(code).body(Body::from(text)).unwrap())
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn ready(health: SocketAddr) -> String {
    let mut stream = TcpStream::connect(health).await.unwrap();
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

fn options(config: &str, parts: &[Part]) -> ControlOptions {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    ControlOptions {
        config: ControlConfig::from_yaml(Path::new("config.yaml"), config, None).unwrap(),
        file: None,
        replica: "replica-1".to_owned(),
        parts: parts.iter().copied().collect(),
        binds: Binds { ca: free_port(), injector: free_port(), metrics: local, health: local },
        build: BuildInfo { version: "0", revision: "", rustc: "" },
    }
}

#[tokio::test]
async fn a_replica_that_is_told_to_end_is_not_ready_at_once_and_serves_for_its_drain_period() {
    let config = "{drainPeriod: 1s, injector: {image: 'weft:1', nativeSidecar: always}}";
    let options = options(config, &[Part::Ca, Part::Injector]);
    let control = Control::bind(options, fresh_cluster().0).await.unwrap();
    let binds = control.binds();
    let (trigger, drain) = weft_core::drain();
    let served = tokio::spawn(control.serve(drain));
    while !ready(binds.health).await.contains(" 200 OK") {
        tokio::task::yield_now().await;
    }
    let began = tokio::time::Instant::now();
    trigger.start(Duration::from_secs(10));
    assert!(ready(binds.health).await.contains("draining"));
    for listener in [binds.ca, binds.injector] {
        assert!(TcpStream::connect(listener).await.is_ok(), "{listener}");
    }
    served.await.unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    for listener in [binds.ca, binds.injector] {
        assert!(TcpStream::connect(listener).await.is_err(), "{listener}");
    }
}

/// What an OTLP/HTTP collector was sent.
#[derive(Default)]
struct Collected {
    traces: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
}

async fn collector() -> (String, Arc<Mutex<Collected>>) {
    let collected = Arc::<Mutex<Collected>>::default();
    let (traces, metrics) = (collected.clone(), collected.clone());
    let pages = Router::new()
        .route(
            "/v1/traces",
            post(move |body: Bytes| async move {
                traces.lock().unwrap().traces.push(ExportTraceServiceRequest::decode(body).unwrap());
            }),
        )
        .route(
            "/v1/metrics",
            post(move |body: Bytes| async move {
                metrics.lock().unwrap().metrics.push(ExportMetricsServiceRequest::decode(body).unwrap());
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(weft_telemetry::serve_pages(listener, pages));
    (endpoint, collected)
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value.as_ref()
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attribute(attributes, key)? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Sends a review as the API server would, as part of a trace, and gives the head of the answer.
async fn review(injector: SocketAddr, root: &[u8]) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(crypto_provider().clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("weft-injector.weft-system.svc").unwrap();
    let tcp = TcpStream::connect(injector).await.unwrap();
    let mut tls = TlsConnector::from(Arc::new(client)).connect(name, tcp).await.unwrap();
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "kind": {"kind": "Pod"}, "operation": "CREATE",
        "object": {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app", "image": "app"}]}},
    }})
    .to_string();
    let head = format!(
        "POST /inject?timeout=5s HTTP/1.1\r\nhost: weft-injector.weft-system.svc:443\r\nconnection: close\r\n\
         user-agent: kube-apiserver-admission\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    tls.write_all(head.as_bytes()).await.unwrap();
    tls.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = tls.read_to_string(&mut answer).await;
    answer
}

/// A proxy whose token proves nothing asks the CA, until it is told so.
async fn ask_in_vain(ca: SocketAddr, root: &[u8]) {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("root.pem"), root).unwrap();
    std::fs::write(files.path().join("token"), "no-token").unwrap();
    let source = CaSource {
        address: ca.to_string(),
        bundle: files.path().join("root.pem"),
        server_id: "spiffe://weft.local/ns/weft-system/sa/weft-ca".parse().unwrap(),
        token_file: files.path().join("token"),
        expected_id: None,
    };
    let (publisher, identity) = weft_identity::identity("weft.local".parse().unwrap());
    let (_trigger, drain) = weft_core::drain();
    let asking = tokio::spawn(source.run(publisher, drain));
    let refused = async {
        while !identity.status().last_error.is_some_and(|(_, error)| error.contains("credential refused")) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), refused).await.expect("the CA says nothing");
    asking.abort();
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn calls_reviews_and_metrics_come_to_the_collector() {
    let (endpoint, collected) = collector().await;
    let config = format!(
        "{{drainPeriod: 0s, injector: {{image: 'weft:1', nativeSidecar: always}}, telemetry: {{resource: {{team: mesh}}, \
         tracing: {{endpoint: '{endpoint}', protocol: http, sampling: 1.0}}, \
         metrics: {{otlp: {{endpoint: '{endpoint}', protocol: http}}}}}}}}"
    );
    let (client, made) = fresh_cluster();
    let control = Control::bind(options(&config, &Part::ALL), client).await.unwrap();
    let binds = control.binds();
    let (trigger, drain) = weft_core::drain();
    let served = tokio::spawn(control.serve(drain));
    while !ready(binds.health).await.contains(" 200 OK") {
        tokio::task::yield_now().await;
    }
    let root = made.lock().unwrap().data.as_ref().unwrap()["root.pem"].0.clone();
    let answer = review(binds.injector, &root).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    ask_in_vain(binds.ca, &root).await;
    // What is not sent yet is sent at the end.
    trigger.close();
    served.await.unwrap().unwrap();

    let Collected { traces, metrics } = std::mem::take(&mut *collected.lock().unwrap());
    let mut spans = Vec::new();
    for of in traces.into_iter().flat_map(|request| request.resource_spans) {
        let resource = of.resource.unwrap().attributes;
        let told = ["service.name", "service.namespace", "service.instance.id", "team"];
        let told = told.map(|name| text(&resource, name).unwrap());
        assert_eq!(told, ["weft-control", "weft-system", "replica-1", "mesh"]);
        spans.extend(of.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    is_the_review(named("POST /inject"));
    let call = &named("weft.identity.v1.Identity/Sign").attributes;
    assert_eq!(text(call, "rpc.response.status_code"), Some("UNAUTHENTICATED"));
    let metrics = metrics.into_iter().flat_map(|request| request.resource_metrics);
    let metrics = metrics.flat_map(|of| of.scope_metrics).flat_map(|scope| scope.metrics);
    let names: BTreeSet<String> = metrics.map(|metric| metric.name).collect();
    for name in [
        "weft.ca_signatures",
        "weft.injections",
        "weft.injection_duration",
        "weft.controller_leader",
        "weft.controller_reconcile_duration",
        "weft.spans_exported",
        "process.cpu.time",
    ] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
}

fn is_the_review(span: &Span) {
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!((&*hex(&span.trace_id), &*hex(&span.parent_span_id)), (TRACE, PARENT));
    assert_eq!((span.kind, span.status.is_none()), (SpanKind::Server as i32, true));
    let a = &span.attributes;
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/inject"),
        ("url.path", "/inject"),
        ("url.scheme", "https"),
        ("server.address", "weft-injector.weft-system.svc"),
        ("user_agent.original", "kube-apiserver-admission"),
        ("network.peer.address", "127.0.0.1"),
    ] {
        assert_eq!(text(a, name), Some(value), "{name}");
    }
    assert_eq!(attribute(a, "http.response.status_code"), Some(&Value::IntValue(200)));
    assert!(matches!(attribute(a, "http.request.body.size"), Some(Value::IntValue(1..))));
}

#[tokio::test]
async fn a_collector_that_cannot_be_used_stops_the_start() {
    let config = "telemetry: {tracing: {endpoint: 'https://a:4317', caFile: /nowhere/ca.pem}}";
    let Err(error) = Control::bind(options(config, &[Part::Ca]), fresh_cluster().0).await else {
        panic!("it starts")
    };
    let error = error.to_string();
    assert!(error.starts_with("telemetry: ") && error.contains("/nowhere/ca.pem"), "{error}");
}
