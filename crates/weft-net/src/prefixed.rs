use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::PlainTcp;

/// A stream that first gives back bytes that were already read from it, for detection.
///
/// The bytes are held as they were read, without a copy, and let go when the last one is taken. Writes pass through,
/// vectored ones too.
#[derive(Debug)]
pub struct Prefixed<S> {
    prefix: Bytes,
    inner: S,
}

impl<S> Prefixed<S> {
    /// Puts `prefix` (which may be empty) in front of what `inner` will read.
    pub fn new(prefix: impl Into<Bytes>, inner: S) -> Self {
        let prefix = prefix.into();
        // An empty `Bytes` may still keep a detection buffer alive.
        let prefix = if prefix.is_empty() { Bytes::new() } else { prefix };
        Self { prefix, inner }
    }

    /// The bytes that are still to be given back.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The stream itself. Reading from it directly would skip the prefix.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The bytes not yet given back, and the stream.
    pub fn into_parts(self) -> (Bytes, S) {
        (self.prefix, self.inner)
    }
}

impl<S: PlainTcp> PlainTcp for Prefixed<S> {
    fn tcp(&self) -> &TcpStream {
        self.inner.tcp()
    }

    fn is_drained(&self) -> bool {
        self.prefix.is_empty() && self.inner.is_drained()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() || buf.remaining() == 0 {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

write_through!(Prefixed);
