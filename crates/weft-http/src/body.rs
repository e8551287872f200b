//! The one body type, from the socket it was read from to the socket it is written to.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::oneshot;

use crate::bounded::Bounded;
use crate::client2::InUse;
use crate::coding::Encoded;
use crate::frames::Wire;
use crate::grpc_web::Turned;
use crate::h1::{Http1Fault, IncomingBody};
use crate::recv::{RecvHalf, Watch};
use crate::replay::Replayed;
use crate::tee::{Copied, Teed};
use crate::{Http2Limits, wire};

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The HTTP/1 peer broke off or broke the framing.
    #[error("HTTP/1 body: {0}")]
    Http1(#[from] Http1Fault),
    /// The HTTP/2 stream or its connection ended.
    #[error("HTTP/2 body: {0}")]
    Http2(#[from] h2::Error),
    /// The time of the whole request was over before the body was.
    #[error("the body did not end in time")]
    TimedOut,
    /// The request is being sent again, and its body is read there.
    #[error("the request is being sent again")]
    SentAgain,
    /// The HTTP/2 client sent nothing more of it for too long.
    #[error("HTTP/2 body: the peer sent nothing for too long")]
    Paused,
    /// A copy's reader was too slow, or the body that is copied broke off.
    #[error("the body that this is a copy of went on without it, or broke off")]
    CopyEnded,
    /// It is not what it has to be in order to become what it is to be: no base64, half a message, or one that is none.
    #[error("the body could not be brought into the form that it is to have")]
    Unfit,
    /// There is more of it than there may be.
    #[error("the body has more octets than it may have")]
    TooLarge,
}

impl BodyError {
    /// The reset code to pass on to an HTTP/2 peer: the one that came, or CANCEL for a peer that has none.
    pub fn reset_reason(&self) -> h2::Reason {
        match self {
            Self::Http2(error) => error.reason().unwrap_or(h2::Reason::CANCEL),
            Self::Http1(_)
            | Self::TimedOut
            | Self::SentAgain
            | Self::Paused
            | Self::CopyEnded
            | Self::Unfit
            | Self::TooLarge => h2::Reason::CANCEL,
        }
    }
}

/// A request or response body.
#[derive(Debug, Default)]
pub enum Body {
    /// Nothing, and known to be nothing.
    #[default]
    Empty,
    /// One piece; for answers of our own.
    Full(Bytes),
    /// From an HTTP/1 connection.
    Http1(IncomingBody),
    /// From an HTTP/2 stream.
    Http2(StreamBody),
    /// Whose bytes are counted as they pass.
    Counted(Box<CountedBody>),
    /// Which may be sent a second time.
    Replayed(Replayed),
    /// Of which somebody gets a copy.
    Teed(Box<Teed>),
    /// Such a copy.
    Copied(Copied),
    /// Which leaves in a content coding.
    Encoded(Box<Encoded>),
    /// Which came as gRPC-Web.
    Turned(Box<Turned>),
    /// That may have no more than so much.
    Bounded(Box<Bounded>),
    /// Broken off, and about to say so.
    Broken(Box<Broken>),
}

/// An error that waits until what was handed on before it has left.
///
/// `h2` throws away what is still in its buffers when a body fails, the head of the answer included.
/// So where an application sends and breaks off at once, its client would see an empty connection instead of the start
/// of an answer.
#[derive(Debug)]
pub struct Broken {
    error: Option<BodyError>,
    turns: u8,
}

/// How often a broken body lets others run first. `FuturesUnordered` may poll a future that wakes itself twice before
/// the connection gets its turn to write, and the first turn may be what sends the head.
const BROKEN_TURNS: u8 = 3;

/// A body and the counter of its bytes.
#[derive(Debug)]
pub struct CountedBody {
    body: Body,
    bytes: Rc<Cell<u64>>,
}

/// The receiving half of an HTTP/2 stream as a body.
#[derive(Debug)]
pub struct StreamBody {
    half: RecvHalf,
    data_ended: bool,
    /// Octets that are still to come, where the head has told; h2 holds the peer to it.
    left: Option<u64>,
    /// Held while the request body is still being sent by a task of its own; see [`StreamBody::finish`].
    upload: Option<oneshot::Sender<()>>,
    /// The place on the connection that the stream takes.
    in_use: Option<InUse>,
}

impl Body {
    /// Wraps what an HTTP/2 stream receives that has nothing to do with a connection of ours.
    pub fn from_stream(recv: h2::RecvStream) -> Self {
        Self::received(recv, &Wire::new(&Http2Limits::default()))
    }

    /// Wraps what a stream of a connection receives; a stream that has already ended is [`Body::Empty`].
    pub(crate) fn received(recv: h2::RecvStream, wire: &Rc<Wire>) -> Self {
        if recv.is_end_stream() {
            return Self::Empty;
        }
        let half = RecvHalf::new(recv, wire);
        Self::Http2(StreamBody { half, data_ended: false, left: None, upload: None, in_use: None })
    }

    /// Has `upload` told when the body has ended. It is dropped when the body is dropped before that, which tells the task
    /// that still sends the request that nobody waits for the answer any more.
    pub(crate) fn uploading(mut self, upload: oneshot::Sender<()>) -> Self {
        if let Self::Http2(stream) = &mut self {
            stream.upload = Some(upload);
        } else {
            let _ = upload.send(());
        }
        self
    }

    /// Who may limit the pauses of what an HTTP/2 stream receives.
    pub(crate) fn watch(&self) -> Option<Watch> {
        if let Self::Http2(stream) = self { Some(stream.half.watch()) } else { None }
    }

    /// Notes the length that the head of its message declares.
    pub(crate) fn declared(mut self, headers: &HeaderMap) -> Self {
        if let Self::Http2(stream) = &mut self {
            let length = headers.get(http::header::CONTENT_LENGTH);
            stream.left = length.and_then(|length| crate::h1::table::parse_length(length.as_bytes()));
        }
        self
    }

    /// Holds the stream's place on its connection until the body ends; an empty body gives it free at once.
    pub(crate) fn keeping(mut self, in_use: InUse) -> Self {
        if let Self::Http2(stream) = &mut self {
            stream.in_use = Some(in_use);
        }
        self
    }

    pub(crate) fn poll_frame_inner(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut frame = ready!(this.poll_any(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            wire::clean_trailers(trailers);
        }
        if !matches!(this, Self::Broken(_))
            && let Some(Err(error)) = frame
        {
            *this = Self::Broken(Box::new(Broken { error: Some(error), turns: BROKEN_TURNS }));
            return this.poll_any(cx);
        }
        Poll::Ready(frame)
    }

    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            this @ Self::Full(_) => {
                let Self::Full(bytes) = std::mem::take(this) else { return Poll::Ready(None) };
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Http1(incoming) => {
                incoming.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(BodyError::from)))
            }
            Self::Http2(stream) => stream.poll_frame(cx),
            Self::Replayed(replayed) => replayed.poll_frame(cx),
            Self::Teed(teed) => teed.poll_frame(cx),
            Self::Copied(copied) => copied.poll_frame(cx),
            Self::Encoded(encoded) => encoded.poll_frame(cx),
            Self::Turned(turned) => turned.poll_frame(cx),
            Self::Bounded(bounded) => bounded.poll_frame(cx),
            Self::Counted(counted) => {
                let frame = ready!(Pin::new(&mut counted.body).poll_frame(cx));
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    counted.bytes.set(counted.bytes.get() + data.len() as u64);
                }
                Poll::Ready(frame)
            }
            Self::Broken(broken) if broken.turns > 0 => {
                broken.turns -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Broken(broken) => Poll::Ready(broken.error.take().map(Err)),
        }
    }

    /// Counts the bytes of a body as they pass; an empty one needs no counter.
    pub fn count(&mut self) -> Option<Rc<Cell<u64>>> {
        if self.is_end_stream() {
            return None;
        }
        let bytes = Rc::new(Cell::new(0));
        let body = std::mem::take(self);
        *self = Self::Counted(Box::new(CountedBody { body, bytes: Rc::clone(&bytes) }));
        Some(bytes)
    }
}

impl StreamBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.data_ended {
            match ready!(self.half.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        match ready!(self.half.poll_trailers(cx)) {
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            Some(Ok(trailers)) => {
                self.finish();
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    /// The answer came whole; a request body that is still on its way may finish (RFC 9113 section 8.1).
    fn finish(&mut self) {
        self.in_use = None;
        if let Some(upload) = self.upload.take() {
            let _ = upload.send(());
        }
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        // A reader that trusts `is_end_stream` does not poll for the end.
        if self.half.is_end_stream() {
            self.finish();
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.poll_frame_inner(cx)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(stream) => stream.half.is_end_stream(),
            Self::Counted(counted) => counted.body.is_end_stream(),
            Self::Replayed(replayed) => replayed.is_end_stream(),
            Self::Teed(teed) => teed.is_end_stream(),
            Self::Copied(copied) => copied.is_end_stream(),
            Self::Encoded(encoded) => encoded.is_end_stream(),
            Self::Turned(turned) => turned.is_end_stream(),
            Self::Bounded(bounded) => bounded.is_end_stream(),
            Self::Broken(broken) => broken.error.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Counted(counted) => counted.body.size_hint(),
            Self::Replayed(replayed) => replayed.size_hint(),
            Self::Teed(teed) => teed.size_hint(),
            Self::Copied(_) | Self::Encoded(_) => SizeHint::default(),
            Self::Turned(turned) => turned.size_hint(),
            Self::Bounded(bounded) => bounded.size_hint(),
            Self::Http2(stream) => stream.left.map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Broken(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_broken_body_lets_others_run_before_it_says_so() {
        let error = BodyError::Http2(h2::Reason::INTERNAL_ERROR.into());
        let broken = Broken { error: Some(error), turns: BROKEN_TURNS };
        let mut body = Body::Broken(Box::new(broken));
        assert!(body.count().is_some());
        let mut cx = Context::from_waker(Waker::noop());
        let mut pending = 0;
        let frame = loop {
            match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Pending => pending += 1,
                Poll::Ready(frame) => break frame,
            }
        };
        assert!(pending >= BROKEN_TURNS, "{pending}");
        let Some(Err(error)) = frame else { panic!("{frame:?}") };
        assert_eq!(error.reset_reason(), h2::Reason::INTERNAL_ERROR);
        assert!(matches!(Pin::new(&mut body).poll_frame(&mut cx), Poll::Ready(None)));
    }
}
