//! A request's body that may have no more than so many octets.
//!
//! Where its length is told, it is known before anything is sent, and the framing holds the client to it. Where it is not, the octets
//! are counted as they pass: the piece that would be too much is kept back, and whoever waits for the answer hears of it first,
//! while there is still somebody to be told.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use crate::{Body, BodyError};

/// Whether a body is too large.
#[derive(Debug)]
pub enum Bound {
    /// It has a length, which is not.
    Fits,
    /// It has one that is.
    TooLarge,
    /// Nobody knows: this will tell.
    Unknown(Excess),
}

/// A body whose octets are counted against a bound.
#[derive(Debug)]
pub struct Bounded {
    body: Body,
    state: Rc<State>,
}

/// Tells when a body had more than it may have. As long as somebody has this, the body gives nothing more and no error either:
/// whoever reads it is to be dropped. Without, it breaks off.
#[derive(Debug)]
pub struct Excess(Rc<State>);

#[derive(Debug)]
struct State {
    left: Cell<u64>,
    over: Cell<bool>,
    /// Somebody waits to hear of it.
    watched: Cell<bool>,
    watcher: RefCell<Option<Waker>>,
    reader: RefCell<Option<Waker>>,
}

impl Body {
    /// Bounds a request's body to `most` octets.
    pub fn bound(&mut self, most: u64) -> Bound {
        let length = self.size_hint();
        if length.lower() > most {
            return Bound::TooLarge;
        }
        if length.upper().is_some_and(|upper| upper <= most) {
            return Bound::Fits;
        }
        let state = Rc::new(State {
            left: Cell::new(most),
            over: Cell::new(false),
            watched: Cell::new(true),
            watcher: RefCell::default(),
            reader: RefCell::default(),
        });
        let body = std::mem::take(self);
        *self = Self::Bounded(Box::new(Bounded { body, state: Rc::clone(&state) }));
        Bound::Unknown(Excess(state))
    }
}

impl Bounded {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let state = &self.state;
        if !state.over.get() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            let octets = match &frame {
                Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
                _ => 0,
            };
            if let Some(left) = state.left.get().checked_sub(octets) {
                state.left.set(left);
                return Poll::Ready(frame);
            }
            state.over.set(true);
            wake(&state.watcher);
        }
        if state.watched.get() {
            *state.reader.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(BodyError::TooLarge)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        !self.state.over.get() && self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Excess {
    /// Resolves when the body had too much.
    pub async fn over(&self) {
        poll_fn(|cx| {
            if self.0.over.get() {
                return Poll::Ready(());
            }
            *self.0.watcher.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Excess {
    fn drop(&mut self) {
        self.0.watched.set(false);
        wake(&self.0.reader);
    }
}

fn wake(waiting: &RefCell<Option<Waker>>) {
    let waker = waiting.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_over(excess: &Excess) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        std::pin::pin!(excess.over()).poll(&mut cx).is_ready()
    }

    /// A body of unknown length, of these pieces.
    fn body(pieces: &'static [&'static [u8]]) -> Body {
        let mut whole = Body::Full(Bytes::from(pieces.concat()));
        let copy = whole.copied(1 << 20);
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(_)) = Pin::new(&mut whole).poll_frame(&mut cx) {}
        copy
    }

    fn next(body: &mut Body) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_length_that_is_told_is_known_at_once() {
        for (octets, most, expected) in [(0, 0, true), (5, 5, true), (6, 5, false), (1, 0, false)] {
            let mut body = Body::Full(Bytes::from(vec![0; octets]));
            match body.bound(most) {
                Bound::Fits => assert!(expected, "{octets} of {most}"),
                Bound::TooLarge => assert!(!expected, "{octets} of {most}"),
                Bound::Unknown(_) => panic!("it is known"),
            }
            assert!(matches!(body, Body::Full(_)), "nothing is wrapped");
        }
        assert!(matches!(Body::Empty.bound(0), Bound::Fits));
    }

    #[test]
    fn one_without_passes_up_to_the_bound() {
        let mut whole = body(&[b"12345"]);
        let Bound::Unknown(excess) = whole.bound(5) else { panic!("nobody knows") };
        let Poll::Ready(Some(Ok(frame))) = next(&mut whole) else { panic!("it fits") };
        assert_eq!(frame.data_ref().map(|data| &data[..]), Some(&b"12345"[..]));
        assert!(matches!(next(&mut whole), Poll::Ready(None)));
        assert!(!is_over(&excess));
    }

    #[test]
    fn what_is_too_much_is_kept_back_and_told() {
        let mut whole = body(&[b"123456"]);
        let Bound::Unknown(excess) = whole.bound(5) else { panic!("nobody knows") };
        assert!(!is_over(&excess));
        assert!(next(&mut whole).is_pending(), "not an octet of it, and no error");
        assert!(is_over(&excess));
        assert!(!whole.is_end_stream());
        drop(excess);
        // What breaks off lets others run first.
        let broken = (0..9).map(|_| next(&mut whole)).find(Poll::is_ready);
        assert!(matches!(broken, Some(Poll::Ready(Some(Err(BodyError::TooLarge))))), "nobody is to be told");
    }
}
