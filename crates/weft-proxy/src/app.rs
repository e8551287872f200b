//! Plaintext connections to an application: the own one (inbound), or one without a sidecar (permissive outbound).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::net::TcpStream;
use weft_core::EndpointAddr;
use weft_http::wire::{self, Original};
use weft_http::{
    Body, ErrorCode, ExchangeError, Http1Error, Http1Pool, Http2Client, Interim, Opened, Sent, Unanswered,
    UpgradeIo, judge,
};
use weft_net::{ConnectError, ConnectOptions};
use weft_telemetry::metrics::families;
use weft_telemetry::{Counter, Gauge};

use crate::dialing::Dials;
use crate::worker::Worker;

/// One application address, with the kept-alive connections that this worker has to it.
pub(crate) struct App {
    pub(crate) addr: EndpointAddr,
    /// A connection has asked for it since the last sweep.
    pub(crate) used: Cell<bool>,
    http1: Rc<Http1Pool>,
    http2: RefCell<Vec<Rc<Http2Client>>>,
    http2_dials: Dials<Rc<Http2Client>, ErrorCode>,
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
    pub(crate) reset: Option<h2::Reason>,
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
                (Some(h2::Reason::REFUSED_STREAM), Effect::None)
            }
            ExchangeError::Connection(_) => (None, Effect::Unknown),
            ExchangeError::RequestBody(_) => (None, Effect::Ended),
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
            http2: RefCell::default(),
            http2_dials: Dials::default(),
            http1_connections: ConnectionCounts::new(worker, addr, "http/1"),
            http2_connections: ConnectionCounts::new(worker, addr, "http/2"),
            connect: worker.connect,
            limits: worker.http2_pool,
        })
    }

    /// Sends an HTTP/1 request at once over an idle connection, or gives it back where there is something to wait for.
    ///
    /// # Errors
    /// The request.
    pub(crate) fn send_now(
        self: &Rc<Self>,
        request: Request<Body>,
    ) -> Result<impl Future<Output = Result<Response<Body>, Failure>> + use<>, Box<Request<Body>>> {
        let answer = self.http1.send_now(request)?;
        let app = Rc::clone(self);
        Ok(async move {
            match answer.await {
                Ok(response) => ordinary(response),
                Err(Unanswered::Failed(error)) => Err(http1(Http1Error::Exchange(error)).into()),
                Err(Unanswered::Unsent(request)) => Box::pin(app.send(*request, &Interim::Http1)).await,
            }
        })
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
        let Some(client) = self.usable_http2() else { return Err(Box::new(request)) };
        Ok(client.send_now(request.map(|_| ())).map_err(Failure::from))
    }

    /// Sends a request in the version its caller speaks.
    pub(crate) async fn send(
        self: &Rc<Self>,
        request: Request<Body>,
        interim: &Interim<'_>,
    ) -> Result<Response<Body>, Failure> {
        if request.version() == Version::HTTP_2 {
            let client = self.http2().await?;
            let (parts, body) = request.into_parts();
            let mut response = client.exchange(Request::from_parts(parts, ()), body, interim).await?;
            wire::strip_internal(response.headers_mut());
            return Ok(response);
        }
        let sent = self.http1.send(request, interim, || self.dial_counted(&self.http1_connections)).await;
        ordinary(sent.map_err(http1)?)
    }

    /// Sends a request for an upgrade, or CONNECT.
    pub(crate) async fn upgrade(
        self: &Rc<Self>,
        mut request: Request<Body>,
        original: Original,
    ) -> Result<Upgraded, ErrorCode> {
        if original.version == Version::HTTP_2 {
            let client = self.http2().await?;
            let opened = client.open(request.map(drop), judge::is_tunnel).await.map_err(|e| exchange(&e))?;
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
        let connect = request.method() == Method::CONNECT;
        if let Some(protocol) = original.upgrade.clone() {
            wire::restore_upgrade(request.headers_mut(), protocol);
        }
        *request.body_mut() = Body::Empty;
        let sent = self.http1.send_last(request, || self.dial_counted(&self.http1_connections)).await;
        let mut response = sent.map_err(http1)?;
        if !judge::hands_over(original.upgrade.as_ref(), &response) {
            if connect && response.status().is_success() {
                response = declined(response).await?;
            }
            return ordinary(response).map(Upgraded::Answer).map_err(|failure| failure.code);
        }
        let io = hyper::upgrade::on(&mut response).await.map_err(|_| ErrorCode::UpstreamClosed)?;
        wire::response_to_link(&mut response);
        Ok(Upgraded::Accepted(
            response.map(|_| Body::Empty),
            UpgradeIo::Http1(hyper_util::rt::TokioIo::new(io)),
        ))
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

    fn usable_http2(&self) -> Option<Rc<Http2Client>> {
        let mut clients = self.http2.borrow_mut();
        clients.retain(|client| client.is_open());
        clients.iter().find(|client| client.has_room()).cloned()
    }

    async fn http2(self: &Rc<Self>) -> Result<Rc<Http2Client>, ErrorCode> {
        self.http2_dials.connection(|| self.usable_http2(), || Rc::clone(self).open_http2()).await
    }

    async fn open_http2(self: Rc<Self>) -> Result<Rc<Http2Client>, ErrorCode> {
        let (io, guard) =
            self.dial_counted(&self.http2_connections).await.map_err(|error| connect(&error))?;
        let client =
            Http2Client::handshake(io, &self.limits, guard).await.map_err(|_| ErrorCode::UpstreamProtocol)?;
        let client = Rc::new(client);
        self.http2.borrow_mut().push(Rc::clone(&client));
        Ok(client)
    }
}

/// An HTTP/1 answer behind which nothing else begins.
fn ordinary(mut response: Response<Body>) -> Result<Response<Body>, Failure> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // To what nobody asked for.
        return Err(ErrorCode::UpstreamProtocol.into());
    }
    wire::response_to_link(&mut response);
    Ok(response)
}

/// A 2xx to CONNECT that has a body.
async fn declined(mut response: Response<Body>) -> Result<Response<Body>, ErrorCode> {
    let io = hyper::upgrade::on(&mut response).await.map_err(|_| ErrorCode::UpstreamClosed)?;
    let body = weft_http::declined(io, response.headers()).await.map_err(|_| ErrorCode::UpstreamProtocol)?;
    Ok(response.map(|_| body))
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
        Http1Error::Exchange(error) if error.is_parse() => ErrorCode::UpstreamProtocol,
        Http1Error::Exchange(_) => ErrorCode::UpstreamClosed,
    }
}

/// The code of a failed exchange over HTTP/2.
pub(crate) fn exchange(error: &ExchangeError) -> ErrorCode {
    match error {
        ExchangeError::Reset(_) | ExchangeError::Unprocessed(_) => ErrorCode::UpstreamReset,
        ExchangeError::NotSent(_) | ExchangeError::Connection(_) => ErrorCode::UpstreamClosed,
        ExchangeError::RequestBody(_) => ErrorCode::BadRequest,
    }
}
