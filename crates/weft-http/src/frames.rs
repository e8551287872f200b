//! What passes beneath `h2`: frame headers, as they are read, and writes that do not go through.
//!
//! `h2` bounds some of what a peer can make it do, and not the rest: how many frames it takes in one go, how many that carry
//! nothing (SETTINGS, PING, PRIORITY, WINDOW_UPDATE, RST_STREAM, CONTINUATION, empty DATA, unknown kinds), how much waits to
//! be written. So the octets pass by here first. Of a frame only its nine octets of header are looked at (RFC 9113 section
//! 4.1), and nothing is copied but what comes after a turn is over.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::Http2Limits;
use crate::parting::Parting;
use crate::recv::Inbox;
use crate::ticker::Ticker;

/// The client's part of the preface, before its first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// A frame's header (RFC 9113 section 4.1).
const HEADER: usize = 9;

/// Requests that one turn may bring. Each may be as large as a header list may become, whatever few octets it took.
const HEADS_A_TURN: u32 = 64;
/// Frames that one turn may bring, and octets: what takes about a tenth of a millisecond.
const FRAMES_A_TURN: u32 = 512;
const OCTETS_A_TURN: usize = 1 << 20;

/// What may wait in `h2` to be written, before bodies are no longer asked for more.
const QUEUED_MOST: usize = 1 << 20;
/// What may be held outside of `h2` for streams whose peer has given no window, all streams of a connection together,
/// before their bodies are no longer asked for more.
const HELD_MOST: usize = 1 << 20;

/// What is known of a connection beside `h2`.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Frames that carry nothing, a second.
    most_control: u32,
    write_stall: Option<Duration>,
    pause: Option<Duration>,
    flooded: Cell<bool>,
    calming: Cell<bool>,
    /// Counts turns.
    turn: Cell<u64>,
    /// SETTINGS or GOAWAY has come.
    news: Cell<bool>,
    /// The last write did not go through.
    blocked: Cell<bool>,
    /// Octets written.
    written: Cell<u64>,
    /// DATA frames given to `h2`.
    sent: Cell<u64>,
    /// Octets of bodies and interim heads given to `h2` since all of its frames had left.
    queued: Cell<usize>,
    held: Cell<usize>,
    /// Who waits for frames to leave.
    waiting: RefCell<Vec<Waker>>,
    /// The receiving halves of its streams.
    pub(crate) inbox: Inbox,
}

impl Wire {
    pub(crate) fn new(limits: &Http2Limits) -> Rc<Self> {
        Rc::new(Self {
            most_control: limits.max_control_frames,
            write_stall: limits.write_stall,
            pause: limits.pause,
            flooded: Cell::default(),
            calming: Cell::default(),
            turn: Cell::default(),
            news: Cell::default(),
            blocked: Cell::default(),
            written: Cell::default(),
            sent: Cell::default(),
            queued: Cell::default(),
            held: Cell::default(),
            waiting: RefCell::default(),
            inbox: Inbox::default(),
        })
    }

    /// How long a write may make no progress.
    pub(crate) fn write_stall(&self) -> Option<Duration> {
        self.write_stall
    }

    /// How long a client may send nothing in the middle of a body.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.pause
    }

    /// Whether the peer has sent more frames that carry nothing than it may. Nothing is read any more then.
    pub(crate) fn is_flooded(&self) -> bool {
        self.flooded.get()
    }

    /// Whether the peer has yet to be told that.
    pub(crate) fn begin_calming(&self) -> bool {
        !self.calming.replace(true)
    }

    /// Lets the connection read on. Everything that is read until the next turn counts as one.
    pub(crate) fn begin_turn(&self) {
        self.turn.set(self.turn.get().wrapping_add(1));
    }

    /// Whether SETTINGS or GOAWAY has come since this was asked.
    pub(crate) fn take_news(&self) -> bool {
        // While a write waits, `h2` may not have acted on it yet.
        if self.blocked.get() { self.news.get() } else { self.news.take() }
    }

    /// Part of a body was given to `h2`.
    pub(crate) fn queue(&self, octets: usize) {
        self.sent.set(self.sent.get().wrapping_add(1));
        self.queued.set(self.queued.get() + octets);
    }

    /// A head was given to `h2`, which has no window.
    pub(crate) fn queue_head(&self, octets: usize) {
        self.queued.set(self.queued.get() + octets);
    }

    /// Frames that the peer may have had reason to send so far.
    fn earned(&self) -> u64 {
        self.sent.get() * EARNED_BY_DATA + self.written.get() / OCTETS_PER_EARNED
    }

    /// Whether so much waits to be written that nothing should be added.
    pub(crate) fn is_full(&self) -> bool {
        // Not only where a write waits: many streams may give out much before the connection has its turn to write.
        self.queued.get() >= QUEUED_MOST
    }

    /// Whether bodies should be asked for nothing before there is a way for it.
    pub(crate) fn is_strained(&self) -> bool {
        self.is_full() || self.holds_much()
    }

    /// Pending where so much waits to be written that bodies must wait as well.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is_full() {
            return Poll::Ready(());
        }
        self.waiting.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }

    /// Part of a body is held until its stream has window.
    pub(crate) fn hold(&self, octets: usize) {
        self.held.set(self.held.get() + octets);
    }

    pub(crate) fn release(&self, octets: usize) {
        self.held.set(self.held.get().saturating_sub(octets));
    }

    /// Whether so much is held that bodies are asked for more only when their streams have window.
    pub(crate) fn holds_much(&self) -> bool {
        self.held.get() >= HELD_MOST
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        self.blocked.set(result.is_pending());
        if let Poll::Ready(Ok(octets)) = result {
            self.written.set(self.written.get().wrapping_add(*octets as u64));
        }
    }

    fn flushed(&self) {
        if self.queued.take() >= QUEUED_MOST || !self.waiting.borrow().is_empty() {
            let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// Notices writes that have made no progress for a while.
#[derive(Debug)]
pub(crate) struct Stall {
    ticker: Option<Ticker>,
    written: u64,
}

impl Stall {
    pub(crate) fn new(wire: &Wire) -> Self {
        Self { ticker: wire.write_stall.map(Ticker::new), written: 0 }
    }

    /// Whether nothing has been written between two ticks although there was something to write.
    pub(crate) fn poll(&mut self, wire: &Wire, cx: &mut Context<'_>) -> bool {
        let Some(ticker) = &mut self.ticker else { return false };
        if !wire.blocked.get() {
            return false;
        }
        while ticker.poll_tick(cx).is_ready() {
            let written = wire.written.get();
            if std::mem::replace(&mut self.written, written) == written {
                return true;
            }
        }
        false
    }
}

/// A connection whose frames are looked at.
#[derive(Debug)]
pub(crate) struct Frames<S> {
    io: S,
    wire: Rc<Wire>,
    scan: Scan,
    turn: Turn,
    /// What was read, and comes in the next turn.
    back: BytesMut,
    /// How it is closed, if it is a client's.
    parting: Option<Parting>,
}

/// Where in the stream of frames the reading is.
#[derive(Debug, Default)]
struct Scan {
    head: [u8; HEADER],
    have: usize,
    /// Octets of the frame (or the preface) until the next header.
    rest: usize,
    /// The frame is SETTINGS or GOAWAY.
    news: bool,
    meter: Meter,
}

/// What one turn has brought.
#[derive(Debug, Default)]
struct Turn {
    number: u64,
    heads: u32,
    frames: u32,
    octets: usize,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.heads >= HEADS_A_TURN || self.frames >= FRAMES_A_TURN || self.octets >= OCTETS_A_TURN
    }
}

/// Counts frames that carry nothing. The clock is read only when the count is full.
#[derive(Debug, Default)]
struct Meter {
    since: Option<Instant>,
    control: u32,
    /// What had been earned when the count began.
    earned: u64,
}

/// Frame kinds (RFC 9113 section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const GOAWAY: u8 = 7;
}

/// END_STREAM (RFC 9113 section 6.1).
const END_STREAM: u8 = 1;
/// What a reader may say to a DATA frame that it gets: it opens two windows, and may measure the way by a PING.
const EARNED_BY_DATA: u64 = 3;
/// Octets written that earn a frame as well: `h2` cuts large pieces of a body into several frames.
const OCTETS_PER_EARNED: u64 = 256;

impl Meter {
    /// False: there were too many.
    fn count(&mut self, kind: u8, flags: u8, length: usize, wire: &Wire) -> bool {
        match kind {
            // Each stream has its priority, its windows and its reset.
            kind::HEADERS => {
                self.control = self.control.saturating_sub(2);
                return true;
            }
            kind::DATA if length > 0 || flags & END_STREAM != 0 => {
                self.control = self.control.saturating_sub(1);
                return true;
            }
            _ => self.control = self.control.saturating_add(1),
        }
        if self.control <= wire.most_control {
            return true;
        }
        let earned = wire.earned();
        if u64::from(self.control - wire.most_control) <= earned.wrapping_sub(self.earned) {
            return true;
        }
        let now = Instant::now();
        if self.since.is_some_and(|since| now.duration_since(since) < Duration::from_secs(1)) {
            return false;
        }
        *self = Self { since: Some(now), control: 0, earned };
        true
    }
}

impl Scan {
    /// Looks through octets that were read, and says how many of them may be handed on in this turn.
    fn scan(&mut self, octets: &[u8], turn: &mut Turn, wire: &Wire) -> usize {
        let mut at = 0;
        while at < octets.len() {
            if self.rest > 0 {
                let passed = self.rest.min(octets.len() - at);
                self.rest -= passed;
                at += passed;
            } else {
                let wanted = (HEADER - self.have).min(octets.len() - at);
                if let (Some(to), Some(from)) =
                    (self.head.get_mut(self.have..self.have + wanted), octets.get(at..at + wanted))
                {
                    to.copy_from_slice(from);
                }
                self.have += wanted;
                at += wanted;
                if self.have < HEADER {
                    break;
                }
                self.have = 0;
                self.frame(turn, wire);
                if wire.flooded.get() {
                    break;
                }
            }
            if self.rest == 0 && std::mem::take(&mut self.news) {
                wire.news.set(true);
            }
            if turn.is_over() {
                break;
            }
        }
        turn.octets += at;
        at
    }

    fn frame(&mut self, turn: &mut Turn, wire: &Wire) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.rest = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.news = matches!(kind, kind::SETTINGS | kind::GOAWAY);
        turn.frames += 1;
        turn.heads += u32::from(kind == kind::HEADERS);
        if !self.meter.count(kind, flags, self.rest, wire) {
            wire.flooded.set(true);
        }
    }
}

impl<S> Frames<S> {
    /// The side that accepted the connection: the peer's preface comes first.
    pub(crate) fn of_client(io: S, wire: Rc<Wire>) -> Self {
        Self::new(io, wire, PREFACE)
    }

    /// The side that opened it.
    pub(crate) fn of_server(io: S, wire: Rc<Wire>) -> Self {
        Self::new(io, wire, 0)
    }

    fn new(io: S, wire: Rc<Wire>, rest: usize) -> Self {
        let meter = Meter { since: Some(Instant::now()), ..Meter::default() };
        let scan = Scan { rest, meter, ..Scan::default() };
        let parting = (rest > 0).then(Parting::default);
        Self { io, wire, scan, turn: Turn::default(), back: BytesMut::new(), parting }
    }

    /// Hands on what was held back.
    fn read_back(&mut self, buf: &mut ReadBuf<'_>) {
        let most = self.back.len().min(buf.remaining());
        let Some(octets) = self.back.get(..most) else { return };
        let taken = self.scan.scan(octets, &mut self.turn, &self.wire);
        buf.put_slice(&octets[..taken]);
        self.back.advance(taken);
        if self.back.is_empty() {
            self.back = BytesMut::new();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.wire.flooded.get() {
            return Poll::Pending;
        }
        let number = this.wire.turn.get();
        if this.turn.number != number {
            this.turn = Turn { number, ..Turn::default() };
        }
        if this.turn.is_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !this.back.is_empty() {
            this.read_back(buf);
            return Poll::Ready(Ok(()));
        }
        let start = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let octets = buf.filled().get(start..).unwrap_or_default();
        let taken = this.scan.scan(octets, &mut this.turn, &this.wire);
        if let Some(later) = octets.get(taken..)
            && !later.is_empty()
        {
            this.back.extend_from_slice(later);
            buf.set_filled(start + taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wire.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wire.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        // A TLS stream has taken what it has not written yet.
        self.wire.blocked.set(result.is_pending());
        if result.is_ready() {
            self.wire.flushed();
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, parting, wire, .. } = &mut *self;
        match parting {
            // Whoever floods is read no more.
            Some(parting) if !wire.is_flooded() => parting.poll(io, cx),
            _ => Pin::new(io).poll_shutdown(cx),
        }
    }
}
