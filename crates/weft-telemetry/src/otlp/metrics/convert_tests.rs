use std::time::Duration;

use ::http::{Method, Version};

use super::*;
use crate::Registry;
use crate::metrics::{Direction, HttpLabels, HttpOutcome, TlsLabel, families};
use crate::otlp::tests::{attribute, int, text};

fn labels(direction: Direction) -> HttpLabels<'static> {
    HttpLabels {
        direction,
        source_workload: "shop/web",
        destination_service: "orders.shop:8080",
        destination_workload: "",
        peer_identity: "spiffe://weft.local/ns/shop/sa/orders",
        protocol: Version::HTTP_2,
        tls: TlsLabel::Mutual,
    }
}

/// All requests of a collection, read again.
fn collected(registry: &Registry) -> Vec<ExportMetricsServiceRequest> {
    let now = SystemTime::now();
    let mut collection = Collection::new(Resource::default(), now, registry.points());
    let (all, mut told, mut requests) = (collection.points_left(), 0, Vec::new());
    while let Some((body, points)) = collection.next_request() {
        told += points;
        let request = ExportMetricsServiceRequest::decode(body).unwrap();
        assert_eq!(metrics(std::slice::from_ref(&request)).iter().map(points_of).sum::<u64>(), points);
        requests.push(request);
    }
    assert_eq!((told, collection.points_left()), (all, 0));
    requests
}

fn metrics(requests: &[ExportMetricsServiceRequest]) -> Vec<Metric> {
    let scopes = requests.iter().flat_map(|r| &r.resource_metrics).flat_map(|r| &r.scope_metrics);
    scopes.flat_map(|s| s.metrics.clone()).collect()
}

fn points_of(metric: &Metric) -> u64 {
    let count = match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        other => panic!("{other:?}"),
    };
    count as u64
}

fn named(metrics: &[Metric], name: &str) -> Metric {
    let found: Vec<_> = metrics.iter().filter(|metric| metric.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {:?}", metrics.iter().map(|m| &m.name).collect::<Vec<_>>());
    found[0].clone()
}

fn histogram(metrics: &[Metric], name: &str) -> Histogram {
    let metric = named(metrics, name);
    assert_eq!(metric.unit, "s");
    match metric.data {
        Some(Data::Histogram(histogram)) => histogram,
        other => panic!("{name} is {other:?}"),
    }
}

fn sum(metrics: &[Metric], name: &str) -> Sum {
    match named(metrics, name).data {
        Some(Data::Sum(sum)) => sum,
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn durations_have_the_attributes_and_bounds_of_the_conventions() {
    let registry = Registry::default();
    let series = registry.shard().http_series(&labels(Direction::Outbound));
    for micros in [300, 4_900, 5_000, 5_001, 20_000_000] {
        series.begin();
        series.end(&HttpOutcome {
            method: &Method::GET,
            status: 503,
            grpc_status: None,
            error: None,
            duration: Duration::from_micros(micros),
        });
    }
    let metrics = metrics(&collected(&registry));
    let durations = histogram(&metrics, "http.client.request.duration");
    assert_eq!(durations.aggregation_temporality, AggregationTemporality::Cumulative as i32);
    let [point] = durations.data_points.as_slice() else { panic!("{durations:?}") };
    let advised = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
    assert_eq!(point.explicit_bounds, advised);
    assert_eq!(point.bucket_counts, [3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!((point.count, point.sum), (5, Some(20.015_201)));
    assert!(point.start_time_unix_nano > 0 && point.start_time_unix_nano <= point.time_unix_nano);
    let attributes = &point.attributes;
    assert_eq!(text(attributes, "http.request.method"), Some("GET"));
    assert_eq!(int(attributes, "http.response.status_code"), Some(503));
    assert_eq!(text(attributes, "error.type"), Some("503"));
    assert_eq!(text(attributes, "network.protocol.version"), Some("2"));
    assert_eq!(text(attributes, "server.address"), Some("orders.shop"));
    assert_eq!(int(attributes, "server.port"), Some(8080));
    assert_eq!(text(attributes, "weft.source.workload"), Some("shop/web"));
    assert_eq!(text(attributes, "weft.destination.service"), Some("orders.shop:8080"));
    assert_eq!(text(attributes, "weft.peer.identity"), Some("spiffe://weft.local/ns/shop/sa/orders"));
    assert_eq!(text(attributes, "weft.tls"), Some("mutual"));
    assert_eq!(attribute(attributes, "weft.destination.workload"), None, "an empty label is none");
    assert_eq!(attribute(attributes, "rpc.system.name"), None);
    assert!(!metrics.iter().any(|metric| metric.name.starts_with("rpc.")), "there was no call");

    let active = sum(&metrics, "http.client.active_requests");
    assert!(!active.is_monotonic);
    assert_eq!(named(&metrics, "http.client.active_requests").unit, "{request}");
    let bytes = sum(&metrics, "weft.http_request_body");
    assert!(bytes.is_monotonic);
    assert_eq!(named(&metrics, "weft.http_request_body").unit, "By");
    assert_eq!(text(&bytes.data_points[0].attributes, "weft.direction"), Some("outbound"));
}

#[test]
fn calls_are_there_as_calls_too() {
    let registry = Registry::default();
    let series = registry.shard().http_series(&labels(Direction::Inbound));
    for grpc_status in [None, Some(0), Some(14)] {
        series.begin();
        let duration = Duration::from_millis(2);
        series.end(&HttpOutcome { method: &Method::POST, status: 200, grpc_status, error: None, duration });
    }
    let metrics = metrics(&collected(&registry));
    assert_eq!(histogram(&metrics, "http.server.request.duration").data_points.len(), 3);
    let calls = histogram(&metrics, "rpc.server.call.duration").data_points;
    assert_eq!(calls.len(), 2);
    let failed = calls.iter().find(|call| text(&call.attributes, "error.type").is_some()).unwrap();
    assert_eq!(text(&failed.attributes, "rpc.response.status_code"), Some("UNAVAILABLE"));
    for call in &calls {
        assert_eq!(text(&call.attributes, "rpc.system.name"), Some("grpc"));
        assert_eq!(call.count, 1);
        let of_http = |a: &KeyValue| a.key.starts_with("http.") || a.key.starts_with("network.");
        assert!(!call.attributes.iter().any(of_http), "{call:?}");
    }
    let served = &histogram(&metrics, "http.server.request.duration").data_points[0].attributes;
    assert_eq!(text(served, "url.scheme"), Some("http"), "mutual TLS is no affair of the application");
    assert_eq!(attribute(served, "server.address"), None);
}

#[test]
fn our_own_metrics_keep_what_they_are() {
    let registry = Registry::new(1);
    let shard = registry.shard();
    let known = shard.counter(&families::ERRORS, &["inbound", "a"]);
    shard.counter(&families::ERRORS, &["inbound", "b"]).add(3);
    shard.histogram(&families::HANDSHAKE_DURATION, &["inbound"]).observe(Duration::from_micros(200));
    registry.register_collector(Box::new(|encoder| {
        encoder.family(&families::CERT_NOT_AFTER).value(&["spiffe://a/b"], 1_700_000_000_u64);
        encoder.family(&families::PROCESS_CPU).value(&[], 1.5);
        encoder.family(&families::ENDPOINTS);
    }));
    let metrics = metrics(&collected(&registry));
    let errors = sum(&metrics, "weft.errors").data_points;
    assert_eq!(errors.len(), 2);
    let beyond = errors.iter().find(|e| attribute(&e.attributes, "otel.metric.overflow").is_some()).unwrap();
    assert_eq!(beyond.value, Some(number_data_point::Value::AsInt(3)));
    assert_eq!(beyond.attributes.len(), 1);
    let handshakes = histogram(&metrics, "weft.mtls_handshake_duration").data_points;
    assert_eq!(handshakes[0].explicit_bounds.len(), families::SECONDS.bounds.len(), "with the fine ones");
    assert_eq!(handshakes[0].bucket_counts[1], 1);
    let Some(Data::Gauge(expiry)) = named(&metrics, "weft.certificate_expiry_timestamp").data else {
        panic!("a gauge")
    };
    assert_eq!(expiry.data_points[0].value, Some(number_data_point::Value::AsInt(1_700_000_000)));
    assert_eq!(expiry.data_points[0].start_time_unix_nano, 0);
    let cpu = sum(&metrics, "process.cpu.time").data_points;
    assert_eq!(cpu[0].value, Some(number_data_point::Value::AsDouble(1.5)));
    assert!(cpu[0].start_time_unix_nano > 0);
    assert!(!metrics.iter().any(|metric| metric.name == "weft.endpoints"), "a metric without points is none");
    drop(known);
}

#[test]
fn a_large_collection_is_cut_into_requests_that_a_server_takes() {
    let registry = Registry::default();
    let shard = registry.shard();
    let peers: Vec<_> = (0..2_000)
        .map(|n| {
            let peer = format!("spiffe://weft.local/ns/shop/sa/{n:0400}");
            let labels = HttpLabels { peer_identity: &peer, ..labels(Direction::Inbound) };
            let series = shard.http_series(&labels);
            series.begin();
            series.end(&HttpOutcome {
                method: &Method::GET,
                status: 200,
                grpc_status: None,
                error: None,
                duration: Duration::from_millis(1),
            });
            series
        })
        .collect();
    let requests = collected(&registry);
    assert!(requests.len() >= 4, "{}", requests.len());
    for request in &requests {
        assert!(request.encoded_len() < 2 << 20, "gRPC servers take 4 MiB: {}", request.encoded_len());
    }
    let durations = |m: &&Metric| m.name == "http.server.request.duration";
    let all = metrics(&requests);
    assert_eq!(all.iter().filter(durations).map(points_of).sum::<u64>(), 2_000);
    drop(peers);
}

#[test]
fn a_series_that_comes_back_begins_anew() {
    let registry = Registry::new(1);
    let shard = registry.shard();
    let start = |code: &str| {
        let counter = shard.counter(&families::ERRORS, &["inbound", code]);
        counter.inc();
        drop(counter);
        sum(&metrics(&collected(&registry)), "weft.errors").data_points[0].clone()
    };
    let (first, _, again) = (start("a"), start("b"), start("a"));
    assert_eq!(again.value, Some(number_data_point::Value::AsInt(1)));
    assert!(again.start_time_unix_nano > first.start_time_unix_nano);
}

#[test]
fn the_advised_bounds_are_among_ours() {
    let ours = families::SECONDS.bounds;
    assert!(ADVISED.iter().all(|bound| ours.contains(bound)) && ours.ends_with(ADVISED));
    assert_eq!(merged(&[1, 2, 3, 4], &[10, 20, 30], &[20]), [3, 7]);
    assert_eq!(merged(&[1, 2, 3, 4], &[10, 20, 30], &[10, 20, 30]), [1, 2, 3, 4]);
}

#[test]
fn a_service_is_taken_apart() {
    assert_eq!(host_and_port("orders.shop:80"), ("orders.shop", Some(80)));
    assert_eq!(host_and_port("[fd00::1]:443"), ("fd00::1", Some(443)));
    assert_eq!(host_and_port("10.0.0.1:9"), ("10.0.0.1", Some(9)));
    assert_eq!(host_and_port("orders"), ("orders", None));
    assert_eq!(host_and_port("a:b"), ("a:b", None));
}
