//! What the exporter is told, checked once at start.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use weft_core::CaCertificates;

use crate::TelemetryError;

/// The transport of OTLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC, by convention on port 4317.
    #[default]
    Grpc,
    /// Protobuf over HTTP/1.1, by convention on port 4318.
    Http,
}

/// What is exported: each has its service and its path, and they share everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    /// Where an OTLP/HTTP endpoint without a path takes it (OTLP specification, "OTLP/HTTP Request").
    fn http_path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }
}

/// How a collector is reached.
#[derive(Clone, Debug)]
pub struct CollectorConfig {
    /// `http://host:port` or `https://host:port`. For HTTP a path is kept as it is; without one, `/v1/traces` or
    /// `/v1/metrics` is used.
    pub endpoint: String,
    /// gRPC or HTTP.
    pub protocol: OtlpProtocol,
    /// Sent with each export: keys of a hosted collector, a tenant.
    pub headers: Vec<(String, String)>,
    /// For one export request, connecting included.
    pub timeout: Duration,
    /// The CA certificates for `https`; without them the system's are used.
    pub ca: Option<CaCertificates>,
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self {
            endpoint: "http://localhost:4317".to_owned(),
            protocol: OtlpProtocol::Grpc,
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            ca: None,
        }
    }
}

/// Who exports: the attributes of the OpenTelemetry resource.
#[derive(Clone, Debug, Default)]
pub struct ResourceConfig {
    /// `service.name`: the workload.
    pub service_name: String,
    /// `service.namespace`: the Kubernetes namespace, or empty.
    pub service_namespace: String,
    /// `service.instance.id`: the pod, or empty.
    pub service_instance: String,
    /// Further attributes; they win over the three above.
    pub attributes: Vec<(String, String)>,
}

/// Tracing as configured.
#[derive(Clone, Debug)]
pub struct TracingConfig {
    /// Where spans go.
    pub collector: CollectorConfig,
    /// Whose they are.
    pub resource: ResourceConfig,
    /// The share of traces recorded where the caller has not decided, 0 to 1. Given to [`crate::Sampler`].
    pub sampling: f64,
    /// How many finished spans may wait for the exporter.
    pub queue: usize,
    /// How long spans are gathered before a batch that is not full is sent.
    pub flush_interval: Duration,
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self {
            collector: CollectorConfig::default(),
            resource: ResourceConfig::default(),
            sampling: 0.01,
            queue: 4_096,
            flush_interval: Duration::from_secs(1),
        }
    }
}

/// The export of metrics as configured.
#[derive(Clone, Debug)]
pub struct MetricsConfig {
    /// Where they go.
    pub collector: CollectorConfig,
    /// Whose they are.
    pub resource: ResourceConfig,
    /// From one export to the next.
    pub interval: Duration,
}

/// An endpoint that has passed the checks.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// With scheme, authority and path.
    pub(crate) uri: Uri,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl CollectorConfig {
    pub(super) fn target(&self, signal: Signal) -> Result<Target, TelemetryError> {
        let bad = |reason: &str| TelemetryError::Endpoint {
            endpoint: self.endpoint.clone(),
            reason: reason.to_owned(),
        };
        let uri: Uri = self.endpoint.parse().map_err(|e: http::uri::InvalidUri| bad(&e.to_string()))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("must begin with http:// or https://")),
        };
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(|| bad("has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(match (self.protocol, tls) {
            (OtlpProtocol::Grpc, _) => 4317,
            (OtlpProtocol::Http, false) => 4318,
            (OtlpProtocol::Http, true) => 443,
        });
        if self.protocol == OtlpProtocol::Grpc && uri.path() != "/" {
            return Err(bad("must have no path: gRPC has its own"));
        }
        let uri = match (self.protocol, uri.path()) {
            (OtlpProtocol::Http, "/") => {
                let mut parts = uri.into_parts();
                parts.path_and_query = Some(http::uri::PathAndQuery::from_static(signal.http_path()));
                Uri::from_parts(parts).map_err(|e| bad(&e.to_string()))?
            }
            _ => uri,
        };
        Ok(Target { uri, host, port, tls })
    }

    pub(crate) fn header_map(&self) -> Result<HeaderMap, TelemetryError> {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let bad = |reason| TelemetryError::Header { name: name.clone(), reason };
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("is not a header name"))?;
            let mut value =
                HeaderValue::from_str(value).map_err(|_| bad("has a value that a header cannot carry"))?;
            value.set_sensitive(true);
            map.append(key, value);
        }
        Ok(map)
    }
}
