//! What is to be written to a socket.
//!
//! Small things are copied together, a large piece of a body is not copied at all: at most three parts leave by one
//! `writev`.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;

use super::heads::{self, Outgoing};
use super::names::NameCase;
use super::{Http1Fault, Io};

/// Data up to this size is copied behind its head: that costs less than a second part of a write.
const COPIED: usize = 4 * 1024;

/// Small pieces are gathered until there is this much.
const GATHERED: usize = 16 * 1024;

const CRLF: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const CRLF_AND_LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// The bytes that wait to be written, in this order.
#[derive(Debug, Default)]
pub(super) struct Output {
    flat: Vec<u8>,
    written: usize,
    data: Bytes,
    tail: &'static [u8],
    /// The socket has taken bytes that it may still hold back (TLS does).
    unflushed: bool,
    /// Successful writes so far.
    pub(super) writes: u64,
}

thread_local! {
    /// A buffer for whoever writes next: one that waits holds none.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Output {
    /// Whether all has left.
    pub(super) fn is_empty(&self) -> bool {
        self.is_written() && !self.unflushed
    }

    fn is_written(&self) -> bool {
        self.written == self.flat.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether another piece can be taken before something is written.
    pub(super) fn has_room(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty() && self.flat.len() < GATHERED
    }

    /// Where heads are written. Only while nothing that is not copied waits before it: see [`Self::has_room`].
    pub(super) fn flat(&mut self) -> &mut Vec<u8> {
        if self.flat.capacity() == 0 {
            self.flat = SPARE.take();
        }
        &mut self.flat
    }

    fn put(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPIED {
            self.flat().extend_from_slice(&data);
            self.flat.extend_from_slice(tail);
        } else {
            self.data = data;
            self.tail = tail;
        }
    }

    /// Writes until nothing waits any more.
    pub(super) fn poll_flush(&mut self, io: &mut dyn Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let flat = self.flat.get(self.written..).unwrap_or_default();
            let only_flat = self.data.is_empty() && self.tail.is_empty();
            let written = if only_flat {
                ready!(Pin::new(&mut *io).poll_write(cx, flat))?
            } else {
                let parts = [IoSlice::new(flat), IoSlice::new(&self.data), IoSlice::new(self.tail)];
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &parts))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            (self.unflushed, self.writes) = (true, self.writes.wrapping_add(1));
            self.advance(written);
        }
        self.give_back();
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut octets: usize) {
        let flat = octets.min(self.flat.len() - self.written);
        self.written += flat;
        octets -= flat;
        let data = octets.min(self.data.len());
        self.data.advance(data);
        octets -= data;
        self.tail = self.tail.get(octets..).unwrap_or_default();
    }

    fn give_back(&mut self) {
        self.data = Bytes::new();
        let mut flat = std::mem::take(&mut self.flat);
        self.written = 0;
        if flat.capacity() <= 2 * GATHERED {
            flat.clear();
            SPARE.set(flat);
        }
    }

    /// Throws away what waits.
    pub(super) fn clear(&mut self) {
        self.tail = &[];
        self.unflushed = false;
        self.give_back();
    }
}

/// Frames a body that is sent.
#[derive(Debug)]
pub(super) struct Encoder {
    framing: Outgoing,
    /// Octets that are still to come.
    left: u64,
}

/// All of a message has been handed to the socket's queue. Only [`Encoder::end`] makes one.
#[derive(Debug)]
pub(super) struct Sent(());

impl Encoder {
    pub(super) fn new(framing: Outgoing) -> Self {
        let left = if let Outgoing::Length(length) = framing { length } else { 0 };
        Self { framing, left }
    }

    /// Queues a piece of the body. More than was promised would become the beginning of another message, and is an error.
    pub(super) fn data(&mut self, out: &mut Output, data: Bytes) -> Result<(), Http1Fault> {
        if data.is_empty() {
            return Ok(());
        }
        match self.framing {
            Outgoing::Chunked => {
                heads::write_chunk_size(out.flat(), data.len());
                out.put(data, CRLF);
            }
            Outgoing::UntilClose => out.put(data, &[]),
            Outgoing::None | Outgoing::Length(_) => {
                self.left = self.left.checked_sub(data.len() as u64).ok_or(Http1Fault::WrongLength)?;
                out.put(data, &[]);
            }
        }
        Ok(())
    }

    /// Queues the end of the body.
    pub(super) fn end(
        self,
        out: &mut Output,
        trailers: Option<&HeaderMap>,
        case: Option<&NameCase>,
    ) -> Result<Sent, Http1Fault> {
        match self.framing {
            Outgoing::Chunked => match trailers {
                None if out.tail.is_empty() => out.flat().extend_from_slice(LAST_CHUNK),
                // What is left of the CRLF behind the last piece, of which a part may be on its way already.
                None => {
                    let begun = CRLF.len().saturating_sub(out.tail.len());
                    out.tail = CRLF_AND_LAST_CHUNK.get(begun..).unwrap_or_default();
                }
                Some(trailers) => {
                    // A large piece before it must not be overtaken.
                    let mut flat = std::mem::take(&mut out.tail).to_vec();
                    heads::write_trailers(&mut flat, trailers, case);
                    if out.data.is_empty() {
                        out.flat().extend_from_slice(&flat);
                    } else {
                        let whole = [&out.data[..], &flat].concat();
                        out.data = Bytes::from(whole);
                    }
                }
            },
            Outgoing::None | Outgoing::Length(_) if self.left > 0 => return Err(Http1Fault::WrongLength),
            Outgoing::None | Outgoing::Length(_) | Outgoing::UntilClose => {}
        }
        Ok(Sent(()))
    }
}
