//! The readers and writers of this module from bytes to bytes, for property tests and fuzz targets: they are no part of
//! what the crate offers.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::decode::{Decoder, Piece};
use super::heads::{self, Outgoing, Persistence};
use super::names::NameCase;
use super::output::{Encoder, Output};
use super::parse;
use super::table::Framing;
use crate::Http1Limits;

/// What became of bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Every whole message, as it would be written to the next connection.
    pub bytes: Vec<u8>,
    /// How many there were.
    pub messages: usize,
    /// What follows them is no message.
    pub refused: bool,
}

/// The head of a request as a connection hands it on: what HTTP/1 requests are made of, and nothing else.
pub fn request_head(bytes: &[u8]) -> Option<Request<()>> {
    parse::request(&mut BytesMut::from(bytes), &Http1Limits::default())
        .ok()
        .flatten()
        .map(|head| head.request)
}

/// The same of an answer to GET.
pub fn answer_head(bytes: &[u8]) -> Option<Response<()>> {
    let head = parse::answer(&mut BytesMut::from(bytes), &Method::GET, &Http1Limits::default());
    head.ok().flatten().map(|head| head.response)
}

/// Reads requests that come in `pieces`, and writes them to a socket that takes `step` octets at once.
pub fn rewrite_requests(pieces: &[&[u8]], step: usize) -> Rewritten {
    let limits = Http1Limits::default();
    let read = |buf: &mut BytesMut| {
        let head = parse::request(buf, &limits).map_err(drop)?;
        Ok(head.map(|head| (head.request, head.framing)))
    };
    let write = |out: &mut Vec<u8>, head: &Request<()>, framing| {
        heads::request(out, head, framing);
    };
    let case = |head: &Request<()>| head.extensions().get::<NameCase>().cloned();
    Rewriter { read, write, case, limits, step, done: Rewritten::default() }.run(pieces)
}

/// The same for answers to a request with `method`, interim ones included.
pub fn rewrite_answers(pieces: &[&[u8]], method: &Method, step: usize) -> Rewritten {
    let limits = Http1Limits::default();
    let read = |buf: &mut BytesMut| {
        let head = parse::answer(buf, method, &limits).map_err(drop)?;
        Ok(head.map(|head| (head.response, head.framing)))
    };
    let write = |out: &mut Vec<u8>, head: &Response<()>, framing| {
        let status = head.status();
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            heads::interim(out, head);
        } else {
            heads::answer(out, head, head.version(), method, framing, Persistence::Silent);
        }
    };
    let case = |head: &Response<()>| head.extensions().get::<NameCase>().cloned();
    Rewriter { read, write, case, limits, step, done: Rewritten::default() }.run(pieces)
}

struct Rewriter<R, W, C> {
    read: R,
    write: W,
    case: C,
    limits: Http1Limits,
    step: usize,
    done: Rewritten,
}

/// A message that is being read.
struct Message<H> {
    head: H,
    framing: Framing,
    decoder: Decoder,
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
}

impl<R, W, C> Rewriter<R, W, C> {
    fn run<H>(mut self, pieces: &[&[u8]]) -> Rewritten
    where
        R: FnMut(&mut BytesMut) -> Result<Option<(H, Framing)>, ()>,
        W: FnMut(&mut Vec<u8>, &H, Outgoing),
        C: Fn(&H) -> Option<NameCase>,
    {
        let (mut buf, mut message) = (BytesMut::new(), None);
        for piece in pieces {
            buf.extend_from_slice(piece);
            if self.take(&mut buf, &mut message).is_err() {
                self.done.refused = true;
                return self.done;
            }
        }
        if let Some(mut message) = message
            && message.decoder.close()
        {
            self.finish(message);
        }
        self.done
    }

    /// Reads as much as there is.
    fn take<H>(&mut self, buf: &mut BytesMut, message: &mut Option<Message<H>>) -> Result<(), ()>
    where
        R: FnMut(&mut BytesMut) -> Result<Option<(H, Framing)>, ()>,
        W: FnMut(&mut Vec<u8>, &H, Outgoing),
        C: Fn(&H) -> Option<NameCase>,
    {
        loop {
            let Some(open) = message else {
                let Some((head, framing)) = (self.read)(buf)? else { return Ok(()) };
                let decoder = Decoder::new(framing);
                *message = Some(Message { head, framing, decoder, data: Vec::new(), trailers: None });
                continue;
            };
            if !open.decoder.is_ended() {
                match open.decoder.next(buf, &self.limits).map_err(drop)? {
                    Piece::More => return Ok(()),
                    Piece::Data(data) => open.data.extend_from_slice(&data),
                    Piece::Trailers(trailers) => open.trailers = Some(trailers),
                    Piece::End => {}
                }
            }
            if let Some(whole) = message.take_if(|open| open.decoder.is_ended()) {
                self.finish(whole);
            }
        }
    }

    fn finish<H>(&mut self, message: Message<H>)
    where
        W: FnMut(&mut Vec<u8>, &H, Outgoing),
        C: Fn(&H) -> Option<NameCase>,
    {
        let framing = match message.framing {
            Framing::None => Outgoing::None,
            Framing::Length(length) => Outgoing::Length(length),
            Framing::Chunked => Outgoing::Chunked,
            Framing::UntilClose => Outgoing::UntilClose,
        };
        let (mut out, mut io) = (Output::default(), Steps { step: self.step.max(1), taken: Vec::new() });
        (self.write)(out.flat(), &message.head, framing);
        let mut encoder = Encoder::new(framing);
        let mut flush = |out: &mut Output| {
            let flushed = out.poll_flush(&mut io, &mut Context::from_waker(Waker::noop()));
            assert!(matches!(flushed, Poll::Ready(Ok(()))) && out.is_empty(), "it takes everything");
        };
        if !out.has_room() {
            flush(&mut out);
        }
        // The whole body is one piece, so that it does not matter how it came.
        let sent = encoder.data(&mut out, Bytes::from(message.data));
        let case = (self.case)(&message.head);
        // Before or behind a piece that is not copied: the order stays.
        let ended = encoder.end(&mut out, message.trailers.as_ref(), case.as_ref());
        flush(&mut out);
        assert!(sent.is_ok() && ended.is_ok(), "what was read has its length");
        self.done.bytes.append(&mut io.taken);
        self.done.messages += 1;
    }
}

/// A socket that takes a few octets at once, over the borders of what it is given.
struct Steps {
    step: usize,
    taken: Vec<u8>,
}

impl AsyncRead for Steps {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Steps {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (before, step) = (self.taken.len(), self.step);
        self.taken.extend(bufs.iter().flat_map(|buf| buf.iter().copied()).take(step));
        Poll::Ready(Ok(self.taken.len() - before))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
