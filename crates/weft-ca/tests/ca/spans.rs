//! The spans of calls, as a collector gets them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status};
use weft_ca::{Authority, Ca, CaParts, Credentials, Proof, Proving, RootPem, Unproven};
use weft_core::{DrainTrigger, drain};
use weft_identity::proto::{SignRequest, WatchBundleRequest};
use weft_telemetry::{CollectorConfig, Exporter, Registry, Sampler, ServerSpans, TracingConfig};

use crate::support::{CA_ID, RunningCa, SOON, Site, csr, eventually, raw, tls, with_credential};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|of| of.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Begins to take spans at the address that is returned.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = stream::unfold(listener, |listener| async move {
            Some((listener.accept().await.map(|(tcp, _)| tcp), listener))
        });
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(connections));
        format!("http://{address}")
    }

    /// The spans, when there are so many.
    async fn spans(&self, count: usize) -> Vec<Span> {
        eventually(|| match self.0.lock().unwrap().len() {
            found if found >= count => Ok(()),
            found => Err(format!("{found} spans, not {count}")),
        })
        .await;
        self.0.lock().unwrap().clone()
    }
}

/// Knows one good token, and one that nobody can check.
struct Judge;

impl Credentials for Judge {
    fn prove<'a>(&'a self, token: &'a str) -> Proving<'a> {
        Box::pin(std::future::ready(match token {
            "good" => Ok(Proof::of("spiffe://weft.local/ns/shop/sa/web".parse().unwrap())),
            "unchecked" => Err(Unproven::Unavailable("away".to_owned())),
            _ => Err(Unproven::Refused("bad".to_owned())),
        }))
    }
}

/// A CA whose spans go to `endpoint`: those that their callers want, and of the others the share `sampling`.
async fn ca(site: &Site, endpoint: String, sampling: f64) -> (RunningCa, DrainTrigger) {
    let registry = Registry::default();
    let config = TracingConfig {
        collector: CollectorConfig { endpoint, ..CollectorConfig::default() },
        flush_interval: Duration::from_millis(20),
        ..TracingConfig::default()
    };
    let (sink, exporter) = Exporter::new(config, &registry).unwrap();
    let (trigger, exporting) = drain();
    tokio::spawn(exporter.run(exporting, SOON));
    let pem = RootPem::generate(&"weft.local".parse().unwrap(), Duration::from_secs(600)).unwrap();
    std::fs::create_dir(site.path("data")).unwrap();
    site.write("data/root.pem", &pem.bundle);
    let parts = CaParts {
        listen: "127.0.0.1:0".parse().unwrap(),
        authority: Authority::new(pem, CA_ID.parse().unwrap(), SOON).unwrap(),
        credentials: Arc::new(Judge),
        registry,
        spans: ServerSpans::new(sink, Arc::new(Sampler::new(sampling).unwrap())),
    };
    (RunningCa::serve(Ca::with(parts).await.unwrap()), trigger)
}

/// A call with a credential, and perhaps a trace that its caller records or does not.
fn call<T>(message: T, token: &str, sampled: Option<bool>) -> Request<T> {
    let mut request = with_credential(message, Some(&format!("Bearer {token}")));
    if let Some(sampled) = sampled {
        let context = format!("00-{TRACE}-{PARENT}-0{}", u8::from(sampled));
        request.metadata_mut().insert("traceparent", context.parse().unwrap());
    }
    request
}

fn sign(token: &str, sampled: Option<bool>) -> Request<SignRequest> {
    call(SignRequest { csr: csr(|_| {}) }, token, sampled)
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match span.attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn calls_are_spans_in_the_traces_of_their_callers() {
    let (site, collector) = (Arc::new(Site::new()), Collector::default());
    let (ca, _exporting) = ca(&site, collector.start().await, 0.0).await;
    let mut raw = raw(&site, ca.address).await;
    raw.client.sign(sign("good", None)).await.unwrap();
    raw.client.sign(sign("good", Some(false))).await.unwrap();
    raw.client.sign(sign("good", Some(true))).await.unwrap();
    let watching = tokio_stream::pending::<WatchBundleRequest>();
    let _open = raw.client.watch_bundle(call(watching, "good", Some(true))).await.unwrap();
    let refused = raw.client.sign(sign("bad", Some(true))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let unchecked = raw.client.sign(sign("unchecked", Some(true))).await.unwrap_err();
    assert_eq!(unchecked.code(), Code::Unavailable);

    let spans = collector.spans(4).await;
    let told: Vec<_> = spans
        .iter()
        .map(|span| {
            (span.name.as_str(), text(span, "rpc.response.status_code").unwrap(), span.status.is_some())
        })
        .collect();
    let (sign, watch) = ("weft.identity.v1.Identity/Sign", "weft.identity.v1.Identity/WatchBundle");
    // By the conventions a server span does not fail by what its caller did wrong.
    let expected = [
        (sign, "OK", false),
        (watch, "OK", false),
        (sign, "UNAUTHENTICATED", false),
        (sign, "UNAVAILABLE", true),
    ];
    assert_eq!(told, expected);
    for span in &spans {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
        assert_ne!(hex(&span.span_id), PARENT);
        assert_eq!(span.kind, SpanKind::Server as i32);
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
        assert_eq!(
            (text(span, "rpc.system.name"), text(span, "rpc.method")),
            (Some("grpc"), Some(&*span.name))
        );
        assert_eq!((text(span, "url.scheme"), text(span, "server.address")), (Some("https"), Some("ca")));
        assert_eq!(text(span, "network.peer.address"), Some("127.0.0.1"));
        let proven = text(span, "rpc.response.status_code") == Some("OK");
        let caller = proven.then_some("spiffe://weft.local/ns/shop/sa/web");
        assert_eq!(text(span, "weft.source.identity"), caller);
    }
    let failed = spans[3].status.as_ref().unwrap();
    assert_eq!((failed.code, text(&spans[3], "error.type")), (StatusCode::Error as i32, Some("UNAVAILABLE")));
    ca.stop().await;
}

/// Calls what there is not, and gives the status.
async fn strange_call(site: &Site, ca: &RunningCa) -> Option<String> {
    let (mut client, connection) = h2::client::handshake(tls(site, ca.address).await).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("https://ca/weft.identity.v1.Identity/Steal");
    let request = request.header("content-type", "application/grpc").body(()).unwrap();
    let answer = client.send_request(request, true).unwrap().0.await.unwrap();
    Some(answer.headers().get("grpc-status")?.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_rest_is_sampled_and_what_is_no_call_has_no_span() {
    let (site, collector) = (Arc::new(Site::new()), Collector::default());
    let (ca, _exporting) = ca(&site, collector.start().await, 1.0).await;
    let mut raw = raw(&site, ca.address).await;
    assert_eq!(strange_call(&site, &ca).await, Some("12".to_owned()), "UNIMPLEMENTED");
    raw.client.sign(sign("good", None)).await.unwrap();
    let spans = collector.spans(1).await;
    assert_eq!((spans.len(), spans[0].name.as_str()), (1, "weft.identity.v1.Identity/Sign"));
    assert!(spans[0].parent_span_id.is_empty());
    ca.stop().await;
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nobody_up() {
    let site = Arc::new(Site::new());
    // Takes connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let (ca, _exporting) = ca(&site, endpoint, 1.0).await;
    let mut raw = raw(&site, ca.address).await;
    let calls = async {
        for _ in 0..50 {
            raw.client.sign(sign("good", Some(true))).await.unwrap();
        }
    };
    tokio::time::timeout(SOON, calls).await.expect("calls wait for the collector");
    ca.stop().await;
}
