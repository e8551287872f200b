//! A body on its way into a connection's queue.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use super::NameCase;
use super::conn::SharedConn;
use super::heads::Outgoing;
use super::output::{Encoder, Sent};
use crate::BodyError;

/// A body and how it is framed, until its end.
#[derive(Debug)]
pub(super) struct Feed<B>(Option<Feeding<B>>);

#[derive(Debug)]
struct Feeding<B> {
    body: B,
    encoder: Encoder,
    trailers: Option<HeaderMap>,
    case: Option<NameCase>,
}

/// How far a body has come.
#[derive(Debug)]
pub(super) enum Fed {
    /// The queue is full: something must be written first.
    Full,
    /// The body has nothing at the moment.
    Waits,
    /// All of it is in the queue.
    Whole(Sent),
    /// It was before.
    Over,
}

impl<B> Feed<B>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
{
    pub(super) fn new(body: B, framing: Outgoing, case: Option<NameCase>) -> Self {
        Self(Some(Feeding { body, encoder: Encoder::new(framing), trailers: None, case }))
    }

    /// Nothing is fed.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_none()
    }

    /// Takes what the body has, as much as fits. After an error it is over, and what was sent of it has no end.
    pub(super) fn gather(&mut self, conn: &SharedConn, cx: &mut Context<'_>) -> Result<Fed, BodyError> {
        while let Some(feeding) = &mut self.0 {
            if !conn.borrow().output.has_room() {
                return Ok(Fed::Full);
            }
            // Not while the connection is borrowed: the body may be anything, and read from it.
            let taken = match Pin::new(&mut feeding.body).poll_frame(cx) {
                Poll::Pending => return Ok(Fed::Waits),
                Poll::Ready(None) => return self.end(conn).map(Fed::Whole),
                Poll::Ready(Some(Err(error))) => Err(error),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        let queued = feeding.encoder.data(&mut conn.borrow_mut().output, data);
                        // The end leaves with the last piece, whose own write it would otherwise need.
                        if queued.is_ok() && feeding.body.is_end_stream() {
                            return self.end(conn).map(Fed::Whole);
                        }
                        queued.map_err(BodyError::from)
                    }
                    Err(frame) => {
                        feeding.trailers = frame.into_trailers().ok();
                        Ok(())
                    }
                },
            };
            if let Err(error) = taken {
                self.0 = None;
                return Err(error);
            }
        }
        Ok(Fed::Over)
    }

    fn end(&mut self, conn: &SharedConn) -> Result<Sent, BodyError> {
        let Some(Feeding { encoder, trailers, case, .. }) = self.0.take() else {
            return Err(super::Http1Fault::WrongLength.into());
        };
        Ok(encoder.end(&mut conn.borrow_mut().output, trailers.as_ref(), case.as_ref())?)
    }
}
