//! One direction of a relay, by way of a buffer.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pool::{Buffer, SizeClass};

/// What one direction may move before the other tasks of the worker get their turn. tokio's own budget counts
/// operations, not bytes: 128 reads of 256 KiB would hold everything else up for milliseconds.
pub(super) const PER_TURN: usize = 512 << 10;

/// Which end of a direction failed.
#[derive(Debug)]
pub(super) enum FlowError {
    Read(io::Error),
    Write(io::Error),
}

/// What a direction has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All data is written, and the writer is shut down.
    Finished,
    /// The switch-over point is reached and nothing is in the buffer.
    Bulk,
}

/// One direction: what is read and not yet written, and how it goes on.
#[derive(Debug)]
pub(super) struct Flow {
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
    class: SizeClass,
    /// Whether the fill before this one filled its buffer.
    was_full: bool,
    eof: bool,
    /// Whether the end of the data stays with us, instead of being passed on as a shutdown.
    keeps_end: bool,
    needs_flush: bool,
    /// A read error that waits until what came before it is written.
    failed: Option<io::Error>,
    /// Where to stop with [`Progress::Bulk`].
    bulk_after: Option<u64>,
}

impl Flow {
    pub(super) fn new(bulk_after: Option<u64>) -> Self {
        Self {
            buffer: None,
            start: 0,
            end: 0,
            class: SizeClass::Small,
            was_full: false,
            eof: false,
            keeps_end: false,
            needs_flush: false,
            failed: None,
            bulk_after,
        }
    }

    /// Stays with buffers from now on.
    pub(super) fn never_bulk(&mut self) {
        self.bulk_after = None;
    }

    /// The data has ended; nothing is read any more.
    pub(super) fn end(&mut self) {
        self.eof = true;
    }

    /// From now on the end of the data is not passed on as a shutdown.
    pub(super) fn keep_end(&mut self) {
        self.keeps_end = true;
    }

    /// Takes over bytes that another way of carrying had read already. Only while nothing is buffered.
    pub(super) fn inject(&mut self, fill: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        let mut buffer = Buffer::take(SizeClass::Large);
        let n = fill(&mut buffer)?;
        (self.start, self.end) = (0, n.min(buffer.len()));
        self.buffer = Some(buffer);
        Ok(())
    }

    /// Moves what can be moved.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        counter: &Cell<u64>,
    ) -> Poll<Result<Progress, FlowError>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        let mut moved = 0;
        loop {
            let starved = self.start == self.end && !self.fill(cx, reader);
            moved += self.end - self.start;
            ready!(self.drain(cx, writer, counter)).map_err(FlowError::Write)?;
            if let Some(error) = self.failed.take() {
                self.buffer = None;
                return Poll::Ready(Err(FlowError::Read(error)));
            }
            if self.eof {
                self.buffer = None;
                if !self.keeps_end {
                    // Shutdown flushes first, in TLS too.
                    ready!(Pin::new(writer).poll_shutdown(cx)).map_err(FlowError::Write)?;
                }
                return Poll::Ready(Ok(Progress::Finished));
            }
            if self.bulk_after.is_some_and(|limit| counter.get() >= limit) {
                self.buffer = None;
                return Poll::Ready(Ok(Progress::Bulk));
            }
            if starved {
                self.buffer = None;
                if self.needs_flush {
                    ready!(Pin::new(writer).poll_flush(cx)).map_err(FlowError::Write)?;
                    self.needs_flush = false;
                }
                return Poll::Pending;
            }
            if moved >= PER_TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Fills the buffer as far as the reader has something. False means that the reader will wake us.
    fn fill<R: AsyncRead + Unpin + ?Sized>(&mut self, cx: &mut Context<'_>, reader: &mut R) -> bool {
        if self.eof || self.failed.is_some() {
            return true;
        }
        // A buffer of the size that is wanted now; one of another size goes back.
        let class = self.class;
        let mut buffer = match self.buffer.take() {
            Some(buffer) if buffer.class() == class => buffer,
            _ => Buffer::take(class),
        };
        let mut filled = ReadBuf::new(&mut buffer);
        let mut more = true;
        while filled.remaining() > 0 {
            let before = filled.filled().len();
            match Pin::new(&mut *reader).poll_read(cx, &mut filled) {
                Poll::Pending => more = false,
                Poll::Ready(Err(error)) => self.failed = Some(error),
                Poll::Ready(Ok(())) if filled.filled().len() == before => self.eof = true,
                Poll::Ready(Ok(())) => continue,
            }
            break;
        }
        (self.start, self.end) = (0, filled.filled().len());
        self.resize();
        self.buffer = Some(buffer);
        more
    }

    /// Two full buffers in a row: a larger one next. Less than a quarter used: a smaller one.
    fn resize(&mut self) {
        let full = self.end == self.class.bytes();
        if full && self.was_full {
            self.class = self.class.larger();
            self.was_full = false;
        } else {
            self.was_full = full;
            if self.end < self.class.bytes() / 4 {
                self.class = self.class.smaller();
            }
        }
    }

    /// Writes what is in the buffer.
    fn drain<W: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        counter: &Cell<u64>,
    ) -> Poll<io::Result<()>> {
        while self.start < self.end {
            let Some(bytes) = self.buffer.as_ref().and_then(|buffer| buffer.get(self.start..self.end)) else {
                break;
            };
            let n = ready!(Pin::new(&mut *writer).poll_write(cx, bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += n;
            self.needs_flush = true;
            counter.set(counter.get() + n as u64);
        }
        Poll::Ready(Ok(()))
    }
}
