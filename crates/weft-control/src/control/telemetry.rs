//! What `weft control` sends to collectors, by the section `telemetry`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use weft_config::{ExportConfig, Origin, OtlpProtocol, Problem, ProblemKind};
use weft_core::DrainTrigger;
use weft_telemetry::{
    CollectorConfig, Exporters, MetricsConfig, Registry, ResourceConfig, Sampler, ServerSpans,
    TelemetryError, TracingConfig,
};

use super::config::ControlConfig;
use crate::KubeError;
use crate::names::CONTROL;

/// How long the last spans and metrics may take at the end.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// Reads the section as a proxy reads its own.
pub(super) fn read(path: &Path, text: &str) -> Result<ExportConfig, KubeError> {
    ExportConfig::from_section_of(path, text).map_err(|errors| {
        let mut problems = errors.problems.iter();
        let first = problems.next();
        let line = first.and_then(|problem| match problem.origin {
            Origin::File { line, .. } => Some(u64::from(line)),
            Origin::Env(_) | Origin::Flag(_) | Origin::Default => None,
        });
        let field = first.map(|problem| problem.field.clone()).unwrap_or_default();
        let reason = first.map(told).unwrap_or_default();
        let reason = problems.fold(reason, |all, one| format!("{all}; {}: {}", one.field, told(one)));
        KubeError::Config { path: path.to_owned(), line, field, reason }
    })
}

fn told(problem: &Problem) -> String {
    match problem.kind {
        // The cure of a proxy's reader is a variable, which there is none of here.
        ProblemKind::Missing => problem.reason.clone(),
        _ if problem.cure.is_empty() => problem.reason.clone(),
        _ => format!("{}; {}", problem.reason, problem.cure),
    }
}

/// The exporters, before they run.
pub(super) struct Telemetry {
    exporters: Exporters,
    /// What CA and injector make their spans with.
    pub(super) spans: ServerSpans,
}

/// The exporters at work.
pub(super) struct Exporting {
    trigger: DrainTrigger,
    tasks: Vec<JoinHandle<()>>,
}

impl Telemetry {
    /// Checks what is configured. Nothing is sent or connected before [`Telemetry::start`].
    pub(super) fn new(
        config: &ControlConfig,
        replica: &str,
        registry: &Registry,
    ) -> Result<Self, TelemetryError> {
        let exports = &config.telemetry;
        let resource = ResourceConfig {
            service_name: CONTROL.to_owned(),
            service_namespace: config.namespace.to_string(),
            service_instance: replica.to_owned(),
            attributes: exports.resource.clone().into_iter().collect(),
        };
        let tracing = exports.tracing.as_ref().map(|tracing| TracingConfig {
            collector: collector(&tracing.collector),
            resource: resource.clone(),
            sampling: exports.sampling,
            queue: tracing.queue,
            ..TracingConfig::default()
        });
        let metrics = exports.metrics.as_ref().map(|metrics| MetricsConfig {
            collector: collector(&metrics.collector),
            resource: resource.clone(),
            interval: metrics.interval,
        });
        let (sink, exporters) = Exporters::new(tracing, metrics, registry)?;
        let spans = match sink {
            Some(sink) => ServerSpans::new(sink, Arc::new(Sampler::new(exports.sampling)?)),
            None => ServerSpans::default(),
        };
        Ok(Self { exporters, spans })
    }

    pub(super) fn start(self) -> Exporting {
        let (trigger, drain) = weft_core::drain();
        Exporting { tasks: self.exporters.start(&drain, LAST_FLUSH), trigger }
    }
}

impl Exporting {
    /// Sends what is left, for as long as that may take.
    pub(super) async fn finish(self) {
        self.trigger.close();
        let _ = tokio::time::timeout(LAST_FLUSH * 2, futures_util::future::join_all(self.tasks)).await;
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
