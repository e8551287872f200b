//! One request.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{ORIGIN, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use http_body::Frame;
use weft_balance::{InFlight, Outcome, Timestamp};
use weft_core::EndpointAddr;
use weft_http::grpc_web::Web;
use weft_http::headers::X_REQUEST_ID;
use weft_http::{Abort, Answer, Body, ErrorCode, Refusal, is_grpc, told};
use weft_route::filter::Cors;
use weft_telemetry::access::{AccessProtocol, AccessRecord};
use weft_telemetry::metrics::{Direction, HttpOutcome, grpc_is_failure};
use weft_telemetry::span::unix_nanos;
use weft_telemetry::trace::RequestTrace;
use weft_telemetry::{AccessLogMode, Grpc, HttpSeries, SpanKind, SpanRecord, asked_for};

use super::{ConnectionFacts, Observed};
use crate::failure::Failure;
use crate::telemetry::WorkerTelemetry;

/// One request, from its head to the end of its answer.
pub(crate) struct RequestRecord {
    telemetry: Rc<WorkerTelemetry>,
    facts: Rc<ConnectionFacts>,
    series: HttpSeries,
    started: Instant,
    method: Method,
    version: Version,
    pub(crate) grpc: bool,
    grpc_status: Option<u8>,
    /// The client speaks gRPC-Web.
    web: Option<Spoken>,
    /// A page of another origin has sent it, whose browser asks whether the page may read the answer.
    page: Option<Box<Page>>,
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
    /// How long all of it may take, where its route says so.
    limit: Option<Option<Duration>>,
    /// The route that it was found to belong to.
    route: Option<Arc<str>>,
    /// Whose it is, where proxies in front have told.
    made_for: Option<IpAddr>,
    /// Kept only where a span or a log line may need them.
    details: Option<Details>,
}

/// gRPC-Web as a client speaks it.
struct Spoken {
    web: Web,
    /// Whether its backend speaks gRPC, so that the answer has to be turned. What this proxy says itself is in any case.
    turned: bool,
}

/// A page that calls from another origin, and who decides what it may read.
struct Page {
    origin: HeaderValue,
    cors: Arc<Cors>,
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
        telemetry: &Rc<WorkerTelemetry>,
        facts: &Rc<ConnectionFacts>,
        series: &HttpSeries,
        request: &Request<Body>,
        version: Version,
    ) -> Box<Self> {
        let trace = telemetry.tracer.borrow_mut().begin(request.headers());
        series.begin();
        let log = telemetry.access.mode() != AccessLogMode::Off;
        Box::new(Self {
            telemetry: Rc::clone(telemetry),
            facts: Rc::clone(facts),
            series: series.clone(),
            started: Instant::now(),
            method: request.method().clone(),
            version,
            grpc: is_grpc(request.headers()),
            grpc_status: None,
            web: None,
            page: None,
            status: 0,
            error: None,
            upstream: None,
            peer: None,
            in_flight: None,
            retries: 0,
            request_bytes: None,
            response_bytes: 0,
            limit: None,
            route: None,
            made_for: None,
            details: (log || trace.records()).then(|| Details::of(request)),
            trace,
        })
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The request belongs to a route, which may say how long all of it may take.
    pub(crate) fn routed(&mut self, route: &Arc<str>, limit: Option<Option<Duration>>) {
        (self.route, self.limit) = (Some(Arc::clone(route)), limit);
    }

    /// The client speaks gRPC-Web; `turned`: and its backend gRPC.
    pub(crate) fn speaks_web(&mut self, web: Web, turned: bool) {
        self.grpc |= turned;
        self.web = Some(Spoken { web, turned });
    }

    /// It is subject to CORS: what this proxy says itself has to be readable, too. Of two who decide the first counts.
    pub(crate) fn decided_by(&mut self, cors: &Arc<Cors>, headers: &HeaderMap) {
        if let (None, Some(origin)) = (&self.page, headers.get(ORIGIN)) {
            self.page = Some(Box::new(Page { origin: origin.clone(), cors: Arc::clone(cors) }));
        }
    }

    /// What the backend is told of it is decided: an id that the client has given itself may be none.
    pub(crate) fn identified(&mut self, headers: &HeaderMap) {
        if let Some(details) = &mut self.details {
            details.request_id = headers.get(X_REQUEST_ID).cloned();
        }
    }

    /// Proxies in front have told whose it is.
    pub(crate) fn made_for(&mut self, client: IpAddr) {
        self.made_for = Some(client);
    }

    /// When all of it must be over; `usual` is the limit of a request whose route says nothing.
    pub(crate) fn deadline(&self, usual: Option<Duration>) -> Option<Instant> {
        self.limit.unwrap_or(usual).map(|limit| self.started + limit)
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

    /// The endpoint that has the request.
    pub(crate) fn upstream(&self) -> Option<EndpointAddr> {
        self.upstream.map(EndpointAddr::new)
    }

    /// Where the request went (inbound: the application).
    pub(crate) fn to(&mut self, upstream: SocketAddr) {
        self.upstream = Some(upstream);
    }

    /// Watches an answer to its end, which must have come by the `deadline`.
    pub(crate) fn answered(
        mut self: Box<Self>,
        mut response: Response<Body>,
        deadline: Option<Instant>,
    ) -> Response<Observed> {
        self.status = response.status().as_u16();
        self.read_grpc_status(response.headers());
        // A proxy further on has said why; it has counted it, too.
        if self.error.is_none() && (self.status >= 400 || self.grpc) {
            self.error = told(response.headers());
        }
        self.head_arrived();
        let spoken = self.web.take().filter(|spoken| spoken.turned);
        let web = spoken.map(|spoken| spoken.web.answer(&mut response));
        response.map(|body| Observed::new(body, deadline, web, self))
    }

    /// Tells balancing what the head of an answer says: the latency, and whether it is a failure.
    fn head_arrived(&mut self) {
        let failed = self.is_failure();
        if let Some(in_flight) = &mut self.in_flight {
            let now = Timestamp::now();
            if failed { in_flight.failed(now) } else { in_flight.answered(now) }
        }
    }

    /// Tells balancing how the whole answer went.
    fn ended(&mut self, broken: bool) {
        let outcome = if broken || self.is_failure() { Outcome::Failure } else { Outcome::Success };
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.ended(outcome);
        }
    }

    /// The endpoint that has the request gave no answer.
    pub(crate) fn unanswered(&mut self, code: ErrorCode) {
        if let Some(in_flight) = &mut self.in_flight
            && code.blames_upstream()
        {
            in_flight.failed(Timestamp::now());
        }
    }

    /// The endpoint has given an answer for which the request goes to another.
    pub(crate) fn answered_badly(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.failed(Timestamp::now());
        }
    }

    /// Whether the status is that of a server that failed, in HTTP or in gRPC.
    fn is_failure(&self) -> bool {
        self.status >= 500 || self.grpc_status.is_some_and(grpc_is_failure)
    }

    /// A frame of the answer has passed.
    pub(super) fn passed(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.response_bytes += data.len() as u64;
        } else if let Some(trailers) = frame.trailers_ref() {
            self.read_grpc_status(trailers);
        }
    }

    /// The answer is whole.
    pub(super) fn whole(mut self: Box<Self>) {
        self.ended(false);
    }

    /// The answer broke off.
    pub(super) fn broken(mut self: Box<Self>, code: ErrorCode) {
        self.fail(code);
        self.ended(code.blames_upstream());
    }

    fn fail(&mut self, code: ErrorCode) {
        self.error = Some(code);
        self.telemetry.of(self.facts.direction).error(code);
    }

    /// Answers in the application's place.
    pub(crate) fn refused(mut self: Box<Self>, code: ErrorCode) -> Response<Observed> {
        self.fail(code);
        self.unanswered(code);
        self.in_flight = None;
        if let Some(spoken) = &mut self.web {
            (spoken.turned, self.grpc) = (true, true);
        }
        let mut response = Refusal { code, grpc: self.grpc }.response();
        if let Some(page) = &self.page {
            page.cors.decorate(Some(&page.origin), response.headers_mut());
        }
        self.answered(response, None)
    }

    /// Ends a request that got no answer. Where both sides speak HTTP/2, a reset of the upstream is passed on as it is.
    pub(crate) fn failed_with(mut self: Box<Self>, failure: &Failure) -> Result<Answer<Observed>, Abort> {
        match failure.reset {
            // No page is told the code of a reset.
            Some(reason) if self.version == Version::HTTP_2 && self.web.is_none() => {
                self.fail(failure.code);
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
        asked_for(&self.uri, self.authority.as_ref(), 80)
    }
}

fn text(value: Option<&HeaderValue>) -> Option<Box<str>> {
    value.map(|value| String::from_utf8_lossy(value.as_bytes()).into())
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
            error: self.error.map(ErrorCode::as_str),
            duration: took,
        });
        let sampled = self.trace.records();
        let logged = self.telemetry.access.wants(self.failed(), sampled);
        if !(sampled || logged) {
            return;
        }
        let Some(details) = self.details.take() else { return };
        let end = SystemTime::now();
        let end_nanos = unix_nanos(end);
        let start_nanos = end_nanos.saturating_sub(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if sampled && let Some(spans) = &self.telemetry.spans {
            spans.submit(self.span(&details, start_nanos, end_nanos));
        }
        if logged {
            self.telemetry.access.submit(self.line(&details, start_nanos, took));
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
            route: self.route.as_deref().map(Into::into),
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
            request_bytes: Some(self.sent_bytes()),
            response_bytes: Some(self.response_bytes),
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
            forwarded_for: self.made_for,
            source_identity,
            destination_identity,
            tls: self.facts.tls,
            sent_bytes: self.sent_bytes(),
            received_bytes: self.response_bytes,
            error: self.error.map(ErrorCode::as_str),
        }
    }
}
