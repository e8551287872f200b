//! Spans to a collector by OTLP (opentelemetry-proto 1.x), over gRPC or HTTP.
//!
//! The exporter runs on the control thread and owns everything that can wait: the connection, retries, back-off. Workers
//! only ever see the queue's sender ([`crate::SpanSink`]). Memory is bounded by the queue plus one batch. The OTLP
//! messages are built straight from [`crate::SpanRecord`]; the OpenTelemetry SDK would need a second, heavier record
//! between the two, and hides how many spans were lost and why.

mod client;
mod config;
mod convert;
mod exporter;
mod tls;

pub use config::{OtlpProtocol, TracingConfig};
pub use exporter::Exporter;

#[cfg(test)]
mod tests;
