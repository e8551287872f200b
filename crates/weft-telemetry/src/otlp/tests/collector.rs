//! A collector that keeps what it gets and can be told to misbehave.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::OtlpProtocol;

/// How to answer one request other than with a plain yes.
#[derive(Clone, Copy)]
pub(in crate::otlp) enum Answer {
    /// Try again: UNAVAILABLE, or 503.
    Busy,
    /// Never: INVALID_ARGUMENT, or 400.
    Refused,
    /// All but so many.
    Partial(i64),
}

#[derive(Default)]
struct State {
    requests: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
    headers: Vec<HeaderMap>,
    answers: VecDeque<Answer>,
}

pub(in crate::otlp) struct Collector {
    pub(in crate::otlp) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

type SelfSigned = rcgen::CertifiedKey<rcgen::KeyPair>;

impl Collector {
    pub(in crate::otlp) async fn start(protocol: OtlpProtocol, tls: Option<&SelfSigned>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), protocol, tls).await
    }

    pub(in crate::otlp) async fn start_at(
        at: SocketAddr,
        protocol: OtlpProtocol,
        tls: Option<&SelfSigned>,
    ) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let connections = accept(listener, tls.map(|key| acceptor(key, protocol)));
        match protocol {
            OtlpProtocol::Grpc => {
                let traces = TraceServiceServer::new(Grpc(state.clone()));
                let metrics = MetricsServiceServer::new(Grpc(state.clone()));
                let server = tonic::transport::Server::builder().add_service(traces).add_service(metrics);
                tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));
            }
            OtlpProtocol::Http => {
                tokio::spawn(serve_http(connections, state.clone()));
            }
        }
        Self { address, state }
    }

    pub(in crate::otlp) fn answer_next(&self, answer: Answer) {
        self.state.lock().unwrap().answers.push_back(answer);
    }

    pub(in crate::otlp) fn received(&self) -> (Vec<ExportTraceServiceRequest>, Vec<HeaderMap>) {
        let state = self.state.lock().unwrap();
        (state.requests.clone(), state.headers.clone())
    }

    pub(in crate::otlp) fn metric_requests(&self) -> Vec<ExportMetricsServiceRequest> {
        self.state.lock().unwrap().metrics.clone()
    }

    pub(in crate::otlp) fn headers(&self) -> Vec<HeaderMap> {
        self.state.lock().unwrap().headers.clone()
    }

    pub(in crate::otlp) fn spans(&self) -> Vec<Span> {
        let (requests, _) = self.received();
        let scopes = requests.into_iter().flat_map(|r| r.resource_spans).flat_map(|r| r.scope_spans);
        scopes.flat_map(|s| s.spans).collect()
    }
}

const REMARK: &str = "too many";

impl State {
    /// What to answer: yes, yes but for so many, or otherwise.
    fn answer(&mut self, headers: HeaderMap) -> Result<Option<i64>, Answer> {
        let rejected = match self.answers.pop_front() {
            Some(Answer::Partial(rejected)) => Some(rejected),
            Some(answer) => return Err(answer),
            None => None,
        };
        self.headers.push(headers);
        Ok(rejected)
    }

    fn take(
        &mut self,
        headers: HeaderMap,
        request: ExportTraceServiceRequest,
    ) -> Result<ExportTraceServiceResponse, Answer> {
        let partial_success = self.answer(headers)?.map(|rejected_spans| ExportTracePartialSuccess {
            rejected_spans,
            error_message: REMARK.to_owned(),
        });
        self.requests.push(request);
        Ok(ExportTraceServiceResponse { partial_success })
    }

    fn take_metrics(
        &mut self,
        headers: HeaderMap,
        request: ExportMetricsServiceRequest,
    ) -> Result<ExportMetricsServiceResponse, Answer> {
        let partial_success = self.answer(headers)?.map(|rejected_data_points| ExportMetricsPartialSuccess {
            rejected_data_points,
            error_message: REMARK.to_owned(),
        });
        self.metrics.push(request);
        Ok(ExportMetricsServiceResponse { partial_success })
    }
}

// ---- connections

/// A connection, in plaintext or TLS, as both servers take it.
enum Connection {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

fn acceptor(key: &SelfSigned, protocol: OtlpProtocol) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    // Only the right one: a client that does not ask for it is refused.
    config.alpn_protocols = vec![match protocol {
        OtlpProtocol::Grpc => b"h2".to_vec(),
        OtlpProtocol::Http => b"http/1.1".to_vec(),
    }];
    TlsAcceptor::from(Arc::new(config))
}

fn accept(listener: TcpListener, tls: Option<TlsAcceptor>) -> mpsc::Receiver<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let connection = match &tls {
                None => Connection::Plain(tcp),
                Some(tls) => match tls.accept(tcp).await {
                    Ok(stream) => Connection::Tls(Box::new(stream)),
                    Err(_) => continue,
                },
            };
            if sender.send(Ok(connection)).await.is_err() {
                return;
            }
        }
    });
    receiver
}

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

// ---- gRPC

struct Grpc(Arc<Mutex<State>>);

fn in_grpc<T>(taken: Result<T, Answer>) -> Result<tonic::Response<T>, Status> {
    match taken {
        Ok(response) => Ok(tonic::Response::new(response)),
        Err(Answer::Busy) => Err(Status::unavailable("busy")),
        Err(_) => Err(Status::invalid_argument("no")),
    }
}

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        in_grpc(self.0.lock().unwrap().take(metadata.into_headers(), message))
    }
}

#[tonic::async_trait]
impl MetricsService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        in_grpc(self.0.lock().unwrap().take_metrics(metadata.into_headers(), message))
    }
}

// ---- HTTP

async fn serve_http(mut connections: mpsc::Receiver<io::Result<Connection>>, state: Arc<Mutex<State>>) {
    while let Some(Ok(connection)) = connections.recv().await {
        let state = state.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(http_export(request, &state).await) }
        });
        let server = hyper::server::conn::http1::Builder::new();
        tokio::spawn(server.serve_connection(TokioIo::new(connection), service));
    }
}

async fn http_export(request: Request<Incoming>, state: &Mutex<State>) -> Response<Full<Bytes>> {
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    assert!(request.headers().contains_key("host"));
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let taken = match head.uri.path() {
        "/v1/traces" => {
            let message = ExportTraceServiceRequest::decode(body).unwrap();
            state.lock().unwrap().take(head.headers, message).map(|answer| answer.encode_to_vec())
        }
        "/v1/metrics" => {
            let message = ExportMetricsServiceRequest::decode(body).unwrap();
            state.lock().unwrap().take_metrics(head.headers, message).map(|answer| answer.encode_to_vec())
        }
        path => panic!("nothing is at {path}"),
    };
    let (status, body) = match taken {
        Ok(answer) => (200, answer),
        Err(Answer::Busy) => (503, Vec::new()),
        Err(_) => (400, Vec::new()),
    };
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}
