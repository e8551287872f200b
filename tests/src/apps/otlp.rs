//! Weft's own small OTLP receiver, for a machine that has no collector and no Go to build one.
//!
//! OTLP/HTTP with protobuf bodies (`POST /v1/traces`); each request becomes a line of OTLP JSON in `spans.jsonl` of the
//! working directory, as the collector's file exporter writes it, so that one reader reads both.

use std::convert::Infallible;
use std::io::Write;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpStream;

pub(super) async fn serve(stream: TcpStream) -> Result<()> {
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await.context("HTTP/1")
}

async fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/v1/traces" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if let Err(error) = keep(request).await {
        super::report(&format!("export: {error:#}"));
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
}

async fn keep(request: Request<Incoming>) -> Result<()> {
    let body = request.into_body().collect().await.context("reading the body")?.to_bytes();
    let export = ExportTraceServiceRequest::decode(body).context("decoding the export")?;
    let mut line = json(&export).to_string();
    line.push('\n');
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open("spans.jsonl")?;
    file.write_all(line.as_bytes()).context("writing spans.jsonl")
}

fn json(export: &ExportTraceServiceRequest) -> Value {
    let resources = export.resource_spans.iter().map(|resource| {
        let own = resource.resource.as_ref().map(|resource| attributes(&resource.attributes));
        let scopes = resource
            .scope_spans
            .iter()
            .map(|scope| json!({ "spans": scope.spans.iter().map(span).collect::<Vec<_>>() }));
        json!({ "resource": { "attributes": own }, "scopeSpans": scopes.collect::<Vec<_>>() })
    });
    json!({ "resourceSpans": resources.collect::<Vec<_>>() })
}

/// In OTLP's JSON mapping ids are hexadecimal and 64-bit numbers are strings.
fn span(span: &Span) -> Value {
    json!({
        "traceId": hex(&span.trace_id),
        "spanId": hex(&span.span_id),
        "parentSpanId": hex(&span.parent_span_id),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": span.start_time_unix_nano.to_string(),
        "endTimeUnixNano": span.end_time_unix_nano.to_string(),
        "attributes": attributes(&span.attributes),
        "status": { "code": span.status.as_ref().map_or(0, |status| status.code) },
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(list: &[KeyValue]) -> Vec<Value> {
    list.iter()
        .map(|attribute| {
            let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Any::StringValue(text)) => json!({ "stringValue": text }),
                Some(Any::IntValue(number)) => json!({ "intValue": number.to_string() }),
                Some(Any::DoubleValue(number)) => json!({ "doubleValue": number }),
                Some(Any::BoolValue(flag)) => json!({ "boolValue": flag }),
                _ => json!({}),
            };
            json!({ "key": attribute.key, "value": value })
        })
        .collect()
}
