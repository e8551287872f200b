//! What the process sends to collectors: spans, and metrics, as it is configured.

use weft_config::{OtlpProtocol, ProxyConfig};
use weft_telemetry::{
    CollectorConfig, Exporters, MetricsConfig, Registry, ResourceConfig, SpanSink, TelemetryError,
    TracingConfig,
};

/// Checks what is configured; and where workers put their spans.
///
/// # Errors
/// A collector cannot be reached as it is configured.
pub(crate) fn exporters(
    config: &ProxyConfig,
    registry: &Registry,
) -> Result<(Option<SpanSink>, Exporters), TelemetryError> {
    let telemetry = &config.telemetry;
    let tracing = telemetry.tracing.as_ref().map(|tracing| TracingConfig {
        collector: collector(&tracing.collector),
        resource: resource(config),
        sampling: config.snapshot.sampling,
        queue: tracing.queue,
        ..TracingConfig::default()
    });
    let metrics = telemetry.metrics.as_ref().map(|metrics| {
        let (collector, resource) = (collector(&metrics.collector), resource(config));
        MetricsConfig { collector, resource, interval: metrics.interval }
    });
    Exporters::new(tracing, metrics, registry)
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
