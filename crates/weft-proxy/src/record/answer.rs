//! An answer on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;
use weft_http::grpc_web::Answer;
use weft_http::{Body, BodyError, ErrorCode};

use super::RequestRecord;

/// An answer's body that carries the record of its request.
pub(crate) struct Observed {
    body: Body,
    deadline: Option<Pin<Box<Sleep>>>,
    record: Option<Box<RequestRecord>>,
    /// Makes it gRPC-Web for the client; the record sees the gRPC that it was.
    web: Option<Box<Answer>>,
}

impl Observed {
    /// A `body` that must have ended by `deadline`.
    pub(super) fn new(
        body: Body,
        deadline: Option<Instant>,
        web: Option<Answer>,
        record: Box<RequestRecord>,
    ) -> Self {
        let web = web.map(Box::new);
        if body.is_end_stream() {
            record.whole();
            return Self { body, deadline: None, record: None, web };
        }
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        Self { body, deadline, record: Some(record), web }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.deadline = None;
            // The upstream need not go on.
            self.body = Body::Empty;
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    /// The last of it has been read.
    fn end(&mut self) {
        if let Some(record) = self.record.take() {
            record.whole();
        }
    }
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = self.next(cx);
        match &frame {
            Poll::Ready(Some(Ok(passed))) => {
                if let Some(record) = &mut self.record {
                    record.passed(passed);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(record) = self.record.take() {
                    record.broken(match error {
                        BodyError::TimedOut => ErrorCode::UpstreamTimeout,
                        BodyError::Http1(_)
                        | BodyError::Http2(_)
                        | BodyError::Paused
                        | BodyError::CopyEnded
                        | BodyError::Unfit
                        | BodyError::SentAgain
                        | BodyError::TooLarge => ErrorCode::UpstreamReset,
                    });
                }
            }
            Poll::Ready(None) => self.end(),
            Poll::Pending => {}
        }
        match &mut self.web {
            None => frame,
            Some(web) => web.turn(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.web.as_ref().is_none_or(|web| web.is_ended())
    }

    fn size_hint(&self) -> SizeHint {
        if self.web.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        // A reader that trusts `is_end_stream` does not poll for the end.
        if self.body.is_end_stream() {
            self.end();
        }
    }
}
