use std::time::Duration;

use ::http::{Method, Version};
use proptest::prelude::*;

use super::*;

static REQUESTS: Family = Family {
    name: "t_requests_total",
    help: "Say \"hi\".\nA\\b",
    kind: Kind::Counter,
    labels: &["to", "code"],
};
static OPEN: Family = Family { name: "t_open", help: "Open.", kind: Kind::Gauge, labels: &[] };
static SMALL: Buckets = Buckets { bounds: &[10, 20], le: &["0.01", "0.02"], scale: 1_000 };
static TIMES: Family =
    Family { name: "t_times_seconds", help: "Times.", kind: Kind::Histogram(&SMALL), labels: &["to"] };

fn text(registry: &Registry) -> String {
    let mut out = String::new();
    registry.encode(&mut out);
    out
}

#[test]
fn writes_the_text_format() {
    let registry = Registry::default();
    let shard = registry.shard();
    shard.counter(&REQUESTS, &["b\"\\\n", "200"]).add(3);
    shard.counter(&REQUESTS, &["a", ""]).inc();
    shard.gauge(&OPEN, &[]).add(-2);
    let times = shard.histogram(&TIMES, &["a"]);
    for value in [10, 11, 2_000] {
        times.record(value);
    }
    registry.register_collector(Box::new(|encoder| {
        encoder.family(&families::PROCESS_CPU).value(&[], 1.5);
    }));
    let expected = r#"# HELP t_open Open.
# TYPE t_open gauge
t_open -2
# HELP t_requests_total Say "hi".\nA\\b
# TYPE t_requests_total counter
t_requests_total{to="a"} 1
t_requests_total{to="b\"\\\n",code="200"} 3
# HELP t_times_seconds Times.
# TYPE t_times_seconds histogram
t_times_seconds_bucket{to="a",le="0.01"} 1
t_times_seconds_bucket{to="a",le="0.02"} 2
t_times_seconds_bucket{to="a",le="+Inf"} 3
t_times_seconds_sum{to="a"} 2.021
t_times_seconds_count{to="a"} 3
# HELP process_cpu_seconds_total User and system CPU time.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 1.5
"#;
    assert_eq!(text(&registry), expected);
}

#[test]
fn shards_written_by_threads_of_their_own_are_summed() {
    let registry = Registry::default();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let registry = registry.clone();
            std::thread::spawn(move || {
                let shard = registry.shard();
                let (counter, gauge) = (shard.counter(&REQUESTS, &["a", "200"]), shard.gauge(&OPEN, &[]));
                let times = shard.histogram(&TIMES, &["a"]);
                let everyone = registry.shared().counter(&REQUESTS, &["shared", ""]);
                for i in 0..10_000u64 {
                    counter.inc();
                    gauge.inc();
                    times.record(i % 30);
                    everyone.inc();
                    if i % 2 == 0 {
                        gauge.dec();
                    }
                }
            })
        })
        .collect();
    // Scrapes in between see rising values and never more buckets than counts.
    let mut last = 0;
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        let now = sample(&text(&registry), "t_requests_total{to=\"shared\"} ").unwrap_or(0);
        assert!(now >= last);
        last = now;
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
    let text = text(&registry);
    assert_eq!(sample(&text, "t_requests_total{to=\"a\",code=\"200\"} "), Some(40_000));
    assert_eq!(sample(&text, "t_requests_total{to=\"shared\"} "), Some(40_000));
    assert_eq!(sample(&text, "t_open "), Some(20_000));
    assert_eq!(sample(&text, "t_times_seconds_count{to=\"a\"} "), Some(40_000));
}

fn sample(text: &str, prefix: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(prefix)?.parse().ok())
}

#[test]
fn a_full_family_sends_new_labels_to_the_overflow_series() {
    let registry = Registry::new(2);
    let shard = registry.shard();
    let kept = [shard.counter(&REQUESTS, &["a", ""]), shard.counter(&REQUESTS, &["b", ""])];
    shard.counter(&REQUESTS, &["c", ""]).inc();
    shard.counter(&REQUESTS, &["d", ""]).inc();
    // A known series in another shard is no new series.
    registry.shard().counter(&REQUESTS, &["a", ""]).add(5);
    let text = text(&registry);
    assert!(text.contains("t_requests_total{overflow=\"true\"} 2\n"), "{text}");
    assert!(text.contains("t_requests_total{to=\"a\"} 5\n"), "{text}");
    assert!(!text.contains("to=\"c\""), "{text}");
    assert_eq!(sample(&text, "weft_metric_series_overflow_total "), Some(2));
    drop(kept);
}

#[test]
fn a_full_family_forgets_series_that_nobody_holds() {
    let registry = Registry::new(2);
    let shard = registry.shard();
    let held = shard.counter(&REQUESTS, &["held", ""]);
    shard.counter(&REQUESTS, &["gone", ""]).inc();
    shard.counter(&REQUESTS, &["new", ""]).inc();
    held.inc();
    let text = text(&registry);
    assert!(text.contains("to=\"held\"") && text.contains("to=\"new\"") && !text.contains("gone"), "{text}");
    assert_eq!(registry.overflowed(), 0);
}

#[test]
fn asking_twice_gives_the_same_cell() {
    let shard = Registry::default().shard();
    shard.counter(&REQUESTS, &["a", ""]).add(2);
    assert_eq!(shard.counter(&REQUESTS, &["a", ""]).get(), 2);
    assert_eq!(shard.counter(&REQUESTS, &["", "a"]).get(), 0);
}

#[test]
#[cfg(debug_assertions)]
fn two_writers_of_a_single_writer_cell_are_found_out() {
    let counter = Registry::default().shard().counter(&REQUESTS, &["a", ""]);
    counter.inc();
    assert!(std::thread::spawn(move || counter.inc()).join().is_err());
}

fn http_labels(direction: Direction) -> HttpLabels<'static> {
    HttpLabels {
        direction,
        source_workload: "shop/web",
        destination_service: "orders.shop:80",
        destination_workload: "",
        peer_identity: "spiffe://weft.local/ns/shop/sa/orders",
        protocol: Version::HTTP_2,
        tls: TlsLabel::Mutual,
    }
}

#[test]
fn http_series_split_by_method_and_status() {
    let registry = Registry::default();
    let series = registry.shard().http_series(&http_labels(Direction::Outbound));
    let end = |method: &Method, status, grpc_status| {
        series.begin();
        let duration = Duration::from_micros(300);
        series.end(&HttpOutcome { method, status, grpc_status, error: None, duration });
    };
    end(&Method::GET, 200, None);
    end(&Method::GET, 200, None);
    end(&Method::GET, 503, None);
    end(&Method::POST, 200, Some(14));
    end(&Method::POST, 200, Some(5));
    series.begin();
    series.end(&HttpOutcome {
        method: &Method::GET,
        status: 200,
        grpc_status: None,
        error: Some("upstream-reset"),
        duration: Duration::from_micros(300),
    });
    end(&Method::from_bytes(b"BREW").unwrap(), 0, None);
    // More combinations than slots: each still lands in its own series.
    for status in 400..430 {
        end(&Method::GET, status, None);
        end(&Method::GET, status, None);
    }
    series.begin();
    series.begin();
    series.abandon();
    series.request_bytes(7);
    let text = text(&registry);
    let base = "source_workload=\"shop/web\",destination_service=\"orders.shop:80\",\
        peer_identity=\"spiffe://weft.local/ns/shop/sa/orders\",network_protocol_version=\"2\",tls=\"mutual\"";
    let count =
        |rest: &str| sample(&text, &format!("http_client_request_duration_seconds_count{{{base},{rest}}} "));
    assert_eq!(count(r#"http_request_method="GET",http_response_status_code="200""#), Some(2));
    assert_eq!(
        count(r#"http_request_method="GET",http_response_status_code="503",error_type="503""#),
        Some(1)
    );
    let grpc = r#"http_request_method="POST",http_response_status_code="200",rpc_response_status_code="UNAVAILABLE",error_type="UNAVAILABLE""#;
    assert_eq!(count(grpc), Some(1));
    let not_found =
        r#"http_request_method="POST",http_response_status_code="200",rpc_response_status_code="NOT_FOUND""#;
    assert_eq!(count(not_found), Some(1), "an answer, and no failure");
    let cut = r#"http_request_method="GET",http_response_status_code="200",error_type="upstream-reset""#;
    assert_eq!(count(cut), Some(1), "an answer that was cut short has its status and is a failure");
    assert_eq!(count(r#"http_request_method="_OTHER""#), Some(1));
    for status in 400..430 {
        let rest = format!(r#"http_request_method="GET",http_response_status_code="{status}""#);
        assert_eq!(count(&rest), Some(2));
    }
    assert_eq!(sample(&text, &format!("http_client_active_requests{{{base}}} ")), Some(1));
    let bytes = format!("weft_http_request_body_bytes_total{{direction=\"outbound\",{base}}} ");
    assert_eq!(sample(&text, &bytes), Some(7));
    let bucket = format!(
        "http_client_request_duration_seconds_bucket{{{base},http_request_method=\"GET\",\
         http_response_status_code=\"200\",le=\"0.0005\"}} "
    );
    assert_eq!(sample(&text, &bucket), Some(2));
}

#[test]
fn tcp_series_and_codes() {
    let registry = Registry::default();
    let shard = registry.shard();
    let labels = TcpLabels {
        direction: Direction::Inbound,
        source_workload: "",
        destination_service: "redis:6379",
        peer_identity: "",
        tls: TlsLabel::None,
    };
    let series = shard.tcp_series(&labels);
    series.open();
    series.open();
    series.sent(10);
    series.received(20);
    series.close(Duration::from_secs(2));
    let errors = CodeCounters::new(&shard, &families::ERRORS, &["inbound"]);
    errors.inc("connect_failed");
    errors.inc("connect_failed");
    let text = text(&registry);
    let base = "direction=\"inbound\",destination_service=\"redis:6379\",tls=\"none\"";
    for (name, value) in [
        ("weft_tcp_connections_opened_total", 2),
        ("weft_tcp_connections_closed_total", 1),
        ("weft_tcp_connections_active", 1),
        ("weft_tcp_sent_bytes_total", 10),
        ("weft_tcp_received_bytes_total", 20),
        ("weft_tcp_connection_duration_seconds_sum", 2),
    ] {
        assert_eq!(sample(&text, &format!("{name}{{{base}}} ")), Some(value), "{name}");
    }
    let errors = "weft_errors_total{direction=\"inbound\",code=\"connect_failed\"} ";
    assert_eq!(sample(&text, errors), Some(2));
}

#[test]
fn bounds_rise_and_are_written_as_they_are() {
    for buckets in [&families::SECONDS, &families::LIFETIME_SECONDS] {
        assert!(buckets.bounds.is_sorted_by(|a, b| a < b));
        assert_eq!(buckets.bounds.len(), buckets.le.len());
        for (bound, le) in buckets.bounds.iter().zip(buckets.le) {
            let seconds: f64 = le.parse().unwrap();
            assert_eq!((seconds * buckets.scale as f64).round() as u64, *bound, "{le}");
        }
    }
}

/// The reference has a table row `| `name` | type | labels | ... |` for each family; a family that is not there, or has
/// another type or other labels there, fails.
#[test]
fn the_reference_lists_every_family() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/metrics.md");
    let reference = std::fs::read_to_string(path).unwrap();
    let mut names = std::collections::HashSet::new();
    for family in families::ALL {
        assert!(names.insert(family.name), "{} is there twice", family.name);
        let row = reference
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", family.name)))
            .unwrap_or_else(|| panic!("docs/reference/metrics.md has no row for {}", family.name));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        assert_eq!(cells[2], kind, "{}", family.name);
        let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
        let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
        let listed = match cells[4] {
            "the HTTP labels" => http_set(family.labels, &[]),
            "`direction`, the HTTP labels" => http_set(family.labels, &["direction"]),
            "the TCP labels" => family.labels == families::TCP_OPENED.labels,
            "the HTTP labels, `http_request_method`, `http_response_status_code`, `rpc_response_status_code`, `error_type`" => {
                family.labels == families::HTTP_SERVER_REQUEST_DURATION.labels
            }
            listed => listed == labels,
        };
        assert!(listed, "{}: labels are {labels}, the reference says {}", family.name, cells[4]);
    }
    for line in reference.lines() {
        if let Some(name) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next())
            && (name.starts_with("weft_") || name.starts_with("http_") || name.starts_with("process_"))
            && name != "http_request_method"
            && name != "http_response_status_code"
        {
            assert!(names.contains(name), "the reference lists {name}, which does not exist");
        }
    }
}

fn http_set(labels: &[&str], before: &[&str]) -> bool {
    labels == [before, families::HTTP_SERVER_ACTIVE_REQUESTS.labels].concat()
}

proptest! {
    #[test]
    fn a_histogram_counts_as_a_list_would(values in prop::collection::vec(0u64..20_000_000_000, 0..200)) {
        let registry = Registry::default();
        let shards = [registry.shard(), registry.shard()];
        let family = &families::HANDSHAKE_DURATION;
        let handles = shards.each_ref().map(|s| s.histogram(family, &["inbound"]));
        for (i, value) in values.iter().enumerate() {
            handles[i % 2].observe(Duration::from_nanos(*value));
        }
        let text = text(&registry);
        let name = "weft_mtls_handshake_duration_seconds";
        for (bound, le) in families::SECONDS.bounds.iter().zip(families::SECONDS.le) {
            let expected = values.iter().filter(|v| *v <= bound).count() as u64;
            let line = format!("{name}_bucket{{direction=\"inbound\",le=\"{le}\"}} ");
            prop_assert_eq!(sample(&text, &line), Some(expected));
        }
        let count = sample(&text, &format!("{name}_count{{direction=\"inbound\"}} "));
        prop_assert_eq!(count, Some(values.len() as u64));
        let sum = text.lines().find_map(|l| l.strip_prefix(&format!("{name}_sum{{direction=\"inbound\"}} "))).unwrap();
        prop_assert_eq!(nanos(sum), values.iter().sum::<u64>());
    }

    #[test]
    fn any_label_value_keeps_a_sample_on_one_line(value in ".*") {
        let registry = Registry::default();
        registry.shard().counter(&REQUESTS, &["x", &value]).inc();
        let text = text(&registry);
        prop_assert_eq!(text.matches('\n').count(), 3);
        let end = text.ends_with("} 1\n");
        prop_assert!(end);
    }
}

/// The exact value of a decimal number of seconds, read without floating point.
fn nanos(text: &str) -> u64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    whole.parse::<u64>().unwrap() * 1_000_000_000 + format!("{fraction:0<9}").parse::<u64>().unwrap()
}
