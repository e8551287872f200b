//! `Expect: 100-continue` towards an HTTP/1 application (RFC 9110 section 10.1.1).
//!
//! hyper's client writes a body as soon as the body has bytes, and hyper's server promises 100 to its client as soon as
//! the body is polled. Between the two, a body that is held back until the application itself has said 100 is what keeps
//! the promise honest.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::{Body, BodyError, Interim};

/// How long to hold a body back for an application that never answers `Expect: 100-continue`. The RFC leaves the time to
/// the client; one second is what curl waits.
pub(crate) const EXPECT_PATIENCE: Duration = Duration::from_secs(1);

/// Whether a request waits for 100 before it sends its body.
pub(crate) fn expects_continue<B>(request: &Request<B>) -> bool {
    request.headers().get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// A body that waits for leave.
#[derive(Debug)]
pub struct Gated {
    body: Body,
    leave: Option<tokio::sync::oneshot::Receiver<()>>,
    patience: Pin<Box<Sleep>>,
}

impl Gated {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(leave) = &mut self.leave {
            let given = match Pin::new(leave).poll(cx) {
                Poll::Ready(Ok(())) => true,
                // A final answer came instead. The body stays where it is.
                Poll::Ready(Err(_)) => return Poll::Pending,
                Poll::Pending => false,
            };
            if !given {
                ready!(self.patience.as_mut().poll(cx));
            }
            self.leave = None;
        }
        Pin::new(&mut self.body).poll_frame_inner(cx)
    }

    pub(crate) fn body(&self) -> &Body {
        &self.body
    }
}

/// The 1xx responses of one exchange with an HTTP/1 application.
#[derive(Debug)]
pub(crate) struct Informational(mpsc::UnboundedReceiver<Response<()>>);

/// Asks hyper for the application's 1xx responses, and holds the body back where the way to the client says 100 by
/// polling it.
pub(crate) fn watch(request: &mut Request<Body>, interim: &Interim<'_>) -> Informational {
    let (heads, receiver) = mpsc::unbounded_channel();
    let (give_leave, leave) = tokio::sync::oneshot::channel();
    let give_leave = std::sync::Mutex::new(Some(give_leave));
    hyper::ext::on_informational(request, move |head| {
        if head.status() == StatusCode::CONTINUE
            && let Ok(mut leave) = give_leave.lock()
            && let Some(leave) = leave.take()
        {
            let _ = leave.send(());
        }
        let mut copy = Response::new(());
        *copy.status_mut() = head.status();
        *copy.headers_mut() = head.headers().clone();
        let _ = heads.send(copy);
    });
    if matches!(interim, Interim::Http1) {
        let body = std::mem::take(request.body_mut());
        let patience = Box::pin(tokio::time::sleep(EXPECT_PATIENCE));
        *request.body_mut() = Body::Gated(Box::new(Gated { body, leave: Some(leave), patience }));
    }
    Informational(receiver)
}

impl Informational {
    /// Passes on what has come.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, interim: &Interim<'_>) {
        while let Poll::Ready(Some(head)) = self.0.poll_recv(cx) {
            interim.send(head);
        }
    }
}
