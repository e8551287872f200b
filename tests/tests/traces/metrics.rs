//! Metrics as a collector gets them: by the names of the conventions, with the values that `/metrics` has; and nothing but
//! a counter shows that it does not take them.

use serde_json::json;
use weft_testbed::{Collector, Measured, Mesh, Pod, Result, Service, Sidecar, eventually, story};

use super::shop::SOON;

/// The bounds that the semantic conventions advise for `http.server.request.duration`.
const ADVISED: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// What a pod may have in its environment for the OpenTelemetry SDK of its application. None of it is the proxy's.
const OF_THE_APPLICATION: [(&str, &str); 9] = [
    ("OTEL_SERVICE_NAME", "not-the-proxy"),
    ("OTEL_RESOURCE_ATTRIBUTES", "service.name=not-the-proxy,of=the-application"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:1"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-application"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "3600000"),
    ("OTEL_SDK_DISABLED", "true"),
];

fn echo(mesh: &Mesh) -> Result<Pod> {
    let pod = mesh.pod("echo.shop").start()?;
    pod.app(8080)?;
    mesh.dns().set(Service::virtual_ip("echo.shop").port(80, 8080).on(&[&pod]))?;
    Ok(pod)
}

fn reporting(
    mesh: &Mesh,
    collector: &Collector,
    pod: &Pod,
    protocol: &str,
    timeout: &str,
) -> Result<Sidecar> {
    let mut metrics = collector.metrics_for(pod, protocol);
    metrics["otlp"]["timeout"] = json!(timeout);
    let sidecar = mesh.sidecar(pod)?.config(|yaml| {
        yaml["telemetry"]["metrics"] = metrics;
        yaml["telemetry"]["resource"] = json!({ "deployment.environment.name": "test" });
    });
    let told =
        OF_THE_APPLICATION.iter().fold(sidecar, |sidecar, (name, value)| sidecar.variable(name, value));
    told.start()
}

/// The series of a metric of one service that have a value of an attribute.
fn series<'a>(
    all: &'a [Measured],
    service: &str,
    name: &str,
    (attribute, value): (&str, &str),
) -> Vec<&'a Measured> {
    let wanted = |m: &&Measured| m.service == service && m.name == name && m.attribute(attribute) == value;
    all.iter().filter(wanted).collect()
}

fn count(all: &[Measured], service: &str, name: &str, of: (&str, &str)) -> f64 {
    series(all, service, name, of).iter().map(|m| m.value).sum()
}

const STATUS: &str = "http.response.status_code";
const CLIENT: &str = "http.client.request.duration";
const SERVER: &str = "http.server.request.duration";

#[test]
fn metrics_arrive_as_the_conventions_name_them() {
    story("metrics", |mesh| {
        let collector = mesh.collector()?;
        let (echo, browser) = (echo(mesh)?, mesh.pod("browser.shop").start()?);
        let sidecars = [
            reporting(mesh, collector, &echo, "grpc", "5s")?,
            reporting(mesh, collector, &browser, "http", "5s")?,
        ];
        // Whoever is not told to export does not.
        let silent = mesh.pod("silent.shop").start()?;
        let _unasked = mesh.sidecar(&silent)?.start()?;
        for _ in 0..5 {
            assert_eq!(browser.get("http://echo.shop/")?.status, 200);
        }
        assert_eq!(silent.get("http://echo.shop/")?.status, 200);
        assert_eq!(browser.get("http://echo.shop/status/503")?.status, 503);
        let all = collector.wait_for_metrics("the requests of both sides", |all| {
            count(all, "browser", CLIENT, (STATUS, "200")) >= 5.0
                && count(all, "browser", CLIENT, (STATUS, "503")) >= 1.0
                && count(all, "echo", SERVER, (STATUS, "200")) >= 6.0
                && count(all, "echo", SERVER, (STATUS, "503")) >= 1.0
        })?;
        the_client_side(&all);
        the_server_side(&all);
        the_process(&all);
        assert!(all.iter().all(|m| ["browser", "echo"].contains(&m.service.as_str())), "nobody else's");
        the_same_as_a_scrape(&sidecars[1], &all)?;
        // What was counted since the last export comes with the end of the process.
        assert_eq!(browser.get("http://echo.shop/status/418")?.status, 418);
        for sidecar in &sidecars {
            sidecar.sigterm();
            assert!(sidecar.wait_exit(SOON)?.success());
        }
        collector.wait_for_metrics("the last request", |all| {
            count(all, "echo", SERVER, (STATUS, "418")) >= 1.0
                && count(all, "browser", CLIENT, (STATUS, "418")) >= 1.0
        })?;
        Ok(())
    });
}

fn the_client_side(all: &[Measured]) {
    let answered = series(all, "browser", CLIENT, (STATUS, "200"));
    let [answered] = answered.as_slice() else { panic!("{answered:#?}") };
    assert_eq!((answered.kind, answered.unit.as_str(), answered.value), ("histogram", "s", 5.0));
    assert_eq!(answered.bounds, ADVISED);
    assert_eq!((answered.buckets.len(), answered.buckets.iter().sum::<u64>()), (15, 5));
    assert!(answered.sum > 0.0 && answered.sum < 60.0, "{}", answered.sum);
    assert!(0 < answered.start && answered.start < answered.time);
    assert_eq!(answered.attribute("http.request.method"), "GET");
    assert_eq!(answered.attribute("server.address"), "echo.shop.svc.cluster.local");
    assert_eq!(answered.attribute("server.port"), "80");
    assert_eq!(answered.attribute("network.protocol.version"), "1.1");
    assert_eq!(answered.attribute("weft.tls"), "mutual");
    assert_eq!(answered.attribute("weft.peer.identity"), "spiffe://weft.local/ns/shop/sa/echo");
    assert_eq!(answered.attribute("error.type"), "");
    assert_eq!(answered.resource["service.namespace"], "shop");
    assert_eq!(answered.resource["deployment.environment.name"], "test");
    assert!(!answered.resource.contains_key("of"), "{:?}", answered.resource);
    let failed = series(all, "browser", CLIENT, (STATUS, "503"));
    let [failed] = failed.as_slice() else { panic!("{failed:#?}") };
    assert_eq!((failed.attribute("error.type"), failed.value), ("503", 1.0));
}

fn the_server_side(all: &[Measured]) {
    for served in series(all, "echo", SERVER, (STATUS, "200")) {
        assert_eq!((served.kind, served.unit.as_str()), ("histogram", "s"));
        assert_eq!(served.attribute("url.scheme"), "http");
        assert_eq!(served.bounds, ADVISED);
    }
    let active = series(all, "echo", "http.server.active_requests", ("weft.tls", "mutual"));
    assert!(!active.is_empty());
    assert!(active.iter().all(|m| (m.kind, m.unit.as_str(), m.value) == ("sum", "{request}", 0.0)));
    let received = series(all, "echo", "weft.http_response_body", ("weft.direction", "inbound"));
    assert!(received.iter().all(|m| (m.kind, m.unit.as_str()) == ("sum that grows", "By")), "{received:?}");
    assert!(received.iter().map(|m| m.value).sum::<f64>() > 0.0);
}

fn the_process(all: &[Measured]) {
    let one = |name: &str| {
        let found = series(all, "browser", name, ("", ""));
        let [one] = found.as_slice() else { panic!("{name}: {found:?}") };
        (one.kind, one.unit.clone(), one.value)
    };
    let (kind, unit, memory) = one("process.memory.usage");
    assert_eq!((kind, unit.as_str()), ("sum", "By"));
    assert!(memory > 1e6, "{memory}");
    let (kind, unit, cpu) = one("process.cpu.time");
    assert_eq!((kind, unit.as_str()), ("sum that grows", "s"));
    assert!(cpu > 0.0, "{cpu}");
    assert_eq!(one("weft.config_version").0, "gauge");
}

fn the_same_as_a_scrape(sidecar: &Sidecar, all: &[Measured]) -> Result<()> {
    let scraped = sidecar.metrics()?;
    let label = [("http_response_status_code", "200")];
    assert_eq!(scraped.sum("http_client_request_duration_seconds_count", &label), 5.0);
    let seconds = scraped.sum("http_client_request_duration_seconds_sum", &label);
    let exported: f64 = series(all, "browser", CLIENT, (STATUS, "200")).iter().map(|m| m.sum).sum();
    assert!((seconds - exported).abs() < 1e-9, "{seconds} {exported}");
    Ok(())
}

#[test]
fn a_collector_that_is_away_costs_values_and_no_request() {
    story("metrics-outage", |mesh| {
        let collector = mesh.collector()?;
        let (echo, browser) = (echo(mesh)?, mesh.pod("browser.shop").start()?);
        let sidecars = [
            reporting(mesh, collector, &echo, "grpc", "500ms")?,
            reporting(mesh, collector, &browser, "http", "500ms")?,
        ];
        let lost = |sidecar: &Sidecar| -> Result<f64> {
            let why = [("reason", "export_failed")];
            Ok(sidecar.metrics()?.sum("weft_metric_points_dropped_total", &why))
        };
        // First it takes connections and answers nothing, then it is not there at all.
        let mut sent = 0.0;
        type Outage = (fn(&Collector), fn(&Collector) -> Result<()>);
        let outages: [Outage; 2] = [
            (Collector::pause, |collector| {
                collector.resume();
                Ok(())
            }),
            (Collector::stop, Collector::restart),
        ];
        for (outage, end) in outages {
            let before = sidecars.iter().map(lost).collect::<Result<Vec<_>>>()?;
            outage(collector);
            for (sidecar, before) in sidecars.iter().zip(before) {
                eventually("a loss that is counted", SOON, || {
                    assert_eq!(browser.get("http://echo.shop/")?.status, 200);
                    sent += 1.0;
                    Ok((lost(sidecar)? > before).then_some(()))
                })?;
                assert!(sidecar.log().contains("the collector does not take metrics"), "{}", sidecar.log());
            }
            end(collector)?;
        }
        let all =
            collector.wait_for_metrics("every request, counted while nobody took the counts", |all| {
                count(all, "browser", CLIENT, (STATUS, "200")) >= sent
                    && count(all, "echo", SERVER, (STATUS, "200")) >= sent
            })?;
        assert_eq!(count(&all, "browser", CLIENT, (STATUS, "200")), sent);
        Ok(())
    });
}
