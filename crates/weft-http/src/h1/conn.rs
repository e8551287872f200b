//! A connection, and the incoming body that others read from it.
//!
//! Whoever owns the connection and whoever reads a body from it are on one thread and share it; there is no task between
//! them and no channel. While a body is out, only its holder reads the socket.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::decode::{Decoder, Piece};
use super::exchange::Guard;
use super::input::Input;
use super::output::Output;
use super::pool::Lease;
use super::table::Framing;
use super::{Http1Fault, Io, Resettable, Socket};
use crate::Http1Limits;

/// A socket, what was read from it, what is to be written to it.
pub(super) struct Conn {
    pub(super) io: Box<dyn Socket>,
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) incoming: Incoming,
    pub(super) limits: Http1Limits,
    /// Successful reads and writes so far: whether anything moves is told by comparing.
    pub(super) moved: u64,
    /// Whoever reads waits for the peer to send. (A body that nobody asks for is not the peer's fault.)
    starved: bool,
    /// Told when the incoming body is over, one way or another.
    owner: Option<Waker>,
    /// Whoever waits for more of the incoming body.
    reader: Option<Waker>,
}

/// How far the incoming message has come.
#[derive(Debug)]
pub(super) enum Incoming {
    /// No body: between messages, or in a head.
    Head,
    /// Its holder reads it.
    Body(Decoder),
    /// It was read to its end.
    Ended,
    /// Its holder wants no more of it.
    Dropped(Decoder),
    /// The peer closed in it, or the socket failed.
    Broken,
    /// The connection has no more time for it, or ends without it.
    GivenUp,
    /// It cannot be told where it ends.
    Malformed,
}

pub(super) type SharedConn = Rc<RefCell<Conn>>;

/// All of an incoming message was read. Only [`Conn::whole`] makes one.
#[derive(Debug)]
pub(super) struct Whole(());

impl Conn {
    /// `reset_on_close` has a socket reset when it is closed.
    pub(super) fn new<S: Io + 'static>(io: S, reset_on_close: fn(&S), limits: Http1Limits) -> SharedConn {
        Rc::new(RefCell::new(Self {
            io: socket(io, reset_on_close),
            input: Input::default(),
            output: Output::default(),
            incoming: Incoming::Head,
            limits,
            moved: 0,
            starved: false,
            owner: None,
            reader: None,
        }))
    }

    /// Begins the body behind a head. `None`: there is none, and the message is whole.
    pub(super) fn begin(this: &SharedConn, framing: Framing) -> Option<IncomingBody> {
        let mut conn = this.borrow_mut();
        let decoder = Decoder::new(framing);
        if decoder.is_ended() {
            conn.incoming = Incoming::Ended;
            return None;
        }
        conn.input.expect(decoder.left());
        conn.incoming = Incoming::Body(decoder);
        Some(IncomingBody(Some(Held { conn: Rc::clone(this), lease: None })))
    }

    /// The proof that nothing of the last message is left unread, nor anything behind it.
    pub(super) fn whole(&self) -> Option<Whole> {
        (matches!(self.incoming, Incoming::Ended) && self.input.buf.is_empty() && !self.input.closed)
            .then_some(Whole(()))
    }

    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = self.input.poll_fill(&mut *self.io, cx);
        self.starved = read.is_pending();
        let read = ready!(read);
        self.moved += 1;
        Poll::Ready(read)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let before = self.output.writes;
        let written = self.output.poll_flush(&mut *self.io, cx);
        // A part of a large piece counts as well: the peer takes it, if slowly.
        self.moved += u64::from(self.output.writes != before);
        written
    }

    /// Whether a peer that has closed its sending half is gone altogether. It cannot be read any more; but an empty write
    /// finds the reset that answers keepalive once the peer's system has forgotten the connection.
    pub(super) fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(Pin::new(&mut *self.io).poll_write(cx, &[]), Poll::Ready(Err(_)))
    }

    /// Whether the peer could move something, and does not.
    pub(super) fn waits_for_peer(&self) -> bool {
        let sends = matches!(self.incoming, Incoming::Body(_) | Incoming::Dropped(_));
        (sends && self.starved) || !self.output.is_empty()
    }

    /// Has `cx` woken when the incoming body is over.
    pub(super) fn watch(&mut self, cx: &Context<'_>) {
        if !self.owner.as_ref().is_some_and(|owner| owner.will_wake(cx.waker())) {
            self.owner = Some(cx.waker().clone());
        }
    }

    fn tell_owner(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.wake();
        }
    }

    fn over(&mut self, how: Incoming) {
        self.incoming = how;
        self.reader = None;
        self.tell_owner();
    }

    /// Whoever is told by the socket when there is more. The socket does not tell that the body was given up.
    fn note_reader(&mut self, cx: &Context<'_>) {
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Http1Fault>>> {
        loop {
            let Incoming::Body(decoder) = &mut self.incoming else { return Poll::Ready(None) };
            let piece = decoder.next(&mut self.input.buf, &self.limits);
            let ended = decoder.is_ended();
            match piece {
                Err(what) => {
                    self.over(Incoming::Malformed);
                    return Poll::Ready(Some(Err(Http1Fault::Malformed(what))));
                }
                Ok(Piece::More) => {}
                Ok(piece) => {
                    if ended {
                        self.over(Incoming::Ended);
                    }
                    return Poll::Ready(match piece {
                        Piece::Data(data) => Some(Ok(Frame::data(data))),
                        Piece::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
                        Piece::End | Piece::More => None,
                    });
                }
            }
            let Poll::Ready(filled) = self.poll_fill(cx) else {
                self.note_reader(cx);
                return Poll::Pending;
            };
            let Incoming::Body(decoder) = &mut self.incoming else { return Poll::Ready(None) };
            match filled {
                Ok(0) if decoder.close() => {
                    self.over(Incoming::Ended);
                    return Poll::Ready(None);
                }
                Ok(0) => {
                    self.over(Incoming::Broken);
                    return Poll::Ready(Some(Err(Http1Fault::Incomplete)));
                }
                Ok(_) => {}
                Err(error) => {
                    self.over(Incoming::Broken);
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
    }

    /// Reads and throws away what is left of a body that nobody wants. Ready: with what is to be thrown away still.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Drained>> {
        loop {
            let Incoming::Dropped(decoder) = &mut self.incoming else {
                return Poll::Ready(Ok(Drained::Whole));
            };
            match decoder.next(&mut self.input.buf, &self.limits) {
                Err(_) => return Poll::Ready(Ok(Drained::Never)),
                Ok(Piece::More) => {
                    if ready!(self.poll_fill(cx))? == 0 {
                        return Poll::Ready(Ok(Drained::Never));
                    }
                }
                Ok(Piece::End) => self.incoming = Incoming::Ended,
                Ok(Piece::Data(data)) if !decoder.is_ended() => {
                    return Poll::Ready(Ok(Drained::Some(data.len() as u64)));
                }
                Ok(Piece::Data(_) | Piece::Trailers(_)) => self.incoming = Incoming::Ended,
            }
        }
    }

    /// Fails the body that is out: its sender makes no progress, or its connection ends. Its holder may be anywhere, and
    /// hears of it.
    pub(super) fn give_up_body(&mut self) {
        if matches!(self.incoming, Incoming::Body(_)) {
            let reader = self.reader.take();
            self.over(Incoming::GivenUp);
            if let Some(reader) = reader {
                reader.wake();
            }
        }
    }

    /// Closes the socket, whoever still holds the connection.
    pub(super) fn close(&mut self) {
        self.give_up_body();
        self.io = none();
    }
}

fn socket<S: Io + 'static>(io: S, reset_on_close: fn(&S)) -> Box<dyn Socket> {
    Box::new(Resettable { io, reset_on_close })
}

/// In the place of a socket that is gone.
fn none() -> Box<dyn Socket> {
    socket(tokio::io::empty(), |_| ())
}

/// What came of throwing a body away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// All of it.
    Whole,
    /// A piece of so many octets; there is more.
    Some(u64),
    /// It has no end.
    Never,
}

/// The body of a message that comes in over HTTP/1.
pub struct IncomingBody(Option<Held>);

struct Held {
    conn: SharedConn,
    /// Brings an application's connection back to its pool.
    lease: Option<Lease>,
}

impl IncomingBody {
    /// Has the connection brought back when the body has ended.
    pub(super) fn leased(mut self, lease: Lease) -> Self {
        if let Some(held) = &mut self.0 {
            held.lease = Some(lease);
        }
        self
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http1Fault>>> {
        let Some(held) = &mut self.0 else { return Poll::Ready(None) };
        let mut conn = held.conn.borrow_mut();
        if matches!(conn.incoming, Incoming::GivenUp) {
            drop(conn);
            self.0 = None;
            return Poll::Ready(Some(Err(Http1Fault::Stalled)));
        }
        let frame = ready!(conn.poll_body(cx));
        let ended = !matches!(conn.incoming, Incoming::Body(_));
        drop(conn);
        if ended && let Some(Held { conn, lease }) = self.0.take() {
            // The handle is given up with the end: nothing can be read by it that belongs to another message.
            let whole = conn.borrow().whole();
            if let (Some(lease), Some(whole)) = (lease, whole) {
                lease.answered(conn, whole);
            }
        }
        Poll::Ready(frame)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let Some(held) = &self.0 else { return SizeHint::with_exact(0) };
        match &held.conn.borrow().incoming {
            Incoming::Body(decoder) => decoder.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        let Some(held) = &self.0 else { return };
        let mut conn = held.conn.borrow_mut();
        conn.incoming = match std::mem::replace(&mut conn.incoming, Incoming::Broken) {
            Incoming::Body(decoder) => Incoming::Dropped(decoder),
            other => other,
        };
        // Nobody waits for the client to send any more.
        conn.starved = false;
        conn.reader = None;
        conn.tell_owner();
    }
}

impl std::fmt::Debug for IncomingBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IncomingBody").field("ended", &self.is_end_stream()).finish()
    }
}

/// A connection that has left HTTP, with what was read of it in front.
pub struct Rest {
    io: Box<dyn Socket>,
    ahead: Bytes,
    /// What lives as long as the connection.
    _guard: Option<Guard>,
}

impl Rest {
    /// `None`: a body is still read from it, or something is still to be written.
    pub(super) fn of(conn: &SharedConn, guard: Option<Guard>) -> Option<Self> {
        let mut conn = conn.borrow_mut();
        if !matches!(conn.incoming, Incoming::Head | Incoming::Ended) || !conn.output.is_empty() {
            return None;
        }
        let io = std::mem::replace(&mut conn.io, none());
        Some(Self { io, ahead: std::mem::take(&mut conn.input.buf).freeze(), _guard: guard })
    }
}

impl Rest {
    /// Has it answer with a reset when it is closed: what was carried broke off.
    pub(crate) fn reset_on_close(&self) {
        self.io.reset_on_close();
    }
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rest").field("ahead", &self.ahead.len()).finish()
    }
}

impl AsyncRead for Rest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut *self.io).poll_read(cx, buf);
        }
        let taken = self.ahead.len().min(buf.remaining());
        buf.put_slice(self.ahead.get(..taken).unwrap_or_default());
        self.ahead.advance(taken);
        if self.ahead.is_empty() {
            // Even an empty one keeps the buffer alive that it was cut from.
            self.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}
