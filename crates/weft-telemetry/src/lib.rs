//! What the mesh tells about itself: metrics, trace context, spans and their OTLP export, access log.
//!
//! Telemetry is on for every request, so its price is paid by every request. Hence the rules here: a request touches
//! only handles that were found before it came (no lock, hash, allocation or formatting), an unsampled request makes no
//! span, and whatever leaves the worker leaves as one owned record over a bounded channel. A slow or dead collector, disk
//! or scraper never delays a request: what does not fit is dropped, and the drop is counted.
//!
//! - [`metrics`]: a registry of worker-sharded series, Prometheus text, and the catalogue of every family.
//! - [`trace`]: W3C and B3 context, ids, sampling.
//! - [`span`] and [`otlp`]: one record per sampled request, and its way to a collector; metrics have it as well.
//! - [`ServerSpans`]: the same for services that the process itself offers.
//! - [`access`]: JSON lines.
//! - [`pages`]: the HTTP server of `/metrics`, probes and admin pages.

pub mod access;
pub mod error;
pub mod metrics;
pub mod otlp;
pub mod pages;
mod server;
pub mod span;
pub mod trace;

pub use access::{AccessLog, AccessLogMode, AccessRecord};
pub use error::TelemetryError;
pub use metrics::{Counter, Gauge, Histogram, HttpSeries, Registry, Shard, TcpSeries};
pub use otlp::{
    CollectorConfig, Exporter, Exporters, MetricsConfig, MetricsExporter, OtlpProtocol, ResourceConfig,
    TracingConfig,
};
pub use pages::serve_pages;
pub use server::{ServerSpan, ServerSpans, asked_for};
pub use span::{Grpc, SpanKind, SpanRecord, SpanSink};
pub use trace::{Sampler, TraceContext, Tracer};
