//! Connections and streams that have left HTTP behind: upgrades and CONNECT.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::BodyError;
use crate::client2::InUse;
use crate::h1::Rest;
use crate::recv::RecvHalf;
use crate::send::SendHalf;

/// An HTTP/2 stream as bytes. Dropping it before its end resets the stream.
///
/// What is written waits until the peer gives window and the connection has room, and never in a buffer of its own. A write
/// that makes no progress for [`Http2Limits::write_stall`](crate::Http2Limits::write_stall) resets the stream and fails with
/// [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
pub struct StreamIo {
    send: SendHalf,
    recv: RecvHalf,
    unread: Bytes,
    _in_use: Option<InUse>,
}

impl StreamIo {
    pub(crate) fn new(send: SendHalf, recv: RecvHalf) -> Self {
        Self { send, recv, unread: Bytes::new(), _in_use: None }
    }

    pub(crate) fn keeping(mut self, in_use: InUse) -> Self {
        self._in_use = Some(in_use);
        self
    }
}

fn unread(error: BodyError) -> io::Error {
    match error {
        BodyError::Http2(error) => broken(error),
        other => io::Error::new(io::ErrorKind::TimedOut, other),
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    } else {
        io::Error::new(io::ErrorKind::ConnectionReset, error)
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => self.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(unread(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..taken]);
        self.unread.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = match self.send.poll_room(cx) {
            Poll::Ready(()) => self.send.poll_window(buf.len(), cx),
            Poll::Pending => Poll::Pending,
        };
        let room = match room {
            Poll::Ready(Some(Ok(room))) => room,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(error))),
            Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Poll::Pending => {
                if let Poll::Ready(reset) = self.send.poll_reset(cx) {
                    return Poll::Ready(Err(broken(reset.map_or_else(|error| error, h2::Error::from))));
                }
                ready!(self.send.poll_stalled(cx));
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")));
            }
        };
        let taken = room.min(buf.len());
        self.send.send(Bytes::copy_from_slice(&buf[..taken]), false).map_err(broken)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes as soon as it can; there is nothing to wait for that a reader could see.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.end().map_err(broken))
    }
}

/// Either kind of upgraded connection.
#[derive(Debug)]
pub enum UpgradeIo {
    /// An HTTP/1 connection after its 101.
    Http1(Rest),
    /// An HTTP/2 stream.
    Http2(StreamIo),
}

impl UpgradeIo {
    /// Has its end be a reset, because what it carries broke off. A stream that has not ended is reset in any case.
    pub fn reset_on_close(&self) {
        if let Self::Http1(rest) = self {
            rest.reset_on_close();
        }
    }
}

macro_rules! each {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            UpgradeIo::Http1($io) => $call,
            UpgradeIo::Http2($io) => $call,
        }
    };
}

impl AsyncRead for UpgradeIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for UpgradeIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
