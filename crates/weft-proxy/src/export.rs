//! What the process sends to collectors: spans, and metrics.

use std::time::Duration;

use tokio::task::JoinHandle;
use weft_config::{OtlpProtocol, ProxyConfig};
use weft_core::Drain;
use weft_telemetry::{
    CollectorConfig, Exporter, MetricsConfig, MetricsExporter, Registry, ResourceConfig, SpanSink,
    TracingConfig,
};

use crate::error::ProxyError;

/// The exporters that are configured, before they run.
pub(crate) struct Exporters {
    spans: Option<Exporter>,
    metrics: Option<MetricsExporter>,
}

impl Exporters {
    /// Checks what is configured; and where workers put their spans.
    ///
    /// # Errors
    /// A collector cannot be reached as it is configured.
    pub(crate) fn new(
        config: &ProxyConfig,
        registry: &Registry,
    ) -> Result<(Option<SpanSink>, Self), ProxyError> {
        let telemetry = &config.telemetry;
        let (sink, spans) = match &telemetry.tracing {
            None => (None, None),
            Some(tracing) => {
                let export = TracingConfig {
                    collector: collector(&tracing.collector),
                    resource: resource(config),
                    sampling: config.snapshot.sampling,
                    queue: tracing.queue,
                    ..TracingConfig::default()
                };
                let (sink, exporter) = Exporter::new(export, registry)?;
                (Some(sink), Some(exporter))
            }
        };
        let metrics = telemetry.metrics.as_ref().map(|metrics| {
            let (collector, resource) = (collector(&metrics.collector), resource(config));
            let export = MetricsConfig { collector, resource, interval: metrics.interval };
            MetricsExporter::new(export, registry)
        });
        Ok((sink, Self { spans, metrics: metrics.transpose()? }))
    }

    /// Runs them until `drain` closes, and then for `last_flush` at the most.
    pub(crate) fn start(self, drain: &Drain, last_flush: Duration) -> Vec<JoinHandle<()>> {
        let spans = self.spans.map(|exporter| tokio::spawn(exporter.run(drain.clone(), last_flush)));
        let metrics = self.metrics.map(|exporter| tokio::spawn(exporter.run(drain.clone(), last_flush)));
        [spans, metrics].into_iter().flatten().collect()
    }
}

fn collector(config: &weft_config::CollectorConfig) -> CollectorConfig {
    CollectorConfig {
        endpoint: config.endpoint.clone(),
        protocol: match config.protocol {
            OtlpProtocol::Grpc => weft_telemetry::OtlpProtocol::Grpc,
            OtlpProtocol::Http => weft_telemetry::OtlpProtocol::Http,
        },
        headers: config.headers.clone(),
        timeout: config.timeout,
        ca: config.ca.clone(),
    }
}

fn resource(config: &ProxyConfig) -> ResourceConfig {
    let workload = &config.workload;
    let text = |value: Option<String>| value.unwrap_or_default();
    ResourceConfig {
        service_name: match &workload.service_account {
            Some(account) => account.to_string(),
            None => text(workload.name.clone()),
        },
        service_namespace: text(workload.namespace.as_ref().map(ToString::to_string)),
        service_instance: text(workload.name.clone()),
        attributes: config.telemetry.resource.clone().into_iter().collect(),
    }
}
