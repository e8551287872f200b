//! One export request over gRPC or HTTP, and what its failure means.
//!
//! Both transports send the same bytes, encoded once; a retry sends them again without building anything.

use std::error::Error;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::config::Signal;
use super::tls::Connector;
use crate::{CollectorConfig, OtlpProtocol, TelemetryError};

/// The answer of a collector is a handful of bytes; whatever sends more is not one.
const MAX_RESPONSE: usize = 1 << 20;

/// What the collector made of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Spans or data points that it refused although it took the batch.
    pub(super) rejected: u64,
    /// Its words about it, or empty.
    pub(super) message: String,
}

/// A batch that was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExportError {
    /// Whether the protocol allows to send the same batch again.
    pub(super) retryable: bool,
    /// How long the collector asks to wait before that.
    pub(super) after: Option<Duration>,
    pub(super) message: String,
}

impl ExportError {
    fn transport(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { retryable: true, after: None, message: chain(&*error.into()) }
    }
}

/// An error with its causes: "transport error" alone helps nobody.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// The connection to one collector, for one signal.
pub(super) struct Client {
    signal: Signal,
    transport: Transport,
}

enum Transport {
    Grpc(Box<GrpcClient>),
    Http(Box<HttpClient>),
}

impl Client {
    pub(super) fn new(config: &CollectorConfig, signal: Signal) -> Result<Self, TelemetryError> {
        let target = config.target(signal)?;
        let headers = config.header_map()?;
        let connector = Connector::new(config, &target)?;
        let transport = match config.protocol {
            OtlpProtocol::Grpc => {
                // The connector does TLS; towards tonic the scheme is always http, and `:scheme` is set by the origin.
                let endpoint = Endpoint::from(target.uri.clone()).origin(target.uri);
                let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                    let connector = connector.clone();
                    async move { connector.connect().await.map(TokioIo::new) }
                }));
                Transport::Grpc(Box::new(GrpcClient { path: grpc_path(signal), channel, headers }))
            }
            OtlpProtocol::Http => {
                let uri = target.uri;
                Transport::Http(Box::new(HttpClient { uri, headers, connector, connection: None }))
            }
        };
        Ok(Self { signal, transport })
    }

    /// Sends one encoded request of the signal, connecting if need be.
    pub(super) async fn export(&mut self, body: Bytes, timeout: Duration) -> Result<Accepted, ExportError> {
        let sent = async {
            match &mut self.transport {
                Transport::Grpc(client) => client.export(body).await,
                Transport::Http(client) => client.export(body).await,
            }
        };
        let answer = tokio::time::timeout(timeout, sent)
            .await
            .unwrap_or_else(|_| Err(ExportError::transport("no answer within the timeout")))?;
        // An answer that is not the message is still a success: the status says so.
        Ok(accepted(self.signal, &answer).unwrap_or_default())
    }
}

fn accepted(signal: Signal, answer: &[u8]) -> Result<Accepted, prost::DecodeError> {
    let (rejected, message) = match signal {
        Signal::Traces => {
            let partial = ExportTraceServiceResponse::decode(answer)?.partial_success.unwrap_or_default();
            (partial.rejected_spans, partial.error_message)
        }
        Signal::Metrics => {
            let partial = ExportMetricsServiceResponse::decode(answer)?.partial_success.unwrap_or_default();
            (partial.rejected_data_points, partial.error_message)
        }
    };
    Ok(Accepted { rejected: u64::try_from(rejected).unwrap_or(0), message })
}

// ---- gRPC

/// The methods of opentelemetry/proto/collector.
fn grpc_path(signal: Signal) -> PathAndQuery {
    PathAndQuery::from_static(match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    })
}

struct GrpcClient {
    path: PathAndQuery,
    channel: Channel,
    headers: HeaderMap,
}

impl GrpcClient {
    async fn export(&mut self, body: Bytes) -> Result<Bytes, ExportError> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(ExportError::transport)?;
        let mut request = tonic::Request::new(body);
        *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(self.headers.clone());
        match grpc.unary(request, self.path.clone(), RawCodec).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(classify_grpc(&status)),
        }
    }
}

/// The table of OTLP/gRPC "Failures": which codes may be sent again.
fn classify_grpc(status: &Status) -> ExportError {
    let after = retry_delay(status.details());
    let retryable = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // Only if the server says when: otherwise it is out of something for good.
        Code::ResourceExhausted => after.is_some(),
        // A connection that broke before any status came has no code of its own.
        _ => status.source().is_some(),
    };
    ExportError { retryable, after, message: chain(status) }
}

/// `google.rpc.RetryInfo` in the details of a status (`grpc-status-details-bin`).
fn retry_delay(details: &[u8]) -> Option<Duration> {
    const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
    let status = RpcStatus::decode(details).ok()?;
    let info = status.details.iter().find(|any| any.type_url == RETRY_INFO)?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?))
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RetryDelay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct RetryDelay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// Sends bytes that are already encoded, and hands on those of the answer.
#[derive(Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

// ---- HTTP

struct HttpClient {
    uri: Uri,
    headers: HeaderMap,
    connector: Connector,
    /// Kept alive from one export to the next.
    connection: Option<http1::SendRequest<Full<Bytes>>>,
}

impl HttpClient {
    async fn export(&mut self, body: Bytes) -> Result<Bytes, ExportError> {
        // Taken out: a connection is only put back after a whole answer.
        let mut kept = self.connection.take();
        if let Some(connection) = &mut kept
            && connection.ready().await.is_err()
        {
            // The collector has closed it in the meantime.
            kept = None;
        }
        let mut connection = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let request = self.request(body)?;
        let response = connection.send_request(request).await.map_err(ExportError::transport)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_RESPONSE).collect().await.map_err(ExportError::transport)?;
        self.connection = Some(connection);
        if !head.status.is_success() {
            return Err(classify_http(head.status, &head.headers));
        }
        Ok(body.to_bytes())
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, ExportError> {
        let stream = self.connector.connect().await.map_err(ExportError::transport)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(ExportError::transport)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the collector ended");
            }
        });
        Ok(sender)
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, ExportError> {
        let permanent =
            |e: http::Error| ExportError { retryable: false, after: None, message: e.to_string() };
        let path = self.uri.path_and_query().map_or("/", |p| p.as_str());
        let host = self.uri.authority().map_or("", |a| a.as_str());
        let mut request = Request::post(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("weft/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(permanent)?;
        request.headers_mut().extend(self.headers.clone());
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        request.headers_mut().insert(header::CONTENT_TYPE, protobuf);
        Ok(request)
    }
}

/// OTLP/HTTP "Failures": 429, 502, 503 and 504 may be sent again, after `Retry-After` where given in seconds.
fn classify_http(status: http::StatusCode, headers: &HeaderMap) -> ExportError {
    let retryable = matches!(status.as_u16(), 429 | 502 | 503 | 504);
    let seconds = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
    ExportError { retryable, after: seconds.map(Duration::from_secs), message: format!("HTTP {status}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_failures_are_told_apart() {
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Aborted, Code::DataLoss] {
            assert!(classify_grpc(&Status::new(code, "")).retryable, "{code:?}");
        }
        for code in [Code::InvalidArgument, Code::Unimplemented, Code::Unauthenticated, Code::Internal] {
            assert!(!classify_grpc(&Status::new(code, "")).retryable, "{code:?}");
        }
    }

    #[test]
    fn resource_exhausted_is_retried_only_when_the_server_says_when() {
        let plain = classify_grpc(&Status::resource_exhausted("full"));
        assert!(!plain.retryable);
        let info = RetryInfo { retry_delay: Some(RetryDelay { seconds: 2, nanos: 500_000_000 }) };
        let any = Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: info.encode_to_vec(),
        };
        let details = RpcStatus { details: vec![any] }.encode_to_vec();
        let timed = classify_grpc(&Status::with_details(Code::ResourceExhausted, "full", details.into()));
        assert!(timed.retryable);
        assert_eq!(timed.after, Some(Duration::from_millis(2_500)));
    }

    #[test]
    fn http_failures_are_told_apart() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("7"));
        let busy = classify_http(http::StatusCode::SERVICE_UNAVAILABLE, &headers);
        assert!(busy.retryable);
        assert_eq!(busy.after, Some(Duration::from_secs(7)));
        for status in [400, 401, 404, 413, 500] {
            let status = http::StatusCode::from_u16(status).unwrap();
            assert!(!classify_http(status, &HeaderMap::new()).retryable, "{status}");
        }
    }

    proptest::proptest! {
        #[test]
        fn details_from_the_network_never_panic(details: Vec<u8>) {
            let _ = retry_delay(&details);
        }
    }
}
