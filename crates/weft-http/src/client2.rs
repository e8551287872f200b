//! Requests over an HTTP/2 connection: a mesh link, or an application that speaks h2c.
//!
//! This sits on the `h2` crate and not on hyper's HTTP/2, because a stream then costs no task of its own, 1xx responses
//! and exact reset codes come through, and the windows are ours (DESIGN section 9 has the measurements).

mod drive;

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, oneshot};

use self::drive::{drive, first_settings, look, probe};
use crate::credit::Owner;
use crate::frames::{Frames, Wire};
use crate::handler::{InterimLeft, TooManyInterim};
use crate::pump::{First, Pump, Side, first_frame};
use crate::recv::RecvHalf;
use crate::reset::Leaving;
use crate::send::{Ended, SendHalf};
use crate::{Body, BodyError, Http2Limits, Interim, ResetCode, StreamIo};

/// Streams a peer is assumed to take where its SETTINGS do not come (RFC 9113 section 6.5.2 recommends no less than 100).
const STREAMS_WITHOUT_SETTINGS: usize = 100;
/// What `h2` says the limit is until the peer has said something: no SETTINGS can (they have 32 bits, and none is the
/// largest number).
const NOT_SAID: usize = usize::MAX - 1;
/// Streams that were given up and are remembered for a second, since the peer may still send on them (RFC 9113 section
/// 5.1). What comes for one that is forgotten is an error of that stream, and costs an answer.
const RESET_REMEMBERED: usize = 1024;
/// How long to wait for the peer's SETTINGS, its first words on every connection (RFC 9113 section 3.4), before something
/// is sent. They tell how much may be sent, and that somebody is there who speaks HTTP/2 and takes requests at all.
const SETTINGS_PATIENCE: Duration = Duration::from_secs(1);

/// One HTTP/2 connection, on the side that sends requests.
#[derive(Debug)]
pub struct Http2Client(Rc<Root>);

/// Keeps the connection open: held by its owner and by every stream.
struct Root {
    /// Never sends. `h2` makes a handle of which a stream waits to be opened refuse the next one, and has one waker for
    /// it, so every stream is opened by a handle of its own.
    send: RefCell<SendRequest<Bytes>>,
    state: Rc<State>,
    owner: OnceCell<Weak<dyn Owner>>,
    wire: Rc<Wire>,
}

#[derive(Debug, Default)]
struct State {
    active: Cell<usize>,
    /// How many streams may be open at once: as many as the peer takes, and our windows have room for.
    limit: Cell<usize>,
    most: usize,
    /// Counts requests; tells the idle timer whether there were any.
    started: Cell<u64>,
    closed: Cell<bool>,
    /// A PING was not answered.
    dead: Notify,
}

/// A place for one stream. It is used by sending a request; dropping it, or the end of the stream, gives it free.
pub struct StreamSlot(Rc<Root>);

/// What holds the place of a stream under way: its answer, or what waits for it, and the request body where it is still
/// sent.
#[derive(Debug)]
pub(crate) enum InUse {
    /// The request has ended.
    Alone { stream: Ended, slot: StreamSlot },
    /// A task sends the request's body.
    Both(Rc<Upload>),
    /// What carries the stream's bytes resets it.
    Open(StreamSlot),
}

/// The request of an answer that has begun.
#[derive(Debug)]
pub(crate) struct Upload {
    /// The code by which the client has given it up.
    left: Cell<Option<ResetCode>>,
    slot: StreamSlot,
}

impl InUse {
    fn wire(&self) -> &Rc<Wire> {
        match self {
            Self::Alone { slot, .. } | Self::Open(slot) => &slot.0.wire,
            Self::Both(upload) => &upload.slot.0.wire,
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let Some(code) = Leaving::code() else { return };
        match self {
            Self::Alone { stream, .. } => stream.reset(code),
            Self::Both(upload) => upload.left.set(Some(code)),
            Self::Open(_) => {}
        }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let state = &self.0.state;
        state.active.set(state.active.get() - 1);
        self.0.tell();
    }
}

impl fmt::Debug for StreamSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamSlot").field(&self.0.state).finish()
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Root {
    fn tell(&self) {
        if let Some(owner) = self.owner.get().and_then(Weak::upgrade) {
            owner.changed();
        }
    }

    /// Whether the connection takes no more streams: it has broken, the peer has sent GOAWAY, or its numbers have run out.
    fn has_ended(&self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        matches!(self.send.borrow_mut().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }
}

/// Why an exchange brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection was no longer usable and nothing was sent.
    #[error("connection closed before the request was sent: {0}")]
    NotSent(#[source] h2::Error),
    /// The peer says that it did not look at the request: GOAWAY with a lower stream id, or REFUSED_STREAM
    /// (RFC 9113 section 8.7). It is safe to send it elsewhere.
    #[error("refused unprocessed: {0}")]
    Unprocessed(#[source] h2::Error),
    /// The peer reset the stream.
    #[error("reset: {0}")]
    Reset(ResetCode),
    /// The connection broke.
    #[error("connection failed: {0}")]
    Connection(#[source] h2::Error),
    /// The request cannot be said in HTTP/2. The connection is as good as before.
    #[error("not sent: {0}")]
    Unsendable(#[source] h2::Error),
    /// The peer sends interim answers without an end.
    #[error("too many interim answers")]
    TooManyInterim,
    /// The client's request body broke off.
    #[error("request body: {0}")]
    RequestBody(#[source] BodyError),
}

impl ExchangeError {
    /// Whether the request surely had no effect.
    pub fn is_safe_to_retry(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Unprocessed(_))
    }

    fn from_response(error: h2::Error) -> Self {
        match error.reason() {
            Some(Reason::REFUSED_STREAM) if error.is_remote() => Self::Unprocessed(error),
            _ if error.is_go_away() && error.is_remote() => Self::Unprocessed(error),
            Some(reason) if error.is_reset() => Self::Reset(reason.into()),
            _ => Self::Connection(error),
        }
    }
}

/// What came of [`StreamSlot::open`].
#[derive(Debug)]
pub enum Opened {
    /// The upgrade is accepted; the stream carries its bytes.
    Stream(Response<()>, StreamIo),
    /// An ordinary answer.
    Answer(Response<Body>),
}

impl Http2Client {
    /// Opens HTTP/2 on a connection, and spawns the task that drives it on this worker and holds `guard` as long as it
    /// lives. Ready when the peer has said how many streams it takes, or has not for a while.
    ///
    /// # Errors
    /// Where the peer does not speak HTTP/2, or goes away at once.
    pub async fn handshake<S>(
        io: S,
        limits: &Http2Limits,
        guard: impl Sized + 'static,
    ) -> Result<Self, h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let wire = Wire::new(limits);
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_header_list_size(limits.max_header_bytes)
            .max_frame_size(limits.max_frame_size)
            .initial_max_send_streams(NOT_SAID)
            .max_local_error_reset_streams(limits.max_error_resets)
            .max_concurrent_reset_streams(RESET_REMEMBERED)
            .enable_push(false)
            .handshake::<_, Bytes>(Frames::of_server(io, Rc::clone(&wire)))
            .await?;
        let settings = first_settings(&mut connection, &wire);
        if let Ok(ended) = tokio::time::timeout(SETTINGS_PATIENCE, settings).await {
            ended?;
        }
        let most = usize::try_from(limits.max_concurrent_streams).unwrap_or(usize::MAX);
        let state = Rc::new(State { most, ..State::default() });
        let root = Rc::new(Root {
            send: RefCell::new(send),
            state: Rc::clone(&state),
            owner: OnceCell::new(),
            wire: Rc::clone(&wire),
        });
        look(&connection, &state, &root);
        if let (Some((every, patience)), Some(ping)) = (limits.ping, connection.ping_pong()) {
            tokio::task::spawn_local(probe(ping, Rc::clone(&state), every, patience));
        }
        let driving = drive(connection, state, Rc::downgrade(&root), wire, limits.idle);
        tokio::task::spawn_local(async move {
            let _guard = guard;
            driving.await;
        });
        Ok(Self(root))
    }

    /// Whether new requests may be sent at all. After GOAWAY a connection may live on for as long as its last stream, and
    /// a request whose body was begun to be read cannot go elsewhere.
    pub fn is_open(&self) -> bool {
        !self.0.state.closed.get()
    }

    /// How many streams may be open at once.
    pub fn limit(&self) -> usize {
        self.0.state.limit.get()
    }

    /// A place for a stream, where the connection is open and has one.
    pub fn slot(&self) -> Option<StreamSlot> {
        let state = &self.0.state;
        let active = state.active.get();
        if state.closed.get() || active >= state.limit.get() {
            return None;
        }
        state.active.set(active + 1);
        Some(StreamSlot(Rc::clone(&self.0)))
    }

    /// Takes the connection out of use; streams in flight go on.
    pub fn retire(&self) {
        self.0.state.closed.set(true);
    }

    /// Whether a request was ever sent.
    pub(crate) fn was_used(&self) -> bool {
        self.0.state.started.get() > 0
    }

    /// Names who hands the connection's places out.
    pub(crate) fn belongs_to(&self, owner: Weak<dyn Owner>) {
        // Set twice: the first owner stays, and is told.
        let _ = self.0.owner.set(owner);
    }
}

impl AsRef<Self> for Http2Client {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl StreamSlot {
    /// Sends a request and waits for the head of its answer. What is left of the request body then goes on in a task of
    /// its own.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn exchange(
        self,
        request: Request<()>,
        mut body: Body,
        interim: &Interim<'_>,
    ) -> Result<Response<Body>, ExchangeError> {
        let first = first_frame(&mut body).await.map_err(ExchangeError::RequestBody)?;
        if first.is_none() && body.is_end_stream() {
            return self.send_now(request)?.head(interim).await;
        }
        let (response, stream) = self.send(request, false)?;
        let stream = SendHalf::new(stream, &self.0.wire);
        let mut upload = Uploading::start(body, stream, first)?;
        let response = await_head(response, interim, &mut upload).await?;
        let in_use = match upload.take() {
            Sending::Nothing => InUse::Open(self),
            Sending::Done(stream) => InUse::Alone { stream, slot: self },
            Sending::Body(pump) => {
                let (keep, cancelled) = oneshot::channel();
                // To the peer, the stream is there until both directions have ended.
                let upload = Rc::new(Upload { left: Cell::default(), slot: self });
                tokio::task::spawn_local(finish_upload(pump, cancelled, Rc::clone(&upload)));
                return Ok(with_body(response, InUse::Both(upload)).map(|body| body.uploading(keep)));
            }
        };
        Ok(with_body(response, in_use))
    }

    /// Sends a request without a body at once.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub fn send_now(self, request: Request<()>) -> Result<Sent, ExchangeError> {
        let (response, stream) = self.send(request, true)?;
        let stream = Ended::with_head(stream);
        Ok(Sent { response, in_use: InUse::Alone { stream, slot: self } })
    }

    /// Sends a request that asks for an upgrade, or CONNECT, and leaves the stream open behind it.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn open(
        self,
        request: Request<()>,
        accepted: impl FnOnce(StatusCode, &HeaderMap) -> bool,
    ) -> Result<Opened, ExchangeError> {
        let (response, stream) = self.send(request, false)?;
        let mut stream = SendHalf::new(stream, &self.0.wire);
        let response = final_head(response, &Interim::Nowhere).await?;
        let in_use = InUse::Open(self);
        if accepted(response.status(), response.headers()) {
            let (head, recv) = response.into_parts();
            let recv = RecvHalf::new(recv, in_use.wire());
            Ok(Opened::Stream(Response::from_parts(head, ()), StreamIo::new(stream, recv).keeping(in_use)))
        } else {
            // The answer is an ordinary one, and the request has no body.
            let _ = stream.end();
            Ok(Opened::Answer(with_body(response, in_use)))
        }
    }

    fn send(
        &self,
        mut request: Request<()>,
        ended: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), ExchangeError> {
        let state = &self.0.state;
        state.started.set(state.started.get().wrapping_add(1));
        if request.version() == Version::HTTP_2 && request.uri().authority().is_none() {
            // A request may name its host in `host` alone (RFC 9113 section 8.3.1). `h2` takes that for an error unless
            // the request says that it is of HTTP/1, which nothing but this check looks at.
            *request.version_mut() = Version::HTTP_11;
        }
        let mut handle = self.0.send.borrow().clone();
        handle.send_request(request, ended).map_err(|error| {
            if self.0.has_ended() {
                state.closed.set(true);
                ExchangeError::NotSent(error)
            } else {
                ExchangeError::Unsendable(error)
            }
        })
    }
}

/// A request that was sent. Dropping it cancels the exchange.
#[derive(Debug)]
pub struct Sent {
    response: ResponseFuture,
    in_use: InUse,
}

impl Sent {
    /// Waits for the head of the answer, passing 1xx on.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn head(self, interim: &Interim<'_>) -> Result<Response<Body>, ExchangeError> {
        let Self { response, in_use } = self;
        let head = final_head(response, interim).await?;
        Ok(with_body(head, in_use))
    }
}

/// An answer with its body, whose length the head may tell.
fn with_body(response: Response<RecvStream>, in_use: InUse) -> Response<Body> {
    let (head, recv) = response.into_parts();
    let body = Body::received(recv, in_use.wire()).keeping(in_use).declared(&head.headers);
    Response::from_parts(head, body)
}

/// What is sent of a request whose answer has not begun. Dropped before that, it resets the stream.
struct Uploading(Sending);

enum Sending {
    Body(Pump<Body>),
    Done(Ended),
    Nothing,
}

impl Uploading {
    fn start(body: Body, stream: SendHalf, first: First) -> Result<Self, ExchangeError> {
        match Pump::new(body, stream, first, Side::Request) {
            (pump, None) => Ok(Self(Sending::Body(pump))),
            (pump, Some(Ok(()))) => Ok(Self(Sending::Done(pump.ended()))),
            (_, Some(Err(error))) => Err(ExchangeError::RequestBody(error)),
        }
    }

    fn take(&mut self) -> Sending {
        std::mem::replace(&mut self.0, Sending::Nothing)
    }

    fn done(&mut self) {
        if let Sending::Body(pump) = self.take() {
            self.0 = Sending::Done(pump.ended());
        }
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        let Some(code) = Leaving::code() else { return };
        match &mut self.0 {
            Sending::Body(pump) => pump.cancel(code),
            Sending::Done(stream) => stream.reset(code),
            Sending::Nothing => {}
        }
    }
}

/// Waits for the response head, passing 1xx on and sending the body meanwhile.
async fn await_head(
    mut response: ResponseFuture,
    interim: &Interim<'_>,
    upload: &mut Uploading,
) -> Result<Response<RecvStream>, ExchangeError> {
    let mut left = InterimLeft::default();
    poll_fn(|cx| {
        poll_interim(&mut response, interim, &mut left, cx)?;
        if let Poll::Ready(head) = Pin::new(&mut response).poll(cx) {
            return Poll::Ready(head.map_err(ExchangeError::from_response));
        }
        if let Sending::Body(sending) = &mut upload.0 {
            match sending.poll(cx) {
                Poll::Ready(Ok(())) => upload.done(),
                // A reset of the stream ends the response as well, which then says why.
                Poll::Ready(Err(BodyError::Http2(error))) if error.is_remote() => upload.done(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ExchangeError::RequestBody(error))),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits for the response head of a request that is sent, passing 1xx on.
async fn final_head(
    mut response: ResponseFuture,
    interim: &Interim<'_>,
) -> Result<Response<RecvStream>, ExchangeError> {
    let mut left = InterimLeft::default();
    poll_fn(|cx| {
        poll_interim(&mut response, interim, &mut left, cx)?;
        Pin::new(&mut response).poll(cx).map_err(ExchangeError::from_response)
    })
    .await
}

fn poll_interim(
    response: &mut ResponseFuture,
    interim: &Interim<'_>,
    left: &mut InterimLeft,
    cx: &mut Context<'_>,
) -> Result<(), ExchangeError> {
    while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
        left.take().map_err(|TooManyInterim| ExchangeError::TooManyInterim)?;
        interim.send(head);
    }
    Ok(())
}

/// Sends the rest of a request body after the answer has begun, unless the answer is given up before its end.
async fn finish_upload(mut pump: Pump<Body>, mut cancelled: oneshot::Receiver<()>, upload: Rc<Upload>) {
    let mut answered = false;
    poll_fn(|cx| {
        if !answered {
            match Pin::new(&mut cancelled).poll(cx) {
                Poll::Ready(Ok(())) => answered = true,
                Poll::Ready(Err(_)) => {
                    pump.cancel(upload.left.get().unwrap_or(ResetCode::CANCEL));
                    return Poll::Ready(());
                }
                Poll::Pending => {}
            }
        }
        // A failed body has reset the stream, and that is all there is to tell.
        pump.poll(cx).map(drop)
    })
    .await;
}
