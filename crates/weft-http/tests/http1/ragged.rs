//! A stream that gives and takes as little as it may: pieces of any size, now and then nothing at all, parts of a vectored
//! write, and bytes held back until they are flushed, as TLS does.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How ragged a stream is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Where its dice begin.
    pub(crate) seed: u64,
    /// Octets that pass at once, at most.
    pub(crate) most: usize,
    /// Every so-many-th call has to wait; 0: none.
    pub(crate) waits: u64,
    /// Whether what is written stays until it is flushed.
    pub(crate) holds_back: bool,
}

impl Manner {
    /// A byte at a time, and every other call waits.
    pub(crate) const WORST: Self = Self { seed: 1, most: 1, waits: 2, holds_back: true };
}

pub(crate) struct Ragged<S> {
    io: S,
    manner: Manner,
    held: Vec<u8>,
}

impl<S> Ragged<S> {
    pub(crate) fn new(io: S, manner: Manner) -> Self {
        Self { io, manner: Manner { seed: manner.seed | 1, ..manner }, held: Vec::new() }
    }

    /// xorshift64 (Marsaglia 2003).
    fn roll(&mut self) -> u64 {
        let seed = &mut self.manner.seed;
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed >> 16
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.manner.waits > 0 && self.roll().is_multiple_of(self.manner.waits) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = self.manner.most.max(1) as u64;
        Poll::Ready(usize::try_from(1 + self.roll() % most).unwrap())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ragged<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = ready!(self.poll_turn(cx)).min(buf.remaining());
        let mut piece = vec![0; most];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
        buf.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Ragged<S> {
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held))?;
            self.held.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ragged<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let most = ready!(self.poll_turn(cx)).min(buf.len());
        if self.manner.holds_back {
            // What is held is bounded, as a TLS session's buffer is.
            if self.held.len() > 64 * 1024 {
                ready!(self.poll_held(cx))?;
            }
            self.held.extend_from_slice(&buf[..most]);
            return Poll::Ready(Ok(most));
        }
        Pin::new(&mut self.io).poll_write(cx, &buf[..most])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Over the borders of the parts.
        let most = self.manner.most.max(1);
        self.poll_write(cx, &bufs.iter().flat_map(|buf| buf.iter().copied()).take(most).collect::<Vec<u8>>())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_turn(cx));
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
