//! The sending half of a stream.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use tokio::time::{Instant, Sleep};

use crate::ResetCode;
use crate::frames::Wire;

/// The sending half of a stream. Whatever is sent by it counts as waiting to be written on its connection. Dropping it before
/// the end resets the stream with CANCEL, once nobody reads the stream either.
#[derive(Debug)]
pub(crate) struct SendHalf {
    stream: SendStream<Bytes>,
    held: Held,
    stall: Stalled,
}

/// What the window had no room for.
#[derive(Debug)]
struct Held {
    chunk: Bytes,
    wire: Rc<Wire>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.wire.release(self.chunk.len());
    }
}

/// A stream for which there is nothing more to send. It can still be reset, for the other direction's sake.
#[derive(Debug)]
pub(crate) struct Ended(SendStream<Bytes>);

impl Ended {
    /// Of a request that is sent whole with its head.
    pub(crate) fn with_head(stream: SendStream<Bytes>) -> Self {
        Self(stream)
    }

    pub(crate) fn reset(&mut self, code: ResetCode) {
        self.0.send_reset(code.into());
    }
}

/// Notices that the peer has given no window for a while. The timer is not touched by progress; when it fires it looks.
#[derive(Debug, Default)]
struct Stalled {
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    progressed: bool,
}

impl Stalled {
    /// Ready when there was no progress for the limit's time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        if self.timer.is_none() {
            self.progressed = false;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if !std::mem::take(&mut self.progressed) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + limit);
        }
    }
}

impl SendHalf {
    pub(crate) fn new(stream: SendStream<Bytes>, wire: &Rc<Wire>) -> Self {
        let held = Held { chunk: Bytes::new(), wire: Rc::clone(wire) };
        let stall = Stalled { limit: wire.write_stall(), ..Stalled::default() };
        Self { stream, held, stall }
    }

    /// Pending where so much waits to be written on the connection that whoever sends must wait as well.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        self.held.wire.poll_room(cx)
    }

    /// Whether more may be taken from where it comes from: not where too much is held for streams without a window.
    pub(crate) fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_room(cx));
        if !self.held.wire.holds_much() || self.stream.capacity() > 0 {
            return Poll::Ready(());
        }
        self.stream.reserve_capacity(1);
        // An error shows again when something is sent.
        self.stream.poll_capacity(cx).map(drop)
    }

    /// Waits for window. `None`: the peer takes no more.
    pub(crate) fn poll_window(
        &mut self,
        wanted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<usize, h2::Error>>> {
        let room = self.stream.capacity();
        if room > 0 {
            return Poll::Ready(Some(Ok(room)));
        }
        self.stream.reserve_capacity(wanted);
        self.stream.poll_capacity(cx)
    }

    /// Sends a chunk, where there is window for all of it, or holds it.
    pub(crate) fn send_or_hold(&mut self, data: Bytes, last: bool) -> Result<Sent, h2::Error> {
        self.stream.reserve_capacity(data.len());
        if self.stream.capacity() >= data.len() && !data.is_empty() {
            self.send(data, last)?;
            return Ok(Sent::All);
        }
        self.held.wire.hold(data.len());
        self.held.chunk = data;
        Ok(Sent::Held)
    }

    pub(crate) fn holds(&self) -> bool {
        !self.held.chunk.is_empty()
    }

    /// Sends as much of what is held as the window allows. `None`: the peer takes no more.
    pub(crate) fn poll_held(
        &mut self,
        last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(), h2::Error>>> {
        let room = match ready!(self.poll_window(self.held.chunk.len(), cx)) {
            Some(Ok(room)) => room,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        };
        let piece = self.held.chunk.split_to(room.min(self.held.chunk.len()));
        self.held.wire.release(piece.len());
        let last = last && self.held.chunk.is_empty();
        Poll::Ready(Some(self.send(piece, last)))
    }

    /// Sends what there is window for.
    pub(crate) fn send(&mut self, data: Bytes, last: bool) -> Result<(), h2::Error> {
        self.stall.progressed = true;
        self.held.wire.queue(data.len());
        self.stream.send_data(data, last)
    }

    /// Ends the stream.
    pub(crate) fn end(&mut self) -> Result<(), h2::Error> {
        self.stream.send_data(Bytes::new(), true)
    }

    /// Ends the stream with trailers.
    pub(crate) fn end_with(&mut self, trailers: HeaderMap) -> Result<(), h2::Error> {
        self.stream.send_trailers(trailers)
    }

    pub(crate) fn reset(&mut self, code: ResetCode) {
        self.stream.send_reset(code.into());
    }

    /// Ready where the peer has reset the stream.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        self.stream.poll_reset(cx)
    }

    /// Asked by whoever can send nothing now. Ready where that has been so for too long; the stream is reset then.
    pub(crate) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.stall.poll(cx));
        self.reset(ResetCode::CANCEL);
        Poll::Ready(())
    }

    /// The stream, for which there is nothing more to send.
    pub(crate) fn ended(self) -> Ended {
        Ended(self.stream)
    }
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    All,
    Held,
}
