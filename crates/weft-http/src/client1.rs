//! Requests to an HTTP/1 application over kept-alive connections.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
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
    idle: RefCell<Vec<Idle>>,
    limits: Http1Limits,
    /// A task closes what has been idle for too long. One for all: a timer for each connection would have to be looked
    /// at with each request.
    swept: Cell<bool>,
}

/// Connections kept idle per address and worker. More than this were a burst; the application's memory is worth more.
const MAX_IDLE: usize = 256;

/// A share of the idle limit: how often idle connections are looked at, and so how late one may be closed.
const LOOKS: u32 = 4;

/// A connection that nobody uses. It closes when its sending half is dropped.
#[derive(Debug)]
struct Idle {
    send: SendRequest<Body>,
    /// How often it was found idle.
    looks: u32,
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
    lease: Option<(Rc<Http1Pool>, SendRequest<Body>)>,
}

impl Http1Pool {
    /// An empty pool.
    pub fn new(limits: Http1Limits) -> Rc<Self> {
        Rc::new(Self { idle: RefCell::default(), limits, swept: Cell::default() })
    }

    /// Sends a request over an idle connection or a new one. What `connect` gives beside a connection is held as long as
    /// that lives.
    ///
    /// An idle connection may be closed by the application in the very moment it is picked. Where hyper says that nothing
    /// was written, the request goes over another.
    ///
    /// # Errors
    /// See [`Http1Error`].
    pub async fn send<S, G, C>(
        self: &Rc<Self>,
        mut request: Request<Body>,
        interim: &Interim<'_>,
        connect: impl AsyncFn() -> Result<(S, G), C>,
    ) -> Result<Response<Body>, Http1Error<C>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        G: 'static,
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

    /// Sends a request behind which another protocol may begin. Its connection is not used again, whatever the answer is:
    /// what an application has read of it is for the application to know.
    ///
    /// # Errors
    /// See [`Http1Error`].
    pub async fn send_last<S, G, C>(
        self: &Rc<Self>,
        request: Request<Body>,
        connect: impl AsyncFn() -> Result<(S, G), C>,
    ) -> Result<Response<Body>, Http1Error<C>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        G: 'static,
    {
        self.exchange(request, false, &connect).await
    }

    /// Sends a request over an idle connection at once, or gives it back where there is none (or where it waits for 100,
    /// which takes more care).
    ///
    /// # Errors
    /// The request.
    pub fn send_now(
        self: &Rc<Self>,
        request: Request<Body>,
    ) -> Result<impl Future<Output = Result<Response<Body>, Unanswered>> + use<>, Box<Request<Body>>> {
        if expects_continue(&request) {
            return Err(Box::new(request));
        }
        let Some(mut send) = self.take_idle() else { return Err(Box::new(request)) };
        // hyper's future has room for the whole request. It would lie twice in each of the futures around it, from here up
        // to the stream's, and each of them is moved and allocated with all its room.
        let answer = Box::pin(send.try_send_request(request));
        let pool = Rc::clone(self);
        Ok(async move {
            match answer.await {
                Ok(response) => Ok(pool.lease(response, send, true)),
                Err(mut failure) => Err(match failure.take_message() {
                    Some(unsent) => Unanswered::Unsent(Box::new(unsent)),
                    None => Unanswered::Failed(failure.into_error()),
                }),
            }
        })
    }

    async fn exchange<S, G, C>(
        self: &Rc<Self>,
        mut request: Request<Body>,
        reusable: bool,
        connect: &impl AsyncFn() -> Result<(S, G), C>,
    ) -> Result<Response<Body>, Http1Error<C>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        G: 'static,
    {
        loop {
            let (mut send, reused) = match self.take_idle() {
                Some(send) => (send, true),
                None => (self.connect(connect).await?, false),
            };
            match send.try_send_request(request).await {
                Ok(response) => return Ok(self.lease(response, send, reusable)),
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
        send: SendRequest<Body>,
        reusable: bool,
    ) -> Response<Body> {
        // An upgraded connection is no longer HTTP; it lives on in the response's extensions.
        let reusable = reusable && response.status() != http::StatusCode::SWITCHING_PROTOCOLS;
        response.map(|incoming| {
            if incoming.is_end_stream() {
                if reusable {
                    self.put_idle(send);
                }
                return Body::Empty;
            }
            Body::Pooled(PooledBody { incoming, lease: reusable.then(|| (Rc::clone(self), send)) })
        })
    }

    /// Takes the connection that was used last, and no look at the many below it.
    fn take_idle(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.borrow_mut();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            let send = &idle.get(at)?.send;
            if send.is_ready() {
                return Some(idle.remove(at).send);
            }
            // One that is neither ready nor closed still writes its last request body, or its task has not run since its
            // last answer.
            if send.is_closed() {
                idle.remove(at);
            }
        }
        None
    }

    fn put_idle(self: &Rc<Self>, send: SendRequest<Body>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MAX_IDLE || send.is_closed() {
            return;
        }
        idle.push(Idle { send, looks: 0 });
        if !self.swept.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self), self.limits.idle / LOOKS));
        }
    }

    /// Closes connections that have been idle for the limit. `false`: there is none left.
    fn look(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|idle| {
            idle.looks += 1;
            idle.looks <= LOOKS && !idle.send.is_closed()
        });
        !idle.is_empty()
    }

    async fn connect<S, G, C>(
        self: &Rc<Self>,
        connect: &impl AsyncFn() -> Result<(S, G), C>,
    ) -> Result<SendRequest<Body>, Http1Error<C>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        G: 'static,
    {
        let (io, guard) = connect().await.map_err(Http1Error::Connect)?;
        let mut builder = http1::Builder::new();
        builder.max_header_size(self.limits.max_header_bytes);
        builder.max_buf_size(self.limits.max_header_bytes.max(READ_BUFFER));
        if self.limits.max_headers != Http1Limits::default().max_headers {
            builder.max_headers(self.limits.max_headers);
        }
        let (send, driver) = builder.handshake(TokioIo::new(io)).await?;
        let driver = driver.with_upgrades();
        tokio::task::spawn_local(async move {
            let _guard = guard;
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection to the application ended");
            }
        });
        Ok(send)
    }
}

/// Looks after the idle connections of a pool, as long as it has any.
async fn sweep(pool: Weak<Http1Pool>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        if !pool.look() {
            return pool.swept.set(false);
        }
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
        if let Some((pool, send)) = self.lease.take() {
            pool.put_idle(send);
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
