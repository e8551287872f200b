//! Fewer and larger reads under a TLS session.
//!
//! rustls asks its socket for 4 KiB at a time, so one full record (16 KiB) costs five system calls. [`ReadAhead`] asks
//! the socket for 64 KiB once (256 KiB while the socket fills that) and serves those calls from memory. Small messages cost what they cost without it:
//! tokio takes a read that did not fill its buffer as the sign that the socket is empty, and the larger buffer makes
//! that sign come sooner, not later. The buffer is on loan from the thread's pool only while it holds bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::PlainTcp;
use crate::pool::{Buffer, SizeClass};

/// Reads from `S` in steps of 64 to 256 KiB and serves smaller reads from memory. Writes pass through.
#[derive(Debug)]
pub struct ReadAhead<S> {
    inner: S,
    ahead: Option<Ahead>,
    /// How much is asked for next.
    class: SizeClass,
}

#[derive(Debug)]
struct Ahead {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl<S> ReadAhead<S> {
    /// Wraps a stream.
    pub fn new(inner: S) -> Self {
        Self { inner, ahead: None, class: SizeClass::Medium }
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The stream itself. Reading from it directly would skip what was read ahead.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Bytes that were read from the stream and not handed on yet.
    pub fn buffered(&self) -> &[u8] {
        self.ahead.as_ref().and_then(|ahead| ahead.buffer.get(ahead.start..ahead.end)).unwrap_or_default()
    }

    /// Hands on what is buffered; gives the buffer back when it is empty.
    fn serve(&mut self, buf: &mut ReadBuf<'_>) {
        let Some(ahead) = &mut self.ahead else { return };
        let n = (ahead.end - ahead.start).min(buf.remaining());
        buf.put_slice(&ahead.buffer[ahead.start..ahead.start + n]);
        ahead.start += n;
        if ahead.start == ahead.end {
            self.ahead = None;
        }
    }
}

impl<S: PlainTcp> PlainTcp for ReadAhead<S> {
    fn tcp(&self) -> &TcpStream {
        self.inner.tcp()
    }

    fn is_drained(&self) -> bool {
        self.ahead.is_none() && self.inner.is_drained()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead.is_none() {
            if buf.remaining() >= this.class.bytes() {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            // On Pending the buffer drops here and goes back to the pool: a connection that waits holds none.
            let mut buffer = Buffer::take(this.class);
            let mut filled = ReadBuf::new(&mut buffer);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut filled))?;
            let end = filled.filled().len();
            // Bulk fills what it is given; anything else is served as well by the size that stays in the cache.
            this.class = if end == this.class.bytes() { SizeClass::Large } else { SizeClass::Medium };
            this.ahead = Some(Ahead { buffer, start: 0, end });
        }
        this.serve(buf);
        Poll::Ready(Ok(()))
    }
}

write_through!(ReadAhead);
