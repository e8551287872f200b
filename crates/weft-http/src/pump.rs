//! Moves a body into an HTTP/2 stream under its flow control.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body as HttpBody, Frame};

use crate::BodyError;

/// A body and the stream it goes to. Dropping it before [`Pump::poll`] is ready leaves the stream without an end; h2
/// then resets it with CANCEL.
#[derive(Debug)]
pub(crate) struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    chunk: Bytes,
}

/// The first frame of a body, where it is there at once.
pub(crate) type First = Option<Frame<Bytes>>;

/// Takes the first frame of a body if it is there already or comes with one more turn of the task queue.
///
/// An HTTP/1 body is read by the connection's own task (hyper), which has the first bytes at hand when the head is
/// parsed but passes them on only when asked. Asking and letting it run once means that head and data leave in one TLS
/// record and one system call instead of two.
pub(crate) async fn first_frame<B>(body: &mut B) -> Result<First, BodyError>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin,
{
    if body.is_end_stream() {
        return Ok(None);
    }
    let mut yielded = false;
    poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(frame.transpose()),
        Poll::Pending if yielded => Poll::Ready(Ok(None)),
        Poll::Pending => {
            yielded = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
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
    ) -> (Self, Option<Result<(), BodyError>>) {
        let mut pump = Self { body, stream, chunk: Bytes::new() };
        let done = first.and_then(|frame| pump.take(frame));
        (pump, done)
    }

    /// Sends until the body ends, the peer resets the stream (which is not an error: it has all it wants), or the body
    /// fails, in which case the stream is reset with the body's reason.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            if !self.chunk.is_empty() {
                match self.poll_send_chunk(cx) {
                    Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(false)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return self.poll_reset(cx),
                }
                continue;
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(done) = self.take(frame) {
                        return Poll::Ready(done);
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.stream.send_reset(error.reset_reason());
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(None) => {
                    return Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(BodyError::from));
                }
                Poll::Pending => return self.poll_reset(cx),
            }
        }
    }

    /// Resets the stream because nobody wants the exchange any more.
    pub(crate) fn cancel(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
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
                    let sent = self.stream.send_data(data, last).map_err(BodyError::from);
                    return (last || sent.is_err()).then_some(sent);
                }
                self.chunk = data;
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
            self.stream.reserve_capacity(self.chunk.len());
            room = match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(room))) => room,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                // The stream is closed for sending: the peer has all it wants.
                Poll::Ready(None) => return Poll::Ready(Ok(true)),
                Poll::Pending => return Poll::Pending,
            };
        }
        let piece = self.chunk.split_to(room.min(self.chunk.len()));
        let last = self.chunk.is_empty() && self.body.is_end_stream();
        self.stream.send_data(piece, last)?;
        Poll::Ready(Ok(last))
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
