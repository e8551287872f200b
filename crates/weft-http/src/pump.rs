//! Moves a body into an HTTP/2 stream under its flow control.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep};

use crate::frames::Wire;
use crate::{BodyError, ErrorCode, ResetCode, is_grpc};

/// A body and the stream it goes to. Dropping it before [`Pump::poll`] is ready leaves the stream without an end; h2
/// then resets it with CANCEL.
#[derive(Debug)]
pub(crate) struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    held: Held,
    stall: Stalled,
    /// Whether the body is that of an answer.
    side: Side,
}

/// What the window had no room for.
#[derive(Debug)]
struct Held {
    chunk: Bytes,
    wire: Rc<Wire>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.wire.release(self.chunk.len());
    }
}

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A request's.
    Request,
    /// An answer's.
    Answer,
    /// An answer's to a gRPC call, whose client wants to be told by trailers.
    GrpcAnswer,
}

impl Side {
    pub(crate) fn answer(head: &Response<()>) -> Self {
        if is_grpc(head.headers()) { Self::GrpcAnswer } else { Self::Answer }
    }
}

/// Notices that the peer has given no window for a while. The timer is not touched by progress; when it fires it looks.
#[derive(Debug, Default)]
struct Stalled {
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    progressed: bool,
}

impl Stalled {
    /// Ready when there was no progress for the limit's time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        if self.timer.is_none() {
            self.progressed = false;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if !std::mem::take(&mut self.progressed) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + limit);
        }
    }
}

/// Tells the peer that a body has broken off: by the code that came, by what gRPC says of a server that is gone, or by a
/// code of our own.
pub(crate) fn break_off(stream: &mut SendStream<Bytes>, side: Side, error: &BodyError) {
    let code = match (ResetCode::of(error), side) {
        (Some(code), _) => code,
        (None, Side::Request) => ResetCode::CANCEL,
        (None, _) if matches!(error, BodyError::TimedOut) => ResetCode::CANCEL,
        (None, Side::GrpcAnswer) if stream.send_trailers(unavailable()).is_ok() => return,
        (None, Side::Answer | Side::GrpcAnswer) => ResetCode::INTERNAL_ERROR,
    };
    stream.send_reset(code.into());
}

/// How a gRPC answer ends whose server is gone: as a client that had the connection to it would say itself.
fn unavailable() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    let code = ErrorCode::UpstreamClosed;
    trailers.insert("grpc-status", HeaderValue::from_static(code.grpc_status()));
    let why = "the upstream closed the connection before the end of its answer";
    trailers.insert("grpc-message", HeaderValue::from_static(why));
    trailers
}

/// The first frame of a body, where it is there at once.
pub(crate) type First = Option<Frame<Bytes>>;

/// Takes the first frame of a body if it is there already, so that head and data leave in one TLS record and one system
/// call instead of two.
pub(crate) async fn first_frame<B>(body: &mut B) -> Result<First, BodyError>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin,
{
    if body.is_end_stream() {
        return Ok(None);
    }
    poll_fn(|cx| {
        // One that has none yet will wake whoever polls it next.
        Poll::Ready(match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => frame.transpose(),
            Poll::Pending => Ok(None),
        })
    })
    .await
}

impl<B> Pump<B>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin,
{
    /// A pump with the first frame in it. Ready frames are on their way to the stream when this returns.
    pub(crate) fn new(
        body: B,
        stream: SendStream<Bytes>,
        first: First,
        wire: &Rc<Wire>,
        side: Side,
    ) -> (Self, Option<Result<(), BodyError>>) {
        let stall = Stalled { limit: wire.write_stall(), ..Stalled::default() };
        let held = Held { chunk: Bytes::new(), wire: Rc::clone(wire) };
        let mut pump = Self { body, stream, held, stall, side };
        let done = first.and_then(|frame| pump.take(frame));
        (pump, done)
    }

    /// Sends until the body ends, the peer resets the stream (which is not an error: it has all it wants), or the body
    /// fails, in which case the stream is reset with the body's reason.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            if !self.held.chunk.is_empty() {
                match self.poll_send_chunk(cx) {
                    Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(false)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return self.poll_blocked(cx),
                }
                continue;
            }
            if self.poll_room(cx).is_pending() {
                return self.poll_blocked(cx);
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(done) = self.take(frame) {
                        return Poll::Ready(done);
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    break_off(&mut self.stream, self.side, &error);
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(None) => {
                    return Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(BodyError::from));
                }
                Poll::Pending => return self.poll_reset(cx),
            }
        }
    }

    /// Pending where the body has to wait: for what others have sent to leave, or for window where too much is held.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.held.wire.poll_room(cx));
        if !self.held.wire.holds_much() || self.stream.capacity() > 0 {
            return Poll::Ready(());
        }
        self.stream.reserve_capacity(1);
        // An error shows again when something is sent.
        self.stream.poll_capacity(cx).map(drop)
    }

    /// The peer takes nothing now.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if let Poll::Ready(done) = self.poll_reset(cx) {
            return Poll::Ready(done);
        }
        ready!(self.stall.poll(cx));
        self.stream.send_reset(Reason::CANCEL);
        Poll::Ready(Err(BodyError::TimedOut))
    }

    /// Resets the stream because nobody wants the exchange any more.
    pub(crate) fn cancel(&mut self, code: ResetCode) {
        self.stream.send_reset(code.into());
    }

    /// The stream, for which there is nothing more to send.
    pub(crate) fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }

    /// Takes one frame of the body; trailers and a last chunk that fits the window end it.
    fn take(&mut self, frame: Frame<Bytes>) -> Option<Result<(), BodyError>> {
        match frame.into_data() {
            Ok(data) => {
                if self.body.is_end_stream() && data.is_empty() {
                    return Some(self.stream.send_data(data, true).map_err(BodyError::from));
                }
                self.stream.reserve_capacity(data.len());
                if self.stream.capacity() >= data.len() && !data.is_empty() {
                    let last = self.body.is_end_stream();
                    let sent = self.send(data, last);
                    return (last || sent.is_err()).then_some(sent);
                }
                self.held.wire.hold(data.len());
                self.held.chunk = data;
                None
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => Some(self.stream.send_trailers(trailers).map_err(BodyError::from)),
                // Neither data nor trailers: a frame kind that does not exist today carries nothing we could send.
                Err(_) => None,
            },
        }
    }

    /// Sends as much of the chunk as the window allows; true when that was the end of the body.
    fn poll_send_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, BodyError>> {
        let mut room = self.stream.capacity();
        if room == 0 {
            self.stream.reserve_capacity(self.held.chunk.len());
            room = match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(room))) => room,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                // The stream is closed for sending: the peer has all it wants.
                Poll::Ready(None) => return Poll::Ready(Ok(true)),
                Poll::Pending => return Poll::Pending,
            };
        }
        let piece = self.held.chunk.split_to(room.min(self.held.chunk.len()));
        self.held.wire.release(piece.len());
        self.stall.progressed = true;
        let last = self.held.chunk.is_empty() && self.body.is_end_stream();
        self.send(piece, last)?;
        Poll::Ready(Ok(last))
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), BodyError> {
        self.held.wire.queue(data.len());
        Ok(self.stream.send_data(data, last)?)
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self.stream.poll_reset(cx) {
            // RFC 9113 section 8.1: the server needs no more of the request.
            Poll::Ready(Ok(Reason::NO_ERROR)) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(reason)) => Poll::Ready(Err(BodyError::Http2(reason.into()))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}
