//! Requests to an HTTP/1 application over kept-alive connections.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::gate::{self, expects_continue};
use crate::limits::READ_BUFFER;
use crate::{Body, BodyError, Http1Limits, Interim};

/// The idle connections of one worker to one application address, the last used first.
#[derive(Debug)]
pub struct Http1Pool {
    idle: RefCell<Vec<Connection>>,
    limits: Http1Limits,
}

/// Connections kept idle per address and worker. More than this were a burst; the application's memory is worth more.
const MAX_IDLE: usize = 256;

/// One connection to the application, ours while we hold it.
#[derive(Debug)]
struct Connection {
    send: SendRequest<Body>,
    /// Counts requests; tells the connection's idle timer whether there were any.
    uses: Rc<Cell<u64>>,
}

/// Why the application gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Http1Error<C> {
    /// No connection could be made.
    #[error("connect: {0}")]
    Connect(#[source] C),
    /// The connection broke, or the application's answer was not HTTP.
    #[error(transparent)]
    Exchange(#[from] hyper::Error),
}

/// Why an idle connection brought no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The connection was closed by the application in the moment it was picked; nothing was written.
    Unsent(Box<Request<Body>>),
    /// It broke after that.
    Failed(hyper::Error),
}

/// A response body whose connection goes back to its pool at the end.
#[derive(Debug)]
pub struct PooledBody {
    incoming: Incoming,
    lease: Option<(Rc<Http1Pool>, Connection)>,
}

impl Http1Pool {
    /// An empty pool.
    pub fn new(limits: Http1Limits) -> Rc<Self> {
        Rc::new(Self { idle: RefCell::default(), limits })
    }

    /// Sends a request over an idle connection or a new one.
    ///
    /// An idle connection may be closed by the application in the very moment it is picked. Where hyper says that nothing
    /// was written, the request goes over another.
    ///
    /// # Errors
    /// See [`Http1Error`].
    pub async fn send<S, C>(
        self: &Rc<Self>,
        mut request: Request<Body>,
        interim: &Interim<'_>,
        connect: impl AsyncFn() -> Result<S, C>,
    ) -> Result<Response<Body>, Http1Error<C>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if !expects_continue(&request) {
            return self.exchange(request, true, &connect).await;
        }
        let mut informational = gate::watch(&mut request, interim);
        // A body that was never asked for stays on the connection, so it is not used again.
        let mut exchange = std::pin::pin!(self.exchange(request, false, &connect));
        poll_fn(|cx| {
            let result = exchange.as_mut().poll(cx);
            informational.poll(cx, interim);
            result
        })
        .await
    }

    /// Sends a request over an idle connection at once, or gives it back where there is none (or where it waits for 100,
    /// which takes more care).
    ///
    /// # Errors
    /// The request.
    #[expect(clippy::result_large_err, reason = "the request itself, and it is what goes on")]
    pub fn send_now(
        self: &Rc<Self>,
        request: Request<Body>,
    ) -> Result<impl Future<Output = Result<Response<Body>, Unanswered>> + use<>, Request<Body>> {
        if expects_continue(&request) {
            return Err(request);
        }
        let Some(mut connection) = self.take_idle() else { return Err(request) };
        connection.uses.set(connection.uses.get().wrapping_add(1));
        // hyper's future has room for the whole request. It would lie twice in each of the futures around it, from here up
        // to the stream's, and each of them is moved and allocated with all its room.
        let answer = Box::pin(connection.send.try_send_request(request));
        let pool = Rc::clone(self);
        Ok(async move {
            match answer.await {
                Ok(response) => Ok(pool.lease(response, connection, true)),
                Err(mut failure) => Err(match failure.take_message() {
                    Some(unsent) => Unanswered::Unsent(Box::new(unsent)),
                    None => Unanswered::Failed(failure.into_error()),
                }),
            }
        })
    }

    async fn exchange<S, C>(
        self: &Rc<Self>,
        mut request: Request<Body>,
        reusable: bool,
        connect: &impl AsyncFn() -> Result<S, C>,
    ) -> Result<Response<Body>, Http1Error<C>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        loop {
            let (mut connection, reused) = match self.take_idle() {
                Some(connection) => (connection, true),
                None => (self.connect(connect).await?, false),
            };
            connection.uses.set(connection.uses.get().wrapping_add(1));
            match connection.send.try_send_request(request).await {
                Ok(response) => return Ok(self.lease(response, connection, reusable)),
                Err(mut failure) => match failure.take_message() {
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(failure.into_error().into()),
                },
            }
        }
    }

    fn lease(
        self: &Rc<Self>,
        response: Response<Incoming>,
        connection: Connection,
        reusable: bool,
    ) -> Response<Body> {
        // An upgraded connection is no longer HTTP; it lives on in the response's extensions.
        let reusable = reusable && response.status() != http::StatusCode::SWITCHING_PROTOCOLS;
        response.map(|incoming| {
            if incoming.is_end_stream() {
                if reusable {
                    self.put_idle(connection);
                }
                return Body::Empty;
            }
            Body::Pooled(PooledBody { incoming, lease: reusable.then(|| (Rc::clone(self), connection)) })
        })
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|connection| !connection.send.is_closed());
        // One that is not ready still writes its last request body, or its task has not run since its last answer.
        let ready = idle.iter().rposition(|connection| connection.send.is_ready())?;
        Some(idle.remove(ready))
    }

    fn put_idle(&self, connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE && !connection.send.is_closed() {
            idle.push(connection);
        }
    }

    async fn connect<S, C>(
        self: &Rc<Self>,
        connect: &impl AsyncFn() -> Result<S, C>,
    ) -> Result<Connection, Http1Error<C>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = connect().await.map_err(Http1Error::Connect)?;
        let mut builder = http1::Builder::new();
        builder.max_header_size(self.limits.max_header_bytes);
        builder.max_buf_size(self.limits.max_header_bytes.max(READ_BUFFER));
        if self.limits.max_headers != Http1Limits::default().max_headers {
            builder.max_headers(self.limits.max_headers);
        }
        let (send, driver) = builder.handshake(TokioIo::new(io)).await?;
        let uses = Rc::new(Cell::new(0));
        tokio::task::spawn_local(drive(
            driver.with_upgrades(),
            Rc::clone(&uses),
            self.limits.idle,
            Rc::clone(self),
        ));
        Ok(Connection { send, uses })
    }
}

/// Drives a connection until it ends or has had no request for `idle`.
async fn drive(
    driver: impl Future<Output = Result<(), hyper::Error>>,
    uses: Rc<Cell<u64>>,
    idle: Duration,
    pool: Rc<Http1Pool>,
) {
    let mut driver = std::pin::pin!(driver);
    let mut seen = u64::MAX;
    loop {
        match tokio::time::timeout(idle, driver.as_mut()).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => {
                tracing::debug!(%error, "connection to the application ended");
                break;
            }
            // One strong count is ours, the other is held by whoever has the connection: the pool or a request.
            Err(_) if uses.get() == seen && pool.is_idle(&uses) => break,
            Err(_) => seen = uses.get(),
        }
    }
}

impl Http1Pool {
    fn is_idle(&self, uses: &Rc<Cell<u64>>) -> bool {
        self.idle.borrow().iter().any(|connection| Rc::ptr_eq(&connection.uses, uses))
    }
}

impl PooledBody {
    pub(crate) fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) {
            self.give_back();
        }
        frame.map(|frame| frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn give_back(&mut self) {
        if let Some((pool, connection)) = self.lease.take() {
            pool.put_idle(connection);
        }
    }
}

impl Drop for PooledBody {
    fn drop(&mut self) {
        // A reader that trusts `is_end_stream` does not poll for the end. A body that is dropped before its end takes
        // its connection with it: what is left of the answer cannot be skipped.
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }
}
