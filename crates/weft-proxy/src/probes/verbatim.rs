//! A connection on which one head is sent as it is.
//!
//! hyper reads the answer well, but its requests have a `http::Uri`, which has no room for all that the kubelet sends (a space, `<` or
//! `"` in a query), and it orders headers in its own way. So what hyper writes is left out, and the head that was made for
//! this probe goes in its place. A probe's GET has no body: nothing else is ever written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) struct Verbatim<S> {
    stream: S,
    /// What is still to be sent.
    head: Bytes,
    /// Who waits for an answer that came before all of the head was sent: to hyper that would be nobody's.
    early: Option<Waker>,
}

impl<S> Verbatim<S> {
    pub(super) fn new(stream: S, head: Vec<u8>) -> Self {
        Self { stream, head: head.into(), early: None }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Verbatim<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, hypers: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while !this.head.is_empty() {
            let written = ready!(Pin::new(&mut this.stream).poll_write(cx, &this.head))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.head.advance(written);
        }
        if let Some(waiting) = this.early.take() {
            waiting.wake();
        }
        Poll::Ready(Ok(hypers.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Verbatim<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.head.is_empty() {
            this.early = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}
