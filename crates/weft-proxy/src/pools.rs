//! Plaintext HTTP connections to one address, in both versions.
//!
//! There are two whom they lead to: the own application ([`crate::application`]), and a peer without a sidecar
//! ([`crate::cluster`]). They differ in how a connection is made, and in who may be asked instead.

use std::cell::Cell;
use std::rc::Rc;

use http::{Request, Response, Version};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use weft_core::EndpointAddr;
use weft_http::wire::{self, Original};
use weft_http::{
    Body, ErrorCode, Http1Error, Http1Opened, Http1Pool, Http2Client, Http2Pool, Interim, Lease, Opened,
    Sending, Sent, Unanswered, UpgradeIo, judge,
};
use weft_telemetry::metrics::families;
use weft_telemetry::{Counter, Gauge, Shard};

use crate::cluster::Speaks;
use crate::dial::DialError;
use crate::failure::Failure;
use crate::limits::Limits;
use crate::routing::convert;

/// Makes the connections of a [`Pools`].
pub(crate) trait Dial: 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + 'static;

    /// Connects.
    ///
    /// # Errors
    /// There is no connection; nothing was sent.
    fn dial(&self, speaks: Speaks) -> impl Future<Output = Result<Self::Io, DialError>>;

    /// Whether the next connection tells which version is spoken ([`Speaks::Either`]).
    fn is_unsettled(&self) -> bool {
        false
    }

    /// Which one that told.
    fn is_http2(_io: &Self::Io) -> bool {
        false
    }

    /// Whether connections are behind TLS.
    fn is_secured(&self) -> bool {
        false
    }

    /// Has a connection end in a reset when it is closed.
    fn reset_on_close(io: &Self::Io);
}

/// The kept-alive connections of one worker to one address.
pub(crate) struct Pools<D> {
    dial: D,
    http1: Rc<Http1Pool>,
    http2: Http2Pool<Http2Client, DialError>,
    http2_limits: weft_http::Http2Limits,
    http1_connections: ConnectionCounts,
    http2_connections: ConnectionCounts,
}

/// A request that was sent over an open connection.
pub(crate) enum Started {
    /// Over an idle one: the usual case.
    Http1(Sending),
    /// Beside others. (Apart from the future of the request, as the other.)
    Http2(Box<Sent>),
}

/// A request that was sent and has no answer.
pub(crate) struct Unsent {
    pub(crate) failure: Failure,
    /// Its head, as it was sent, where it is still there (HTTP/1).
    pub(crate) head: Option<Box<Request<()>>>,
}

impl From<Failure> for Unsent {
    fn from(failure: Failure) -> Self {
        Self { failure, head: None }
    }
}

/// An answer, or what begins behind one.
pub(crate) enum Behind {
    /// An ordinary answer's body.
    Body(Body),
    /// The other side of an upgraded connection or a tunnel.
    Tunnel(UpgradeIo),
}

impl<D: Dial> Pools<D> {
    /// No connection yet; `most` HTTP/2 ones at a time.
    pub(crate) fn new(addr: EndpointAddr, dial: D, limits: &Limits, most: usize, shard: &Shard) -> Self {
        Self {
            dial,
            http1: Http1Pool::new(limits.http1_pool),
            http2: Http2Pool::new(most),
            http2_limits: limits.http2_app,
            http1_connections: ConnectionCounts::new(shard, addr, "http/1"),
            http2_connections: ConnectionCounts::new(shard, addr, "http/2"),
        }
    }

    /// Whether a request of this version could be sent at once.
    pub(crate) fn is_open(&self, version: Version) -> bool {
        if version == Version::HTTP_2 { self.http2.is_connected() } else { self.http1.idle() > 0 }
    }

    /// Sends a request in the version its caller speaks over a connection that is open (HTTP/2: only one without a body), or gives
    /// it back where there is something to wait for.
    ///
    /// # Errors
    /// The request. (Within: it could not be sent.)
    pub(crate) fn start(
        &self,
        request: Request<Body>,
    ) -> Result<Result<Started, Failure>, Box<Request<Body>>> {
        if request.version() != Version::HTTP_2 {
            return self.http1.send_now(request).map(|sending| Ok(Started::Http1(sending)));
        }
        if !request.body().is_end_stream() {
            return Err(Box::new(request));
        }
        let Some(lease) = self.http2.try_acquire(|_| true) else { return Err(Box::new(request)) };
        let mut request = request.map(|_| ());
        self.name_scheme(&mut request);
        let sent = lease.slot.send_now(request);
        Ok(sent.map(|sent| Started::Http2(Box::new(sent))).map_err(Failure::from))
    }

    /// Waits for the answer of a request that was sent at once.
    pub(crate) async fn finish(
        self: &Rc<Self>,
        started: Started,
        interim: &Interim<'_>,
    ) -> Result<Response<Body>, Unsent> {
        let sending = match started {
            Started::Http1(sending) => sending,
            Started::Http2(sent) => {
                let mut response = sent.head(interim).await.map_err(Failure::from)?;
                wire::strip_internal(response.headers_mut());
                return Ok(response);
            }
        };
        match sending.answer(interim).await {
            Ok(mut response) => {
                wire::response_to_link(&mut response);
                Ok(response)
            }
            // At once, over a new connection: there may be no other endpoint.
            Err(Unanswered::Stale(request)) => Box::pin(self.send_stale(*request, interim)).await,
            Err(Unanswered::Failed(fault, head)) => {
                Err(Unsent { failure: Http1Error::Exchange(fault).into(), head: Some(head) })
            }
            Err(Unanswered::RequestBody(error)) => Err(Failure::from(Http1Error::RequestBody(error)).into()),
        }
    }

    /// Sends a request without a body whose connection was closed as it came.
    async fn send_stale(
        self: &Rc<Self>,
        request: Request<Body>,
        interim: &Interim<'_>,
    ) -> Result<Response<Body>, Unsent> {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let again = head.clone().map(|()| body);
        let sent = self.send(again, interim).await;
        sent.map_err(|failure| Unsent { failure, head: Some(Box::new(head)) })
    }

    /// Sends a request in the version its caller speaks, or in that which the other end takes, where that is not settled yet.
    pub(crate) async fn send(
        self: &Rc<Self>,
        request: Request<Body>,
        interim: &Interim<'_>,
    ) -> Result<Response<Body>, Failure> {
        if request.version() == Version::HTTP_2 {
            let lease = self.http2().await?;
            return self.over_http2(lease, request, interim).await;
        }
        // A login belongs to its connection, which HTTP/2 does not know.
        if self.dial.is_unsettled() && !wire::has_own_login(&request) {
            return Box::pin(self.send_first(request, interim)).await;
        }
        let dial = async || self.dial_http1().await;
        let mut response = self.http1.send(request, interim, dial).await?;
        wire::response_to_link(&mut response);
        Ok(response)
    }

    /// Sends a request of HTTP/1.1 over a connection that tells which version is spoken.
    async fn send_first(
        self: &Rc<Self>,
        mut request: Request<Body>,
        interim: &Interim<'_>,
    ) -> Result<Response<Body>, Failure> {
        let io = self.dial.dial(Speaks::Either).await?;
        let is_http2 = D::is_http2(&io);
        let first = Cell::new(Some(io));
        if is_http2 {
            convert::reversion(&mut request, Version::HTTP_2)?;
            let open = || Rc::clone(self).open_first(first.take());
            let lease = self.http2.acquire(|_| true, open).await?;
            return self.over_http2(lease, request, interim).await;
        }
        let dial = async || match first.take() {
            Some(io) => {
                let guard = OpenConnection::new(&self.http1_connections);
                Ok((io, guard, D::reset_on_close as fn(&D::Io)))
            }
            None => self.dial_http1().await,
        };
        let mut response = self.http1.send(request, interim, dial).await?;
        wire::response_to_link(&mut response);
        Ok(response)
    }

    async fn over_http2(
        &self,
        lease: Lease<Http2Client>,
        request: Request<Body>,
        interim: &Interim<'_>,
    ) -> Result<Response<Body>, Failure> {
        let (parts, body) = request.into_parts();
        let mut request = Request::from_parts(parts, ());
        self.name_scheme(&mut request);
        let mut response = lease.slot.exchange(request, body, interim).await?;
        wire::strip_internal(response.headers_mut());
        Ok(response)
    }

    /// Servers compare the scheme with what they know of the connection (RFC 9113 section 8.3.1).
    fn name_scheme<B>(&self, request: &mut Request<B>) {
        if self.dial.is_secured() {
            wire::secure(request);
        }
    }

    /// Sends a request for an upgrade, or CONNECT.
    pub(crate) async fn open(
        self: &Rc<Self>,
        mut request: Request<Body>,
        original: Original,
        interim: &Interim<'_>,
    ) -> Result<Response<Behind>, Failure> {
        if original.version == Version::HTTP_2 {
            let lease = self.http2().await?;
            self.name_scheme(&mut request);
            let opened = lease.slot.open(request.map(drop), judge::is_tunnel).await?;
            let mut response = match opened {
                Opened::Stream(head, io) => head.map(|()| Behind::Tunnel(UpgradeIo::Http2(io))),
                Opened::Answer(response) => response.map(Behind::Body),
            };
            wire::strip_internal(response.headers_mut());
            return Ok(response);
        }
        if let Some(protocol) = original.upgrade {
            wire::restore_upgrade(&mut request, protocol);
        }
        *request.body_mut() = Body::Empty;
        let dial = async || self.dial_http1().await;
        let mut response = match self.http1.open(request, interim, dial).await? {
            Http1Opened::Answer(response) => response.map(Behind::Body),
            Http1Opened::Switched(head, rest) => head.map(|()| Behind::Tunnel(UpgradeIo::Http1(rest))),
        };
        wire::response_to_link(&mut response);
        Ok(response)
    }

    /// A connection that is counted while it is open.
    async fn dial_counted(
        &self,
        counts: &ConnectionCounts,
        speaks: Speaks,
    ) -> Result<(D::Io, OpenConnection), DialError> {
        let io = self.dial.dial(speaks).await?;
        Ok((io, OpenConnection::new(counts)))
    }

    /// The same for HTTP/1, with the way to reset it.
    async fn dial_http1(&self) -> Result<(D::Io, OpenConnection, fn(&D::Io)), DialError> {
        let (io, guard) = self.dial_counted(&self.http1_connections, Speaks::Http1).await?;
        Ok((io, guard, D::reset_on_close as fn(&D::Io)))
    }

    async fn http2(self: &Rc<Self>) -> Result<Lease<Http2Client>, DialError> {
        self.http2.acquire(|_| true, || Rc::clone(self).open_http2()).await
    }

    async fn open_http2(self: Rc<Self>) -> Result<Http2Client, DialError> {
        let (io, guard) = self.dial_counted(&self.http2_connections, Speaks::Http2).await?;
        self.over(io, guard).await
    }

    async fn open_first(self: Rc<Self>, first: Option<D::Io>) -> Result<Http2Client, DialError> {
        let Some(io) = first else { return self.open_http2().await };
        let guard = OpenConnection::new(&self.http2_connections);
        self.over(io, guard).await
    }

    /// Begins HTTP/2 on a connection.
    async fn over(self: Rc<Self>, io: D::Io, guard: OpenConnection) -> Result<Http2Client, DialError> {
        let opened = Http2Client::handshake(io, &self.http2_limits, guard).await;
        // Nothing was sent, so that it can be sent elsewhere.
        opened.map_err(|error| {
            let code = match error.is_library() && error.reason() != Some(h2::Reason::NO_ERROR) {
                true => ErrorCode::UpstreamProtocol,
                false => ErrorCode::ConnectFailed,
            };
            DialError::new(code, &error)
        })
    }
}

/// The pooled connections of one protocol.
struct ConnectionCounts {
    open: Gauge,
    opened: Counter,
}

impl ConnectionCounts {
    fn new(shard: &Shard, addr: EndpointAddr, protocol: &str) -> Self {
        let labels = [&*addr.to_string(), protocol];
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
