//! Everything that a process sends to collectors.

use std::time::Duration;

use tokio::task::JoinHandle;
use weft_core::Drain;

use super::{Exporter, MetricsConfig, MetricsExporter, TracingConfig};
use crate::TelemetryError;
use crate::metrics::Registry;
use crate::span::SpanSink;

/// The exporters that are configured, before they run.
pub struct Exporters {
    spans: Option<Exporter>,
    metrics: Option<MetricsExporter>,
}

impl Exporters {
    /// Checks what is configured; and where finished spans go, if anywhere.
    ///
    /// Must be called inside a tokio runtime, because gRPC channels start their tasks at once.
    ///
    /// # Errors
    /// A collector cannot be reached as it is configured.
    pub fn new(
        tracing: Option<TracingConfig>,
        metrics: Option<MetricsConfig>,
        registry: &Registry,
    ) -> Result<(Option<SpanSink>, Self), TelemetryError> {
        let (sink, spans) = tracing.map(|tracing| Exporter::new(tracing, registry)).transpose()?.unzip();
        let metrics = metrics.map(|metrics| MetricsExporter::new(metrics, registry)).transpose()?;
        Ok((sink, Self { spans, metrics }))
    }

    /// Runs them until `drain` closes, and then for `last_flush` at the most.
    pub fn start(self, drain: &Drain, last_flush: Duration) -> Vec<JoinHandle<()>> {
        let spans = self.spans.map(|exporter| tokio::spawn(exporter.run(drain.clone(), last_flush)));
        let metrics = self.metrics.map(|exporter| tokio::spawn(exporter.run(drain.clone(), last_flush)));
        [spans, metrics].into_iter().flatten().collect()
    }
}
