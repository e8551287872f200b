//! The exporter against collectors in this process, over real sockets.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::time::sleep;
use weft_core::{CaCertificates, DrainTrigger, drain};

use super::*;
use crate::otlp::tests::collector::{Answer, Collector};
use crate::otlp::tests::{at, closed_port, text};
use crate::{CollectorConfig, OtlpProtocol, ResourceConfig};

const INTERVAL: Duration = Duration::from_millis(20);

fn config(collector: CollectorConfig) -> MetricsConfig {
    let resource = ResourceConfig { service_name: "web".to_owned(), ..ResourceConfig::default() };
    MetricsConfig { collector, resource, interval: INTERVAL }
}

struct Running {
    registry: Registry,
    drain: DrainTrigger,
    task: tokio::task::JoinHandle<()>,
}

fn start(config: MetricsConfig) -> Running {
    let registry = Registry::default();
    registry.shared().counter(&families::ERRORS, &["inbound", "connect-failed"]).add(7);
    let exporter = MetricsExporter::new(config, &registry).unwrap();
    let (drain, watcher) = drain();
    let task = tokio::spawn(exporter.run(watcher, Duration::from_millis(500)));
    Running { registry, drain, task }
}

impl Running {
    fn metric(&self, line: &str) -> u64 {
        let mut text = String::new();
        self.registry.encode(&mut text);
        text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0)
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.metric(&format!("weft_metric_points_dropped_total{{reason=\"{reason}\"}}"))
    }

    fn exported(&self) -> u64 {
        self.metric("weft_metric_points_exported_total")
    }

    fn requests(&self, outcome: &str) -> u64 {
        self.metric(&format!("weft_metric_export_requests_total{{outcome=\"{outcome}\"}}"))
    }

    async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let wait = async {
            while !reached(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let mut text = String::new();
        self.registry.encode(&mut text);
        timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{what}: {text}"));
    }
}

async fn metrics_arrive(protocol: OtlpProtocol, tls: bool) {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let collector = Collector::start(protocol, tls.then_some(&key)).await;
    let mut way = at(collector.address, protocol);
    if tls {
        way.endpoint = format!("https://localhost:{}", collector.address.port());
        way.ca = Some(CaCertificates::Pem(key.cert.pem()));
    }
    let running = start(config(way));
    running.until("two exports", |running| running.requests("ok") >= 2).await;
    let requests = collector.metric_requests();
    let of = &requests[0].resource_metrics[0];
    assert_eq!(text(&of.resource.as_ref().unwrap().attributes, "service.name"), Some("web"));
    let scope = &of.scope_metrics[0];
    assert_eq!(scope.scope.as_ref().unwrap().name, "weft");
    assert!(scope.metrics.iter().any(|metric| metric.name == "weft.errors"), "{scope:?}");
    assert!(collector.headers().iter().all(|h| h.get("x-api-key").is_some_and(|v| v == "secret")));
    assert!(running.exported() > 0);
    // The end brings the last values.
    running.registry.shared().counter(&families::ERRORS, &["inbound", "late"]).inc();
    running.drain.close();
    timeout(Duration::from_secs(5), running.task).await.unwrap().unwrap();
    let last = collector.metric_requests().pop().unwrap();
    assert!(format!("{last:?}").contains("\"late\""), "{last:?}");
}

#[tokio::test]
async fn metrics_arrive_over_grpc() {
    metrics_arrive(OtlpProtocol::Grpc, false).await;
}

#[tokio::test]
async fn metrics_arrive_over_http() {
    metrics_arrive(OtlpProtocol::Http, false).await;
}

#[tokio::test]
async fn metrics_arrive_over_grpc_with_tls() {
    metrics_arrive(OtlpProtocol::Grpc, true).await;
}

#[tokio::test]
async fn metrics_arrive_over_http_with_tls() {
    metrics_arrive(OtlpProtocol::Http, true).await;
}

async fn an_outage_is_counted_and_over_when_it_is_over(protocol: OtlpProtocol) {
    let address: SocketAddr = closed_port().await;
    let running = start(config(at(address, protocol)));
    running.until("a loss", |running| running.dropped("export_failed") > 0).await;
    assert_eq!(running.exported(), 0);
    let collector = Collector::start_at(address, protocol, None).await;
    running.until("an export", |running| running.exported() > 0).await;
    assert!(!collector.metric_requests().is_empty());
}

#[tokio::test]
async fn an_outage_over_grpc() {
    an_outage_is_counted_and_over_when_it_is_over(OtlpProtocol::Grpc).await;
}

#[tokio::test]
async fn an_outage_over_http() {
    an_outage_is_counted_and_over_when_it_is_over(OtlpProtocol::Http).await;
}

#[tokio::test]
async fn a_collector_that_never_answers_delays_no_end() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let impatient = CollectorConfig { timeout: Duration::from_millis(100), ..at(address, protocol) };
        let running = start(config(impatient));
        running.until("a loss", |running| running.dropped("export_failed") > 0).await;
        assert!(running.requests("retryable") > 0);
        running.drain.close();
        let (before, registry) = (Instant::now(), running.registry.clone());
        timeout(Duration::from_secs(5), running.task).await.unwrap().unwrap();
        assert!(before.elapsed() < Duration::from_secs(3));
        let mut text = String::new();
        registry.encode(&mut text);
        assert!(text.contains("weft_metric_points_dropped_total{reason=\"export_failed\"}"), "{text}");
    }
}

#[tokio::test]
async fn what_was_under_way_at_the_end_is_counted() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = start(config(at(silent.local_addr().unwrap(), OtlpProtocol::Grpc)));
    let connected = timeout(Duration::from_secs(5), silent.accept()).await.unwrap().unwrap();
    running.drain.close();
    let registry = running.registry.clone();
    timeout(Duration::from_secs(5), running.task).await.unwrap().unwrap();
    drop(connected);
    let mut text = String::new();
    registry.encode(&mut text);
    let lost = text
        .lines()
        .find_map(|l| l.strip_prefix("weft_metric_points_dropped_total{reason=\"shutdown\"} ")?.parse().ok());
    assert!(lost.is_some_and(|lost: u64| lost > 0), "{text}");
}

#[tokio::test]
async fn refusals_are_counted_by_what_they_are() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let collector = Collector::start(protocol, None).await;
        let running = start(config(at(collector.address, protocol)));
        collector.answer_next(Answer::Refused);
        running.until("a refusal", |running| running.requests("permanent") == 1).await;
        running.until("its loss", |running| running.dropped("export_failed") > 0).await;
        assert_eq!(running.requests("retryable"), 0, "what is refused for good is not tried again");
        collector.answer_next(Answer::Partial(1));
        running.until("a remark", |running| running.dropped("rejected") == 1).await;
        running.until("an export", |running| running.exported() > 0).await;
    }
}

#[tokio::test]
async fn what_cannot_work_is_said_at_start() {
    let registry = Registry::default();
    let base = at("127.0.0.1:1".parse().unwrap(), OtlpProtocol::Grpc);
    let endpoint = CollectorConfig { endpoint: "http://c/v1/metrics".to_owned(), ..base.clone() };
    let missing = CollectorConfig {
        endpoint: "https://c:4317".to_owned(),
        ca: Some(CaCertificates::File("/nonexistent/ca.pem".into())),
        ..base
    };
    for (way, part) in [(endpoint, "no path"), (missing, "/nonexistent/ca.pem")] {
        let Err(error) = MetricsExporter::new(config(way), &registry) else { panic!("accepted: {part}") };
        assert!(error.to_string().contains(part), "{error}");
    }
}
