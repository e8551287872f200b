//! A collection as OTLP messages.

use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_semantic_conventions::{SCHEMA_URL, attribute as semconv};
use prost::Message;

use super::names::{self, Instrument, Name};
use crate::metrics::{Buckets, Family, FamilyPoints, Kind, Number, Point, PointLabels, PointValue};
use crate::otlp::convert::{Attributes, scope};
use crate::span::unix_nanos;

/// A request is sent when it has grown to this size. gRPC servers take 4 MiB by default, and the last data point may be a
/// large one; and this is what the encoded form holds of memory at a time.
const REQUEST_SIZE: usize = 1 << 20;

/// The bounds that the semantic conventions advise for the durations of requests and calls, in nanoseconds. Each is one
/// of [`families::SECONDS`](crate::metrics::families::SECONDS), which has finer ones below.
const ADVISED: &[u64] = &[
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

/// The metrics of one moment, as requests that are made one after the other.
pub(super) struct Collection {
    resource: Resource,
    time: u64,
    left: VecDeque<Part>,
    points_left: u64,
}

/// The data points of one metric.
struct Part {
    name: Name,
    family: &'static Family,
    view: View,
    labels: Vec<(&'static str, String)>,
    points: std::vec::IntoIter<Point>,
}

/// As what a series is told: as it is, or as a gRPC call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Own,
    Call,
}

impl Collection {
    pub(super) fn new(resource: Resource, now: SystemTime, families: Vec<FamilyPoints>) -> Self {
        let mut left = VecDeque::with_capacity(families.len());
        for FamilyPoints { family, points } in families {
            let calls = names::of_calls(family).map(|name| {
                let of_calls = points.iter().filter(|point| is_call(family, point)).cloned().collect();
                Part::new(name, family, View::Call, of_calls)
            });
            left.push_back(Part::new(names::of(family), family, View::Own, points));
            left.extend(calls);
        }
        let points_left = left.iter().map(|part| part.points.len() as u64).sum();
        Self { resource, time: unix_nanos(now), left, points_left }
    }

    /// How many data points are in no request yet.
    pub(super) fn points_left(&self) -> u64 {
        self.points_left
    }

    /// The next request, encoded, and how many data points are in it.
    pub(super) fn next_request(&mut self) -> Option<(Bytes, u64)> {
        let (mut metrics, mut size, mut count) = (Vec::new(), 0, 0);
        while size < REQUEST_SIZE
            && let Some(part) = self.left.front_mut()
        {
            let mut metric = part.metric();
            while size < REQUEST_SIZE
                && let Some(point) = part.points.next()
            {
                size += part.add(&mut metric, &point, self.time);
                count += 1;
            }
            if part.points.len() == 0 {
                self.left.pop_front();
            }
            metrics.push(metric);
        }
        // A family that a collector began and had nothing for.
        metrics.retain(|metric| !is_empty(metric));
        if count == 0 {
            return None;
        }
        self.points_left = self.points_left.saturating_sub(count);
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope()),
                    metrics,
                    schema_url: SCHEMA_URL.to_owned(),
                }],
                schema_url: SCHEMA_URL.to_owned(),
            }],
        };
        Some((Bytes::from(request.encode_to_vec()), count))
    }
}

fn is_empty(metric: &Metric) -> bool {
    match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.is_empty(),
        Some(Data::Sum(sum)) => sum.data_points.is_empty(),
        Some(Data::Histogram(histogram)) => histogram.data_points.is_empty(),
        _ => true,
    }
}

fn label<'a>(family: &Family, point: &'a Point, name: &str) -> Option<&'a str> {
    let PointLabels::Are(values) = &point.labels else { return None };
    let at = family.labels.iter().position(|label| *label == name)?;
    values.get(at).map(|value| &**value).filter(|value| !value.is_empty())
}

fn is_call(family: &Family, point: &Point) -> bool {
    label(family, point, "rpc_response_status_code").is_some()
}

impl Part {
    fn new(name: Name, family: &'static Family, view: View, points: Vec<Point>) -> Self {
        // Of HTTP a call says nothing: that it travels by it is told by the HTTP metric.
        let told = |label: &str| {
            view == View::Own || !(label.starts_with("http_") || label.starts_with("network_protocol_"))
        };
        let labels = family.labels.iter().map(|label| {
            let name = if told(label) { names::attribute(label).into_owned() } else { String::new() };
            (*label, name)
        });
        Self { name, family, view, labels: labels.collect(), points: points.into_iter() }
    }

    /// The metric without its data points.
    fn metric(&self) -> Metric {
        let cumulative = AggregationTemporality::Cumulative as i32;
        let sum = |is_monotonic| {
            Data::Sum(Sum { data_points: Vec::new(), aggregation_temporality: cumulative, is_monotonic })
        };
        let data = match self.name.instrument {
            Instrument::Counter => sum(true),
            Instrument::UpDownCounter => sum(false),
            Instrument::Gauge => Data::Gauge(Gauge::default()),
            Instrument::Histogram => {
                Data::Histogram(Histogram { data_points: Vec::new(), aggregation_temporality: cumulative })
            }
        };
        let description = match self.view {
            View::Own => self.family.help.to_owned(),
            View::Call => format!("gRPC calls. {}", self.family.help),
        };
        Metric {
            name: self.name.name.clone().into_owned(),
            description,
            unit: self.name.unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        }
    }

    /// Puts a data point into the metric, and says how large it is.
    fn add(&self, metric: &mut Metric, point: &Point, time: u64) -> usize {
        let (attributes, since) = (self.attributes(point), unix_nanos(point.since));
        match (&mut metric.data, &point.value) {
            (Some(Data::Sum(Sum { data_points, .. })), PointValue::Number(number)) => {
                push(data_points, number_point(attributes, since, time, *number))
            }
            // The start of a gauge is of no meaning (opentelemetry-proto, NumberDataPoint).
            (Some(Data::Gauge(Gauge { data_points })), PointValue::Number(number)) => {
                push(data_points, number_point(attributes, 0, time, *number))
            }
            (Some(Data::Histogram(histogram)), PointValue::Histogram { counts, sum }) => {
                let Kind::Histogram(buckets) = self.family.kind else { return 0 };
                let advised = self.advised();
                let point = histogram_point(attributes, since, time, (counts, *sum), buckets, advised);
                push(&mut histogram.data_points, point)
            }
            _ => 0,
        }
    }

    /// The bounds that the conventions want for this metric, where they want any.
    fn advised(&self) -> Option<&'static [u64]> {
        let theirs = self.name.name.starts_with("http.") || self.name.name.starts_with("rpc.");
        theirs.then_some(ADVISED)
    }

    fn attributes(&self, point: &Point) -> Vec<KeyValue> {
        let mut out = Attributes(Vec::with_capacity(self.labels.len() + 2));
        let PointLabels::Are(values) = &point.labels else {
            // What the specification of the SDK calls the series that takes what is beyond its own limit.
            out.push("otel.metric.overflow", Value::BoolValue(true));
            return out.0;
        };
        for ((label, name), value) in self.labels.iter().zip(values.iter()) {
            match value.parse() {
                _ if name.is_empty() || value.is_empty() => {}
                Ok(status) if *label == "http_response_status_code" => out.int(name, status),
                _ => out.text(name, value),
            }
        }
        self.requirements(point, &mut out);
        out.0
    }

    /// What the conventions require of a metric and no label says.
    fn requirements(&self, point: &Point, out: &mut Attributes) {
        let name = &*self.name.name;
        if self.view == View::Call {
            out.text(semconv::RPC_SYSTEM_NAME, "grpc");
        }
        if name.starts_with("http.server.") {
            // As the application sees it: mutual TLS is the mesh's own affair.
            let tls = label(self.family, point, "tls") == Some("tls");
            out.text(semconv::URL_SCHEME, if tls { "https" } else { "http" });
        }
        if (name.starts_with("http.client.") || name.starts_with("rpc.client."))
            && let Some(service) = label(self.family, point, "destination_service")
        {
            let (address, port) = host_and_port(service);
            out.text(semconv::SERVER_ADDRESS, address);
            if let Some(port) = port {
                out.int(semconv::SERVER_PORT, port.into());
            }
        }
    }
}

/// `name:port`, `address:port` or `[address]:port` in two.
fn host_and_port(service: &str) -> (&str, Option<u16>) {
    let split = service.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match split {
        Some((host, port)) => {
            let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            (inner.unwrap_or(host), Some(port))
        }
        None => (service, None),
    }
}

fn push<T: Message>(points: &mut Vec<T>, point: T) -> usize {
    let size = point.encoded_len();
    points.push(point);
    size
}

fn number_point(attributes: Vec<KeyValue>, since: u64, time: u64, number: Number) -> NumberDataPoint {
    let value = match number {
        Number::Unsigned(n) => number_data_point::Value::AsInt(i64::try_from(n).unwrap_or(i64::MAX)),
        Number::Signed(n) => number_data_point::Value::AsInt(n),
        Number::Float(n) => number_data_point::Value::AsDouble(n),
    };
    NumberDataPoint {
        attributes,
        start_time_unix_nano: since,
        time_unix_nano: time,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn histogram_point(
    attributes: Vec<KeyValue>,
    since: u64,
    time: u64,
    (counts, sum): (&[u64], u64),
    buckets: &Buckets,
    advised: Option<&'static [u64]>,
) -> HistogramDataPoint {
    let bounds = advised.unwrap_or(buckets.bounds);
    let scale = buckets.scale as f64;
    HistogramDataPoint {
        attributes,
        start_time_unix_nano: since,
        time_unix_nano: time,
        count: counts.iter().sum(),
        sum: Some(sum as f64 / scale),
        bucket_counts: merged(counts, buckets.bounds, bounds),
        explicit_bounds: bounds.iter().map(|bound| *bound as f64 / scale).collect(),
        ..HistogramDataPoint::default()
    }
}

/// The counts of buckets by the bounds `fine` as counts by `coarse`, whose bounds are all among them.
fn merged(counts: &[u64], fine: &[u64], coarse: &[u64]) -> Vec<u64> {
    let mut merged = vec![0u64; coarse.len() + 1];
    let uppers = fine.iter().copied().chain([u64::MAX]);
    for (upper, count) in uppers.zip(counts) {
        let at = coarse.partition_point(|bound| *bound < upper);
        if let Some(to) = merged.get_mut(at) {
            *to = to.wrapping_add(*count);
        }
    }
    merged
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
