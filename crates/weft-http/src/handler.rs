//! What a connection hands its requests to.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use http::{Request, Response, StatusCode};

use crate::{Body, BodyError, ErrorCode, ResetCode, UpgradeIo, wire};

/// Answers the requests of one connection. It is built once per connection, with all that requests have in common.
pub trait Handler: 'static {
    /// The body of an answer: [`Body`], or a wrapper of it that watches its end.
    type Body: http_body::Body<Data = Bytes, Error = BodyError> + Unpin + 'static;

    /// Whether the other side is a proxy of the mesh, whose marks ([`crate::wire`]) mean something. An application's do not.
    fn is_link(&self) -> bool;

    /// Whether the other side may still begin requests; asked once in an idle time.
    fn is_valid(&self) -> bool {
        true
    }

    /// Told of what was refused before it was a request.
    fn refused(&self, _code: ErrorCode) {}

    /// Answers one request. Dropping the future means that the client has gone.
    ///
    /// A request for an upgrade or CONNECT comes with an empty body: what follows it belongs to the upgraded protocol.
    fn call(
        &self,
        request: Request<Body>,
        interim: Interim<'_>,
    ) -> impl Future<Output = Result<Answer<Self::Body>, Abort>>;
}

/// An answer, and what happens to the connection or stream after it.
pub struct Answer<B> {
    /// The response.
    pub response: Response<B>,
    /// Takes over the bytes both ways after a 101, or a 2xx to CONNECT.
    pub upgrade: Option<UpgradeTask>,
}

/// Runs an upgraded connection to its end. Boxed, because it is rare and lives long.
pub type UpgradeTask = Box<dyn FnOnce(UpgradeIo) -> Pin<Box<dyn Future<Output = ()>>>>;

impl<B> From<Response<B>> for Answer<B> {
    fn from(response: Response<B>) -> Self {
        Self { response, upgrade: None }
    }
}

impl<B> fmt::Debug for Answer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.response.status())
            .field("upgrade", &self.upgrade.is_some())
            .finish()
    }
}

/// Breaks the exchange off without an answer: an HTTP/1 connection is closed, an HTTP/2 stream is reset.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("exchange aborted: {0}")]
pub struct Abort(pub ResetCode);

/// Takes interim answers towards a client.
pub trait InterimSink {
    /// Queues one; it leaves with the connection's next turn. Where too much waits for the client to read, it is left out.
    fn send(&self, head: Response<()>);
}

/// The way back to the client for 1xx responses (RFC 9110 section 15.2).
#[derive(Clone, Copy)]
pub enum Interim<'a> {
    /// An HTTP/1 connection.
    Http1(&'a dyn InterimSink),
    /// An HTTP/2 stream.
    Http2(&'a dyn InterimSink),
    /// Nobody hears them.
    Nowhere,
}

impl fmt::Debug for Interim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1(_) => "Http1",
            Self::Http2(_) => "Http2",
            Self::Nowhere => "Nowhere",
        })
    }
}

/// Interim answers to one request, before its upstream is taken for one that never answers. Go's client gave up at five and
/// found that too few (its release 1.24 counts octets instead); a server that says 102 every ten seconds gets nearly three
/// hours out of these.
const MOST_INTERIM_ANSWERS: u16 = 1000;

/// How many interim answers may still come before the final one.
#[derive(Debug)]
pub(crate) struct InterimLeft(u16);

/// An upstream has sent more interim answers than anybody has a use for.
#[derive(Debug)]
pub(crate) struct TooManyInterim;

impl Default for InterimLeft {
    fn default() -> Self {
        Self(MOST_INTERIM_ANSWERS)
    }
}

impl InterimLeft {
    /// One has come.
    pub(crate) fn take(&mut self) -> Result<(), TooManyInterim> {
        self.0 = self.0.checked_sub(1).ok_or(TooManyInterim)?;
        Ok(())
    }
}

impl Interim<'_> {
    /// Passes an interim response on, without what it may not have.
    pub fn send(&self, mut response: Response<()>) {
        // That is no interim answer, and HTTP/2 has none (RFC 9113 section 8.6).
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        wire::clean_interim(response.headers_mut());
        match self {
            Self::Http1(client) | Self::Http2(client) => client.send(response),
            Self::Nowhere => {}
        }
    }
}
