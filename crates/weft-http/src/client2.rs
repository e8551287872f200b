//! Requests over an HTTP/2 connection: a mesh link, or an application that speaks h2c.
//!
//! This sits on the `h2` crate and not on hyper's HTTP/2, because a stream then costs no task of its own, 1xx responses
//! and exact reset codes come through, and the windows are ours (DESIGN section 9 has the measurements).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, oneshot};
use tokio::time::Sleep;

use crate::gate::{EXPECT_PATIENCE, expects_continue};
use crate::pump::{First, Pump, first_frame};
use crate::{Body, BodyError, Http2Limits, Interim, StreamIo};

/// Streams a peer is assumed to take before its SETTINGS say so (RFC 9113 section 6.5.2 recommends no less than 100).
const STREAMS_BEFORE_SETTINGS: usize = 100;

/// One HTTP/2 connection, on the side that sends requests.
#[derive(Debug)]
pub struct Http2Client {
    send: RefCell<SendRequest<Bytes>>,
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    active: Cell<usize>,
    /// Counts requests; tells the idle timer whether there were any.
    started: Cell<u64>,
    closed: Cell<bool>,
    /// A PING was not answered.
    dead: Notify,
}

/// One stream in use; dropping it gives the place free.
#[derive(Debug)]
pub(crate) struct InUse(Rc<State>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
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
    Reset(Reason),
    /// The connection broke.
    #[error("connection failed: {0}")]
    Connection(#[source] h2::Error),
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
            Some(reason) if error.is_reset() => Self::Reset(reason),
            _ => Self::Connection(error),
        }
    }
}

/// What came of [`Http2Client::open`].
#[derive(Debug)]
pub enum Opened {
    /// The upgrade is accepted; the stream carries its bytes.
    Stream(Response<()>, StreamIo),
    /// An ordinary answer.
    Answer(Response<Body>),
}

impl Http2Client {
    /// Opens HTTP/2 on a connection, and spawns the task that drives it on this worker and holds `guard` as long as it lives.
    ///
    /// # Errors
    /// Where the preface or the first SETTINGS cannot be written.
    pub async fn handshake<S>(
        io: S,
        limits: &Http2Limits,
        guard: impl Sized + 'static,
    ) -> Result<Self, h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_header_list_size(limits.max_header_bytes)
            .max_frame_size(limits.max_frame_size)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .enable_push(false)
            .handshake::<_, Bytes>(io)
            .await?;
        let state = Rc::new(State::default());
        if let (Some((every, patience)), Some(ping)) = (limits.ping, connection.ping_pong()) {
            tokio::task::spawn_local(probe(ping, Rc::clone(&state), every, patience));
        }
        let driving = drive(connection, Rc::clone(&state), limits.idle);
        tokio::task::spawn_local(async move {
            let _guard = guard;
            driving.await;
        });
        Ok(Self { send: RefCell::new(send), state })
    }

    /// Whether new requests may be sent at all. Asks the connection itself: after GOAWAY it may live on for as long as
    /// its last stream, and a request whose body was begun to be read cannot go elsewhere.
    pub fn is_open(&self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        !self.state.closed.get() && !matches!(self.send.borrow_mut().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Whether one more stream fits under the peer's limit, which may be lower than what is assumed before it is known.
    pub fn has_room(&self) -> bool {
        self.state.active.get() < self.send.borrow().current_max_send_streams()
    }

    /// Takes the connection out of use; streams in flight go on.
    pub fn retire(&self) {
        self.state.closed.set(true);
    }

    /// Sends a request and waits for the head of its answer. What is left of the request body then goes on in a task of
    /// its own.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn exchange(
        &self,
        request: Request<()>,
        mut body: Body,
        interim: &Interim<'_>,
    ) -> Result<Response<Body>, ExchangeError> {
        // Counted before anything is waited for, so that nobody else takes the last stream meanwhile.
        let in_use = self.begin();
        // hyper answers 100 as soon as its body is polled, so the body waits for the application's own 100.
        let hold = matches!(interim, Interim::Http1) && expects_continue(&request);
        let first =
            if hold { None } else { first_frame(&mut body).await.map_err(ExchangeError::RequestBody)? };
        poll_fn(|cx| self.send.borrow_mut().poll_ready(cx)).await.map_err(|error| self.lost(error))?;
        if first.is_none() && body.is_end_stream() {
            return self.sent(request, in_use)?.head(interim).await;
        }
        let (response, stream) =
            self.send.borrow_mut().send_request(request, false).map_err(|error| self.lost(error))?;
        let mut pump = start(body, stream, first)?;
        let response = await_head(response, interim, &mut pump, hold).await?;
        Ok(response.map(|recv| match pump {
            None => Body::from_stream(recv).keeping(in_use),
            Some(pump) => {
                let (keep, cancelled) = oneshot::channel();
                tokio::task::spawn_local(finish_upload(pump, cancelled));
                Body::from_stream_with_upload(recv, keep).keeping(in_use)
            }
        }))
    }

    /// Sends a request without a body at once. The connection must be open and have room: see [`Self::is_open`] and
    /// [`Self::has_room`].
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub fn send_now(&self, request: Request<()>) -> Result<Sent, ExchangeError> {
        self.sent(request, self.begin())
    }

    fn sent(&self, request: Request<()>, in_use: InUse) -> Result<Sent, ExchangeError> {
        let (response, _) =
            self.send.borrow_mut().send_request(request, true).map_err(|error| self.lost(error))?;
        Ok(Sent { response, in_use })
    }

    /// Sends a request that asks for an upgrade, or CONNECT, and leaves the stream open behind it.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn open(
        &self,
        request: Request<()>,
        accepted: impl FnOnce(&Response<RecvStream>) -> bool,
    ) -> Result<Opened, ExchangeError> {
        let in_use = self.begin();
        poll_fn(|cx| self.send.borrow_mut().poll_ready(cx)).await.map_err(|error| self.lost(error))?;
        let (response, mut stream) =
            self.send.borrow_mut().send_request(request, false).map_err(|error| self.lost(error))?;
        let response = response.await.map_err(ExchangeError::from_response)?;
        if accepted(&response) {
            let (head, recv) = response.into_parts();
            Ok(Opened::Stream(Response::from_parts(head, ()), StreamIo::new(stream, recv).keeping(in_use)))
        } else {
            // The answer is an ordinary one, and the request has no body.
            let _ = stream.send_data(Bytes::new(), true);
            Ok(Opened::Answer(response.map(|recv| Body::from_stream(recv).keeping(in_use))))
        }
    }

    fn begin(&self) -> InUse {
        self.state.active.set(self.state.active.get() + 1);
        self.state.started.set(self.state.started.get().wrapping_add(1));
        InUse(Rc::clone(&self.state))
    }

    fn lost(&self, error: h2::Error) -> ExchangeError {
        self.retire();
        ExchangeError::NotSent(error)
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
        let Self { mut response, in_use } = self;
        let takes_any = interim.takes_any();
        let head = poll_fn(|cx| {
            if takes_any {
                poll_interim(&mut response, interim, cx, &mut false);
            }
            std::pin::Pin::new(&mut response).poll(cx)
        })
        .await
        .map_err(ExchangeError::from_response)?;
        Ok(head.map(|recv| Body::from_stream(recv).keeping(in_use)))
    }
}

fn start(
    body: Body,
    stream: h2::SendStream<Bytes>,
    first: First,
) -> Result<Option<Pump<Body>>, ExchangeError> {
    match Pump::new(body, stream, first) {
        (pump, None) => Ok(Some(pump)),
        (_, Some(Ok(()))) => Ok(None),
        (_, Some(Err(error))) => Err(ExchangeError::RequestBody(error)),
    }
}

/// Waits for the response head, passing 1xx on and sending the body meanwhile. A pump that is done becomes `None`.
async fn await_head(
    mut response: ResponseFuture,
    interim: &Interim<'_>,
    pump: &mut Option<Pump<Body>>,
    mut hold: bool,
) -> Result<Response<RecvStream>, ExchangeError> {
    let wants_interim = hold || interim.takes_any();
    let mut patience = hold.then(|| Box::pin(tokio::time::sleep(EXPECT_PATIENCE)));
    poll_fn(|cx| {
        if wants_interim {
            poll_interim(&mut response, interim, cx, &mut hold);
        }
        if hold && timed_out(patience.as_mut(), cx) {
            hold = false;
        }
        if let Poll::Ready(head) = std::pin::Pin::new(&mut response).poll(cx) {
            return Poll::Ready(head.map_err(ExchangeError::from_response));
        }
        if !hold && let Some(sending) = pump {
            match sending.poll(cx) {
                Poll::Ready(Ok(())) => *pump = None,
                // A reset of the stream ends the response as well, which then says why.
                Poll::Ready(Err(BodyError::Http2(error))) if error.is_remote() => *pump = None,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ExchangeError::RequestBody(error))),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
}

fn poll_interim(response: &mut ResponseFuture, interim: &Interim<'_>, cx: &mut Context<'_>, hold: &mut bool) {
    while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
        if head.status() == StatusCode::CONTINUE {
            *hold = false;
        }
        interim.send(head);
    }
}

fn timed_out(timer: Option<&mut std::pin::Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    timer.is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
}

/// Sends the rest of a request body after the answer has begun, unless the answer is given up before its end.
async fn finish_upload(mut pump: Pump<Body>, mut cancelled: oneshot::Receiver<()>) {
    let mut answered = false;
    poll_fn(|cx| {
        if !answered {
            match std::pin::Pin::new(&mut cancelled).poll(cx) {
                Poll::Ready(Ok(())) => answered = true,
                Poll::Ready(Err(_)) => {
                    pump.cancel();
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

/// Drives the connection until it ends or has been idle for `idle`.
async fn drive<S>(connection: h2::client::Connection<S, Bytes>, state: Rc<State>, idle: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = std::pin::pin!(connection);
    let mut seen = state.started.get();
    loop {
        let turn = async {
            tokio::select! {
                biased;
                result = connection.as_mut() => Some(result),
                () = state.dead.notified() => None,
            }
        };
        match tokio::time::timeout(idle, turn).await {
            Ok(None) => {
                tracing::debug!("HTTP/2 peer does not answer PING");
                break;
            }
            Ok(Some(result)) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "HTTP/2 connection ended");
                }
                break;
            }
            Err(_) if state.active.get() == 0 && state.started.get() == seen => break,
            Err(_) => seen = state.started.get(),
        }
    }
    state.closed.set(true);
}

/// Asks a connection that is in use whether the peer is still there.
async fn probe(mut ping: h2::PingPong, state: Rc<State>, every: Duration, patience: Duration) {
    while !state.closed.get() {
        tokio::time::sleep(every).await;
        if state.active.get() == 0 {
            continue;
        }
        match tokio::time::timeout(patience, ping.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return,
            Err(_) => return state.dead.notify_one(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that takes so many streams and answers none.
    async fn serve(io: tokio::io::DuplexStream, streams: u32) {
        let mut connection = h2::server::Builder::new()
            .max_concurrent_streams(streams)
            .handshake::<_, Bytes>(io)
            .await
            .unwrap();
        let mut held = Vec::new();
        while let Some(Ok(stream)) = connection.accept().await {
            held.push(stream);
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_few_streams_has_no_room_for_more() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let (near, far) = tokio::io::duplex(1 << 16);
                tokio::task::spawn_local(serve(far, 2));
                let client = Http2Client::handshake(near, &Http2Limits::default(), ()).await.unwrap();
                assert!(client.has_room(), "its limit is not known yet");
                while client.send.borrow().current_max_send_streams() != 2 {
                    tokio::task::yield_now().await;
                }
                let request = || Request::get("http://orders/").body(()).unwrap();
                let first = client.send_now(request()).unwrap();
                assert!(client.has_room());
                let second = client.send_now(request()).unwrap();
                assert!(!client.has_room(), "another connection is to be opened");
                assert!(client.is_open(), "and this one stays");
                drop(first);
                assert!(client.has_room(), "a stream has ended");
                drop(second);
            })
            .await;
    }
}
