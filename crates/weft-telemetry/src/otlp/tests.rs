//! The exporter against collectors in this process, over real sockets.

pub(super) mod collector;

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Version};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use weft_core::{CaCertificates, DrainTrigger, drain};

use super::*;
use crate::metrics::Registry;
use crate::span::{Grpc, SpanKind, SpanRecord, SpanSink};
use crate::trace::{IdRng, TraceContext};
use collector::{Answer, Collector};

fn record(n: u64) -> SpanRecord {
    let mut rng = IdRng::with_seed(n);
    SpanRecord {
        context: TraceContext {
            trace_id: rng.trace_id(),
            span_id: rng.span_id(),
            sampled: true,
            random: false,
        },
        parent: Some(rng.span_id()),
        parent_is_remote: true,
        kind: SpanKind::Client,
        start_unix_nanos: 1_000 + n,
        end_unix_nanos: 2_000 + n,
        method: Method::GET,
        route: None,
        path: "/orders/7".into(),
        scheme: "http",
        server_address: Some("orders.shop".into()),
        server_port: Some(80),
        network_peer: Some("10.1.2.3:8080".parse().unwrap()),
        version: Version::HTTP_11,
        status: Some(200),
        user_agent: Some("curl/8".into()),
        grpc: None,
        error: None,
        source_identity: Some("spiffe://weft.local/ns/shop/sa/web".into()),
        destination_identity: Some("spiffe://weft.local/ns/shop/sa/orders".into()),
        retries: 0,
        request_bytes: Some(0),
        response_bytes: Some(12),
    }
}

fn config(address: SocketAddr, protocol: OtlpProtocol) -> TracingConfig {
    TracingConfig {
        collector: at(address, protocol),
        resource: ResourceConfig {
            service_name: "web".to_owned(),
            service_namespace: "shop".to_owned(),
            service_instance: "web-1".to_owned(),
            attributes: vec![("deployment.environment.name".to_owned(), "test".to_owned())],
        },
        queue: 1_024,
        flush_interval: Duration::from_millis(20),
        ..TracingConfig::default()
    }
}

pub(super) fn at(address: SocketAddr, protocol: OtlpProtocol) -> CollectorConfig {
    CollectorConfig {
        endpoint: format!("http://{address}"),
        protocol,
        headers: vec![("x-api-key".to_owned(), "secret".to_owned())],
        timeout: Duration::from_secs(5),
        ca: None,
    }
}

struct Running {
    sink: SpanSink,
    registry: Registry,
    drain: DrainTrigger,
    task: tokio::task::JoinHandle<()>,
}

fn start(config: TracingConfig) -> Running {
    start_with(config, Duration::from_millis(500))
}

fn start_with(config: TracingConfig, last_flush: Duration) -> Running {
    let registry = Registry::default();
    let (sink, exporter) = Exporter::new(config, &registry).unwrap();
    let (trigger, watcher) = drain();
    let task = tokio::spawn(exporter.run(watcher, last_flush));
    Running { sink, registry, drain: trigger, task }
}

impl Running {
    fn metric(&self, line: &str) -> u64 {
        let mut text = String::new();
        self.registry.encode(&mut text);
        text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0)
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.metric(&format!("weft_spans_dropped_total{{reason=\"{reason}\"}}"))
    }

    async fn wait_for(&self, line: &str, value: u64) {
        let reached = async {
            while self.metric(line) < value {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), reached)
            .await
            .unwrap_or_else(|_| panic!("{line} stays {}", self.metric(line)));
    }
}

pub(super) fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value.as_ref()
}

pub(super) fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attribute(attributes, key)? {
        Value::StringValue(text) => Some(text),
        other => panic!("{key} is {other:?}"),
    }
}

pub(super) fn int(attributes: &[KeyValue], key: &str) -> Option<i64> {
    match attribute(attributes, key)? {
        Value::IntValue(n) => Some(*n),
        other => panic!("{key} is {other:?}"),
    }
}

async fn spans_arrive_with_all_they_have(protocol: OtlpProtocol) {
    let collector = Collector::start(protocol, None).await;
    let running = start(config(collector.address, protocol));
    for n in 0..3 {
        running.sink.submit(record(n));
    }
    running.wait_for("weft_spans_exported_total", 3).await;
    let (requests, headers) = collector.received();
    assert!(headers.iter().all(|h| h.get("x-api-key").is_some_and(|v| v == "secret")));
    let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(text(&resource.attributes, "service.name"), Some("web"));
    assert_eq!(text(&resource.attributes, "service.namespace"), Some("shop"));
    assert_eq!(text(&resource.attributes, "service.instance.id"), Some("web-1"));
    assert_eq!(text(&resource.attributes, "deployment.environment.name"), Some("test"));
    assert!(text(&resource.attributes, "host.name").is_some_and(|h| !h.is_empty()));
    let spans = collector.spans();
    assert_eq!(spans.len(), 3);
    let (sent, got) = (record(1), spans.iter().find(|s| s.start_time_unix_nano == 1_001).unwrap());
    assert_eq!(got.trace_id, sent.context.trace_id.bytes());
    assert_eq!(got.span_id, sent.context.span_id.bytes());
    assert_eq!(got.parent_span_id, sent.parent.unwrap().bytes());
    assert_eq!((got.kind, got.name.as_str(), got.end_time_unix_nano), (3, "GET", 2_001));
    assert!(got.status.is_none());
    running.drain.close();
    timeout(Duration::from_secs(5), running.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn spans_arrive_over_grpc() {
    spans_arrive_with_all_they_have(OtlpProtocol::Grpc).await;
}

#[tokio::test]
async fn spans_arrive_over_http() {
    spans_arrive_with_all_they_have(OtlpProtocol::Http).await;
}

async fn over_tls(protocol: OtlpProtocol) {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, key.cert.pem()).unwrap();
    let collector = Collector::start(protocol, Some(&key)).await;
    let endpoint = format!("https://localhost:{}", collector.address.port());
    let trusting = |ca| TracingConfig {
        collector: CollectorConfig {
            endpoint: endpoint.clone(),
            ca: Some(ca),
            ..at(collector.address, protocol)
        },
        ..config(collector.address, protocol)
    };
    let running = start(trusting(CaCertificates::File(ca_file)));
    running.sink.submit(record(1));
    running.wait_for("weft_spans_exported_total", 1).await;

    let written_out = start(trusting(CaCertificates::Pem(key.cert.pem())));
    written_out.sink.submit(record(2));
    written_out.wait_for("weft_spans_exported_total", 1).await;

    // A collector that another CA vouches for gets nothing.
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mistrusting = start(trusting(CaCertificates::Pem(other.cert.pem())));
    mistrusting.sink.submit(record(3));
    mistrusting.wait_for("weft_span_export_requests_total{outcome=\"retryable\"}", 1).await;
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn spans_arrive_over_grpc_with_tls() {
    over_tls(OtlpProtocol::Grpc).await;
}

#[tokio::test]
async fn spans_arrive_over_http_with_tls() {
    over_tls(OtlpProtocol::Http).await;
}

/// A port with nobody behind it.
pub(super) async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn an_outage_costs_spans_but_no_time(protocol: OtlpProtocol) {
    let address = closed_port().await;
    let running = start(TracingConfig { queue: 16, ..config(address, protocol) });
    running.sink.submit(record(0));
    running.wait_for("weft_span_export_requests_total{outcome=\"retryable\"}", 1).await;
    // One span is in the exporter's hands; 16 of these fit.
    let before = Instant::now();
    for n in 0..1_000 {
        running.sink.submit(record(n));
    }
    assert!(before.elapsed() < Duration::from_millis(500), "submit waited: {:?}", before.elapsed());
    assert_eq!(running.dropped("queue_full"), 1_000 - 16);
    let collector = Collector::start_at(address, protocol, None).await;
    running.wait_for("weft_spans_exported_total", 17).await;
    assert_eq!(collector.spans().len(), 17);
    running.sink.submit(record(5_000));
    running.wait_for("weft_spans_exported_total", 18).await;
}

#[tokio::test]
async fn an_outage_over_grpc() {
    an_outage_costs_spans_but_no_time(OtlpProtocol::Grpc).await;
}

#[tokio::test]
async fn an_outage_over_http() {
    an_outage_costs_spans_but_no_time(OtlpProtocol::Http).await;
}

#[tokio::test]
async fn a_collector_that_never_answers_is_left_after_the_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let impatient = CollectorConfig { timeout: Duration::from_millis(100), ..at(address, protocol) };
        let running = start(TracingConfig { collector: impatient, ..config(address, protocol) });
        running.sink.submit(record(0));
        running.wait_for("weft_span_export_requests_total{outcome=\"retryable\"}", 1).await;
        // The end does not wait for it either: half a second for the last flush, as `start` says.
        running.drain.close();
        let (before, registry) = (Instant::now(), running.registry.clone());
        timeout(Duration::from_secs(5), running.task).await.unwrap().unwrap();
        assert!(before.elapsed() < Duration::from_secs(3));
        let mut text = String::new();
        registry.encode(&mut text);
        assert!(text.contains("weft_spans_dropped_total{reason=\"shutdown\"} 1\n"), "{text}");
    }
}

#[tokio::test]
async fn refusals_are_retried_or_not_as_the_protocol_says() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let collector = Collector::start(protocol, None).await;
        let running = start(config(collector.address, protocol));
        collector.answer_next(Answer::Busy);
        running.sink.submit(record(1));
        running.wait_for("weft_spans_exported_total", 1).await;
        assert_eq!(running.metric("weft_span_export_requests_total{outcome=\"retryable\"}"), 1);

        collector.answer_next(Answer::Refused);
        running.sink.submit(record(2));
        running.wait_for("weft_spans_dropped_total{reason=\"export_failed\"}", 1).await;

        collector.answer_next(Answer::Partial(1));
        for n in 3..5 {
            running.sink.submit(record(n));
        }
        running.wait_for("weft_spans_exported_total", 2).await;
        assert_eq!(running.dropped("rejected"), 1);
    }
}

#[tokio::test]
async fn the_last_spans_are_sent_before_the_end() {
    let collector = Collector::start(OtlpProtocol::Grpc, None).await;
    let slow_flush = TracingConfig {
        flush_interval: Duration::from_secs(3_600),
        queue: 4_096,
        ..config(collector.address, OtlpProtocol::Grpc)
    };
    let running = start_with(slow_flush, Duration::from_secs(20));
    for n in 0..1_300 {
        running.sink.submit(record(n));
    }
    running.drain.close();
    timeout(Duration::from_secs(20), running.task).await.unwrap().unwrap();
    assert_eq!(collector.spans().len(), 1_300);
    assert!(collector.received().0.len() >= 3, "batches hold 512");
    running.sink.submit(record(9_999));
    let mut text = String::new();
    running.registry.encode(&mut text);
    assert!(text.contains("weft_spans_dropped_total{reason=\"shutdown\"} 1\n"), "{text}");
}

#[tokio::test]
async fn what_cannot_work_is_said_at_start() {
    let registry = Registry::default();
    let base = config("127.0.0.1:1".parse().unwrap(), OtlpProtocol::Grpc);
    let with = |collector| TracingConfig { collector, ..base.clone() };
    let to = |e: &str| CollectorConfig { endpoint: e.to_owned(), ..base.collector.clone() };
    let endpoint = |e: &str| with(to(e));
    let trusting = |ca| with(CollectorConfig { ca: Some(ca), ..to("https://c:4317") });
    let missing = trusting(CaCertificates::File("/nonexistent/ca.pem".into()));
    let broken = "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n";
    let header = |n: &str, v: &str| {
        with(CollectorConfig { headers: vec![(n.into(), v.into())], ..base.collector.clone() })
    };
    for (config, part) in [
        (endpoint("collector:4317"), "http://"),
        (endpoint("ftp://collector"), "http://"),
        (endpoint("http://"), ""),
        (endpoint("http://collector/v1/traces"), "no path"),
        (missing, "/nonexistent/ca.pem"),
        (trusting(CaCertificates::Pem(broken.into())), "written in the configuration"),
        (trusting(CaCertificates::Pem("no PEM at all".into())), "no certificate"),
        (header("bad name", "x"), "bad name"),
        (header("key", "line\nbreak"), "key"),
        (TracingConfig { sampling: 1.5, ..base.clone() }, "1.5"),
    ] {
        let Err(error) = Exporter::new(config, &registry) else { panic!("accepted: {part}") };
        assert!(error.to_string().contains(part), "{error}");
        assert!(!error.to_string().contains("line"), "a header's value is not shown");
    }
}

fn convert(record: SpanRecord) -> Span {
    let mut request = convert::request(&convert::resource(&ResourceConfig::default()), &[record]);
    request.resource_spans.remove(0).scope_spans.remove(0).spans.remove(0)
}

#[test]
fn http_spans_follow_the_conventions() {
    let span = convert(SpanRecord {
        kind: SpanKind::Server,
        route: Some("/orders/{id}".into()),
        status: Some(404),
        retries: 2,
        ..record(1)
    });
    let a = &span.attributes;
    assert_eq!((span.kind, span.name.as_str()), (2, "GET /orders/{id}"));
    assert!(span.status.is_none(), "a server span does not fail by 4xx");
    assert_eq!(text(a, "error.type"), None);
    assert_eq!(text(a, "http.request.method"), Some("GET"));
    assert_eq!(text(a, "http.route"), Some("/orders/{id}"));
    assert_eq!(text(a, "url.path"), Some("/orders/7"));
    assert_eq!(text(a, "url.scheme"), Some("http"));
    assert_eq!(text(a, "server.address"), Some("orders.shop"));
    assert_eq!(int(a, "server.port"), Some(80));
    assert_eq!(text(a, "network.peer.address"), Some("10.1.2.3"));
    assert_eq!(int(a, "network.peer.port"), Some(8080));
    assert_eq!(text(a, "network.protocol.version"), Some("1.1"));
    assert_eq!(int(a, "http.response.status_code"), Some(404));
    assert_eq!(text(a, "user_agent.original"), Some("curl/8"));
    assert_eq!(text(a, "weft.source.identity"), Some("spiffe://weft.local/ns/shop/sa/web"));
    assert_eq!(text(a, "weft.destination.identity"), Some("spiffe://weft.local/ns/shop/sa/orders"));
    assert_eq!(int(a, "weft.retries"), Some(2));

    let client = convert(SpanRecord { status: Some(404), ..record(1) });
    assert_eq!(client.status.unwrap().code, 2);
    assert_eq!(text(&client.attributes, "error.type"), Some("404"));

    let cut = convert(SpanRecord {
        status: None,
        error: Some("connect_failed"),
        method: Method::from_bytes(b"BREW").unwrap(),
        ..record(1)
    });
    assert_eq!(cut.name, "HTTP");
    assert_eq!(text(&cut.attributes, "http.request.method"), Some("_OTHER"));
    assert_eq!(text(&cut.attributes, "http.request.method_original"), Some("BREW"));
    assert_eq!(text(&cut.attributes, "error.type"), Some("connect_failed"));
    assert_eq!(text(&cut.attributes, "weft.error"), Some("connect_failed"));
}

#[test]
fn grpc_spans_follow_the_conventions() {
    let call = |kind, status| {
        convert(SpanRecord {
            kind,
            method: Method::POST,
            path: "/shop.Inventory/Get".into(),
            version: Version::HTTP_2,
            grpc: Some(Grpc { status: Some(status) }),
            ..record(1)
        })
    };
    let missing = call(SpanKind::Server, 5);
    assert_eq!(missing.name, "shop.Inventory/Get");
    assert!(missing.status.is_none(), "NOT_FOUND is no failure of the server");
    assert_eq!(text(&missing.attributes, "rpc.system.name"), Some("grpc"));
    assert_eq!(text(&missing.attributes, "rpc.method"), Some("shop.Inventory/Get"));
    assert_eq!(text(&missing.attributes, "rpc.response.status_code"), Some("NOT_FOUND"));
    let seen_by_client = call(SpanKind::Client, 5);
    assert_eq!(text(&seen_by_client.attributes, "error.type"), Some("NOT_FOUND"));
    let down = call(SpanKind::Server, 14);
    assert_eq!(down.status.unwrap().code, 2);
}

#[test]
fn configured_resource_attributes_win() {
    let config = ResourceConfig {
        service_name: "web".to_owned(),
        attributes: vec![("service.name".to_owned(), "shop-web".to_owned())],
        ..ResourceConfig::default()
    };
    let resource = convert::resource(&config);
    let names: Vec<_> = resource.attributes.iter().filter(|a| a.key == "service.name").collect();
    assert_eq!(names.len(), 1);
    assert_eq!(text(&resource.attributes, "service.name"), Some("shop-web"));
    assert_eq!(attribute(&resource.attributes, "service.namespace"), None);
}
