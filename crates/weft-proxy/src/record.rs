//! How a request or connection went: one value each, whose drop writes metrics, span and access log.
//!
//! A path that forgets to report does not exist, because reporting is what happens when the value goes out of scope, on
//! success, on failure, and when the client leaves.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{Entry, USER_AGENT};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;
use weft_balance::InFlight;
use weft_http::headers::{X_FORWARDED_PROTO, X_REQUEST_ID};
use weft_http::{Abort, Answer, Body, BodyError, ErrorCode, Refusal, is_grpc};
use weft_net::{RelayCounters, RelayOutcome};
use weft_telemetry::access::{AccessProtocol, AccessRecord};
use weft_telemetry::metrics::{Direction, HttpOutcome, TlsLabel};
use weft_telemetry::span::unix_nanos;
use weft_telemetry::trace::{RequestTrace, TraceContext};
use weft_telemetry::{AccessLogMode, Grpc, HttpSeries, SpanKind, SpanRecord, TcpSeries};

use crate::app::Failure;
use crate::worker::Worker;

/// What all requests of one connection have in common, for spans and access log.
pub(crate) struct ConnectionFacts {
    pub(crate) direction: Direction,
    pub(crate) client: SocketAddr,
    /// Host and port that were dialed.
    pub(crate) server: (Arc<str>, u16),
    /// `name:port` that was dialed.
    pub(crate) service: Arc<str>,
    pub(crate) source_identity: Option<Arc<str>>,
    pub(crate) destination_identity: Option<Arc<str>>,
    pub(crate) tls: TlsLabel,
}

/// One request, from its head to the end of its answer.
pub(crate) struct RequestRecord {
    worker: Rc<Worker>,
    facts: Rc<ConnectionFacts>,
    series: HttpSeries,
    started: Instant,
    method: Method,
    version: Version,
    pub(crate) grpc: bool,
    grpc_status: Option<u8>,
    status: u16,
    error: Option<ErrorCode>,
    pub(crate) trace: RequestTrace,
    upstream: Option<SocketAddr>,
    peer: Option<Arc<str>>,
    in_flight: Option<InFlight>,
    retries: u32,
    /// Counts the request body where there is one; it may still be on its way when the answer has begun.
    request_bytes: Option<Rc<Cell<u64>>>,
    response_bytes: u64,
    /// Kept only where a span or a log line may need them.
    details: Option<Details>,
}

/// Shared slices of the request head: reference counts, no copies.
struct Details {
    uri: Uri,
    authority: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
}

impl RequestRecord {
    /// Begins a request: reads its trace context and counts it in.
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        facts: &Rc<ConnectionFacts>,
        series: &HttpSeries,
        request: &Request<Body>,
        version: Version,
    ) -> Box<Self> {
        let trace = worker.telemetry.tracer.borrow_mut().begin(request.headers());
        series.begin();
        let log = worker.telemetry.access.mode() != AccessLogMode::Off;
        Box::new(Self {
            worker: Rc::clone(worker),
            facts: Rc::clone(facts),
            series: series.clone(),
            started: Instant::now(),
            method: request.method().clone(),
            version,
            grpc: is_grpc(request.headers()),
            grpc_status: None,
            status: 0,
            error: None,
            upstream: None,
            peer: None,
            in_flight: None,
            retries: 0,
            request_bytes: None,
            response_bytes: 0,
            details: (log || trace.records()).then(|| Details::of(request)),
            trace,
        })
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// An endpoint has taken the request: it is counted in that endpoint's series from here on.
    pub(crate) fn served_by(
        &mut self,
        series: &HttpSeries,
        in_flight: Option<InFlight>,
        upstream: SocketAddr,
        peer: Option<Arc<str>>,
    ) {
        series.begin();
        let before = std::mem::replace(&mut self.series, series.clone());
        before.abandon();
        self.in_flight = in_flight;
        self.upstream = Some(upstream);
        self.peer = peer;
    }

    /// The endpoint that has the request.
    pub(crate) fn in_flight(&mut self) -> Option<&mut InFlight> {
        self.in_flight.as_mut()
    }

    pub(crate) fn retried(&mut self) {
        self.retries += 1;
        self.in_flight = None;
    }

    /// Counts the request body from here on.
    pub(crate) fn count_request(&mut self, body: &mut Body) {
        self.request_bytes = body.count();
    }

    fn sent_bytes(&self) -> u64 {
        self.request_bytes.as_ref().map_or(0, |bytes| bytes.get())
    }

    /// Where the request went (inbound: the application).
    pub(crate) fn to(&mut self, upstream: SocketAddr) {
        self.upstream = Some(upstream);
    }

    /// Watches an answer to its end.
    pub(crate) fn answered(self: Box<Self>, response: Response<Body>) -> Response<Observed> {
        let deadline = self.deadline(response.body());
        self.observe(response, deadline)
    }

    fn observe(
        mut self: Box<Self>,
        response: Response<Body>,
        deadline: Option<Pin<Box<Sleep>>>,
    ) -> Response<Observed> {
        self.status = response.status().as_u16();
        self.read_grpc_status(response.headers());
        response.map(|body| Observed { body, deadline, record: Some(self) })
    }

    /// When the answer must have ended: `timeouts.request` is about the whole of it.
    fn deadline(&self, body: &Body) -> Option<Pin<Box<Sleep>>> {
        let limit = self.worker.shared.config.timeouts.request?;
        let waits = self.facts.direction == Direction::Outbound && !body.is_end_stream();
        waits.then(|| Box::pin(tokio::time::sleep_until((self.started + limit).into())))
    }

    /// Answers in the application's place.
    pub(crate) fn refused(mut self: Box<Self>, code: ErrorCode) -> Response<Observed> {
        self.error = Some(code);
        self.worker.telemetry.of(self.facts.direction).error(code);
        let refusal = Refusal { code, grpc: self.grpc };
        self.observe(refusal.response(), None)
    }

    /// Ends a request that got no answer. Where both sides speak HTTP/2, a reset of the upstream is passed on as it is.
    pub(crate) fn failed_with(mut self: Box<Self>, failure: &Failure) -> Result<Answer<Observed>, Abort> {
        match failure.reset {
            Some(reason) if self.version == Version::HTTP_2 => {
                self.error = Some(failure.code);
                self.worker.telemetry.of(self.facts.direction).error(failure.code);
                Err(Abort(reason))
            }
            _ => Ok(self.refused(failure.code).into()),
        }
    }

    fn read_grpc_status(&mut self, headers: &HeaderMap) {
        if self.grpc
            && let Some(status) = headers.get("grpc-status")
        {
            self.grpc_status = status.to_str().ok().and_then(|status| status.parse().ok());
        }
    }

    fn failed(&self) -> bool {
        self.error.is_some()
            || self.status == 0
            || self.status >= 500
            || self.grpc_status.is_some_and(|status| status != 0)
    }
}

impl Details {
    fn of(request: &Request<Body>) -> Self {
        let headers = request.headers();
        Self {
            uri: request.uri().clone(),
            authority: headers.get(http::header::HOST).cloned(),
            user_agent: headers.get(USER_AGENT).cloned(),
            request_id: headers.get(X_REQUEST_ID).cloned(),
        }
    }

    fn authority(&self) -> Option<Box<str>> {
        match self.uri.authority() {
            Some(authority) => Some(authority.as_str().into()),
            None => text(self.authority.as_ref()),
        }
    }
}

impl Details {
    /// Host and port of the authority; without a port that of `http`.
    fn dialed(&self) -> Option<(Arc<str>, u16)> {
        let authority = match self.uri.authority() {
            Some(authority) => authority.clone(),
            None => Authority::try_from(self.authority.as_ref()?.as_bytes()).ok()?,
        };
        let host = authority.host().trim_matches(['[', ']']);
        (!host.is_empty()).then(|| (host.into(), authority.port_u16().unwrap_or(80)))
    }
}

fn text(value: Option<&HeaderValue>) -> Option<Box<str>> {
    value.and_then(|value| value.to_str().ok()).map(Box::from)
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        if self.request_bytes.is_some() {
            self.series.request_bytes(self.sent_bytes());
        }
        self.series.response_bytes(self.response_bytes);
        self.series.end(&HttpOutcome {
            method: &self.method,
            status: self.status,
            grpc_status: self.grpc_status,
            duration: took,
        });
        let sampled = self.trace.records();
        let logged = self.worker.telemetry.access.wants(self.failed(), sampled);
        if !(sampled || logged) {
            return;
        }
        let Some(details) = self.details.take() else { return };
        let end = SystemTime::now();
        let end_nanos = unix_nanos(end);
        let start_nanos = end_nanos.saturating_sub(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if sampled && let Some(spans) = &self.worker.telemetry.spans {
            spans.submit(self.span(&details, start_nanos, end_nanos));
        }
        if logged {
            self.worker.telemetry.access.submit(self.line(&details, start_nanos, took));
        }
    }
}

impl RequestRecord {
    fn identities(&self) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let destination = self.facts.destination_identity.clone().or_else(|| self.peer.clone());
        (self.facts.source_identity.clone(), destination)
    }

    fn span(&self, details: &Details, start: u64, end: u64) -> SpanRecord {
        let (source_identity, destination_identity) = self.identities();
        let outbound = self.facts.direction == Direction::Outbound;
        // The callee knows what its caller dialed by the authority alone: the connection came to the endpoint.
        let asked = if outbound { None } else { details.dialed() };
        let (server_address, server_port) = asked.unwrap_or_else(|| self.facts.server.clone());
        SpanRecord {
            context: self.trace.context,
            parent: self.trace.parent,
            parent_is_remote: true,
            kind: if outbound { SpanKind::Client } else { SpanKind::Server },
            start_unix_nanos: start,
            end_unix_nanos: end,
            method: self.method.clone(),
            route: None,
            path: details.uri.path().into(),
            scheme: "http",
            server_address: Some(server_address),
            server_port: Some(server_port),
            network_peer: if outbound { self.upstream } else { Some(self.facts.client) },
            version: self.version,
            status: (self.status != 0).then_some(self.status),
            user_agent: text(details.user_agent.as_ref()),
            grpc: self.grpc.then_some(Grpc { status: self.grpc_status }),
            error: self.error.map(ErrorCode::as_str),
            source_identity,
            destination_identity,
            retries: self.retries,
            request_bytes: self.sent_bytes(),
            response_bytes: self.response_bytes,
        }
    }

    fn line(&self, details: &Details, start: u64, took: Duration) -> AccessRecord {
        let (source_identity, destination_identity) = self.identities();
        AccessRecord {
            start_unix_nanos: start,
            duration: took,
            direction: self.facts.direction,
            protocol: AccessProtocol::Http {
                version: self.version,
                method: self.method.clone(),
                authority: details.authority(),
                path: details.uri.path().into(),
                status: (self.status != 0).then_some(self.status),
                grpc_status: self.grpc_status,
                user_agent: text(details.user_agent.as_ref()),
                request_id: text(details.request_id.as_ref())
                    .or_else(|| Some(self.trace.context.trace_id.to_string().into())),
                trace: Some(self.trace.context),
                retries: self.retries,
            },
            destination_service: Some(Arc::clone(&self.facts.service)),
            upstream: self.upstream,
            client: Some(self.facts.client),
            source_identity,
            destination_identity,
            tls: self.facts.tls,
            sent_bytes: self.sent_bytes(),
            received_bytes: self.response_bytes,
            error: self.error.map(ErrorCode::as_str),
        }
    }
}

/// An answer's body that carries the record of its request.
pub(crate) struct Observed {
    body: Body,
    deadline: Option<Pin<Box<Sleep>>>,
    record: Option<Box<RequestRecord>>,
}

impl Observed {
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.deadline = None;
            // The upstream need not go on.
            self.body = Body::Empty;
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = self.next(cx);
        if let Some(record) = &mut self.record {
            match &frame {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        record.response_bytes += data.len() as u64;
                    } else if let Some(trailers) = frame.trailers_ref() {
                        record.read_grpc_status(trailers);
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    let code = match error {
                        BodyError::TimedOut => ErrorCode::UpstreamTimeout,
                        BodyError::Http1(_) | BodyError::Http2(_) => ErrorCode::UpstreamReset,
                    };
                    record.error = Some(code);
                    record.worker.telemetry.of(record.facts.direction).error(code);
                    self.record = None;
                }
                Poll::Ready(None) => self.record = None,
                Poll::Pending => {}
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request whose answer is an upgrade, or nothing: the record ends with the head.
pub(crate) fn head_only(record: Box<RequestRecord>, response: Response<Body>) -> Response<Observed> {
    record.answered(response.map(|_| Body::Empty))
}

/// How often the bytes of a relay that goes on are reported: once per scrape of a keen Prometheus.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// One relayed connection.
pub(crate) struct TcpRecord {
    worker: Rc<Worker>,
    facts: ConnectionFacts,
    series: TcpSeries,
    started: Instant,
    pub(crate) upstream: Option<SocketAddr>,
    sent: u64,
    received: u64,
    error: Option<&'static str>,
}

impl TcpRecord {
    pub(crate) fn open(worker: &Rc<Worker>, facts: ConnectionFacts, series: TcpSeries) -> Self {
        series.open();
        Self {
            worker: Rc::clone(worker),
            facts,
            series,
            started: Instant::now(),
            upstream: None,
            sent: 0,
            received: 0,
            error: None,
        }
    }

    /// Weft ended the connection, or could not make it.
    pub(crate) fn failed(&mut self, code: ErrorCode) {
        self.error = Some(code.as_str());
        self.worker.telemetry.of(self.facts.direction).error(code);
    }

    /// Runs a relay to its end, or until it must `end`: then `None`, and both sides are to be reset, so
    /// that nobody takes half a transfer for a whole one. Bytes are reported while it runs: a connection to a database
    /// may live for days.
    pub(crate) async fn run(
        &mut self,
        relaying: impl Future<Output = RelayOutcome>,
        counters: &RelayCounters,
        end: impl Future<Output = ()>,
    ) -> Option<RelayOutcome> {
        let mut relaying = std::pin::pin!(relaying);
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                biased;
                outcome = relaying.as_mut() => {
                    self.count(counters);
                    if outcome.failed() {
                        self.error = Some("relay-failed");
                    }
                    return Some(outcome);
                }
                () = end.as_mut() => {
                    self.count(counters);
                    self.error = Some("drain-deadline");
                    return None;
                }
                () = tokio::time::sleep(REPORT_EVERY) => self.count(counters),
            }
        }
    }

    fn count(&mut self, counters: &RelayCounters) {
        let (sent, received) = (counters.to_upstream(), counters.to_client());
        self.series.sent(sent - self.sent);
        self.series.received(received - self.received);
        (self.sent, self.received) = (sent, received);
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.series.close(took);
        let access = &self.worker.telemetry.access;
        if !access.wants(self.error.is_some(), false) {
            return;
        }
        let end = unix_nanos(SystemTime::now());
        access.submit(AccessRecord {
            start_unix_nanos: end.saturating_sub(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
            duration: took,
            direction: self.facts.direction,
            protocol: AccessProtocol::Tcp,
            destination_service: Some(Arc::clone(&self.facts.service)),
            upstream: self.upstream,
            client: Some(self.facts.client),
            source_identity: self.facts.source_identity.clone(),
            destination_identity: self.facts.destination_identity.clone(),
            tls: self.facts.tls,
            sent_bytes: self.sent,
            received_bytes: self.received,
            error: self.error,
        });
    }
}

/// Adds what an application may expect of every request: an id, and the scheme its client used.
///
/// The last proxy adds them, so that they need not travel. An id that nobody gave is the trace's: both sides of a hop
/// come to the same one without telling each other.
pub(crate) fn complete(trace: TraceContext, headers: &mut HeaderMap) {
    if let Entry::Vacant(vacant) = headers.entry(X_REQUEST_ID)
        && let Ok(value) = HeaderValue::from_bytes(&trace.trace_id.hex())
    {
        vacant.insert(value);
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}
