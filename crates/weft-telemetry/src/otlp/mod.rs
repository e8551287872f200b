//! Spans and metrics to a collector by OTLP (opentelemetry-proto 1.x), over gRPC or HTTP.
//!
//! The exporters run on the control thread and own everything that can wait: the connection, retries, back-off. Workers
//! only ever see the queue's sender ([`crate::SpanSink`]) and their own counters. Memory is bounded: by the queue plus one
//! batch, and by one collection. The OTLP messages are built straight from [`crate::SpanRecord`] and from the registry;
//! `docs/design/telemetry.md` says why not by the OpenTelemetry SDK.

mod client;
mod config;
mod convert;
mod delivery;
mod exporter;
mod exporters;
mod metrics;
mod tls;

pub use config::{CollectorConfig, MetricsConfig, OtlpProtocol, ResourceConfig, TracingConfig};
pub use exporter::Exporter;
pub use exporters::Exporters;
pub use metrics::MetricsExporter;

#[cfg(test)]
mod tests;
