//! Metrics as the collector wrote them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::collector::{Collector, array, attributes};
use crate::wait::eventually;

/// One data point.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// `service.name` of the resource.
    pub service: String,
    /// The other attributes of the resource.
    pub resource: BTreeMap<String, String>,
    /// The metric.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// `gauge`, `sum`, `sum that grows` or `histogram`; a sum or histogram that is not cumulative is none of these.
    pub kind: &'static str,
    /// The data point's attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// The value; of a histogram the count.
    pub value: f64,
    /// Of a histogram.
    pub sum: f64,
    /// Of a histogram.
    pub bounds: Vec<f64>,
    /// Of a histogram.
    pub buckets: Vec<u64>,
    /// Since when it counts, in ns since 1970.
    pub start: u64,
    /// Of when it is, in ns since 1970.
    pub time: u64,
}

impl Measured {
    /// An attribute, or "".
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

impl Collector {
    /// `telemetry.metrics` of `weft.yaml` for a pod: every second, over `protocol` (`grpc` or `http`).
    pub fn metrics_for(&self, pod: &crate::Pod, protocol: &str) -> Value {
        let endpoint = if protocol == "http" { self.http_for(pod) } else { self.grpc_for(pod) };
        serde_json::json!({ "otlp": { "endpoint": endpoint, "protocol": protocol, "interval": "1s" } })
    }

    /// The last value of each series that has arrived.
    ///
    /// # Errors
    /// The file has a complete line that is not OTLP JSON.
    pub fn metrics(&self) -> Result<Vec<Measured>> {
        let text = std::fs::read_to_string(self.metrics_file()).unwrap_or_default();
        // The last line may be half written.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut last: BTreeMap<(String, String, BTreeMap<String, String>), Measured> = BTreeMap::new();
        for line in complete.lines() {
            for point in read_line(&serde_json::from_str(line).context("the collector's file")?)? {
                let series = (point.service.clone(), point.name.clone(), point.attributes.clone());
                last.insert(series, point);
            }
        }
        Ok(last.into_values().collect())
    }

    /// Waits until `enough` is true of the last values.
    ///
    /// # Errors
    /// 20 s pass; the error lists what did arrive.
    pub fn wait_for_metrics(
        &self,
        what: &str,
        enough: impl Fn(&[Measured]) -> bool,
    ) -> Result<Vec<Measured>> {
        eventually(what, crate::collector::ARRIVAL, || {
            let metrics = self.metrics()?;
            Ok(enough(&metrics).then_some(metrics))
        })
        .with_context(|| {
            let line = |m: &Measured| format!("  {} {} {:?} {}", m.service, m.name, m.attributes, m.value);
            let metrics = self.metrics().unwrap_or_default();
            let requests = metrics.iter().filter(|m| m.name.starts_with("http."));
            let lines: Vec<String> = requests.map(line).collect();
            format!("{} series arrived, those of HTTP:\n{}", metrics.len(), lines.join("\n"))
        })
    }
}

/// One `ExportMetricsServiceRequest` in OTLP's JSON encoding.
fn read_line(line: &Value) -> Result<Vec<Measured>> {
    let mut points = Vec::new();
    for of in array(&line["resourceMetrics"]) {
        let mut resource = attributes(&of["resource"]["attributes"]);
        let service = resource.remove("service.name").unwrap_or_default();
        for metric in array(&of["scopeMetrics"]).iter().flat_map(|scope| array(&scope["metrics"])) {
            let text = |key: &str| metric[key].as_str().unwrap_or_default().to_owned();
            // CUMULATIVE of opentelemetry/proto/metrics/v1/metrics.proto.
            let cumulative = |data: &Value| data["aggregationTemporality"].as_u64() == Some(2);
            let (kind, data) = if metric["gauge"].is_object() {
                ("gauge", &metric["gauge"])
            } else if cumulative(&metric["histogram"]) {
                ("histogram", &metric["histogram"])
            } else if cumulative(&metric["sum"]) {
                let grows = metric["sum"]["isMonotonic"].as_bool() == Some(true);
                (if grows { "sum that grows" } else { "sum" }, &metric["sum"])
            } else {
                anyhow::bail!("a metric of an unexpected kind: {metric}");
            };
            for point in array(&data["dataPoints"]) {
                points.push(Measured {
                    service: service.clone(),
                    resource: resource.clone(),
                    name: text("name"),
                    unit: text("unit"),
                    kind,
                    attributes: attributes(&point["attributes"]),
                    value: number(&point["asInt"])
                        .or_else(|| number(&point["asDouble"]))
                        .or_else(|| number(&point["count"]))
                        .unwrap_or_default(),
                    sum: number(&point["sum"]).unwrap_or_default(),
                    bounds: array(&point["explicitBounds"]).iter().filter_map(number).collect(),
                    buckets: array(&point["bucketCounts"]).iter().filter_map(whole).collect(),
                    start: whole(&point["startTimeUnixNano"]).unwrap_or_default(),
                    time: whole(&point["timeUnixNano"]).unwrap_or_default(),
                });
            }
        }
    }
    Ok(points)
}

/// 64-bit numbers are texts in protobuf's JSON.
fn whole(value: &Value) -> Option<u64> {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64())
}

fn number(value: &Value) -> Option<f64> {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_f64())
}
