//! The receiving halves of a connection's streams.
//!
//! What comes for a stream waits in `h2` until somebody asks for it. Whoever reads a stream has a [`RecvHalf`]; the `h2` stream
//! itself stays with what is known of its connection. So the connection can see who waits in vain, and a stream costs neither an
//! allocation nor a timer for that.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;

use crate::BodyError;
use crate::frames::Wire;

/// A pause is looked for this often in its limit, so that it is noticed late by a quarter at most.
pub(crate) const LOOKS: u32 = 4;

/// Room that stays when no stream is open. More is given back: what few connections need for a moment, all would keep.
const KEPT_ROOM: usize = 16;

/// Where the half of a stream is. Small, since every request's future has one.
type Place = u32;

/// The receiving halves of one connection's streams.
#[derive(Default)]
pub(crate) struct Inbox(RefCell<Slots>);

#[derive(Default)]
struct Slots {
    halves: Vec<Option<Half>>,
    free: Vec<Place>,
    /// Tells the streams apart that have one place after another.
    serial: u32,
}

struct Half {
    recv: RecvStream,
    serial: u32,
    /// Whoever is told that it was given up. Only where pauses have a limit.
    reader: Option<Waker>,
    /// Somebody has asked, and there was nothing.
    awaited: bool,
    /// The peer must not pause for ever.
    limited: bool,
    /// Looks since something came.
    quiet: u32,
    given_up: bool,
}

impl Inbox {
    pub(crate) fn is_empty(&self) -> bool {
        let slots = self.0.borrow();
        slots.free.len() == slots.halves.len()
    }

    /// Whether a stream was given up because the peer paused for too long. Of one that nobody reads any more: no.
    pub(crate) fn is_given_up(&self, watch: Watch) -> bool {
        self.with(watch, |half| half.given_up).unwrap_or(false)
    }

    /// Says whether the pauses of a stream have a limit.
    pub(crate) fn limit(&self, watch: Watch, limited: bool) {
        self.with(watch, |half| {
            half.limited = limited;
            half.quiet = 0;
        });
    }

    /// Lifts the limit for the time of an answer.
    pub(crate) fn talking(&self, watch: Watch) -> Talking<'_> {
        self.limit(watch, false);
        Talking { inbox: self, watch }
    }

    fn with<T>(&self, watch: Watch, then: impl FnOnce(&mut Half) -> T) -> Option<T> {
        let mut slots = self.0.borrow_mut();
        slots.get(watch.at).filter(|half| half.serial == watch.serial).map(then)
    }

    /// Looks for streams that somebody has waited for too long, and gives them up.
    pub(crate) fn look(&self) {
        let late: Vec<Waker> = {
            let mut slots = self.0.borrow_mut();
            slots.halves.iter_mut().flatten().filter_map(Half::look).collect()
        };
        late.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.0.borrow();
        f.debug_struct("Inbox").field("streams", &(slots.halves.len() - slots.free.len())).finish()
    }
}

impl Slots {
    fn insert(&mut self, recv: RecvStream) -> Place {
        self.serial = self.serial.wrapping_add(1);
        let half = Half {
            recv,
            serial: self.serial,
            reader: None,
            awaited: false,
            limited: false,
            quiet: 0,
            given_up: false,
        };
        if let Some(at) = self.free.pop()
            && let Some(slot) = self.halves.get_mut(at as usize)
        {
            *slot = Some(half);
            return at;
        }
        self.halves.push(Some(half));
        // A connection has no more than 2^31 streams.
        Place::try_from(self.halves.len() - 1).unwrap_or(Place::MAX)
    }

    fn get(&mut self, at: Place) -> Option<&mut Half> {
        self.halves.get_mut(at as usize)?.as_mut()
    }

    fn remove(&mut self, at: Place) -> Option<Half> {
        let half = self.halves.get_mut(at as usize)?.take()?;
        self.free.push(at);
        if self.free.len() == self.halves.len() && self.halves.capacity() > KEPT_ROOM {
            (self.halves, self.free) = (Vec::new(), Vec::new());
        }
        Some(half)
    }
}

impl Half {
    /// Notes that somebody waits.
    fn wait(&mut self, told: bool, cx: &Context<'_>) {
        self.awaited = true;
        if told && !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
    }

    fn moved(&mut self) {
        (self.awaited, self.quiet) = (false, 0);
    }

    /// Whom to tell that the stream is given up, if that is so.
    fn look(&mut self) -> Option<Waker> {
        let comes = self.recv.flow_control().used_capacity() > 0 || self.recv.is_end_stream();
        if !self.limited || !self.awaited || comes || self.given_up {
            self.quiet = 0;
            return None;
        }
        self.quiet += 1;
        // The first look may come at once.
        self.given_up = self.quiet > LOOKS;
        if self.given_up { self.reader.take() } else { None }
    }
}

/// The receiving half of a stream. What it gives out opens the stream's window again: the next hop takes a chunk at once and
/// asks again only when it has room. Dropping it throws away what has come.
#[derive(Debug)]
pub(crate) struct RecvHalf {
    at: Place,
    wire: Rc<Wire>,
}

impl RecvHalf {
    pub(crate) fn new(recv: RecvStream, wire: &Rc<Wire>) -> Self {
        let at = wire.inbox.0.borrow_mut().insert(recv);
        Self { at, wire: Rc::clone(wire) }
    }

    /// The next chunk. `None`: there are trailers at most.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.poll_half(cx, |half, cx| {
            Poll::Ready(match ready!(half.recv.poll_data(cx)) {
                Some(Ok(data)) => {
                    half.recv.flow_control().release_capacity(data.len())?;
                    Some(Ok(data))
                }
                Some(Err(error)) => Some(Err(error.into())),
                None => None,
            })
        })
    }

    /// The trailers, behind the last chunk.
    pub(crate) fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<HeaderMap, BodyError>>> {
        self.poll_half(cx, |half, cx| {
            half.recv.poll_trailers(cx).map(|trailers| trailers.map_err(BodyError::from).transpose())
        })
    }

    fn poll_half<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Half, &mut Context<'_>) -> Poll<Option<Result<T, BodyError>>>,
    ) -> Poll<Option<Result<T, BodyError>>> {
        let mut slots = self.wire.inbox.0.borrow_mut();
        let Some(half) = slots.get(self.at) else { return Poll::Ready(None) };
        if half.given_up {
            return Poll::Ready(Some(Err(BodyError::Paused)));
        }
        let polled = poll(half, cx);
        if polled.is_pending() {
            half.wait(self.wire.pause().is_some(), cx);
        } else {
            half.moved();
        }
        polled
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let mut slots = self.wire.inbox.0.borrow_mut();
        slots.get(self.at).is_none_or(|half| half.recv.is_end_stream())
    }

    /// What its pauses may be limited by, whoever holds it.
    pub(crate) fn watch(&self) -> Watch {
        let serial = self.wire.inbox.0.borrow_mut().get(self.at).map_or(0, |half| half.serial);
        Watch { at: self.at, serial }
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        // Bound first: the waker of a reader may be the last that holds it.
        let half = self.wire.inbox.0.borrow_mut().remove(self.at);
        drop(half);
    }
}

/// A stream that somebody reads, and whose pauses somebody else looks after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    at: Place,
    serial: u32,
}

/// An answer is under way: its client may pause as long as it likes. Dropped at the answer's end.
pub(crate) struct Talking<'a> {
    inbox: &'a Inbox,
    watch: Watch,
}

impl Drop for Talking<'_> {
    fn drop(&mut self) {
        self.inbox.limit(self.watch, true);
    }
}
