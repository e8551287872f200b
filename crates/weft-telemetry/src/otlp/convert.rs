//! Span records as OTLP messages, with the names of the OpenTelemetry semantic conventions.
//!
//! HTTP spans follow "Semantic conventions for HTTP spans" (stable), gRPC ones "for RPC spans" of the version whose
//! constants are used: one fully qualified `rpc.method` and a textual `rpc.response.status_code`.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status, span};
use opentelemetry_semantic_conventions::{SCHEMA_URL, attribute as semconv};

use super::ResourceConfig;
use crate::metrics::{grpc_is_failure, grpc_status_name, method_label, protocol_version};
use crate::span::{SpanKind, SpanRecord};

/// Our own attributes, for what the conventions have no name for.
mod weft {
    pub(super) const ERROR: &str = "weft.error";
    pub(super) const SOURCE: &str = "weft.source.identity";
    pub(super) const DESTINATION: &str = "weft.destination.identity";
    pub(super) const RETRIES: &str = "weft.retries";
}

/// The resource of everything that this process exports.
pub(super) fn resource(config: &ResourceConfig) -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let base = [
        (semconv::SERVICE_NAME, config.service_name.as_str()),
        (semconv::SERVICE_NAMESPACE, config.service_namespace.as_str()),
        (semconv::SERVICE_INSTANCE_ID, config.service_instance.as_str()),
        (semconv::HOST_NAME, host.as_str()),
        ("weft.version", env!("CARGO_PKG_VERSION")),
    ];
    let configured = |name: &str| config.attributes.iter().any(|(n, _)| n == name);
    let mut attributes = Attributes::default();
    for (name, value) in base.into_iter().filter(|(name, value)| !value.is_empty() && !configured(name)) {
        attributes.text(name, value);
    }
    for (name, value) in &config.attributes {
        attributes.text(name, value);
    }
    Resource { attributes: attributes.0, ..Resource::default() }
}

/// What made the spans and metrics.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "weft".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// One export request.
pub(super) fn request(resource: &Resource, spans: &[SpanRecord]) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope()),
                spans: spans.iter().map(span).collect(),
                schema_url: SCHEMA_URL.to_owned(),
            }],
            schema_url: SCHEMA_URL.to_owned(),
        }],
    }
}

fn span(record: &SpanRecord) -> Span {
    let kind = match record.kind {
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
    };
    // Trace Context flags in the low byte; bit 8 says that bit 9, "the parent is remote", is meaningful. The parent of a
    // proxy's span is another process's span except below a gateway's own, where the bit would need to be off.
    let mut flags = 1 | u32::from(record.context.random) << 1;
    if record.parent.is_some() && record.parent_is_remote {
        flags |= SpanFlags::ContextHasIsRemoteMask as u32 | SpanFlags::ContextIsRemoteMask as u32;
    }
    Span {
        trace_id: record.context.trace_id.bytes().to_vec(),
        span_id: record.context.span_id.bytes().to_vec(),
        parent_span_id: record.parent.map(|p| p.bytes().to_vec()).unwrap_or_default(),
        flags,
        name: name(record),
        kind: kind as i32,
        start_time_unix_nano: record.start_unix_nanos,
        end_time_unix_nano: record.end_unix_nanos.max(record.start_unix_nanos),
        attributes: attributes(record),
        status: status(record),
        ..Span::default()
    }
}

/// `{method} {route}`, or `{method}` without a route (a path is no name: there are too many); `package.Service/Method`
/// for gRPC; `HTTP` where the method is not a known one.
fn name(record: &SpanRecord) -> String {
    if record.grpc.is_some()
        && let Some(method) = grpc_method(record)
    {
        return method.to_owned();
    }
    let method = match method_label(&record.method) {
        (_, "_OTHER") => "HTTP",
        (_, known) => known,
    };
    match &record.route {
        Some(route) => format!("{method} {route}"),
        None => method.to_owned(),
    }
}

/// `package.Service/Method` out of the path `/package.Service/Method`.
fn grpc_method(record: &SpanRecord) -> Option<&str> {
    record.path.strip_prefix('/').filter(|p| p.contains('/'))
}

/// What `error.type` is to say, if the request failed as this side of the hop sees it: a server span fails by 5xx, a
/// client span by 4xx as well; for gRPC a server span fails only by the codes that are the server's fault.
fn error_type(record: &SpanRecord) -> Option<String> {
    if let Some(code) = record.error {
        return Some(code.to_owned());
    }
    if let Some(grpc) = record.grpc
        && let Some(code) = grpc.status
    {
        let failed = match record.kind {
            SpanKind::Server => grpc_is_failure(code),
            SpanKind::Client => code != 0,
        };
        return failed.then(|| grpc_status_name(code).to_owned());
    }
    let from = match record.kind {
        SpanKind::Server => 500,
        SpanKind::Client => 400,
    };
    record.status.filter(|status| *status >= from).map(|status| status.to_string())
}

fn status(record: &SpanRecord) -> Option<Status> {
    error_type(record)?;
    // The conventions want no message where the status code says it all.
    Some(Status { code: StatusCode::Error as i32, message: record.error.unwrap_or_default().to_owned() })
}

fn attributes(record: &SpanRecord) -> Vec<KeyValue> {
    let mut out = Attributes(Vec::with_capacity(20));
    let (_, method) = method_label(&record.method);
    out.text(semconv::HTTP_REQUEST_METHOD, method);
    if method == "_OTHER" {
        out.text(semconv::HTTP_REQUEST_METHOD_ORIGINAL, record.method.as_str());
    }
    if let Some(route) = &record.route {
        out.text(semconv::HTTP_ROUTE, route);
    }
    out.text(semconv::URL_PATH, &record.path);
    out.text(semconv::URL_SCHEME, record.scheme);
    out.text(semconv::NETWORK_PROTOCOL_NAME, "http");
    out.text(semconv::NETWORK_PROTOCOL_VERSION, protocol_version(record.version));
    if let Some(address) = &record.server_address {
        out.text(semconv::SERVER_ADDRESS, address);
    }
    if let Some(port) = record.server_port {
        out.int(semconv::SERVER_PORT, port.into());
    }
    if let Some(peer) = record.network_peer {
        out.text(semconv::NETWORK_PEER_ADDRESS, &peer.ip().to_string());
        out.int(semconv::NETWORK_PEER_PORT, peer.port().into());
    }
    if let Some(status) = record.status {
        out.int(semconv::HTTP_RESPONSE_STATUS_CODE, status.into());
    }
    if let Some(agent) = &record.user_agent {
        out.text(semconv::USER_AGENT_ORIGINAL, agent);
    }
    if let Some(bytes) = record.request_bytes {
        out.int(semconv::HTTP_REQUEST_BODY_SIZE, saturating(bytes));
    }
    if let Some(bytes) = record.response_bytes {
        out.int(semconv::HTTP_RESPONSE_BODY_SIZE, saturating(bytes));
    }
    if let Some(error) = error_type(record) {
        out.text(semconv::ERROR_TYPE, &error);
    }
    rpc_and_mesh(record, &mut out);
    out.0
}

fn rpc_and_mesh(record: &SpanRecord, out: &mut Attributes) {
    if let Some(grpc) = record.grpc {
        out.text(semconv::RPC_SYSTEM_NAME, "grpc");
        if let Some(method) = grpc_method(record) {
            out.text(semconv::RPC_METHOD, method);
        }
        if let Some(code) = grpc.status {
            out.text(semconv::RPC_RESPONSE_STATUS_CODE, grpc_status_name(code));
        }
    }
    if let Some(error) = record.error {
        out.text(weft::ERROR, error);
    }
    if let Some(id) = &record.source_identity {
        out.text(weft::SOURCE, id);
    }
    if let Some(id) = &record.destination_identity {
        out.text(weft::DESTINATION, id);
    }
    if record.retries > 0 {
        out.int(weft::RETRIES, record.retries.into());
    }
}

fn saturating(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[derive(Default)]
pub(super) struct Attributes(pub(super) Vec<KeyValue>);

impl Attributes {
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.push(key, Value::StringValue(value.to_owned()));
    }

    pub(super) fn int(&mut self, key: &str, value: i64) {
        self.push(key, Value::IntValue(value));
    }

    pub(super) fn push(&mut self, key: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.to_owned(), value, ..KeyValue::default() });
    }
}
