//! Plaintext connections to an application: the own one (inbound), or one without a sidecar (permissive outbound).

use std::cell::Cell;
use std::rc::Rc;

use http::{Request, Response, Version};
use http_body::Body as _;
use tokio::net::TcpStream;
use weft_core::EndpointAddr;
use weft_http::wire::{self, Original};
use weft_http::{
    Body, BodyError, ErrorCode, ExchangeError, Http1Error, Http1Fault, Http1Opened, Http1Pool, Http2Client,
    Http2Pool, Interim, Lease, Opened, ResetCode, Sending, Sent, Unanswered, UpgradeIo, judge,
};
use weft_net::{ConnectError, ConnectOptions};
use weft_telemetry::metrics::families;
use weft_telemetry::{Counter, Gauge};

use crate::worker::Worker;

/// One application address, with the kept-alive connections that this worker has to it.
pub(crate) struct App {
    pub(crate) addr: EndpointAddr,
    /// A connection has asked for it since the last sweep.
    pub(crate) used: Cell<bool>,
    http1: Rc<Http1Pool>,
    http2: Http2Pool<Http2Client, ErrorCode>,
    http1_connections: ConnectionCounts,
    http2_connections: ConnectionCounts,
    connect: ConnectOptions,
    limits: weft_http::Http2Limits,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    /// The code of the upstream's RST_STREAM. It means something to an HTTP/2 client (RFC 9113 section 7: REFUSED_STREAM
    /// allows a retry; gRPC has a status for each), so it is passed on as it is.
    pub(crate) reset: Option<ResetCode>,
    pub(crate) effect: Effect,
}

/// What a failed request may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it was not sent, or the upstream says that it did not look at it.
    None,
    /// Nobody knows: the connection broke.
    Unknown,
    /// The upstream, or the client, ended it on purpose.
    Ended,
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        let effect = match code {
            code if code.is_connect() => Effect::None,
            ErrorCode::UpstreamClosed => Effect::Unknown,
            _ => Effect::Ended,
        };
        Self { code, reset: None, effect }
    }
}

impl From<ExchangeError> for Failure {
    fn from(error: ExchangeError) -> Self {
        let (reset, effect) = match &error {
            ExchangeError::Reset(reason) => (Some(*reason), Effect::Ended),
            ExchangeError::Unprocessed(_) | ExchangeError::NotSent(_) => {
                (Some(ResetCode::REFUSED_STREAM), Effect::None)
            }
            ExchangeError::Connection(_) => (None, Effect::Unknown),
            ExchangeError::RequestBody(_) | ExchangeError::Unsendable(_) => (None, Effect::Ended),
        };
        Self { code: exchange(&error), reset, effect }
    }
}

/// What an upgrade request came to.
pub(crate) enum Upgraded {
    /// The application accepted; its side of the connection.
    Accepted(Response<Body>, UpgradeIo),
    /// An ordinary answer.
    Answer(Response<Body>),
}

impl App {
    pub(crate) fn new(worker: &Worker, addr: EndpointAddr) -> Rc<Self> {
        Rc::new(Self {
            addr,
            used: Cell::default(),
            http1: Http1Pool::new(worker.http1_pool),
            http2: Http2Pool::new(worker.shared.config.limits.http2.max_connections_per_endpoint),
            http1_connections: ConnectionCounts::new(worker, addr, "http/1"),
            http2_connections: ConnectionCounts::new(worker, addr, "http/2"),
            connect: worker.connect,
            limits: worker.http2_app,
        })
    }

    /// Sends an HTTP/1 request at once over an idle connection, or gives it back where there is something to wait for.
    ///
    /// # Errors
    /// The request.
    pub(crate) fn send_now(&self, request: Request<Body>) -> Result<Sending, Box<Request<Body>>> {
        self.http1.send_now(request)
    }

    /// Waits for the answer of a request that was sent at once.
    pub(crate) async fn finish(
        self: &Rc<Self>,
        sending: Sending,
        interim: &Interim<'_>,
    ) -> Result<Response<Body>, Failure> {
        match sending.answer(interim).await {
            Ok(mut response) => {
                wire::response_to_link(&mut response);
                Ok(response)
            }
            // At once, over a new connection: there may be no other endpoint.
            Err(Unanswered::Stale(request)) => Box::pin(self.send(*request, interim)).await,
            Err(Unanswered::Failed(fault)) => Err(http1(Http1Error::Exchange(fault)).into()),
            Err(Unanswered::RequestBody(error)) => Err(http1(Http1Error::RequestBody(error)).into()),
        }
    }

    /// Sends an HTTP/2 request without a body at once over an open connection, or gives it back.
    ///
    /// # Errors
    /// The request.
    pub(crate) fn open_now(
        &self,
        request: Request<Body>,
    ) -> Result<Result<Sent, Failure>, Box<Request<Body>>> {
        if !request.body().is_end_stream() {
            return Err(Box::new(request));
        }
        let Some(lease) = self.http2.try_acquire(|_| true) else { return Err(Box::new(request)) };
        Ok(lease.slot.send_now(request.map(|_| ())).map_err(Failure::from))
    }

    /// Sends a request in the version its caller speaks.
    pub(crate) async fn send(
        self: &Rc<Self>,
        request: Request<Body>,
        interim: &Interim<'_>,
    ) -> Result<Response<Body>, Failure> {
        if request.version() == Version::HTTP_2 {
            let lease = self.http2().await?;
            let (parts, body) = request.into_parts();
            let mut response = lease.slot.exchange(Request::from_parts(parts, ()), body, interim).await?;
            wire::strip_internal(response.headers_mut());
            return Ok(response);
        }
        let sent = self.http1.send(request, interim, async || self.dial_http1().await).await;
        let mut response = sent.map_err(http1)?;
        wire::response_to_link(&mut response);
        Ok(response)
    }

    /// Sends a request for an upgrade, or CONNECT.
    pub(crate) async fn upgrade(
        self: &Rc<Self>,
        mut request: Request<Body>,
        original: Original,
        interim: &Interim<'_>,
    ) -> Result<Upgraded, ErrorCode> {
        if original.version == Version::HTTP_2 {
            let lease = self.http2().await?;
            let opened =
                lease.slot.open(request.map(drop), judge::is_tunnel).await.map_err(|e| exchange(&e))?;
            return Ok(match opened {
                Opened::Stream(mut head, io) => {
                    wire::strip_internal(head.headers_mut());
                    Upgraded::Accepted(head.map(|()| Body::Empty), UpgradeIo::Http2(io))
                }
                Opened::Answer(mut response) => {
                    wire::strip_internal(response.headers_mut());
                    Upgraded::Answer(response)
                }
            });
        }
        if let Some(protocol) = original.upgrade {
            wire::restore_upgrade(&mut request, protocol);
        }
        *request.body_mut() = Body::Empty;
        let opened = self.http1.open(request, interim, async || self.dial_http1().await).await;
        Ok(match opened.map_err(http1)? {
            Http1Opened::Answer(mut response) => {
                wire::response_to_link(&mut response);
                Upgraded::Answer(response)
            }
            Http1Opened::Switched(response, rest) => {
                let mut response = response.map(|()| Body::Empty);
                wire::response_to_link(&mut response);
                Upgraded::Accepted(response, UpgradeIo::Http1(rest))
            }
        })
    }

    /// A connection of its own, for bytes.
    pub(crate) async fn dial(&self) -> Result<TcpStream, ConnectError> {
        weft_net::connect(self.addr, &self.connect).await
    }

    /// A connection that is counted while it is open.
    async fn dial_counted(
        &self,
        counts: &ConnectionCounts,
    ) -> Result<(TcpStream, OpenConnection), ConnectError> {
        let io = self.dial().await?;
        Ok((io, OpenConnection::new(counts)))
    }

    async fn dial_http1(&self) -> Result<(TcpStream, OpenConnection), ConnectError> {
        self.dial_counted(&self.http1_connections).await
    }

    async fn http2(self: &Rc<Self>) -> Result<Lease<Http2Client>, ErrorCode> {
        self.http2.acquire(|_| true, || Rc::clone(self).open_http2()).await
    }

    async fn open_http2(self: Rc<Self>) -> Result<Http2Client, ErrorCode> {
        let (io, guard) =
            self.dial_counted(&self.http2_connections).await.map_err(|error| connect(&error))?;
        let opened = Http2Client::handshake(io, &self.limits, guard).await;
        // Nothing was sent, so that it can be sent elsewhere.
        opened.map_err(|error| match error.is_library() && error.reason() != Some(h2::Reason::NO_ERROR) {
            true => ErrorCode::UpstreamProtocol,
            false => ErrorCode::ConnectFailed,
        })
    }
}

/// The pooled connections of one protocol.
struct ConnectionCounts {
    open: Gauge,
    opened: Counter,
}

impl ConnectionCounts {
    fn new(worker: &Worker, addr: EndpointAddr, protocol: &str) -> Self {
        let labels = [&*addr.to_string(), protocol];
        let shard = &worker.telemetry.shard;
        Self {
            open: shard.gauge(&families::APP_CONNECTIONS_OPEN, &labels),
            opened: shard.counter(&families::APP_CONNECTIONS_OPENED, &labels),
        }
    }
}

/// Counts a pooled connection as open.
struct OpenConnection(Gauge);

impl OpenConnection {
    fn new(counts: &ConnectionCounts) -> Self {
        counts.opened.inc();
        counts.open.inc();
        Self(counts.open.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn connect(error: &ConnectError) -> ErrorCode {
    match error {
        ConnectError::Refused { .. } => ErrorCode::ConnectRefused,
        ConnectError::TimedOut { .. } => ErrorCode::ConnectTimeout,
        _ => ErrorCode::ConnectFailed,
    }
}

fn http1(error: Http1Error<ConnectError>) -> ErrorCode {
    match error {
        Http1Error::Connect(error) => connect(&error),
        Http1Error::Exchange(Http1Fault::Malformed(_)) => ErrorCode::UpstreamProtocol,
        Http1Error::Exchange(_) => ErrorCode::UpstreamClosed,
        Http1Error::RequestBody(BodyError::Http1(Http1Fault::Stalled)) => ErrorCode::RequestTimeout,
        Http1Error::RequestBody(_) => ErrorCode::BadRequest,
    }
}

/// The code of a failed exchange over HTTP/2.
pub(crate) fn exchange(error: &ExchangeError) -> ErrorCode {
    match error {
        ExchangeError::Reset(_) => ErrorCode::UpstreamReset,
        ExchangeError::Unprocessed(_) | ExchangeError::NotSent(_) => ErrorCode::UpstreamRefused,
        ExchangeError::Connection(_) => ErrorCode::UpstreamClosed,
        ExchangeError::RequestBody(_) | ExchangeError::Unsendable(_) => ErrorCode::BadRequest,
    }
}
