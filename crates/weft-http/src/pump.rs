//! Moves a body into an HTTP/2 stream under its flow control.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body as HttpBody, Frame};

use crate::send::{Ended, SendHalf, Sent};
use crate::{BodyError, ErrorCode, ResetCode, is_grpc};

/// A body and the stream it goes to. Dropping it before [`Pump::poll`] is ready leaves the stream without an end; h2
/// then resets it with CANCEL.
#[derive(Debug)]
pub(crate) struct Pump<B> {
    body: B,
    stream: SendHalf,
    /// Whether the body is that of an answer.
    side: Side,
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

/// Tells the peer that a body has broken off: by the code that came, by what gRPC says of a server that is gone, or by a
/// code of our own.
pub(crate) fn break_off(stream: &mut SendHalf, side: Side, error: &BodyError) {
    let timed_out = matches!(error, BodyError::TimedOut);
    let code = match (ResetCode::of(error), side) {
        (Some(code), _) => code,
        (None, Side::GrpcAnswer) if stream.end_with(grpc_end(timed_out)).is_ok() => return,
        (None, Side::Request) => ResetCode::CANCEL,
        (None, _) if timed_out => ResetCode::CANCEL,
        (None, Side::Answer | Side::GrpcAnswer) => ResetCode::INTERNAL_ERROR,
    };
    stream.reset(code);
}

/// How a gRPC answer ends whose server is gone, as a client that had the connection to it would say itself, or whose time was
/// over before its end, as a client that had the deadline would.
fn grpc_end(timed_out: bool) -> HeaderMap {
    let (code, why) = if timed_out {
        (ErrorCode::UpstreamTimeout, "the time of the request was over before the end of its answer")
    } else {
        (ErrorCode::UpstreamClosed, "the upstream closed the connection before the end of its answer")
    };
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static(code.grpc_status()));
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
        stream: SendHalf,
        first: First,
        side: Side,
    ) -> (Self, Option<Result<(), BodyError>>) {
        let mut pump = Self { body, stream, side };
        let done = first.and_then(|frame| pump.take(frame));
        (pump, done)
    }

    /// Sends until the body ends, the peer resets the stream (which is not an error: it has all it wants), or the body
    /// fails, in which case the stream is reset with the body's reason.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            if self.stream.holds() {
                match self.stream.poll_held(self.body.is_end_stream(), cx) {
                    Poll::Ready(Some(Ok(()))) if self.stream.holds() || !self.body.is_end_stream() => {}
                    // The end, or the stream is closed for sending: the peer has all it wants.
                    Poll::Ready(Some(Ok(())) | None) => return Poll::Ready(Ok(())),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                    Poll::Pending => return self.poll_blocked(cx),
                }
                continue;
            }
            if self.stream.poll_wanted(cx).is_pending() {
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
                    return Poll::Ready(self.stream.end().map_err(BodyError::from));
                }
                Poll::Pending => return self.poll_reset(cx),
            }
        }
    }

    /// The peer takes nothing now.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if let Poll::Ready(done) = self.poll_reset(cx) {
            return Poll::Ready(done);
        }
        ready!(self.stream.poll_stalled(cx));
        Poll::Ready(Err(BodyError::TimedOut))
    }

    /// Resets the stream because nobody wants the exchange any more.
    pub(crate) fn cancel(&mut self, code: ResetCode) {
        self.stream.reset(code);
    }

    /// The stream, for which there is nothing more to send.
    pub(crate) fn ended(self) -> Ended {
        self.stream.ended()
    }

    /// Takes one frame of the body; trailers and a last chunk that fits the window end it.
    fn take(&mut self, frame: Frame<Bytes>) -> Option<Result<(), BodyError>> {
        match frame.into_data() {
            Ok(data) => {
                let last = self.body.is_end_stream();
                if last && data.is_empty() {
                    return Some(self.stream.end().map_err(BodyError::from));
                }
                match self.stream.send_or_hold(data, last) {
                    Ok(Sent::Held) => None,
                    Ok(Sent::All) => last.then_some(Ok(())),
                    Err(error) => Some(Err(error.into())),
                }
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => Some(self.stream.end_with(trailers).map_err(BodyError::from)),
                // Neither data nor trailers: a frame kind that does not exist today carries nothing we could send.
                Err(_) => None,
            },
        }
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
